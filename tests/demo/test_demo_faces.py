"""Rules of the procedural demo faces: repeatable, paired by factors, readable, safe on disk."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from demo import factors as factors_of
from demo import make as demo_faces
from demo.make import STYLES, Factors, draw_face, load_pairs, make_demo
from storage.files import atomic_write

PLAIN = Factors(0, 0, 0, 0, "fair", "brown", "medium", "side", "blue", "neutral", "sand", False)


def sampled(count: int, seed: int = 0) -> list[Factors]:
    generator = torch.Generator().manual_seed(seed)
    return [demo_faces.sample_factors(generator) for _ in range(count)]


def pixels(factors: Factors, style: str, **options: int) -> np.ndarray:
    """One drawing as (H, W, 3) float."""
    return np.asarray(draw_face(factors, style, **options), float)


def files(folder) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_same_seed_writes_the_same_bits_and_another_seed_other_faces(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_demo(tmp_path / name, seed, count=3, test_count=2, image_size=32)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a)


def test_sampling_does_not_touch_the_global_generator():
    before = torch.get_rng_state()
    assert sampled(3) == sampled(3) != sampled(3, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_the_two_styles_of_a_face_differ_more_than_two_textures_of_it():
    for one in sampled(10):
        person = pixels(one, "person", texture_seed=0)
        styles = np.abs(person - pixels(one, "anime")).mean()
        textures = np.abs(person - pixels(one, "person", texture_seed=1)).mean()
        assert styles > 25 > 1.5 * textures > 0


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "change",
    [
        {"head_width": 1.0},
        {"head_height": 1.0},
        {"turn": 1.0},
        {"tilt": 8.0},
        {"skin": "dark"},
        {"hair_colour": "blue"},
        {"hair_length": "long"},
        {"fringe": "straight"},
        {"eye_colour": "green"},
        {"mouth": "open"},
        {"background": "rose"},
        {"glasses": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_factor_changes_the_picture(style, change):
    difference = np.abs(pixels(PLAIN, style) - pixels(replace(PLAIN, **change), style))
    assert (difference.max(axis=2) > 12).sum() >= 12


def test_every_value_of_every_palette_is_drawn_in_its_own_colours():
    palettes = {
        "skin": factors_of.SKIN,
        "hair_colour": factors_of.HAIR,
        "eye_colour": factors_of.EYES,
        "background": factors_of.BACKGROUND,
    }
    for style in STYLES:
        for factor, palette in palettes.items():
            drawn = {
                draw_face(replace(PLAIN, **{factor: name}), style).tobytes() for name in palette
            }
            assert len(drawn) == len(palette)


@pytest.mark.parametrize("style", STYLES)
def test_other_image_sizes_show_the_same_face(style):
    assert pixels(PLAIN, style, image_size=48).shape == (48, 48, 3)
    large = np.asarray(draw_face(PLAIN, style, 128).reduce(2), float)
    assert np.abs(large - pixels(PLAIN, style)).mean() < 6


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="photo"):
        draw_face(PLAIN, "photo")


@pytest.fixture
def demo(tmp_path):
    """A small finished set."""
    make_demo(tmp_path / "demo", count=4, test_count=2, image_size=32)
    return tmp_path / "demo"


def test_the_set_has_unpaired_domains_and_true_test_pairs(demo):
    pairs = load_pairs(demo)
    assert len(pairs) == 2
    for style in STYLES:
        assert sorted(path.name for path in (demo / style).iterdir())[-1] == "00003.png"
        with Image.open(demo / "test" / style / "00001.png") as image:
            drawn = draw_face(pairs[1], style, 32, texture_seed=3 * 1 + 2)
            assert (image.mode, image.tobytes()) == ("RGB", drawn.tobytes())


def test_pairs_are_those_of_the_pictures_names_and_what_is_left_over_is_refused(demo):
    first, second = load_pairs(demo)
    assert load_pairs(demo, ["00001.png", "00000.png"]) == [second, first]
    assert load_pairs(demo, ["00000.png"], count=1) == [first]
    for names, word in (
        (["00001.png"], "00000.png"),
        (["00000.png"], "00001.png"),
        (["00000.png", "00001.png", "00002.png"], "00002.png"),
        (["00000.png", "me.png", "00001.png"], "me.png"),
    ):
        with pytest.raises(UserError, match=f"{word}.*; remove .*demo"):
            load_pairs(demo, names)


def test_training_domains_and_test_pairs_share_no_factors(monkeypatch, tmp_path):
    drawn = []

    def note(factors, style, image_size, texture_seed):
        drawn.append(factors)
        return Image.new("RGB", (image_size, image_size))

    monkeypatch.setattr(demo_faces, "draw_face", note)
    make_demo(tmp_path, count=50, test_count=10)
    anime, person, test, again = drawn[:50], drawn[50:100], drawn[100:110], drawn[110:]
    assert test == again == load_pairs(tmp_path)
    assert len(set(anime + person + test)) == 110


def test_a_finished_set_is_left_alone_and_other_settings_replace_it(demo):
    picture = demo / "anime" / "00000.png"
    picture.write_bytes(b"")
    make_demo(demo, count=4, test_count=2, image_size=32)
    assert picture.read_bytes() == b""
    make_demo(demo, count=3, test_count=2, image_size=32)
    assert picture.read_bytes() != b""
    assert not (demo / "anime" / "00003.png").exists()
    assert json.loads((demo / "demo.json").read_text())["count"] == 3


def test_an_interrupted_drawing_is_redrawn(demo, monkeypatch):
    whole = files(demo)
    (demo / "demo.json").unlink()
    (demo / "person" / "00002.png").write_bytes(b"")
    (demo / "anime" / "00009.png").write_bytes(whole["anime/00000.png"])

    def interrupted(path, durable=True):
        return atomic_write(path, durable) if path.suffix == ".png" else 1 / 0

    monkeypatch.setattr(demo_faces, "atomic_write", interrupted)
    with pytest.raises(ZeroDivisionError):
        make_demo(demo, count=4, test_count=2, image_size=32)
    assert not (demo / "demo.json").exists()
    monkeypatch.undo()
    make_demo(demo, count=4, test_count=2, image_size=32)
    assert files(demo) == whole


def test_pictures_of_someone_else_are_never_overwritten(demo):
    own = demo / "person" / "00001.png"
    Image.new("RGB", (32, 32)).save(own)
    before = files(demo)
    with pytest.raises(UserError, match="00001.png"):
        make_demo(demo, seed=1, count=4, test_count=2, image_size=32)
    before.pop("demo.json")
    assert files(demo) == before


def test_a_folder_that_cannot_be_written_or_read_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file"):
        make_demo(tmp_path / "file", count=1, test_count=1)
    with pytest.raises(UserError, match="factors.json"):
        load_pairs(tmp_path)


def test_the_preview_holds_both_styles_of_the_same_faces(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["demo/make.py", "--preview", str(tmp_path / "grid.png")])
    demo_faces.main()
    with Image.open(tmp_path / "grid.png") as grid:
        first = grid.crop((0, 64, 64, 128))
    assert first.tobytes() == draw_face(sampled(1)[0], "anime").tobytes()
