"""Small files of tensors that ask for many objects: bounded like the bytes."""

import json
import os
import struct
from pathlib import Path

import pytest
from compare import same
from hostile_files import archive, child, run_state
from test_hostile_checkpoints import ARCHIVES, FILE, MOST_GROWTH_MB, PICKLES, made_of, refused

from arguments import train_options
from common.errors import UserError
from storage.archives import LEGACY_START
from storage.checkpoint import load_checkpoint, save_checkpoint
from storage.files import read_tensors
from storage.pickles import MOST_OPERATIONS, MOST_PICKLE_BYTES

START = b"\x80\x02]("
ORDERED = b"ccollections\nOrderedDict\n"
SIZE = b"ctorch\nSize\n"
STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\4tQ"
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\nq\0("
    + STORAGE
    + b"K\0K\0\x85K\1\x85\x89"
    + ORDERED
    + b")Rtq\1"
)
PARAMETER = TENSOR + b"Rq\2ctorch._utils\n_rebuild_parameter\nq\0(h\2\x89" + ORDERED + b")Rtq\1"
WIDE = "\U0001f600".encode()  # makes four bytes of each letter beside it

# What comes first, what then comes again and again, and of how many operations that is.
FLAT = {
    "dicts": (b"", b"}", 1),
    "lists": (b"", b"]", 1),
    "dicts of one": (b"", b"}NNs", 4),
    "tuples of nothing": (b"", b")", 1),
    "tuples": (b"", b"N\x85", 2),
    "numbers": (b"", b"J\xff\xff\xff\x7f", 1),
    "fractions": (b"", b"G" + b"\1" * 8, 1),
    "words": (b"", b"X\4\0\0\0" + WIDE, 1),
    "places of the memo": (b"N", None, 1),
    "ordered dicts": (ORDERED + b"q\0", b"h\0)R", 3),
    "ordered dicts with attributes": (ORDERED + b"q\0", b"h\0)R}N\x88sb", 8),
    "shapes": (SIZE + b"q\0)\x85q\1", b"h\0h\1R", 3),
    "tensors": (TENSOR, b"h\0h\1R", 3),
    "parameters": (PARAMETER, b"h\0h\1R", 3),
}


def flat(kind: str, operations: int, size: int = MOST_PICKLE_BYTES - 300) -> bytes:
    """A list of as many objects as so many operations and bytes can make."""
    first, unit, each = FLAT[kind]
    count = min((operations - 60) // each, size // len(unit or b"r1234"))
    units = unit * count if unit else b"".join(b"r%b" % struct.pack("<L", i) for i in range(count))
    return START + first + units + b"e."


def everything_at_its_most() -> bytes:
    """Tensors, a word that fills the rest, and a directory of long names."""
    tensors = flat("tensors", MOST_OPERATIONS)[:-2]
    letters = WIDE + b"a" * (MOST_PICKLE_BYTES - len(tensors) - 300)
    names = [(f"data/{i}" + "\U0001f600" * 45, b"") for i in range(4000)]
    return archive(
        tensors + b"X" + struct.pack("<L", len(letters)) + letters + b"e.",
        [("data/0", bytes(16)), *names],
    )


MEASURE = """
import json, sys; from hostile_files import peak_mb
from common.errors import UserError; from storage.files import read_tensors
read_tensors(sys.argv[1]); start, grew = peak_mb(forget=True), []
for path in sys.argv[2:]:
    try: read_tensors(path)
    except UserError: pass
    grew.append(peak_mb() - start); peak_mb(forget=True)
print(json.dumps(grew))
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="measures memory as Unix does")
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_file_made_by_hand_takes_more_memory_than_is_stated():
    made = {kind: make() for kind, (_, make) in ARCHIVES.items()}
    made |= {kind: made_of(kind) for kind in PICKLES}
    for kind in FLAT:
        made[f"{kind}, to the last"] = archive(flat(kind, MOST_OPERATIONS))
        made[f"{kind}, too many"] = archive(flat(kind, 10**9))
        made[f"4 MB of {kind}"] = archive(flat(kind, 10**9, 4 << 20))
    made["everything at its most"] = everything_at_its_most()
    Path("good").write_bytes(archive({}))
    for number, content in enumerate(made.values()):
        Path(str(number)).write_bytes(content)
    grew = dict(zip(made, json.loads(child(MEASURE, "good", *range(len(made)))), strict=True))
    most = {kind: MOST_GROWTH_MB + (len(content) >> 20) for kind, content in made.items()}
    assert not {kind: mb for kind, mb in grew.items() if mb >= most[kind]}


@pytest.mark.parametrize("kind", FLAT)
def test_objects_are_read_up_to_a_number_and_refused_beyond(kind):
    FILE.write_bytes(archive(flat(kind, MOST_OPERATIONS)))
    read_tensors(FILE)
    refused(archive(flat(kind, 2 * MOST_OPERATIONS)), "plain values are too many")
    refused(archive(flat(kind, 10**9, 4 << 20)), "plain values fill 4 MB")


def test_files_at_every_bound_at_once_are_read():
    FILE.write_bytes(everything_at_its_most())
    assert len(read_tensors(FILE)) > 60_000


def test_the_pickles_of_an_old_file_share_one_bound():
    part = flat("dicts", MOST_OPERATIONS // 2)
    refused(LEGACY_START + part * 3 + b"\x80\x02}.\x80\x02].", "too many")


def test_ordered_dicts_of_python_2_and_shapes_are_read():
    pairs = b"](](X\1\0\0\0aK\1e](X\1\0\0\0b" + SIZE + b"K\2\x85\x85Ree"
    FILE.write_bytes(archive(b"\x80\x02" + ORDERED + pairs + b"\x85R."))
    assert read_tensors(FILE) == {"a": 1, "b": (2,)}


def test_a_run_of_the_most_blocks_that_train_py_takes_is_read():
    state = run_state(n_blocks=100)
    save_checkpoint(FILE, state)
    assert same(load_checkpoint(FILE)["model"], state["model"])
    with pytest.raises(UserError, match="--n_blocks"):
        train_options(["--n_blocks", "101"])
