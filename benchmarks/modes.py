"""The original author's comparison, re-run: every system on the demo, equal budgets, several seeds.

    python benchmarks/modes.py --json benchmarks/results/modes_demo.json
    python benchmarks/modes.py --budget seconds --amount 120      # the same time for each instead
    python benchmarks/modes.py --rows sn wgan --seeds 1 --amount 100       # a part of it

Trains `train.py --demo` with each row's flags for the same number of steps (or seconds), at a
constant learning rate, and measures the result on the 200 held-out true pairs. Finished runs are
kept in --work: an interrupted comparison continues. --jobs 2 trains two at a time, one thread each.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import metrics  # noqa: E402
from batches import derived_generator, to_float, to_uint8  # noqa: E402
from checkpoint import load_checkpoint  # noqa: E402
from demo_faces import load_pairs, make_demo  # noqa: E402
from demo_truth import factor_agreement, pixel_error  # noqa: E402
from test import load_model  # noqa: E402

MAIN = ("sn", "sn, no attention", "sn+gp", "wgan", "wgangp", "lsgan", "vanilla")
ROWS = {
    "sn": "--gan_mode sn",
    "sn, no attention": "--gan_mode sn --no-attention",
    "sn+gp": "--gan_mode sn+gp",
    "wgan": "--gan_mode wgan",
    "wgangp": "--gan_mode wgangp",
    "lsgan": "--gan_mode lsgan",
    "vanilla": "--gan_mode vanilla",
    "sn loss, no spectral norm": "--gan_mode sn --no-spectral_norm",
    "patch discriminator": "--discriminator patch",
    "unet generator": "--generator unet",
    "sagan generator": "--generator sagan",
    "sagan generator, lambda 250": "--generator sagan --lambda_A 250 --lambda_B 250",
    "lambda 250": "--lambda_A 250 --lambda_B 250 --lambda_idt 0.02",
    "no identity loss": "--lambda_idt 0",
    "no EMA": "--ema 0",
}
# train.py, which gets a SIGTERM, and so saves, when its budget is spent.
TRAIN_WITHIN = """
import os, signal, sys, time, train
kind, amount = sys.argv[1], float(sys.argv[2])
sys.argv = ["train.py", *sys.argv[3:]]
step, started = train.CycleGANModel.optimize_parameters, []
def step_within_budget(self):
    started.append(time.monotonic())
    step(self)
    spent = self.steps if kind == "steps" else time.monotonic() - started[0]
    if spent >= amount:
        os.kill(os.getpid(), signal.SIGTERM)
