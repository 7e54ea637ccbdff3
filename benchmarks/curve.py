"""A training from train.py's flags, measured as it goes: what recipe.py and others compare.

Time is that of training alone: CPU seconds of the process, which do not count what else the machine
does, or on a GPU seconds by the clock. Everything stays in a folder, from which an interrupted run
goes on; on a CPU to the bit.
"""

import argparse
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arguments import train_options
from benchmarks.modes import DIRECTIONS, Data, batches_for, clock
from common.errors import UserError
from common.tensors import derived_generator
from cyclegan_model import CycleGANModel
from evaluation import metrics
from evaluation.features import embed, load_features
from evaluation.frechet import floor, frechet_distance
from interop.build import make_model
from pictures.grids import save_grid
from storage.files import read_tensors, write_tensors
from translation_model import TranslationModel

SHOWN = 64  # test inputs in a grid, drawn at random once for all runs
COLUMNS = 16
SAVE_SECONDS = 120  # of training between saves
BLOCK = 10  # steps between looks at the clock
FIGURES = ("fd", "top5", "near_duplicates")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Data and budget, which recipe.py and time_to_quality.py share."""
    parser.add_argument("--domain_A_path", type=Path, help="anime; if not given: the demo")
    parser.add_argument("--domain_B_path", type=Path, help="persons")
    parser.add_argument("--test_A_path", type=Path, help="anime to measure on")
    parser.add_argument("--test_B_path", type=Path, help="persons to measure on")
    parser.add_argument("--images", type=int, default=15000, help="first N to train on")
    parser.add_argument("--test_images", type=int, default=1000, help="first N to measure on")
    parser.add_argument("--every", type=int, default=2000, help="pairs between measurements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("out/curves"), help="where runs are kept")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.set_defaults(attributes=None)  # of the persons, which modes.py can take


class TestImages:
    """Figures of outputs for fixed test images, equally many of both domains, of modes.Data."""

    def __init__(self, data: Data) -> None:
        self.n = min(len(images) for images in data.test.values())
        self.images = {domain: images[: self.n] for domain, images in data.test.items()}
        self.net = load_features()
        self.rows = {domain: embed(self.net, images) for domain, images in self.images.items()}

    def figures(self, inputs: Tensor, fakes: Tensor, shows: str) -> dict[str, float]:
        """FD to real images, own input found among five, near duplicates: inputs, fakes (N, ...)"""
        real = self.images[shows]
        return {
            "fd": frechet_distance(embed(self.net, fakes), self.rows[shows]),
            "top5": metrics.retrieval(inputs, fakes, metrics.colour_layout)["top5"],
            "near_duplicates": metrics.near_duplicate_share(fakes, real),
        }

    def measure(self, model: TranslationModel, grid: Path) -> dict[str, dict[str, float]]:
        """Figures by the domain that is shown, and a picture of each: inputs, outputs, and back."""
        found = {}
        for direction, source, shows in DIRECTIONS:
            inputs = self.images[source]
            fakes, recs = model.translate(inputs, direction)
            found[shows] = self.figures(inputs, fakes, shows)
            chosen = torch.randperm(self.n, generator=derived_generator(0, "grid", source))[:SHOWN]
            shown = [images for images in (inputs, fakes, recs) if images is not None]
            rows = [images[rows] for rows in chosen.split(COLUMNS) for images in shown]
            save_grid(grid.with_name(f"{grid.name}_{shows}.png"), torch.cat(rows), COLUMNS)
        return found

    def bounds(self) -> dict[str, dict[str, dict[str, float]]]:
        """What inputs as they are score, and what other real images would."""
        return {
            "inputs, untranslated": {
                shows: self.figures(self.images[source], self.images[source], shows)
                for _, source, shows in DIRECTIONS
            },
            "real images": {
                domain: {"fd": (floor(rows, 0) or {"fd": 0.0})["fd"]}
                for domain, rows in self.rows.items()
            },
        }


class Curve:
    """One training, and its points: what was measured every so many pairs.

    folder: where state.pth and grids are kept; flags: of train.py, which set the learning rate for
    the whole run. A point is a dict: "pairs" shown so far, "minutes" of training, and figures by
    domain ("anime", "person"): those of TestImages. A kept run may go on with another spacing.
    Raises UserError if the folder holds a run of other flags or data.
    """

    def __init__(
        self, folder: Path, flags: str, data: Data, test: TestImages, seed: int, every: int
    ) -> None:
        self.folder, self.test, self.every = folder, test, every
        opt, _ = train_options([*flags.split(), "--seed", str(seed)])
        self.model = make_model(opt)
        self.batches = batches_for(self.model, data)
        self.seconds = 0.0
        self.points: list[dict] = []
        self.warm = not opt.warm_steps
        self.identity = {
            "flags": flags,
            "seed": seed,
            "data": [data.train_A.fingerprint(), data.train_B.fingerprint(), test.n],
        }
        if (folder / "state.pth").exists():
            self._load()

    def _load(self) -> None:
        state: Any = read_tensors(self.folder / "state.pth")
        for key, value in self.identity.items():
            if state[key] != value:
                raise UserError(
                    f"{self.folder}: holds a run whose {key} was {state[key]}, not "
                    f"{value}; use another --work"
                )
        self.model.load_state_dict(state["model"])
        self.seconds, self.points, self.warm = state["seconds"], state["points"], True

    def save(self) -> None:
        write_tensors(
            self.folder / "state.pth",
            {
                **self.identity,
                "seconds": self.seconds,
                "points": self.points,
                "model": self.model.state_dict(),
            },
        )

    @property
    def pairs(self) -> int:
        return self.model.steps * self.model.opt.batch_size

    def run(
        self, stop: Callable[[], bool] = lambda: False, rate: Callable[[], float] = lambda: 1.0
    ) -> Iterator[dict]:
        """The points, those kept first; goes on for as long as it is asked for more.

        Ends where stop() is true, after a save. rate: the learning rates over those of the flags.
        NonFiniteLoss leaves the last save as it is.
        """
        yield from self.points
        if isinstance(self.model, CycleGANModel) and not self.warm:
            started = clock(self.model)  # an interrupted one is repeated, its time counted once
            for _ in self.model.warm_start(self.batches):
                pass
            self.seconds, self.warm = clock(self.model) - started, True
            self.save()
        saved = self.seconds
        while not stop():
            measured = self.points[-1]["pairs"] if self.points else 0
            due = -(-(measured + self.every) // self.model.opt.batch_size)
            factor = rate()
            self.model.optimizer_G.param_groups[0]["lr"] = self.model.opt.lr_G * factor
            self.model.optimizer_D.param_groups[0]["lr"] = self.model.opt.lr_D * factor
            started = clock(self.model)
            for _ in range(min(BLOCK, due - self.model.steps)):
                self.model.set_input(*self.batches.batch(self.model.steps))
                self.model.optimize_parameters()
            self.model.fetch_losses()
            self.seconds += clock(self.model) - started
            if self.model.steps == due:
                found = self.test.measure(self.model, self.folder / f"{self.pairs:07}")
                self.points.append({"pairs": self.pairs, "minutes": self.seconds / 60, **found})
            if self.model.steps == due or self.seconds - saved > SAVE_SECONDS:
                self.save()
                saved = self.seconds
            if self.model.steps == due:
                yield self.points[-1]
        self.save()


def at(points: list[dict], minutes: float) -> dict | None:
    """The point that a run had at a time, on a line between two; None before or after all."""
    for a, b in zip([*points[:1], *points], points, strict=False):
        if a["minutes"] <= minutes <= b["minutes"]:
            share = (minutes - a["minutes"]) / max(b["minutes"] - a["minutes"], 1e-9)

            def between(x: dict, y: dict, share: float = share) -> dict:
                return {
                    key: x[key] + share * (y[key] - x[key])
                    for key in x
                    if not isinstance(x[key], dict)
                }

            return between(a, b) | {d: between(a[d], b[d]) for d in ("anime", "person")}
    return None


def row(name: str, found: dict) -> str:
    """A line of a markdown table: pairs, then for anime and for persons the figures."""
    cells = [name, f"{found['pairs']:,.0f}" if "pairs" in found else ""]
    for domain in ("anime", "person"):
        one = found[domain]
        cells.append(f"{one['fd']:.1f}")
        cells += [f"{one[key]:.1%}" if key in one else "" for key in FIGURES[1:]]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| | pairs | FD anime | input found | near duplicates | FD person | input found | "
    "near duplicates |\n" + "| --- " * 8 + "|"
)


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def describe(options: Namespace, data: Data) -> dict:
    """What figures are to be read with: date, machine, data."""
    import os
    from datetime import date

    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} of {os.cpu_count()} cores, "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )
    return {
        "date": str(date.today()),
        "device": device,
        "torch": torch.__version__,
        "seed": options.seed,
        "data": "demo" if data.demo else f"{len(data.train_A.images)} + {len(data.train_B.images)}",
    }
