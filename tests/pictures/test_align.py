"""Aligning faces by their eyes, where the answer is known by algebra."""

import math

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from pictures.align import (
    ANIME_EYES,
    Selection,
    align,
    read_eyes,
    tilt_of,
    why_left_out,
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
    rule = Selection()
    assert why_left_out(HOME, 1.0, 64, rule) is None
    assert "likelihood" in why_left_out(HOME, 0.98, 64, rule)
    assert "tilted by 45" in why_left_out((20, 20, 40, 40), 1.0, 64, rule)
    assert "small" in why_left_out((30, 30, 40, 30), 1.0, 64, rule)
    assert "blurred" in why_unclear(np.full((64, 64, 3), 9, np.uint8), 0, rule)
    noise = np.random.default_rng(0).integers(100, 130, (64, 64, 3), dtype=np.uint8)
    assert "washed out" in why_unclear(noise, 0, Selection(sharpness=0.01))


def test_both_kinds_of_tables_are_read():
    ours = "name,likelihood,eye1_x,eye1_y,eye2_x,eye2_y\na/b.webp,0.9,1,2,3,4\nc.png,,,,,\n"
    assert read_eyes("t", ours) == {"b": ((1, 2, 3, 4), 0.9)}
    celeba = "1\nlefteye_x lefteye_y righteye_x righteye_y nose_x\n000001.jpg 69 109 106  113 77\n"
    assert read_eyes("t", celeba) == {"000001": ((69, 109, 106, 113), 1.0)}
    kaggle = "image_id,lefteye_x,lefteye_y,righteye_x,righteye_y\n000001.jpg,69,109,106,113\n"
    assert read_eyes("t", kaggle) == {"000001": ((69, 109, 106, 113), 1.0)}


@pytest.mark.parametrize("text", ["", "name,x\na,1", "name,eye1_x,eye1_y,eye2_x,eye2_y\na,1,2,x,4"])
def test_another_table_is_refused_in_one_line(text):
    with pytest.raises(UserError, match="--eyes t"):
        read_eyes("t", text)
