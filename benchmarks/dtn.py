"""What DTN's parts are for: the demo with and without them, and with f trained along.

    python benchmarks/dtn.py --json benchmarks/results/dtn_cpu.json
    python benchmarks/dtn.py --rows "f fixed" "f trained along" --seeds 1       # a part of it

Trains f once, on the demo's factors unless a row says otherwise, then `train.py --model dtn --demo`
with each row's flags, and measures on the 200 held-out true pairs, which no training has seen:

variance of f    of f(x) over the held-out persons, each number relative to what it was before
                 training: 1 is unchanged, 0 is an f that tells nothing apart
f kept           share of that variance which f finds again in the translations
spread           of the outputs relative to real anime (evaluation/metrics.py); near 0: one for all
hair, colours, shapes   share of outputs that show the true factor; shuffled pairs beside hair

Runs are kept in --work: an interrupted comparison continues.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.errors import one_line_errors
from common.tensors import to_float, to_uint8
from demo.make import load_pairs
from demo.truth import COLOURS, SHAPES, factor_agreement, hair_agreement
from dtn.model import DTNModel
from evaluation import metrics
from interop.generators import load_generators
from pictures.grids import save_grid
from storage.checkpoint import load_checkpoint

# Flags of train.py, and which f.
ROWS = {
    "f fixed": ("", "encoder"),
    "f fixed, learned without labels": ("", "unlabelled"),
    "f trained along": ("--train_f", "encoder"),
    "f trained along from nothing": ("--train_f", "untrained"),
    "f fixed, but untrained": ("", "untrained"),
    "no L_CONST": ("--lambda_const 0", "encoder"),
    "no L_TID": ("--lambda_tid 0", "encoder"),
    "L_TID of weight 1": ("--lambda_tid 1", "encoder"),
}
# Flags of pretrain_encoder.py: from the demo's factors, from its pictures alone, and not at all.
ENCODERS = {
    "encoder": "--demo",
    "unlabelled": "--domain_A_path data/demo/anime --domain_B_path data/demo/person --dim 64 "
    "--batch_size 32 --steps 600",
    "untrained": "--demo --steps 0",
}


def run(work: Path, script: str, *flags: object) -> None:
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}: {done.stderr.strip().splitlines()[-1]}")


def train(options: Namespace, row: str, seed: int) -> Path:
    """Train one row, or what is left of it; returns its checkpoint."""
    flags, encoder = ROWS[row]
    name = f"{row.replace(', ', '-').replace(' ', '_')}-{options.epochs}-{seed}"
    path = options.work / "model_ckpt" / name / "latest.pth"
    if path.exists() and load_checkpoint(path)["epoch"] == options.epochs:
        return path
    if path.exists():
        run(options.work, "train.py", "--resume", "--name", name)
        return path
    decay = options.epochs // 2
    run(
        options.work,
        "train.py",
        "--model",
        "dtn",
        "--demo",
        "--name",
        name,
        "--seed",
        seed,
        "--f_encoder",
        f"data/demo/{encoder}.pth",
        "--niter",
        options.epochs - decay,
        "--niter_decay",
        decay,
        *flags.split(),
    )
    return path


def pictures(folder: Path) -> torch.Tensor:
    """The images of a folder by name: float (N, 3, H, W) in [-1, 1]."""
    files = sorted(folder.glob("*.png"))
    return to_float(torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files])))


@torch.no_grad()
def measure(options: Namespace, path: Path) -> dict:
    """Figures of one checkpoint on the held-out pairs."""
    kept = path.with_name("figures.json")
    if kept.exists():
        return json.loads(kept.read_text())
    model, found = load_generators(path, [], batch_size=50)
    demo = options.work / "data" / "demo"
    persons, anime = pictures(demo / "test" / "person"), pictures(demo / "test" / "anime")
    pairs = load_pairs(demo, sorted(file.name for file in (demo / "test" / "person").iterdir()))
    assert isinstance(model, DTNModel)
    fakes, _ = model.translate(persons, "BtoA")
    save_grid(path.with_name("outputs.png"), torch.cat([persons[:12], fakes[:12]]), 12)
    pixels = to_uint8(fakes).numpy()
    f = model.averaged("netF")
    before, after = f(persons, model.S), f(fakes, model.T)
    variance = before.var(dim=0).sum().item()
    truth = factor_agreement(pixels, pairs, "anime")
    hair, shuffled = hair_agreement(pixels, pairs, "anime")
    figures = {
        "steps": found.steps,
        "variance_of_f": variance,
        "f_kept": 1 - (after - before).square().mean(0).sum().item() / max(variance, 1e-12),
        **metrics.collapse_report(fakes, anime),
        "hair": hair,
        "hair_shuffled": shuffled,
        **{f"true_{name}": each["agreement"] for name, each in truth.items()},
        **{f"shuffled_{name}": each["shuffled"] for name, each in truth.items()},
    }
    kept.write_text(json.dumps(figures))
    return figures


def table(results: dict) -> str:
    """One line per row: means over seeds, and the standard deviation where there are several."""

    def cell(runs: list[dict], get: Callable[[dict], float], form: str) -> str:
        values = [get(one) for one in runs]
        text = f"{statistics.mean(values):{form}}"
        return text + (f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else "")

    def factors(kind: str, names: dict) -> Callable[[dict], float]:
        return lambda r: statistics.mean(r[f"{kind}_{name}"] for name in names)

    head = (
        "row",
        "seeds",
        "variance of f",
        "f kept",
        "spread",
        "near duplicates",
        "right hair",
        "shuffled",
        "colours",
        "shapes",
    )
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    chance = []
    for row, runs in results["runs"].items():
        runs = list(runs.values())
        chance += runs
        lines.append(
            "| "
            + " | ".join(
                [
                    row,
                    str(len(runs)),
                    cell(runs, lambda r: r["variance_of_f"], ".2f"),
                    cell(runs, lambda r: r["f_kept"], ".2f"),
                    cell(runs, lambda r: r["spread"], ".2f"),
                    cell(runs, lambda r: r["near_duplicates"], ".0%"),
                    cell(runs, lambda r: r["hair"], ".1%"),
                    cell(runs, lambda r: r["hair_shuffled"], ".1%"),
                    cell(runs, factors("true", COLOURS), ".1%"),
                    cell(runs, factors("true", SHAPES), ".1%"),
                ]
            )
            + " |"
        )
    lines.append(
        f"colours: mean of {', '.join(COLOURS)} (shuffled "
        f"{cell(chance, factors('shuffled', COLOURS), '.0%')}); shapes: mean of "
        f"{', '.join(SHAPES)} (shuffled {cell(chance, factors('shuffled', SHAPES), '.0%')})"
    )
    return "\n".join(lines)


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description="Compare DTN with and without its parts.")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="which")
    parser.add_argument("--seeds", type=int, default=2, help="of each row")
    parser.add_argument("--epochs", type=int, default=3, help="of 234 steps")
    parser.add_argument("--work", type=Path, default=Path("out/dtn"), help="where they run")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for name, flags in ENCODERS.items():
        if not (options.work / f"data/demo/{name}.pth").exists():
            run(
                options.work,
                "pretrain_encoder.py",
                *flags.split(),
                "--gpu_ids",
                "-1",
                "--output",
                f"data/demo/{name}.pth",
            )
    results: dict = {
        "date": str(date.today()),
        "epochs": options.epochs,
        "device": f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "runs": {},
    }
    for seed in range(options.seeds):
        for row in options.rows:
            figures = measure(options, train(options, row, seed))
            results["runs"].setdefault(row, {})[seed] = figures
            print(row, seed, json.dumps(figures), flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
