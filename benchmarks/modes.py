"""The original author's comparison, re-run: every system, equal budgets, several seeds.

    python benchmarks/modes.py --json benchmarks/results/modes_demo.json
    python benchmarks/modes.py --domain_A_path data/anime --domain_B_path data/person \\
        --test_A_path data/anime_test --test_B_path data/person_test --rows faces --seeds 1 \\
        --json benchmarks/results/modes_faces.json

Trains each row's model from scratch, at a constant learning rate, with the small nets of the demo.
Each is measured twice: after the same number of steps (batches shown to D), and after the same
time: CPU seconds of the process, which do not count what else the machine does, or on a GPU
seconds. None has the warm start of train.py's defaults, which would do part of the work of each.
Outputs for held-out images are judged as evaluate.py does; on the demo also against the true pairs.
Finished runs are kept in --work: an interrupted comparison goes on. Two processes with different
--seeds or --rows may share --work; a last call with all of them makes the table.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from arguments import train_options
from common.device import tune_backends
from common.errors import one_line_errors
from common.health import NonFiniteLoss
from common.tensors import to_float, to_uint8
from dataset import ImageArray, UnpairedBatches, load_folder
from demo.make import load_pairs, make_demo
from demo.truth import factor_agreement, hair_agreement, pixel_error
from dtn.model import DTNModel
from evaluation import metrics
from evaluation.attributes import judged, labels_of, read_attributes, train_classifier
from evaluation.features import embed, load_features
from evaluation.frechet import distances, floor
from interop.build import make_model
from pictures.grids import save_grid
from storage.files import atomic_write
from translation_model import TranslationModel

ROWS = {
    "sn (default)": "",
    "sn, no attention": "--no-attention",
    "sn+gp": "--gan_mode sn+gp",
    "wgan": "--gan_mode wgan",
    "wgangp": "--gan_mode wgangp",
    "lsgan": "--gan_mode lsgan",
    "vanilla": "--gan_mode vanilla",
    "the author's: sagan generator, lambda 250": "--generator sagan --lambda_A 250 --lambda_B 250",
    "the author's, no attention": "--generator sagan --lambda_A 250 --lambda_B 250 --no-attention",
    "sn loss, no spectral norm": "--no-spectral_norm",
    "CycleGAN of 2017: resnet, lsgan, patch, no spectral norm": (
        "--generator resnet --n_blocks 4 --gan_mode lsgan --discriminator patch --no-spectral_norm"
    ),
    "resnet generator": "--generator resnet --n_blocks 4",
    "unet generator": "--generator unet",
    "sagan generator": "--generator sagan",
    "lambda 250": "--lambda_A 250 --lambda_B 250",
    "no identity loss": "--lambda_idt 0",
    "dtn": "--model dtn --lambda_tid 15 --no-flip",
}
AUTHOR = ("the author's: sagan generator, lambda 250", "the author's, no attention")
MAIN = (*tuple(ROWS)[:7], "unet generator")  # rows that get every seed; the others get one
FACES = (*MAIN, *AUTHOR, "no identity loss", "dtn")
TRUE_PAIRS = 100  # of the demo's 200: reading the factors of more takes longer than training
SHOWN = ("hair_colour", "skin", "background", "turn", "glasses", "hair_length", "mouth")
BATCHES = "--batch_size 8 --ngf 16 --ndf 16 --lr_G 4e-4 --ema 0.99"
CYCLEGAN = "--lambda_idt 0.5 --shift 0 --warm_steps 0 --cycle_pool 1"
RESNET8 = "--generator resnet8 --n_blocks 4"
DIRECTIONS = (("BtoA", "person", "anime"), ("AtoB", "anime", "person"))


class Data:
    """Training images, held-out ones and what is known of these, by domain."""

    def __init__(self, options: Namespace) -> None:
        self.demo = options.domain_A_path is None
        if self.demo:
            demo = options.work / "data" / "demo"
            make_demo(demo)
            folders = [
                folder / style for folder in (demo, demo / "test") for style in ("anime", "person")
            ]
        else:
            folders = [
                options.domain_A_path,
                options.domain_B_path,
                options.test_A_path,
                options.test_B_path,
            ]
        flags = ("--domain_A_path", "--domain_B_path", "--test_A_path", "--test_B_path")
        counts = (options.images, options.images, options.test_images, options.test_images)
        loaded = [
            load_folder(folder, flag, count, 64, "center", options.work / "cache", 2)
            for folder, flag, count in zip(folders, flags, counts, strict=True)
        ]
        self.train_A, self.train_B = loaded[:2]
        self.test = {"anime": floats(loaded[2]), "person": floats(loaded[3])}
        for found in loaded[2:] if self.demo else ():  # of both the same pairs, or refused
            self.pairs = load_pairs(folders[0].parent, found.paths, options.test_images)
        self.features = load_features()
        self.rows = {domain: embed(self.features, x) for domain, x in self.test.items()}
        self.judge_of_men = None
        if options.attributes:
            tables = read_attributes(*options.attributes)
            known, male = labels_of(self.train_B.paths, tables[0], "Male")
            images = torch.from_numpy(self.train_B.images[known.numpy()])
            self.judge_of_men = train_classifier(to_float(images), male[known], seed=0)
            self.known, self.male = labels_of(loaded[3].paths, tables[-1], "Male")


def floats(images: ImageArray) -> Tensor:
    return to_float(torch.from_numpy(np.array(images.images)))


def batches_for(model: TranslationModel, data: Data) -> UnpairedBatches:
    """What train.py would draw for this model, of these images."""
    opt = model.opt
    images = data.train_A.images, data.train_B.images
    return UnpairedBatches(*images, opt.batch_size, opt.seed, opt.flip, device=model.device)


def flags_of(row: str) -> list[str]:
    """Flags of train.py for a row."""
    flags = [BATCHES]  # a flag of the row overrides one before
    if "--model dtn" not in ROWS[row]:
        flags += [CYCLEGAN, "" if "--generator" in ROWS[row] else RESNET8]
    flags.append(ROWS[row])
    return " ".join(flags).split()


def run(row: str, seed: int, data: Data, options: Namespace) -> dict:
    """Train and measure one row, unless that was done; returns figures by budget."""
    name = "".join(c if c.isalnum() else "_" for c in row) + f"-{seed}"
    kept = options.work / "runs" / f"{name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    dtn = "--model dtn" in ROWS[row]
    flags = [*flags_of(row), "--seed", str(seed)]
    opt, _ = train_options(flags)
    if dtn:
        opt.f_encoder = str(encoder(options))
    elif opt.lambda_A > 10:  # the identity loss is relative to it, and shall stay what it is
        opt.lambda_idt *= 10 / opt.lambda_A
    model = make_model(opt)
    if isinstance(model, DTNModel):
        images = {"A": data.train_A.images, "B": data.train_B.images}
        model.fit(images, {domain: np.arange(len(images[domain])) for domain in "AB"})
    batches = batches_for(model, data)
    budgets: dict = {"steps": None, "seconds": None}
    spent = 0.0
    found: dict = {"flags": " ".join(flags), "parameters": model.count_parameters()}
    try:
        while any(budgets[kind] is None for kind in budgets):
            started = clock(model)
            for _ in range(10):
                model.set_input(*batches.batch(model.steps))
                model.optimize_parameters()
            model.fetch_losses()
            spent += clock(model) - started
            reached = {"steps": model.steps >= options.steps, "seconds": spent >= options.seconds}
            new = [kind for kind in budgets if reached[kind] and budgets[kind] is None]
            if not new:
                continue
            grids = options.work / "grids"
            spend = {
                "steps": model.steps,
                "seconds": round(spent, 1),
                "updates_of_G": model.steps // opt.n_critic,
            }
            budgets |= dict.fromkeys(new, spend | measure(model, data, grids / f"{name}_{new[0]}"))
            if row == "sn (default)":  # the same training, seen without the average
                averages = {net: model.nets.pop(net) for net in ("netG_A_ema", "netG_B_ema")}
                raw = spend | measure(model, data, grids / f"{name}_{new[0]}_raw")
                found.setdefault("without EMA", {}).update(dict.fromkeys(new, raw))
                model.nets |= averages
    except NonFiniteLoss as error:
        found["broke"] = str(error)
    found |= budgets
    with atomic_write(kept) as file:
        file.write(json.dumps(found).encode())
    return found


def encoder(options: Namespace) -> Path:
    """DTN's f, trained once by pretrain_encoder.py with its defaults; its time is not counted."""
    path = (options.work / "encoder.pth").resolve()
    flags = ["--demo"]
    if options.domain_A_path:
        folders = {
            "domain_A_path": options.domain_A_path,
            "domain_B_path": options.domain_B_path,
            "attributes": options.attributes and options.attributes[0],
        }
        flags = [
            part
            for key, value in folders.items()
            if value
            for part in (f"--{key}", str(value.resolve()))
        ]
    if not path.exists():
        script = [sys.executable, str(ROOT / "pretrain_encoder.py"), "--output", str(path)]
        subprocess.run([*script, *flags], cwd=options.work, check=True)
    return path


