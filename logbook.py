"""The training log: one JSON line per epoch in save_image/<name>/log.jsonl, and what is printed.

An epoch with grids also has figures of the held-out images, the cheap part of what evaluate.py
measures; by them train.py keeps best.pth.
"""

import json
import os
import statistics
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

import metrics
from errors import UserError
from files import atomic_write

FEWEST_IMAGES = 6  # below, a retrieval among them says nothing


def held_out_figures(inputs: Tensor, fakes: Tensor, recs: Tensor | None, real: Tensor) -> dict:
    """Figures of one direction (see metrics.figures), or {} of fewer than six images.

    swd is the mean over the levels; top5 is how often an output's own input is found by its
    layout of colours; cycle_l1 is the error of the reconstruction, None where there is none. Chance
    gives top5_chance, and real images near_duplicates_real: much, of few images.
    """
    if min(len(inputs), len(real)) < FEWEST_IMAGES:
        return {}
    found = metrics.figures(inputs, fakes, recs, real, seed=0)
    return {
        "swd": statistics.mean(found["swd"].values()),
        "near_duplicates": found["diversity"]["near_duplicates"],
        "near_duplicates_real": found["diversity"]["near_duplicates_real"],
        "collapsed": found["diversity"]["collapsed"],
        "top5": found["retrieval_colour"]["top5"],
        "top5_chance": found["retrieval_colour"]["chance5"],
        "cycle_l1": found["cycle_l1"]["mean"] if recs is not None else None,
    }


def best_so_far(best: dict | None, record: dict) -> dict | None:
    """The better one of an earlier epoch and this record's: {"epoch", "swd"}, or None.

    Better is the smaller sliced Wasserstein distance, mean over the directions; an epoch whose
    outputs are collapsed in any direction, or have no figures, does not count.
    """
    figures = list(record.get("figures", {}).values())
    if not figures or any(not f or f["collapsed"] for f in figures):
        return best
    swd = statistics.mean(f["swd"] for f in figures)
    return best if best and best["swd"] <= swd else {"epoch": record["epoch"], "swd": swd}


def set_aside(best: dict, folder: Path) -> None:
    """Keep best.pth as its epoch's checkpoint, since it was the best on other held-out images."""
    kept = folder / f"epoch_{best['epoch']:04}.pth"
    with suppress(FileNotFoundError):
        os.replace(folder / "best.pth", kept)
    print(f"{folder}: the held-out images are others now, so figures do not compare; the best "
          f"epoch so far is kept as {kept.name}, and best.pth starts anew")  # fmt: skip


def print_record(record: dict) -> None:
    losses = "  ".join(f"{name} {value:.3f}" for name, value in record["losses"].items())
    spreads = "  ".join(f"{k} {v:.2f}" for k, v in record["spread"].items() if v is not None)
    print(f"epoch {record['epoch']}: {losses}  {f'spread: {spreads}  ' if spreads else ''}"
          f"{record['images_per_s']:.1f} images/s")  # fmt: skip
    for shows, figures in record.get("figures", {}).items():
        if figures:
            print(
                f"  {shows} outputs: SWD {figures['swd']:.1f}, own input found "
                f"{figures['top5']:.0%} (chance: {figures['top5_chance']:.0%}), near duplicates "
                f"{figures['near_duplicates']:.0%} (real: {figures['near_duplicates_real']:.0%})"
            )
            if figures["collapsed"]:
                print(f"warning: {shows} outputs of this epoch count as collapsed, which keeps it "
                      f"from becoming best.pth: spread below {metrics.COLLAPSE_SPREAD}, or over "
                      f"{metrics.COLLAPSE_DUPLICATES:.0%} near duplicates")  # fmt: skip
    for shows, value in record["spread"].items():
        if value is not None and value < metrics.COLLAPSE_SPREAD:
            print(f"warning: {shows} outputs vary {value:.2f} times as much as real images; "
                  "if this stays, the generator has collapsed to few outputs")  # fmt: skip


def tell_if_no_best(path: Path) -> None:
    """Say why a run that is over has no best.pth."""
    if not path.exists():
        print(f"There is no {path}: in no epoch with grids were {FEWEST_IMAGES} images of each "
              "domain held out and the outputs not collapsed")  # fmt: skip


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, all of it or nothing. Raises UserError when the disk is full."""
    before = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, before)
        raise UserError(f"{path}: cannot be written ({error.strerror}); free some space, then "
                        "continue with --resume") from error  # fmt: skip


def keep_log_before(epoch: int, path: Path) -> None:
    """Drop what the log says of epochs that will be trained again, and any torn last line."""
    kept = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                if json.loads(line)["epoch"] <= epoch:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
    with atomic_write(path) as file:
        file.write("".join(kept).encode())


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
