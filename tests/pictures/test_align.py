"""Aligning faces by their eyes, where the answer is known by algebra."""

import json
import math
import runpy

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from common.errors import UserError
from pictures.align import (
    ANIME_EYES,
    PERSON_EYES,
    EyeTable,
    Selection,
    align,
    read_eyes,
    tilt_of,
    why_unclear,
)

HOME = tuple(x * 64 for eye in ANIME_EYES for x in eye)  # eyes that are where they should be


def dots(size, *places):
    """A grey picture with a soft white dot at each place (x, y)."""
    x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    grey = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / (size / 32) ** 2) for a, b in places)
    return Image.fromarray((255 * np.clip(grey, 0, 1)).astype(np.uint8)).convert("RGB")


def centre(pixels, left):
    """Where the dot is in the left or the right half."""
    grey = pixels[..., 0].astype(float)
    grey[:, 32:] *= not left
    grey[:, :32] *= left
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    return (grey * x).sum() / grey.sum(), (grey * y).sum() / grey.sum()


@pytest.mark.parametrize("size", [64, 96, 300])
@pytest.mark.parametrize("tilt", [-14, 0, 9])
def test_eyes_come_to_their_places_from_any_size_and_tilt(size, tilt):
    half = 0.2 * size
    across, down = half * math.cos(math.radians(tilt)), half * math.sin(math.radians(tilt))
    x, y = 0.52 * size, 0.45 * size
    eyes = (x - across, y - down, x + across, y + down)
    assert tilt_of(eyes) == pytest.approx(tilt)
    aligned, _ = align(dots(size, eyes[:2], eyes[2:]), eyes, 64)
    assert centre(aligned, True) == pytest.approx(HOME[:2], abs=0.3)
    assert centre(aligned, False) == pytest.approx(HOME[2:], abs=0.3)


def test_a_face_whose_eyes_are_in_place_is_left_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    aligned, missing = align(Image.fromarray(pixels), HOME, 64)
    assert np.array_equal(aligned, pixels) and missing == 0


def test_what_lies_outside_repeats_the_edge_and_is_told_as_a_share():
    pixels = np.full((64, 64, 3), 40, np.uint8)
    pixels[:, 0] = 200
    moved = (HOME[0] - 16, HOME[1], HOME[2] - 16, HOME[3])  # the face is 16 too far left
    aligned, missing = align(Image.fromarray(pixels), moved, 64)
    assert (aligned[:, :16] == 200).all() and (aligned[:, 18:] == 40).all()
    assert missing == pytest.approx(16 / 64, abs=0.03)
    assert "outside" in why_unclear(aligned, missing, Selection())


def test_both_eyes_in_one_place_cannot_be_aligned():
    with pytest.raises(ValueError, match="one place"):
        align(Image.new("RGB", (64, 64)), (9, 9, 9, 9), 64)


def test_the_rule_names_why_a_face_is_left_out():
    def why(eyes, likelihood=1.0, pixels=None):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        image = Image.fromarray(noise if pixels is None else pixels)
        table = EyeTable({"a": (eyes, likelihood)}, ANIME_EYES, Selection())
        assert table.cut("b.png", image, 64) == (None, "no eyes in the table")
        return table.cut("x/a.png", image, 64)[1]

    assert why(HOME) == ""
    assert "likelihood" in why(HOME, 0.98)
    assert "tilted: by 45" in why((20, 20, 40, 40))
    assert "small" in why((30, 30, 40, 30))
    assert "blurred" in why(HOME, pixels=np.full((64, 64, 3), 9, np.uint8))
    noise = np.random.default_rng(0).integers(100, 130, (64, 64, 3), dtype=np.uint8)
    assert "washed out" in why_unclear(noise, 0, Selection(sharpness=0.01))


def test_both_kinds_of_tables_are_read():
    ours = "name,likelihood,eye1_x,eye1_y,eye2_x,eye2_y\na/b.webp,0.9,1,2,3,4\nc.png,,,,,\n"
    assert read_eyes("t", ours).rows == {"b": ((1, 2, 3, 4), 0.9)}
    celeba = "1\nlefteye_x lefteye_y righteye_x righteye_y nose_x\n000001.jpg 69 109 106  113 77\n"
    kaggle = "image_id,lefteye_x,lefteye_y,righteye_x,righteye_y\n000001.jpg,69,109,106,113\n"
    for text in (celeba, kaggle):
        table = read_eyes("t", text)
        assert table.rows == {"000001": ((69, 109, 106, 113), 1.0)}
        assert table.target == PERSON_EYES


@pytest.mark.parametrize("text", ["", "name,x\na,1", "name,eye1_x,eye1_y,eye2_x,eye2_y\na,1,2,x,4"])
def test_another_table_is_refused_in_one_line(text):
    with pytest.raises(UserError, match="--eyes t"):
        read_eyes("t", text)


def test_prepare_data_aligns_by_a_table_and_says_whom_it_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "raw").mkdir()
    for name in ("good", "tilted", "unknown"):
        Image.fromarray(noise).save(tmp_path / "raw" / f"{name}.png")
        noise = noise[::-1].copy()
    head, home = "name,eye1_x,eye1_y,eye2_x,eye2_y\n", ",".join(map(str, HOME))
    (tmp_path / "eyes.csv").write_text(f"{head}good.png,{home}\ntilted.png,20,20,40,40\n")
    prepare = ["prepare_data.py", "--source", "raw", "--output", "out", "--eyes", "eyes.csv"]
    monkeypatch.setattr("sys.argv", prepare)
    runpy.run_path(str(ROOT / "prepare_data.py"), run_name="__main__")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.png", "report.json"]
    made = np.asarray(Image.open(tmp_path / "out" / "good.png"))
    assert np.array_equal(made, np.asarray(Image.open(tmp_path / "raw" / "good.png")))
    left_out = json.loads((tmp_path / "out" / "report.json").read_text())["left_out"]
    assert {name: why[0].split()[0] for name, why in left_out.items()} == {
        "tilted.png": "tilted:",
        "unknown.png": "no",
    }
    for flags in (("--crop", "center"), ("--min_size", "9"), ("--detect_faces",)):
        monkeypatch.setattr("sys.argv", [*prepare, *flags])
        with pytest.raises(SystemExit):
            runpy.run_path(str(ROOT / "prepare_data.py"), run_name="__main__")
        assert "--eyes" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", prepare)
    (tmp_path / "eyes.csv").write_text(head + f"good.png,{home}\n")  # another table, another folder
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "prepare_data.py"), run_name="__main__")
    assert "--eyes" in capsys.readouterr().err
