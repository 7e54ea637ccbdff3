"""The scripts, run for real on tiny data: main line, resuming, bad input."""

import json
import os
import shutil
import signal
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from compare import same, without_time
from PIL import Image

from benchmarks.instrument import drawn
from common.errors import UserError
from common.presets import PRESETS
from common.tensors import to_float, to_uint8
from cyclegan_model import CycleGANModel
from dataset import UnpairedBatches
from evaluation import evaluate, metrics
from evaluation.features import load_features
from interop.layouts import read_generators
from pictures.splits import split, split_holdout
from training import logbook
from training.logbook import Yardstick, belong, best_so_far

LAST = "latest.pth"


def load(name, file="latest.pth"):
    return torch.load(f"model_ckpt/{name}/{file}", weights_only=True)


def log(name):
    return [json.loads(line) for line in open(f"save_image/{name}/log.jsonl")]


def assert_same_run(a, b):
    for folder in ("model_ckpt", "save_image"):
        assert sorted(os.listdir(f"{folder}/{a}")) == sorted(os.listdir(f"{folder}/{b}"))
    one, two = load(a), load(b)
    for part in ("model", "epoch", "batch", "totals", "best", "data"):
        assert same(one[part], two[part]), part
    assert without_time(log(a)) == without_time(log(b))
    for grid in sorted(os.listdir(f"save_image/{a}")):
        if grid.endswith(".png"):
            one, two = (Path("save_image", name, grid).read_bytes() for name in (a, b))
            assert one == two, grid


@pytest.fixture
def stop_at(monkeypatch):
    """Let a real signal arrive during the given training step."""

    def arm(step, number=signal.SIGTERM):
        original = CycleGANModel.optimize_parameters

        def step_and_signal(self):
            original(self)
            if self.steps == step:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(CycleGANModel, "optimize_parameters", step_and_signal)
        return lambda: monkeypatch.setattr(CycleGANModel, "optimize_parameters", original)

    return arm


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_trains_by_one_command_and_again_to_the_same_bits(workplace, script, preset):
    short = (
        "--ngf",
        2,
        "--ndf",
        2,
        "--batch_size",
        4,
        "--niter",
        1,
        "--niter_decay",
        0,
        "--warm_steps",
        2,
    )
    runs = (f"{preset}_12", "again")
    for flags in ((), ("--name", "again")):
        done = script("train.py", "--preset", preset, *short, "--gpu_ids", -1, *flags)
        assert done.code == 0, done.err
    one, two = (load(name)["model"]["nets"] for name in runs)
    assert same(one, two)
    opt = json.loads(Path(f"save_image/{runs[0]}/options.json").read_text())
    assert {
        k: v for k, v in PRESETS[preset].items() if f"--{k}" not in short
    }.items() <= opt.items()


def test_training_writes_grids_log_and_checkpoints_every_epoch(workplace, train):
    done = train("--ckpt_num", 2, "--num_workers", 0)
    assert done.code == 0, done.err
    assert sorted(os.listdir("model_ckpt/sn_12")) == ["epoch_0002.pth", "epoch_0003.pth", LAST]
    files = sorted(os.listdir("save_image/sn_12"))
    grids = [f"{e:04}_epoch_{d}.png" for e in (1, 2, 3) for d in ("anime", "person")]
    assert files == [*grids, "index.html", "log.jsonl", "options.json"]
    records = log("sn_12")
    assert [r["epoch"] for r in records] == [1, 2, 3]
    assert [r["step"] for r in records] == [2, 4, 6]  # 11 images to train on, batch 4
    assert [r["lr_G"] for r in records] == [1e-4, 1e-4, 5e-5]
    assert {"losses", "spread", "gammas", "images_per_s", "peak_memory_mb"} <= records[0].keys()
    assert len(records[0]["gammas"]) == 4
    assert "python test.py --name sn_12" in done.out
    assert "ngf: 4" in done.out and "[default: 64]" in done.out


def test_grid_shows_real_fake_and_reconstructed_in_full_range(workplace, train):
    shutil.rmtree("data")
    for folder, value in (("anime", 255), ("person", 0)):
        os.makedirs(f"data/{folder}")
        for i in range(12):  # the seventh is held out, and the others are no copies of it
            shade = value if i == 6 else 100 + i
            Image.new("RGB", (64, 64), (shade,) * 3).save(f"data/{folder}/{i:02}.png")
    assert train("--niter", 1, "--niter_decay", 0, "--name", "run").code == 0
    for shows, value in (("person", 255), ("anime", 0)):
        grid = np.array(Image.open(f"save_image/run/0001_epoch_{shows}.png"))
        assert grid.shape == (3 * 66 + 2, 66 + 2, 3)  # rows real, fake, reconstructed; one held out
        assert (grid[2:66, 2:66] == value).all()


