"""train.py, test.py and evaluate.py with --model dtn, run for real on tiny data."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import bright_anime_dark_persons
from PIL import Image
from test_train import assert_same_run, load, log

from dtn.encoder import Encoder, save_encoder
from dtn.model import DTNModel

HERE = ("--gpu_ids", "-1")
FOLDERS = ("--domain_A_path", "data/anime", "--domain_B_path", "data/person")


@pytest.fixture
def run(train_dtn, workplace):
    """A finished tiny run, whose anime are bright and whose persons are dark; f's file is gone."""
    bright_anime_dark_persons()
    assert train_dtn("--name", "run").code == 0
    os.remove("f.pth")
    return workplace


def test_training_writes_one_grid_per_epoch_a_log_and_checkpoints(train_dtn):
    done = train_dtn("--num_workers", 0)
    assert done.code == 0, done.err
    files = sorted(os.listdir("save_image/vanilla_12_dtn"))
    grids = [f"{epoch:04}_epoch_anime.png" for epoch in (1, 2, 3)]
    assert files == [*grids, "index.html", "log.jsonl", "options.json"]
    grid = np.array(Image.open("save_image/vanilla_12_dtn/0003_epoch_anime.png"))
    assert grid.shape == (4 * 66 + 2, 66 + 2, 3)  # source, output, target, its reconstruction
    held_out = [np.array(Image.open(f"data/{domain}/06.png")) for domain in ("person", "anime")]
    assert (grid[2:66, 2:66] == held_out[0]).all() and (grid[134:198, 2:66] == held_out[1]).all()
    record = log("vanilla_12_dtn")[-1]
    assert record["losses"].keys() == {"D", "G", "const", "tid", "tv"}
    assert record["spread"].keys() == {"anime"} and len(record["gammas"]) == 3
    assert "lambda_const: 100.0" in done.out and "lambda_A" not in done.out
    assert "--name vanilla_12_dtn" in done.out


def test_f_in_the_checkpoint_is_the_file_to_the_bit(train_dtn):
    assert train_dtn("--name", "run").code == 0
    state = load("run")["model"]
    for key, value in torch.load("f.pth", weights_only=True)["encoder"].items():
        assert torch.equal(state["nets"]["netF"][f"encoder.{key}"], value), key
    assert "netF_ema" not in state["nets"] and state["optimizer_G"]["state"]
    trained = sum(p.numel() for p in DTNModel(opt_of("run"), Encoder(2, 6, 64)).netG.parameters())
    moments = state["optimizer_G"]["state"].values()
    assert sum(m["exp_avg"].numel() for m in moments) == trained


def opt_of(name):
    from arguments import resumed_options

    return resumed_options(load(name)["options"], {"gpu_ids": "-1"})


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("flags", [[], ["--train_f", "--direction", "AtoB", "--n_critic", 2]])
def test_stopped_and_resumed_without_fs_file_equals_unbroken_to_the_bit(
    train_dtn, script, monkeypatch, step, flags
):
    assert train_dtn("--name", "unbroken", *flags).code == 0
    original = DTNModel.optimize_parameters

    def step_and_signal(self):
        original(self)
        if self.steps == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(DTNModel, "optimize_parameters", step_and_signal)
    assert train_dtn("--name", "stopped", *flags).code == 128 + signal.SIGTERM
    monkeypatch.setattr(DTNModel, "optimize_parameters", original)
    os.remove("f.pth")
    resumed = script("train.py", "--resume", *HERE)
    assert resumed.code == 0, resumed.err
    assert_same_run("unbroken", "stopped")


def test_the_checkpoint_alone_translates_a_domain(run, script):
    done = script("test.py", *HERE, *FOLDERS)
    assert done.code == 0, done.err
    assert sorted(os.listdir("test_image")) == [
        "0__anime_test.png",
        "0__person_real.png",
        "index.html",
    ]
    done = script(
        "test.py", *HERE, "--input", "data/person", "--direction", "BtoA", "--output", "out"
    )
    assert done.code == 0 and len(os.listdir("out")) == 12
    tile = np.array(Image.open("test_image/0__anime_test.png"))[2:66, 2:66].astype(int)
    assert np.abs(tile - np.array(Image.open("out/00.png"))).max() <= 1


