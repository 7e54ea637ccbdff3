"""What stands around the steps of a training: train.py has the steps.

A Run keeps other trainings out of its folders, goes on where a checkpoint stopped, saves, answers
Ctrl-C and SIGTERM, and writes grids, figures and the log.

    with open_run(opt, given) as run:
        data = TrainingData(run.opt, run.saved)
        run.take_name(data)
        ...
        run.begin(model, batches, data)
        for _ in run.epochs():
            for real_A, real_B in run.batches():
                ...                         # one step
                run.after_step()
            run.after_epoch()
        run.finish()
"""

import json
import signal
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from arguments import resumed_options, tell_changes
from common import distributed
from common.errors import UserError
from common.health import NonFiniteLoss
from dataset import UnpairedBatches
from interop.build import refuse_misfit
from interop.generators import initialised_options
from interop.layouts import Found, read_generators
from pictures.splits import held_out_is_other, refuse_changes
from storage.checkpoint import (
    IMAGES,
    ROOT,
    find_checkpoint,
    free_names,
    load_checkpoint,
    save_checkpoint,
    sign_of_run,
)
from storage.files import atomic_write
from storage.locks import alone_in, remove_strays
from storage.validate import LOAD_ERRORS, short
from training.data import TrainingData
from training.logbook import (
    append_line,
    best_so_far,
    cut_back,
    keep_log_before,
    open_yardstick,
    peak_memory_mb,
    print_record,
    set_aside,
    tell_if_no_best,
)
from training.samples import sample
from training.tensorboard_log import TensorBoard, check_installed
from translation_model import TranslationModel
from viewer.pages import refresh_page

RANKS_AGREE_EVERY = 10  # steps; several processes look for a signal, save and log only then


@contextmanager
def open_run(opt: Namespace, given: dict) -> Iterator["Run"]:
    """A run, locked until the end; what ends its training for a known reason becomes a UserError.

    opt, given: what train_options() returns. Raises UserError.
    """
    with ExitStack() as until_the_end:
        run = Run(opt, given, until_the_end)
        try:
            yield run
        except NonFiniteLoss as error:
            if not run.begun:
                raise
            raise UserError(
                f"{error} (epoch {run.epoch + 1}): training stopped; {run.latest} still holds "
                "the last good state. Try lower --lr_G and --lr_D, or another --gan_mode"
            ) from error
        except torch.OutOfMemoryError as error:
            if not run.begun:
                raise
            size = run.opt.batch_size
            raise UserError(
                f"--batch_size {size}: out of memory on {run.model.device}; "
                f"{run.latest} is intact. Try --batch_size {max(1, size // 2)}"
            ) from error


