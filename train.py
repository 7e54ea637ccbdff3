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
and index.html to look through both). Ctrl-C and SIGTERM save before they stop, once the warm start
is over.
"""

from argparse import Namespace
from collections import deque
from pathlib import Path

from tqdm import tqdm

from arguments import print_options, train_options
from common import distributed
from common.device import compiler_works, describe_device, tune_backends
from common.errors import one_line_errors
from common.health import warm_losses
from cyclegan_model import CycleGANModel
from dataset import UnpairedBatches
from demo.make import make_demo
from dtn.encoder import trained_on
from dtn.model import DTNModel
from interop.build import make_model
from interop.generators import start_from
from interop.layouts import Found
from pictures.folders import check_domains, find_images_or_explain
from pictures.splits import refuse_swapped
from training.data import TrainingData
from training.run import Run, open_run
from translation_model import TranslationModel


@one_line_errors
def main() -> None:
    opt, given = train_options()
    with open_run(opt, given) as run:
        if opt.dry_run:
            dry_run(run.opt, run.saved)
        else:
            train(run)


def train(run: Run) -> None:
    opt = run.opt  # of a resumed run those of its checkpoint, under those given
    tune_backends()

    # Data: two uint8 arrays, and the rows of them that are held out.
    data = TrainingData(opt, run.saved)
    run.take_name(data)
    print_options(opt)
    print(describe_device(opt))
    print(data)

    # Model, and batches that depend on the seed and the step alone.
    opt.compile = opt.compile and compiler_works(opt.gpu_ids)
    model = prepare_model(run, data)
    batches = UnpairedBatches(
        data.images["A"],
        data.images["B"],
        opt.batch_size,
        opt.seed,
        opt.flip,
        data.rows["A"],
        data.rows["B"],
        model.device,
        distributed.rank(),
        distributed.world_size(),
    )
    if isinstance(model, CycleGANModel) and opt.warm_steps and not run.saved:
        warm_start(model, batches, run.start)

    # Training. What stands around a step is in training/run.py.
    run.begin(model, batches, data)
    for _ in run.epochs():
        for real_A, real_B in run.batches():
            model.set_input(real_A, real_B)
            model.optimize_parameters()
            run.after_step()
        run.after_epoch()
    run.finish()


def prepare_model(run: Run, data: TrainingData) -> TranslationModel:
    """The model of the options, its weights as a new run begins with them. Raises UserError."""
    opt = run.opt
    model = make_model(opt, saved=run.saved and run.saved["model"])
    if isinstance(model, DTNModel) and not run.saved:
        known = trained_on(opt.f_encoder)
        refuse_swapped(data.fingerprints, known, f"--f_encoder {opt.f_encoder}")
        model.fit(data.images, data.rows)
    if run.start:
        start_from(model, run.start)
    for net, count in model.count_parameters().items():
        print(f"{net}: {count:,} parameters")
    return model


def warm_start(model: CycleGANModel, batches: UnpairedBatches, start: Found | None) -> None:
    """Train one kind of nets first, so that it does not spoil the other: see CycleGANModel."""
    if start is None:
        steps, what = model.warm_start(batches), "L1 (pixels in [-1, 1])"
    elif "netD_A" not in start.nets:
        steps, what = model.warm_discriminators(batches), "loss of the discriminators"
    else:
        return
    hidden = None if distributed.rank() == 0 else True
    bar = tqdm(steps, "warm start", model.opt.warm_steps, unit=" batches", disable=hidden)
    last = deque(warm_losses(bar), maxlen=50)
    print(f"Warm start: {what} {sum(last) / len(last):.3f}")


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


if __name__ == "__main__":
    main()
