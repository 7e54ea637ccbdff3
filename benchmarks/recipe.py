"""Which recipe draws best after the same time: short runs that differ in one thing each.

    OMP_NUM_THREADS=1 nice python benchmarks/recipe.py --domain_A_path data/anime \\
        --domain_B_path data/person --test_A_path data/anime_test --test_B_path data/person_test \\
        --minutes 30 --json benchmarks/results/recipe.json
    python benchmarks/recipe.py --rows default "lambda 5" --minutes 10      # two of them, demo

Each run trains for --minutes CPU minutes at a constant learning rate; every --every pairs its
outputs for fixed test images are measured, and 64 of them, drawn once for all runs, are written to
a grid in --work, where an interrupted comparison goes on. Processes with different --rows may
share --work; a last call with all rows makes the table. Look at every grid: figures are not enough.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.curve import HEAD, Curve, TestImages, add_options, at, describe, row, slug
from benchmarks.modes import Data
from common.errors import one_line_errors
from common.health import NonFiniteLoss
from storage.files import atomic_write
from train import tune_backends

# The first row; a value given once more overrides the one before.
DEFAULT = "--generator resnet8 --ngf 32 --ndf 48 --batch_size 4 --warm_steps 2500 --shift 4"
ROWS = {
    "default": "",
    "no warm start": "--warm_steps 0",
    "no shift": "--shift 0",
    "cycle_pool 1": "--cycle_pool 1",
    "cycle_pool 8": "--cycle_pool 8",
    "lr_G 2e-4": "--lr_G 2e-4",
    "n_critic 2": "--n_critic 2",
    "n_critic 5": "--n_critic 5",
    "ndf 32": "--ndf 32",
    "ndf 64": "--ndf 64",
    "lambda 5": "--lambda_A 5 --lambda_B 5 --lambda_idt 1.0",  # its weight stays what it is
    "lambda 3": "--lambda_A 3 --lambda_B 3 --lambda_idt 1.667",
    "batch 8": "--batch_size 8 --warm_steps 1250",
    "batch 8, lr_G 4e-4": "--batch_size 8 --warm_steps 1250 --lr_G 4e-4 --lr_D 8e-4",
    "resnet generator": "--generator resnet",
    "unet generator": "--generator unet",
    "ngf 48": "--ngf 48",
    "relativistic": "--gan_mode relativistic",
    "negatives": "--negatives 0.33",
    "relativistic, negatives": "--gan_mode relativistic --negatives 0.33",
    "relativistic, negatives, R1": "--gan_mode relativistic --negatives 0.5 --lambda_r1 0.02",
    "zoom": "--zoom 0.5",
    "relativistic, negatives, R1, zoom": (
        "--gan_mode relativistic --negatives 0.5 --lambda_r1 0.02 --zoom 0.5"
    ),
}


def flags_of(name: str) -> str:
    """Flags of train.py for a row."""
    return f"{DEFAULT} {ROWS[name]}".strip()


def run(name: str, data: Data, test: TestImages, options: argparse.Namespace) -> dict:
    """Train and measure one row up to the time asked for; returns its flags and points."""
    folder = options.work / f"{slug(name)}-{options.seed}"
    curve = Curve(folder, flags_of(name), data, test, options.seed, options.every)
    found = {"flags": flags_of(name), "points": curve.points}
    try:
        for point in curve.run():
            print(row(f"{name}, {point['minutes']:.1f} min", point), flush=True)
            if point["minutes"] >= options.minutes:
                break
    except NonFiniteLoss as error:
        found["broke"] = str(error)
    return found


def table(runs: dict[str, dict], bounds: dict, minutes: float) -> str:
    """Markdown: what each run had after that many minutes, then what bounds the figures."""
    lines = [HEAD]
    for name, found in runs.items():
        point = at(found["points"], minutes)
        lines.append(
            row(name, point)
            if point
            else f"| {name} | {found.get('broke', 'not measured at that time')} |" + " |" * 6
        )
    return "\n".join([*lines, *(row(name, found) for name, found in bounds.items())])


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description="Compare recipes after equal CPU time.")
    add_options(parser)
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.add_argument("--minutes", type=float, default=30, help="CPU minutes for each run")
    options = parser.parse_args()
    tune_backends()
    data = Data(options)
    test = TestImages(data)
    runs = {name: run(name, data, test, options) for name in options.rows}
    bounds = test.bounds()
    if options.json:
        results = {
            **describe(options, data),
            "minutes": options.minutes,
            "N": test.n,
            "bounds": bounds,
            "runs": runs,
        }
        with atomic_write(options.json) as file:
            file.write(json.dumps(results, indent=1).encode())
    print(f"\nAfter {options.minutes:g} minutes, {test.n} + {test.n} test images:\n")
    print(table(runs, bounds, options.minutes))


if __name__ == "__main__":
    main()
