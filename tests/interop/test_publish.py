"""publish.py, and what test.py and evaluate.py do with a published model."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from cyclegan_model import CycleGANModel
from interop import publish
from interop.generators import load_generators
from interop.layouts import DISCRIMINATORS, PUBLISHED, read_generators
from networks import ResnetGenerator
from storage.checkpoint import save_checkpoint

HERE = ("--gpu_ids", "-1")
FOLDER = Path("model_ckpt/pretrained")


@pytest.fixture
def save_run(workplace, options):
    """Write the checkpoint of a run that has hardly begun."""

    def save(name="run", **kwargs):
        model = CycleGANModel(options(crop="celeba", seed=5, **kwargs))
        model.steps = 9
        state = {
            "options": vars(model.opt),
            "epoch": 3,
            "batch": 0,
            "totals": {},
            "model": model.state_dict(),
        }
        save_checkpoint(Path("model_ckpt", name, "latest.pth"), state)

    return save


@pytest.fixture
def run(workplace, save_run):
    save_run()
    return workplace


@pytest.fixture
def clone(run, script):
    """As after a clone: the published model and bundled inputs, no runs, no data."""
    assert script("publish.py", "--name", "run").code == 0
    shutil.rmtree("model_ckpt/run")
    for domain in ("anime", "person"):
        shutil.copytree(f"data/{domain}", f"test_image/inputs/{domain}")
    os.rename("data", "elsewhere")
    return run


def read(name):
    return torch.load(FOLDER / name, weights_only=True)


def test_a_published_file_holds_one_generator_in_half_precision_and_nothing_of_the_machine(
    run, script
):
    done = script("publish.py", "--name", "run")
    assert done.code == 0, done.err
    assert sorted(os.listdir(FOLDER)) == sorted([*PUBLISHED.values(), DISCRIMINATORS])
    for direction, name in PUBLISHED.items():
        state = read(name)
        assert state["direction"] == direction
        assert (state["epoch"], state["steps"], state["seed"]) == (3, 9, 5)
        assert state["options"] == {
            "generator": "resnet",
            "ngf": 4,
            "n_blocks": 1,
            "image_size": 64,
            "crop": "celeba",
        }
        assert state.keys() == {
            "published",
            "direction",
            "options",
            "weights",
            "epoch",
            "steps",
            "seed",
        }
        assert {value.dtype for value in state["weights"].values()} == {torch.float16}
        content = (FOLDER / name).read_bytes()
        assert b"anime" not in content and str(run).encode() not in content
    assert done.out.count("grey levels") == 2


@pytest.mark.parametrize("kwargs", [{}, {"generator": "sagan"}, {"ema": 0}])
def test_a_published_model_translates_as_its_run_to_half_precision(save_run, script, kwargs):
    save_run(**kwargs)
    assert script("publish.py", "--name", "run").code == 0
    x = 2 * torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 1
    run, _ = load_generators(Path("model_ckpt/run"), [], 4)
    both, found = load_generators(FOLDER, [], 4)
    assert both.directions == ["AtoB", "BtoA"] and (found.epoch, found.steps) == (3, 9)
    for direction, name in PUBLISHED.items():
        one, _ = load_generators(FOLDER / name, [], 4)
        assert one.directions == [direction]
        expected = run.translate(x, direction)
        for model in (both, one):
            fakes, recs = model.translate(x, direction)
            assert (fakes - expected[0]).abs().max() < 0.02
            assert (recs is None) == (model is one)


def test_published_files_are_replaced_only_when_asked_and_never_too_large(run, script, monkeypatch):
    assert script("publish.py", "--name", "run").code == 0
    again = script("publish.py", "--name", "run")
    assert again.code == 2 and "--overwrite" in again.err
    assert script("publish.py", "--name", "run", "--overwrite").code == 0
    model, found = load_generators(Path("model_ckpt/run"), [], 4)
    monkeypatch.setattr(publish, "MOST_BYTES", 20_000)
    with pytest.raises(publish.UserError, match="at most 0.0 MB.*--ngf"):
        publish.published(found, model.opt, "AtoB")


def test_the_default_generators_fit_a_published_file():
    with torch.device("meta"):
        count = sum(p.numel() for p in ResnetGenerator(64, 6).parameters())
    assert 2 * count + 100_000 < publish.MOST_BYTES


def test_without_any_run_the_published_model_translates_the_bundled_inputs(clone, script):
    done = script("test.py", *HERE)
    assert done.code == 0, done.err
    assert f"Model: {FOLDER} (published)" in done.out
    assert f"{Path('test_image/inputs/anime')}: 12 images" in done.out
    kinds = ("anime_real", "anime_test", "person_real", "person_test")
    assert sorted(p.stem for p in Path("test_image").glob("*.png")) == [f"0__{k}" for k in kinds]
    first = np.array(Image.open("test_image/inputs/person/00.png"))
    assert (np.array(Image.open("test_image/0__person_real.png"))[2:66, 2:66] == first).all()


def test_folders_that_are_given_replace_the_bundled_inputs_and_a_run_the_published_model(
    clone, script, save_run
):
    os.mkdir("few")
    shutil.copy("test_image/inputs/anime/03.png", "few/03.png")
    done = script("test.py", *HERE, "--ckpt", FOLDER, "--domain_A_path", "few")
    assert done.code == 0 and "few: 1 images" in done.out, done.err
    done = script("test.py", *HERE, "--direction", "AtoB", "--output", "one_way")
    assert done.code == 0 and len(os.listdir("one_way")) == 3, done.err

    shutil.copytree("elsewhere", "data", dirs_exist_ok=True)
    save_run("own")
    assert Path("own/latest.pth").as_posix() in script("test.py", *HERE).out.replace("\\", "/")
    done = script("test.py", *HERE, "--ckpt", FOLDER)
    assert "published" in done.out and "inputs" in done.out


def test_one_file_of_the_published_translates_its_direction_only(clone, script):
    person_to_anime = FOLDER / "person_to_anime.pth"
    done = script("test.py", *HERE, "--ckpt", person_to_anime, "--output", "out")
    assert done.code == 0, done.err
    assert sorted(os.listdir("out")) == ["0__anime_test.png", "0__person_real.png", "index.html"]
    done = script("test.py", *HERE, "--ckpt", person_to_anime, "--direction", "AtoB")
    assert done.code == 2 and "--direction AtoB" in done.err and "BtoA" in done.err
    assert done.err.count("\n") == 1


def test_a_published_model_is_measured_with_memorisation_where_training_folders_are_named(
    clone, script
):
    folders = ("--domain_A_path", "elsewhere/anime", "--domain_B_path", "elsewhere/person")
    done = script("evaluate.py", *HERE, "--ckpt", FOLDER, *folders)
    assert done.code == 0, done.err
    results = json.loads(Path("results.json").read_text())
    assert results["checkpoint"]["epoch"] == 3 and results["checkpoint"]["steps"] == 9
    assert "cycle_l1" in results["BtoA"] and "memorisation" not in results["BtoA"]

    again = ("--overwrite",)
    trained = ("--train_A_path", "elsewhere/anime", "--train_B_path", "elsewhere/person")
    assert script("evaluate.py", *HERE, "--ckpt", FOLDER, *folders, *trained, *again).code == 0
    results = json.loads(Path("results.json").read_text())
    assert results["AtoB"]["memorisation"]["N_training"] == 12

    one = script("evaluate.py", *HERE, "--ckpt", FOLDER / "person_to_anime.pth", *folders, *again)
    assert one.code == 0, one.err
    results = json.loads(Path("results.json").read_text())
    assert "AtoB" not in results and "cycle_l1" not in results["BtoA"]

    none = script("evaluate.py", *HERE, "--ckpt", FOLDER, *again)
    assert none.code == 2 and "--domain_A_path: the model brings none" in none.err


def test_files_of_two_architectures_are_no_model(clone, script):
    state = read("anime_to_person.pth")
    state["options"]["ngf"] = 6
    torch.save(state, FOLDER / "anime_to_person.pth")
    done = script("test.py", *HERE)
    assert done.code == 2 and "two architectures" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda s: s.update(published=9), "format 9"),
        (lambda s: s.pop("weights"), "weights"),
        (lambda s: s["weights"].pop("model.1.bias"), "model.1.bias"),
        (lambda s: s["weights"].update(more=torch.zeros(1)), "more"),
        (lambda s: s["options"].update(generator="other"), "other"),
        (lambda s: s["options"].update(ngf="many"), "option ngf"),
        (lambda s: s["options"].pop("ngf"), "does not fit"),
    ],
)
def test_a_broken_published_file_is_one_line(clone, script, change, words):
    state = read("person_to_anime.pth")
    change(state)
    torch.save(state, FOLDER / "person_to_anime.pth")
    done = script("test.py", *HERE, "--ckpt", FOLDER / "person_to_anime.pth")
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err


def test_a_run_of_the_sagan_generator_is_published_without_spectral_norm(save_run, script):
    save_run(generator="sagan")
    assert script("publish.py", "--name", "run").code == 0
    weights = read("person_to_anime.pth")["weights"]
    assert "decoder.0.weight" in weights
    assert not any("parametrizations" in key for key in weights)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_git_takes_the_published_model_and_the_bundled_inputs_and_no_other_outputs():
    def ignored(path):
        command = ["git", "check-ignore", "-q", "--no-index", path]
        return subprocess.run(command, cwd=ROOT).returncode == 0

    for kept in (
        "model_ckpt/pretrained/person_to_anime.pth",
        "test_image/inputs/anime/0.png",
        "test_image/inputs/person/0.png",
        "model_ckpt/README.md",
    ):
        assert not ignored(kept), kept
    for other in (
        "model_ckpt/run/latest.pth",
        "model_ckpt/pretrained/latest.pth",
        "test_image/0__anime_real.png",
        "test_image/other/0.png",
    ):
        assert ignored(other), other


def test_a_new_run_starts_from_all_four_published_nets(run, script):
    done = script("publish.py", "--name", "run")
    assert done.code == 0 and "discriminators.pth" in done.out, done.err
    short = ("--niter", 1, "--niter_decay", 0, "--batch_size", 4, *HERE)
    done = script("train.py", "--init_from", FOLDER, "--name", "tuned", *short)
    assert done.code == 0, done.err
    assert "randomly initialised" not in done.out and "Warm start" not in done.out
    before = read_generators(Path("model_ckpt/run/latest.pth")).nets["netD_A"]
    after = read_generators(FOLDER).nets["netD_A"]
    assert all(torch.equal(before[key].half().float(), after[key]) for key in before)


def test_discriminators_alone_translate_nothing_and_old_ones_do_not_stay(run, script, save_run):
    assert script("publish.py", "--name", "run").code == 0
    done = script("test.py", "--ckpt", FOLDER / "discriminators.pth", *HERE)
    assert done.code == 2 and "discriminators alone" in done.err
    done = script("publish.py", "--ckpt", FOLDER / PUBLISHED["AtoB"], "--overwrite")
    assert done.code == 0 and not (FOLDER / "discriminators.pth").exists()
