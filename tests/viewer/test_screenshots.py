"""docs/screenshots.py: both pages are photographed, at desktop and phone width."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_gallery import make_run

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
SCRIPT = ROOT / "docs/screenshots.py"
BROWSERS = runpy.run_path(str(SCRIPT))["BROWSERS"]
pytestmark = pytest.mark.skipif(not any(map(shutil.which, BROWSERS)),
                                reason="there is no Chromium on this machine")  # fmt: skip


@pytest.mark.parametrize("width", [1100, 375])
def test_both_pages_are_photographed(tmp_path, monkeypatch, script, width):
    monkeypatch.chdir(tmp_path)
    make_run(Path("save_image/run"))
    done = script(SCRIPT, "--name", "run", "--width", width, "--output", "out")
    assert done.code == 0, done.err
    for name in ("page", "gallery"):
        with Image.open(f"out/{name}.webp") as shot:
            assert shot.width == width
            assert np.asarray(shot).std() > 20  # neither blank nor a line of text alone


def test_a_run_that_is_not_there_is_named(tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    done = script(SCRIPT, "--name", "none", "--output", "out")
    assert done.code == 2 and "--name none" in done.err


@pytest.mark.parametrize("name", ["page", "gallery"])
def test_those_of_readme_are_small(name):
    assert (ROOT / f"docs/{name}.webp").stat().st_size < 300_000
