"""Generators from elsewhere give their own project's outputs; broken files give one clear line.

What the other projects compute is written down here once more, with torch's functions alone.
"""

import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from cyclegan_model import CycleGANModel
from interop.generators import load_generators
from interop.layouts import read_generators
from storage.checkpoint import save_checkpoint

GENERATOR = torch.Generator()


@pytest.fixture(autouse=True)
def seeded(tmp_path, monkeypatch):
    GENERATOR.manual_seed(0)
    monkeypatch.chdir(tmp_path)


def normal(*shape, scale=None):
    """Numbers of the size that torch gives the weights of a new layer."""
    if scale is None:
        scale = (3 * max(1, torch.Size(shape[1:]).numel())) ** -0.5
    return scale * torch.randn(shape, generator=GENERATOR)


def pictures(n=2, size=64):
    return 2 * torch.rand(n, 3, size, size, generator=GENERATOR) - 1


def load(path, **kwargs):
    return load_generators(Path(path), [], batch_size=2, **kwargs)


def translate(model, x, direction):
    return model.translate(x, direction, and_back=False)[0]


# ------------------------------------------------------------------- anime_person_translation


def original_generator(width):
    """A state dict of its Generator_SA."""
    state = {}
    channels = [3, width, 2 * width, 4 * width, 8 * width, 100]
    for i in range(5):
        c_in, c_out = channels[i], channels[i + 1]
        state[f"up_sample.{3 * i}.weight"] = normal(c_out, c_in, 4, 4)
        state[f"up_sample.{3 * i}.bias"] = normal(c_out)
    channels = [100, 8 * width, 4 * width, 2 * width, width]
    for i in range(1, 5):
        c_in, c_out = channels[i - 1], channels[i]
        state[f"l{i}.0.module.bias"] = normal(c_out)
        state[f"l{i}.0.module.weight_u"] = F.normalize(normal(c_in), dim=0)
        state[f"l{i}.0.module.weight_v"] = F.normalize(normal(c_out * 16), dim=0)
        state[f"l{i}.0.module.weight_matrices"] = normal(c_in, c_out, 4, 4)
    state["last.0.weight"], state["last.0.bias"] = normal(width, 3, 4, 4), normal(3)
    for name, c in (("up_attn1", 2 * width), ("up_attn2", width)):
        state[f"{name}.gamma"] = torch.tensor([0.7])
        for conv, c_out in (("conv_f", max(1, c // 8)), ("conv_g", max(1, c // 8)), ("conv_h", c)):
            state[f"{name}.{conv}.weight"] = normal(c_out, c, 1, 1)
            state[f"{name}.{conv}.bias"] = normal(c_out)
    return state


def original_forward(state, x):
    """What its Generator_SA computes in its first pass after loading."""

    def attention(name, x):
        f, g, h = (
            F.conv2d(x, state[f"{name}.conv_{k}.weight"], state[f"{name}.conv_{k}.bias"]).flatten(2)
            for k in "fgh"
        )
        weights = torch.einsum("bci,bcj->bij", f, g).softmax(-1)  # of position j for position i
        attended = torch.einsum("bij,bcj->bci", weights, h)
        return x + state[f"{name}.gamma"] * attended.reshape(x.shape)

    for i in range(5):
        key = f"up_sample.{3 * i}"
        stride, padding = (2, 1) if i < 4 else (1, 0)
        x = F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], stride, padding)
        x = F.relu(F.instance_norm(x) if i < 4 else x)
    for i in range(1, 5):
        key = f"l{i}.0.module."
        weight = state[f"{key}weight_matrices"]
        rows, u = weight.reshape(len(weight), -1), state[f"{key}weight_u"]
        v = F.normalize(u @ rows, dim=0)
        u = F.normalize(rows @ v, dim=0)
        weight = weight / (u @ rows @ v)
        stride, padding = (2, 1) if i > 1 else (1, 0)
        x = F.conv_transpose2d(x, weight, state[f"{key}bias"], stride, padding)
        x = F.relu(F.instance_norm(x))
        if i == 3:
            x = attention("up_attn1", x)
    x = attention("up_attn2", x)
    return F.conv_transpose2d(x, state["last.0.weight"], state["last.0.bias"], 2, 1).tanh()


def original_file(path, width=64, prefix="module.", change=lambda state: None, **save):
    """Write a checkpoint as its code does, discriminators and loss buffers too; its generators."""
    nets = {"netG_A": original_generator(width), "netG_B": original_generator(width)}
    state = OrderedDict(
        (f"{name}.{prefix}{key}", value) for name, net in nets.items() for key, value in net.items()
    )
    for name in ("netD_A", "netD_B"):
        state[f"{name}.{prefix}l1.0.module.weight_matrices"] = normal(width, 3, 4, 4)
        state[f"{name}.{prefix}attn1.gamma"] = normal(1)
    state["criterionGAN.real_label"] = torch.tensor(1.0)
    change(state)
    torch.save(state, path, **save)
    return nets


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_generators_of_the_original_give_its_outputs_in_both_directions(prefix):
    nets = original_file("iter.pth", 64, prefix, _use_new_zipfile_serialization=False)
    model, found = load("iter.pth")
    assert model.directions == ["AtoB", "BtoA"] and model.opt.image_size == 64
    assert "2018" in found.about and model.opt.generator == "sagan" and model.opt.ngf == 64
    x = pictures(3)
    for direction, name in (("AtoB", "netG_A"), ("BtoA", "netG_B")):
        expected = original_forward(nets[name], x)
        assert expected.std() > 0.1  # neither flat nor saturated
        assert (translate(model, x, direction) - expected).abs().max() < 1e-5


def test_the_originals_half_precision_file_is_taken_too():
    def halve(state):
        state.update({key: value.half() for key, value in state.items()})

    nets = original_file("half.pth", 8, change=halve)
    rounded = {key: value.half().float() for key, value in nets["netG_B"].items()}
    x = pictures()
    model, _ = load("half.pth")
    assert (translate(model, x, "BtoA") - original_forward(rounded, x)).abs().max() < 1e-5


# --------------------------------------------------------------- pytorch-CycleGAN-and-pix2pix


def cyclegan_generator(ngf, n_blocks, second=5, statistics=False):
    """A state dict of its ResnetGenerator; second: number of a block's second convolution."""
    shapes = {"model.1": (ngf, 3, 7, 7), "model.4": (2 * ngf, ngf, 3, 3)}
    shapes["model.7"] = (4 * ngf, 2 * ngf, 3, 3)
    for i in range(10, 10 + n_blocks):
        for conv in (1, second):
            shapes[f"model.{i}.conv_block.{conv}"] = (4 * ngf, 4 * ngf, 3, 3)
    shapes[f"model.{10 + n_blocks}"] = (4 * ngf, 2 * ngf, 3, 3)  # transposed
    shapes[f"model.{13 + n_blocks}"] = (2 * ngf, ngf, 3, 3)  # transposed
    shapes[f"model.{17 + n_blocks}"] = (3, ngf, 7, 7)
    state = {}
    for i, (key, shape) in enumerate(shapes.items()):
        state[f"{key}.weight"] = normal(*shape)
        transposed = i in (len(shapes) - 2, len(shapes) - 3)
        state[f"{key}.bias"] = normal(shape[1] if transposed else shape[0])
    if statistics:
        for key in list(state):
            if key.endswith("bias") and key != f"model.{17 + n_blocks}.bias":
                head, number, _ = key.rsplit(".", 2)
                for kind in ("running_mean", "running_var", "num_batches_tracked"):
                    value = torch.tensor(7) if kind.startswith("num") else state[key] + 3
                    state[f"{head}.{int(number) + 1}.{kind}"] = value
    return state


def cyclegan_forward(state, n_blocks, x, second=5):
    """What its ResnetGenerator computes with instance norm, dropout apart."""

    def conv(x, key, **kwargs):
        return F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], **kwargs)

    def up(x, key):
        weight, bias = state[f"{key}.weight"], state[f"{key}.bias"]
        x = F.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)
        return F.relu(F.instance_norm(x))

    x = F.relu(F.instance_norm(conv(F.pad(x, [3] * 4, "reflect"), "model.1")))
    for key in ("model.4", "model.7"):
        x = F.relu(F.instance_norm(conv(x, key, stride=2, padding=1)))
    for i in range(10, 10 + n_blocks):
        y = conv(F.pad(x, [1] * 4, "reflect"), f"model.{i}.conv_block.1")
        y = F.pad(F.relu(F.instance_norm(y)), [1] * 4, "reflect")
        x = x + F.instance_norm(conv(y, f"model.{i}.conv_block.{second}"))
    x = up(up(x, f"model.{10 + n_blocks}"), f"model.{13 + n_blocks}")
    return conv(F.pad(x, [3] * 4, "reflect"), f"model.{17 + n_blocks}").tanh()


