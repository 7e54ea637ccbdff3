"""benchmarks/blind.py: tiles that tell nothing of their source, and counts known by algebra."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import blind
from common.errors import UserError


def folder(path, shade, count=9):
    path.mkdir()
    for i in range(count):
        Image.fromarray(np.full((64, 64, 3), shade + i, np.uint8)).save(path / f"{i}.png")
    return path


def options(tmp_path, *more):
    real, fake = tmp_path / "real", tmp_path / "fake"
    if not real.is_dir():
        folder(real, 200), folder(fake, 20)
    return blind.main_parser().parse_args(
        ["sheets", "--real", str(real), "--source", f"ours={fake}", "--each", "9"]
        + ["--output", str(tmp_path / "out"), "--key", str(tmp_path / "key.json"), *more]
    )


def shades(tmp_path):
    """The tiles' grey values in order, read off the sheets."""
    found = []
    for sheet in sorted((tmp_path / "out").iterdir()):
        pixels = np.asarray(Image.open(sheet))
        for place in range(blind.COLUMNS * blind.ROWS):
            x = place % blind.COLUMNS * (blind.SHOWN + 8) + 4
            y = place // blind.COLUMNS * (blind.SHOWN + blind.MARGIN + 4) + blind.MARGIN
            if y < len(pixels) and (pixels[y : y + blind.SHOWN, x : x + blind.SHOWN] != 255).all():
                found.append(int(pixels[y + 96, x + 96, 0]))
    return found


def test_the_key_names_the_source_of_every_tile(tmp_path):
    blind.write_sheets(options(tmp_path))
    key = json.loads((tmp_path / "key.json").read_text())
    assert ["real" if shade >= 200 else "ours" for shade in shades(tmp_path)] == key
    assert key != sorted(key) and key.count("real") == key.count("ours") == 9


def test_clipping_doubles_the_contrast_of_the_named_source_alone(tmp_path):
    blind.write_sheets(options(tmp_path, "--clip", "ours"))
    assert sorted(set(shades(tmp_path))) == [0, *range(200, 209)]


def test_a_sheet_of_tiles_is_a_source(tmp_path):
    sheet = np.repeat(np.repeat(np.arange(6, dtype=np.uint8).reshape(2, 3), 64, 0), 64, 1)
    Image.fromarray(sheet).save(tmp_path / "sheet.png")
    tiles = blind.draw_tiles(tmp_path / "sheet.png", "--real", 6, blind.derived_generator(0))
    assert sorted(int(tile.mean()) for tile in tiles) == list(range(6))


def test_a_key_beside_the_sheets_is_refused(tmp_path):
    with pytest.raises(UserError, match="--key"):
        blind.write_sheets(options(tmp_path, "--key", str(tmp_path / "out" / "key.json")))
    assert not (tmp_path / "out").exists()


def test_shares_intervals_and_agreement_are_those_of_the_labels():
    key = ["real", "real", "a", "a", "a", "a"]
    one = [{"whole"}, {"whole"}, {"whole"}, {"eye"}, {"eye", "broken"}, {"broken"}]
    row = {r["source"]: r for r in blind.score(key, {"one": one})}["a"]
    assert (row["whole"], row["of_real"], row["eye"], row["broken"]) == (0.25, 0.25, 0.5, 0.5)
    low, high = row["interval"]  # of 1 in 4: a published example
    assert (low, high) == (pytest.approx(0.0456, abs=1e-4), pytest.approx(0.6994, abs=1e-4))
    assert blind.kappa([True, False] * 4, [True, False] * 4) == 1
    assert blind.kappa([True, True, False, False], [True, False, True, False]) == 0


@pytest.mark.parametrize(
    "text", ["1 whole", "1 whole\n2 fine", "1 whole\n2 whole eye", "1 eye\n1 eye"]
)
def test_labels_that_miss_or_double_a_tile_are_refused(tmp_path, text):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(UserError, match="labels.txt"):
        blind.read_labels(tmp_path / "labels.txt", 2)
