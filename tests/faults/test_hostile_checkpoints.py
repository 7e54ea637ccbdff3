"""Broken and hostile files of tensors: refused in one line, or read as they were written."""

import copy
import importlib.util
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
from dtn_model import DTNModel
from encoder import Encoder, load_encoder, save_encoder
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


# ---- what stands in a checkpoint, and every script that takes one ------------------------------


def put(*path, value):
    """A change of a checkpoint: the value at that place, or what a function makes of it."""

    def change(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value(state[path[-1]]) if callable(value) else value

    return change


def first_weight(net, make):
    def change(state):
        weights = state["model"]["nets"][net]
        key = next(iter(weights))
        weights[key] = make(weights[key])

    return change


def first_moments(make):
    return put("model", "optimizer_G", "state", value=lambda s: {**s, 0: make(s[0])})


def without(*path):
    def change(state):
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return change


DEEP = ()
for _ in range(200):
    DEEP = [DEEP]
EVERYWHERE = {
    "a newer format": put("format", value=2),
    "a format that is a tensor": put("format", value=torch.ones(2)),
    "a format without end": put("format", value=DEEP),
    "an epoch that is a word": put("epoch", value="x"),
    "an epoch below 0": put("epoch", value=-1),
    "an epoch that is NaN": put("epoch", value=float("nan")),
    "a batch that is a tensor": put("batch", value=torch.zeros(2)),
    "totals that are a word": put("totals", value="G_A"),
    "totals of words": put("totals", value={"G_A": ["a", "b"]}),
    "totals over no steps": put("totals", value={"G_A": [1.0, 0]}),
    "no options": put("options", value=None),
    "options that are no dict": put("options", value=[1]),
    "options by number": put("options", value={1: 2}),
    "a width of 1,000 million": put("options", "ngf", value=10**9),
    "a width that fits the limit": put("options", "ngf", value=65536),
    "a width that is a word": put("options", "ngf", value="many"),
    "a width below 1": put("options", "ngf", value=-4),
    "a width that is a list": put("options", "ngf", value=[4]),
    "1,000 million blocks": put("options", "n_blocks", value=10**9),
    "an unknown generator": put("options", "generator", value="best"),
    "a generator that is a list": put("options", "generator", value=[]),
    "an unknown model": put("options", "model", value="gpt"),
    "an image size of 1,000 million": put("options", "image_size", value=10**9),
    "a seed beyond 64 bits": put("options", "seed", value=2**70),
    "a flag that is a word": put("options", "attention", value="maybe"),
    "GPUs that are words": put("options", "gpu_ids", value=["x"]),
    "a path that no system takes": put("options", "domain_A_path", value="data\0"),
    "no nets": without("model", "nets"),
    "nets that are a list": put("model", "nets", value=[]),
    "a net that is a word": put("model", "nets", "netG_A_ema", value="x"),
    "nets by number": put("model", "nets", value=lambda nets: {1: nets["netG_A"]}),
    "a net missing": without("model", "nets", "netG_B"),
    "no steps": without("model", "steps"),
    "steps that are a word": put("model", "steps", value="x"),
    "a weight that is a word": first_weight("netG_A_ema", lambda w: "x"),
    "a weight of whole numbers": first_weight("netG_A_ema", lambda w: w.long()),
    "a complex weight": first_weight("netG_A_ema", lambda w: w.to(torch.complex64)),
    "a weight of another shape": first_weight("netG_A_ema", lambda w: w[1:]),
    "a weight that is NaN": first_weight("netG_A_ema", lambda w: w * float("nan")),
    "an infinite weight": first_weight("netG_A_ema", lambda w: w + float("inf")),
    "a weight too many": put("model", "nets", "netG_A_ema",
                             value=lambda w: {**w, "more": torch.zeros(1)}),
    "a weight missing": put("model", "nets", "netG_A_ema",
                            value=lambda w: dict(list(w.items())[1:])),
}  # fmt: skip
ONLY_FOR_TRAINING = {
    "an optimizer missing": without("model", "optimizer_G"),
    "an optimizer that is a word": put("model", "optimizer_G", value="x"),
    "an optimizer of other weights": put("model", "optimizer_G", "param_groups", value=[{}]),
    "moments of other shapes": first_moments(lambda m: {**m, "exp_avg": torch.zeros(1)}),
    "moments that are NaN": first_moments(lambda m: {**m, "exp_avg": m["exp_avg"] * float("nan")}),
    "moments missing": first_moments(lambda m: {"step": m["step"]}),
    "moments by name": put("model", "optimizer_G", "state", value={"x": {}}),
    "no chance": put("model", "generator", value=torch.zeros(3, dtype=torch.uint8)),
    "chance of floats": put("model", "generator", value=lambda s: s.float()),
    "a pool of words": put("model", "pool_A", value="x"),
    "a pool of other images": put("model", "pool_A", value=torch.zeros(1, 3, 8, 8)),
    "a pool that is NaN": put("model", "pool_A", value=lambda p: p * float("nan")),
    "a discriminator of NaN": first_weight("netD_A", lambda w: w * float("nan")),
    "a discriminator missing": without("model", "nets", "netD_A"),
    "a net too many": put("model", "nets", "netX", value={}),
}
# What a script has no use for; a dry run looks at the sizes of nets, not into them.
UNREAD = {
    "resume": "",
    "dry_run": "a net missing|.* weight.*|.*steps.*",
    "init_from": "a net missing|an unknown model|.*(seed|flag|GPU|path) .*|GPUs .*",
}
TRAINED = ["train.py", "--resume", "--name", "run"]
SCRIPTS = {
    "resume": TRAINED,
    "dry_run": [*TRAINED, "--dry_run"],
    "init_from": ["train.py", "--init_from", "model_ckpt/run/latest.pth", "--gpu_ids", "-1"],
    "test": ["test.py", "--ckpt", "model_ckpt/run/latest.pth"],
    "name": ["test.py", "--name", "run"],
    "evaluate": ["evaluate.py", "--ckpt", "model_ckpt/run/latest.pth"],
    "publish": ["publish.py", "--ckpt", "model_ckpt/run/latest.pth", "--output", "out"],
    "onnx": ["export_onnx.py", "--ckpt", "model_ckpt/run/latest.pth"],
}


@pytest.fixture(scope="module")
def run():
    return run_state()


def one_line(script, command, mark):
    done = script(*command)
    assert done.code == 2, (command, done.out, done.err)
    assert done.err.count("\n") == 1 and done.err.startswith("error: "), done.err
    assert mark in done.err and len(done.err) < 5000, done.err
    COUNTS["hostile checkpoints"] += 1


@pytest.mark.parametrize("kind", EVERYWHERE)
def test_nonsense_in_a_checkpoint_is_one_line_from_every_script(workplace, script, run, kind):
    state = {"format": 1, **copy.deepcopy(run)}
    EVERYWHERE[kind](state)
    write_tensors(Path("model_ckpt/run/latest.pth"), state)
    onnx = importlib.util.find_spec("onnxruntime")
    for name, command in SCRIPTS.items():
        unread = UNREAD.get(name, "a net missing")  # most take files of one generator
        if not re.fullmatch(unread, kind) and (name != "onnx" or onnx):
            one_line(script, command, "latest.pth")


@pytest.mark.parametrize("kind", ONLY_FOR_TRAINING)
def test_nonsense_that_only_training_reads_is_one_line_from_it(workplace, script, run, kind):
    state = {"format": 1, **copy.deepcopy(run)}
    ONLY_FOR_TRAINING[kind](state)
    write_tensors(Path("model_ckpt/run/latest.pth"), state)
    one_line(script, TRAINED, "latest.pth")
    assert not Path("save_image").exists()


ENCODERS = {
    "a width of 1,000 million": {"width": 10**9, "dim": 4, "image_size": 64},
    "features without number": {"width": 2, "dim": "x", "image_size": 64},
    "images of 1,000 million": {"width": 2, "dim": 4, "image_size": 10**9},
    "a net of another kind": {"resnet": "resnet9000"},
    "a net of torchvision": {"resnet": "resnet18"},
    "a list": [1],
    "nothing": None,
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_nonsense_for_an_encoder_is_one_line(workplace, script, options, kind):
    encoder, latest = Encoder(2, 4, 64), "model_ckpt/run/latest.pth"
    model = DTNModel(options(model="dtn", ngf=2, ema=0), encoder)
    state = {"format": 1, "options": vars(model.opt), "epoch": 0, "batch": 0, "totals": {},
             "model": {**model.state_dict(), "encoder_options": ENCODERS[kind]}}  # fmt: skip
    write_tensors(Path(latest), state)
    for command in (TRAINED, [*TRAINED, "--dry_run"], ["test.py", "--ckpt", latest],
                    ["evaluate.py", "--ckpt", latest]):  # fmt: skip
        one_line(script, command, "latest.pth")
    weights = encoder.state_dict()
    write_tensors(Path("f.pth"), {"format": "encoder-2", "options": ENCODERS[kind],
                                  "encoder": weights})  # fmt: skip
    one_line(script, ["train.py", "--model", "dtn", "--f_encoder", "f.pth"], "f.pth")


def test_encoders_with_other_weights_are_one_line():
    save_encoder(FILE, Encoder(2, 4, 64))
    state = read_tensors(FILE)
    key = "convs.0.weight"
    for make in (lambda w: "x", lambda w: w.long(), lambda w: w.to(torch.complex64),
                 lambda w: w[1:], lambda w: w * float("nan"), lambda w: None):  # fmt: skip
        weights = {**state["encoder"], key: make(state["encoder"][key])}
        write_tensors(FILE, {**state, "encoder": weights})
        with pytest.raises(UserError, match="x.pth: "):
            load_encoder(FILE)
    write_tensors(FILE, {**state, "format": torch.zeros(2)})
    with pytest.raises(UserError, match="x.pth: format "):
        load_encoder(FILE)


def test_commands_to_a_terminal_in_names_are_not_printed(workplace, script):
    torch.save({"\x1b[2J\nkey": torch.zeros(1), "\r" * 10**5: torch.zeros(1)}, FILE)
    done = script("test.py", "--ckpt", FILE)
    assert done.code == 2 and len(done.err) < 5000 and done.err.count("\n") == 1
    assert done.err[:-1].isprintable() and "\\x1b[2J\\nkey" in done.err


def test_a_check_takes_a_file_as_it_is_opened_and_leaves_it_so():
    write_tensors(FILE, {"w": torch.zeros(3)})
    before = FILE.read_bytes()
    with open(FILE, "rb") as file:
        check(file)
    assert FILE.read_bytes() == before