def test_the_checkpoint_alone_is_evaluated_without_reconstructions(run, script):
    done = script("evaluate.py", *HERE, "--name", "run", *FOLDERS)
    assert done.code == 0, done.err
    results = json.loads(Path("results.json").read_text())
    assert "AtoB" not in results and "cycle_l1" not in results["BtoA"]
    assert {"swd", "diversity", "retrieval_colour", "memorisation"} <= results["BtoA"].keys()
    assert "| | person to anime |" in done.out and "cycle error" in done.out
    assert sorted(os.listdir("results")) == [
        "BtoA_first_middle_last.png",
        "BtoA_nearest_training_images.png",
    ]


def test_attributes_of_a_model_of_one_direction_are_passed_over_with_a_line(run, script):
    Path("table.csv").write_text("file,Male\n00.png,1\n")
    done = script("evaluate.py", *HERE, "--name", "run", *FOLDERS, "--attributes", "table.csv")
    assert done.code == 0 and "groups left out" in done.out
    assert "groups" not in json.loads(Path("results.json").read_text())


def test_dry_run_tells_the_size_of_f_and_writes_no_run(train_dtn, script):
    done = train_dtn("--dry_run")
    assert done.code == 0 and "netF: " in done.out and not os.path.exists("model_ckpt")


@pytest.mark.parametrize(
    "flags,words",
    [
        (["--f_encoder", "none.pth"], ["--f_encoder none.pth", "pretrain_encoder.py"]),
        (["--f_encoder", "small.pth"], ["--f_encoder small.pth", "32x32", "--image_size 64"]),
        (["--f_encoder", "cut.pth"], ["cut.pth", "damaged"]),
        (["--f_encoder", "resnet18:none.pth"], ["--f_encoder resnet18:none.pth", "none.pth"]),
        (["--f_encoder", "resnet18:f.pth"], ["--f_encoder resnet18:f.pth", "resnet18"]),
        (["--f_encoder", "resnet99:f.pth"], ["--f_encoder resnet99:f.pth"]),
        (["--lambda_A", 5], ["--lambda_A 5", "--model cyclegan"]),
        (["--pool_size", 5], ["--pool_size 5", "--model cyclegan"]),
        (["--n_blocks", 1], ["--n_blocks 1", "--model cyclegan"]),
        (["--gan_mode", "wgangp"], ["--gan_mode wgangp", "vanilla"]),
        (["--image_size", 72], ["--image_size 72", "multiple of 16"]),
        (["--resume", "--model", "cyclegan"], ["--model", "dtn"]),
        (["--resume", "--direction", "AtoB"], ["--direction", "BtoA"]),
        (["--resume", "--f_encoder", "small.pth"], ["--f_encoder", "f.pth"]),
        (["--resume", "--lambda_B", 1], ["--lambda_B 1", "--model dtn"]),
    ],
)
def test_bad_input_ends_in_one_clear_line_and_exit_code_2(train_dtn, script, flags, words):
    save_encoder(Path("small.pth"), Encoder(2, 6, 32))
    Path("cut.pth").write_bytes(Path("f.pth").read_bytes()[:500])
    if "--resume" in flags:
        assert train_dtn("--name", "run", "--niter", 1, "--niter_decay", 0).code == 0
        done = script("train.py", *flags, *HERE)
    else:
        done = train_dtn(*flags)
    assert done.code == 2, done.out
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in done.err
    for word in words:
        assert word in last
    if "--resume" not in flags:
        assert not os.path.exists("model_ckpt")


@pytest.mark.parametrize("flag,value", [("--lambda_const", 5), ("--f_encoder", "f.pth")])
def test_options_of_dtn_are_refused_with_cyclegan(train, workplace, flag, value):
    done = train(flag, value)
    assert done.code == 2 and f"{flag} {value}" in done.err and "--model dtn" in done.err


