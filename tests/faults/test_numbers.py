"""NaN and infinity put into everything that training holds: it stops, says what, saves nothing."""

import math
import re
from pathlib import Path

import pytest
import torch
from compare import same
from conftest import COUNTS
from test_dtn_model import new_model
from test_train import assert_same_run, load

from common.errors import UserError
from common.health import NonFiniteLoss
from cyclegan_model import CycleGANModel
from dtn.encoder import Encoder, save_encoder
from dtn.model import DTNModel
from storage.checkpoint import load_checkpoint
from translation_model import TranslationModel

NAN, INF = math.nan, math.inf
MODELS = {"cyclegan": CycleGANModel, "dtn": DTNModel}


def first_key(model, net):
    return f"{net}.{next(iter(model.nets[net].named_parameters()))[0]}"


def parameter(model, net):
    return next(model.nets[net].parameters())


def first_of(tensor):
    return tensor[(0,) * tensor.dim()]  # a view, also of channels_last


def optimizer_of(model, net):
    return model.optimizer_D if net.startswith("netD") else model.optimizer_G


@torch.no_grad()
def spoil(model, place, net, value):
    """Put a value into one number of a model's place; returns a pattern that a message must fit."""
    if place == "batch":
        for name in ("real_A", "real_B") if isinstance(model, CycleGANModel) else ("source",):
            getattr(model, name)[0, 0, 0, 0] = value
        return "^loss "
    if place == "gradient":
        handle = parameter(model, net).register_hook(lambda grad: handle.remove() or grad * value)
        return f"^the gradient of {re.escape(first_key(model, net))} has the norm (nan|inf)"
    if place == "weight":
        first_of(parameter(model, net)).fill_(value)
        return f"^loss .*, and weight {re.escape(first_key(model, net))} is not finite"
    if place == "average":
        first_of(parameter(model, f"{net}_ema")).fill_(value)
        return f"average {re.escape(first_key(model, f'{net}_ema'))} is not finite"
    if place == "pool":
        model.pool_A.images[:, 0, 0, 0] = value
        return "^loss D_A .*, and pool_A is not finite"
    state = optimizer_of(model, net).state[parameter(model, net)]
    first_of(state[place]).fill_(value)
    return f"Adam's {place} of {re.escape(first_key(model, net))} is not finite"


def places(model):
    nets = ("netG_A", "netD_B") if model == "cyclegan" else ("netG", "netD")
    for place in ("gradient", "weight", "exp_avg", "exp_avg_sq"):
        yield from ((place, net) for net in nets)
    yield from (("batch", nets[0]), ("average", nets[0]))
    if model == "cyclegan":
        yield "pool", nets[0]


def make(options, name):
    if name == "dtn":
        return new_model(options(model="dtn", ngf=2))
    return CycleGANModel(options())


def feed(model, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, model.opt.batch_size, 3, 64, 64)
    model.set_input(*(torch.rand(shape, generator=generator) * 2 - 1).unbind())


CASES = [(model, *where) for model in MODELS for where in places(model)]


@pytest.mark.parametrize("name,place,net", CASES)
def test_what_is_not_finite_is_named_with_its_step_and_never_saved(options, long, name, place, net):
    for value in (NAN, INF) if long else (NAN if CASES.index((name, place, net)) % 2 else INF,):
        spoil_a_step(make(options, name), place, net, value)


def spoil_a_step(model, place, net, value):
    model.update_learning_rate(0)
    for seed in (1, 2):
        feed(model, seed)
        model.optimize_parameters()
    model.fetch_losses()
    feed(model, 3)
    pattern = spoil(model, place, net, value)
    model.optimize_parameters()
    for attempt in (model.state_dict, model.fetch_losses):
        with pytest.raises(NonFiniteLoss, match=pattern) as caught:
            attempt()
        assert " at step 3" in str(caught.value) and "\n" not in str(caught.value)
    COUNTS["numbers spoilt"] += 1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("place", ["batch", "gradient"])
def test_from_a_bad_step_on_weights_and_adam_stay_as_they_were(options, name, place):
    model = make(options, name)
    model.update_learning_rate(0)
    feed(model, 1)
    model.optimize_parameters()
    model.fetch_losses()
    nets = {k: net for k, net in model.nets.items() if not k.endswith("_ema")}
    before = [p.clone() for net in nets.values() for p in net.parameters()]
    feed(model, 2)
    spoil(model, place, "netG_A" if name == "cyclegan" else "netG", NAN)
    for seed in (3, 4, 5):
        model.optimize_parameters()
        feed(model, seed)
    assert same(before, [p for net in nets.values() for p in net.parameters()])
    steps = {
        int(s["step"]) for o in (model.optimizer_G, model.optimizer_D) for s in o.state.values()
    }
    assert steps == {1}
    with pytest.raises(NonFiniteLoss, match="at step 2"):
        model.fetch_losses()


