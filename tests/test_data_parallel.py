"""nn.DataParallel's own replicate and parallel_apply, over replicas on the CPU, against one device.

Stood in for is only what needs several GPUs: copies of weights on them, their streams, and the
cutting of a batch.
"""

import importlib
import inspect
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import parallel_apply, replicate

from cyclegan_model import CycleGANModel
from dtn.encoder import Encoder
from dtn.model import DTNModel
from translation_model import InBf16

BATCH = 4


class OnReplicas(nn.Module):
    """What DataParallel.forward does on `count` devices."""

    def __init__(self, net, count):
        super().__init__()
        self.net, self.count = net, count

    def forward(self, *inputs):
        def cut(x):
            return x.chunk(self.count) if isinstance(x, torch.Tensor) else (x,) * self.count

        shares = list(zip(*map(cut, inputs), strict=True))
        devices = range(len(shares))
        replicas = replicate(self.net, devices, not torch.is_grad_enabled())
        return torch.cat(parallel_apply(replicas, shares, None, devices))


@pytest.fixture
def devices(monkeypatch):
    """Copies of tensors as torch makes them: the first device has the very tensors, the others
    contiguous copies, through which gradients flow back."""
    if "torch.accelerator" not in inspect.getsource(parallel_apply):
        pytest.skip("this torch asks torch.cuda for its streams, where nothing can stand in for it")

    def broadcast(tensors, devices, detach=False):
        def copy(x):
            copied = x.clone(memory_format=torch.contiguous_format)
            return copied.detach() if detach else copied

        first = [x if detach else x.view_as(x) for x in tensors]
        return [first, *([copy(x) for x in tensors] for _ in devices[1:])]

    module = importlib.import_module("torch.nn.parallel.replicate")
    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", broadcast)
    for name, value in {
        "is_available": lambda: True,
        "current_accelerator": lambda: SimpleNamespace(type="cpu"),
        "current_stream": lambda device: nullcontext(),
        "device_index": lambda device: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.accelerator, name, value)


def build(options, mode):
    if mode != "dtn":
        return CycleGANModel(
            options(gan_mode=mode, generator="sagan", batch_size=BATCH, lambda_idt=0.5, pool_size=0)
        )
    torch.manual_seed(0)
    opt = options(model="dtn", ngf=2, n_critic=1, train_f=True, batch_size=BATCH)
    model = DTNModel(opt, Encoder(2, 6, 64))
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    model.fit({"A": images[:4], "B": images[4:]}, {"A": np.arange(4), "B": np.arange(4)})
    return model


def step(model):
    """Losses, gradients and buffers (u and v among them) of a step, before weights move by it."""
    generator = torch.Generator().manual_seed(0)
    model.set_input(*torch.rand(2, BATCH, 3, 64, 64, generator=generator) * 2 - 1)
    model._require_grad_D(False)
    model.forward()
    losses = dict(model.backward_G())
    model._require_grad_D(True)
    losses |= model.backward_D()
    nets = [(n, net) for n, net in model.nets.items() if not n.endswith("_ema")]
    gradients = {n: [p.grad for p in net.parameters() if p.grad is not None] for n, net in nets}
    buffers = {f"{n}.{key}": x for n, net in nets for key, x in net.named_buffers()}
    return losses, gradients, buffers


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("mode", ["sn", "sn+gp", "lsgan", "vanilla", "dtn"])
def test_losses_gradients_u_and_v_of_replicas_equal_those_of_one_device(
    options, devices, mode, count
):
    one, several = build(options, mode), build(options, mode)
    for model in (one, several):  # u and v far from where they would stay
        generator = torch.Generator().manual_seed(1)
        for net in model.nets.values():
            for key, x in net.named_buffers():
                if key.endswith(("._u", "._v")):
                    x.copy_(F.normalize(torch.randn(x.shape, generator=generator), dim=0))
    start = {f"{n}.{k}": x.clone() for n, net in one.nets.items() for k, x in net.named_buffers()}
    for name, net in several.nets.items():
        if not name.endswith("_ema"):
            setattr(several, name, OnReplicas(InBf16(net), count))
    (losses, gradients, buffers), others = step(one), step(several)
    assert losses.keys() == others[0].keys()
    for name, loss in losses.items():
        assert torch.allclose(loss, others[0][name], rtol=1e-5, atol=1e-6), name
    for net, expected in gradients.items():
        expected, found = (torch.cat([g.flatten() for g in x]) for x in (expected, others[1][net]))
        assert expected.norm() > 0 and (found - expected).norm() < 1e-4 * expected.norm(), net
    for name, value in buffers.items():
        assert torch.allclose(value, others[2][name], atol=1e-4), name
    moved = [not torch.allclose(x, start[n], atol=0.1) for n, x in buffers.items() if "_u" in n]
    assert not moved or sum(moved) > len(moved) / 2  # that of one number stays