def test_the_other_direction_is_refused_and_nothing_is_written(run, script):
    flags = ("--input", "data/anime", "--direction", "AtoB", "--output", "out")
    done = script("test.py", *HERE, *flags)
    assert done.code == 2 and "--direction AtoB" in done.err and "BtoA" in done.err
    assert not os.path.exists("out")


def test_model_chooses_among_runs_and_refuses_the_other(run, train, script):
    assert train("--name", "newer").code == 0
    done = script("test.py", *HERE, *FOLDERS, "--model", "dtn")
    assert done.code == 0 and Path("model_ckpt/run") in Path(done.out.split()[1]).parents
    done = script("evaluate.py", *HERE, *FOLDERS, "--name", "newer", "--model", "dtn")
    assert done.code == 2 and "--model dtn" in done.err and "holds a cyclegan" in done.err
    done = script("test.py", *HERE, "--model", "dtn", "--demo")
    assert done.code == 2 and "of --model dtn here; train one" in done.err


def test_swapped_training_folders_are_refused_by_every_script(train_dtn, script):
    for i in range(12):
        os.rename(f"data/person/{i:02}.png", f"data/person/p{i:02}.png")
    swapped = ("--domain_A_path", "data/person", "--domain_B_path", "data/anime")
    width = ("--width", 2, "--dim", 4, "--batch_size", 8, "--steps", 1, "--output", "g.pth")
    assert script("pretrain_encoder.py", *width, *HERE).code == 0
    assert train_dtn("--name", "run", "--f_encoder", "g.pth").code == 0
    commands = (
        lambda: train_dtn("--f_encoder", "g.pth", *swapped),
        lambda: script("train.py", "--resume", "--niter", 9, *HERE, *swapped),
        lambda: script("test.py", *HERE, *swapped),
    )
    for command in commands:
        done = command()
        assert done.code == 2 and "the domains are swapped" in done.err, (done.out, done.err)


def test_swapped_test_folders_are_refused(run, script):
    done = script(
        "evaluate.py", *HERE, "--domain_A_path", "data/person", "--domain_B_path", "data/anime"
    )
    assert done.code == 2 and "swapped" in done.err


def test_a_resnet_of_torchvision_serves_as_f_and_rides_in_the_checkpoint(train_dtn, script):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    torch.save(models.resnet18(weights=None).state_dict(), "resnet.pth")
    short = ("--niter", 1, "--niter_decay", 0, "--batch_size", 2, "--name", "run")
    assert train_dtn(*short, "--f_encoder", "resnet18:resnet.pth").code == 0
    weights = torch.load("resnet.pth", weights_only=True)
    os.remove("resnet.pth")
    state = load("run")["model"]
    assert state["encoder_options"] == {"resnet": "resnet18"}
    for key, value in weights.items():  # batch norm's statistics among them
        if not key.startswith("fc."):
            assert torch.equal(state["nets"]["netF"][f"encoder.resnet.{key}"], value), key
    assert script("train.py", "--resume", "--niter", 2, *HERE).code == 0
    assert script("test.py", *HERE, *FOLDERS).code == 0


@pytest.mark.parametrize(
    "options", [None, {"width": 2}, {"resnet": "x"}, {"width": -1, "dim": 4, "image_size": 64}]
)
def test_a_checkpoint_whose_f_cannot_be_rebuilt_is_one_clear_line(run, script, options):
    path = "model_ckpt/run/latest.pth"
    state = torch.load(path, weights_only=True)
    if options is None:
        del state["model"]["encoder_options"]
    else:
        state["model"]["encoder_options"] = options
    torch.save(state, path)
    for done in (script("test.py", *HERE), script("train.py", "--resume", *HERE)):
        assert done.code == 2 and done.err.count("\n") == 1, done.err
        assert "encoder_options" in done.err
