"""Broken and hostile files of tensors: refused in one line, or read as they were written."""

import io
import json
import os
import re
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from compare import same
from conftest import COUNTS
from hostile_files import Executes, Tensor, archive, child, fuzz, pickled, run_state

from common.errors import UserError
from storage.checkpoint import load_checkpoint, save_checkpoint
from storage.files import DamagedFile, read_tensors, write_tensors

MOST_GROWTH_MB = 256  # of a process that reads files of at most 2 MB, whatever they claim
FILE = Path("x.pth")
pytestmark = pytest.mark.usefixtures("nothing_is_executed")


def refused(data: bytes, reason: str = "", kind: type = UserError) -> None:
    FILE.write_bytes(data)
    with pytest.raises(kind, match=rf"x.pth: not loaded, it .*{reason}"):
        read_tensors(FILE)
    COUNTS["hostile checkpoints"] += 1


# ---- damage ------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="measures memory as Unix does")
def test_no_fault_in_a_file_gives_other_weights_nor_takes_memory_nor_hangs(long):
    count = 20_000 if long else 300
    became = fuzz("checkpoints", long, count)
    assert became["refused"] + became["as written"] == count
    assert became["grew_mb"] < MOST_GROWTH_MB
    COUNTS["checkpoints fuzzed"] += count


def test_a_file_cut_off_anywhere_is_damaged():
    for new in (True, False):
        torch.save({"w": torch.rand(5_000)}, FILE, _use_new_zipfile_serialization=new)
        whole = FILE.read_bytes()
        for length in [*range(0, len(whole), 1024), len(whole) - 1]:
            refused(whole[:length], "damaged", DamagedFile)


def test_no_flipped_bit_of_a_small_file_changes_what_is_loaded():
    state = {"w": torch.rand(3)}
    write_tensors(FILE, state)
    whole = FILE.read_bytes()
    for place in range(0, len(whole), 3):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        FILE.write_bytes(data)
        try:
            assert same(read_tensors(FILE), state), place
        except UserError:
            COUNTS["bits flipped"] += 1


def test_a_flipped_weight_is_damage():
    torch.save({"w": torch.ones(1000)}, FILE)
    data = bytearray(FILE.read_bytes())
    data[data.find(struct.pack("<f", 1.0) * 1000) + 1000] ^= 1
    refused(bytes(data), "the checksum of x/data/0 is wrong", DamagedFile)


def test_a_damaged_run_names_the_newest_whole_checkpoint_beside_it(script):
    folder = Path("model_ckpt/run")
    state = run_state()
    for number, name in enumerate(("epoch_0020", "epoch_0040", "epoch_0060", "latest")):
        save_checkpoint(folder / f"{name}.pth", state)
        os.utime(folder / f"{name}.pth", (number, number))
    for name in ("epoch_0060", "latest"):
        data = bytearray((folder / f"{name}.pth").read_bytes())
        middle = len(data) // 2
        data[middle : middle + 400] = b"x" * 400
        (folder / f"{name}.pth").write_bytes(data)
    write_tensors(folder / "another.pth", state)
    for command in (["train.py", "--resume", "--name", "run"], ["test.py", "--name", "run"]):
        done = script(*command)
        assert done.code == 2 and done.err.count("\n") == 1, done.err
        assert re.search("latest.pth is damaged .*; epoch_0040.pth beside it is whole", done.err)
    shutil.copy(folder / "epoch_0040.pth", folder / "latest.pth")  # as the line says
    load_checkpoint(folder / "latest.pth")


# ---- code, and claims --------------------------------------------------------------------------

GOOD = Tensor((4,), (1,))
HUGE = 10**12
CODE = {
    "in the place of weights": lambda: archive(Executes()),
    "among weights": lambda: archive({"w": GOOD, "evil": [Executes()]}),
    "without checksums": lambda: unsummed({"w": torch.ones(2), "evil": Executes()}),
    "in a newer protocol": lambda: archive(pickled(Executes(), 4)),
    "a name made of words": lambda: archive(
        b"\x80\x02X\2\0\0\0osX\5\0\0\0mkdir\x93X\1\0\0\0x\x85R."
    ),
    "in a plain pickle": lambda: pickled(Executes()),
    "before torch 1.6": lambda: old({"w": torch.ones(2), "evil": Executes()}),
    "before torch 1.6, in a newer protocol": lambda: old({"evil": Executes()}, pickle_protocol=4),
    "a whole net": lambda: archive(torch.nn.Linear(1, 1)),
}


