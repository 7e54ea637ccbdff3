"""FD grows with damage: on drawn faces, and on faces64 where it is at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from benchmarks.instrument import DAMAGES, drawn, grows, measure
from common.tensors import to_float
from evaluation.features import embed, load_features
from evaluation.frechet import floor, frechet_distance

FACES = ROOT.parent / "shared" / "faces64"


@pytest.fixture(scope="module")
def net():
    return load_features()


def measured(net, faces):
    return {
        "anime": measure(net, faces["anime"], faces["person"]),
        "person": measure(net, faces["person"], faces["anime"]),
    }


@pytest.fixture(scope="module")
def on_drawings(net):
    faces = drawn(200)
    return measured(net, faces)


@pytest.mark.parametrize("domain", ["anime", "person"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_fd_of_drawn_faces_grows_with_every_damage(on_drawings, damage, domain):
    assert grows(on_drawings[domain][damage]), on_drawings[domain][damage]


def read(name: str) -> torch.Tensor:
    """All images of one of faces64's archives, float (N, 3, 64, 64)."""
    import io
    import zipfile

    from PIL import Image

    with zipfile.ZipFile(FACES / name) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".webp"))
        pixels = [np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names]
    return to_float(torch.from_numpy(np.stack(pixels)))


@pytest.fixture(scope="module")
def real():
    if not (FACES / "anime_test.zip").is_file():
        pytest.skip(f"faces64 is not here: {Path('../shared/faces64')} beside the checkout")
    return {domain: read(f"{domain}_test.zip") for domain in ("anime", "person")}


@pytest.fixture(scope="module")
def on_faces(net, real):
    return measured(net, real)


@pytest.mark.parametrize("domain", ["anime", "person"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_fd_of_real_faces_grows_with_every_damage(on_faces, damage, domain):
    assert grows(on_faces[domain][damage]), on_faces[domain][damage]


@pytest.mark.parametrize("domain", ["anime", "person"])
def test_real_faces_against_others_stay_at_the_floor(net, real, domain):
    rows = embed(net, real[domain])
    half = frechet_distance(rows[::2], rows[1::2])
    assert half == pytest.approx(2 * floor(rows, 0)["fd"], rel=0.25)
