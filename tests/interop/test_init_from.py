"""train.py --init_from: new runs from nets that exist, whoever made them."""

from pathlib import Path

import pytest
import torch
from test_layouts import GENERATOR, cyclegan_generator, original_file

from arguments import train_options
from common.errors import UserError
from cyclegan_model import CycleGANModel
from interop.generators import initialised_options, load_generators, start_from
from interop.layouts import read_generators

HERE = ["--gpu_ids", "-1", "--amp", "off"]


@pytest.fixture(autouse=True)
def seeded(workplace):
    GENERATOR.manual_seed(0)


def pictures(n=2, size=64):
    return 2 * torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) - 1


def begin(path, *flags):
    """The model of a new run, as train.py makes it."""
    opt, given = train_options([*HERE, "--init_from", str(path), *map(str, flags)])
    found = read_generators(Path(path))
    model = CycleGANModel(initialised_options(opt, given, found))
    start_from(model, found)
    return model


def translations(model, x):
    return torch.cat([model.translate(x, d, and_back=False)[0] for d in ("AtoB", "BtoA")])


@pytest.mark.parametrize("layout", ["run", "sagan run", "published", "original", "cyclegan"])
def test_a_new_run_starts_with_the_outputs_of_the_file(train, script, layout):
    path = "model_ckpt/old"
    if "run" in layout or layout == "published":
        flags = ("--generator", "sagan") if "sagan" in layout else ()
        assert train("--name", "old", "--niter", 1, "--niter_decay", 0, *flags).code == 0
        if layout == "published":
            assert script("publish.py", "--name", "old", "--output", "out").code == 0
            path = "out"
    elif layout == "original":
        path = "iter.pth"
        original_file(path, 8)
    else:
        path = "theirs"
        Path(path).mkdir()
        for name in ("G_A", "G_B"):
            torch.save(cyclegan_generator(4, 2), f"{path}/latest_net_{name}.pth")
    old, _ = load_generators(Path(path), [], 2, image_size=64)
    new = begin(path, "--ndf", 4)
    x = pictures()
    expected = translations(old, x)
    # Spectral norm, put on anew, scales what an instance norm follows.
    tolerance = 0.02 if new.opt.generator == "sagan" else 1e-6
    assert (translations(new, x) - expected).abs().max() < tolerance
    new.opt.ema = 0  # and so do the nets that are trained
    assert (translations(new, x) - expected).abs().max() < tolerance

    new.opt.ema = 0.999
    for _ in range(2):
        new.set_input(x, x)
        new.optimize_parameters()
    assert (translations(new, x) - expected).abs().max() > 1e-4  # the optimiser has those nets
    new.load_state_dict(new.state_dict())


def test_a_run_brings_its_discriminators_and_a_published_model_does_not(train, script):
    assert train("--name", "old", "--niter", 1, "--niter_decay", 0).code == 0
    old = torch.load("model_ckpt/old/latest.pth", weights_only=True)["model"]["nets"]
    new = begin("model_ckpt/old")
    for name in ("netD_A", "netD_B"):
        state = new.nets[name].state_dict()
        assert all(torch.equal(state[key], old[name][key]) for key in old[name])
    assert script("publish.py", "--name", "old", "--output", "out").code == 0
    new = begin("out", "--ndf", 4)
    key = "model.0.parametrizations.weight.original"
    assert not torch.equal(new.nets["netD_A"].state_dict()[key], old["netD_A"][key])


def test_one_published_direction_leaves_the_other_to_chance(train, script, capsys):
    assert train("--name", "old", "--niter", 1, "--niter_decay", 0).code == 0
    assert script("publish.py", "--name", "old", "--output", "out").code == 0
    model = begin("out/person_to_anime.pth", "--ndf", 4)
    assert (
        "netG_B; netG_A, netG_A_ema, netD_A, netD_B randomly initialised" in capsys.readouterr().out
    )
    old, _ = load_generators(Path("out"), [], 2)
    x = pictures()
    expected = old.translate(x, "BtoA", and_back=False)[0]
    assert torch.allclose(model.translate(x, "BtoA", and_back=False)[0], expected, atol=1e-6)


