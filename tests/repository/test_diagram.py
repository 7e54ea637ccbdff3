"""docs/model.svg is what docs/diagram.py draws of the nets as they are."""

import runpy
import xml.etree.ElementTree as ET

import pytest
from conftest import ROOT

from networks import build_discriminator, build_generator


@pytest.fixture(scope="module")
def diagram():
    return runpy.run_path(str(ROOT / "docs/diagram.py"))


def test_the_picture_in_the_repository_is_the_one_that_the_script_draws(diagram):
    drawn = diagram["draw"]()
    assert (ROOT / "docs/model.svg").read_text("utf-8") == drawn, "run python docs/diagram.py"
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")


def test_layers_come_in_order_with_what_they_give(diagram, options):
    opt = options(ngf=8, n_blocks=3, ndf=4)
    assert diagram["layers_of"](build_generator(opt), 64) == [
        ("conv 7x7", 8, 64),
        ("conv 3x3 down", 16, 32),
        ("conv 3x3 down", 32, 16),
        ("3 residual blocks", 32, 16),
        ("conv 3x3 up", 16, 32),
        ("conv 3x3 up", 8, 64),
        ("conv 7x7", 3, 64),
    ]
    assert diagram["layers_of"](build_discriminator(opt), 64) == [
        ("conv 4x4 down", 4, 32),
        ("conv 4x4 down", 8, 16),
        ("conv 4x4 down", 16, 8),
        ("self-attention", 16, 8),
        ("conv 4x4 down", 32, 4),
        ("self-attention", 32, 4),
        ("conv 4x4", 1, 1),
    ]