@pytest.mark.parametrize("n_blocks,second,statistics", [(6, 5, False), (9, 5, True), (6, 6, True)])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_generators_of_the_well_known_cyclegan_give_its_outputs(
    n_blocks, second, statistics, prefix
):
    state = cyclegan_generator(4, n_blocks, second, statistics)
    torch.save({prefix + key: value for key, value in state.items()}, "latest_net_G.pth")
    model, found = load("latest_net_G.pth", direction="BtoA", image_size=40)
    assert model.directions == ["BtoA"]
    assert (model.opt.ngf, model.opt.n_blocks, model.opt.image_size) == (4, n_blocks, 40)
    x = pictures(size=40)
    expected = cyclegan_forward(state, n_blocks, x, second)
    assert (translate(model, x, "BtoA") - expected).abs().max() < 1e-5
    assert load(".", direction="BtoA")[0].opt.image_size == 256  # by folder; as it trains there


def test_a_folder_with_g_a_and_g_b_translates_both_ways_its_a_standing_for_ours():
    states = {}
    for name in ("G_A", "G_B"):
        states[name] = cyclegan_generator(4, 2)
        torch.save(states[name], f"latest_net_{name}.pth")
    model, _ = load(".")
    assert model.directions == ["AtoB", "BtoA"]
    x = pictures(size=32)
    for direction, name in (("AtoB", "G_A"), ("BtoA", "G_B")):
        expected = cyclegan_forward(states[name], 2, x)
        assert (translate(model, x, direction) - expected).abs().max() < 1e-5


