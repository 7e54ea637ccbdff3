"""The layers of common/layers.py against torch's."""

import pytest
import torch
from torch import nn

from common.layers import ImageByImage, InstanceNorm2d, ReflectionPad2d
from networks import Resnet8Generator, ResnetGenerator

LARGE = (2, 4, 128, 64)


def batch(dtype, memory_format=torch.channels_last, size=(3, 4, 6, 5)):
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 3 + 1
    return x.to(dtype).to(memory_format=memory_format).requires_grad_()


def test_norm_of_one_image_after_the_other_is_instance_norm():
    x = batch(torch.float64)
    ours, torchs = ImageByImage.apply(x, 1e-5), nn.InstanceNorm2d(4)(x)
    torch.testing.assert_close(ours, torchs)
    gradient = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, gradient)[0] for y in (ours, torchs)))
    assert torch.autograd.gradcheck(ImageByImage.apply, (x, 1e-5))


def test_a_gradient_that_lies_otherwise_is_taken_as_it_is():
    x = batch(torch.float64)
    y = ImageByImage.apply(x, 1e-5)
    gradient = torch.randn(y.shape, dtype=y.dtype)
    last = gradient.contiguous(memory_format=torch.channels_last)
    assert gradient.stride() != last.stride()
    a, b = (torch.autograd.grad(y, x, g, retain_graph=True)[0] for g in (gradient, last))
    assert torch.equal(a, b)


def test_norm_in_bfloat16_is_torchs_within_its_rounding_and_stays_channels_last():
    x = batch(torch.bfloat16, size=(2, 8, 64, 64))
    y = InstanceNorm2d(8)(x)
    assert y.dtype is torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    exact = nn.InstanceNorm2d(8)(x.detach().double())
    torch.testing.assert_close(y.detach().double(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(
    "x",
    [
        batch(torch.float32, size=LARGE),
        batch(torch.bfloat16, torch.contiguous_format, LARGE),
        batch(torch.bfloat16, size=LARGE).detach(),
        batch(torch.bfloat16, size=(2, 4, 64, 64)),
    ],
    ids=["float32", "plain memory", "no gradients", "small"],
)
def test_everything_else_is_torchs(x, monkeypatch):
    monkeypatch.setattr(ImageByImage, "apply", None)
    assert torch.equal(InstanceNorm2d(4)(x), nn.InstanceNorm2d(4)(x))


def test_in_float32_it_can_be_differentiated_twice():
    x = batch(torch.float64, size=(1, 4, 3, 3))
    assert torch.autograd.gradgradcheck(InstanceNorm2d(4), (x,))


def test_padding_stays_in_bfloat16():
    x = batch(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        padded = ReflectionPad2d(1)(x)
    assert padded.dtype is torch.bfloat16
    assert torch.equal(padded, nn.ReflectionPad2d(1)(x))
    assert torch.equal(
        *(torch.autograd.grad(y.sum(), x)[0] for y in (padded, nn.ReflectionPad2d(1)(x)))
    )


@pytest.mark.parametrize("make", [ResnetGenerator, Resnet8Generator])
def test_generators_learn_the_same_from_both_norms(make, monkeypatch):
    """Gradients in bfloat16, by our norm and by torch's, are as near to float32's."""
    monkeypatch.setattr("common.layers.WORTH_A_CALL", 0)
    torch.manual_seed(0)
    net = make(8, 2).to(memory_format=torch.channels_last)
    x = (torch.rand(4, 3, 32, 32) * 2 - 1).to(memory_format=torch.channels_last)

    def gradients(amp):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            y = net(x)
        (y.float() * x.flip(3)).sum().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters()])

    exact = gradients(False)
    ours = (gradients(True) - exact).norm()
    monkeypatch.setattr("common.layers.WORTH_A_CALL", float("inf"))
    assert ours < 1.2 * (gradients(True) - exact).norm() < exact.norm()
