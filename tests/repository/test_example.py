"""docs/example.py: a random sample of generated tiles, and nothing else."""

import shutil

import numpy as np
from conftest import ROOT
from PIL import Image

SCRIPT = ROOT / "docs/example.py"
FOLDERS = ("--domain_A_path", "data/anime", "--domain_B_path", "data/person")


def test_the_sample_hangs_on_its_seed_and_shows_no_input(workplace, script):
    grids = {}
    for name, seed in (("a", 0), ("again", 0), ("b", 1)):
        done = script(SCRIPT, *FOLDERS, "--count", 3, "--seed", seed, "--output", f"{name}.png")
        assert done.code == 0, done.err
        grids[name] = np.asarray(Image.open(f"{name}.png"))
    assert grids["a"].shape[:2] == (4 * 66 + 2, 3 * 66 + 2)
    assert (grids["a"] == grids["again"]).all() and (grids["a"] != grids["b"]).any()

    tiles = [grids["a"][y : y + 64, x : x + 64] for y in range(2, 264, 66) for x in (2, 68, 134)]
    for path in workplace.glob("data/*/*.png"):
        image = np.asarray(Image.open(path), int)
        assert min(np.abs(image - tile).mean() for tile in tiles) > 2, path


def test_faces_for_others_to_try_are_those_of_the_grid_mirrored(workplace, script):
    assert script(SCRIPT, *FOLDERS, "--count", 3, "--output", "grid.png").code == 0
    done = script(SCRIPT, *FOLDERS, "--count", 3, "--inputs", "faces")
    assert done.code == 0, done.err
    grid = np.asarray(Image.open("grid.png"), int)
    for domain, y in (("anime", 2), ("person", 134)):
        for number, x in enumerate((2, 68, 134), 1):
            face = np.asarray(Image.open(f"faces/{domain}/{number:02}.png"), int)
            assert np.abs(face[:, ::-1] - grid[y : y + 64, x : x + 64]).max() <= 1


def test_an_empty_folder_is_named(workplace, script):
    shutil.rmtree("data/person")
    done = script(SCRIPT, *FOLDERS)
    assert done.code == 2 and "--domain_B_path" in done.err
