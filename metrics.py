"""Figures that say how good outputs are; cheap enough for every epoch."""

from torch import Tensor

# Outputs that vary less than this, relative to real images, are on the way to one and the same.
COLLAPSE_SPREAD = 0.5


def spread(images: Tensor) -> float:
    """How much images (N, C, H, W), N >= 2, differ: root mean square deviation from their mean.

    In units of the pixel values; 0 where all are the same.
    """
    return images.float().var(dim=0).mean().sqrt().item()


def relative_spread(outputs: Tensor, real: Tensor) -> float:
    """Spread of outputs over that of real images of the same domain; near 0 is mode collapse."""
    return spread(outputs) / max(spread(real), 1e-8)
