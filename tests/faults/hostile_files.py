"""What the tests of hostile files share: mutations of bytes, and archives that lie.

`python hostile_files.py checkpoints N` fuzzes N checkpoints in a process of its own, whose peak
memory can be measured, and prints what became of them as JSON; `images N` does so with images.
"""

import io
import json
import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
CANARY = "executed"


class Executes:
    """Leaves a folder of the name CANARY when it is unpickled by a reader that runs code."""

    def __reduce__(self):
        return os.mkdir, (CANARY,)


class Tensor:
    """A tensor as torch pickles it, of any claimed storage, offset, sizes and strides."""

    def __init__(self, size, stride, numbers=4, offset=0, key="0", storage=torch.FloatStorage):
        self.storage = "storage", storage, key, "cpu", numbers
        self.rest = offset, size, stride, False, OrderedDict()

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (Storage(self.storage), *self.rest)


class Storage(tuple):
    def __new__(cls, described):
        return super().__new__(cls, (described,))


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value[0] if isinstance(value, Storage) else None


def pickled(value, protocol=2) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def archive(value, records=(("data/0", bytes(16)),), folder="archive", **changes) -> bytes:
    """A zip archive as torch writes it of a value, or of the bytes of a pickle."""
    data = value if isinstance(value, bytes) else pickled(value)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **changes) as file:
        named = [("data.pkl", data), ("byteorder", b"little"), *records, ("version", b"3\n")]
        for name, content in named:
            file.writestr(
                zipfile.ZipInfo(f"{folder}/{name}"),
                content,
                compress_type=changes.get("compression"),
            )
    return buffer.getvalue()


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one to four faults in them, as disks, networks and attackers make them."""
    bytes_ = bytearray(data)
    headers = [match.start() for match in re.finditer(b"PK", data)]
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        size = len(bytes_)
        if size < 64:
            break
        place, length = chance.randrange(size), chance.choice((1, 2, 8, 64, 512))
        kind = chance.randrange(7)
        if kind == 0:
            bytes_[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            bytes_[place : place + length] = chance.randbytes(len(bytes_[place : place + length]))
        elif kind == 2:
            del bytes_[place:]
        elif kind == 3:  # two blocks change places
            other = chance.randrange(size)
            a, b = bytes_[place : place + length], bytes_[other : other + length]
            if len(a) == len(b) and abs(place - other) >= length:
                bytes_[place : place + length], bytes_[other : other + length] = b, a
        elif kind == 4:
            del bytes_[place : place + length]
        elif kind == 5:
            bytes_[place:place] = chance.choice((bytes(length), b"\xff" * length))
        else:  # near a header, which says where all else is; else near the start
            place = min(size - 1, chance.choice(headers or [0]) + chance.randrange(46))
            value = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            for i in range(place, min(size, place + chance.choice((1, 2, 4, 8)))):
                bytes_[i] = value
    return bytes(bytes_)


def peak_mb(forget: bool = False) -> int:
    """The most memory that this process held; `forget`: from now on, of which it is then the start.

    Linux has it without what the process held that started this one, unlike getrusage.
    """
    try:
        if forget:
            Path("/proc/self/clear_refs").write_text("5")
        return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) >> 10
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak >> (20 if sys.platform == "darwin" else 10)


def child(code: str, *args) -> str:
    """What Python prints that runs `code`, in a process whose memory is its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# ---- checkpoints -------------------------------------------------------------------------------


def tiny_options(**changes) -> Namespace:
    from arguments import train_options

    flags = (
        "--ngf 2 --ndf 2 --generator resnet --n_blocks 1 --pool_size 1 --amp off --gpu_ids -1 "
        "--discriminator patch --image_size 24 --batch_size 2"
    ).split()
    for key, value in changes.items():
        flags += [f"--{key}", str(value)]
    return train_options(flags)[0]


def run_state(**changes) -> dict:
    """What train.py would save of a tiny run."""
    from cyclegan_model import CycleGANModel

    opt = tiny_options(**changes)
    model, size = CycleGANModel(opt), opt.image_size
    for _ in range(2):
        model.set_input(*(2 * torch.rand(2, 1, 3, size, size) - 1))
        model.optimize_parameters()
    return {
        "options": vars(opt),
        "epoch": 1,
        "batch": 0,
        "totals": {"G_A": [1.5, 2]},
        "best": None,
        "data": {},
        "model": model.state_dict(),
    }


def fuzz(kind: str, long: bool, count: int) -> dict:
    """Fuzz files of that kind in a process of its own; returns what became of them."""
    done = subprocess.run(
        [sys.executable, __file__, kind, str(count)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=7200 if long else 900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def fuzz_checkpoints(count: int) -> dict:
    """Every mutation of a file of ours is refused, or gives what was written."""
    from compare import same

    from common.errors import UserError
    from interop.generators import load_generators
    from storage.checkpoint import load_checkpoint, save_checkpoint

    save_checkpoint(Path("run.pth"), run_state())
    whole, chance, became = Path("run.pth").read_bytes(), random.Random(0), Counter()

    def translate(path):
        return load_generators(path, [], 1)[1].nets

    before = {load: load(Path("run.pth")) for load in (load_checkpoint, translate)}
    start, path = peak_mb(forget=True), Path("fuzzed.pth")
    for number in range(count):
        load = (load_checkpoint, translate)[number % 2]
        path.write_bytes(mutated(whole, chance))
        try:
            loaded = load(path)
        except UserError as error:
            assert "fuzzed.pth" in str(error)
            became["refused"] += 1
        else:
            assert same(loaded, before[load]), f"fault {number} changed what was loaded"
            became["as written"] += 1
    return {**became, "grew_mb": peak_mb() - start}


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    torch.set_num_threads(1)
    what, number = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if what == "images":
            from hostile_images import fuzz_images as fuzz
        else:
            fuzz = fuzz_checkpoints
        print(json.dumps(fuzz(int(number))))
        os.chdir("/")
