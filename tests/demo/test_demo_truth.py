"""Rules of the demo's truth: read what is drawn, whatever its texture, and nothing else."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from demo.drawing import STYLES, draw_face
from demo.factors import Factors, sample_factors
from demo.truth import (
    COLOURS,
    FACTORS,
    SHAPES,
    _changed,
    _value,
    factor_agreement,
    hair_agreement,
    pixel_error,
    truth_table,
)

CHANCE = {name: 1 / len(values) for name, values in {**COLOURS, **SHAPES}.items()}
PEOPLE = 32
# What is in the face is not looked for where a turn has put it; a fringe shades or hides the skin.
ENTANGLED = {("turn", "eye_colour"), ("turn", "mouth"), ("turn", "glasses"), ("fringe", "skin")}


@cache
def people() -> list[Factors]:
    generator = torch.Generator().manual_seed(5)
    return [sample_factors(generator) for _ in range(PEOPLE)]


def drawings(factors: list[Factors], style: str) -> np.ndarray:
    """True drawings (N, 64, 64, 3), with textures that the reader never draws."""
    faces = [draw_face(one, style, texture_seed=1000 + i) for i, one in enumerate(factors)]
    return np.stack([np.asarray(face) for face in faces])


@cache
def true_result(style: str) -> dict[str, dict[str, float]]:
    return factor_agreement(drawings(people(), style), people(), style)


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("style", STYLES)
def test_every_factor_is_read_from_true_drawings_whatever_their_texture(style, name):
    result = true_result(style)[name]
    assert result["agreement"] >= 0.95
    assert result["oracle"] >= 0.95


@pytest.mark.parametrize("style", STYLES)
def test_hair_read_alone_is_the_same_figure(style):
    hair = true_result(style)["hair_colour"]
    found = hair_agreement(drawings(people(), style), people(), style)
    assert found == (hair["agreement"], hair["shuffled"])


@pytest.mark.parametrize("style", STYLES)
def test_pictures_of_other_faces_agree_by_chance(style):
    for name, result in true_result(style).items():
        assert abs(result["shuffled"] - CHANCE[name]) < 0.15, name


@pytest.mark.parametrize("style", STYLES)
def test_one_picture_for_all_faces_gets_exactly_the_chance_of_each_factor(style):
    grey = np.full((PEOPLE, 64, 64, 3), 128, np.uint8)
    for name, result in factor_agreement(grey, people(), style).items():
        assert result["agreement"] == pytest.approx(CHANCE[name]), name


@pytest.mark.parametrize("style", STYLES)
def test_noise_shows_nothing(style):
    noise = np.random.default_rng(0).integers(0, 256, (PEOPLE, 64, 64, 3), np.uint8)
    for name, result in factor_agreement(noise, people(), style).items():
        assert result["agreement"] < CHANCE[name] + 0.2, name


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("style", STYLES)
def test_a_factor_changed_in_the_pictures_disagrees_alone(style, name):
    values = round(1 / CHANCE[name])
    others = [_changed(one, name, (_value(one, name) + 1) % values) for one in people()]
    for read, result in factor_agreement(drawings(others, style), people(), style).items():
        if read == name:
            assert result["agreement"] <= 0.05
        elif (name, read) not in ENTANGLED:
            assert result["agreement"] >= 0.8, read


@pytest.mark.parametrize("style", STYLES)
def test_shapes_are_read_from_soft_pictures_in_wrong_colours(style):
    soft = [
        np.asarray(Image.fromarray(one).filter(ImageFilter.GaussianBlur(1)))
        for one in drawings(people(), style)
    ]
    result = factor_agreement(np.stack(soft)[..., [2, 0, 1]] // 2 + 60, people(), style)
    for name in SHAPES:
        assert result[name]["agreement"] >= 0.8, name


def test_turns_stay_in_range_and_keep_their_place_within_the_third():
    for one in people():
        turns = [_changed(one, "turn", value).turn for value in range(3)]
        assert -1 <= turns[0] < turns[1] < turns[2] <= 1
        assert [_value(_changed(one, "turn", value), "turn") for value in range(3)] == [0, 1, 2]
        assert turns[_value(one, "turn")] == one.turn


@pytest.mark.parametrize("style", STYLES)
def test_the_pixel_error_of_true_drawings_is_their_texture_and_that_of_others_large(style):
    result = pixel_error(drawings(people(), style), people(), style)
    assert result["error"] == pytest.approx(result["oracle"], abs=0.005)
    assert result["error"] < 0.25 * result["shuffled"]
    assert style == "person" or result["error"] == 0


def test_the_table_has_one_row_per_factor_and_one_for_the_pixels():
    table = truth_table(drawings(people(), "anime"), people(), "anime").splitlines()
    assert len(table) == 2 + len(FACTORS) + 1
    assert table[2].startswith("| hair colour | 1.00 |")
    assert {line.count("|") for line in table} == {5}


@pytest.mark.parametrize("measure", [factor_agreement, pixel_error])
def test_unknown_styles_unequal_numbers_and_oblong_images_are_refused(measure):
    with pytest.raises(ValueError, match="style 'manga'"):
        measure(np.zeros((2, 64, 64, 3), np.uint8), people()[:2], "manga")
    with pytest.raises(ValueError, match="2 images, 3 factors"):
        measure(np.zeros((2, 64, 64, 3), np.uint8), people()[:3], "anime")
    with pytest.raises(ValueError, match=r"\(N, H, H, 3\)"):
        measure(np.zeros((2, 64, 48, 3), np.uint8), people()[:2], "anime")