def test_a_run_is_never_overwritten(workplace, train):
    short = ("--niter", 1, "--niter_decay", 0, "--warm_steps", 2)
    assert train(*short).code == 0
    assert "sn_12 is a run already (--resume goes on with it); this is sn_12-2" in train(*short).out
    assert sorted(os.listdir("model_ckpt")) == ["sn_12", "sn_12-2"]
    refused = train(*short, "--name", "sn_12")
    assert refused.code == 2 and "--resume --name sn_12" in refused.err


@pytest.mark.parametrize(
    "left",
    ["model_ckpt/sn_12/epoch_0001.pth", "save_image/sn_12/log.jsonl", "save_image/sn_12/1/x.png"],
)
def test_any_file_of_a_run_counts_as_a_run_and_is_not_overwritten(workplace, train, left):
    Path(left).parent.mkdir(parents=True)
    Path(left).write_bytes(b"of weeks")
    short = ("--niter", 1, "--niter_decay", 0, "--ckpt_num", 1)
    done = train(*short, "--name", "sn_12")
    sign = "/".join(left.split("/")[:3])
    assert done.code == 2 and f"--name sn_12: this run exists, as {sign} shows" in done.err
    assert "copy a checkpoint to model_ckpt/sn_12/latest.pth and continue it" in done.err
    done = train(*short)
    assert done.code == 0 and "this is sn_12-2" in done.out
    assert [path for path in workplace.glob("*_*/sn_12/**/*") if path.is_file()] == [
        workplace / left
    ]
    assert Path(left).read_bytes() == b"of weeks"


def test_an_empty_folder_is_no_run(workplace, train):
    Path("model_ckpt/run").mkdir(parents=True)
    Path("model_ckpt/run/.latest.pth.7.tmp").touch()
    assert train("--name", "run", "--niter", 1, "--niter_decay", 0, "--warm_steps", 2).code == 0


def test_a_domain_of_two_images_is_trained_on(workplace, train):
    for file in sorted(Path("data/anime").iterdir())[2:]:
        file.unlink()
    for number in range(12, 80):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"data/person/{number}.png")
    done = train(
        "--name", "run", "--batch_size", 1, "--niter", 1, "--niter_decay", 0, "--warm_steps", 2
    )
    assert done.code == 0, done.err
    assert log("run")[0]["figures"] == {"person": {}, "anime": {}}


def test_a_run_longer_than_its_schedule_says_how_many_epochs_it_had(workplace, train, script):
    assert train("--name", "run").code == 0
    done = script("train.py", "--resume", "--niter", 1, "--gpu_ids", -1)
    assert done.code == 0 and load("run")["epoch"] == 3
    assert "run has had 3 epochs, and --niter 1 --niter_decay 1 asks for 2" in done.out


def test_the_same_command_gives_the_same_bits(workplace, train):
    for name in ("a", "b"):
        assert train("--name", name, "--num_workers", 0).code == 0
    assert_same_run("a", "b")


@pytest.mark.parametrize("step", [1, 3, 4])
@pytest.mark.parametrize("mode", ["sn", "wgangp"])
def test_stopped_and_resumed_equals_unbroken_to_the_bit(
    workplace, train, script, stop_at, step, mode
):
    flags = ("--gan_mode", mode, "--n_critic", 2, "--lambda_idt", 0.5)
    assert train(*flags, "--name", "unbroken").code == 0
    disarm = stop_at(step)
    stopped = train(*flags, "--name", "stopped")
    assert stopped.code == 128 + signal.SIGTERM
    assert "SIGTERM" in stopped.out and "--resume --name stopped" in stopped.out
    disarm()
    resumed = script("train.py", "--resume", "--gpu_ids", -1)  # the newest run: no other option
    assert resumed.code == 0, resumed.err
    assert_same_run("unbroken", "stopped")


def test_the_page_of_a_run_is_there_before_its_first_epoch_ends(workplace, train, stop_at):
    stop_at(1)
    train("--name", "run")
    assert "There are no grids yet" in Path("save_image/run/index.html").read_text()


def test_ctrl_c_saves_too(workplace, train, stop_at):
    stop_at(3, signal.SIGINT)
    assert train("--name", "run").code == 128 + signal.SIGINT
    state = load("run")
    assert (state["epoch"], state["batch"], state["model"]["steps"]) == (1, 1, 3)


