"""Figures that say how good outputs are; the spreads are cheap enough for every epoch.

Images are float (N, 3, H, W) in [-1, 1] on the CPU; outputs are what a generator made of inputs.
NaN or inf, too few images, or sets that do not fit each other raise UserError with the argument.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.tensors import derived_generator

# Outputs that vary less than this, relative to real images, are on the way to one and the same.
COLLAPSE_SPREAD = 0.5
COLLAPSE_DUPLICATES = 0.25  # share of near duplicates from which on outputs are only a few
PATCH = 7  # width of the patches of the sliced Wasserstein distance
SMALLEST_LEVEL = 16  # of its pyramid
# Distance of `nearest` below which two pictures show the same image: copies as JPEG of quality 50
# reach 0.036, and 200 of the demo's drawings are 0.058 and more from all 2,000 others.
SAME = 0.045
CHUNK = 256  # rows of a distance matrix held at once: bounds the memory
ROUNDING = 1e-6  # of distances between pixels in [-1, 1]: a level of one pixel makes more
FLAT = 1e-4  # features that deviate less over a set are constant: the rest is rounding


def spread(images: Tensor) -> float:
    """How much images (N, C, H, W), N >= 2, differ: root mean square deviation from their mean.

    In units of the pixel values; 0 where all are the same.
    """
    return images.float().var(dim=0).mean().sqrt().item()


def ratio(value: float, unit: float) -> float | None:
    """How many units a value is, or None, not defined, where the unit is 0 but for rounding."""
    return value / unit if unit > ROUNDING else None


def defined(value: float | None, form: str = ".2f") -> str:
    """A ratio as text."""
    return "not defined" if value is None else f"{value:{form}}"


def relative_spread(outputs: Tensor, real: Tensor) -> float | None:
    """Spread of outputs over that of real images of the same domain; near 0 is mode collapse.

    None where all real images are the same.
    """
    return ratio(spread(outputs), spread(real))


def _check(needed: int, **sets: Tensor) -> None:
    """Raise UserError, with the argument's name, at fewer than `needed` rows or at NaN or inf."""
    for name, rows in sets.items():
        if len(rows) < needed:
            raise UserError(f"{name}: {len(rows)} given, at least {needed} needed; pass more")
        finite = rows.isfinite().reshape(len(rows), -1).all(dim=1)
        if not finite.all():
            index = int(finite.int().argmin())
            raise UserError(
                f"{name}: NaN or inf at index {index}; leave it out, or go back to a "
                "checkpoint from before the net broke"
            )


def _check_same_shape(**sets: Tensor) -> None:
    """Raise UserError, with names and shapes, unless both sets have as many images of one size."""
    (name_a, a), (name_b, b) = sets.items()
    if a.shape != b.shape:
        raise UserError(
            f"{name_a} {tuple(a.shape)} and {name_b} {tuple(b.shape)}: must be as many images, of "
            f"the same size; cut both to {min(len(a), len(b))} images of one size"
        )


# ---- distribution: do outputs look like the target domain --------------------------------------


def sliced_wasserstein(
    a: Tensor,
    b: Tensor,
    generator: torch.Generator,
    patches_per_image: int = 64,
    projections: int = 256,
) -> dict[int, float]:
    """Distance of two sets' 7x7 patches by pyramid level, times 1000: 64x64 gives 64, 32 and 16.

    a, b: equally many images of one size, or UserError. Equal sets give exactly 0; two halves of
    one set give what chance alone does. A change of a whole set's brightness or contrast per
    channel is not seen: each set's patches are normalised on their own.

    Source: Karras et al. 2018 (progressive growing), section 5. Ours draws fewer patches and
    directions, at the same places in both sets, so compare only with numbers from here.
    """
    _check(2, a=a, b=b)
    _check_same_shape(a=a, b=b)
    distances = {}
    for level_a, level_b in zip(_laplacian_pyramid(a), _laplacian_pyramid(b), strict=True):
        n, _, height, width = level_a.shape
        y = torch.randint(height - PATCH + 1, (n, patches_per_image), generator=generator)
        x = torch.randint(width - PATCH + 1, (n, patches_per_image), generator=generator)
        directions = torch.randn(projections, 3 * PATCH**2, generator=generator)
        patches_a, patches_b = _patches(level_a, y, x), _patches(level_b, y, x)
        # A few directions at a time: all projections at once would be larger than the images.
        each = [
            wasserstein_1d(some @ patches_a.T, some @ patches_b.T)
            for some in F.normalize(directions).split(32)
        ]
        distances[width] = 1000 * torch.cat(each).mean().item()
    return distances


