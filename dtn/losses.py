"""DTN's losses: three classes, and total variation."""

import torch
import torch.nn.functional as F
from torch import Tensor


def class_loss(gan_mode: str, logits: Tensor, label: int) -> Tensor:
    """Scalar that DTN's D minimises for images of one class; logits (B, classes, h, w).

    vanilla: cross-entropy, as in the paper (Taigman et al. 2017, section 4). sn: the hinge of
    Crammer and Singer 2001, max(0, 1 - own logit + largest other one). lsgan: squared distance to
    the class's one-hot vector. Mean over images and positions.
    """
    if gan_mode == "vanilla":
        labels = logits.new_full((len(logits), *logits.shape[2:]), label, dtype=torch.long)
        return F.cross_entropy(logits, labels)
    if gan_mode == "sn":
        return F.relu(1 - _margin(logits, label)).mean()
    if gan_mode == "lsgan":
        target = torch.zeros_like(logits)
        target[:, label] = 1
        return (logits - target).square().sum(dim=1).mean()
    raise ValueError(f"gan_mode {gan_mode!r} has no form with several classes")


def class_generator_loss(gan_mode: str, logits: Tensor, label: int) -> Tensor:
    """Scalar that DTN's G minimises, to have its images taken for those of a class.

    As class_loss, but for the hinge, whose generator just raises the margin (Lim and Ye 2017).
    """
    if gan_mode == "sn":
        return -_margin(logits, label).mean()
    return class_loss(gan_mode, logits, label)


def _margin(logits: Tensor, label: int) -> Tensor:
    """How far the logit of a class lies above the largest other one: (B, h, w)."""
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return logits[:, label] - others.amax(dim=1)


def total_variation(images: Tensor) -> Tensor:
    """Mean length of the step from a pixel to its neighbours right and below; (B, 3, H, W).

    Source: Taigman et al. 2017 (DTN), section 4, with exponent B = 1. The paper sums over pixels;
    a mean does not grow with the image size.
    """
    corner = images[..., :-1, :-1]
    squares = (images[..., 1:, :-1] - corner).square() + (images[..., :-1, 1:] - corner).square()
    # The tiny term keeps the root differentiable where an image is flat.
    return (squares + 1e-12).sqrt().mean()


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    """How far two views' numbers (B, D) differ, or say too little, or say the same things.

    Source: Bardes, Ponce and LeCun 2022 (VICReg), section 4, with their weights 25, 25 and 1, and
    with the terms averaged as in their published code.
    """
    loss = 25 * F.mse_loss(a, b)
    for x in (a - a.mean(dim=0), b - b.mean(dim=0)):
        deviation = (x.square().sum(dim=0) / (len(x) - 1) + 1e-4).sqrt()
        covariance = x.T @ x / (len(x) - 1)  # (D, D)
        others = covariance.square().sum() - covariance.diagonal().square().sum()
        loss = loss + 25 * F.relu(1 - deviation).mean() / 2 + others / x.shape[1]
    return loss


def balanced_bce(logits: Tensor, labels: Tensor, rates: Tensor) -> Tensor:
    """Cross-entropy in which both answers of each attribute weigh the same; (B, L), (B, L), (L,).

    NaN labels do not count. rates are the shares of 1 in the training labels.
    """
    known = ~labels.isnan()
    labels = labels.nan_to_num()
    weights = known * (labels / (2 * rates) + (1 - labels) / (2 * (1 - rates)))
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (weights * losses).sum() / known.sum().clamp(min=1)
