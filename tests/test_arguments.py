import re
import shlex

import pytest
import torch
from conftest import ROOT, SOURCES

import arguments
import parsers
from arguments import print_options, resumed_options, train_options
from common.errors import UserError
from common.presets import PRESETS


def scripts_and_modules():
    return {str(path.relative_to(ROOT)): path.read_text() for path in SOURCES}


@pytest.mark.parametrize("parser", [parsers.train_parser, parsers.test_parser])
def test_every_option_is_read_somewhere(parser):
    sources = scripts_and_modules()
    del sources["parsers.py"]
    text = "\n".join(sources.values())
    for action in parser()._actions:
        if action.dest in ("help", "domain_A_path", "domain_B_path"):
            continue
        assert re.search(rf"\bopt\.{action.dest}\b", text), f"--{action.dest} is read nowhere"
    for domain in "AB":
        assert f"opt.domain_{domain}_path" in sources["train.py"]
        assert f'"domain_{domain}_path"' in sources["test.py"]


def test_every_option_has_a_help_text():
    for parser in (parsers.train_parser(), parsers.test_parser()):
        assert all(action.help for action in parser._actions)


@pytest.mark.parametrize("name", ["train.py", "test.py", "evaluate.py", "pretrain_encoder.py"])
def test_help_shows_defaults(script, name):
    shown = script(name, "--help")
    words = " ".join(shown.out.split())  # however wide the terminal is
    assert shown.code == 0 and words.count("(default: ") > 4


@pytest.mark.parametrize("name, read", [("train.py", train_options),
                                        ("test.py", arguments.test_options)])  # fmt: skip
def test_each_group_of_the_help_begins_with_an_example_that_is_taken(script, name, read):
    shown = script(name, "--help").out
    groups = shown.partition("-h, --help")[2].split("\n\n")
    titles = [group for group in groups if re.match(r"\S.*:\n", group)]
    examples = re.findall(rf"^  python {name} (.*)$", shown, flags=re.MULTILINE)
    assert len(examples) == len(titles) + 1 and all(f"  python {name} " in t for t in titles)
    for example in examples:
        read(shlex.split(example))


def test_defaults_are_those_of_the_original():
    opt, given = train_options([])
    expected = {
        "dataset_size": 50000,
        "image_size": 64,
        "batch_size": 64,
        "niter": 100,
        "niter_decay": 100,
        "lr_G": 1e-4,
        "lr_D": 4e-4,
        "beta1": 0.0,
        "beta2": 0.9,
        "n_critic": 1,
        "pool_size": 50,
        "gan_mode": "sn",
        "discriminator": "sagan",
        "spectral_norm": True,
        "init_type": "normal",
        "init_gain": 0.02,
        "ckpt_num": 20,
        "lambda_A": 10.0,
        "lambda_B": 10.0,
        "lambda_idt": 0.5,
        "every_save_images": 1,
    }
    assert {key: getattr(opt, key) for key in expected} == expected
    assert given == {}


@pytest.mark.parametrize("mode", ["wgan", "wgangp"])
def test_wasserstein_modes_default_to_five_critic_steps_and_no_spectral_norm(mode):
    opt, _ = train_options(["--gan_mode", mode])
    assert (opt.n_critic, opt.discriminator, opt.spectral_norm) == (5, "patch", False)
    opt, _ = train_options(["--gan_mode", mode, "--n_critic", "2", "--discriminator", "sagan"])
    assert (opt.n_critic, opt.discriminator) == (2, "sagan")


def test_demo_changes_defaults_but_not_what_is_given():
    opt, given = train_options(["--demo", "--ngf", "8"])
    assert opt.domain_A_path == "data/demo/anime" and opt.ngf == 8
    assert opt.batch_size == arguments.DEMO_DEFAULTS["batch_size"]
    assert given == {"demo": True, "ngf": 8}


