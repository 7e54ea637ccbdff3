"""The losses as free functions: adversarial (a branch per --gan_mode), penalty, cycle, identity.

| gan_mode     | D minimises                             | G minimises          | D regularised by |
| ------------ | --------------------------------------- | -------------------- | ---------------- |
| sn           | max(0, 1 - D(real)) + max(0, 1+D(fake)) | -D(fake)             | spectral norm    |
| sn+gp        | D(fake) - D(real) + lambda_gp * penalty | -D(fake)             | both             |
| wgan         | D(fake) - D(real)                       | -D(fake)             | weight clipping  |
| wgangp       | D(fake) - D(real) + lambda_gp * penalty | -D(fake)             | gradient penalty |
| lsgan        | half of (D(real) - 1)^2 + D(fake)^2     | (D(fake) - 1)^2      | spectral norm    |
| vanilla      | half of cross-entropy of real and fake  | -log sigmoid D(fake) | spectral norm    |
| relativistic | softplus(D(fake) - D(real))             | the same, exchanged  | spectral norm    |

Means over all logits. The halves are CycleGAN's (appendix 7.1): they slow D relative to G.
relativistic compares pairs of a real and a fake image, so it never stops telling bad from worse.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from common.tensors import upload

GAN_MODES = ("sn", "sn+gp", "wgan", "wgangp", "lsgan", "vanilla", "relativistic")
PENALTY_MODES = ("sn+gp", "wgangp")
WASSERSTEIN_MODES = ("wgan", "wgangp", "sn+gp")


def discriminator_loss(gan_mode: str, pred_real: Tensor, pred_fake: Tensor) -> Tensor:
    """Scalar that D minimises, without the penalty; logits of any shape.

    Sources: sn: Lim and Ye 2017, used with spectral norm by Miyato et al. 2018, section 4;
    Wasserstein: Arjovsky et al. 2017, section 3; lsgan: Mao et al. 2017, section 3.2; vanilla:
    Goodfellow et al. 2014, section 3; relativistic: Jolicoeur-Martineau 2019, section 4.1.
    """
    if gan_mode == "sn":
        return F.relu(1 - pred_real).mean() + F.relu(1 + pred_fake).mean()
    if gan_mode in WASSERSTEIN_MODES:
        return pred_fake.mean() - pred_real.mean()
    if gan_mode == "lsgan":
        return 0.5 * ((pred_real - 1).square().mean() + pred_fake.square().mean())
    if gan_mode == "vanilla":
        return 0.5 * (F.softplus(-pred_real).mean() + F.softplus(pred_fake).mean())
    if gan_mode == "relativistic":
        return F.softplus(pred_fake - pred_real).mean()
    raise ValueError(f"unknown gan_mode {gan_mode!r}")


def generator_loss(gan_mode: str, pred_fake: Tensor, pred_real: Tensor | None = None) -> Tensor:
    """Scalar that G minimises; logits of any shape. Sources as in discriminator_loss.

    pred_real: of as many real images; needed by "relativistic", and read by no other.
    """
    if gan_mode == "sn" or gan_mode in WASSERSTEIN_MODES:
        return -pred_fake.mean()
    if gan_mode == "lsgan":
        return (pred_fake - 1).square().mean()
    if gan_mode == "vanilla":
        return F.softplus(-pred_fake).mean()
    if gan_mode == "relativistic":
        if pred_real is None:
            raise ValueError("relativistic compares: it needs pred_real")
        return F.softplus(pred_real - pred_fake).mean()
    raise ValueError(f"unknown gan_mode {gan_mode!r}")


def total(losses: dict[str, Tensor]) -> Tensor:
    """The sum of losses that are scalars, for backward()."""
    return torch.stack(list(losses.values())).sum()


def gradient_penalty(
    netD: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean of (|grad D(x)| - 1)^2 at points between real and fake images (B, 3, H, W).

    One point per pair, drawn uniformly on its line with `generator` (a CPU one). Where D gives
    several logits per image, their mean is the score whose slope is held at 1.

    Source: Gulrajani et al. 2017 (WGAN-GP), section 4 and algorithm 1.
    """
    alpha = torch.rand(len(real), 1, 1, 1, generator=generator)
    alpha = upload(alpha, real.device)
    x = (alpha * real + (1 - alpha) * fake).detach().requires_grad_(True)
    score = netD(x).flatten(1).mean(dim=1)  # (B,)
    (gradient,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    # The tiny term keeps the root differentiable where the gradient is exactly 0.
    norm = (gradient.flatten(1).square().sum(dim=1) + 1e-12).sqrt()  # (B,)
    return (norm - 1).square().mean()


def zero_centred_penalty(netD: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Half the mean of |grad D(x)|^2 at images (B, 3, H, W): R1 of real ones, R2 of fake ones.

    With it D and G come to rest where real and fake images are alike; held at a slope of 1, as by
    gradient_penalty, D keeps G moving. One score per image, as there.

    Source: Mescheder et al. 2018, section 4.1.
    """
    x = images.detach().requires_grad_(True)
    score = netD(x).flatten(1).mean(dim=1)  # (B,)
    (gradient,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(dim=1).mean() / 2


def shift(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Move a batch (B, 3, H, W) by up to `pixels` each way, as one; mirrored pixels fill the edge.

    The offset is drawn uniformly with `generator` (a CPU one), so that D cannot memorise images.

    Source: Zhao et al. 2020 (DiffAugment), section 3: of its augmentations the translation alone,
    since changed colours would unlearn those of hair, and one offset for a batch.
    """
    if not pixels:
        return images
    height, width = images.shape[-2:]
    down, right = torch.randint(2 * pixels + 1, (2,), generator=generator).tolist()
    padded = F.pad(images, (pixels,) * 4, mode="reflect")
    return padded[..., down : down + height, right : right + width]


def zoom(images: Tensor, generator: torch.Generator) -> Tensor:
    """A window near the middle of a batch (B, 3, H, W), the same for all, enlarged to its size.

    Of half to three quarters of the sides, with its centre in the middle quarter of them, drawn
    with `generator` (a CPU one). Eyes are few pixels of an image: D, whose slope is bounded, hears
    little of them, unless it is made to look closer.

    Source: our own; Iizuka et al. 2017, section 3.3, have a second discriminator for a part.
    """
    height, width = images.shape[-2:]
    scale, *centre = torch.rand(3, generator=generator).tolist()
    window = images
    for dim, middle in zip((-2, -1), centre, strict=True):
        side = images.shape[dim]
        size = round(side * (0.5 + scale / 4))
        start = round(side * (0.375 + middle / 4) - size / 2)
        window = window.narrow(dim, min(max(start, 0), side - size), size)
    return F.interpolate(window, size=(height, width), mode="bilinear")


def negatives(real: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """Images that no generator should make: others (B, 3, H, W) with a region that is wrong.

    The region is a soft box near the centre, from a quarter of the sides to all of the image, drawn
    for each image with `generator` (a CPU one). It holds one of three, in the image's mean colour:
    the image itself, so blurred that eyes are lost; an image of `other`, the other domain, perhaps
    blurred, as if a generator had left it as it was; or another one of `real`, if there are two.

    Source: Sinha et al. 2021 (negative data augmentation), section 3, with regions of our own.
    """
    height, width = real.shape[-2:]
    factor = 2 ** int(torch.randint(3, (), generator=generator))
    contents = [_blurred(real, 8), _blurred(other, factor), real.roll(1, 0)][: 2 + (len(real) > 1)]
    kind = torch.randint(len(contents), (len(real),), generator=generator)
    chosen = kind * len(real) + torch.arange(len(real))
    content = torch.cat(contents)[upload(chosen, real.device)]
    content = content + (real - content).mean((-2, -1), keepdim=True)

    centre = 0.3 + 0.4 * torch.rand(len(real), 2, generator=generator)
    half = 0.12 + 0.6 * torch.rand(len(real), 2, generator=generator)  # of the box's sides
    down, right = (
        ((half[:, i, None] - (torch.linspace(0, 1, n) - centre[:, i, None]).abs()) * 8).clamp(0, 1)
        for i, n in enumerate((height, width))
    )
    box = upload(down[:, None, :, None] * right[:, None, None, :], real.device)
    return torch.lerp(real, content, box).clamp(-1, 1)


def _blurred(images: Tensor, factor: int) -> Tensor:
    """Images as large as before, of as much detail as a `factor`-th of the size holds."""
    if factor == 1:
        return images
    small = F.interpolate(images, scale_factor=1 / factor, mode="area")
    return F.interpolate(small, size=images.shape[-2:], mode="bilinear")


def cycle_loss(rec: Tensor, real: Tensor, pool: int = 1) -> Tensor:
    """Mean absolute error of an image after a translation there and back: (B, 3, H, W) -> scalar.

    Of means over squares of `pool` pixels: colours and layout must come back, single strokes need
    not. A translation that must return all of them hides them in what it draws (Chu et al. 2017).

    Source: Zhu et al. 2017 (CycleGAN), section 3.2, where pool is 1.
    """
    if pool > 1:
        rec, real = (F.avg_pool2d(x, pool, ceil_mode=True) for x in (rec, real))
    return F.l1_loss(rec, real)


def identity_loss(idt: Tensor, real: Tensor) -> Tensor:
    """Mean absolute change that a generator makes to an image of its own target domain.

    Source: Zhu et al. 2017 (CycleGAN), section 5.2.
    """
    return F.l1_loss(idt, real)