def test_the_state_is_saved_every_save_minutes(workplace, train, monkeypatch):
    saves = []
    state_dict = CycleGANModel.state_dict
    monkeypatch.setattr(
        CycleGANModel, "state_dict", lambda self: saves.append(self.steps) or state_dict(self)
    )
    assert (
        train("--save_minutes", 1e-9, "--niter", 1, "--niter_decay", 0, "--warm_steps", 2).code == 0
    )
    assert saves == [0, 1, 2, 2, 2]  # start, each step, end of epoch as latest and as kept


def test_resume_of_a_finished_run_changes_nothing_and_can_be_made_longer(workplace, train, script):
    assert train("--name", "run").code == 0
    before = load("run")
    done = script("train.py", "--resume", "--gpu_ids", -1)
    assert (
        done.code == 0
        and "run has had 3 epochs, and --niter 2 --niter_decay 1 asks for 3" in done.out
    )
    assert same(before["model"], load("run")["model"])
    assert script("train.py", "--resume", "--gpu_ids", -1, "--niter", 4).code == 0
    assert load("run")["epoch"] == 5 and [r["epoch"] for r in log("run")] == [1, 2, 3, 4, 5]


def test_a_torn_last_line_of_the_log_is_dropped_on_resume(workplace, train, script):
    assert train("--name", "run").code == 0
    with open("save_image/run/log.jsonl", "a") as file:
        file.write('{"epoch": 4, "st')
    assert script("train.py", "--resume", "--gpu_ids", -1, "--niter", 3).code == 0
    assert [r["epoch"] for r in log("run")] == [1, 2, 3, 4]


def test_resume_refuses_another_architecture_and_names_the_option(workplace, train, script):
    assert train("--name", "run").code == 0
    done = script("train.py", "--resume", "--ngf", 8)
    assert done.code == 2 and "--ngf: 8" in done.err and done.err.count("\n") == 1


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(workplace, train):
    done = train("--name", "run", "--lr_G", 1e30, "--amp", "off")
    assert done.code == 2 and done.err.strip().splitlines()[-1].startswith("error: loss ")
    assert "at step 2 (epoch 1)" in done.err and "model_ckpt/run/latest.pth" in done.err
    assert load("run")["model"]["steps"] == 0


def test_collapse_is_warned_of(workplace, train):
    for folder in ("anime", "person"):
        for i in range(12):
            image = Image.open(f"data/{folder}/{i:02}.png")
            image.putpixel((0, 0), (i, i, i))
            image.save(f"data/{folder}/{i}-again.png")
    done = train("--name", "run")  # untrained nets give nearly the same grey for all
    assert all(0 < r["spread"][d] < 0.5 for r in log("run") for d in ("anime", "person"))
    assert "warning: person outputs vary 0." in done.out and "collapsed" in done.out


def test_dry_run_writes_no_run_and_tells_options_parameters_and_data(workplace, train):
    done = train("--dry_run")
    assert done.code == 0 and "data/anime: 12 image files" in done.out.replace("\\", "/")
    assert "netG_A: " in done.out and "batch_size: 4" in done.out
    assert not os.path.exists("model_ckpt") and not os.path.exists("save_image")


def bad_inputs():
    def empty():
        shutil.rmtree("data/anime")
        os.mkdir("data/anime")

    def pretenders():
        for file in os.listdir("data/anime"):
            with open(f"data/anime/{file}", "w") as f:
                f.write("no picture")

    def nothing():
        pass

    def blocked():
        open("model_ckpt", "w").close()

    return [
        (nothing, ["--domain_A_path", "nowhere"], ["--domain_A_path", "nowhere", "--demo"]),
        (empty, [], ["--domain_A_path", "no images"]),
        (pretenders, [], ["--domain_A_path", "none of the 12"]),
        (nothing, ["--domain_A_path", "data/person"], ["--domain_A_path", "--domain_B_path"]),
        (nothing, ["--batch_size", "12"], ["--batch_size 12", "11"]),
        (nothing, ["--dataset_size", "4"], ["--batch_size 4"]),
        (nothing, ["--gpu_ids", "7"], ["--gpu_ids 7"]),
        (nothing, ["--resume", "--name", "none"], ["--name none"]),
        (blocked, [], ["model_ckpt", "cannot be written"]),
    ]


@pytest.mark.parametrize("prepare,flags,words", bad_inputs())
def test_bad_input_ends_in_one_clear_line_and_exit_code_2(workplace, train, prepare, flags, words):
    prepare()
    done = train(*flags)
    assert done.code == 2
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in done.err
    for word in words:
        assert word in last


