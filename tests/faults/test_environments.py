"""Places and ways in which the scripts may be started: none of them changes what comes out."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import COUNTS, ROOMS, ROOT, SOURCES, TINY
from test_train import load

SHORT = (*TINY, "--niter", "1", "--niter_decay", "0", "--num_workers", "0")
# Root may write where nobody may; without this right it is held to permissions like anyone else.
AS_ANYONE = (
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
)


@pytest.fixture
def read_only_repository(tmp_path_factory):
    """A copy of the repository that nobody may write to, in a folder with an odd name."""
    folder = tmp_path_factory.mktemp("install") / "人脸 ünï"
    folder.mkdir()
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    for name in (*ROOMS, "model_ckpt/pretrained", "test_image/inputs"):
        shutil.copytree(ROOT / name, folder / name)
    everything = [folder, *folder.rglob("*")]
    for path in everything:
        path.chmod(path.stat().st_mode & ~0o222)
    yield folder
    for path in everything:
        path.chmod(path.stat().st_mode | 0o200)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
def test_from_a_read_only_folder_with_an_odd_name_without_home_locale_and_input(
    workplace, read_only_repository
):
    before = ()
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root without setpriv may write everywhere")
        before = AS_ANYONE
    here = workplace / "wörk 場所"
    here.mkdir()
    shutil.move(workplace / "data", here / "data")
    bare = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    env = {key: value for key, value in os.environ.items() if key != "HOME"} | bare
    closed = {
        "cwd": here,
        "close_fds": True,
        "preexec_fn": lambda: os.close(0),
        "text": True,
        "errors": "replace",
        "timeout": 600,
        "capture_output": True,
    }

    def run(script, *args):
        python = [*before, sys.executable, "-O", str(read_only_repository / script)]
        done = subprocess.run([*python, *args], env=env, **closed)
        assert done.returncode == 0, done.stderr
        return done

    # No run of its own here yet: the published model and its inputs beside the script.
    done = run("test.py", "--gpu_ids", "-1", "--output", "grids")
    assert "/model_ckpt/pretrained (published" in done.stdout
    assert len(list((here / "grids").glob("*.png"))) == 4
    run("train.py", *SHORT, "--name", "run")
    run("train.py", "--resume", "--niter", "2", "--gpu_ids", "-1")
    assert (here / "model_ckpt/run/epoch_0002.pth").is_file()
    assert len((here / "save_image/run/log.jsonl").read_text("utf-8").splitlines()) == 2
    run("gallery.py")
    assert (here / "save_image/index.html").is_file()
    run(
        "evaluate.py",
        "--floors_only",
        "--domain_A_path",
        "data/anime",
        "--domain_B_path",
        "data/person",
        "--output",
        "results.json",
    )
    assert (here / "results.json").is_file()
    run("prepare_data.py", "--source", "data/anime", "--output", "made")
    assert len(list((here / "made").glob("*.png"))) == 12
    COUNTS["odd places survived"] += 1


@pytest.mark.skipif(sys.platform != "linux", reason="file names must be text there")
def test_what_standard_output_cannot_encode_is_escaped_and_not_fatal(workplace):
    strange = os.fsdecode("ü".encode() + b"\xff")
    odd = {domain: f"data/{domain}{strange}" for domain in ("anime", "person")}
    for domain, folder in odd.items():
        os.rename(f"data/{domain}", folder)
        os.rename(f"{folder}/00.png", f"{folder}/{strange}.png")
        open(f"{folder}/broken{strange}.png", "w").close()
    folders = ("--domain_A_path", odd["anime"], "--domain_B_path", odd["person"], "--gpu_ids", "-1")
    env = os.environ | {"PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": str(ROOT)}
    for command in (
        ("train.py", *SHORT, *folders, "--name", "run"),
        ("train.py", *SHORT, *folders, "--dry_run"),
        ("train.py", "--resume", "--niter", "2", "--gpu_ids", "-1"),
        ("test.py", "--name", "run", "--output", "ö", *folders),
        ("test.py", odd["anime"], "--name", "run", "--direction", "AtoB", "--gpu_ids", "-1"),
        ("evaluate.py", "--floors_only", *folders),
        ("prepare_data.py", "--source", odd["anime"], "--output", "ü"),
    ):
        command = (sys.executable, str(ROOT / command[0]), *command[1:])
        done = subprocess.run(command, env=env, capture_output=True)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        assert b"Traceback" not in done.stderr
    COUNTS["odd places survived"] += 1


def test_every_script_has_its_errors_in_one_line():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*/*.py")]:
        text = path.read_text(encoding="utf-8")
        if path.parent.name != "tests" and 'if __name__ == "__main__"' in text:
            assert re.search(r"@one_line_errors\ndef main|import main\n", text), path


def test_a_reader_that_goes_away_stops_training_without_a_word_or_harm(workplace):
    endless = (*SHORT, "--niter", "1000000")  # more lines than a pipe holds, if nobody reads them
    command = [sys.executable, "-u", str(ROOT / "train.py"), *endless, "--name", "run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 128 + 13
    for word in ("Traceback", "error", "Exception ignored", "BrokenPipe"):  # warnings are torch's
        assert word not in errors, errors
    if os.path.exists("model_ckpt/run"):
        load("run")
    assert not [path for path in workplace.rglob("*") if path.name.endswith(".tmp")]
    COUNTS["odd places survived"] += 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_output_to_a_full_disk_is_one_line(workplace):
    with open("/dev/full", "w") as full:
        command = [sys.executable, str(ROOT / "train.py"), *SHORT, "--dry_run"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: standard output: cannot be written (No space left on device); free some space\n"
    )
    COUNTS["odd places survived"] += 1


def test_nothing_depends_on_how_processes_are_started():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for starter in ("multiprocessing", "os.fork", "ProcessPoolExecutor", "DataLoader"):
            assert starter not in text, (path.name, starter)
