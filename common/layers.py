"""Two layers of torch, in the form that is fastest in bfloat16 on a CPU. They hold no weights."""

from typing import Any

import torch
from torch import Tensor, nn


class ReflectionPad2d(nn.ReflectionPad2d):
    """torch's, out of reach of autocast, which on a CPU has it done in float32, there and back."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)


class InstanceNorm2d(nn.InstanceNorm2d):
    """Instance norm: (B, C, H, W) -> the same, each channel of each image with mean 0, variance 1.

    torch's, but for training in bfloat16 and channels-last on a CPU. There torch's copies what
    comes in to plain memory and leaves it so, and the next convolution has to copy it back.

    Source: Ulyanov et al. 2016, equation 4; without weights, and without running means.
    """

    def forward(self, x: Tensor) -> Tensor:
        if _slow_in_torch(x) and x.requires_grad and not torch.compiler.is_compiling():
            return ImageByImage.apply(x, self.eps)
        return super().forward(x)


def _slow_in_torch(x: Tensor) -> bool:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    copied = last and x.device.type == "cpu" and x.dtype is torch.bfloat16
    return copied and x[0].numel() >= WORTH_A_CALL


WORTH_A_CALL = 2**15  # numbers in an image: of smaller ones a copy is cheaper than so many calls


class ImageByImage(torch.autograd.Function):
    """Instance norm as batch norm of one image after the other, which knows channels-last.

    It can be differentiated once. A gradient penalty needs twice, but is computed in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        # Weights of 1 in float32, since means and deviations have the weights' precision.
        precise = torch.promote_types(x.dtype, torch.float32)
        one, zero = x.new_ones(x.shape[1], dtype=precise), x.new_zeros(x.shape[1], dtype=precise)
        y, statistics = torch.empty_like(x), one.new_empty(len(x), 2, x.shape[1])
        for image, out, (mean, inverse) in zip(x.split(1), y.split(1), statistics, strict=True):
            torch.ops.aten.native_batch_norm.out(
                *(image, one, zero, None, None, True, 0.0, eps),
                out=out,
                save_mean=mean,
                save_invstd=inverse,
            )
        ctx.save_for_backward(x, one, statistics)
        ctx.eps = eps
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, one, statistics = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        found = [
            torch.ops.aten.native_batch_norm_backward(
                *(grad, image, one, None, None, mean, inverse, True, ctx.eps, [True, False, False])
            )[0]
            for grad, image, (mean, inverse) in zip(
                gradient.split(1), x.split(1), statistics, strict=True
            )
        ]
        return torch.cat(found), None
