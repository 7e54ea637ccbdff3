"""The same command gives the same bits in another process, whatever Python hashes by."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from compare import same
from conftest import COUNTS, ROOT, TINY, TINY_DTN
from test_train import assert_same_run, load

from storage.checkpoint import load_checkpoint
from storage.files import read_tensors

# An encoder, a DTN behind it and a CycleGAN, one after the other: one start of Python for all.
RUNS = """
import runpy, sys, torch
torch.set_num_threads(1)
root, name, *flags = sys.argv[1:]
for script, *args in (
    ["pretrain_encoder.py", "--domain_A_path", "data/anime", "--domain_B_path", "data/person",
     "--steps", "3", "--batch_size", "4", "--width", "2", "--dim", "6", "--gpu_ids", "-1",
     "--output", name + ".pth"],
    ["train.py", *DTN, "--f_encoder", name + ".pth", "--name", name + "_dtn"],
    ["train.py", *CYCLEGAN, "--name", name],
):
    sys.argv = [script, *args, *flags]
    runpy.run_path(root + "/" + script, run_name="__main__")
"""


def train_all(name, hash_seed, *flags):
    code = f"DTN, CYCLEGAN = {TINY_DTN!r}, {[*TINY, '--gan_mode', 'wgangp']!r}\n" + RUNS
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": str(hash_seed),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", code, str(ROOT), name, *flags]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture
def options_of():
    """A run's options.json but for what names the run."""

    def read(name):
        options = load(name)["options"]
        return {k: v for k, v in options.items() if k not in ("name", "f_encoder", "num_workers")}

    return read


def test_two_processes_make_the_same_bits_and_another_seed_makes_others(workplace, options_of):
    train_all("a", 1)
    train_all("b", 2, "--num_workers", "0")
    for suffix in ("", "_dtn"):
        one, two = f"a{suffix}", f"b{suffix}"
        assert_same_run(one, two)
        assert options_of(one) == options_of(two)
        for path in Path("model_ckpt", one).iterdir():
            states = [load_checkpoint(Path("model_ckpt", name, path.name)) for name in (one, two)]
            assert same(*(state["model"] for state in states)), path
    encoders = [read_tensors(Path(f"{name}.pth"))["encoder"] for name in "ab"]
    assert same(*encoders)

    train_all("c", 1, "--seed", "7")
    assert not same(encoders[0], read_tensors(Path("c.pth"))["encoder"])
    for suffix in ("", "_dtn"):
        nets = [load(f"{name}{suffix}")["model"]["nets"] for name in "ac"]
        for net in nets[0]:
            assert not same(nets[0][net], nets[1][net]), net
    COUNTS["runs compared to the bit"] += 6
