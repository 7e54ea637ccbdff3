"""benchmarks/curve.py and the two comparisons on it, with tiny nets on twelve pictures."""

import json
import sys
from itertools import islice
from pathlib import Path

import pytest

import benchmarks.curve as engine
import benchmarks.recipe as recipe
import benchmarks.time_to_quality as race
from arguments import train_options
from benchmarks.modes import Data
from common.errors import UserError

TINY = (
    "--ngf 4 --ndf 4 --n_blocks 1 --batch_size 2 --generator resnet8 --pool_size 4 --amp off "
    "--warm_steps 0 --shift 0"
)
FOLDERS = (
    "--domain_A_path data/anime --domain_B_path data/person --test_A_path data/anime "
    "--test_B_path data/person"
)


@pytest.fixture
def begin(workplace, data_options):
    """Makes a Curve of tiny nets that measures every 8 pairs, in the folder of that name."""
    data = Data(data_options)
    test = engine.TestImages(data)

    def make(name, flags=TINY, every=8):
        return engine.Curve(Path("out", name), flags, data, test, 0, every)

    return make


def measured(points):
    return [{key: value for key, value in point.items() if key != "minutes"} for point in points]


@pytest.mark.parametrize("flags", [TINY, f"{TINY} --warm_steps 3 --shift 2"])
def test_an_interrupted_run_has_the_points_of_an_unbroken_one(begin, monkeypatch, flags):
    unbroken = list(islice(begin("unbroken", flags).run(), 3))
    assert [point["pairs"] for point in unbroken] == [8, 16, 24]

    monkeypatch.setattr(engine, "BLOCK", 1)
    monkeypatch.setattr(engine, "SAVE_SECONDS", 0)  # so that it also stops between two points
    broken = begin("broken", flags)
    assert list(broken.run(stop=lambda: broken.pairs == 12)) == broken.points
    assert broken.pairs == 12
    again = begin("broken", flags)
    assert again.pairs == 12 and again.seconds >= broken.points[0]["minutes"] * 60
    assert measured(islice(again.run(), 3)) == measured(unbroken)


def test_a_kept_run_goes_on_with_another_spacing(begin):
    list(islice(begin("mine").run(), 2))
    assert [point["pairs"] for point in islice(begin("mine", every=4).run(), 4)] == [8, 16, 20, 24]


def test_a_folder_of_another_run_is_refused(begin):
    next(begin("mine").run())
    with pytest.raises(UserError, match="whose flags was .* use another --work"):
        begin("mine", f"{TINY} --lr_G 1e-3")


def test_each_point_leaves_a_picture_of_each_direction(begin):
    next(begin("mine").run())
    assert {p.name for p in Path("out/mine").glob("*.png")} == {
        "0000008_anime.png",
        "0000008_person.png",
    }


def test_real_images_score_the_floor_and_inputs_themselves_are_all_found(begin):
    bounds = begin("mine").test.bounds()
    inputs = bounds["inputs, untranslated"]["anime"]
    assert inputs["top5"] == 1 and inputs["fd"] > 0
    assert bounds["real images"]["anime"]["fd"] >= 0


def point(minutes, fd, pairs=0):
    one = {"fd": fd, "top5": 0.5, "near_duplicates": 0.01}
    return {"pairs": pairs, "minutes": minutes, "anime": one, "person": one}


def test_between_two_measurements_a_run_is_on_the_line_between_them():
    points = [point(1, 100.0, 10), point(3, 50.0, 30)]
    assert engine.at(points, 2)["anime"]["fd"] == pytest.approx(75)
    assert engine.at(points, 2)["pairs"] == pytest.approx(20)
    assert engine.at(points, 1)["anime"]["fd"] == 100
    assert engine.at(points, 0.5) is None and engine.at(points, 3.5) is None


def test_the_ratio_is_of_the_times_of_the_smallest_fd_of_the_reference():
    reference = [point(10, 90.0), point(20, 40.0), point(30, 60.0)]
    ours = [point(1, 80.0), point(3, 40.0), point(5, 20.0)]
    found = race.ratios(reference, ours)["anime"]
    assert found == {
        "fd": 40,
        "reference_minutes": 20,
        "our_minutes": 3,
        "ratio": pytest.approx(20 / 3),
        "at_least": False,
    }
    assert race.ratios(reference, [point(2, 30.0)])["anime"]["at_least"]
    never = race.ratios(reference, [point(2, 41.0)])["anime"]
    assert never["our_minutes"] is None and never["ratio"] is None


def test_every_row_and_both_sides_are_trainings_that_can_be_started():
    for name in recipe.ROWS:
        train_options([*recipe.flags_of(name).split(), "--gpu_ids", "-1"])
    for flags in race.RUNS.values():
        for more in ("", race.DEMO):
            train_options([*f"{flags} {more}".split(), "--gpu_ids", "-1"])


def test_a_comparison_of_recipes_makes_a_table_and_goes_on(workplace, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "DEFAULT", TINY)
    monkeypatch.setattr(recipe, "ROWS", {"default": "", "no shift": "--shift 0"})
    flags = f"{FOLDERS} --every 4 --minutes 0 --json r.json"
    monkeypatch.setattr(sys, "argv", ["recipe.py", *flags.split()])
    recipe.main()
    out = capsys.readouterr().out
    assert "| inputs, untranslated |" in out and "| real images |" in out
    first = json.loads(Path("r.json").read_text())
    assert [len(run["points"]) for run in first["runs"].values()] == [1, 1]
    recipe.main()  # all is there: nothing is trained again
    assert json.loads(Path("r.json").read_text()) == first


def test_the_race_writes_both_curves_and_their_ratio(workplace, monkeypatch, capsys):
    reference = TINY.replace("resnet8", "resnet")
    monkeypatch.setattr(race, "RUNS", {"reference": reference, "ours": TINY})
    flags = f"{FOLDERS} --every 4 --minutes 0 --json r.json --plot p.svg"
    monkeypatch.setattr(sys, "argv", ["time_to_quality.py", *flags.split()])
    race.main()
    assert "anime: FD" in capsys.readouterr().out
    results = json.loads(Path("r.json").read_text())
    assert set(results["runs"]) == {"reference", "ours"} and set(results["ratios"]) == {
        "anime",
        "person",
    }
    svg = Path("p.svg").read_text()
    assert all(name in svg for name in ("reference", "ours", "real images", "FD of person"))
