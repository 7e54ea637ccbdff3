"""How much sooner our default draws as well as CycleGAN of 2017: FD against minutes of training.

    OMP_NUM_THREADS=1 nice python benchmarks/time_to_quality.py --domain_A_path data/anime \\
        --domain_B_path data/person --test_A_path data/anime_test --test_B_path data/person_test \\
        --minutes 90 --plot docs/time_to_quality.svg --json benchmarks/results/time_to_quality.json
    python benchmarks/time_to_quality.py --minutes 5 --every 400         # the demo, its small nets

Both train from scratch, at a constant learning rate: the reference for --minutes CPU minutes, ours
until it has the smallest FD that the reference had, in both directions, or for as long. The ratio
is the time at which the reference had that FD over the time at which ours had it, between
measurements on a line. An interrupted comparison goes on in --work.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.curve import HEAD, Curve, TestImages, add_options, describe, row, slug
from benchmarks.modes import Data
from benchmarks.plot import curves as plot
from benchmarks.recipe import DEFAULT
from common.errors import one_line_errors
from common.health import NonFiniteLoss
from storage.files import atomic_write
from train import tune_backends

# Zhu et al. 2017 (CycleGAN), section 4 and appendix 7, as its well-known code trains it.
REFERENCE = (
    "--generator resnet --ngf 64 --n_blocks 6 --gan_mode lsgan --discriminator patch "
    "--ndf 64 --no-spectral_norm --batch_size 1 --lr_G 2e-4 --lr_D 2e-4 --beta1 0.5 "
    "--beta2 0.999 --ema 0 --amp off --warm_steps 0 --shift 0 --cycle_pool 1"
)
RUNS = {"reference": REFERENCE, "ours": DEFAULT}
DEMO = "--ngf 16 --ndf 16 --n_blocks 4"  # for both, on drawn faces
DOMAINS = ("anime", "person")


def level(points: list[dict], domain: str) -> float:
    """The smallest FD that a run had."""
    return min(point[domain]["fd"] for point in points)


def minutes_to(points: list[dict], domain: str, wanted: float) -> float | None:
    """When a run first had an FD, on a line between its points; None if it never had.

    Of one that had it when it was first measured, that time: the true one may be smaller.
    """
    before = None
    for point in points:
        if point[domain]["fd"] <= wanted:
            if before is None:
                return point["minutes"]
            high, low = before[domain]["fd"], point[domain]["fd"]
            share = (high - wanted) / (high - low)
            return before["minutes"] + share * (point["minutes"] - before["minutes"])
        before = point
    return None


def ratios(reference: list[dict], ours: list[dict]) -> dict[str, dict]:
    """For each domain the FD compared at, both times, and the ratio; None where ours never had it.

    "at_least": whether ours had it when it was first measured, so that the ratio may be larger.
    """
    found = {}
    for domain in DOMAINS:
        wanted = level(reference, domain)
        then, now = (minutes_to(points, domain, wanted) for points in (reference, ours))
        found[domain] = {
            "fd": wanted,
            "reference_minutes": then,
            "our_minutes": now,
            "ratio": then / now if then and now else None,
            "at_least": bool(now) and now == ours[0]["minutes"],
        }
    return found


def train(
    name: str,
    flags: str,
    data: Data,
    test: TestImages,
    options: argparse.Namespace,
    wanted: dict[str, float],
) -> dict:
    """A run up to the time asked for, or until it has an FD as small as wanted in each domain."""
    curve = Curve(
        options.work / f"{slug(name)}-{options.seed}",
        flags,
        data,
        test,
        options.seed,
        options.every,
    )
    found = {"flags": flags, "points": curve.points}
    try:
        for point in curve.run():
            print(row(f"{name}, {point['minutes']:.1f} min", point), flush=True)
            reached = wanted and all(level(curve.points, d) <= wanted[d] for d in DOMAINS)
            if point["minutes"] >= options.minutes or reached:
                break
    except NonFiniteLoss as error:
        found["broke"] = str(error)
    return found


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description="Time to the same faces, reference and ours.")
    add_options(parser)
    parser.add_argument("--minutes", type=float, default=90, help="CPU minutes for each run")
    parser.add_argument("--plot", type=Path, help="SVG to write")
    options = parser.parse_args()
    tune_backends()
    data = Data(options)
    test = TestImages(data)
    runs: dict[str, dict] = {}
    wanted: dict[str, float] = {}
    for name, flags in RUNS.items():
        flags = f"{flags} {DEMO}" if data.demo else flags
        runs[name] = train(name, flags, data, test, options, wanted)
        wanted = {domain: level(runs[name]["points"], domain) for domain in DOMAINS}
    curves = {name: found["points"] for name, found in runs.items()}
    bounds, found = test.bounds(), ratios(*curves.values())
    if options.plot:
        plot(options.plot, curves, bounds)
    if options.json:
        results = {
            **describe(options, data),
            "N": test.n,
            "bounds": bounds,
            "ratios": found,
            "runs": runs,
        }
        with atomic_write(options.json) as file:
            file.write(json.dumps(results, indent=1).encode())
    print(
        "\n".join(
            [
                HEAD,
                *(
                    row(f"{name}, {points[-1]['minutes']:.1f} min", points[-1])
                    for name, points in curves.items()
                ),
                *(row(name, one) for name, one in bounds.items()),
            ]
        )
    )
    for domain, one in found.items():
        ours = one["our_minutes"]
        print(
            f"{domain}: FD {one['fd']:.1f} after {one['reference_minutes']:.1f} minutes, ours "
            + (
                f"after {ours:.1f}: {'at least ' if one['at_least'] else ''}{one['ratio']:.1f}x"
                if ours
                else "never"
            )
        )


if __name__ == "__main__":
    main()
