"""What evaluate.py shows of its figures: a markdown table, and grids of outputs."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from evaluation import metrics
from evaluation.baselines import BASELINES
from pictures.grids import save_grid

FEWEST_FOR_COLLAPSE = 50  # below that chance decides, see metrics.collapse_report
NAMES = {
    "fd": "FD",
    "kd": "kernel distance x1000",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
DIRECTIONS = {"BtoA": ("person", "anime"), "AtoB": ("anime", "person")}  # from, to
GRIDS = ("best_median_worst", "first_middle_last", "nearest_training_images")
TITLES = {direction: " to ".join(domains) for direction, domains in DIRECTIONS.items()}


def save_cases(
    folder: Path, direction: str, source: dict, target: dict, fakes: Tensor, recs: Tensor | None
) -> None:
    """Grids: best, median and worst by reconstruction; outputs over their nearest training images.

    The first holds three bands of ten columns, each input over output over reconstruction; without
    reconstructions its bands are the first, middle and last inputs, which is in its name.
    """
    if recs is None:
        kind, order = "first_middle_last", torch.arange(len(fakes))
        shown = [source["test"], fakes]
    else:
        kind = "best_median_worst"
        order = (recs - source["test"]).abs().flatten(1).mean(1).argsort()
        shown = [source["test"], fakes, recs]
    n = min(10, len(order) // 3)
    middle = len(order) // 2 - n // 2
    bands = [order[:n], order[middle : middle + n], order[-n:]]
    rows = [x[band] for band in bands for x in shown]
    save_grid(folder / f"{direction}_{kind}.png", torch.cat(rows), n)
    if target["train"] is not None:
        outputs = fakes[order[middle : middle + n]]
        _, nearest = metrics.nearest(outputs, target["train"])
        grid = torch.cat([outputs, target["train"][nearest]])
        save_grid(folder / f"{direction}_nearest_training_images.png", grid, n)


def table(results: dict) -> str:
    """The figures that matter most, as a markdown table."""
    directions = [direction for direction in DIRECTIONS if direction in results]
    lines = []
    for domain in ("anime", "person"):
        swd = list(results[domain]["floor"]["swd"].values())
        real = results[domain]["floor"].get("realism")
        fd = f"FD {real['fd']:.1f}, " if real else ""
        seen = results[domain].get("trained_on")
        lines.append(
            f"real {domain}: N {results[domain]['N']}, "
            f"{f'{seen} of them trained on, ' if seen else ''}floors: {fd}SWD (halves of "
            f"{results[domain]['floor']['N']}) {sum(swd) / len(swd):.2f}"
        )
    rows = []

    def row(name: str, cell: Callable[..., str]) -> None:
        cells = []
        for direction in directions:
            try:
                cells.append(cell(results[direction]))
            except (KeyError, TypeError):
                cells.append("-")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")

    def beside(key: str, form: str) -> None:
        """A figure of realism.py, with what other real images score."""
        row(
            f"{NAMES[key]} (real)",
            lambda r: f"{r['realism'][key]:{form}} ({r['realism']['floor'][key]:{form}})",
        )

    row("N", lambda r: f"{r['N']}")
    beside("fd", ".1f")
    row(
        "FD over that of real images",
        lambda r: metrics.defined(
            metrics.ratio(r["realism"]["fd"], r["realism"]["floor"]["fd"]), ".1f"
        ),
    )
    for name in BASELINES:
        row(
            f"FD of the inputs {name}",
            lambda r, name=name: f"{r['realism']['baselines'][name]['fd']:.1f}",
        )
    beside("kd", ".0f")
    for key in ("precision", "recall", "density", "coverage"):
        beside(key, ".2f")
    row(
        "fine structure of the input kept (of another)",
        lambda r: (
            f"{r['realism']['detail']['kept']:.2f} ({r['realism']['detail']['shuffled']:.2f})"
        ),
    )
    row("SWD x1000, mean over levels", lambda r: f"{sum(r['swd'].values()) / len(r['swd']):.2f}")
    row("FID", lambda r: f"{r['fid_kid']['fid']:.2f}")
    row("KID x1000", lambda r: f"{1000 * r['fid_kid']['kid']:.2f}")
    row("spread over real", lambda r: metrics.defined(r["diversity"]["spread"]))
    row(
        "near duplicates (real)",
        lambda r: (
            f"{r['diversity']['near_duplicates']:.1%} "
            f"({r['diversity']['near_duplicates_real']:.1%})"
        ),
    )
    few = min(results[domain]["N"] for domain in ("anime", "person")) < FEWEST_FOR_COLLAPSE
    row(
        "collapsed",
        lambda r: (
            f"too few to tell, {FEWEST_FOR_COLLAPSE} are needed"
            if few
            else "yes"
            if r["diversity"]["collapsed"]
            else "no"
        ),
    )
    for layout in ("colour", "gradient"):
        key = f"retrieval_{layout}"
        row(
            f"own input found by {layout} layout, top-1 / top-5 (chance)",
            lambda r, key=key: (
                f"{r[key]['top1']:.1%} / {r[key]['top5']:.1%} "
                f"({r[key]['chance1']:.1%} / {r[key]['chance5']:.1%})"
            ),
        )
    row(
        "hair, background colour correlation",
        lambda r: (
            f"{r['region_correlation']['hair']:.2f}, {r['region_correlation']['background']:.2f}"
        ),
    )
    row(
        "cycle error (of a pixel's range)",
        lambda r: f"{r['cycle_l1']['mean']:.3f} ± {r['cycle_l1']['standard_error']:.3f}",
    )
    row(
        "distance to training images over that of held-out ones",
        lambda r: metrics.defined(r["memorisation"]["ratio"]),
    )
    names = next(
        (list(r["truth"]["factors"]) for d in directions if "truth" in (r := results[d])), []
    )
    for name in names:
        row(
            f"true {name} (shuffled; oracle)",
            lambda r, name=name: "{agreement:.1%} ({shuffled:.1%}; {oracle:.1%})".format(
                **r["truth"]["factors"][name]
            ),
        )
    if names:
        row(
            "pixel error to the true pair (shuffled)",
            lambda r: "{error:.3f} ({shuffled:.3f})".format(**r["truth"]["pixels"]),
        )
    if directions:
        lines += [
            "",
            "| | " + " | ".join(TITLES[d] for d in directions) + " |",
            "| --- |" + " --- |" * len(directions),
            *rows,
        ]
    for direction in directions:
        if results[direction]["verdict"]:
            lines.append(f"{TITLES[direction]} {results[direction]['verdict']}")
    for group, f in results.get("groups", {}).items():
        if "left_out" in f:
            lines.append(f"{group}: {f['left_out']}")
        else:
            lines.append(
                f"{group}: N {f['N']}, classifier {f['classifier_accuracy']:.0%} right; there and "
                f"back {f['kept_after_there_and_back']:.0%} keep it, "
                f"{f['gained_after_there_and_back']:.0%} of the others gain it; persons made of "
                f"anime {f['share_of_persons_made_of_anime']:.0%} (real "
                f"{f['share_of_real_persons']:.0%})"
            )
    return "\n".join(lines)
