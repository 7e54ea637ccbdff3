"""benchmarks/modes.py: one real comparison of tiny size, and its table from known figures."""

import importlib.util
import json
import sys

import pytest
from conftest import ROOT


@pytest.fixture
def modes():
    path = ROOT / "benchmarks" / "modes.py"
    spec = importlib.util.spec_from_file_location("modes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figures(fd, steps=10):
    one = {
        "fd": fd,
        "coverage": 0.75,
        "diversity": {"near_duplicates": 0.5},
        "retrieval_colour": {"top5": 0.25},
    }
    return {"steps": steps, "seconds": 7.0, "anime": one, "person": one}


def test_a_cell_is_the_mean_over_seeds_and_their_deviation(modes):
    runs = {"sn (default)": {0: {"steps": figures(1.0)}, 1: {"steps": figures(3.0)}}}
    row = modes.table(runs, "steps").splitlines()[-1]
    assert row.startswith("| sn (default) | 2 | 10 | 7 | 2.0 ± 1.4 | 2.0 ± 1.4 | 75% ± 0% |")


def test_a_run_that_broke_is_counted_but_has_no_figures(modes):
    runs = {"wgan": {0: {"steps": figures(1.0)}, 1: {"broke": "loss became nan", "steps": None}}}
    assert modes.table(runs, "steps").splitlines()[-1].startswith("| wgan | 1 of 2 | 10 |")


def test_every_row_is_a_training_that_can_be_started(modes):
    from arguments import train_options

    options = {}
    for row in modes.ROWS:
        opt, _ = train_options([*modes.flags_of(row), "--gpu_ids", "-1"])
        options.setdefault(str(opt), []).append(row)
    assert all(len(rows) == 1 for rows in options.values()), options
    assert set(modes.MAIN) | set(modes.FACES) <= set(modes.ROWS)


@pytest.fixture
def compare(modes, workplace, monkeypatch):
    """Compare rows with tiny nets, on twelve pictures; returns the figures written."""
    monkeypatch.setattr(modes, "BATCHES", "--batch_size 2 --ngf 4 --ndf 4")
    monkeypatch.setattr(modes, "RESNET8", "--generator resnet8 --n_blocks 1")

    def run(*rows):
        flags = ["--seeds", "2", "--steps", "10", "--seconds", "0", "--json", "m.json"]
        for key in ("domain", "test"):
            flags += [f"--{key}_A_path", "data/anime", f"--{key}_B_path", "data/person"]
        monkeypatch.setattr(sys, "argv", ["modes.py", *flags, "--rows", *rows])
        modes.main()
        return json.loads((workplace / "m.json").read_text())["runs"]

    return run


def test_a_comparison_goes_on_where_it_was_interrupted(modes, compare, monkeypatch, capsys):
    row = "sn, no attention"
    first = compare(row)
    assert first[row]["1"]["steps"]["anime"]["N"] == 12
    assert "Equal seconds:" in capsys.readouterr().out

    monkeypatch.setattr(modes, "make_model", None)  # finished runs are not trained again
    assert compare(row) == first


def test_without_its_average_the_same_training_is_seen_otherwise(compare):
    runs = compare("sn (default)")
    rows = ("sn (default)", "sn (default), without EMA")
    averaged, raw = (runs[row]["0"]["steps"] for row in rows)
    assert averaged["steps"] == raw["steps"] and averaged["anime"]["fd"] != raw["anime"]["fd"]


def test_dtn_is_measured_in_its_one_direction(compare, workplace, capsys):
    from dtn.encoder import Encoder, save_encoder

    save_encoder(workplace / "out" / "modes" / "encoder.pth", Encoder(2, 6, 64))
    figures = compare("sn, no attention", "dtn")["dtn"]["0"]["steps"]
    assert "anime" in figures and "person" not in figures
    row = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert row[0] == "| dtn" and row[5] == "" and float(row[4]) > 0  # FD of persons: none