class Run:
    """One training, new or resumed.

    opt           its options: those of the checkpoint, under those given, where it is resumed
    saved         that checkpoint, until begin() has restored it; None for a new run
    start         what --init_from names, else None
    epoch, batch  epochs done, and steps done of the next one
    """

    def __init__(self, opt: Namespace, given: dict, until_the_end: ExitStack) -> None:
        self.until_the_end = until_the_end
        self.opt, self.given = opt, given
        self.saved: dict | None = None
        self.start: Found | None = None
        self.epoch, self.batch = 0, 0
        self.best: dict | None = None
        self.begun = False  # whether there is a checkpoint that this process wrote or restored
        self.totals: dict[str, list] = defaultdict(lambda: [0.0, 0])
        if opt.init_from:
            self.start = read_generators(opt.init_from)
            self.opt = initialised_options(opt, given, self.start)
        if opt.resume:
            path = find_checkpoint(opt.name, "demo*" if opt.demo else "*")
            if not opt.dry_run and distributed.will_be_first():
                self.hold(path.parent.name)
            self.saved = load_checkpoint(path)
            refuse_changes(given, self.saved, path.parent.name)
            self.opt = resume_options(path, self.saved, given)
        if self.opt.tensorboard:
            check_installed()
        if not self.opt.dry_run:
            asked = "gpu_ids" in given
            self.opt.gpu_ids = distributed.start(self.opt.gpu_ids, self.opt.batch_size, asked)
        self.main_rank = distributed.rank() == 0
        if self.saved:
            tell_changes(self.saved["options"], self.opt)

    # ------------------------------------------------------------------ its name and folders

    @property
    def latest(self) -> Path:
        return ROOT / self.opt.name / "latest.pth"

    def hold(self, name: str) -> None:
        """Keep other trainings out of a run. Raises UserError if one is at it."""
        self.until_the_end.enter_context(alone_in(ROOT / name, f"--name {name}"))
        remove_strays(IMAGES / name)

    def take_name(self, data: TrainingData) -> None:
        """Name and lock a new run; all processes then know its name. Raises UserError."""
        if not self.opt.resume:
            images = max(map(len, data.images.values()))
            self.opt.name = distributed.from_rank_zero(
                self._choose_name(images) if self.main_rank else ""
            )
        self.image_dir, self.ckpt_dir = IMAGES / self.opt.name, ROOT / self.opt.name

    def _choose_name(self, images: int) -> str:
        """Lock a new run: named as given, or after what it trains; never one that exists."""
        opt = self.opt
        if opt.name:
            self.hold(opt.name)
            if sign := sign_of_run(opt.name):
                first = "" if self.latest.exists() else f"copy a checkpoint to {self.latest} and "
                raise UserError(
                    f"--name {opt.name}: this run exists, as {sign} shows; {first}continue it with "
                    f"--resume --name {opt.name}, or choose another name"
                )
            return opt.name
        name = "demo" if opt.demo else f"{opt.preset or opt.gan_mode}_{images}"
        for free in free_names(name if opt.model == "cyclegan" else f"{name}_{opt.model}"):
            with suppress(UserError):  # another training has just taken it
                self.hold(free)
                if free != name:
                    print(f"{name} is a run already (--resume goes on with it); this is {free}")
                return free
        raise AssertionError("free_names() does not end")

    # ---------------------------------------------------------------------- begin and restore

    def begin(self, model: TranslationModel, batches: UnpairedBatches, data: TrainingData) -> None:
        """Restore the checkpoint of a resumed run, or write the first one of a new run."""
        self.model, self.loader, self.data = model, batches, data
        self.last = self.opt.niter + self.opt.niter_decay
        self.steps_per_epoch = batches.steps_per_epoch
        domains = {
            shows: (data.images[d], data.rows[d], data.held_rows[d])
            for shows, d in (("anime", "A"), ("person", "B"))
        }
        self.yardstick = open_yardstick(**domains) if self.main_rank else None
        before = self.saved.get("measured_on") if self.saved else None
        self.measured_on = self.yardstick.measured_on if self.yardstick else before
        if self.saved:
            self._restore(self.saved)
        self.saved = self.start = None
        if not self.opt.resume:  # a folder that cannot be written shows now
            self.save("latest.pth")  # and first: a name that anything else has is taken
        if self.main_rank:
            keep_log_before(self.epoch, self.image_dir / "log.jsonl")
            with atomic_write(self.image_dir / "options.json") as file:
                file.write(json.dumps(self._options(), indent=2).encode())
            refresh_page(self.image_dir)
        boarding = self.opt.tensorboard and self.main_rank
        self.board = TensorBoard(self.image_dir, model.steps) if boarding else None
        self.stop, self.begun = StopSignal(), True
        if self.epoch >= self.last:
            schedule = f"--niter {self.opt.niter} --niter_decay {self.opt.niter_decay}"
            print(
                f"{self.opt.name} has had {self.epoch} epochs, and {schedule} asks for "
                f"{self.last}; a larger --niter goes on with it"
            )

    def _restore(self, saved: dict) -> None:
        """Go on where a checkpoint stopped. Raises UserError if the model cannot take it up."""
        try:
            self.model.load_state_dict(saved["model"])
            self.model.state_dict()  # raises where anything is not finite
        except (NonFiniteLoss, *LOAD_ERRORS) as error:
            reason = short(f"{type(error).__name__}: {error}", 100)
            raise UserError(
                f"{self.latest}: its model does not fit its options ({reason}); use another file"
            ) from error
        if saved["epoch"] < self.last:
            self.model.keep_learning_rates_down(saved["model"], saved["epoch"], self.given)
        self.epoch, self.batch = saved["epoch"], saved["batch"]
        if self.main_rank:
            self.best = cut_back(saved, self.ckpt_dir, self.image_dir)
        self.totals.update(saved["totals"])
        data = self.data
        if held_out_is_other(self.opt, data.fingerprints, self.measured_on, saved, self.latest):
            if self.best:
                set_aside(self.best, self.ckpt_dir)
            self.best = None
        print(f"Resuming {self.opt.name} in epoch {self.epoch + 1} after {self.batch} steps of it")

    # ------------------------------------------------------------------------ epochs and steps

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, counted from 0, each at its learning rate."""
        while self.epoch < self.last:
            self.model.update_learning_rate(self.epoch)
            self.first_batch, self.started = self.batch, time.monotonic()
            self.fetched_at = self.saved_at = self.started
            images = 2 * self.opt.batch_size
            self.bar = tqdm(
                desc=f"epoch {self.epoch + 1}/{self.last}",
                total=self.steps_per_epoch * images,
                initial=self.batch * images,
                unit=" images",
                disable=None if self.main_rank else True,
            )
            yield self.epoch

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches that are left of this epoch, (real_A, real_B); after_step() counts them."""
        while self.batch < self.steps_per_epoch:
            yield self.loader.batch(self.epoch * self.steps_per_epoch + self.batch)
        self.bar.close()
        self.seconds = time.monotonic() - self.started

    def after_step(self) -> None:
        """Fetch losses once a second, so that the device need not wait; save and stop in time."""
        self.batch += 1
        self.bar.update(2 * self.opt.batch_size)
        ends = self.batch == self.steps_per_epoch
        if distributed.world_size() > 1 and self.batch % RANKS_AGREE_EVERY and not ends:
            return
        now, stopping = time.monotonic(), self._stopping()
        saving = stopping or now - self.saved_at > 60 * self.opt.save_minutes
        if now - self.fetched_at > 1 or ends or saving:
            self._fetch_losses()
            self.fetched_at = now
        if saving:
            self.save("latest.pth")
            self.saved_at = now
        if stopping:
            self.bar.close()
            self.stop.leave(self.opt.name, self.epoch, self.batch)

    def after_epoch(self) -> None:
        """Write grids, figures, a line of the log, and the checkpoints."""
        improved = self.main_rank and self._report()
        self.epoch, self.batch = self.epoch + 1, 0
        self.totals.clear()
        if improved:
            self.save("best.pth")
        if self.epoch % self.opt.ckpt_num == 0 or self.epoch == self.last:
            self.save(f"epoch_{self.epoch:04}.pth")
        self.save("latest.pth")  # it is last: a kill in between must lose no other
        if self._stopping():
            self.stop.leave(self.opt.name, self.epoch, self.batch)

    def finish(self) -> None:
        """Say where everything is."""
        distributed.stop()
        tell_if_no_best(self.ckpt_dir / "best.pth")
        print(f"Done. Grids: {self.image_dir}/   checkpoint: {self.latest}")
        demo = " --demo" if self.opt.demo else ""
        print(f"Translate with it: python test.py --name {self.opt.name}{demo}")

    def _options(self) -> dict:
        return {key: value for key, value in vars(self.opt).items() if key != "asked"}

    def save(self, file_name: str) -> None:
        """Write a checkpoint, on the main process alone. Raises UserError."""
        if self.main_rank:
            state = {
                "options": self._options(),
                "asked": self.opt.asked,
                "epoch": self.epoch,
                "batch": self.batch,
                "totals": dict(self.totals),
                "best": self.best,
                "data": self.data.fingerprints,
                "held_out": self.data.held_out,
                "measured_on": self.measured_on,
                "model": self.model.state_dict(),
            }
            save_checkpoint(self.ckpt_dir / file_name, state)

    def _stopping(self) -> bool:
        return distributed.on_any_rank(self.stop.received is not None, self.model.device)

    def _fetch_losses(self) -> None:
        for losses in self.model.fetch_losses():
            for name, value in losses.items():
                total, n = self.totals[name]
                self.totals[name] = [total + value, n + 1]
        self.bar.set_postfix({k: f"{total / n:.3f}" for k, (total, n) in self.totals.items()})

    def _report(self) -> bool:
        """Grids and figures of the held-out images, and the log; whether it is the best epoch."""
        epoch, model = self.epoch + 1, self.model
        show = epoch % self.opt.every_save_images == 0 or epoch == self.last
        spread, figures = sample(model, self.data.held, epoch, self.image_dir, show, self.yardstick)
        images = 2 * self.opt.batch_size * (self.batch - self.first_batch)
        record = {
            "epoch": epoch,
            "step": model.steps,
            "losses": {name: total / n for name, (total, n) in sorted(self.totals.items())},
            "lr_G": model.optimizer_G.param_groups[0]["lr"],
            "lr_D": model.optimizer_D.param_groups[0]["lr"],
            "spread": spread,
            **({"figures": figures} if show else {}),
            "gammas": model.attention_gammas(),
            "images_per_s": round(images / self.seconds, 2),
            "seconds": round(self.seconds, 2),
            "peak_memory_mb": peak_memory_mb(model.device),
        }
        append_line(self.image_dir / "log.jsonl", json.dumps(record))
        print_record(record)
        refresh_page(self.image_dir)
        if self.board:
            self.board.add(record)
        before, self.best = self.best, best_so_far(self.best, record)
        return self.best is not before


class StopSignal:
    """Ctrl-C and SIGTERM let the step end, save and stop; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self)

    def __call__(self, number: int, frame: object) -> None:
        self.received = number
        if number == signal.SIGINT:  # SIGTERM may come twice, from a scheduler and from torchrun
            signal.signal(number, signal.SIG_DFL)

    def leave(self, name: str, epoch: int, batch: int) -> None:
        number = self.received or signal.SIGTERM  # None: it was another process that got it
        print(
            f"Stopped by {signal.Signals(number).name}; saved in epoch {epoch + 1} after "
            f"{batch} steps of it. Continue: python train.py --resume --name {name}"
        )
        distributed.stop()
        sys.exit(128 + number)


def resume_options(path: Path, saved: dict, given: dict) -> Namespace:
    """Options of the run in a checkpoint, under those given. Raises UserError if it is nonsense."""
    opt = resumed_options(saved["options"], given, path, saved.get("asked"))
    opt.name = path.parent.name
    refuse_misfit(opt, saved["model"]["nets"], saved["model"].get("encoder_options"), path)
    return opt
