"""What a model must beat: its inputs as they are, and in the target domain's colours.

Painting over a photograph keeps its shapes and its fine structure, which no figure of colours or
patches minds; these two baselines do nothing else, and the detail kept says how far a model does.
Images are float (N, 3, H, W) in [-1, 1] on the CPU.
"""

import torch
from torch import Tensor

from evaluation.metrics import FLAT, _binomial, _check, _check_same_shape

BASELINES = ("untranslated", "recoloured")


def baselines(inputs: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Outputs of no model, by name: inputs untranslated, and recoloured; real: the target domain.

    Recoloured: each channel moved to the mean and deviation that it has over the real images.
    """
    return {"untranslated": inputs, "recoloured": recoloured(inputs, real)}


def recoloured(inputs: Tensor, real: Tensor) -> Tensor:
    """Inputs with the mean and the contrast of real images, by channel, over all pixels."""
    _check(1, inputs=inputs, real=real)
    over = (0, 2, 3)
    mean, wanted = inputs.mean(dim=over, keepdim=True), real.mean(dim=over, keepdim=True)
    scale = real.std(dim=over, keepdim=True) / inputs.std(dim=over, keepdim=True).clamp(min=FLAT)
    return ((inputs - mean) * scale + wanted).clamp(-1, 1)


def detail_kept(inputs: Tensor, outputs: Tensor) -> dict[str, float]:
    """How much of the inputs' fine structure stands in their outputs: 1 all of it, 0 nothing.

    kept      mean over the images of Pearson's correlation between input and output, of what is
              finer than a 5x5 binomial filter, in grey; its sign does not count
    shuffled  the same with the next image's output: what two faces in the same place share

    inputs, outputs: N >= 2, in the same order.
    """
    _check(2, inputs=inputs, outputs=outputs)
    _check_same_shape(inputs=inputs, outputs=outputs)
    before, after = _detail(inputs), _detail(outputs)
    return {
        "kept": (before * after).sum(dim=1).abs().mean().item(),
        "shuffled": (before * after.roll(1, dims=0)).sum(dim=1).abs().mean().item(),
    }


def _detail(images: Tensor) -> Tensor:
    """Fine structure as rows (N, H * W) of mean 0 and length 1; 0 where there is none."""
    grey = torch.einsum("nchw,c->nhw", images.float(), torch.tensor([0.299, 0.587, 0.114]))[:, None]
    fine = (grey - _binomial(grey)).flatten(1)
    fine = fine - fine.mean(dim=1, keepdim=True)
    length = fine.norm(dim=1, keepdim=True)
    return fine / length.clamp(min=FLAT) * (length > FLAT)
