"""benchmarks/plot.py: what is drawn is what was measured."""

import xml.etree.ElementTree as ET

import pytest

pytest.importorskip("matplotlib")
from benchmarks import plot


def point(minutes, fd):
    return {"minutes": minutes, "anime": {"fd": fd}, "person": {"fd": 2 * fd}}


BOUNDS = {"real images": {"anime": {"fd": 2.0}, "person": {"fd": 1.6}}}


def test_curves_are_the_same_file_for_the_same_figures_and_name_what_they_show(tmp_path):
    runs = {"ours": [point(0, 90.0), point(100, 30.0)], "theirs": [point(50, 60.0)]}
    for name in ("a", "b"):
        plot.curves(tmp_path / f"{name}.svg", runs, BOUNDS)
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    for text in (
        "ours",
        "theirs",
        "real images",
        "minutes of training",
        "FD of anime",
        "FD of person",
    ):
        assert text in drawn
    ET.fromstring(drawn)


def test_whole_faces_are_drawn_over_pairs_beside_what_bounds_them(tmp_path):
    points = [
        {"pairs": 1000, "of": 80, "anime": 0, "person": 8},
        {"pairs": 9000, "of": 80} | {"anime": 40, "person": 80},
    ]
    bounds = dict.fromkeys(("anime", "person"), {"real images": 1.0})
    for name in ("a", "b"):
        plot.whole_faces(tmp_path / f"{name}.svg", {"runs": {"short": points}, "bounds": bounds})
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    assert all(
        text in drawn for text in ("short", "real images", "thousand pairs", "anime outputs")
    )


def test_systems_are_named_and_one_that_broke_is_left_out(tmp_path):
    one = {"anime": {"fd": 30.0, "retrieval_colour": {"top5": 0.5}}, "person": {"fd": 20.0}}
    found = {
        "bounds": dict.fromkeys(("anime", "person"), {"floor": 2.0, "untranslated": 104.5}),
        "runs": {"sn": {"0": {"seconds": one}}, "wgan": {"0": {"broke": "NaN", "seconds": None}}},
    }
    plot.systems(tmp_path / "a.svg", found)
    drawn = (tmp_path / "a.svg").read_text()
    assert ">sn (50%)<" in drawn and "wgan" not in drawn and "untranslated" in drawn


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    import sys

    from common.errors import UserError

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="requirements-dev.txt"):
        plot.panels(1)