def test_clipped_weights_do_not_hide_that_they_were_infinite(options):
    model = CycleGANModel(options(gan_mode="wgan"))
    model.update_learning_rate(0)
    feed(model, 1)
    with torch.no_grad():
        parameter(model, "netD_A")[:] = INF
    model.optimize_parameters()
    with pytest.raises(NonFiniteLoss, match=r"loss .* at step 1"):
        model.state_dict()


def test_large_numbers_whose_squares_overflow_are_finite(options):
    model = CycleGANModel(options())
    with torch.no_grad():
        parameter(model, "netG_A").fill_(1e30)
    model.state_dict()


@pytest.fixture
def spoilt_run(train, train_dtn, script, monkeypatch):
    """Train a run named `spoilt` into a bad number in a step, and resume it without."""

    def run(name, place, step):
        command = train if name == "cyclegan" else train_dtn
        net = "netG_A" if name == "cyclegan" else "netG"
        flags = ("--ema", 0.9, "--num_workers", 0)
        assert command(*flags, "--name", "unbroken").code == 0
        held = []
        original = MODELS[name].optimize_parameters

        def spoilt_step(self):
            if self.steps + 1 == step:
                spoil(self, place, net, NAN)
            original(self)

        save = TranslationModel.state_dict
        with monkeypatch.context() as patch:
            patch.setattr(MODELS[name], "optimize_parameters", spoilt_step)
            patch.setattr(
                TranslationModel, "state_dict", lambda self: held.append(self.steps) or save(self)
            )
            broken = command(*flags, "--name", "spoilt")
        kept = load("spoilt")
        assert broken.code == 2 and kept["model"]["steps"] == held[-1] < step
        return broken, script("train.py", "--resume", "--name", "spoilt", "--gpu_ids", -1)

    return run


@pytest.mark.parametrize(
    "name,place,step",
    [
        ("cyclegan", "batch", 3),
        ("cyclegan", "exp_avg_sq", 5),
        ("dtn", "weight", 5),
    ],
)
def test_once_the_cause_is_gone_the_run_goes_on_as_if_nothing_had_been(
    workplace, spoilt_run, name, place, step
):
    broken, resumed = spoilt_run(name, place, step)
    lines = [line for line in broken.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in broken.err
    assert f" at step {step}" in lines[0] or "Adam's" in lines[0]
    assert "model_ckpt/spoilt/latest.pth still holds the last good state" in lines[0]
    assert resumed.code == 0, resumed.err
    load_checkpoint("model_ckpt/spoilt/latest.pth")
    assert_same_run("unbroken", "spoilt")
    COUNTS["spoilt runs resumed"] += 1


def test_nets_to_start_from_that_are_not_finite_make_no_run(workplace, train):
    assert train("--name", "run", "--niter", 1, "--niter_decay", 0).code == 0
    state = load("run")
    first_of(next(iter(state["model"]["nets"]["netG_A_ema"].values()))).fill_(NAN)
    torch.save(state, "nan.pth")
    done = train("--name", "new", "--init_from", "nan.pth")
    assert done.code == 2 and "Traceback" not in done.err and "finite" in done.err.splitlines()[-1]
    assert not Path("model_ckpt/new").exists()


def test_a_warm_start_names_the_batch_whose_loss_is_not_finite(workplace, train, monkeypatch):
    calls = []

    def spoilt(idt, real):
        calls.append(len(real))
        return (idt - real).abs().mean() * (NAN if len(calls) == 3 else 1)

    monkeypatch.setattr("cyclegan_model.identity_loss", spoilt)
    done = train("--name", "new", "--warm_steps", 8)
    assert done.code == 2 and "Traceback" not in done.err and len(calls) == 3
    assert "the loss of the warm start became nan at its batch 3; " in done.err
    assert not Path("model_ckpt/new/latest.pth").exists()


def test_an_encoder_with_a_bad_weight_is_not_written(tmp_path):
    encoder = Encoder(2, 6, 64)
    with torch.no_grad():
        first_of(next(encoder.parameters())).fill_(NAN)
    with pytest.raises(UserError, match="not finite"):
        save_encoder(tmp_path / "f.pth", encoder)
    assert not list(tmp_path.iterdir())


def test_the_encoders_training_names_the_step_whose_loss_is_not_finite(workplace, script):
    done = script(
        "pretrain_encoder.py",
        "--domain_A_path",
        "data/anime",
        "--domain_B_path",
        "data/person",
        "--steps",
        6,
        "--batch_size",
        4,
        "--width",
        2,
        "--dim",
        4,
        "--lr",
        1e30,
        "--gpu_ids",
        -1,
        "--output",
        "f.pth",
    )
    assert done.code == 2 and re.search(r"the loss became (nan|inf) at step [1-5];", done.err)
    assert not (workplace / "f.pth").exists()
