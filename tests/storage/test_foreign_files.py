"""Files of other kinds: read where that is safe, else one line names the kind and the way out."""

import gzip
import io
import json
import pickle
import struct
import sys
import tarfile
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from compare import same
from test_layouts import cyclegan_forward, cyclegan_generator, original_file, pictures

from common.errors import UserError
from interop.generators import load_generators
from storage.files import DamagedFile, read_tensors

FILE = Path("x.pth")
LONGEST = 300  # characters of a line that says why a file is not taken


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def line_of(path=FILE, **kwargs):
    """The one line that a file is refused with."""
    with pytest.raises(UserError) as error:
        load_generators(path, [], 1, **kwargs)
    line = str(error.value)
    assert line.startswith(f"{path}: ") and "\n" not in line and len(line) <= LONGEST, line
    assert not isinstance(error.value, DamagedFile) and "damaged" not in line, line
    return line


def without_checksums(state, **kwargs):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, FILE, **kwargs)
    finally:
        torch.serialization.set_crc32_options(True)


def torchscript():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Conv2d(3, 8, 3)).save(str(FILE))


def zip_of(name, content=b"", **kwargs):
    with zipfile.ZipFile(FILE, "w", **kwargs) as file:
        file.writestr(name, content)


def tar():
    with tarfile.open(FILE, "w") as file:
        file.add(__file__, "storages")


