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


def figures(swd, steps=10):
    one = {"swd": {"64": swd, "32": swd + 2}, "diversity": {"spread": 1.0, "near_duplicates": 0.5},
           "retrieval_colour": {"top5": 0.25}}  # fmt: skip
    return {"steps": steps, "seconds": 7.0, "anime": one, "person": one}


def test_a_cell_is_the_mean_over_seeds_and_their_deviation(modes):
    runs = {"sn (default)": {0: {"steps": figures(1.0)}, 1: {"steps": figures(3.0)}}}
    row = modes.table(runs, "steps").splitlines()[-1]
    assert row.startswith("| sn (default) | 2 | 10 | 7 | 3.0 ± 1.4 | 3.0 ± 1.4 | 1.00 ± 0.00 |")


def test_a_run_that_broke_is_counted_but_has_no_figures(modes):
    runs = {"wgan": {0: {"steps": figures(1.0)}, 1: {"broke": "loss became nan", "steps": None}}}
    assert modes.table(runs, "steps").splitlines()[-1].startswith("| wgan | 1 of 2 | 10 |")


def test_every_row_is_a_training_that_can_be_started(modes):
    from arguments import train_options

    for flags in modes.ROWS.values():
        train_options([*modes.BATCHES.split(), *flags.split(), "--gpu_ids", "-1"])
    assert set(modes.MAIN) | set(modes.FACES) <= set(modes.ROWS)


def test_a_comparison_goes_on_where_it_was_interrupted(modes, workplace, monkeypatch, capsys):
    row = "sn, no attention"
    monkeypatch.setattr(modes, "BATCHES", "--batch_size 2 --ngf 4 --n_blocks 1 --ndf 4")
    flags = ["--rows", row, "--seeds", "2", "--steps", "10", "--seconds", "0", "--json", "m.json"]
    for key in ("domain", "test"):
        flags += [f"--{key}_A_path", "data/anime", f"--{key}_B_path", "data/person"]
    monkeypatch.setattr(sys, "argv", ["modes.py", *flags])
    modes.main()
    first = json.loads((workplace / "m.json").read_text())
    assert first["runs"][row]["1"]["steps"]["anime"]["N"] == 12
    assert "Equal seconds:" in capsys.readouterr().out

    monkeypatch.setattr(modes, "CycleGANModel", None)  # finished runs are not trained again
    modes.main()
    assert json.loads((workplace / "m.json").read_text())["runs"] == first["runs"]
