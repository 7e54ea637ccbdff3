"""Plots of figures for the documents, by matplotlib (requirements-dev.txt).

    python benchmarks/plot.py        # docs/whole.svg, docs/comparison.svg

Of benchmarks/results/whole.json and modes_faces.json; the same figures give the same file.
"""

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.blind import wilson
from common.errors import UserError, one_line_errors
from storage.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = ROOT / "benchmarks" / "results"
DOMAINS = ("anime", "person")
TICKS = (1, 2, 5, 10, 20, 50, 100, 200)


def panels(count: int) -> "tuple[Figure, list[Axes]]":
    """Empty axes side by side; UserError where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        raise UserError(
            "matplotlib is not installed; pip install -r requirements-dev.txt"
        ) from None
    from matplotlib.figure import Figure

    matplotlib.rcParams |= {"svg.hashsalt": "person to anime", "svg.fonttype": "none"}
    figure = Figure(figsize=(5.5 * count, 4), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def fd_axis(axes: "Axes", domain: str, bounds: dict[str, float]) -> None:
    """FD by its logarithm, with dashed lines of what bounds it."""
    axes.set_yscale("log")
    axes.set_yticks(TICKS, [str(tick) for tick in TICKS])
    axes.minorticks_off()
    axes.set_title(f"FD of {domain} outputs: smaller is better")
    for name, fd in bounds.items():
        axes.axhline(fd, color="gray", linestyle="--", linewidth=1)
        axes.annotate(name, (1, fd), xycoords=axes.get_yaxis_transform(), ha="right", va="bottom")


def save(figure: "Figure", path: Path) -> None:
    """Write it as SVG."""
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    with atomic_write(path) as file:
        file.write(picture.getvalue())


def curves(path: Path, runs: dict[str, list[dict]], bounds: dict[str, dict]) -> None:
    """FD of runs over minutes, a panel for each domain.

    runs: points as benchmarks.curve has them, by name; bounds: figures by name and domain.
    """
    figure, both = panels(2)
    for axes, domain in zip(both, DOMAINS, strict=True):
        fd_axis(axes, domain, {name: found[domain]["fd"] for name, found in bounds.items()})
        for name, points in runs.items():
            axes.plot(
                [point["minutes"] for point in points],
                [point[domain]["fd"] for point in points],
                marker=".",
                label=name,
            )
        axes.set_xlabel("minutes of training")
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5)
        axes.legend(loc="lower left")
    save(figure, path)


def whole_faces(path: Path, found: dict) -> None:
    """Share of faces counted as whole over the pairs of a run, with 95 % intervals, by domain.

    found: "runs" has points by the kind of average, "bounds" shares of others by name and domain.
    """
    figure, both = panels(2)
    for axes, domain in zip(both, DOMAINS, strict=True):
        for name, points in found["runs"].items():
            shares = [point[domain] / point["of"] for point in points]
            ends = [wilson(point[domain], point["of"]) for point in points]
            errors = [
                [share - low for share, (low, _) in zip(shares, ends, strict=True)],
                [high - share for share, (_, high) in zip(shares, ends, strict=True)],
            ]
            pairs = [point["pairs"] / 1000 for point in points]
            axes.errorbar(pairs, shares, errors, marker=".", capsize=3, label=name)
        for name, share in found["bounds"][domain].items():
            axes.axhline(share, color="gray", linestyle="--", linewidth=1)
            axes.annotate(
                name, (0, share), xycoords=axes.get_yaxis_transform(), ha="left", va="bottom"
            )
        axes.set(ylim=(0, 1.1), xlabel="thousand pairs", title=f"{domain} outputs counted as whole")
        axes.set_xlim(left=0)
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0.9))
    save(figure, path)


def systems(path: Path, found: dict) -> None:
    """FD of each row of modes.py after equal time, a bar for each domain, the best row first."""
    ended = {name: s["0"]["seconds"] for name, s in found["runs"].items() if s["0"].get("seconds")}
    names = sorted(ended, key=lambda name: -ended[name]["anime"]["fd"])
    figure, both = panels(2)
    for axes, domain in zip(both, DOMAINS, strict=True):
        axes.barh(range(len(names)), [ended[name][domain]["fd"] for name in names])
        labels = [f"{n} ({ended[n]['anime']['retrieval_colour']['top5']:.0%})" for n in names]
        axes.set_yticks(range(len(names)), labels if domain == DOMAINS[0] else [])
        axes.set_title(f"FD of {domain} outputs: smaller is better")
        for name, fd in found["bounds"][domain].items():
            axes.axvline(fd, color="gray", linestyle="--", linewidth=1)
            axes.annotate(name, (fd, len(names) - 0.4), ha="center", annotation_clip=False)
    both[0].set_xlabel("in brackets: own input found among five")
    save(figure, path)


@one_line_errors
def main() -> None:
    whole_faces(ROOT / "docs" / "whole.svg", json.loads((RESULTS / "whole.json").read_bytes()))
    systems(
        ROOT / "docs" / "comparison.svg", json.loads((RESULTS / "modes_faces.json").read_bytes())
    )


if __name__ == "__main__":
    main()