def test_without_a_working_compiler_training_goes_on_and_says_so(workplace, train, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no C++ compiler found\nmore lines")

    monkeypatch.setattr(torch, "compile", broken)
    done = train("--compile", "--name", "run")
    assert done.code == 0
    assert "--compile: torch.compile does not work here (no C++ compiler found)" in done.out
    assert load("run")["options"]["compile"] is False


def test_what_an_epochs_order_hangs_on_cannot_change_in_its_middle(
    workplace, train, script, stop_at
):
    disarm = stop_at(3)
    train("--name", "run")
    disarm()
    done = script("train.py", "--resume", "--batch_size", 2)
    assert done.code == 2 and "--batch_size 2: run stopped in the middle" in done.err


def test_a_checkpoint_never_says_where_or_on_what_this_machine_works(workplace, train, script):
    assert train("--name", "run", "--niter", 1, "--niter_decay", 0, "--warm_steps", 2).code == 0
    path = "model_ckpt/run/latest.pth"
    state = torch.load(path, weights_only=True)
    state["options"] |= {"cache_dir": "elsewhere", "output": "elsewhere", "dry_run": True}
    state["options"] |= {"gpu_ids": [7], "num_workers": 99}
    torch.save(state, path)
    for done in (
        script("train.py", "--resume", "--niter", 2, "--gpu_ids", -1),
        script("test.py", "--name", "run", "--gpu_ids", -1),
    ):
        assert done.code == 0, done.err
    options = load("run")["options"]
    assert options["gpu_ids"] == [] and options["num_workers"] < 99
    assert not list(workplace.rglob("elsewhere")) and load("run")["epoch"] == 2


def test_resume_never_raises_the_learning_rates_unless_they_are_given(workplace, train, script):
    flags = ("--niter", 1, "--niter_decay", 3)
    assert train("--name", "run", *flags).code == 0
    falling = pytest.approx([1e-4, 7.5e-5, 5e-5, 2.5e-5])
    assert [record["lr_G"] for record in log("run")] == falling
    shutil.copytree("model_ckpt/run", "model_ckpt/other")
    resume = ("train.py", "--resume", "--gpu_ids", -1, "--name")
    done = script(*resume, "run", "--niter", 5)
    assert done.code == 0 and "rates stay where they stopped" in done.out, done.err
    assert "that of G at 2.5e-05, not 0.0001, that of D at 0.0001, not 0.0004; --lr" in done.out
    assert [record["lr_G"] for record in log("run")[4:]] == [2.5e-5] * 4
    assert [record["lr_D"] for record in log("run")[4:]] == [1e-4] * 4
    done = script(*resume, "other", "--niter", 5, "--lr_G", 1e-4)
    assert done.code == 0 and "stopped, since" in done.out and "that of G" not in done.out
    assert [record["lr_G"] for record in log("other")] == falling
    assert {record["lr_D"] for record in log("other")} == {1e-4}


def test_a_wgan_run_never_becomes_a_hinge_run_unsaid(workplace, train, script):
    flags = ("--niter", 1, "--niter_decay", 0, "--gan_mode", "wgan")
    assert train("--name", "run", *flags).code == 0
    resume = ("train.py", "--resume", "--gpu_ids", -1, "--niter", 2, "--gan_mode", "sn")
    done = script(*resume)
    assert done.code == 2 and "makes --discriminator sagan of what is not given" in done.err
    done = script(*resume, "--discriminator", "patch", "--no-spectral_norm")
    assert done.code == 0, done.err
    assert "Changed since run was saved: --gan_mode sn (was wgan), --n_critic 1 (was 5)" in done.out


def test_resume_takes_new_betas(workplace, train, script):
    assert train("--name", "run").code == 0
    assert script("train.py", "--resume", "--niter", 3, "--beta1", 0.5, "--gpu_ids", -1).code == 0
    group = load("run")["model"]["optimizer_G"]["param_groups"][0]
    assert tuple(group["betas"]) == (0.5, 0.9)


def test_a_folder_that_changed_since_training_is_told(workplace, train, script):
    assert train("--name", "run").code == 0
    os.rename("data/anime/03.png", "data/anime/99.png")
    told = "warning: data/anime has changed since"
    assert told in script("train.py", "--resume", "--niter", 3, "--gpu_ids", -1).out
    os.rename("data/anime/99.png", "data/anime/98.png")
    assert told in script("test.py", "--name", "run", "--gpu_ids", -1).out


def test_other_pictures_of_the_same_names_are_told_by_every_script(workplace, train, script):
    assert train("--name", "run").code == 0
    Image.fromarray(np.full((64, 64, 3), 7, np.uint8)).save("data/person/03.png")
    told = "warning: data/person has changed since"
    folders = ("--domain_A_path", "data/anime", "--domain_B_path", "data/person")
    assert told in script("evaluate.py", "--name", "run", "--gpu_ids", -1, *folders).out
    assert told in script("test.py", "--name", "run", "--gpu_ids", -1).out
    done = script("train.py", "--resume", "--niter", 3, "--gpu_ids", -1).out
    assert told in done and "data/anime has changed" not in done


def test_folders_of_equal_names_are_refused_when_they_are_swapped(workplace, train, script):
    assert train("--name", "run").code == 0
    swapped = ("--domain_A_path", "data/person", "--domain_B_path", "data/anime", "--gpu_ids", -1)
    for done in (
        script("train.py", "--resume", "--niter", 3, *swapped),
        script("test.py", "--name", "run", *swapped),
    ):
        assert done.code == 2 and "the domains are swapped" in done.err


def test_a_checkpoint_that_knows_names_alone_goes_on_and_says_what_cannot_be_checked(
    workplace, train, script
):
    assert train("--name", "run").code == 0
    path = "model_ckpt/run/latest.pth"
    state = torch.load(path, weights_only=True)
    state["data"] = {key: value.split("-")[0] for key, value in state["data"].items()}
    torch.save(state, path)
    unknown = "data/anime: whether its images are those of"
    assert unknown in script("test.py", "--name", "run", "--gpu_ids", -1).out
    done = script("train.py", "--resume", "--niter", 3, "--gpu_ids", -1)
    assert done.code == 0 and unknown in done.out and "has changed" not in done.out
    assert unknown not in script("test.py", "--name", "run", "--gpu_ids", -1).out


def test_too_few_held_out_images_have_no_figures_and_make_no_best(workplace, train):
    assert train("--name", "run").code == 0  # a tenth of 12 pictures is one
    assert not Path("model_ckpt/run/best.pth").exists()
    assert [record["figures"] for record in log("run")] == [{"person": {}, "anime": {}}] * 3


@pytest.fixture
def drawn_pixels(monkeypatch):
    """The pixels of all images that are trained on, as a set that grows."""
    drawn, original = set(), UnpairedBatches.draw

    def draw(self, domain, step):
        rows, flips = original(self, domain, step)
        drawn.update(bytes(np.asarray(self.images[domain][row])) for row in rows)
        return rows, flips

    monkeypatch.setattr(UnpairedBatches, "draw", draw)
    return drawn


def renumber(folder):
    for number, path in enumerate(sorted(folder.iterdir())[1:]):
        path.rename(folder / f"x{number:03}.png")


def copy(folder):
    for path in sorted(folder.iterdir()):
        shutil.copy(path, folder / f"copy_of_{path.name}")


def convert(folder):
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            image.save(folder / f"x{path.stem}.bmp")
        path.unlink()


@pytest.mark.parametrize("change", [renumber, copy, convert])
def test_no_image_that_was_held_out_is_trained_on_under_another_name(
    many_pictures, train, script, drawn_pixels, change
):
    assert (
        train(
            "--name", "run", "--holdout", 6, "--niter", 1, "--niter_decay", 0, "--warm_steps", 2
        ).code
        == 0
    )
    held, (_, rows) = set(), split_holdout(80, 6)
    for folder in (Path("data/anime"), Path("data/person")):
        held |= {bytes(np.array(Image.open(folder / f"{row:02}.png"))) for row in rows}
        change(folder)
    assert len(held) == 12 and not held & drawn_pixels
    done = script("train.py", "--resume", "--niter", 3, "--gpu_ids", -1)
    assert done.code == 0 and not held & drawn_pixels, done.err


@pytest.fixture
def many_pictures(workplace):
    random = np.random.default_rng(1)
    for folder in ("anime", "person"):
        for i in range(12, 80):
            pixels = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((64, 64)).save(f"data/{folder}/{i:02}.png")
    return workplace


@pytest.fixture
def always_best(monkeypatch):
    """Nets this small are always collapsed, and their outputs belong to nobody."""
    monkeypatch.setattr(metrics, "COLLAPSE_SPREAD", -1)
    monkeypatch.setattr(metrics, "COLLAPSE_DUPLICATES", 2)
    monkeypatch.setattr(logbook, "belong", lambda figures: True)


def test_best_pth_holds_the_epoch_that_the_log_calls_best(many_pictures, train, always_best):
    done = train("--name", "run", "--holdout", "6", "--lr_G", "0.01")
    assert done.code == 0
    assert "FD of held-out real images, anime" in done.out and "anime outputs: FD" in done.out
    means = {r["epoch"]: sum(f["fd"] for f in r["figures"].values()) / 2 for r in log("run")}
    epoch = min(means, key=means.get)
    assert load("run")["best"] == {"epoch": epoch, "fd": means[epoch]}
    assert load("run", "best.pth")["epoch"] == epoch


def test_collapse_and_the_best_pth_that_it_costs_are_told(many_pictures, train):
    done = train("--name", "run", "--holdout", "6", "--niter", "1", "--niter_decay", "0")
    assert done.code == 0, done.err
    assert all(f["collapsed"] for r in log("run") for f in r["figures"].values())
    for shows in ("anime", "person"):
        assert f"warning: {shows} outputs of this epoch count as collapsed" in done.out
    assert not Path("model_ckpt/run/best.pth").exists()
    assert "There is no model_ckpt/run/best.pth: in no epoch" in done.out.replace("\\", "/")


def test_figures_of_few_images_are_printed_beside_chance(many_pictures, train):
    done = train("--name", "run", "--holdout", "6", "--niter", "1", "--niter_decay", "0")
    figures = log("run")[0]["figures"]["anime"]
    assert figures["top5_chance"] == 5 / 6 and figures["near_duplicates_real"] >= 2 / 6
    real = f"(real: {figures['near_duplicates_real']:.0%})"
    assert "own input found " in done.out and "(chance: 83%)" in done.out and real in done.out


def test_a_runs_split_is_part_of_it_and_another_holdout_is_refused(many_pictures, train, script):
    assert (
        train(
            "--name", "run", "--holdout", 4, "--niter", 1, "--niter_decay", 0, "--warm_steps", 2
        ).code
        == 0
    )
    done = script("train.py", "--resume", "--holdout", 6, "--gpu_ids", -1)
    assert done.code == 2 and "--holdout 6: run was begun with 4" in done.err, done.err
    assert script("train.py", "--resume", "--holdout", 4, "--gpu_ids", -1).code == 0


def test_what_is_held_out_was_never_trained_on_though_the_dataset_grew(
    many_pictures, train, script, monkeypatch, drawn_pixels
):
    """Also what test.py and evaluate.py call held out."""
    short = ("--niter", 1, "--niter_decay", 0, "--warm_steps", 2)
    assert train("--name", "run", "--holdout", 6, "--dataset_size", 60, *short).code == 0
    names = load("run")["held_out"]
    grown = ("--niter", 2, "--dataset_size", 64, "--gpu_ids", -1)
    assert script("train.py", "--resume", *grown).code == 0
    assert load("run")["held_out"] == names

    shown = []

    def translate(self, images, direction, and_back=True):
        shown.append(images)
        return images, images

    monkeypatch.setattr(CycleGANModel, "translate", translate)
    assert script("test.py", "--name", "run", "--gpu_ids", -1).code == 0
    found = read_generators(Path("model_ckpt/run/latest.pth"))
    asked = Namespace(
        demo=False,
        train_A_path=None,
        train_B_path=None,
        dataset_size=99,
        num_workers=0,
    )
    sets = evaluate.gather(asked, {}, Namespace(**found.options), found)
    shown += [sets[domain]["test"] for domain in sets]
    shown = {bytes(np.asarray(image)) for images in shown for image in to_uint8(images)}
    assert len(shown) == 12 and not shown & drawn_pixels


def test_what_a_run_holds_out_it_holds_out_also_of_fewer_images_and_of_more():
    held_out = ["b-2", "y-3"]
    for hashes in ("a-1 b-2 c-4 y-3", "a-1 b-2 c-4", "0-5 a-1 aa-6 b-2 c-4 y-3 z-7"):
        hashes = hashes.split()
        train, held = split(hashes, 1, held_out)
        assert [hashes[i] for i in held] == [entry for entry in hashes if entry in held_out]
        assert sorted([*train, *held]) == list(range(len(hashes)))
    with pytest.raises(UserError, match="--domain_A_path x: none of the 2 images that the run"):
        split(["a-1", "c-4"], 1, held_out, "--domain_A_path x")
    assert not len(split(["a-1", "c-4"], 1, held_out)[1])


def test_copies_of_what_is_held_out_are_neither_held_out_nor_trained_on():
    hashes = "a-1 b-2 b-2 c-4 d-2 e-5 e-5".split()  # d: the pixels of b, in another file
    for held_out in (["b-2"], ["b-0"], ["x-2"]):  # of another size, of another file
        train, held = split(hashes, 1, held_out)
        same = {"b-2": [0, 3, 5, 6], "b-0": [0, 3, 4, 5, 6], "x-2": [0, 3, 5, 6]}[held_out[0]]
        assert train.tolist() == same and held.tolist() == [1]
    train, held = split(hashes[1:], 1)  # a new run: b, c and e are three images
    assert held.tolist() == [2] and train.tolist() == [0, 1, 3, 4, 5]
    with pytest.raises(UserError, match="1 readable image in a domain, copies not counted"):
        split(["a-1"] * 12, 1)


def test_a_checkpoint_without_its_split_is_split_as_before_and_a_change_is_told(
    many_pictures, train, script
):
    assert train("--name", "run", "--niter", 1, "--niter_decay", 0, "--warm_steps", 2).code == 0
    path = "model_ckpt/run/latest.pth"
    state = torch.load(path, weights_only=True)
    names = state.pop("held_out")
    del state["measured_on"]
    torch.save(state, path)
    assert "held out" in script("test.py", "--name", "run", "--gpu_ids", -1).out
    shutil.copytree("model_ckpt/run", "model_ckpt/other")
    done = script("train.py", "--resume", "--name", "run", "--niter", 2, "--gpu_ids", -1)
    assert done.code == 0 and "may have been trained on" not in done.out
    assert load("run")["held_out"] == names
    done = script(
        "train.py",
        "--resume",
        "--name",
        "other",
        "--niter",
        2,
        "--dataset_size",
        30,
        "--gpu_ids",
        -1,
    )
    assert done.code == 0 and "held out now may have been trained on" in done.out


@pytest.mark.parametrize("back_to, killed", [(1, False), (2, False), (3, False), (3, True)])
def test_a_run_that_goes_back_keeps_the_log_grids_and_best_of_what_it_went_back_to(
    many_pictures, train, script, always_best, monkeypatch, back_to, killed
):
    fds = iter([5.0, 5.0, 4.0, 4.0, 3.0, 3.0, 2.0, 2.0])  # of both directions, by epoch
    monkeypatch.setattr(Yardstick, "fd", lambda *_: next(fds))
    monkeypatch.setattr(logbook, "FEWEST_IMAGES", 6)
    floors = Yardstick.__init__

    def without_floors(self, images):
        with monkeypatch.context() as patch:
            patch.setattr(Yardstick, "fd", lambda *_: None)
            floors(self, images)

    monkeypatch.setattr(Yardstick, "__init__", without_floors)
    flags = ("--holdout", 6, "--ckpt_num", 1, "--niter", 4, "--niter_decay", 0)
    assert train("--name", "run", *flags).code == 0
    folder = Path("model_ckpt/run")
    assert load("run", "best.pth")["epoch"] == 4
    files = {n: (folder / f"epoch_{n:04}.pth").read_bytes() for n in range(1, 5)}
    (folder / "latest.pth").write_bytes(files[back_to])
    if killed:  # in the saves of the fourth epoch
        os.utime(folder / "latest.pth", ns=(0, 0))

    fds = iter([9.0, 9.0])
    monkeypatch.setattr(UnpairedBatches, "batch", None)  # nothing more is trained
    done = script("train.py", "--resume", "--niter", back_to, "--gpu_ids", -1)
    assert done.code == 0, done.err
    assert [record["epoch"] for record in log("run")] == [*range(1, back_to + 1)]
    assert len(list(Path("save_image/run").glob("*.png"))) == 2 * back_to
    page = Path("save_image/run/index.html").read_text()
    assert f"{back_to:04}_epoch_anime.png" in page and f"{back_to + 1:04}_epoch" not in page
    assert (folder / "best.pth").read_bytes() == files[back_to]
    kept = {p.name: p.read_bytes() for p in folder.glob("abandoned-1/*")}
    if killed:
        assert not kept and not (folder / "epoch_0004.pth").exists()
    else:
        assert kept == {"best.pth": files[4]} | {
            f"epoch_{n:04}.pth": files[n] for n in range(back_to + 1, 5)
        }


def less_held_out():
    _, held = split_holdout(80, 7)
    os.remove(f"data/person/{held[2]:02}.png")


def other_reference():
    Image.fromarray(np.full((64, 64, 3), 9, np.uint8)).save("data/person/00.png")


def other_features():
    net = load_features()
    with torch.no_grad():
        net.project[4].weight *= 2
    logbook.load_features.other = net


@pytest.mark.parametrize("change", [less_held_out, other_reference, other_features])
def test_a_best_of_other_measurements_is_set_aside_and_never_compared(
    many_pictures, train, script, always_best, monkeypatch, change
):
    def features():
        return getattr(features, "other", None) or load_features()

    monkeypatch.setattr(logbook, "load_features", features)
    short = ("--niter", 1, "--niter_decay", 0, "--warm_steps", 2)
    assert train("--name", "run", "--holdout", "7", *short).code == 0
    path = "model_ckpt/run/latest.pth"
    good = Path("model_ckpt/run/best.pth").read_bytes()
    change()
    state = torch.load(path, weights_only=True)
    state["best"]["fd"] = 0.0  # nothing could be better
    torch.save(state, path)
    done = script("train.py", "--resume", "--niter", 2, "--gpu_ids", -1)
    assert "the best epoch so far is kept as epoch_0001.pth" in done.out
    assert Path("model_ckpt/run/epoch_0001.pth").read_bytes() == good
    assert load("run")["best"]["epoch"] == 2 == load("run", "best.pth")["epoch"]
    done = script("train.py", "--resume", "--niter", 2, "--gpu_ids", -1)
    assert "is kept as" not in done.out  # measured once more on what it was measured on


def test_without_the_features_there_is_a_line_no_fd_and_no_best(
    many_pictures, train, always_best, monkeypatch
):
    def missing():
        raise UserError("features.pth: there is no such file")

    monkeypatch.setattr(logbook, "load_features", missing)
    done = train("--name", "run", "--holdout", "6")
    assert done.code == 0
    assert "No FD, and so no best.pth: features.pth: there is no such file" in done.out
    assert {f["fd"] for r in log("run") for f in r["figures"].values()} == {None}
    assert not Path("model_ckpt/run/best.pth").exists()


def test_the_best_has_the_smallest_fd_of_those_not_collapsed_whose_inputs_are_found():
    def record(epoch, fd, collapsed=False, top5=0.9):
        figures = {"fd": fd, "collapsed": collapsed, "top5": top5, "top5_chance": 0.04}
        others = {"fd": fd + 2, "collapsed": False, "top5": 0.9, "top5_chance": 0.04}
        return {"epoch": epoch, "figures": {"anime": figures, "person": others}}

    best = best_so_far(None, record(1, 5.0))
    assert best == {"epoch": 1, "fd": 6.0}
    assert best_so_far(best, record(2, 1.0, collapsed=True)) == best
    assert best_so_far(best, record(2, 1.0, top5=0.1)) == best
    assert best_so_far(best, record(2, 5.0)) is best
    assert best_so_far(best, {"epoch": 2}) is best
    assert best_so_far(best, {"epoch": 2, "figures": {"anime": {}, "person": {}}}) is best
    assert best_so_far(best, record(3, 4.0)) == {"epoch": 3, "fd": 5.0}
    assert best_so_far(best, record(3, 4.0, top5=0.25)) != best
    older = {"epoch": 1, "swd": 0.5}  # of a version that judged by it
    assert best_so_far(older, record(2, 9.0)) == {"epoch": 2, "fd": 10.0}


@pytest.mark.parametrize("held_out", [6, 12, 20, 40, 128])
def test_random_retrieval_never_counts_as_outputs_that_belong_to_their_inputs(held_out):
    chance = min(1, 5 / held_out)
    found = torch.rand(1000, held_out, generator=torch.Generator().manual_seed(0)) < chance
    shares = found.float().mean(1).tolist()
    taken = [belong({"top5": share, "top5_chance": chance}) for share in shares]
    assert sum(taken) <= 50
    assert belong({"top5": 1.0, "top5_chance": chance}) == (held_out >= 10)


def test_fd_of_a_training_is_small_for_real_images_and_large_for_the_other_domain():
    images = {domain: to_uint8(x).numpy() for domain, x in drawn(240).items()}
    rows, held = np.arange(120), np.arange(120, 240)
    yardstick = Yardstick({domain: (pixels, rows, held) for domain, pixels in images.items()})
    for domain, other in (("anime", "person"), ("person", "anime")):
        wrong = yardstick.fd(to_float(torch.from_numpy(images[other][held])), domain)
        same = images[domain][held[:1].repeat(120)]
        once = yardstick.fd(to_float(torch.from_numpy(same)), domain)
        assert yardstick.floors[domain] < once < wrong