train.CycleGANModel.optimize_parameters = step_within_budget
train.main()
"""
SHOWN = ("hair_colour", "skin", "background", "turn", "glasses", "hair_length", "mouth")


def train(options: Namespace, row: str, seed: int) -> Path:
    """Train one row, unless that was done; returns its checkpoint."""
    name = f"{row.replace(', ', '-').replace(' ', '_')}-{options.budget}{options.amount}-{seed}"
    path = options.work / "model_ckpt" / name / "latest.pth"
    done = path.with_name("budget_spent")
    if done.exists():
        return path
    if path.exists() and options.budget == "seconds":
        shutil.rmtree(path.parent)  # interrupted, and a budget of time cannot be continued
    if path.exists():
        flags = ["--resume", "--name", name]
    else:
        flags = ["--demo", "--seed", str(seed), "--name", name, "--niter", "100000",
                 "--niter_decay", "0", "--every_save_images", "100000"]  # fmt: skip
        flags += ROWS[row].split()
    command = [sys.executable, "-c", TRAIN_WITHIN, options.budget, str(options.amount), *flags]
    threads = {"OMP_NUM_THREADS": "1"} if options.jobs > 1 else {}
    environment = {**os.environ, **threads, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=options.work, env=environment, capture_output=True, text=True
    )
    if result.returncode != 128 + signal.SIGTERM:
        raise RuntimeError(f"{row}, seed {seed}: {result.stderr.strip().splitlines()[-1]}")
    done.touch()
    return path


def measure(options: Namespace, path: Path) -> dict:
    """Figures of one checkpoint on the held-out pairs."""
    kept = path.with_name("figures.json")
    if kept.exists():
        return json.loads(kept.read_text())
    state = load_checkpoint(path)
    model = load_model(path, state, Namespace(gpu_ids=[], batch_size=50))
    demo = options.work / "data" / "demo"
    pairs = load_pairs(demo)
    real = {
        style: to_float(torch.from_numpy(np.stack([
            np.asarray(Image.open(file)) for file in sorted((demo / "test" / style).glob("*.png"))
        ])))
        for style in ("anime", "person")
    }  # fmt: skip
    figures: dict = {"steps": state["model"]["steps"]}
    for direction, source, style in (("BtoA", "person", "anime"), ("AtoB", "anime", "person")):
        fakes, recs = model.translate(real[source], direction)
        pixels = to_uint8(fakes).numpy()
        swd = metrics.sliced_wasserstein(fakes, real[style], derived_generator(0, "patches"))
        figures[style] = {
            "swd": statistics.mean(swd.values()),
            **metrics.collapse_report(fakes, real[style]),
            "retrieval": metrics.retrieval(real[source], fakes, metrics.colour_layout),
            "cycle": ((recs - real[source]).abs().mean() / 2).item(),
            "pixel_error": pixel_error(pixels, pairs, style)["error"],
            "truth": {
                name: figure["agreement"]
                for name, figure in factor_agreement(pixels, pairs, style).items()
            },
        }
    kept.write_text(json.dumps(figures))
    return figures


def table(results: dict) -> str:
    """One line per row: means over seeds, and the standard deviation where there are several."""

    def cell(runs: list[dict], get, form: str) -> str:
        values = [get(run) for run in runs]
        text = f"{statistics.mean(values):{form}}"
        return text + (f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else "")

    head = ("row", "seeds", "steps", "SWD anime", "SWD person", "spread anime",
            "near duplicates anime", "right hair, anime", "right hair, person",
            "mean of 7 factors, anime", "pixel error, anime")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row, runs in results["runs"].items():
        runs = list(runs.values())
        lines.append("| " + " | ".join([
            row, str(len(runs)), cell(runs, lambda r: r["steps"], ".0f"),
            cell(runs, lambda r: r["anime"]["swd"], ".1f"),
            cell(runs, lambda r: r["person"]["swd"], ".1f"),
            cell(runs, lambda r: r["anime"]["spread"], ".2f"),
            cell(runs, lambda r: r["anime"]["near_duplicates"], ".0%"),
            cell(runs, lambda r: r["anime"]["truth"]["hair_colour"], ".0%"),
            cell(runs, lambda r: r["person"]["truth"]["hair_colour"], ".0%"),
            cell(runs, lambda r: statistics.mean(r["anime"]["truth"][f] for f in SHOWN), ".0%"),
            cell(runs, lambda r: r["anime"]["pixel_error"], ".3f"),
        ]) + " |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare all systems on the demo.")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="which")
    parser.add_argument("--seeds", type=int, default=3, help="of the main rows; others get one")
    parser.add_argument("--budget", choices=("steps", "seconds"), default="steps", help="of what")
    parser.add_argument("--amount", type=int, default=600, help="steps, or seconds, for each run")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--work", type=Path, default=Path("out/modes"), help="where they run")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    make_demo(options.work / "data" / "demo")
    runs = [(row, seed) for seed in range(options.seeds) for row in options.rows
            if seed == 0 or row in MAIN]  # fmt: skip
    results: dict = {
        "date": str(date.today()),
        "budget": [options.budget, options.amount],
        "device": f"CPU, {os.cpu_count()} cores, {options.jobs} jobs",
        "runs": {},
    }
    with ThreadPoolExecutor(options.jobs) as pool:
        paths = [pool.submit(train, options, row, seed) for row, seed in runs]
        for (row, seed), path in zip(runs, paths, strict=True):
            figures = measure(options, path.result())
            results["runs"].setdefault(row, {})[seed] = figures
            print(row, seed, json.dumps(figures["anime"]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
