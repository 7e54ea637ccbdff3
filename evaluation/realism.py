"""Are outputs like their domain: what evaluate.py says first, beside floors and baselines.

All in the features of features.py, at equal N. Images are float (N, 3, H, W) in [-1, 1].
"""

from torch import Tensor

from common.errors import UserError
from evaluation.baselines import baselines, detail_kept
from evaluation.features import FeatureNet, embed, load_features
from evaluation.frechet import distances, floor
from evaluation.metrics import defined

BEATEN = 0.9  # share of a baseline's FD that an output must stay below: nearer is chance


def open_features() -> FeatureNet | None:
    """The network that comes with this repository, or None and a line that says why not."""
    try:
        return load_features()
    except UserError as error:
        print(f"FD left out: {error}")
        return None


def realism(net: FeatureNet, inputs: Tensor, fakes: Tensor, real: Tensor, seed: int = 0) -> dict:
    """Figures of outputs `fakes` of `inputs` against real images of the domain that they show.

    N, fd, kd, precision, recall, density, coverage (see frechet.distances), the same of each of the
    "baselines" and of other real images ("floor"), and "detail", how much of the inputs' fine
    structure the outputs keep.
    """
    n = min(len(fakes), len(real))  # of all sets alike: the bias of FD depends on it
    inputs, fakes, real = inputs[:n], fakes[:n], real[:n]
    rows = embed(net, real)
    return {
        **distances(embed(net, fakes), rows),
        "floor": floor(rows, seed),
        "baselines": {
            name: distances(embed(net, images), rows)
            for name, images in baselines(inputs, real).items()
        },
        "detail": detail_kept(inputs, fakes),
    }


def verdict(found: dict | None, diversity: dict) -> str:
    """What is wrong with outputs, in one line, or "": collapsed, or painted over their inputs.

    found, diversity: of realism(), None if that was left out, and of metrics.collapse_report().
    """
    if diversity["collapsed"]:
        return (
            f"collapsed: the outputs are few (spread {defined(diversity['spread'])} of real "
            f"images, near duplicates {diversity['near_duplicates']:.0%})"
        )
    if found is None:
        return ""
    name, best = min(((n, b["fd"]) for n, b in found["baselines"].items()), key=lambda x: x[1])
    if found["fd"] >= BEATEN * best:
        return (
            f"paints over: FD {found['fd']:.1f} does not beat the inputs {name}, {best:.1f}; "
            f"{found['detail']['kept']:.0%} of their fine structure stays"
        )
    return ""
