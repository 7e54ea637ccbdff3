"""Broken and hostile files of tensors: refused in one line, or read as they were written."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import COUNTS, ROOT
from hostile_files import (
    CANARY,
    Executes,
    Tensor,
    archive,
    pickled,
    run_state,
    same,
    sign,
)

from archives import check
from checkpoint import load_checkpoint, save_checkpoint
from errors import UserError
from files import read_tensors, write_tensors

MOST_GROWTH_MB = 64  # of a process that reads files of 0.3 MB, whatever they claim
FILE = Path("x.pth")


@pytest.fixture(autouse=True)
def nothing_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(CANARY).exists()


def refused(data: bytes) -> str:
    FILE.write_bytes(data)
    with pytest.raises(UserError, match="x.pth: not loaded, it ") as error:
        read_tensors(FILE)
    COUNTS["hostile checkpoints"] += 1
    return str(error.value)


# ---- bytes -------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="measures memory as Unix does")
def test_no_fault_in_a_file_gives_other_weights_nor_takes_memory_nor_hangs(long, tmp_path):
    count = 20_000 if long else 1_000
    command = [sys.executable, Path(__file__).with_name("hostile_files.py"), "checkpoints", count]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True,
                          timeout=7200 if long else 900)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    became = json.loads(done.stdout.splitlines()[-1])
    assert became["refused"] + became["as written"] == count
    assert became["grew_mb"] < MOST_GROWTH_MB
    forged = became["forged, refused"] + became["forged, taken"]
    COUNTS["checkpoints fuzzed"] += count + forged


def test_a_file_cut_off_anywhere_is_refused():
    write_tensors(FILE, {"w": torch.rand(50_000), "v": torch.rand(300)})
    whole = FILE.read_bytes()
    for length in [*range(0, len(whole), 4096), len(whole) - 1, len(whole) - 71, len(whole) - 73]:
        refused(whole[:length])


def test_every_flipped_bit_of_a_small_file_of_ours_is_refused():
    write_tensors(FILE, {"w": torch.rand(3)})
    whole = FILE.read_bytes()
    digest = len(whole) - 73  # a file whose comment is no digest any more has its checksums left
    for place in range(0, len(whole), 3):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        if place < digest or place >= len(whole) - 64:
            assert "damaged" in refused(bytes(data))
            COUNTS["bits flipped"] += 1


def test_a_flipped_weight_without_a_digest_is_refused_by_the_archives_own_checksum():
    torch.save({"w": torch.ones(1000)}, FILE)
    data = bytearray(FILE.read_bytes())
    data[data.find(struct.pack("<f", 1.0) * 1000) + 1000] ^= 1
    assert "checksum of" in refused(bytes(data))


def test_files_without_a_digest_and_of_before_torch_1_6_are_read():
    state = {"w": torch.rand(7), "h": torch.rand(3, 4).half().t(), "b": torch.tensor([True]),
             "o": {"a": [1, (2.5, None)]}, "p": torch.nn.Parameter(torch.rand(2)),
             "m": torch.nn.Linear(2, 2).state_dict(), "empty": torch.empty(0, 3)}  # fmt: skip
    for new in (True, False):
        torch.save(state, FILE, _use_new_zipfile_serialization=new)
        assert same(read_tensors(FILE), state)
    write_tensors(FILE, state)
    assert same(read_tensors(FILE), state) and same(torch.load(FILE, weights_only=True), state)
    for path in (ROOT / "model_ckpt/pretrained").glob("*.pth"):
        read_tensors(path)


def test_a_damaged_run_names_the_newest_whole_checkpoint_beside_it(script):
    folder = Path("model_ckpt/run")
    state = run_state()
    for number, name in enumerate(("epoch_0020", "epoch_0040", "epoch_0060", "latest")):
        save_checkpoint(folder / f"{name}.pth", state)
        os.utime(folder / f"{name}.pth", (number, number))
    for name in ("epoch_0060", "latest"):
        data = bytearray((folder / f"{name}.pth").read_bytes())
        data[len(data) // 2] ^= 4
        (folder / f"{name}.pth").write_bytes(data)
    write_tensors(folder / "another.pth", state)
    for command in (["train.py", "--resume", "--name", "run"], ["test.py", "--name", "run"]):
        done = script(*command)
        assert done.code == 2 and done.err.count("\n") == 1, done.err
        assert re.search("latest.pth is damaged .*; epoch_0040.pth beside it is whole", done.err)
    shutil.copy(folder / "epoch_0040.pth", folder / "latest.pth")  # as the line says
    load_checkpoint(folder / "latest.pth")


# ---- archives ----------------------------------------------------------------------------------

GOOD = Tensor((4,), (1,))


def overlapping() -> bytes:
    """Two records in the directory that share their bytes."""
    data = bytearray(archive({"w": GOOD}, [("data/0", bytes(16)), ("data/1", bytes(16))]))
    with zipfile.ZipFile(FILE) as file:
        first = file.getinfo("archive/data/0").header_offset
    place = data.rfind(b"PK\1\2", 0, data.rfind(b"archive/data/1"))
    data[place + 42 : place + 46] = struct.pack("<L", first)
    return bytes(data)


def edited(place: int, value: bytes, signature: bytes = b"PK\1\2") -> bytes:
    """An archive with a field of the directory's first entry, or of another header, changed."""
    data = bytearray(archive({"w": GOOD}))
    start = data.index(signature) + place
    data[start : start + len(value)] = value
    return bytes(data)


