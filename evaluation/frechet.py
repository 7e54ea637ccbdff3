"""How far two sets of images are apart in features (features.py), and which part of which is met.

Rows are float64 features (N, D), one image each. Nothing here is drawn at random but halves. NaN or
inf, and too few rows, raise UserError with the argument.
"""

import numpy as np
import torch
from torch import Tensor

from common.tensors import derived_generator
from evaluation.features import VARIANCE
from evaluation.metrics import _check

NEIGHBOURS_PRECISION = 3  # as published with precision and recall
NEIGHBOURS_COVERAGE = 5  # as published with density and coverage
SPLITS = 5  # random halves whose mean is the floor
FEWEST_FOR_FLOOR = 2 * (NEIGHBOURS_COVERAGE + 1)  # images, so that halves have neighbours


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance of the Gaussians fitted to rows a (N, D) and b (M, D); 0 if equal.

    It is biased upwards at few rows, by about c (1/N + 1/M): compare at equal N and M only.
    Source: Heusel et al. 2017 (the "FID" of these features).
    """
    _check(2, a=a, b=b)
    a, b = a.double(), b.double()
    mean = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    root = _root(torch.cov(a.T))  # tr sqrt(A B) = tr sqrt(sqrt(A) B sqrt(A)), which is symmetric
    product = torch.linalg.eigvalsh(root @ torch.cov(b.T) @ root)
    trace = a.var(dim=0).sum() + b.var(dim=0).sum() - 2 * product.clamp(min=0).sqrt().sum()
    return max(0.0, (mean + trace).item())


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Squared maximum mean discrepancy of rows under a cubic kernel, times 1000; without bias.

    Of equal distributions it is 0 on average, so that single values may be below. The kernel's unit
    is the features' variance. Source: Binkowski et al. 2018 ("KID").
    """
    _check(2, a=a, b=b)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / VARIANCE + 1) ** 3

    a, b = a.double(), b.double()

    def own(x: Tensor) -> Tensor:
        matrix = kernel(x, x)
        return (matrix.sum() - matrix.diagonal().sum()) / (len(x) * (len(x) - 1))

    return 1000 * (own(a) + own(b) - 2 * kernel(a, b).mean()).item()


def coverage_report(fakes: Tensor, real: Tensor) -> dict[str, float]:
    """Which fakes lie where real images are, and which real images have a fake near them.

    precision  share of fakes within a real image's ball: do outputs look like the domain
    recall     share of real images within a fake's ball: could the model have made them
    density    balls of real images around a fake, over what is usual: 1, or more
    coverage   share of real images whose ball holds a fake: how much of the domain is met

    A ball reaches to its image's k-th neighbour in its own set: k is 3 for the first two
    (Kynkaanniemi et al. 2019), 5 for the last two (Naeem et al. 2020).
    """
    _check(NEIGHBOURS_COVERAGE + 1, fakes=fakes, real=real)
    fakes, real = fakes.double(), real.double()
    across = torch.cdist(real, fakes)  # (M, N)
    own_real, own_fakes = torch.cdist(real, real), torch.cdist(fakes, fakes)
    few, more = (_radius(own_real, k) for k in (NEIGHBOURS_PRECISION, NEIGHBOURS_COVERAGE))
    inside = across <= more[:, None]
    return {
        "precision": (across <= few[:, None]).any(dim=0).double().mean().item(),
        "recall": (across <= _radius(own_fakes, NEIGHBOURS_PRECISION))
        .any(dim=1)
        .double()
        .mean()
        .item(),
        "density": inside.double().sum(dim=0).mean().item() / NEIGHBOURS_COVERAGE,
        "coverage": inside.any(dim=1).double().mean().item(),
    }


def _radius(own: Tensor, k: int) -> Tensor:
    """Distance (N,) of each row's k-th neighbour; own: distances (N, N) within the set."""
    return own.kthvalue(k + 1, dim=1).values  # the nearest is the row itself


def distances(fakes: Tensor, real: Tensor) -> dict[str, float]:
    """All figures of outputs against real images of their domain, at equal N: the first ones."""
    n = min(len(fakes), len(real))
    fakes, real = fakes[:n], real[:n]
    return {
        "N": n,
        "fd": frechet_distance(fakes, real),
        "kd": kernel_distance(fakes, real),
        **coverage_report(fakes, real),
    }


def floor(real: Tensor, seed: int) -> dict[str, float] | None:
    """What as many other images of the same domain would score; real: (N, D); None if N < 12.

    No N others may be at hand, so random halves are measured. Between sets of one distribution all
    of FD is bias, which falls as 1/N: FD at N is half of that at N/2, or of few images (N < 200) up
    to a quarter more. Precision, recall, density and coverage hardly depend on N, and the kernel
    distance not at all; theirs are the halves'.
    """
    if len(real) < FEWEST_FOR_FLOOR:
        return None
    found = []
    for split in range(SPLITS):
        order = torch.randperm(len(real), generator=derived_generator(seed, "floor", split))
        half = len(real) // 2
        found.append(distances(real[order[:half]], real[order[half : 2 * half]]))
    mean = {key: float(np.mean([f[key] for f in found])) for key in found[0]}
    return mean | {"N": len(real), "fd": mean["fd"] / 2, "fd_of_halves": mean["fd"]}