def old(state, **kwargs) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False, **kwargs)
    return buffer.getvalue()


def unsummed(state) -> bytes:
    buffer = io.BytesIO()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, buffer)
    finally:
        torch.serialization.set_crc32_options(True)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", CODE)
def test_code_in_a_file_is_never_run(kind):
    refused(CODE[kind](), "(could run code|without running code)")


def bomb() -> bytes:
    """Only the record of a tensor is compressed."""
    FILE.write_bytes(archive({"w": Tensor((50 << 20,), (1,), 50 << 20)}, []))
    with zipfile.ZipFile(FILE, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/0", bytes(200 << 20))
    return FILE.read_bytes()


def overlapping() -> bytes:
    """A thousand records in the directory at the place of one of 1 MB."""
    data = archive({}, [(f"data/{i:04}", bytes(1 << 20 if i == 0 else 0)) for i in range(1000)])
    start = data.index(b"PK\1\2")
    first = data.index(b"archive/data/0000", start) - 46
    entry = data[first : first + 46]
    entries = re.split(b"(?=PK\1\2)", data[start:])
    same_place = [entry + e[46:] if b"archive/data/" in e else e for e in entries]
    return data[:start] + b"".join(same_place)


CLAIMS = {
    "numbers beyond the record": lambda: archive(Tensor((HUGE,), (1,))),
    "strides beyond the record": lambda: archive(Tensor((2, 2), (HUGE, 1))),
    "one number a million million times": lambda: archive(Tensor((10**6, 10**6), (0, 0))),
    "a thousand views of one storage": lambda: archive(
        [Tensor((9999,), (1,), 9999) for _ in range(1000)], [("data/0", bytes(4 * 9999))]
    ),
    "a storage beyond the record": lambda: archive(Tensor((4,), (1,), numbers=HUGE)),
    "a storage of no record": lambda: archive(Tensor((4,), (1,), key="7")),
    "a tensor by its size": lambda: archive(
        b"\x80\x02ctorch\nFloatTensor\n\x8a\x05\0\0\0\0\1\x85R."
    ),
    "a compressed record": bomb,
    "overlapping records": overlapping,
    "nine million lists": lambda: archive(b"\x80\x02" + b"]" * 9_000_000 + b"."),
}
MEASURE = """
import json, sys; from hostile_files import peak_mb
from common.errors import UserError; from storage.files import read_tensors
read_tensors(sys.argv[1]); start, grew = peak_mb(forget=True), []
for path in sys.argv[2:]:
    try: read_tensors(path)
    except UserError: grew.append(peak_mb() - start)
    else: grew.append("it was read")
    peak_mb(forget=True)
print(json.dumps(grew))
"""


@pytest.mark.skipif(os.name == "nt", reason="measures memory as Unix does")
def test_what_a_small_file_claims_is_refused_and_takes_no_memory():
    Path("good").write_bytes(archive({}))
    for number, make in enumerate(CLAIMS.values()):
        Path(str(number)).write_bytes(make())
    grew = dict(zip(CLAIMS, json.loads(child(MEASURE, "good", *range(len(CLAIMS)))), strict=True))
    assert all(type(mb) is int and mb < MOST_GROWTH_MB for mb in grew.values()), grew


def test_lists_without_end_are_no_checkpoint_and_crash_nothing():
    for content in (b"\x80\x02" + b"]" * 90_000 + b"a" * 89_999 + b".", b"\x80\x02]q\0h\0a."):
        FILE.write_bytes(archive(content))
        with pytest.raises(UserError, match="x.pth: a file of tensors, but not a checkpoint"):
            load_checkpoint(FILE)


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
