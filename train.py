"""Train CycleGAN, or DTN (--model dtn), on two folders of faces.

    python train.py --demo                                   # drawn faces, minutes on a CPU
    python train.py --domain_A_path data/anime --domain_B_path data/person
    python train.py --gpu_ids 0,1,2,3 --batch_size 256       # nn.DataParallel
    torchrun --nproc_per_node=4 train.py --batch_size 256    # a process for each GPU: faster
    python train.py --resume                                 # go on exactly where it stopped
    python train.py --init_from model_ckpt/pretrained        # a new run from nets that exist

Writes model_ckpt/<name>/ (latest.pth, epoch_0020.pth ..., and best.pth: of the epochs whose
held-out outputs are not collapsed and whose inputs are found, the one with the smallest FD to real
images) and save_image/<name>/ (a grid per direction and epoch, log.jsonl with one line per epoch,
and index.html to look through both). Ctrl-C and SIGTERM save before they stop.
"""

import json
import os
import signal
import sys
import time
from argparse import Namespace
from collections import defaultdict, deque
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from arguments import print_options, resumed_options, train_options
from common import distributed
from common.errors import UserError, one_line_errors
from common.tensors import to_float
from dataset import ImageArray, UnpairedBatches, load_folder
from demo.make import make_demo
from dtn.encoder import trained_on
from evaluation.metrics import relative_spread
from interop.build import check_size, make_model
from interop.generators import initialised_options, start_from
from interop.layouts import read_generators
from pictures.folders import check_domains, find_images_or_explain
from pictures.grids import save_grid
from pictures.splits import digest, held_out_is_other, refuse_changes, refuse_swapped, split
from storage.checkpoint import ROOT, find_checkpoint, free_names, load_checkpoint, save_checkpoint
from storage.files import atomic_write
from storage.locks import alone_in, remove_strays
from storage.validate import LOAD_ERRORS
from training.logbook import (
    Yardstick,
    append_line,
    best_so_far,
    held_out_figures,
    keep_log_before,
    open_yardstick,
    peak_memory_mb,
    print_record,
    set_aside,
    tell_if_no_best,
)
from training.tensorboard_log import TensorBoard, check_installed
from translation_model import NonFiniteLoss, TranslationModel
from viewer.pages import refresh_page

GRID_COLUMNS = 12
RANKS_AGREE_EVERY = 10  # steps; several processes look for a signal, save and log only then


@one_line_errors
def main() -> None:
    with ExitStack() as until_the_end:  # by then no other training gets into this one's run
        train(until_the_end)


