"""Broken and hostile files of tensors: refused in one line, or read as they were written."""

import io
import os
import re
import shutil
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from compare import same
from conftest import COUNTS, ROOT
from hostile_files import (
    Executes,
    Tensor,
    archive,
    fuzz,
    pickled,
    run_state,
    sign,
)

from common.errors import UserError
from storage import archives
from storage.archives import check
from storage.checkpoint import load_checkpoint, save_checkpoint
from storage.files import read_tensors, write_tensors
from storage.pickles import Damaged, HoldsObjects

MOST_GROWTH_MB = 64  # of a process that reads files of 0.3 MB, whatever they claim
FILE = Path("x.pth")
pytestmark = pytest.mark.usefixtures("nothing_is_executed")


def refused(data: bytes, reason: str, count: str = "hostile checkpoints") -> None:
    """Assert that a file is refused for that reason: no other check may stand in for a lost one."""
    FILE.write_bytes(data)
    with pytest.raises(UserError, match=rf"x.pth: not loaded, it .*{reason}"):
        read_tensors(FILE)
    COUNTS[count] += 1


# ---- bytes -------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="measures memory as Unix does")
def test_no_fault_in_a_file_gives_other_weights_nor_takes_memory_nor_hangs(long, tmp_path):
    count = 20_000 if long else 1_000
    became = fuzz("checkpoints", long, count)
    assert became["refused"] + became["as written"] == count
    assert became["grew_mb"] < MOST_GROWTH_MB
    forged = became["forged, refused"] + became["forged, taken"]
    COUNTS["checkpoints fuzzed"] += count
    COUNTS["checkpoints forged"] += forged


def test_a_file_cut_off_anywhere_is_refused():
    write_tensors(FILE, {"w": torch.rand(50_000), "v": torch.rand(300)})
    whole = FILE.read_bytes()
    refused(b"", "it is empty")
    for length in [*range(4096, len(whole), 4096), *(len(whole) - n for n in (1, 71, 73))]:
        refused(whole[:length], "its end is missing", "checkpoints cut off")


def test_every_flipped_bit_of_a_small_file_of_ours_is_refused():
    write_tensors(FILE, {"w": torch.rand(3)})
    whole = FILE.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            check(io.BytesIO(data))
        COUNTS["bits flipped"] += 1


def test_a_flipped_weight_without_a_digest_is_refused_by_the_archives_own_checksum():
    torch.save({"w": torch.ones(1000)}, FILE)
    data = bytearray(FILE.read_bytes())
    data[data.find(struct.pack("<f", 1.0) * 1000) + 1000] ^= 1
    refused(bytes(data), "the checksum of x/data/0 is wrong")


def test_files_without_a_digest_and_of_before_torch_1_6_are_read():
    state = {
        "w": torch.rand(7),
        "h": torch.rand(3, 4).half().t(),
        "b": torch.tensor([True]),
        "o": {"a": [1, (2.5, None)]},
        "p": torch.nn.Parameter(torch.rand(2)),
        "m": torch.nn.Linear(2, 2).state_dict(),
        "empty": torch.empty(0, 3),
    }
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
    """A whole record, header and all, within the bytes of another one, and in the directory too."""
    inner = archive({}, [("data/1", bytes(16))])
    start = inner.index(b"PK\3\4", inner.index(b"archive/byteorder"))
    inner = inner[start : inner.index(b"PK\3\4", start + 4)]
    inner += bytes(-len(inner) % 4)
    numbers = len(inner) // 4
    value = {"w": Tensor((numbers,), (1,), numbers), "v": Tensor((4,), (1,), key="1")}
    data = bytearray(archive(value, [("data/0", inner), ("data/1", bytes(16))]))
    place = data.rindex(b"PK\1\2", 0, data.rindex(b"archive/data/1"))
    data[place + 42 : place + 46] = struct.pack("<L", data.index(inner))
    return bytes(data)


