"""Plots of figures for the documents, by matplotlib (requirements-dev.txt).

    python benchmarks/plot.py        # docs/long_run.svg, docs/comparison.svg

Of benchmarks/results/long_run.json and modes_faces.json; the same figures give the same file.
"""

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

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


def curves(
    path: Path,
    runs: dict[str, list[dict]],
    bounds: dict[str, dict],
    key: str = "minutes",
    label: str = "minutes of training",
) -> None:
    """FD of runs over points[key], a panel for each domain.

    runs: points as benchmarks.curve has them, by name; bounds: figures by name and domain.
    """
    figure, both = panels(2)
    for axes, domain in zip(both, DOMAINS, strict=True):
        fd_axis(axes, domain, {name: found[domain]["fd"] for name, found in bounds.items()})
        for name, points in runs.items():
            axes.plot(
                [point[key] for point in points],
                [point[domain]["fd"] for point in points],
                marker=".",
                label=name,
            )
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.legend(loc="upper right")
    save(figure, path)


def systems(path: Path, found: dict) -> None:
    """FD of anime outputs over how many find their own input, a point for each row of modes.py."""
    figure, (axes,) = panels(1)
    fd_axis(axes, "anime", found["bounds"]["anime"])
    for name, seeds in found["runs"].items():
        if one := seeds["0"].get("seconds"):
            place = 100 * one["anime"]["retrieval_colour"]["top5"], one["anime"]["fd"]
            axes.plot(*place, "o", color="tab:blue")
            axes.annotate(name, place, xytext=(0, 5), textcoords="offset points", ha="center")
    axes.set_xlabel("own input found among five, %")
    axes.set_xlim(0, 105)
    save(figure, path)


@one_line_errors
def main() -> None:
    run = json.loads((RESULTS / "long_run.json").read_bytes())
    curves(ROOT / "docs" / "long_run.svg", run["runs"], run["bounds"], "pairs", "pairs shown")
    systems(
        ROOT / "docs" / "comparison.svg", json.loads((RESULTS / "modes_faces.json").read_bytes())
    )


if __name__ == "__main__":
    main()