def train(until_the_end: ExitStack) -> None:
    # Options: those of the checkpoint, under those given, when a run is resumed.
    opt, given = train_options()
    saved = start = None
    if opt.init_from:
        start = read_generators(opt.init_from)
        opt = initialised_options(opt, given, start)
    if opt.resume:
        path = find_checkpoint(opt.name, "demo*" if opt.demo else "*")
        if not opt.dry_run and os.environ.get("RANK", "0") == "0":  # set by torchrun
            hold(path.parent.name, until_the_end)
        saved = load_checkpoint(path)
        refuse_changes(given, saved, path.parent.name)
        opt = resume_options(path, saved, given)
    if opt.tensorboard:
        check_installed()
    if opt.dry_run:
        return dry_run(opt, saved)
    opt.gpu_ids = distributed.start(opt.gpu_ids, opt.batch_size)
    main_rank = distributed.rank() == 0
    tune_backends()

    # Data: two uint8 arrays, and the rows of them that are held out.
    with distributed.first_on_each_host():
        anime, person = load_domains(opt)
    images_A, images_B = anime.images, person.images
    data = {"domain_A_path": anime.fingerprint(), "domain_B_path": person.fingerprint()}
    if saved:
        refuse_swapped(data, saved.get("data", {}), f"the run {path.parent.name}")
    held_out = dict(saved.get("held_out", {})) if saved else {}
    (train_A, holdout_A), (train_B, holdout_B) = (
        split(loaded.paths, opt.holdout, held_out.get(key), f"--{key} {getattr(opt, key)}")
        for key, loaded in zip(data, (anime, person), strict=True)
    )
    held_out.setdefault("domain_A_path", [anime.paths[i] for i in holdout_A])
    held_out.setdefault("domain_B_path", [person.paths[i] for i in holdout_B])
    measured_on = digest(images_A[holdout_A], images_B[holdout_B])
    held_A = to_float(torch.from_numpy(images_A[holdout_A]))
    held_B = to_float(torch.from_numpy(images_B[holdout_B]))

    # The run's name and folders.
    if not opt.resume:
        images = max(len(images_A), len(images_B))
        name = choose_name(opt, images, until_the_end) if main_rank else ""
        opt.name = distributed.from_rank_zero(name)
    image_dir, ckpt_dir = Path("save_image") / opt.name, ROOT / opt.name
    print_options(opt)
    print(describe_device(opt))
    print(f"Data: {len(train_A)} anime, {len(train_B)} persons to train on; "
          f"{len(holdout_A)} + {len(holdout_B)} held out for grids")  # fmt: skip

    # Model, and batches that depend on the seed and the step alone.
    opt.compile = opt.compile and compiler_works(opt)
    model = make_model(opt, saved=saved and saved["model"])
    if opt.model == "dtn" and not saved:
        refuse_swapped(data, trained_on(opt.f_encoder), f"--f_encoder {opt.f_encoder}")
        model.fit({"A": images_A, "B": images_B}, {"A": train_A, "B": train_B})
    if start:
        start_from(model, start)
        del start
    for net, count in model.count_parameters().items():
        print(f"{net}: {count:,} parameters")
    batches = UnpairedBatches(
        images_A, images_B, opt.batch_size, opt.seed, opt.flip, train_A, train_B,
        model.device, distributed.rank(), distributed.world_size(),
    )  # fmt: skip
    if opt.model == "cyclegan" and opt.warm_steps and not (saved or opt.init_from):
        errors = tqdm(model.warm_start(batches), "warm start", opt.warm_steps, unit=" batches",
                      disable=None if main_rank else True)  # fmt: skip
        last = deque(errors, maxlen=50)
        print(f"Warm start: L1 {sum(last) / len(last):.3f} (pixels in [-1, 1])")
    yardstick = main_rank and open_yardstick(anime=(images_A, train_A, holdout_A),
                                             person=(images_B, train_B, holdout_B))  # fmt: skip
    epoch, batch, totals = 0, 0, defaultdict(lambda: [0.0, 0])
    best = None
    if saved:
        try:
            model.load_state_dict(saved["model"])
        except LOAD_ERRORS as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: does not fit its own options ({reason})") from error
        epoch, batch, best = saved["epoch"], saved["batch"], saved.get("best")
        totals.update(saved["totals"])
        if held_out_is_other(opt, data, measured_on, saved, path):
            if best and main_rank:
                set_aside(best, ckpt_dir)
            best = None
        del saved
        print(f"Resuming {opt.name} in epoch {epoch + 1} after {batch} steps of it")

    def save(file_name: str) -> None:
        if main_rank:
            state = {"options": vars(opt), "epoch": epoch, "batch": batch, "totals": dict(totals),
                     "best": best, "data": data, "held_out": held_out, "measured_on": measured_on,
                     "model": model.state_dict()}  # fmt: skip
            save_checkpoint(ckpt_dir / file_name, state)

    if main_rank:
        keep_log_before(epoch, image_dir / "log.jsonl")
        with atomic_write(image_dir / "options.json") as file:
            file.write(json.dumps(vars(opt), indent=2).encode())
    if not opt.resume:
        save("latest.pth")  # a folder that cannot be written shows now, not after an epoch
    board = TensorBoard(image_dir, model.steps) if opt.tensorboard and main_rank else None
    stop = StopSignal()
    epochs, steps = opt.niter + opt.niter_decay, batches.steps_per_epoch
    if epoch >= epochs:
        print(f"{opt.name} has had all of its {epochs} epochs; a larger --niter goes on with it")
    images_per_step = 2 * opt.batch_size

    try:
        while epoch < epochs:
            model.update_learning_rate(epoch)
            first, started = batch, time.monotonic()
            fetched = saved_at = started
            bar = tqdm(desc=f"epoch {epoch + 1}/{epochs}", total=steps * images_per_step,
                       initial=batch * images_per_step, unit=" images",
                       disable=None if main_rank else True)  # fmt: skip

            # Steps. Losses come to the host once a second, so that the device need not wait.
            while batch < steps:
                model.set_input(*batches.batch(epoch * steps + batch))
                model.optimize_parameters()
                batch += 1
                bar.update(images_per_step)
                if distributed.world_size() > 1 and batch % RANKS_AGREE_EVERY and batch < steps:
                    continue
                now = time.monotonic()
                stopping = distributed.on_any_rank(stop.received is not None, model.device)
                saving = stopping or now - saved_at > 60 * opt.save_minutes
                if now - fetched > 1 or batch == steps or saving:
                    add_losses(totals, model)
                    bar.set_postfix({k: f"{total / n:.3f}" for k, (total, n) in totals.items()})
                    fetched = now
                if saving:
                    save("latest.pth")
                    saved_at = now
                if stopping:
                    bar.close()
                    stop.leave(opt.name, epoch, batch)
            bar.close()
            seconds = time.monotonic() - started

            # Grids and figures of the held-out images, and a line in the log.
            improved = False
            if main_rank:
                show = (epoch + 1) % opt.every_save_images == 0 or epoch + 1 == epochs
                spread, figures = sample(model, held_A, held_B, epoch + 1, image_dir, show,
                                         yardstick)  # fmt: skip
                record = {
                    "epoch": epoch + 1,
                    "step": model.steps,
                    "losses": {name: total / n for name, (total, n) in sorted(totals.items())},
                    "lr_G": model.optimizer_G.param_groups[0]["lr"],
                    "lr_D": model.optimizer_D.param_groups[0]["lr"],
                    "spread": spread,
                    **({"figures": figures} if show else {}),
                    "gammas": model.attention_gammas(),
                    "images_per_s": round((batch - first) * images_per_step / seconds, 2),
                    "seconds": round(seconds, 2),
                    "peak_memory_mb": peak_memory_mb(model.device),
                }
                append_line(image_dir / "log.jsonl", json.dumps(record))
                print_record(record)
                refresh_page(image_dir)
                if board:
                    board.add(record)
                better = best_so_far(best, record)
                best, improved = better, better is not best

            # Checkpoints. The one to go on from is last: a kill in between must lose no other.
            epoch, batch = epoch + 1, 0
            totals.clear()
            if improved:
                save("best.pth")
            if epoch % opt.ckpt_num == 0 or epoch == epochs:
                save(f"epoch_{epoch:04}.pth")
            save("latest.pth")
            if distributed.on_any_rank(stop.received is not None, model.device):
                stop.leave(opt.name, epoch, batch)
    except NonFiniteLoss as error:
        raise UserError(
            f"{error} (epoch {epoch + 1}): training stopped; {ckpt_dir / 'latest.pth'} still holds "
            "the last good state. Try lower --lr_G and --lr_D, or another --gan_mode"
        ) from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"--batch_size {opt.batch_size}: out of memory on {model.device}; "
            f"{ckpt_dir / 'latest.pth'} is intact. Try --batch_size {max(1, opt.batch_size // 2)}"
        ) from error
    distributed.stop()
    tell_if_no_best(ckpt_dir / "best.pth")
    print(f"Done. Grids: {image_dir}/   checkpoint: {ckpt_dir}/latest.pth")
    demo = " --demo" if opt.demo else ""
    print(f"Translate with it: python test.py --name {opt.name}{demo}")