def clock(model: TranslationModel) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
        return time.monotonic()
    return time.process_time()


def measure(model: TranslationModel, data: Data, grid: Path) -> dict:
    """Figures of a model on the held-out images, by domain that is shown."""
    found: dict = {}
    for direction, source, shows in DIRECTIONS:
        if direction not in model.directions:
            continue
        inputs, real = data.test[source], data.test[shows]
        fakes, recs = model.translate(inputs, direction)
        found[shows] = metrics.figures(inputs, fakes, recs, real, seed=0)
        found[shows] |= distances(embed(data.features, fakes), data.rows[shows])
        save_grid(
            grid.with_name(f"{grid.name}_{shows}.png"), torch.cat([inputs[:12], fakes[:12]]), 12
        )
        if data.demo:
            pixels = to_uint8(fakes).numpy()
            right, chance = hair_agreement(pixels, data.pairs[: len(pixels)], shows)
            found[shows]["hair"] = {"right": right, "shuffled": chance}
        if data.demo and shows == "anime":
            pixels, pairs = pixels[:TRUE_PAIRS], data.pairs[:TRUE_PAIRS]
            agreement = factor_agreement(pixels, pairs, shows)
            found[shows]["truth"] = {k: v["agreement"] for k, v in agreement.items()}
            found[shows]["shuffled"] = {k: v["shuffled"] for k, v in agreement.items()}
            found[shows]["pixel_error"] = pixel_error(pixels, pairs, shows)["error"]
        if data.judge_of_men is not None and source == "person" and recs is not None:
            men = judged(data.judge_of_men, recs)
            found["men_kept"] = men[data.known & (data.male == 1)].float().mean().item()
            found["women_made_men"] = men[data.known & (data.male == 0)].float().mean().item()
    return found


