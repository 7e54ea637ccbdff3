"""A disk that is full at any byte: one clear line, nothing torn, and the run goes on later."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import COUNTS, ROOT
from test_train import assert_same_run, log

from common.errors import UserError
from cyclegan_model import CycleGANModel
from storage.checkpoint import load_checkpoint
from storage.files import atomic_write
from training.logbook import append_line

resource = pytest.importorskip("resource")
SIZE = 48 << 20


FOLDERS = ("--domain_A_path", "../data/anime", "--domain_B_path", "../data/person")
RUN = ("--name", "run", "--gpu_ids", -1)
CALLS = [
    ("demo/make.py", "--output", "demo", "--count", 3),
    ("demo/make.py", "--preview", "pairs.png"),
    ("prepare_data.py", "--source", "../data/anime", "--output", "made"),
    ("test.py", *RUN, "--output", "grids", *FOLDERS),
    ("test.py", *RUN, "--input", "../data/anime", "--direction", "AtoB", "--output", "out"),
    ("evaluate.py", "--floors_only", *FOLDERS),
    ("publish.py", "--name", "run", "--output", "published"),
    ("export_onnx.py", "--name", "run", "--direction", "AtoB"),
    ("gallery.py",),
    (
        "pretrain_encoder.py",
        *FOLDERS,
        "--steps",
        1,
        "--batch_size",
        4,
        "--width",
        2,
        "--dim",
        4,
        "--gpu_ids",
        -1,
        "--output",
        "f.pth",
    ),
]
IN_A_RUN = 6
PLACES = IN_A_RUN + len(CALLS)  # docs/reliability.md says how many


class Disk:
    """A small disk; leave(n) fills it but for n bytes."""

    line, count = "No space left", "full disks survived"

    def __init__(self, folder):
        self.folder, self.ballast = folder, folder / "ballast"

    def __enter__(self):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(self.folder)]
        if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no tmpfs can be mounted here, which takes root; only files were limited")
        return self

    def __exit__(self, *error):
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def free(self):
        return shutil.disk_usage(self.folder).free

    def leave(self, size):
        self.ballast.unlink(missing_ok=True)
        with open(self.ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, self.free() - size))

    def clear(self):
        self.ballast.unlink(missing_ok=True)


class Limit:
    """What needs no root: leave(n) lets no file that this process writes exceed n bytes.

    Only around what is attacked: pytest itself may be writing to a file that is larger.
    """

    line, count = "File too large", "limits of a file's size survived"

    def __init__(self, folder=None):
        self.ballast, self.before = None, resource.getrlimit(resource.RLIMIT_FSIZE)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.clear()

    def leave(self, size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.before[1]))

    def clear(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.fixture(params=[Disk, Limit])
def disk(request, workplace, monkeypatch):
    """A small disk as working directory, beside the folder of pictures; or a limit to files."""
    folder = workplace / "disk"
    folder.mkdir()
    with request.param(folder) as disk:
        monkeypatch.chdir(folder)
        yield disk
        os.chdir(workplace)


def refused(done, disk):
    """One clear line, exit code 2, and nothing half-written."""
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert done.code == 2, (done.code, done.err)
    assert len([line for line in lines if line.startswith("error: ")]) == 1, done.err
    assert "Traceback" not in done.err and disk.line in done.err, done.err
    temporary = [path for path in Path.cwd().rglob("*") if path.name.endswith(".tmp")]
    assert not temporary


def on_disk(*paths):
    """Bytes that files take of it, whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in paths)


