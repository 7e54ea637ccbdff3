"""Whole checkpoints that hold nonsense: one line from every script that takes them."""

import copy
import importlib.util
import re
from pathlib import Path

import pytest
import torch
from conftest import COUNTS
from hostile_files import run_state

from common.errors import UserError
from dtn.encoder import Encoder, load_encoder, save_encoder
from dtn.model import DTNModel
from storage.files import read_tensors, write_tensors

FILE = Path("x.pth")
pytestmark = pytest.mark.usefixtures("nothing_is_executed")


def put(*path, value):
    """A change of a checkpoint: the value at that place, or what a function makes of it."""

    def change(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value(state[path[-1]]) if callable(value) else value

    return change


def first_weight(net, make):
    def change(state):
        weights = state["model"]["nets"][net]
        key = next(iter(weights))
        weights[key] = make(weights[key])

    return change


def first_moments(make):
    return put("model", "optimizer_G", "state", value=lambda s: {**s, 0: make(s[0])})


def without(*path):
    def change(state):
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return change


DEEP = ()
for _ in range(200):
    DEEP = [DEEP]
EVERYWHERE = {
    "a newer format": put("format", value=2),
    "a format that is a tensor": put("format", value=torch.ones(2)),
    "a format without end": put("format", value=DEEP),
    "an epoch that is a word": put("epoch", value="x"),
    "an epoch below 0": put("epoch", value=-1),
    "an epoch that is NaN": put("epoch", value=float("nan")),
    "a batch that is a tensor": put("batch", value=torch.zeros(2)),
    "totals that are a word": put("totals", value="G_A"),
    "totals of words": put("totals", value={"G_A": ["a", "b"]}),
    "totals over no steps": put("totals", value={"G_A": [1.0, 0]}),
    "no options": put("options", value=None),
    "options that are no dict": put("options", value=[1]),
    "options by number": put("options", value={1: 2}),
    "a width of 1,000 million": put("options", "ngf", value=10**9),
    "a width that fits the limit": put("options", "ngf", value=65536),
    "a width that is a word": put("options", "ngf", value="many"),
    "a width below 1": put("options", "ngf", value=-4),
    "a width that is a list": put("options", "ngf", value=[4]),
    "1,000 million blocks": put("options", "n_blocks", value=10**9),
    "an unknown generator": put("options", "generator", value="best"),
    "a generator that is a list": put("options", "generator", value=[]),
    "an unknown model": put("options", "model", value="gpt"),
    "an image size of 1,000 million": put("options", "image_size", value=10**9),
    "a seed beyond 64 bits": put("options", "seed", value=2**70),
    "a flag that is a word": put("options", "attention", value="maybe"),
    "a path that no system takes": put("options", "domain_A_path", value="data\0"),
    "no nets": without("model", "nets"),
    "nets that are a list": put("model", "nets", value=[]),
    "a net that is a word": put("model", "nets", "netG_A_ema", value="x"),
    "nets by number": put("model", "nets", value=lambda nets: {1: nets["netG_A"]}),
    "a net missing": without("model", "nets", "netG_B"),
    "no steps": without("model", "steps"),
    "steps that are a word": put("model", "steps", value="x"),
    "a weight that is a word": first_weight("netG_A_ema", lambda w: "x"),
    "a weight of whole numbers": first_weight("netG_A_ema", lambda w: w.long()),
    "a complex weight": first_weight("netG_A_ema", lambda w: w.to(torch.complex64)),
    "a weight of another shape": first_weight("netG_A_ema", lambda w: w[1:]),
    "a weight that is NaN": first_weight("netG_A_ema", lambda w: w * float("nan")),
    "an infinite weight": first_weight("netG_A_ema", lambda w: w + float("inf")),
    "a weight too many": put(
        "model", "nets", "netG_A_ema", value=lambda w: {**w, "more": torch.zeros(1)}
    ),
    "a weight missing": put(
        "model", "nets", "netG_A_ema", value=lambda w: dict(list(w.items())[1:])
    ),
}
ONLY_FOR_TRAINING = {
    "an optimizer missing": without("model", "optimizer_G"),
    "an optimizer that is a word": put("model", "optimizer_G", value="x"),
    "an optimizer of other weights": put("model", "optimizer_G", "param_groups", value=[{}]),
    "moments of other shapes": first_moments(lambda m: {**m, "exp_avg": torch.zeros(1)}),
    "moments that are NaN": first_moments(lambda m: {**m, "exp_avg": m["exp_avg"] * float("nan")}),
    "moments missing": first_moments(lambda m: {"step": m["step"]}),
    "moments by name": put("model", "optimizer_G", "state", value={"x": {}}),
    "no chance": put("model", "generator", value=torch.zeros(3, dtype=torch.uint8)),
    "chance of floats": put("model", "generator", value=lambda s: s.float()),
    "a pool of words": put("model", "pool_A", value="x"),
    "a pool of other images": put("model", "pool_A", value=torch.zeros(1, 3, 8, 8)),
    "a pool that is NaN": put("model", "pool_A", value=lambda p: p * float("nan")),
    "a discriminator of NaN": first_weight("netD_A", lambda w: w * float("nan")),
    "a discriminator missing": without("model", "nets", "netD_A"),
    "a net too many": put("model", "nets", "netX", value={}),
}
# What a script has no use for; a dry run looks at the sizes of nets, not into them.
UNREAD = {
    "resume": "",
    "dry_run": "a net missing|.* weight.*|.*steps.*",
    "init_from": "a net missing|an unknown model|.*(seed|flag|path) .*",
}
TRAINED = ["train.py", "--resume", "--name", "run"]
SCRIPTS = {
    "resume": TRAINED,
    "dry_run": [*TRAINED, "--dry_run"],
    "init_from": ["train.py", "--init_from", "model_ckpt/run/latest.pth", "--gpu_ids", "-1"],
    "test": ["test.py", "--ckpt", "model_ckpt/run/latest.pth"],
    "name": ["test.py", "--name", "run"],
    "evaluate": ["evaluate.py", "--ckpt", "model_ckpt/run/latest.pth"],
    "publish": ["publish.py", "--ckpt", "model_ckpt/run/latest.pth", "--output", "out"],
    "onnx": ["export_onnx.py", "--ckpt", "model_ckpt/run/latest.pth"],
}


@pytest.fixture(scope="module")
def run():
    return run_state()


def one_line(script, command, mark):
    done = script(*command)
    assert done.code == 2, (command, done.out, done.err)
    assert done.err.count("\n") == 1 and done.err.startswith("error: "), done.err
    assert mark in done.err and len(done.err) < 5000, done.err
    COUNTS["hostile checkpoints"] += 1


@pytest.mark.parametrize("kind", EVERYWHERE)
def test_nonsense_in_a_checkpoint_is_one_line_from_every_script(workplace, script, run, kind):
    state = {"format": 1, **copy.deepcopy(run)}
    EVERYWHERE[kind](state)
    write_tensors(Path("model_ckpt/run/latest.pth"), state)
    onnx = importlib.util.find_spec("onnxruntime")
    for name, command in SCRIPTS.items():
        unread = UNREAD.get(name, "a net missing")  # most take files of one generator
        if not re.fullmatch(unread, kind) and (name != "onnx" or onnx):
            one_line(script, command, "latest.pth")


@pytest.mark.parametrize("kind", ONLY_FOR_TRAINING)
def test_nonsense_that_only_training_reads_is_one_line_from_it(workplace, script, run, kind):
    state = {"format": 1, **copy.deepcopy(run)}
    ONLY_FOR_TRAINING[kind](state)
    write_tensors(Path("model_ckpt/run/latest.pth"), state)
    one_line(script, TRAINED, "latest.pth")
    assert not Path("save_image").exists()


ENCODERS = {
    "a width of 1,000 million": {"width": 10**9, "dim": 4, "image_size": 64},
    "features without number": {"width": 2, "dim": "x", "image_size": 64},
    "images of 1,000 million": {"width": 2, "dim": 4, "image_size": 10**9},
    "a net of another kind": {"resnet": "resnet9000"},
    "a net of torchvision": {"resnet": "resnet18"},
    "a list": [1],
    "nothing": None,
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_nonsense_for_an_encoder_is_one_line(workplace, script, options, kind):
    encoder, latest = Encoder(2, 4, 64), "model_ckpt/run/latest.pth"
    model = DTNModel(options(model="dtn", ngf=2, ema=0), encoder)
    state = {
        "format": 1,
        "options": vars(model.opt),
        "epoch": 0,
        "batch": 0,
        "totals": {},
        "model": {**model.state_dict(), "encoder_options": ENCODERS[kind]},
    }
    write_tensors(Path(latest), state)
    for command in (
        TRAINED,
        [*TRAINED, "--dry_run"],
        ["test.py", "--ckpt", latest],
        ["evaluate.py", "--ckpt", latest],
    ):
        one_line(script, command, "latest.pth")
    weights = encoder.state_dict()
    write_tensors(
        Path("f.pth"), {"format": "encoder-2", "options": ENCODERS[kind], "encoder": weights}
    )
    one_line(script, ["train.py", "--model", "dtn", "--f_encoder", "f.pth"], "f.pth")


def test_encoders_with_other_weights_are_one_line():
    save_encoder(FILE, Encoder(2, 4, 64))
    state = read_tensors(FILE)
    key = "convs.0.weight"
    for make in (
        lambda w: "x",
        lambda w: w.long(),
        lambda w: w.to(torch.complex64),
        lambda w: w[1:],
        lambda w: w * float("nan"),
        lambda w: None,
    ):
        weights = {**state["encoder"], key: make(state["encoder"][key])}
        write_tensors(FILE, {**state, "encoder": weights})
        with pytest.raises(UserError, match="x.pth: "):
            load_encoder(FILE)
    write_tensors(FILE, {**state, "format": torch.zeros(2)})
    with pytest.raises(UserError, match="x.pth: format "):
        load_encoder(FILE)


def test_commands_to_a_terminal_in_names_are_not_printed(workplace, script):
    torch.save({"\x1b[2J\nkey": torch.zeros(1), "\r" * 10**5: torch.zeros(1)}, FILE)
    done = script("test.py", "--ckpt", FILE)
    assert done.code == 2 and len(done.err) < 5000 and done.err.count("\n") == 1
    assert done.err[:-1].isprintable() and "\\x1b[2J\\nkey" in done.err