# ---------------------------------------------------------------------------------- the table


COLUMNS = {
    "steps": (lambda f: f["steps"], ".0f"),
    "CPU s": (lambda f: f["seconds"], ".0f"),
    "FD anime": (lambda f: f["anime"]["fd"], ".1f"),
    "FD person": (lambda f: f["person"]["fd"], ".1f"),
    "coverage": (lambda f: f["anime"]["coverage"], ".0%"),
    "near duplicates": (lambda f: f["anime"]["diversity"]["near_duplicates"], ".0%"),
    "input found": (lambda f: f["anime"]["retrieval_colour"]["top5"], ".0%"),
    "hair, anime": (lambda f: f["anime"]["hair"]["right"], ".0%"),
    "hair, person": (lambda f: f["person"]["hair"]["right"], ".0%"),
    "7 factors": (lambda f: statistics.mean(f["anime"]["truth"][k] for k in SHOWN), ".0%"),
    "men kept": (lambda f: f["men_kept"], ".0%"),
}


def table(runs: dict[str, dict], kind: str) -> str:
    """Markdown: one line per row; means over seeds, and standard deviations where several."""
    measured = [f[kind] for seeds in runs.values() for f in seeds.values() if f.get(kind)]
    names = []
    for name, (get, _) in COLUMNS.items():
        try:
            get(measured[0])
            names.append(name)
        except KeyError:
            continue
    lines = ["| | seeds | " + " | ".join(names) + " |", "| --- |" + " --- |" * (len(names) + 1)]
    for row, seeds in runs.items():
        ended = [f[kind] for f in seeds.values() if f.get(kind)]
        cells = [row, f"{len(ended)}" + (f" of {len(seeds)}" if len(ended) < len(seeds) else "")]
        for name in names if ended else ():
            get, form = COLUMNS[name]
            try:
                values = [get(f) for f in ended]
            except KeyError:  # DTN has one direction and no way back
                cells.append("")
                continue
            cell = f"{statistics.mean(values):{form}}"
            if len(values) > 1 and name not in ("steps", "CPU s"):
                cell += f" ± {statistics.stdev(values):{form}}"
            cells.append(cell)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description="Compare all systems under equal budgets.")
    parser.add_argument(
        "--rows", nargs="+", choices=(*ROWS, "main", "faces", "all"), default=["all"], help="which"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of the main rows; others get one")
    parser.add_argument("--steps", type=int, default=300, help="batches of 8 pairs for each run")
    parser.add_argument("--seconds", type=float, default=90, help="CPU seconds for each run")
    parser.add_argument("--domain_A_path", type=Path, help="anime; if not given: the demo")
    parser.add_argument("--domain_B_path", type=Path, help="persons")
    parser.add_argument("--test_A_path", type=Path, help="anime to measure on")
    parser.add_argument("--test_B_path", type=Path, help="persons to measure on")
    parser.add_argument(
        "--attributes",
        type=Path,
        nargs="+",
        help="tables of training and of test persons, see evaluate.py, that of "
        "training first: do men stay men?",
    )
    parser.add_argument("--images", type=int, default=15000, help="first N to train on")
    parser.add_argument("--test_images", type=int, default=500, help="first N to measure on")
    parser.add_argument("--work", type=Path, default=Path("out/modes"), help="where runs are kept")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    tune_backends()
    data = Data(options)
    rows = {"all": list(ROWS), "main": list(MAIN), "faces": list(FACES)}
    chosen = [row for name in options.rows for row in rows.get(name, [name])]
    runs: dict[str, dict] = {}
    for seed in range(options.seeds):
        for row in chosen:
            if seed and row not in MAIN:
                continue
            found = run(row, seed, data, options)
            runs.setdefault(row, {})[seed] = found
            if "without EMA" in found:
                runs.setdefault("sn (default), without EMA", {})[seed] = found["without EMA"]
            print(row, seed, found.get("broke", ""), flush=True)
    results = {
        "date": str(date.today()),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} of {os.cpu_count()} cores",
        "data": "demo" if data.demo else f"{len(data.train_A.images)} + {len(data.train_B.images)}",
        "measured_on": {domain: len(images) for domain, images in data.test.items()},
        "budgets": {"steps": options.steps, "seconds": options.seconds},
        "bounds": {
            shows: {
                "floor": (floor(data.rows[shows], 0) or {"fd": 0.0})["fd"],
                "untranslated": distances(data.rows[source], data.rows[shows])["fd"],
            }
            for _, source, shows in DIRECTIONS
        },
        "runs": runs,
    }
    if options.json:
        with atomic_write(options.json) as file:
            file.write(json.dumps(results, indent=1).encode())
    print(f"\nFD: {results['bounds']}")
    for kind in ("steps", "seconds"):
        print(f"\nEqual {kind}:\n\n{table(runs, kind)}")


if __name__ == "__main__":
    main()
