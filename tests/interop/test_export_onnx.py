"""export_onnx.py: the file alone translates as the model does."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from cyclegan_model import CycleGANModel
from interop import export_onnx
from networks import SaganGenerator
from storage.checkpoint import save_checkpoint


@pytest.fixture
def run(workplace, options):
    """The checkpoint of a run that has hardly begun."""
    model = CycleGANModel(options())
    state = {
        "options": vars(model.opt),
        "epoch": 0,
        "batch": 1,
        "totals": {},
        "model": model.state_dict(),
    }
    save_checkpoint(Path("model_ckpt/run/latest.pth"), state)
    return model


def packages():
    onnx = pytest.importorskip("onnx", reason="optional: pip install -r requirements-onnx.txt")
    onnxruntime = pytest.importorskip("onnxruntime", reason="optional, likewise")
    pytest.importorskip("onnxscript", reason="optional, likewise")
    return onnx, onnxruntime


def example_lines():
    """The example in the docstring of export_onnx.py, which docs/checkpoints.md shows too."""
    text = ast.get_docstring(ast.parse((ROOT / "export_onnx.py").read_text("utf-8")), clean=False)
    return "\n".join(re.findall(r"^    (?!pip|python)(.*)$", text, re.M))


def test_the_exported_file_tells_what_it_takes_and_translates_without_torch(run, script):
    onnx, onnxruntime = packages()
    done = script("export_onnx.py", "--name", "run", "--direction", "BtoA")
    assert done.code == 0, done.err
    assert "by at most" in done.out and "any multiple of 4" in done.out
    content = Path("person_to_anime.onnx").read_bytes()
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    for place in (str(ROOT), os.getcwd(), str(Path(torch.__file__).parent)):
        assert place.encode() not in content

    session = onnxruntime.InferenceSession(content)
    about = session.get_modelmeta().custom_metadata_map
    assert (about["direction"], about["from"], about["to"]) == ("BtoA", "person", "anime")
    assert (about["image_size"], about["size_step"]) == ("64", "4")
    assert about["layout"] == "NCHW, RGB" and about["value_range"] == "-1 to 1"
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    x = 2 * torch.rand(3, 3, 40, 92, generator=torch.Generator().manual_seed(0)) - 1
    expected, _ = run.translate(x, "BtoA")
    found = session.run(None, {"images": x.numpy()})[0]
    assert np.abs(found - expected.numpy()).max() < 1e-4

    Image.open("data/person/03.png").save("me.jpg", quality=95)
    code = "import sys; sys.modules['torch'] = None\n" + example_lines()
    subprocess.run([sys.executable, "-c", code], check=True)
    Image.open("me.jpg").save("me.png")  # whose translation is saved without loss, too
    flags = ("--input", "me.png", "--direction", "BtoA", "--output", "out", "--gpu_ids", "-1")
    assert script("test.py", *flags).code == 0
    ours, theirs = (np.array(Image.open(p)).astype(int) for p in ("out/me.png", "anime.png"))
    assert np.abs(ours - theirs).max() <= 1


def test_the_sagan_generator_is_exported_with_its_image_size_fixed():
    _, onnxruntime = packages()
    torch.manual_seed(0)
    net = SaganGenerator(4).eval()
    content = export_onnx.to_onnx(net, 64, None).SerializeToString()
    assert export_onnx.compare(onnxruntime, content, net, 64, None) < 1e-4
    shape = onnxruntime.InferenceSession(content).get_inputs()[0].shape
    assert shape == ["batch", 3, 64, 64]


def test_a_file_whose_outputs_differ_is_not_written(run, monkeypatch, capsys):
    onnx, _ = packages()
    monkeypatch.setattr(export_onnx, "to_onnx", lambda *args: onnx.ModelProto())
    monkeypatch.setattr(export_onnx, "compare", lambda *args: float("nan"))
    monkeypatch.setattr(sys, "argv", ["export_onnx.py", "--direction", "AtoB"])
    with pytest.raises(SystemExit):
        export_onnx.main()
    assert "nothing was written" in capsys.readouterr().err
    assert not Path("anime_to_person.onnx").exists()


@pytest.mark.parametrize("flags", [(), ("--output", "mine.onnx")])
def test_a_file_that_is_there_is_replaced_only_when_asked(run, script, flags):
    packages()
    path = Path(flags[-1] if flags else "person_to_anime.onnx")
    path.write_bytes(b"mine")
    command = ("export_onnx.py", "--name", "run", "--direction", "BtoA", *flags)
    done = script(*command)
    assert done.code == 2 and done.err.count("\n") == 1, done.err
    assert str(path) in done.err and "--overwrite" in done.err and path.read_bytes() == b"mine"
    assert script(*command, "--overwrite").code == 0
    assert path.read_bytes() != b"mine"


def test_the_direction_must_be_named_where_there_are_two(run, script):
    packages()
    done = script("export_onnx.py")
    assert done.code == 2 and "--direction" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_one_line_that_says_how_to_install_it(
    run, script, monkeypatch, package
):
    monkeypatch.setitem(sys.modules, package, None)
    done = script("export_onnx.py", "--direction", "AtoB")
    assert done.code == 2 and "pip install -r requirements-onnx.txt" in done.err
    assert done.err.count("\n") == 1