@pytest.mark.parametrize(
    "flags,words",
    [
        ("--batch_size 0", ["--batch_size", "0", "at least 1"]),
        ("--batch_size x", ["--batch_size", "x", "whole number"]),
        ("--lr_G 0", ["--lr_G", "above 0"]),
        ("--lr_D nan", ["--lr_D", "nan"]),
        ("--beta2 1", ["--beta2", "1", "below 1"]),
        ("--ema 1.5", ["--ema", "1.5", "below 1"]),
        ("--image_size 50", ["--image_size 50", "multiple of 8"]),
        ("--shift 64", ["--shift 64", "--image_size 64", "4"]),
        ("--image_size 72 --generator unet", ["--image_size 72", "multiple of 32"]),
        ("--image_size 32", ["--image_size 32", "at least 64", "--discriminator patch"]),
        ("--niter 0 --niter_decay 0", ["--niter 0", "--niter_decay 0"]),
        ("--gpu_ids 99", ["--gpu_ids 99", "-1"]),
        ("--gpu_ids a,b", ["--gpu_ids a,b", "0,1,2,3"]),
        ("--gan_mode gan", ["--gan_mode", "gan", "wgangp"]),
        ("--name ../x", ["--name", "../x", "folder name"]),
        ("--nonsense 1", ["--nonsense"]),
        ("--batch 4", ["--batch"]),
    ],
)
def test_bad_values_are_refused_in_one_line_with_flag_value_and_remedy(flags, words):
    with pytest.raises(UserError) as error:
        train_options(flags.split())
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_batch_smaller_than_the_number_of_gpus_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: (9, 0))
    with pytest.raises(UserError, match="--batch_size 3: fewer than the 4 GPUs"):
        train_options("--batch_size 3 --gpu_ids 0,1,2,3".split())
    assert train_options([])[0].gpu_ids == [0]  # the first GPU, where there is one
    assert train_options(["--gpu_ids", "-1"])[0].gpu_ids == []


def test_test_options_that_belong_together_are_asked_for():
    for flags, words in (
        ("--ckpt a --name b", "--name: not allowed with argument --ckpt"),
        ("--input x", "--direction"),
        ("--input x --direction AtoB", "--output"),
        ("--overwrite", "--input"),
    ):
        with pytest.raises(UserError, match=words):
            arguments.test_options(flags.split())


def test_resume_takes_saved_options_under_given_ones():
    saved = vars(train_options("--ngf 8 --niter 3 --seed 7".split())[0])
    opt = resumed_options(saved, {"niter": 5, "resume": True})
    assert (opt.ngf, opt.niter, opt.seed) == (8, 5, 7)


def asked_and_saved(*flags):
    opt = vars(train_options([*flags])[0])
    return opt.pop("asked"), opt


@pytest.mark.parametrize(
    "flags, mode, words",
    [
        ("--gan_mode wgan", "sn", "--discriminator sagan .*trained with --discriminator patch"),
        ("--gan_mode wgangp", "lsgan", "--discriminator sagan .* --discriminator patch, .*cannot"),
        ("", "wgan", "--discriminator patch .* --discriminator sagan"),
        (
            "--discriminator patch",
            "wgan",
            "--gan_mode wgan: makes --no-spectral_norm .*trained with --spectral_norm",
        ),
    ],
)
def test_an_objective_that_would_have_other_discriminators_is_refused(flags, mode, words):
    asked, saved = asked_and_saved(*flags.split())
    with pytest.raises(UserError, match=words):
        resumed_options(saved, {"gan_mode": mode}, "x", asked)


def test_what_followed_from_another_option_follows_from_the_new_one_unless_it_was_asked_for(capsys):
    kept = {"discriminator": "patch", "spectral_norm": False}
    asked, saved = asked_and_saved("--gan_mode", "wgan", "--n_critic", "5")
    opt = resumed_options(saved, {"gan_mode": "sn", **kept}, "x", asked)
    assert (opt.discriminator, opt.spectral_norm, opt.n_critic) == ("patch", False, 5)
    asked, saved = asked_and_saved("--gan_mode", "wgan")
    opt = resumed_options(saved, {"gan_mode": "sn", **kept}, "x", asked)
    assert opt.n_critic == 1 and opt.asked["n_critic"] is None
    arguments.tell_changes(saved, opt)
    told = capsys.readouterr().out
    assert "--gan_mode sn (was wgan), --n_critic 1 (was 5)" in told and told.count("\n") == 1
    opt = resumed_options(saved, {}, "x", asked)
    assert opt.n_critic == 5
    arguments.tell_changes(saved, opt)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("flags, there", [("", "bf16"), ("--amp off", "off")])
