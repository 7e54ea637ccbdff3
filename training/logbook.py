"""The training log: one JSON line per epoch in save_image/<name>/log.jsonl, and what is printed.

An epoch with grids also has figures of the held-out images, the cheap part of what evaluate.py
measures; by them train.py keeps best.pth.
"""

import itertools
import json
import math
import os
import re
import shutil
import statistics
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.tensors import to_float
from evaluation import metrics
from evaluation.features import embed, load_features
from evaluation.frechet import frechet_distance
from pictures.splits import digest
from storage.checkpoint import load_checkpoint
from storage.files import atomic_write

FEWEST_IMAGES = 6  # below, a retrieval among them says nothing
REFERENCES = 1000  # training images of a domain that outputs are compared with
LEAST_FOUND = 0.25  # share of inputs found from which on a model's outputs belong to them,
OVER_CHANCE = 2  # if it is as many times what chance finds, which is much of few images


class Yardstick:
    """FD of held-out outputs to a fixed sample of their domain's training images, cheaply.

    Few outputs against many images: FD is then larger than evaluate.py's, and compares only within
    a run. `floors` has what as many held-out real images score, by domain, of
    six or more. `measured_on` tells these images and features from others: figures of
    others do not compare.

    images: uint8 (N, H, W, 3) by domain, with the rows of training images and of held-out ones.
    Raises UserError if the features are not there.
    """

    def __init__(self, images: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        self.net = load_features()
        self.real, self.floors = {}, {}
        measured_with = [weight.numpy() for weight in self.net.state_dict().values()]
        for domain, (pixels, training, held) in images.items():
            some = training[:: -(-len(training) // REFERENCES)]
            self.real[domain] = embed(self.net, to_float(torch.from_numpy(pixels[some])))
            measured_with += [pixels[some], pixels[held]]
            floor = self.fd(to_float(torch.from_numpy(pixels[held])), domain)
            if floor is not None:
                self.floors[domain] = floor
        self.measured_on = digest(measured_with)

    def fd(self, outputs: Tensor, domain: str) -> float | None:
        """Frechet distance of outputs, float (N, 3, H, W) in [-1, 1], to the domain they show.

        None of fewer than six outputs, or six training images.
        """
        if min(len(outputs), len(self.real[domain])) < FEWEST_IMAGES:
            return None
        return frechet_distance(embed(self.net, outputs), self.real[domain])


def open_yardstick(**images: tuple) -> Yardstick | None:
    """What FD is measured with, or None and a line that says what is missing."""
    try:
        yardstick = Yardstick(images)
    except UserError as error:
        print(f"No FD, and so no best.pth: {error}")
        return None
    for domain, fd in yardstick.floors.items():
        print(f"FD of held-out real images, {domain}: {fd:.1f}")
    return yardstick


def held_out_figures(
    inputs: Tensor, fakes: Tensor, recs: Tensor | None, real: Tensor, fd: float | None = None
) -> dict:
    """Figures of one direction (see metrics.figures), or {} of fewer than six images.

    fd is that of a Yardstick, None without; swd is the mean over the levels; top5 is how often an
    output's own input is found by its layout of colours; cycle_l1 is the error of the
    reconstruction, None where there is none. Chance gives top5_chance, and real images
    near_duplicates_real: much, of few images.
    """
    if min(len(inputs), len(real)) < FEWEST_IMAGES:
        return {}
    found = metrics.figures(inputs, fakes, recs, real, seed=0)
    return {
        "fd": fd,
        "swd": statistics.mean(found["swd"].values()),
        "near_duplicates": found["diversity"]["near_duplicates"],
        "near_duplicates_real": found["diversity"]["near_duplicates_real"],
        "collapsed": found["diversity"]["collapsed"],
        "top5": found["retrieval_colour"]["top5"],
        "top5_chance": found["retrieval_colour"]["chance5"],
        "cycle_l1": found["cycle_l1"]["mean"] if recs is not None else None,
    }


def best_so_far(best: dict | None, record: dict) -> dict | None:
    """The better one of an earlier epoch and this record's: {"epoch", "fd"}, or None.

    Better is the smaller FD, mean over the directions. An epoch does not count if in any direction
    its outputs are collapsed or belong to nobody, which makes them no translations, or if it has
    no figures.
    """
    figures = list(record.get("figures", {}).values())
    if not figures or any(not f or f["fd"] is None for f in figures):
        return best
    if any(f["collapsed"] or not belong(f) for f in figures):
        return best
    fd = statistics.mean(f["fd"] for f in figures)
    if best and best.get("fd", math.inf) <= fd:  # an older version's best has none
        return best
    return {"epoch": record["epoch"], "fd": fd}


def belong(figures: dict) -> bool:
    """Whether outputs of these figures belong to their inputs: those are found, not by chance."""
    return figures["top5"] >= max(LEAST_FOUND, OVER_CHANCE * figures["top5_chance"])


def set_aside(best: dict, folder: Path) -> None:
    """Keep best.pth as its epoch's checkpoint, since it was the best by other figures."""
    kept = folder / f"epoch_{best['epoch']:04}.pth"
    with suppress(FileNotFoundError):
        os.replace(folder / "best.pth", kept)
    print(
        f"{folder}: held-out images, the training images that outputs are compared with, or the "
        "features are others now, so that FD does not compare; the best epoch so far is kept as "
        f"{kept.name}, and best.pth starts anew"
    )


def cut_back(saved: dict, ckpt_dir: Path, image_dir: Path) -> dict | None:
    """Make a run's files what they were when `saved` was written; returns the best epoch of then.

    Lines and grids of later epochs go. Their checkpoints are set aside, but for those of the next
    epoch alone that are newer than latest.pth: a process that was killed while it saved left them,
    and they come again. None where no file holds the best epoch any more.
    """
    epoch, best = saved["epoch"], saved.get("best")
    path, latest = ckpt_dir / "best.pth", ckpt_dir / "latest.pth"
    late = {p: n for p in ckpt_dir.glob("epoch_*.pth") if (n := _number(p)) > epoch}
    held = _finished_epoch(path) if path.exists() else None
    if path.exists() and (best is None or held != best["epoch"]):
        late[path] = held or 0
    grids = {p: n for p in image_dir.glob("*_epoch_*.png") if (n := _number(p)) > epoch}
    went_back = {*late.values(), *grids.values()} - {epoch + 1} or any(
        checkpoint.stat().st_mtime_ns < latest.stat().st_mtime_ns for checkpoint in late
    )
    folders = (ckpt_dir / f"abandoned-{n}" for n in itertools.count(1))
    aside = next(folder for folder in folders if not folder.exists())
    if late and went_back:
        aside.mkdir()
        print(f"Checkpoints that are not of the first {epoch} epochs are set aside in {aside}/")
    for checkpoint in late:
        if went_back:
            os.replace(checkpoint, aside / checkpoint.name)
        else:
            checkpoint.unlink()
    if keep_log_before(epoch, image_dir / "log.jsonl") > 1 or went_back:
        print(f"The log and the grids are cut to the first {epoch} epochs, to go on from there")
    for grid in grids:
        grid.unlink()
    if best and not path.exists():
        for source in (ckpt_dir / f"epoch_{best['epoch']:04}.pth", latest):
            if _finished_epoch(source) == best["epoch"]:
                with atomic_write(path) as file, open(source, "rb") as whole:
                    shutil.copyfileobj(whole, file)
                return best
        print(f"The checkpoint of the best epoch, {best['epoch']}, is gone: best.pth starts anew")
        return None
    return best


def _number(path: Path) -> int:
    """The epoch in the name of a checkpoint or a grid; 0 of other files."""
    found = re.fullmatch(r"epoch_(\d+)\.pth|(\d+)_epoch_\w+\.png", path.name)
    return int(found[1] or found[2]) if found else 0


def _finished_epoch(path: Path) -> int | None:
    """The epoch whose end a checkpoint holds; None of any other file."""
    try:
        state = load_checkpoint(path)
    except UserError:
        return None
    return None if state["batch"] else state["epoch"]


def print_record(record: dict) -> None:
    losses = "  ".join(f"{name} {value:.3f}" for name, value in record["losses"].items())
    spreads = "  ".join(f"{k} {v:.2f}" for k, v in record["spread"].items() if v is not None)
    print(
        f"epoch {record['epoch']}: {losses}  {f'spread: {spreads}  ' if spreads else ''}"
        f"{record['images_per_s']:.1f} images/s"
    )
    for shows, figures in record.get("figures", {}).items():
        if figures:
            fd = "" if figures["fd"] is None else f"FD {figures['fd']:.1f}, "
            print(
                f"  {shows} outputs: {fd}SWD {figures['swd']:.1f}, own input found "
                f"{figures['top5']:.0%} (chance: {figures['top5_chance']:.0%}), near duplicates "
                f"{figures['near_duplicates']:.0%} (real: {figures['near_duplicates_real']:.0%})"
            )
            if figures["collapsed"]:
                print(
                    f"warning: {shows} outputs of this epoch count as collapsed, which keeps it "
                    f"from becoming best.pth: spread below {metrics.COLLAPSE_SPREAD}, or over "
                    f"{metrics.COLLAPSE_DUPLICATES:.0%} near duplicates"
                )
    for shows, value in record["spread"].items():
        if value is not None and value < metrics.COLLAPSE_SPREAD:
            print(
                f"warning: {shows} outputs vary {value:.2f} times as much as real images; "
                "if this stays, the generator has collapsed to few outputs"
            )


def tell_if_no_best(path: Path) -> None:
    """Say why a run that is over has no best.pth."""
    if not path.exists():
        print(
            f"There is no {path}: in no epoch with grids were {5 * OVER_CHANCE} images of each "
            "domain held out, FD measured, the outputs not collapsed and "
            f"{LEAST_FOUND:.0%} of their inputs found, {OVER_CHANCE} times what chance finds at "
            "least"
        )


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, all of it or nothing. Raises UserError when the disk is full."""
    before = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, before)
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space, then "
            "continue with --resume"
        ) from error


def keep_log_before(epoch: int, path: Path) -> int:
    """Drop what the log says of epochs that will be trained again, and any torn last line.

    Returns how many such epochs it had.
    """
    kept, dropped = [], 0
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                if json.loads(line)["epoch"] <= epoch:
                    kept.append(line + "\n")
                else:
                    dropped += 1
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
    with atomic_write(path) as file:
        file.write("".join(kept).encode())
    return dropped


def peak_memory_mb(device: torch.device) -> int | None:
    """Most memory that the process has used on the device so far, MiB; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)