def test_a_file_of_one_direction_translates_that_one_only_and_not_back():
    torch.save(cyclegan_generator(4, 1), "latest_net_G_A.pth")
    model, _ = load("latest_net_G_A.pth", direction="AtoB")
    fakes, recs = model.translate(pictures(size=32), "AtoB")
    assert fakes.shape == (2, 3, 32, 32) and recs is None
    with pytest.raises(UserError, match="--direction BtoA: .*AtoB only"):
        model.translate(pictures(size=32), "BtoA")
    with pytest.raises(UserError, match="--direction BtoA: . holds only .*AtoB"):
        load(".", direction="BtoA")
    with pytest.raises(UserError, match="latest_net_G_A.pth: .*give --direction AtoB"):
        load("latest_net_G_A.pth")


# ------------------------------------------------------------------------------- our own runs


@pytest.mark.parametrize("kwargs", [{}, {"generator": "sagan"}, {"ema": 0}, {"generator": "unet"}])
def test_a_run_translates_as_its_training_does(options, kwargs):
    trained = CycleGANModel(options(**kwargs))
    for _ in range(2):
        trained.set_input(pictures(), pictures())
        trained.optimize_parameters()
    state = {
        "options": vars(trained.opt),
        "epoch": 1,
        "batch": 0,
        "totals": {},
        "data": {"a": 1},
        "model": trained.state_dict(),
    }
    save_checkpoint(Path("model_ckpt/run/latest.pth"), state)
    x = pictures()
    for path in ("model_ckpt/run/latest.pth", "model_ckpt/run"):
        model, found = load(path)
        assert (found.epoch, found.steps, found.data) == (1, 2, {"a": 1})
        for direction in ("AtoB", "BtoA"):
            for ours, theirs in zip(
                model.translate(x, direction), trained.translate(x, direction), strict=True
            ):
                assert torch.allclose(ours, theirs, atol=1e-6)


# -------------------------------------------------------------------------------- broken files


def without(key):
    return lambda state: state.pop(key)


def with_more(key):
    return lambda state: state.update({key: torch.zeros(3)})


@pytest.mark.parametrize(
    "change,words",
    [
        (without("netG_A.module.up_sample.3.bias"), ["netG_A", "lacks", "up_sample.3.bias"]),
        (without("netG_B.module.up_attn1.gamma"), ["netG_B", "lacks", "up_attn1.gamma"]),
        (without("netG_A.module.l2.0.module.weight_u"), ["netG_A", "l2.0.module.weight_u"]),
        (with_more("netG_A.module.l9.0.bias"), ["netG_A", "no place for", "l9.0.bias"]),
        (with_more("netX.weight"), ["netX.weight"]),
        (with_more("netG_A.module.l3.0.module.weight_u"), ["weight_u", "fit"]),
        (with_more("netG_A.module.last.0.weight"), ["last.0.weight", "4x3x4x4"]),
        (
            lambda s: s.update({"netG_A.module.last.0.bias": torch.full((3,), torch.nan)}),
            ["last.0.bias", "finite"],
        ),
    ],
)
def test_a_file_of_the_original_that_lacks_or_has_too_much_is_refused_by_key(change, words):
    original_file("iter.pth", 4, change=change)
    with pytest.raises(UserError) as error:
        load("iter.pth")
    for word in ("iter.pth", *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change,words",
    [
        (without("model.4.weight"), ["lacks", "model.4.weight"]),
        (with_more("model.99.weight"), ["no place for", "model.99.weight"]),
        (without("model.1.weight"), ["model.1.weight", "only the resnet ones"]),
        (lambda s: s.update(note="x"), ["note", "no tensor"]),
        (lambda s: s.update({5: torch.zeros(1)}), ["no weights by name"]),
    ],
)
def test_a_file_of_cyclegan_that_lacks_or_has_too_much_is_refused_by_key(change, words):
    state = cyclegan_generator(4, 2)
    change(state)
    torch.save(state, "latest_net_G.pth")
    with pytest.raises(UserError) as error:
        load("latest_net_G.pth", direction="AtoB")
    for word in ("latest_net_G.pth", *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [[], {}, {"a": torch.zeros(1)}, torch.zeros(3), 7])
def test_other_tensors_are_refused(content):
    torch.save(content, "x.pth")
    with pytest.raises(UserError, match="x.pth: "):
        read_generators(Path("x.pth"))


def test_a_folder_without_generators_and_a_missing_file_say_what_was_looked_for():
    with pytest.raises(UserError, match=re.escape("anime_to_person.pth, person_to_anime.pth")):
        load(".")
    with pytest.raises(UserError, match="none.pth: no such checkpoint"):
        load("none.pth")