def test_a_run_that_meets_a_full_disk_anywhere_goes_on_to_the_same_bits(
    disk, train, monkeypatch, long
):
    flags = [*FOLDERS, "--num_workers", 0, "--ckpt_num", 2]
    assert train(*flags, "--name", "unbroken").code == 0
    images = Path("save_image/unbroken")
    cache = on_disk(*Path("data/cache").iterdir())
    person, anime = (on_disk(images / f"0001_epoch_{d}.png") for d in ("person", "anime"))
    page, state = on_disk(images / "index.html"), on_disk(Path("model_ckpt/unbroken/latest.pth"))
    epoch = person + anime + page + state
    # Step after which only so many bytes are left, and the file that is then the first to fail.
    places = [
        (0, 0, ".u8"),
        (0, cache + 8192, "latest.pth"),
        (2, 0, "0001_epoch_person.png"),
        (2, person, "0001_epoch_anime.png"),
        (2, person + anime, "log.jsonl"),
        (4, person + anime + page, "epoch_0002.pth"),
    ]
    assert len(places) == IN_A_RUN
    if isinstance(disk, Limit):  # the smaller files of a run cannot be the first to fail
        pictures = max(path.stat().st_size for path in images.iterdir())
        places = [
            (0, 0, ".u8"),
            (0, max(path.stat().st_size for path in Path("data/cache").iterdir()), "latest.pth"),
            (2, 0, "0001_epoch_person.png"),
            (4, pictures, "epoch_0002.pth"),
        ]
    elif long:
        places += [(step, left, "") for step in (0, 2, 4, 6) for left in range(0, epoch, 16_000)]
    step_of = CycleGANModel.optimize_parameters
    for number, (step, left, file) in enumerate(places):
        name = f"run{number}"
        given = [*flags, "--name", name]
        shutil.rmtree("data/cache", ignore_errors=True)

        def fill(self, step=step, left=left):
            step_of(self)
            if self.steps == step:
                disk.leave(left)

        with monkeypatch.context() as patch:
            patch.setattr(CycleGANModel, "optimize_parameters", fill)
            if step == 0:
                disk.leave(left)
            done = train(*given)
        disk.clear()
        if long and done.code == 0:
            continue
        refused(done, disk)
        assert done.err.split(": ")[1].endswith(file)
        latest = Path("model_ckpt", name, "latest.pth")
        if there := latest.exists():
            load_checkpoint(latest)
        again = train("--resume", "--name", name) if there else train(*given)
        assert again.code == 0, again.err
        assert [record["epoch"] for record in log(name)] == [1, 2, 3]
        assert_same_run("unbroken", name)
        for folder in (f"model_ckpt/{name}", f"save_image/{name}"):
            shutil.rmtree(folder)
        COUNTS[disk.count] += 1


def test_every_other_script_says_that_the_disk_is_full(disk, train, script):
    assert train(*FOLDERS, "--name", "run", "--niter", 1, "--niter_decay", 0).code == 0
    onnx = all(map(find_spec, ("onnx", "onnxruntime", "onnxscript")))
    for call in CALLS:
        if call[0] == "export_onnx.py" and not onnx:
            continue
        files = set(Path.cwd().rglob("*"))
        disk.leave(0)
        refused(script(*call), disk)
        left = {path for path in Path.cwd().rglob("*") if path.is_file()} - files
        assert left <= {disk.ballast}, call
        COUNTS[disk.count] += 1
        disk.clear()
        assert script(*call).code == 0, call


@pytest.mark.parametrize("disk", [Disk], indirect=True)
def test_a_disk_that_fills_up_while_drawing_leaves_whole_pictures_only(disk, script):
    from PIL import Image

    disk.leave(40 << 10)
    refused(script("demo/make.py", "--output", "demo", "--count", 30), disk)
    drawn = [path for path in Path("demo").rglob("*") if path.is_file()]
    assert drawn
    for path in drawn:
        Image.open(path).load()


def test_the_document_tells_at_how_many_places_a_disk_fills_up():
    assert f"at {PLACES} places" in (ROOT / "docs/reliability.md").read_text("utf-8")


@contextmanager
def largest_file(size):
    with Limit() as limit:
        limit.leave(size)
        yield


def test_a_line_of_the_log_is_whole_or_absent(tmp_path):
    path = tmp_path / "log.jsonl"
    append_line(path, '{"epoch": 1}')
    before = path.read_bytes()
    with pytest.raises(UserError, match="log.jsonl: cannot be written"):
        with largest_file(len(before) + 5):
            append_line(path, '{"epoch": 2}')
    assert path.read_bytes() == before


def test_a_file_larger_than_allowed_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"old")
    with pytest.raises(UserError, match="cannot be written"):
        with largest_file(100), atomic_write(path) as file:
            file.write(bytes(1000))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_a_checkpoint_larger_than_allowed_leaves_the_old_one(workplace, train):
    assert train("--name", "run").code == 0
    before = Path("model_ckpt/run/latest.pth").read_bytes()
    with largest_file(len(before) // 2):
        done = train("--resume", "--niter", 4)
    assert done.code == 2 and "latest.pth: cannot be written" in done.err
    assert Path("model_ckpt/run/latest.pth").read_bytes() == before
