"""benchmarks/scaling.py and the nets of benchmarks/speed.py, at toy size."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import benchmarks.scaling as scaling
from arguments import train_options
from benchmarks import speed
from common.layers import InstanceNorm2d, ReflectionPad2d
from cyclegan_model import CycleGANModel

TINY = "--generator resnet8 --ngf 4 --ndf 4 --n_blocks 1 --gpu_ids -1 --amp off".split()


def test_cases_differ_from_the_first_in_one_thing():
    for case in scaling.cases(list(scaling.GROW))[1:]:
        assert sum(case[key] != scaling.FIRST[key] for key in case) == 1
        size, batch = str(case["image_size"]), str(case["batch_size"])
        train_options([*TINY, "--image_size", size, "--batch_size", batch])


@pytest.fixture
def grow(tmp_path, monkeypatch, capsys):
    """Measure two tiny cases, the second by two processes; returns output and figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        scaling, "FIRST", {"image_size": 64, "batch_size": 2, "images": 6, "processes": 1}
    )
    monkeypatch.setattr(scaling, "BLOCK", 4)

    def run():
        flags = ["--steps", "1", "--grow", "processes", "--json", "s.json", *TINY]
        monkeypatch.setattr(sys, "argv", ["scaling.py", *flags])
        scaling.main()
        return capsys.readouterr().out, json.loads(Path("s.json").read_text())["cases"]

    return run


def test_cases_run_in_processes_of_their_own_and_are_kept(grow, monkeypatch):
    out, found = grow()
    assert len(found) == 2 and "failed" not in out
    assert all(one["pairs_per_s"] > 0 and one["peak_memory_mb"] > 100 for one in found.values())
    assert "processes 2 | " in out
    monkeypatch.setattr(scaling, "measure", None)  # what was measured is not again
    assert grow()[1] == found


def test_a_file_of_images_has_as_many_as_were_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "BLOCK", 4)
    path = scaling.draw(tmp_path, 8, 10)
    assert path.stat().st_size == 10 * 8 * 8 * 3


def test_a_case_that_fails_is_a_line_of_the_table():
    found = {
        "a": {"pairs_per_s": 2.0, "first_step_s": 1.0, "peak_memory_mb": 300},
        "b": {"failed": "out of memory"},
    }
    rows = scaling.table(found).splitlines()
    assert rows[2] == "| a | 2.00 | 1.00 | 1.0 s | 300 |" and "out of memory" in rows[3]


def test_each_net_alone_has_a_time(monkeypatch):
    monkeypatch.setattr(speed, "NETS", ("--generator resnet8 --ngf 4", "--ndf 4"))
    flags = "--batch_size 1 --gpu_ids -1 --amp off --n_blocks 1".split()
    found = speed.measure_nets(flags, 1)["ms_per_image"]
    assert list(found) == list(speed.NETS) and all(ms > 0 for ms in found.values())


def test_torchs_layers_make_the_same_step():
    flags = "--generator resnet --ngf 4 --ndf 4 --n_blocks 1 --batch_size 1 --gpu_ids -1 --amp off"
    opt, _ = train_options(flags.split())
    ends = []
    for make in (speed.TorchLayers, CycleGANModel):
        model = make(opt)
        speed.stepper(model)()
        used = {type(module) for net in model.nets.values() for module in net.modules()}
        assert (nn.InstanceNorm2d in used) != bool({InstanceNorm2d, ReflectionPad2d} & used)
        ends.append(torch.cat([p.flatten() for p in model.netG_A.parameters()]))
    assert torch.equal(*ends)
    assert speed.measure_layers(opt, 1)["ratio"] > 0
