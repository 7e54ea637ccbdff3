"""A GPU's path without one: steps on torch's meta device, which has shapes and strides, no numbers.

Whatever would make the host wait for a GPU raises there, and so does what a GPU would refuse. The
numbers are for the CPU's tests.
"""

import contextlib
import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cyclegan_model import CycleGANModel
from dataset import UnpairedBatches
from dtn.encoder import Encoder
from dtn.model import DTNModel
from losses import GAN_MODES

META = torch.device("meta")
ALL_TERMS = {"zoom": 0.5, "shift": 2, "negatives": 0.5, "lambda_r1": 0.1, "pool_size": 2}
GENERATORS = ["resnet8", "resnet", "unet", "sagan"] * 2


class Apart(TorchDispatchMode):
    """Tensors of a device meet those of the CPU in a copy alone, or AssertionError is raised."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        met = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        assert len(met) < 2 or func is torch.ops.aten.copy_.default, f"{func} of tensors on {met}"
        return func(*args, **kwargs)


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["plain", "last"])
def on_meta(request, monkeypatch):
    """Models are made on the meta device, in either memory format.

    Two checks of torch know no such device: fused Adam's, and autocast's, which is off here.
    """
    device = property(lambda model: META, lambda model, chosen: None)
    monkeypatch.setattr("translation_model.TranslationModel.device", device, raising=False)
    monkeypatch.setattr("translation_model.fastest_memory_format", lambda opt: request.param)
    adam = sys.modules[torch.optim.Adam.__module__]
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))


def train(model):
    """A step of D alone, with R1, on images held on the device; and one of both, on uploaded ones.

    In the second a pool of two is full.
    """
    images = np.zeros((2, 4, 64, 64, 3), np.uint8)
    held, uploaded = (UnpairedBatches(*images, 2, seed=0, device=META) for _ in range(2))
    assert held.move_to_device()
    model.update_learning_rate(0)
    with Apart():
        for step, batches in enumerate((held, uploaded)):
            model.set_input(*batches.batch(step))
            model.optimize_parameters()
    state = dict(model._named_tensors())
    assert len(state) > 100 and {x.device for x in state.values()} == {META}


@pytest.mark.parametrize("mode,generator", list(zip(GAN_MODES, GENERATORS, strict=False)))
def test_a_step_of_cyclegan_runs_on_a_device_without_waiting_for_it(
    options, on_meta, mode, generator
):
    train(CycleGANModel(options(gan_mode=mode, generator=generator, n_critic=2, **ALL_TERMS)))


@pytest.mark.parametrize("mode", ["sn", "vanilla", "lsgan"])
def test_a_step_of_dtn_runs_on_a_device_without_waiting_for_it(options, on_meta, mode):
    opt = options(model="dtn", gan_mode=mode, ngf=2, train_f=True, n_critic=2)
    train(DTNModel(opt, Encoder(2, 6, 64)))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x[0].item(),
        lambda x: x.cpu(),
        lambda x: bool(x[0] > 0),
        lambda x: x.tolist(),
        lambda x: torch.zeros(3).copy_(x),
        lambda x: x[x > 0],
        lambda x: x[torch.tensor([0, 2])],
        lambda x: x * torch.ones(3),
        lambda x: x * torch.tensor(2.0),
    ],
)
def test_what_these_tests_should_find_is_found(wrong):
    with Apart(), pytest.raises((RuntimeError, AssertionError)):
        wrong(torch.zeros(3, device=META))