def wasserstein_1d(a: Tensor, b: Tensor) -> Tensor:
    """Wasserstein-1 distance (D,) of each row's samples: a, b (D, M), equally many, in any order.

    On a line the cheapest transport keeps the order: it moves the k-th smallest to the k-th.
    """
    # NumPy sorts with vector instructions, many times as fast as torch on a CPU.
    sorted_a, sorted_b = (torch.from_numpy(np.sort(x.detach().numpy(), axis=1)) for x in (a, b))
    return (sorted_a - sorted_b).abs().mean(dim=1)


def _laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """What each halving of the size loses, finest first; then the smallest, of 16x16 or more.

    Source: Burt and Adelson 1983, with their 5x5 binomial filter.
    """
    levels = [images.float()]
    while levels[-1].shape[-1] >= 2 * SMALLEST_LEVEL:
        small = _binomial(levels[-1])[..., ::2, ::2]
        spaced = torch.zeros_like(levels[-1])
        spaced[..., ::2, ::2] = small
        levels[-1] = levels[-1] - 4 * _binomial(spaced)  # 4: three of four pixels were 0
        levels.append(small)
    return levels


def _binomial(images: Tensor) -> Tensor:
    """Images (N, C, H, W) smoothed by the 5x5 binomial filter, mirrored at the border."""
    # Sums of shifted images: conv2d at one channel takes three times as long, ten times the memory.
    smooth = F.pad(images, (2, 2, 2, 2), mode="reflect")
    for dim in (2, 3):
        length = smooth.shape[dim] - 4
        a, b, c, d, e = (smooth.narrow(dim, i, length) for i in range(5))
        smooth = (a + b * 4 + c * 6 + d * 4 + e) / 16
    return smooth


