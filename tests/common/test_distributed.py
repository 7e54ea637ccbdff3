"""Two real processes over gloo: same start, same batch, same gradients; one of them writes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, TINY

from common import distributed
from common.errors import UserError
from storage.locks import alone_in

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(*command):
    return subprocess.run([*map(str, command)], env=ENV, capture_output=True, text=True)


MODES = ("sn", "wgan", "dtn", "mixed")


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """By mode: those of one process on the whole batch, and of each of two on its half."""
    folder, worker = tmp_path_factory.mktemp("gradients"), ROOT / "tests/common/ddp_worker.py"
    for output, launcher in (("one", [sys.executable]), ("two", TORCHRUN)):
        done = run(*launcher, worker, folder / output, *MODES)
        assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{name}.pt") for name in ("one-0", "two-0", "two-1")]


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_two_processes_equal_those_of_one_on_the_whole_batch(gradients, mode):
    whole, first, second = (found[mode] for found in gradients)
    assert whole.keys() == first.keys() and len(whole) > 40
    # Biases before an instance norm have gradients of rounding alone: compare with the whole net.
    for net in {key.partition(".")[0] for key in whole}:
        size = torch.cat([g.flatten() for key, g in whole.items() if key.startswith(net)]).norm()
        for key in (key for key in whole if key.startswith(net)):
            assert torch.equal(first[key], second[key]), key
            assert (first[key] - whole[key]).norm() < 1e-5 * size, key


def test_a_run_of_two_processes_writes_once_and_goes_on_as_one(workplace, script):
    flags = [*TINY, "--amp", "off", "--name", "run"]
    two = run(*TORCHRUN, ROOT / "train.py", *flags)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("epoch 3: D_A") == 1
    with open("save_image/run/log.jsonl") as log:
        assert [json.loads(line)["step"] for line in log] == [2, 4, 6]
    state = torch.load("model_ckpt/run/latest.pth", weights_only=True)
    assert (state["epoch"], state["model"]["steps"]) == (3, 6)
    done = script("train.py", "--resume", "--gpu_ids", -1, "--niter", 3)
    assert done.code == 0, done.err
    again = run(*TORCHRUN, ROOT / "train.py", "--resume", "--gpu_ids", "-1", "--niter", 4)
    assert again.returncode == 0, again.stderr
    assert torch.load("model_ckpt/run/latest.pth", weights_only=True)["epoch"] == 5


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_sigterm_to_all_processes_saves_once_and_leaves(workplace):
    flags = [*TINY, "--niter", "100000", "--name", "run"]
    process = subprocess.Popen(
        [*TORCHRUN, str(ROOT / "train.py"), *flags],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log, waited = "save_image/run/log.jsonl", time.monotonic() + 120
    while not (os.path.exists(log) and os.path.getsize(log)) and time.monotonic() < waited:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert out.count("Stopped by SIGTERM; saved in epoch") == 1, err
    assert process.returncode != 0
    assert torch.load("model_ckpt/run/latest.pth", weights_only=True)["model"]["steps"] > 0


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_processes_that_are_refused_the_run_of_another_training_all_end(workplace, script, more):
    flags = [*TINY, "--name", "run"]
    if more:
        assert script("train.py", *flags).code == 0
        flags = ["--resume", "--name", "run", "--gpu_ids", "-1"]
    with alone_in("model_ckpt/run", "--name run"):
        two = run(*TORCHRUN, ROOT / "train.py", *flags)
    assert two.returncode != 0
    assert "error: --name run: another process is at work in model_ckpt/run/" in two.stderr


TORCHRUN_SETS = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize("name", [*TORCHRUN_SETS, "LOCAL_WORLD_SIZE"])
@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_stray_variable_of_torchrun_changes_nothing_and_the_lock_holds(
    train, script, workplace, monkeypatch, name, more
):
    monkeypatch.setenv(name, TORCHRUN_SETS.get(name, "2"))
    short = ["--niter", 1, "--niter_decay", 0]
    assert train("--name", "run", *short).code == 0
    assert script("train.py", "--resume", "--niter", 2, "--gpu_ids", -1).code == 0
    with alone_in("model_ckpt/new", "--name new"), alone_in("model_ckpt/run", "--name run"):
        done = script("train.py", *more, "--name", "run") if more else train("--name", "new")
    assert done.code == 2 and "another process is at work in model_ckpt/" in done.err


def test_a_process_is_torchruns_only_if_all_is_set_that_torchrun_sets(monkeypatch):
    for name, value in TORCHRUN_SETS.items():
        assert not distributed.by_torchrun() and distributed.will_be_first()
        monkeypatch.setenv(name, value)
    assert distributed.by_torchrun() and not distributed.will_be_first()


def test_gpus_that_are_named_are_those_of_the_processes_or_refused(monkeypatch):
    for name, value in TORCHRUN_SETS.items():
        monkeypatch.setenv(name, value)
    for function in ("set_device", "init_process_group"):
        place = torch.cuda if function == "set_device" else torch.distributed
        monkeypatch.setattr(place, function, lambda *args, **kwargs: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert distributed.start([2, 3], 4, asked=True) == [3]
    assert distributed.start([0], 4) == [1]  # what --gpu_ids is resolved to where it is not given
    assert distributed.start([], 4, asked=True) == []
    for named in ([3], [0, 2, 3]):
        with pytest.raises(UserError, match="--gpu_ids .*3: . GPU.* for 2 processes; name 2"):
            distributed.start(named, 4, asked=True)


def test_a_batch_that_cannot_be_shared_is_one_clear_line(workplace):
    done = run(*TORCHRUN, ROOT / "train.py", *TINY, "--batch_size", 3)
    assert done.returncode != 0
    assert "error: --batch_size 3: cannot be shared equally by 2 processes" in done.stderr