def safetensors(state):
    """A file as that package writes it."""
    head, place = {}, 0
    for key, value in state.items():
        size = value.numel() * value.element_size()
        head[key] = {
            "dtype": "F32",
            "shape": list(value.shape),
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(head).encode()
    numbers = b"".join(value.numpy().tobytes() for value in state.values())
    FILE.write_bytes(struct.pack("<Q", len(text)) + text + numbers)


STATE = cyclegan_generator(4, 1)
# How each is made, what it is, and the way out.
FOREIGN = {
    "protocol 4": (
        lambda: torch.save(STATE, FILE, pickle_protocol=4),
        ["protocol 4", "torch.save"],
    ),
    "protocol 5": (
        lambda: torch.save(STATE, FILE, pickle_protocol=5),
        ["protocol 5", "torch.save"],
    ),
    "protocol 4 without checksums": (
        lambda: without_checksums(STATE, pickle_protocol=4),
        ["protocol 4", "torch.save"],
    ),
    "protocol 0": (
        lambda: torch.save(STATE, FILE, pickle_protocol=0),
        ["protocol 0", "torch.save"],
    ),
    "protocol 4, before torch 1.6": (
        lambda: torch.save(STATE, FILE, pickle_protocol=4, _use_new_zipfile_serialization=False),
        ["protocol 4", "torch.save"],
    ),
    "a net": (
        lambda: torch.save(torch.nn.Linear(2, 2), FILE),
        ["torch.nn.modules.linear.Linear", "could run code", "state_dict"],
    ),
    "options of another project": (
        lambda: torch.save({"opt": Namespace(a=1), "state_dict": STATE}, FILE),
        ["argparse.Namespace", "could run code", "state_dict"],
    ),
    "NumPy's numbers": (
        lambda: torch.save({"epoch": np.float64(1), **STATE}, FILE),
        ["numpy", "could run code", "state_dict"],
    ),
    "TorchScript": (torchscript, ["TorchScript", "state_dict"]),
    "an exported program": (
        lambda: zip_of("x/archive_format", b"pt2"),
        ["zip archive", "torch.save"],
    ),
    "a zipped checkpoint": (lambda: zip_of("latest.pth", b"x"), ["latest.pth", "unpack"]),
    "NumPy's archive": (lambda: np.savez(FILE.open("wb"), a=np.ones(3)), ["NumPy", "torch.save"]),
    "NumPy's array": (lambda: np.save(FILE.open("wb"), np.ones(3)), ["NumPy", "torch.save"]),
    "a plain pickle": (
        lambda: FILE.write_bytes(pickle.dumps({"a": 1})),
        ["plain pickle", "torch.save"],
    ),
    "a tar archive": (tar, ["tar archive", "unpack"]),
    "gzip": (lambda: FILE.write_bytes(gzip.compress(bytes(100))), ["compressed", "unpack"]),
    "a pointer of Git LFS": (
        lambda: FILE.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        ["Git LFS", "git lfs pull"],
    ),
    "a web page": (
        lambda: FILE.write_bytes(b"\n<!DOCTYPE html><html>Sign in</html>"),
        ["web page", "download"],
    ),
    "Keras": (lambda: FILE.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), ["HDF5", "torch.save"]),
    "ONNX": (
        lambda: FILE.write_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x052.14." + bytes(99)),
        ["ONNX", "PyTorch"],
    ),
    "a compressed archive": (
        lambda: zip_of("archive/data.pkl", bytes(10**6), compression=zipfile.ZIP_DEFLATED),
        ["compressed", "torch.save"],
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_kind_is_told_by_its_kind_and_the_way_out(kind):
    make, words = FOREIGN[kind]
    make()
    line = line_of(direction="BtoA")
    for word in words:
        assert word in line, line


def test_newer_protocols_of_plain_tensors_that_torch_reads_are_read_in_silence(recwarn):
    torch.save(STATE, FILE, pickle_protocol=3)
    assert same(read_tensors(FILE), dict(STATE)) and not recwarn


def test_a_file_without_checksums_is_read_and_a_line_says_that_it_has_none(capsys):
    without_checksums(STATE)
    assert same(read_tensors(FILE), dict(STATE))
    said = capsys.readouterr().err
    assert said.startswith("x.pth: ") and "no checksums" in said and said.count("\n") == 1


def test_safetensors_are_read_where_the_package_is(monkeypatch):
    safetensors(STATE)
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "safetensors", None)
        context.setitem(sys.modules, "safetensors.torch", None)
        line = line_of(direction="BtoA")
        assert "safetensors" in line and "pip install safetensors" in line
    pytest.importorskip("safetensors", reason="optional: pip install safetensors")
    assert same(read_tensors(FILE), dict(STATE))
    model, _ = load_generators(FILE, [], 1, direction="BtoA")
    x = pictures(size=32)
    fake, _ = model.translate(x, "BtoA", and_back=False)
    assert (fake - cyclegan_forward(STATE, 1, x)).abs().max() < 1e-5
    FILE.write_bytes(FILE.read_bytes()[:-4])
    with pytest.raises(DamagedFile):
        read_tensors(FILE)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_both_generators_of_the_well_known_cyclegan_in_one_file_are_read(nested, prefix):
    nets = {"netG_A": cyclegan_generator(4, 2), "netG_B": cyclegan_generator(4, 2)}
    flat = {f"{n}.{prefix}{key}": x for n, net in nets.items() for key, x in net.items()}
    torch.save({prefix + n: net for n, net in nets.items()} if nested else flat, FILE)
    model, found = load_generators(FILE, [], 1)
    assert model.directions == ["AtoB", "BtoA"] and "pix2pix" in found.about
    x = pictures(size=32)
    for direction, net in (("AtoB", nets["netG_A"]), ("BtoA", nets["netG_B"])):
        fake, _ = model.translate(x, direction, and_back=False)
        assert (fake - cyclegan_forward(net, 2, x)).abs().max() < 1e-5


def test_both_generators_of_an_unknown_architecture_are_taken_for_nobodys():
    torch.save({f"{net}.down.0.weight": torch.ones(3) for net in ("netG_A", "netG_B")}, FILE)
    line = line_of()
    assert "netG_A" in line and "down.0.weight" in line and "anime_person" not in line


def keys(count):
    return {f"model.26.conv_block.{'x' * 500}.{i}.weight": torch.zeros(1) for i in range(count)}


@pytest.mark.parametrize("kind", ["too much", "lacks", "shapes", "original", "names"])
def test_a_misfit_is_one_line_of_at_most_300_characters(kind):
    state = cyclegan_generator(4, 9)
    if kind == "too much":
        state |= keys(1000)
    elif kind == "lacks":
        state = {key: x for key, x in state.items() if "conv_block.5" not in key}
    elif kind == "shapes":
        state = {key: x.flatten() if "conv_block" in key else x for key, x in state.items()}
    elif kind == "names":
        state = {"a" * 10**5: torch.zeros(1), "\x1b[2J" * 100: torch.zeros(1)}
    if kind == "original":
        original_file(
            FILE, 4, change=lambda s: s.update({f"netG_A.{k}": v for k, v in keys(99).items()})
        )
    else:
        torch.save(state, FILE)
    line_of(direction=None if kind == "original" else "AtoB")


def test_a_misfit_names_what_is_wrong():
    state = cyclegan_generator(4, 2)
    torch.save({**state, "model.4.weight": torch.zeros(5, 4, 3, 3)}, FILE)
    line = line_of(direction="AtoB")
    assert "model.4.weight" in line and "5x4x3x3" in line and "8x4x3x3" in line


def test_files_of_before_torch_1_6_and_every_plain_value_are_read():
    state = OrderedDict(
        w=torch.rand(7), h=torch.rand(3, 4).half().t(), b=torch.tensor([True]),
        o={"a": [1, (2.5, None)]}, p=torch.nn.Parameter(torch.rand(2)), empty=torch.empty(0, 3),
        deep=[[[]]],
    )  # fmt: skip
    state["shared"] = state["w"][2:]
    for new in (True, False):
        torch.save(state, FILE, _use_new_zipfile_serialization=new)
        assert same(read_tensors(FILE), dict(state))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    FILE.write_bytes(buffer.getvalue())
    assert same(read_tensors(FILE), dict(state))