def resume_options(path: Path, saved: dict, given: dict) -> Namespace:
    """Options of the run in a checkpoint, under those given. Raises UserError if it is nonsense."""
    opt = resumed_options(saved["options"], given, path)
    opt.name = path.parent.name
    try:
        check_size(opt, saved["model"]["nets"], saved["model"].get("encoder_options"), path)
    except LOAD_ERRORS as error:
        raise UserError(f"{path}: lacks nets, or holds what are none ({error})") from error
    return opt


def tune_backends() -> None:
    """Let cuDNN choose among its algorithms, and take TF32 for what stays in float32 on a GPU."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")


def load_domains(opt: Namespace) -> tuple[ImageArray, ImageArray]:
    """The images of both domains, anime first. Raises UserError."""
    if opt.demo:
        make_demo(Path("data/demo"))
    check_domains(opt.domain_A_path, opt.domain_B_path)
    images = [
        load_folder(Path(folder), flag, opt.dataset_size, opt.image_size, opt.crop,
                    Path(opt.cache_dir), opt.num_workers)
        for flag, folder in (("--domain_A_path", opt.domain_A_path),
                             ("--domain_B_path", opt.domain_B_path))
    ]  # fmt: skip
    return images[0], images[1]


def choose_name(opt: Namespace, images: int, until_the_end: ExitStack) -> str:
    """Hold a new run: named as given, or after what it trains; never one that exists."""
    if opt.name:
        hold(opt.name, until_the_end)
        if (ROOT / opt.name / "latest.pth").exists():
            raise UserError(
                f"--name {opt.name}: this run exists; continue it with --resume --name {opt.name}, "
                "or choose another name"
            )
        return opt.name
    name = "demo" if opt.demo else f"{opt.gan_mode}_{images}"
    for free in free_names(name if opt.model == "cyclegan" else f"{name}_{opt.model}"):
        with suppress(UserError):  # another training has just taken it
            hold(free, until_the_end)
            return free


def hold(name: str, until_the_end: ExitStack) -> None:
    """Keep other trainings out of a run. Raises UserError if one is at it."""
    until_the_end.enter_context(alone_in(ROOT / name, f"--name {name}"))
    remove_strays(Path("save_image") / name)


def dry_run(opt: Namespace, saved: dict | None) -> None:
    """Print what would be trained, and on what."""
    if opt.demo:
        make_demo(Path("data/demo"))
    check_domains(opt.domain_A_path, opt.domain_B_path)
    print_options(opt)
    print(describe_device(opt))
    for flag in ("domain_A_path", "domain_B_path"):
        folder = Path(getattr(opt, flag))
        found = find_images_or_explain(folder, f"--{flag}")
        print(f"{folder}: {len(found)} image files")
    for net, count in make_model(opt, saved=saved and saved["model"]).count_parameters().items():
        print(f"{net}: {count:,} parameters")


def describe_device(opt: Namespace) -> str:
    if not opt.gpu_ids:
        return f"Device: CPU, {torch.get_num_threads()} threads"
    name, count = torch.cuda.get_device_name(opt.gpu_ids[0]), len(opt.gpu_ids)
    if distributed.world_size() > 1:
        count = distributed.world_size()
    if count == 1:
        return f"Device: cuda:{opt.gpu_ids[0]}, {name}"
    return (f"Device: {count} GPUs, {name}; global batch {opt.batch_size}, "
            f"{opt.batch_size / count:g} on each")  # fmt: skip


def sample(
    model: TranslationModel,
    held_A: Tensor,
    held_B: Tensor,
    epoch: int,
    folder: Path,
    show: bool,
    yardstick: Yardstick | None = None,
) -> tuple[dict[str, float | None], dict[str, dict]]:
    """Translate the held-out images; returns the relative spread of the outputs by domain.

    If they are to be shown, also writes a grid per direction, real over fake over reconstructed,
    and returns figures by domain. Where a model has no way back, the grid has real images of the
    other domain as third row and what the model makes of these as fourth.
    """
    spreads, figures = {}, {}
    for direction in model.directions:
        real, target, shows = (
            (held_A, held_B, "person") if direction == "AtoB" else (held_B, held_A, "anime")
        )
        fake, rec = model.translate(real, direction)
        spreads[shows] = relative_spread(fake, target) if min(len(fake), len(target)) > 1 else None
        if show:
            rows = [real, fake, rec]
            if rec is None:
                rows = [real, fake, target, model.reconstruct(target)]
            columns = min(GRID_COLUMNS, *map(len, rows))
            rows = torch.cat([row[:columns] for row in rows])
            save_grid(folder / f"{epoch:04}_epoch_{shows}.png", rows, columns)
            fd = yardstick.fd(fake, shows) if yardstick and len(fake) > 1 else None
            figures[shows] = held_out_figures(real, fake, rec, target, fd)
    return spreads, figures


def compiler_works(opt: Namespace) -> bool:
    """Whether torch.compile does, tried on a trifle; says so in one line."""
    try:
        device = f"cuda:{opt.gpu_ids[0]}" if opt.gpu_ids else "cpu"
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"--compile: torch.compile does not work here ({reason}); training goes on without")
        return False
    print("--compile: the first step takes one to three minutes")
    return True


def add_losses(totals: dict[str, list], model: TranslationModel) -> None:
    for losses in model.fetch_losses():
        for name, value in losses.items():
            total, n = totals[name]
            totals[name] = [total + value, n + 1]


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
        print(f"Stopped by {signal.Signals(number).name}; saved in epoch {epoch + 1} after "
              f"{batch} steps of it. Continue: python train.py --resume --name {name}")  # fmt: skip
        distributed.stop()
        sys.exit(128 + number)


if __name__ == "__main__":
    main()
