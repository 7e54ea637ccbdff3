"""A disk that is full at any byte: one clear line, nothing torn, and the run goes on later."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import COUNTS
from test_train import assert_same_run, log

from checkpoint import load_checkpoint
from cyclegan_model import CycleGANModel
from errors import UserError
from files import atomic_write
from logbook import append_line

resource = pytest.importorskip("resource")
SIZE = 48 << 20


class Disk:
    """A small disk; leave(n) fills it but for n bytes."""

    def __init__(self, folder):
        self.folder, self.ballast = folder, folder / "ballast"

    def free(self):
        return shutil.disk_usage(self.folder).free

    def leave(self, size):
        self.ballast.unlink(missing_ok=True)
        with open(self.ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, self.free() - size))

    def clear(self):
        self.ballast.unlink(missing_ok=True)


@pytest.fixture
def disk(workplace, monkeypatch):
    """A small disk as working directory, beside the folder of pictures."""
    folder = workplace / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here; it takes root")
    monkeypatch.chdir(folder)
    yield Disk(folder)
    os.chdir(workplace)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def refused(done):
    """One clear line, exit code 2, and nothing half-written."""
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert done.code == 2, (done.code, done.err)
    assert len([line for line in lines if line.startswith("error: ")]) == 1, done.err
    assert "Traceback" not in done.err and "No space left" in done.err, done.err
    temporary = [path for path in Path.cwd().rglob("*") if path.name.endswith(".tmp")]
    assert not temporary


def data():
    return ["--domain_A_path", "../data/anime", "--domain_B_path", "../data/person"]


def on_disk(*paths):
    """Bytes that files take of it, whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in paths)


def test_a_run_that_meets_a_full_disk_anywhere_goes_on_to_the_same_bits(
    disk, train, monkeypatch, long
):
    flags = [*data(), "--num_workers", 0, "--ckpt_num", 2]
    assert train(*flags, "--name", "unbroken", "--cache_dir", "c").code == 0
    images = Path("save_image/unbroken")
    cache = on_disk(*Path("c").iterdir())
    person, anime = (on_disk(images / f"0001_epoch_{d}.png") for d in ("person", "anime"))
    page, state = on_disk(images / "index.html"), on_disk(Path("model_ckpt/unbroken/latest.pth"))
    epoch = person + anime + page + state
    # Step after which only so many bytes are left, and the file that is then the first to fail.
    places = [(0, 0, ".u8"), (0, cache + 8192, "latest.pth"),
              (2, 0, "0001_epoch_person.png"), (2, person, "0001_epoch_anime.png"),
              (2, person + anime, "log.jsonl"), (4, person + anime + page, "epoch_0002.pth")]
    if long:
        places += [(step, left, "") for step in (0, 2, 4, 6) for left in range(0, epoch, 16_000)]
    step_of = CycleGANModel.optimize_parameters
    for number, (step, left, file) in enumerate(places):
        name, cache_dir = f"run{number}", f"cache{number}"
        given = [*flags, "--name", name, "--cache_dir", cache_dir]

        def fill(self, step=step, left=left):
            step_of(self)
            if self.steps == step:
                disk.leave(left)

        with monkeypatch.context() as patch:
            patch.setattr(CycleGANModel, "optimize_parameters", fill)
            if step == 0:
                disk.leave(left)
            done = train(*given)
        if long and done.code == 0:
            continue
        refused(done)
        assert done.err.split(": ")[1].endswith(file)
        latest = Path("model_ckpt", name, "latest.pth")
        if there := latest.exists():
            load_checkpoint(latest)
        disk.clear()
        again = train("--resume", "--name", name) if there else train(*given)
        assert again.code == 0, again.err
        assert [record["epoch"] for record in log(name)] == [1, 2, 3]
        assert_same_run("unbroken", name)
        for folder in (f"model_ckpt/{name}", f"save_image/{name}", cache_dir):
            shutil.rmtree(folder)
        COUNTS["full disks survived"] += 1


def test_every_other_script_says_that_the_disk_is_full(disk, train, script):
    short = ("--name", "run", "--niter", 1, "--niter_decay", 0)
    assert train(*data(), *short).code == 0
    photos = ("--input", "../data/anime", "--direction", "AtoB", "--output", "out")
    calls = [
        ("demo_faces.py", "--output", "demo", "--count", 3),
        ("prepare_data.py", "--source", "../data/anime", "--output", "made"),
        ("test.py", "--name", "run", "--gpu_ids", -1, "--output", "grids", *data()),
        ("test.py", "--name", "run", "--gpu_ids", -1, *photos),
        ("publish.py", "--name", "run", "--output", "published"),
        ("gallery.py",),
        ("pretrain_encoder.py", *data(), "--steps", 1, "--batch_size", 4, "--width", 2,
         "--dim", 4, "--gpu_ids", -1, "--output", "f.pth"),
    ]  # fmt: skip
    for call in calls:
        files = set(Path.cwd().rglob("*"))
        disk.leave(0)
        refused(script(*call))
        left = {path for path in Path.cwd().rglob("*") if path.is_file()} - files
        assert left <= {disk.ballast}, call
        COUNTS["full disks survived"] += 1
        disk.clear()
        assert script(*call).code == 0, call


def test_a_disk_that_fills_up_while_drawing_leaves_whole_pictures_only(disk, script):
    from PIL import Image

    disk.leave(40 << 10)
    refused(script("demo_faces.py", "--output", "demo", "--count", 30))
    drawn = [path for path in Path("demo").rglob("*") if path.is_file()]
    assert drawn
    for path in drawn:
        Image.open(path).load()


@contextmanager
def largest_file(size):
    """Limit the size of files that this process writes; needs no root.

    Only around what is attacked: pytest itself may be writing to a file that is larger.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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