ARCHIVES = {
    "compressed": lambda: archive({"w": GOOD}, compression=zipfile.ZIP_DEFLATED),
    "a bomb": lambda: archive({"w": GOOD}, [("data/0", bytes(50 << 20))],
                              compression=zipfile.ZIP_DEFLATED),
    "encrypted": lambda: edited(8, b"\1"),
    "overlapping": overlapping,
    "declares more than there is": lambda: edited(20, struct.pack("<LL", 1 << 31, 1 << 31)),
    "declares a size in 64 bits and has none": lambda: edited(20, b"\xff" * 8),
    "starts beyond its end": lambda: edited(42, struct.pack("<L", 1 << 31)),
    "too many records": lambda: edited(8, struct.pack("<HH", 65000, 65000), b"PK\5\6"),
    "a second directory": lambda: archive({"w": GOOD}) + archive({"w": GOOD}),
    "something behind its end": lambda: archive({"w": GOOD}) + b"more",
    "twice the same record": lambda: archive({"w": GOOD}, [("data/0", bytes(16))] * 2),
    "twice but for capitals": lambda: archive({"w": GOOD}, [("data/0", bytes(16)),
                                                            ("DATA/0", bytes(16))]),
    "another folder": lambda: archive({"w": GOOD}).replace(b"archive/version", b"brchive/version"),
    "no pickle": lambda: archive({"w": GOOD}).replace(b"archive/data.pkl", b"archive/data.pkx"),
    "nothing": lambda: b"PK\5\6" + bytes(18),
    "torchscript": lambda: archive({"w": GOOD}, [("constants.pkl", b"\x80\x02].")]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_that_torch_does_not_write_are_refused_before_it_reads_them(kind):
    FILE.write_bytes(archive({"w": GOOD}, [("data/0", bytes(16)), ("data/1", bytes(16))]))
    assert torch.equal(read_tensors(FILE)["w"], torch.zeros(4))
    refused(ARCHIVES[kind]())


# ---- tensors and pickles -----------------------------------------------------------------------

HUGE = 10**12


def nested(levels: int) -> bytes:
    return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."


PICKLES = {
    "sizes beyond the record": Tensor((HUGE,), (1,)),
    "strides beyond the record": Tensor((2, 2), (HUGE, 1)),
    "an offset beyond the record": Tensor((1,), (1,), offset=4),
    "one number beyond the record": Tensor((5,), (1,)),
    "a storage beyond the record": Tensor((HUGE,), (1,), numbers=HUGE),
    "a storage a little beyond the record": Tensor((5,), (1,), numbers=5),
    "a storage smaller than the record": Tensor((3,), (1,), numbers=3),
    "a storage of no record": Tensor((4,), (1,), key="7"),
    "one number a million million times": Tensor((10**6, 10**6), (0, 0)),
    "a storage of two types": [GOOD, Tensor((2,), (1,), numbers=2, storage=torch.DoubleStorage)],
    "a thousand views of one storage": [Tensor((9999,), (1,), 9999) for _ in range(1000)],
    "negative sizes": Tensor((-1,), (1,)),
    "negative strides": Tensor((2,), (-1,), offset=3),
    "a negative offset": Tensor((1,), (1,), offset=-1),
    "a negative storage": Tensor((0,), (1,), numbers=-1),
    "sizes that are no numbers": Tensor((float("nan"),), (1,)),
    "sizes that are words": Tensor(("4",), (1,)),
    "sizes beyond 64 bits": Tensor((2**70, 0), (1, 1)),
    "strides missing": Tensor((2, 2), (1,)),
    "a thousand dimensions": Tensor((1,) * 1000, (1,) * 1000),
    "code": Executes(),
    "code among weights": {"w": GOOD, "evil": [Executes()]},
    "a class of torch": torch.nn.Linear(1, 1),
    "a legacy tensor by its size": b"\x80\x02ctorch\nFloatTensor\n\x8a\x05\0\0\0\0\1\x85R.",
    "a storage by its size": b"\x80\x02ctorch\nFloatStorage\n\x8a\x05\0\0\0\0\1\x85R.",
    "bytes by their number": b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\0\0\0\0\1\x85R.",
    "a number called": b"\x80\x02K\1)R.",
    "a name of protocol 4": pickled(Executes(), 4),
    "tuples a million deep, as a key": b"\x80\x02})" + b"\x85" * 10**6 + b"K\1s.",
    "a string of 2 GB": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "a number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "a memo of 2,000 million": b"\x80\x02]r\xff\xff\xff\x7fj\xff\xff\xff\x7e.",
    "no end": b"\x80\x02]",
    "nothing": b"",
    "ten million lists": nested(10**7),
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", PICKLES)
def test_tensors_that_lie_and_code_are_refused_unread(kind, signed):
    views = "views" in kind
    data = archive(PICKLES[kind], [("data/0", bytes(4 * 9999 if views else 16))])
    refused(sign(data) if signed else data)


def test_lists_without_end_are_no_checkpoint_and_crash_nothing():
    for content in (nested(100_000), b"\x80\x02]q\0h\0a.", pickled({"format": {}, "epoch": []})):
        FILE.write_bytes(archive(content))
        with pytest.raises(UserError, match="x.pth: a file of tensors, but not a checkpoint"):
            load_checkpoint(FILE)


def test_other_kinds_of_files_are_refused(tmp_path):
    with tarfile.open(FILE, "w") as file:
        file.add(ROOT / "README.md", "storages")
    refused(FILE.read_bytes())
    for content in (b"", b"P", b"PK\3\4", bytes(10**6), pickled(Executes()), pickled({}),
                    b"version https://git-lfs.github.com/spec/v1\n", b"<html>"):  # fmt: skip
        refused(content)


def test_old_files_that_lie_are_refused():
    torch.save({"w": torch.ones(1000), "v": torch.zeros(3)}, FILE,
               _use_new_zipfile_serialization=False)  # fmt: skip
    whole = FILE.read_bytes()
    for length in range(0, len(whole), 256):
        refused(whole[:length])
    refused(whole + b"more")
    numbers = whole.index(b"M\xe8\x03")  # 1000 in the pickle
    refused(whole[:numbers] + b"J\0\0\0\x7f" + whole[numbers + 3 :])  # 2,000 million instead
    refused(whole.replace(struct.pack("<q", 1000), struct.pack("<q", 10**12)))
    start = whole[: whole.index(b"\x80\x02}", 15)]  # magic number, version, system
    refused(start + pickled(Executes()) + pickled([]))


def test_what_may_not_be_read_or_is_no_file_is_one_line():
    FILE.mkdir()
    with pytest.raises(UserError, match="x.pth: no such file"):
        read_tensors(FILE)
    if hasattr(os, "mkfifo"):
        os.mkfifo("fifo.pth")
        Path("zero.pth").symlink_to("/dev/zero")
        Path("loop.pth").symlink_to("loop.pth")
        for name in ("fifo.pth", "zero.pth", "loop.pth"):
            with pytest.raises(UserError, match="no such file"):
                read_tensors(Path(name))


def test_a_check_takes_a_file_as_it_is_opened_and_leaves_it_so():
    write_tensors(FILE, {"w": torch.zeros(3)})
    before = FILE.read_bytes()
    with open(FILE, "rb") as file:
        check(file)
    assert FILE.read_bytes() == before
