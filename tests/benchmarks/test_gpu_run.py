"""benchmarks/gpu_run.py on a CPU: each check, a timing and the training, with tiny nets."""

import itertools
import json
import sys
from pathlib import Path

import pytest
import torch

import benchmarks.curve as engine
import benchmarks.gpu_run as gpu
from benchmarks import speed
from interop.generators import load_generators

TINY = (
    "--generator resnet8 --ngf 4 --ndf 4 --n_blocks 1 --batch_size 2 --pool_size 4 "
    "--warm_steps 2 --amp off --gpu_ids -1"
)
FOLDERS = (
    "--domain_A_path data/anime --domain_B_path data/person --test_A_path data/anime "
    "--test_B_path data/person --state state --home home --every 8"
).split()


@pytest.fixture
def run(workplace, monkeypatch, capsys):
    """Call the script with tiny nets, each item in this process; returns output and figures.

    Its clock goes on by a second each time that it is looked at.
    """
    ticks = itertools.count()
    monkeypatch.setattr(gpu, "now", lambda: float(next(ticks)))
    monkeypatch.setattr(gpu, "RECIPE", TINY)
    monkeypatch.setattr(gpu, "TIMINGS", {"recipe, batch 2": TINY})
    monkeypatch.setattr(gpu, "STEPS", 2)
    monkeypatch.setattr(gpu, "RESERVE", 0)
    monkeypatch.setattr(gpu, "LONGEST", 0)
    monkeypatch.setattr(gpu, "PIECE", 20_000)
    monkeypatch.setattr(gpu, "ITEMS", ("resume", "recipe, batch 2"))
    monkeypatch.setattr(gpu, "isolated", gpu.item)
    figures = {"fd": 1.0, "top5": 0.5, "near_duplicates": 0.0}
    monkeypatch.setattr(gpu.TestImages, "figures", lambda *_: figures)
    monkeypatch.setattr(engine, "BLOCK", 1)
    monkeypatch.setattr(speed, "peak_flops", lambda *_: {"matmul": 1e9, "conv": 1e9})

    def call(*flags):
        monkeypatch.setattr(sys, "argv", ["gpu_run.py", *FOLDERS, "--rounds", "1", *flags])
        gpu.main()
        return capsys.readouterr().out, json.loads(Path("home/results.json").read_text())

    return call


@pytest.mark.parametrize("check", gpu.CHECKS)
def test_a_check_runs_on_a_cpu_too(run, data_options, check, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_run.py", *FOLDERS, "--item", check])
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: None)  # it would take minutes
    precision = torch.get_float32_matmul_precision()
    found = gpu.item(check, data_options)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = True
    if check == "bf16" and "failed" in found:
        pytest.skip(found["failed"])
    assert found.get("ok") or "left_out" in found
    assert found.get("difference", 0) < (1e-6 if check in ("cpu", "resume", "compile") else 0.05)


def test_a_check_that_cannot_be_is_a_line_and_not_an_end(run, monkeypatch):
    def broken(data):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setitem(gpu.CHECKS, "resume", broken)
    _, results = run("--minutes", "0.1")
    assert results["resume"] == {"failed": "out of memory"}


def test_a_check_that_might_outlast_the_call_is_left_to_the_next_one(run, monkeypatch):
    monkeypatch.setattr(gpu, "LONGEST", 20)
    _, results = run("--minutes", "0.3", "--total", "2")  # 18 s
    assert "resume" not in results and results["now"]["pairs"] > 0
    monkeypatch.setattr(gpu, "LONGEST", 15)
    assert "resume" in run("--minutes", "0.3", "--total", "2")[1]


def test_figures_are_kept_and_not_measured_again(run, monkeypatch):
    out, first = run("--minutes", "9", "--total", "0.5")
    assert "All is done, 0.5 of 0.5 minutes" in out and first["now"]["pairs"] > 0
    assert first["resume"]["ok"] and first["recipe, batch 2"]["pairs_per_s"]["fast"] > 0
    monkeypatch.setattr(gpu, "isolated", None)
    out, again = run("--minutes", "9", "--total", "0.5")
    assert again["resume"] == first["resume"] and again["now"] == first["now"]


def test_the_training_goes_on_from_call_to_call_and_on_another_machine(run):
    out, first = run("--minutes", "0.4", "--total", "2")
    assert "repeat the command" in out and first["now"]["pairs"] > 0
    _, second = run("--minutes", "0.2", "--total", "2")
    assert second["now"]["pairs"] > first["now"]["pairs"]
    assert second["points"][: len(first["points"])] == first["points"]

    Path("state").rename("gone")
    Path("home").rename("earlier")
    out, third = run("--minutes", "0.2", "--total", "2", "--start", "earlier")
    assert "Starting from" in out and third["now"]["pairs"] > 0
    assert third["seconds"] > second["seconds"]
    assert third["resume"] == first["resume"]  # what was measured stays measured


def test_the_learning_rate_falls_in_the_end(run, monkeypatch):
    rates = []

    def record(self, stop, rate):
        rates.extend(rate() for _ in range(60))
        return iter(())

    monkeypatch.setattr(gpu.Curve, "run", record)
    run("--minutes", "2", "--total", "1")
    assert rates[0] == 1 and rates[-1] < 0.1 and sorted(rates, reverse=True) == rates
    assert 0.5 < sum(rate == 1 for rate in rates) / len(rates) < 0.7


def test_what_comes_home_is_small_and_translates(run):
    run("--minutes", "0.4", "--total", "2")
    pieces = sorted(Path("home").glob("run.pth.*"))
    assert len(pieces) > 1 and all(piece.stat().st_size <= 20_000 for piece in pieces)
    Path("gpu.pth").write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    model, found = load_generators(Path("gpu.pth"), [], 2)
    fakes, recs = model.translate(torch.zeros(2, 3, 64, 64), "BtoA")
    assert fakes.shape == recs.shape == (2, 3, 64, 64) and found.steps > 0
    assert {p.name for p in Path("home").glob("*.png")} == {"grid_anime.png", "grid_person.png"}


def test_an_item_in_a_process_of_its_own_answers_as_json_or_says_why_not(run, monkeypatch):
    class Done:
        stdout, stderr, returncode = 'a warning\n{"ok": true}\n', "", 0

    monkeypatch.undo()
    monkeypatch.setattr(gpu.subprocess, "run", lambda *a, **k: Done)
    assert gpu.isolated("resume", None) == {"ok": True}
    Done.stdout, Done.stderr = "", "Segmentation\nfault"
    assert gpu.isolated("resume", None) == {"failed": "Segmentation fault"}