def test_what_shapes_the_nets_is_taken_over_and_contradictions_name_the_flag(train, script):
    assert (
        train(
            "--name",
            "old",
            "--niter",
            1,
            "--niter_decay",
            0,
            "--crop",
            "celeba",
            "--discriminator",
            "patch",
        ).code
        == 0
    )
    path = Path("model_ckpt/old")
    found = read_generators(path)

    def options(*flags, found=found):
        return initialised_options(*train_options([*HERE, "--init_from", "x", *flags]), found)

    opt = options("--lr_G", "0.5")
    assert (opt.ngf, opt.n_blocks, opt.ndf, opt.discriminator) == (4, 1, 4, "patch")
    assert (opt.crop, opt.lr_G, opt.niter, opt.batch_size) == ("celeba", 0.5, 100, 64)
    assert options("--ngf", "4", "--image_size", "96").image_size == 96  # the nets take any
    assert options("--demo").ngf == 4
    for flag, value in (
        ("--ngf", "8"),
        ("--n_blocks", "2"),
        ("--generator", "unet"),
        ("--ndf", "8"),
        ("--discriminator", "sagan"),
    ):
        with pytest.raises(UserError, match=f"{flag} {value}: --init_from .*leave {flag} out"):
            options(flag, value)
    with pytest.raises(UserError, match="wgan: makes --no-spectral_norm .*there are --spectral_n"):
        options("--gan_mode", "wgan")

    assert script("publish.py", "--name", "old", "--output", "out").code == 0
    Path("out/discriminators.pth").unlink()
    found = read_generators(Path("out"))
    opt = options("--gan_mode", "wgan", "--ndf", "8", found=found)
    assert (opt.ngf, opt.ndf, opt.spectral_norm) == (4, 8, False)


def test_discriminators_of_another_objective_are_refused_unless_they_are_asked_for(train, script):
    short = ("--niter", 1, "--niter_decay", 0, "--gan_mode", "wgan")
    assert train("--name", "old", *short).code == 0
    found = read_generators(Path("model_ckpt/old"))

    def options(*flags):
        return initialised_options(*train_options([*HERE, "--init_from", "x", *flags]), found)

    for mode in ([], ["--gan_mode", "sn"], ["--gan_mode", "relativistic"]):
        with pytest.raises(UserError, match="makes --discriminator sagan .*--discriminator patch"):
            options(*mode)
    assert options("--gan_mode", "wgangp").n_critic == 5
    opt = options("--gan_mode", "lsgan", "--discriminator", "patch", "--no-spectral_norm")
    assert (opt.discriminator, opt.spectral_norm, opt.n_critic) == ("patch", False, 1)


def test_discriminators_that_a_run_brings_are_not_warmed(train, script):
    assert train("--name", "old", "--niter", 1, "--niter_decay", 0).code == 0
    few = ["--batch_size", 4, "--niter", 1, "--niter_decay", 0, "--gpu_ids", -1]
    done = script("train.py", "--init_from", "model_ckpt/old", *few, "--warm_steps", 2)
    assert done.code == 2 and done.err.startswith(
        "error: --warm_steps 2: --init_from model_ckpt/old"
    )
    done = script("train.py", "--init_from", "model_ckpt/old", *few)
    assert done.code == 0 and "Warm start" not in done.out


def test_init_from_trains_a_run_that_resumes_without_the_file(train, script):
    assert train("--name", "old", "--niter", 1, "--niter_decay", 0).code == 0
    assert script("publish.py", "--name", "old", "--output", "out").code == 0
    Path("out/discriminators.pth").unlink()
    few = ["--batch_size", 4, "--ndf", 4, "--niter_decay", 0, "--gpu_ids", -1, "--warm_steps", 2]
    done = script("train.py", "--init_from", "out", "--name", "new", "--niter", 1, *few)
    assert done.code == 0 and "Starting from out (published): netG_A" in done.out
    assert "Warm start: loss of the discriminators" in done.out
    for file in Path("out").iterdir():
        file.unlink()
    done = script("train.py", "--resume", "--name", "new", "--niter", 2)
    assert done.code == 0, done.err

    done = script("train.py", "--resume", "--init_from", "out")
    assert done.code == 2 and "--init_from" in done.err and done.err.count("\n") == 1
    done = script("train.py", "--init_from", "out", "--name", "newer")
    assert done.code == 2 and "out: no generators in this folder" in done.err
    torch.save(cyclegan_generator(4, 1), "latest_net_G.pth")
    done = script("train.py", "--init_from", "latest_net_G.pth")
    assert done.code == 2 and "latest_net_G_A.pth" in done.err and done.err.count("\n") == 1