def edited(place: int, value: bytes, signature: bytes = b"PK\1\2") -> bytes:
    """An archive with a field of the directory's first entry, or of another header, changed."""
    data = bytearray(archive({"w": GOOD}))
    start = data.index(signature) + place
    data[start : start + len(value)] = value
    return bytes(data)


def bomb() -> bytes:
    """Only the record of a tensor is compressed."""
    plain = archive({"w": GOOD}, [])
    with open(FILE, "wb") as file:
        file.write(plain)
    with zipfile.ZipFile(FILE, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/0", bytes(50 << 20))
    return FILE.read_bytes()


def renamed(name: bytes, other: bytes, count: int = -1) -> bytes:
    return archive({"w": GOOD}).replace(name, other, count)


# Why each is refused, and how it is made.
ARCHIVES = {
    "compressed": (
        "data.pkl is encrypted or compressed",
        lambda: archive({"w": GOOD}, compression=zipfile.ZIP_DEFLATED),
    ),
    "a bomb": ("data/0 is encrypted or compressed", bomb),
    "compressed, the directory says": (
        "data.pkl is encrypted or compressed",
        lambda: edited(10, b"\x08"),
    ),
    "compressed, the record says": ("data.pkl is not where", lambda: edited(8, b"\x08", b"PK\3\4")),
    "of two sizes": ("data.pkl is encrypted or compressed", lambda: edited(20, b"\1\0\0\0")),
    "encrypted": ("data.pkl is encrypted or compressed", lambda: edited(8, b"\1")),
    "overlapping": ("archive/data/1 is not where the directory says", overlapping),
    "another name at its place": (
        "archive/version is not where",
        lambda: renamed(b"archive/version", b"archive/versiom", 1),
    ),
    "declares more than there is": (
        "archive/data.pkl is not where the directory says",
        lambda: edited(20, struct.pack("<LL", 1 << 31, 1 << 31)),
    ),
    "declares a size in 64 bits and has none": (
        "its directory lacks a size",
        lambda: edited(20, b"\xff" * 8),
    ),
    "starts beyond its end": ("it ends too early", lambda: edited(42, struct.pack("<L", 1 << 31))),
    "counts more records than there are": (
        "its directory is broken",
        lambda: edited(8, struct.pack("<HH", 65000, 65000), b"PK\5\6"),
    ),
    "counts fewer records than there are": (
        "its directory is broken",
        lambda: edited(8, struct.pack("<HH", 2, 2), b"PK\5\6"),
    ),
    "too many records": (
        "its records are too many",
        lambda: archive({"w": GOOD}, [(f"data/{number}", bytes(16)) for number in range(20_000)]),
    ),
    "names without end": (
        "its records are too many",
        lambda: archive(
            {"w": GOOD},
            [("data/0", bytes(16)), *((f"{number}" * 30_000, b"") for number in range(10, 30))],
        ),
    ),
    "a second directory": (
        "its directory is not as torch writes it",
        lambda: archive({"w": GOOD}) + archive({"w": GOOD}),
    ),
    "something behind its end": ("its end is missing", lambda: archive({"w": GOOD}) + b"more"),
    "twice the same record": (
        "it holds archive/data/0 twice",
        lambda: archive({"w": GOOD}, [("data/0", bytes(16))] * 2),
    ),
    "twice but for capitals": (
        "it holds archive/DATA/0 twice",
        lambda: archive({"w": GOOD}, [("data/0", bytes(16)), ("DATA/0", bytes(16))]),
    ),
    "another folder": (
        "its records are in several folders",
        lambda: renamed(b"archive/version", b"brchive/version"),
    ),
    "no pickle": (
        "it holds no data.pkl",
        lambda: renamed(b"archive/data.pkl", b"archive/data.pkx"),
    ),
    "nothing": ("it does not start as files of tensors do", lambda: b"PK\5\6" + bytes(18)),
    "torchscript": (
        "TorchScript",
        lambda: archive({"w": GOOD}, [("data/0", bytes(16)), ("constants.pkl", b"\x80\x02].")]),
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name", "ignore:'torch.load' received a zip file")
@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_that_torch_does_not_write_are_refused_before_it_reads_them(kind):
    FILE.write_bytes(archive({"w": GOOD}, [("data/0", bytes(16)), ("data/1", bytes(16))]))
    assert torch.equal(read_tensors(FILE)["w"], torch.zeros(4))
    reason, make = ARCHIVES[kind]
    refused(make(), reason)


# ---- tensors and pickles -----------------------------------------------------------------------

HUGE = 10**12


def nested(levels: int) -> bytes:
    return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."


def copies(call: bytes, items: bytes) -> bytes:
    """A list of a thousand calls that copy the same items, which are made once."""
    return b"\x80\x02](" + items + b"q\1" + call + 1000 * b"h\0h\1R" + b"e."


ORDERED, SIZE = b"ccollections\nOrderedDict\nq\0", b"ctorch\nSize\nq\0"
ITEMS = b"](" + 1000 * b"K\1" + b"e"

# By why they are refused.
PICKLES_BY_REASON = {
    "claims .* numbers, which the file does not hold": {
        "sizes beyond the record": Tensor((HUGE,), (1,)),
        "strides beyond the record": Tensor((2, 2), (HUGE, 1)),
        "an offset beyond the record": Tensor((1,), (1,), offset=4),
        "one number beyond the record": Tensor((5,), (1,)),
        "one number a million million times": Tensor((10**6, 10**6), (0, 0)),
        "a thousand views of one storage": [Tensor((9999,), (1,), 9999) for _ in range(1000)],
    },
    "data/[07] is not of the size that was declared": {
        "a storage beyond the record": Tensor((4,), (1,), numbers=HUGE),
        "a storage a little beyond the record": Tensor((5,), (1,), numbers=5),
        "a storage smaller than the record": Tensor((3,), (1,), numbers=3),
        "a storage of no record": Tensor((4,), (1,), key="7"),
    },
    "a storage in it is declared in an unknown way": {
        "a storage of two types": [GOOD, Tensor((2,), (1,), 2, storage=torch.DoubleStorage)],
        "a negative storage": Tensor((0,), (1,), numbers=-1),
    },
    "a tensor in it has no possible shape": {
        "negative sizes": Tensor((-1,), (1,)),
        "negative strides": Tensor((2,), (-1,), offset=3),
        "a negative offset": Tensor((1,), (1,), offset=-1),
        "sizes that are no numbers": Tensor((float("nan"),), (1,)),
        "sizes that are words": Tensor(("4",), (1,)),
        "sizes beyond 64 bits": Tensor((2**70, 0), (1, 1)),
        "strides missing": Tensor((2, 2), (1,)),
        "a thousand dimensions": Tensor((1,) * 1000, (1,) * 1000),
    },
    rf"could run code \({os.mkdir.__module__}.mkdir\)": {
        "code": Executes(),
        "code among weights": {"w": GOOD, "evil": [Executes()]},
    },
    r"could run code \(torch.nn.modules.linear.Linear\)": {
        "a class of torch": torch.nn.Linear(1, 1),
    },
    r"could run code \(torch.FloatTensor\)": {
        "a legacy tensor by its size": b"\x80\x02ctorch\nFloatTensor\n\x8a\x05\0\0\0\0\1\x85R.",
    },
    r"could run code \(a call\)": {
        "a storage by its size": b"\x80\x02ctorch\nFloatStorage\n\x8a\x05\0\0\0\0\1\x85R.",
        "a number called": b"\x80\x02K\1)R.",
        "attributes of a number": b"\x80\x02K\1}b.",
    },
    r"could run code \(__builtin__.bytearray\)": {
        "bytes by their number": b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\0\0\0\0\1\x85R.",
    },
    r"could run code \(FRAME\)": {"protocol 4": pickled(Executes(), 4)},
    r"could run code \(STACK_GLOBAL\)": {
        "a name from words": b"\x80\x02X\2\0\0\0osX\5\0\0\0mkdir\x93X\1\0\0\0x\x85R.",
    },
    "its tuples are nested too deep": {
        "tuples a million deep, as a key": b"\x80\x02})" + b"\x85" * 10**6 + b"K\1s.",
    },
    "it copies what is not a list or a dict, or does it twice": {
        "a list copied a thousand times": copies(ORDERED, ITEMS + b"\x85"),
        "a tuple copied": copies(ORDERED, b"(" + 1000 * b"K\1" + b"t\x85"),
        "attributes copied": b"\x80\x02](}q\1" + ORDERED + b")Rh\1bh\0)Rh\1be.",
    },
    "a shape in it is not possible": {
        "a list as a shape": copies(SIZE, ITEMS + b"\x85"),
        "a shape of a thousand sides": copies(SIZE, b"(" + 1000 * b"K\1" + b"t\x85"),
    },
    "its names and sizes are broken: .*": {
        "a string of 2 GB": b"\x80\x02X\xff\xff\xff\x7fabc.",
        "a number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
        "a place of the memo that is empty": b"\x80\x02]r\xff\xff\xff\x7fj\xff\xff\xff\x7e.",
        "no end": b"\x80\x02]",
        "nothing": b"",
    },
    "its names and plain values fill 19 MB": {"ten million lists": nested(10**7)},
}
PICKLES = {
    kind: (reason, value)
    for reason, values in PICKLES_BY_REASON.items()
    for kind, value in values.items()
}


def made_of(kind: str) -> bytes:
    """The archive of one of PICKLES."""
    return archive(PICKLES[kind][1], [("data/0", bytes(4 * 9999 if "views" in kind else 16))])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", PICKLES)
def test_tensors_that_lie_and_code_are_refused_unread(kind, signed):
    data = made_of(kind)
    refused(sign(data) if signed else data, PICKLES[kind][0])


RUNS_CODE = ("code", "code among weights", "protocol 4", "a name from words")


@pytest.mark.parametrize("kind", RUNS_CODE)
def test_code_is_refused_by_the_check_of_archives_alone(kind):
    with pytest.raises(HoldsObjects):
        check(io.BytesIO(made_of(kind)))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("kind", RUNS_CODE)
def test_code_is_refused_by_torch_alone(kind, monkeypatch):
    monkeypatch.setattr(archives, "check", lambda file: None)
    refused(made_of(kind), "Weights only load failed")


def test_lists_without_end_are_no_checkpoint_and_crash_nothing():
    for content in (nested(90_000), b"\x80\x02]q\0h\0a.", pickled({"format": {}, "epoch": []})):
        FILE.write_bytes(archive(content))
        with pytest.raises(UserError, match="x.pth: a file of tensors, but not a checkpoint"):
            load_checkpoint(FILE)


def test_other_kinds_of_files_are_refused(tmp_path):
    with tarfile.open(FILE, "w") as file:
        file.add(ROOT / "README.md", "storages")
    start = "it does not start as files of tensors do"
    for content in (
        FILE.read_bytes(),
        b"P",
        bytes(10**6),
        pickled(Executes()),
        pickled({}),
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<html>",
    ):
        refused(content, start)
    refused(b"", "it is empty")
    refused(b"PK\3\4", "its end is missing")


def test_old_files_that_lie_are_refused():
    torch.save(
        {"w": torch.ones(1000), "v": torch.zeros(3)}, FILE, _use_new_zipfile_serialization=False
    )
    whole = FILE.read_bytes()
    for length in range(0, len(whole), 256):
        refused(whole[:length], "damaged", "checkpoints cut off")
    refused(whole + b"more", "it goes on behind its end")
    numbers = whole.index(b"M\xe8\x03")  # 1000 in the pickle
    more = whole[:numbers] + b"J\0\0\0\x7f" + whole[numbers + 3 :]  # 2,000 million instead
    refused(more, "its storage .* is not of the size that was declared")
    refused(
        whole.replace(struct.pack("<q", 1000), struct.pack("<q", 10**12)),
        "its storage .* is not of the size that was declared",
    )
    start = whole[: whole.index(b"\x80\x02}", 15)]  # magic number, version, system
    refused(start + pickled({}) + pickled(Executes()) + pickled([]), "could run code")


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