def test_amp_auto_is_worked_out_anew_where_a_run_goes_on(monkeypatch, capsys, flags, there):
    monkeypatch.setattr(arguments, "resolve_amp", lambda amp, _: "off" if amp == "auto" else amp)
    asked, saved = asked_and_saved(*flags.split())
    assert saved["amp"] == "off"
    monkeypatch.setattr(arguments, "resolve_amp", lambda amp, _: "bf16" if amp == "auto" else amp)
    opt = resumed_options(saved, {}, "x", asked)
    arguments.tell_changes(saved, opt)
    assert opt.amp == there and ("--amp bf16 (was off)" in capsys.readouterr().out) == (not flags)


def test_checkpoints_of_other_versions_may_lack_options_or_have_more():
    saved = vars(train_options("--ngf 8".split())[0])
    del saved["amp"]
    opt = resumed_options({**saved, "of_the_future": 1}, {})
    assert opt.ngf == 8 and opt.amp in ("bf16", "off") and not hasattr(opt, "of_the_future")


@pytest.mark.parametrize(
    "flag,value",
    [("ngf", 16), ("generator", "unet"), ("attention", False), ("ema", 0.0), ("ndf", 8)],
)
def test_resume_refuses_another_architecture_by_name(flag, value):
    saved = vars(train_options([])[0])
    with pytest.raises(UserError, match=f"--{flag}: {value} .*{saved[flag]}"):
        resumed_options(saved, {flag: value})


def test_bf16_is_chosen_where_the_hardware_has_it_and_refused_where_not(monkeypatch):
    for able in (True, False):
        cpu = torch.cpu
        monkeypatch.setattr(cpu, "_is_avx512_bf16_supported", lambda able=able: able)
        monkeypatch.setattr(cpu, "_is_amx_tile_supported", lambda: False)
        assert arguments.resolve_amp("auto", []) == ("bf16" if able else "off")
        assert arguments.resolve_amp("off", []) == "off"
    with pytest.raises(UserError, match="--amp bf16: .*--amp off"):
        arguments.resolve_amp("bf16", [])


def test_compile_with_data_parallel_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: (9, 0))
    with pytest.raises(UserError, match="--compile: .*torchrun --nproc_per_node=2"):
        train_options("--compile --gpu_ids 0,1".split())
    # torchrun: a process for each of them
    monkeypatch.setattr(arguments.distributed, "by_torchrun", lambda: True)
    assert train_options("--compile --gpu_ids 0,1".split())[0].compile


def test_a_run_of_an_older_version_goes_on_as_it_was():
    saved = vars(train_options(["--generator", "resnet"])[0])
    for key in ("generator", "shift", "warm_steps", "cycle_pool"):
        del saved[key]
    opt = resumed_options(saved, {}, "old.pth")
    assert (opt.generator, opt.shift, opt.warm_steps, opt.cycle_pool) == ("resnet", 0, 0, 1)


# ---- presets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_under_what_is_given_beside_it_and_over_the_defaults(name):
    opt, _ = train_options(["--preset", name, "--lr_G", "0.125"])
    assert (opt.preset, opt.lr_G) == (name, 0.125)
    assert {**PRESETS[name], "lr_G": 0.125}.items() <= vars(opt).items()
    usual = vars(train_options([])[0])
    assert all(usual[key] != value for key, value in PRESETS[name].items()), "a line says nothing"


def test_a_resumed_run_keeps_its_preset():
    saved = vars(train_options(["--preset", "faces"])[0])
    assert resumed_options(saved, {"resume": True}).preset == "faces"
    with pytest.raises(UserError, match="--preset"):
        resumed_options(saved, {"resume": True, "preset": "cyclegan"})
    with pytest.raises(UserError, match="--preset"):
        train_options(["--preset", "faces", "--demo"])


def test_a_preset_is_no_deviation_of_which_a_run_is_told(capsys):
    print_options(train_options(["--preset", "faces"])[0])
    assert "[default" not in capsys.readouterr().out.replace("preset: faces", "")