def _patches(level: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Patches (N * P, 147) at corners y, x (N, P); mean 0, deviation 1 per channel of the set."""
    windows = level.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # a view: (N, 3, y, x, 7, 7)
    patches = windows[torch.arange(len(level))[:, None], :, y, x].flatten(0, 1)
    patches -= patches.mean(dim=(0, 2, 3), keepdim=True)
    patches /= patches.std(dim=(0, 2, 3), keepdim=True, correction=0).clamp(min=1e-6)
    return patches.flatten(1)


# ---- variety: are outputs few, or copies of training images ------------------------------------


def nearest(
    queries: Tensor, references: Tensor, exclude_same_index: bool = False
) -> tuple[Tensor, Tensor]:
    """Distance and index, both (N,), of the reference that each query (N, 3, H, W) is nearest to.

    The distance is the root mean square difference of both shrunk to 16x16: 0 the same, 2 black
    against white. exclude_same_index: a set against itself, no image being its own neighbour.
    """
    _check(2 if exclude_same_index else 1, queries=queries, references=references)
    if exclude_same_index:
        _check_same_shape(queries=queries, references=references)
    small, targets = thumbnails(queries), thumbnails(references)
    distances, indices = [], []
    for start, rows in zip(range(0, len(small), CHUNK), small.split(CHUNK), strict=True):
        # The faster matrix product would not give 0 between equal images.
        matrix = torch.cdist(rows, targets, compute_mode="donot_use_mm_for_euclid_dist")
        if exclude_same_index:
            matrix.diagonal(start).fill_(torch.inf)
        values, places = matrix.min(dim=1)
        distances.append(values / small.shape[1] ** 0.5)
        indices.append(places)
    return torch.cat(distances), torch.cat(indices)


def thumbnails(images: Tensor) -> Tensor:
    """Images as rows (N, 768): 16x16 area means."""
    return F.adaptive_avg_pool2d(images.float(), 16).flatten(1)


def shown_in(images: Tensor, others: Tensor) -> Tensor:
    """Which images (N, 3, H, W), or their mirror images, are among others, bool (N,).

    Pixels count, and copies in another type of file or of another size are the same: see SAME.
    """
    own, theirs = thumbnails(torch.cat([images, images.flip(3)])), thumbnails(others)
    found = torch.zeros(len(own), dtype=torch.bool)
    for rows in theirs.split(2000):
        found |= torch.cdist(own, rows).amin(dim=1) / own.shape[1] ** 0.5 < SAME
    return found.view(2, -1).any(dim=0)


def _share_as_near(distances: Tensor, usual: Tensor) -> float:
    """Share of distances that are no larger than the 1st percentile of the usual ones.

    No larger, not smaller: that percentile is 0 where 1 % of a data set are copies.
    """
    return (distances <= usual.quantile(0.01)).double().mean().item()


def near_duplicate_share(outputs: Tensor, real: Tensor) -> float:
    """Share of outputs with another one as near as only the nearest 1 % of real images have.

    Real images of the same domain thus score about 0.01, outputs that repeat themselves 1. Of
    unequal sets the first images count, equally many: neighbours are nearer in larger sets. Below
    N = 100 the figure is coarse: nearest pairs come as two, so that real images score 2 / N.
    """
    _check(2, outputs=outputs, real=real)
    outputs, real = outputs[: len(real)], real[: len(outputs)]
    return _share_as_near(nearest(outputs, outputs, True)[0], nearest(real, real, True)[0])


def collapse_report(outputs: Tensor, real: Tensor) -> dict[str, float | bool | None]:
    """Whether a generator makes only a few pictures; real: images of the domain it draws.

    spread           relative_spread; small when all are nearly one picture
    nearest          median distance to the nearest other output, over that of real images; both
                     None where that of real images is 0
    near_duplicates  near_duplicate_share; large also when a few different pictures take turns
    near_duplicates_real  the same of the real images: 0.01, or 2 / N where that is more
    collapsed        spread < COLLAPSE_SPREAD or near_duplicates > COLLAPSE_DUPLICATES

    Trust it from N = 50 on: one sample in ten of 12 real images is called collapsed by chance.
    """
    _check(2, outputs=outputs, real=real)
    outputs, real = outputs[: len(real)], real[: len(outputs)]  # see near_duplicate_share
    own, usual = nearest(outputs, outputs, True)[0], nearest(real, real, True)[0]
    varied, duplicates = relative_spread(outputs, real), _share_as_near(own, usual)
    return {
        "spread": varied,
        "nearest": ratio(own.median().item(), usual.median().item()),
        "near_duplicates": duplicates,
        "near_duplicates_real": _share_as_near(usual, usual),
        "collapsed": duplicates > COLLAPSE_DUPLICATES
        or (varied is not None and varied < COLLAPSE_SPREAD),
    }


def memorisation(outputs: Tensor, training: Tensor, held_out: Tensor) -> dict[str, float | None]:
    """Whether outputs are copies of training images, judged by real ones that were held out.

    ratio  median distance to the nearest training image, over that of held-out images; 0 copied,
           None where the held-out images are training images themselves
    share  of outputs as near to a training image as only 1 % of held-out ones are; 0.01 is usual

    All three sets are of the domain that the outputs show, of any sizes.
    """
    _check(2, outputs=outputs, training=training, held_out=held_out)
    distances, usual = nearest(outputs, training)[0], nearest(held_out, training)[0]
    return {
        "ratio": ratio(distances.median().item(), usual.median().item()),
        "share": _share_as_near(distances, usual),
    }


# ---- content: do outputs keep what their inputs show -------------------------------------------


def colour_layout(images: Tensor) -> Tensor:
    """Where an image has which colours: RGB means of 8x8 areas, (N, 192)."""
    _check(1, images=images)
    return F.adaptive_avg_pool2d(images.float(), 8).flatten(1)


def gradient_layout(images: Tensor) -> Tensor:
    """Where an image has edges: means of |d/dx| and |d/dy| of its grey over 8x8 areas, (N, 128).

    Sobel's filters, grey by the luma weights of Rec. 601. Light on dark equals dark on light.
    """
    _check(1, images=images)
    grey = torch.einsum("nchw,c->nhw", images.float(), torch.tensor([0.299, 0.587, 0.114]))
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    filters = torch.stack([sobel, sobel.T])[:, None]  # (2, 1, 3, 3)
    gradients = F.conv2d(F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate"), filters)
    return F.adaptive_avg_pool2d(gradients.abs(), 8).flatten(1)


def retrieval(
    inputs: Tensor, outputs: Tensor, layout: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """Shares of outputs whose own input is the most similar one (top1), or among five (top5).

    inputs, outputs: the N >= 6 images and their translations, in the same order, or UserError.
    Similarity is the cosine of layouts, each feature standardised over its set, so that what
    differs between all of both domains does not count. An equally similar input ranks first, so
    constant outputs score 0. chance1 and chance5 are the shares of a shuffled order.
    """
    _check(6, inputs=inputs, outputs=outputs)
    _check_same_shape(inputs=inputs, outputs=outputs)
    targets = F.normalize(_standardise(layout(inputs)))
    rows = F.normalize(_standardise(layout(outputs)))
    ranks = []
    for start in range(0, len(rows), CHUNK):
        similar = rows[start : start + CHUNK] @ targets.T
        own = similar.diagonal(start)[:, None]
        # Products of equal rows may differ by rounding. One: the own input, equal to itself.
        ranks.append((similar >= own - 1e-6).sum(dim=1) - 1)
    rank = torch.cat(ranks)
    return {
        "top1": (rank < 1).double().mean().item(),
        "top5": (rank < 5).double().mean().item(),
        "chance1": 1 / len(rank),
        "chance5": 5 / len(rank),
    }


def region_correlation(inputs: Tensor, outputs: Tensor) -> dict[str, float]:
    """How far outputs take over their inputs' colours, in two places of a centred face.

    Pearson's correlation of a place's mean colour over the set, averaged over RGB: 1 taken over,
    0 unrelated or the same in all images, -1 opposite. hair: the middle, 5 to 15 % below the top
    edge; background: both upper corners. inputs, outputs: N >= 2, in the same order.
    """
    _check(2, inputs=inputs, outputs=outputs)
    _check_same_shape(inputs=inputs, outputs=outputs)
    before, after = _region_colours(inputs), _region_colours(outputs)
    return {
        name: (_standardise(before[name]) * _standardise(after[name])).mean().item()
        for name in before
    }


def _region_colours(images: Tensor) -> dict[str, Tensor]:
    """Mean colours (N, 3) of the hair and the background of faces."""
    height, width = images.shape[-2:]
    top, bottom = round(0.05 * height), round(0.15 * height)
    hair = images[:, :, top:bottom, round(0.3 * width) : round(0.7 * width)]
    down, across = round(0.12 * height), round(0.12 * width)
    corners = images[:, :, :down, :across], images[:, :, :down, -across:]
    return {
        "hair": hair.double().mean(dim=(2, 3)),
        "background": torch.cat(corners, dim=3).double().mean(dim=(2, 3)),
    }


def _standardise(features: Tensor) -> Tensor:
    """Features (N, D) with mean 0 and deviation 1 over the set; constant ones become 0."""
    deviation = features.std(dim=0, correction=0)
    standard = (features - features.mean(dim=0)) / deviation.clamp(min=FLAT)
    return standard * (deviation > FLAT)


# ---- all of one direction ----------------------------------------------------------------------


def figures(inputs: Tensor, fakes: Tensor, recs: Tensor | None, real: Tensor, seed: int) -> dict:
    """What can be said of a translation without weights or training images, by name of figure.

    inputs, fakes, recs: N >= 6 images, their translations and, if there are any, reconstructions,
    in the same order; real: images of the domain that fakes show. All (N, 3, H, W) in [-1, 1].
    """
    n = min(len(fakes), len(real))
    found = {
        "N": len(fakes),
        "N_swd": n,
        "swd": sliced_wasserstein(fakes[:n], real[:n], derived_generator(seed, "patches")),
        "diversity": collapse_report(fakes, real),
        "retrieval_colour": retrieval(inputs, fakes, colour_layout),
        "retrieval_gradient": retrieval(inputs, fakes, gradient_layout),
        "region_correlation": region_correlation(inputs, fakes),
    }
    if recs is not None:
        errors = (recs - inputs).abs().flatten(1).mean(dim=1) / 2  # of a pixel's range
        mean, error = bootstrap(errors, derived_generator(seed, "bootstrap"))
        found["cycle_l1"] = {"mean": mean, "standard_error": error}
        found["diversity_of_reconstructions"] = collapse_report(recs, inputs)
    return found


# ---- certainty ---------------------------------------------------------------------------------


def bootstrap(values: Tensor, generator: torch.Generator, rounds: int = 200) -> tuple[float, float]:
    """Mean of values (N,), N >= 2, and its standard error: the deviation of resampled means.

    Source: Efron 1979.
    """
    _check(2, values=values)
    n = len(values)
    means = [values[torch.randint(n, (n,), generator=generator)].mean() for _ in range(rounds)]
    return values.mean().item(), torch.stack(means).std().item()
