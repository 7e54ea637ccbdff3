"""Options of train.py and test.py: defaults, meaning, and every check that needs no data.

`python train.py --help` and `python test.py --help` show them in groups. Bad values and bad
combinations raise UserError here, before any work is done.
"""

import argparse
import os
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Sequence

import torch

from common.device import resolve_amp, resolve_gpu_ids
from common.errors import UserError
from common.options import OneLineParser, given_options, make_parser, number, run_name, whole
from common.unread import DEMO_HAS_OWN, beside, from_scratch, only, refuse_unread, without
from dtn import options as dtn_options
from losses import GAN_MODES, PENALTY_MODES
from networks import image_size_problem
from pictures.decode import CROPS
from pictures.faces import add_face_options
from storage.validate import check_read

# An option of one model; of a run that starts from a file the weights are there already.
CYCLEGAN, DTN = only(model=("cyclegan",)), only(model=("dtn",))
TRAIN = {
    **{key: [CYCLEGAN] for key in dtn_options.CYCLEGAN_ONLY},
    **{key: [DTN] for key in dtn_options.DTN_ONLY},
    "n_blocks": [CYCLEGAN, only(generator=("resnet8", "resnet"))],
    "warm_steps": [CYCLEGAN, from_scratch],
    "lambda_gp": [CYCLEGAN, only(gan_mode=PENALTY_MODES)],
    "clip_value": [CYCLEGAN, only(gan_mode=("wgan",))],
    "attention": [only(model=("dtn",), generator=("sagan",), discriminator=("sagan",))],
    "init_type": [without("resume")],
    "init_gain": [without("resume"), only(init_type=("normal", "xavier", "orthogonal"))],
}
TEST = {
    "domain_A_path": [without("input"), *DEMO_HAS_OWN],
    "domain_B_path": [without("input"), *DEMO_HAS_OWN],
    "dataset_size": [without("input")],
    "overwrite": [beside("input")],
    "compare": [beside("input"), without("paste")],
    "scale": [beside("input"), without("paste")],
    "paste": [beside("input")],
    "detect_faces": [beside("input")],
    "cascade": [beside("input"), beside("detect_faces")],
    "face_margin": [beside("input"), beside("detect_faces")],
}

# What --demo changes: a net and a run that two CPU cores finish in about five minutes.
DEMO_DEFAULTS = {
    "domain_A_path": "data/demo/anime",
    "domain_B_path": "data/demo/person",
    "dataset_size": 2000,
    "batch_size": 4,
    "ngf": 24,
    "n_blocks": 4,
    "ndf": 32,
    "warm_steps": 300,
    "shift": 2,
    "niter": 2,
    "niter_decay": 3,
    "lr_G": 4e-4,
    "ema": 0.99,
}
# What these were before they were options, or before their defaults changed: older checkpoints.
BEFORE = {"generator": "resnet", "shift": 0, "warm_steps": 0}
# A checkpoint holds nets of these shapes; --resume cannot change them.
ARCHITECTURE = (
    "model",
    "direction",
    "f_encoder",
    "train_f",
    "image_size",
    "generator",
    "ngf",
    "n_blocks",
    "discriminator",
    "ndf",
    "attention",
    "spectral_norm",
    "ema",
)


def train_options(argv: Sequence[str] | None = None) -> tuple[Namespace, dict]:
    """Parse and check the options of train.py.

    Returns all options resolved, and apart from that those given on the command line, which
    resumed_options lays over a checkpoint's. Raises UserError.
    """
    parser = _train_parser()
    given = given_options(parser, argv)
    if given.get("demo"):
        parser.set_defaults(**DEMO_DEFAULTS)
        if given.get("model") == "dtn":
            parser.set_defaults(**dtn_options.DEMO_DEFAULTS)
    opt = parser.parse_args(argv)
    if opt.resume and "init_from" in given:
        raise UserError("--init_from: starts a new run; leave it out to resume one")
    # What is given is checked together with what a run or a file brings.
    return (opt if opt.resume or opt.init_from else _check_training(opt, given)), given


def resumed_options(saved: dict, given: dict, source: object = "the file") -> Namespace:
    """Lay the options given on the command line over those saved in a checkpoint, `source`.

    Raises UserError where one of them would change the architecture, or cannot be.
    """
    defaults = vars(_train_parser().parse_args([]))
    # A checkpoint of an older version may lack options, one of a newer may have more.
    saved = {key: saved.get(key, default) for key, default in (defaults | BEFORE).items()}
    check_read(_train_parser(), saved, source)
    for key in ARCHITECTURE:
        if key == "ema" and key in given and bool(given[key]) == bool(saved[key]):
            continue  # another decay is no other architecture
        if key in given and given[key] != saved[key]:
            raise UserError(
                f"--{key}: {given[key]} was asked for, but the run to resume was trained with "
                f"{saved[key]}, and its architecture cannot change; leave the option out, or start "
                "a new run"
            )
    machine = {"num_workers": defaults["num_workers"], "dry_run": False, "gpu_ids": None}
    gpu_ids = saved["gpu_ids"]
    if gpu_ids is not None and max(gpu_ids, default=-1) < torch.cuda.device_count():
        machine["gpu_ids"] = ",".join(map(str, gpu_ids)) or "-1"  # as before, where they are here
    if saved["amp"] == "bf16":  # perhaps what auto found on another machine
        machine["amp"] = "auto"
    return _check_training(Namespace(**{**saved, **machine, **given}), given)


def test_options(argv: Sequence[str] | None = None) -> tuple[Namespace, dict]:
    """Parse and check the options of test.py; returns them resolved, and those really given."""
    parser = _test_parser()
    opt, given = parser.parse_args(argv), given_options(parser, argv)
    if opt.input and opt.photos:
        raise UserError(
            f"--input {opt.input}: {opt.photos[0]} is named beside it; give all "
            "pictures without --input, or only that one"
        )
    refuse_unread(TEST, given, Namespace(**{**vars(opt), "input": opt.input or opt.photos}))
    if opt.input and not (opt.direction and opt.output):
        raise UserError(
            f"--input {opt.input}: needs --direction (AtoB: anime to person, BtoA: person to "
            "anime) and --output DIR, or leave --input out: test.py PHOTO"
        )
    opt.input = opt.photos or ([opt.input] if opt.input else [])
    opt.photos = bool(opt.photos)
    opt.output = opt.output or "test_image"
    opt.gpu_ids = resolve_gpu_ids(opt.gpu_ids)[:1]
    return opt, given


def defaults_beside(options: dict) -> dict:
    """Defaults of train.py for a run of these options, on whose model, mode and --demo they hang.

    For these three what they are if not given, as which values that none of them has count too.
    """
    flags = ["--demo"] if options.get("demo") is True else []
    for key, known in (("model", dtn_options.MODELS), ("gan_mode", GAN_MODES)):
        if options.get(key) in known:
            flags += [f"--{key}", options[key]]
    try:
        defaults = vars(train_options(flags)[0])
    except UserError:  # no run has such a mode with such a model
        return vars(train_options([])[0])
    mode = train_options(["--model", defaults["model"]])[0].gan_mode
    return defaults | {"demo": False, "model": "cyclegan", "gan_mode": mode}


def print_options(opt: Namespace) -> None:
    """Print every option in alphabetical order, those that differ from the default marked."""
    defaults = defaults_beside(vars(opt))
    print("----------------- options -----------------")
    for key, value in sorted(vars(opt).items()):
        default = defaults[key]
        # Values that were found out on this machine are no choice of the user's.
        changed = value != default and key not in ("gpu_ids", "num_workers")
        print(f"{key:>18}: {value!s:<24}" + (f" [default: {default}]" if changed else ""))
    print("-------------------------------------------")


# ---------------------------------------------------------------------------------- parsers


def _train_parser() -> OneLineParser:
    parser = make_parser("Train a translation between anime faces (domain A) and persons (B).")
    dtn_options.add_options(parser)

    data = parser.add_argument_group("data")
    add_data_options(parser, data)
    data.add_argument(
        "--dataset_size",
        type=whole(2),
        default=50000,
        help="use the first N images of each domain, in sorted order",
    )
    data.add_argument(
        "--holdout",
        type=whole(1),
        default=128,
        help="of these, keep N (at most a tenth) out of training, for the grids",
    )
    data.add_argument("--image_size", type=whole(8, 8192), default=64, help="pixels, square")
    data.add_argument(
        "--crop",
        choices=CROPS,
        default="center",
        help="center: the largest square; celeba: tight on the face of 178x218 "
        "CelebA pictures, center for others",
    )
    data.add_argument(
        "--flip",
        action=BooleanOptionalAction,
        default=True,
        help="mirror half of the training images",
    )

    schedule = parser.add_argument_group("schedule")
    schedule.add_argument(
        "--batch_size", type=whole(1), default=64, help="pairs per step, over all GPUs"
    )
    schedule.add_argument(
        "--niter", type=whole(0), default=100, help="epochs at the first learning rate"
    )
    schedule.add_argument(
        "--niter_decay",
        type=whole(0),
        default=100,
        help="epochs after these, on a straight line to 0",
    )
    schedule.add_argument(
        "--lr_G", type=number(above=0), default=1e-4, help="Adam's learning rate for the generators"
    )
    schedule.add_argument(
        "--lr_D",
        type=number(above=0),
        default=4e-4,
        help="Adam's learning rate for the discriminators",
    )
    schedule.add_argument("--beta1", type=number(0, below=1), default=0.0, help="Adam's beta1")
    schedule.add_argument("--beta2", type=number(0, below=1), default=0.9, help="Adam's beta2")
    schedule.add_argument(
        "--n_critic",
        type=whole(1),
        help="steps of D for each of G; if not given: 5 for wgan and wgangp, else 1",
    )
    schedule.add_argument(
        "--seed", type=whole(0), default=0, help="of weights, data order and all other chance"
    )

    losses = parser.add_argument_group("losses")
    losses.add_argument(
        "--gan_mode",
        choices=GAN_MODES,
        help="adversarial objective (losses.py); if not given: sn, hinge with "
        "spectral norm, and vanilla, cross-entropy, with dtn",
    )
    losses.add_argument(
        "--lambda_A",
        type=number(0),
        default=10.0,
        help="weight of the cycle anime -> person -> anime; the original used "
        "250, with its sagan generator",
    )
    losses.add_argument(
        "--lambda_B",
        type=number(0),
        default=10.0,
        help="weight of the cycle person -> anime -> person",
    )
    losses.add_argument(
        "--lambda_idt",
        type=number(0),
        default=0.5,
        help="weight of the identity loss relative to the cycles'; 0 = off",
    )
    losses.add_argument(
        "--lambda_gp",
        type=number(above=0),
        default=10.0,
        help="weight of the gradient penalty (sn+gp, wgangp)",
    )
    losses.add_argument(
        "--clip_value", type=number(above=0), default=0.01, help="bound on every weight of D (wgan)"
    )
    losses.add_argument(
        "--pool_size", type=whole(0), default=50, help="earlier fakes that D is also shown; 0 = off"
    )

    losses.add_argument(
        "--shift", type=whole(0, 64), default=4, help="move what D sees by up to N pixels; 0 = off"
    )
    schedule.add_argument(
        "--warm_steps",
        type=whole(0),
        default=1000,
        help="batches on which the generators learn to keep images as they are, "
        "before the first epoch; 0 = off",
    )

    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--amp",
        choices=("auto", "bf16", "off"),
        default="auto",
        help="compute the nets in bfloat16; losses, penalty, spectral norm and "
        "weights stay in float32; auto: where the hardware does",
    )
    speed.add_argument(
        "--compile",
        action=BooleanOptionalAction,
        default=False,
        help="torch.compile the generators: one to three minutes at the start",
    )

    nets = parser.add_argument_group("networks")
    nets.add_argument(
        "--generator",
        default="resnet8",
        choices=("resnet8", "resnet", "unet", "sagan"),
        help="resnet8: residual blocks at an eighth of the size, four times cheaper "
        "than resnet, CycleGAN's; sagan: the original author's, through a "
        "100-vector",
    )
    nets.add_argument("--ngf", type=whole(1, 1 << 16), default=64, help="width of the generators")
    nets.add_argument(
        "--n_blocks", type=whole(0, 100), default=6, help="residual blocks of the resnet generators"
    )
    nets.add_argument(
        "--discriminator",
        choices=("sagan", "patch"),
        help="if not given: patch for wgan and wgangp, as in the original, else sagan",
    )
    nets.add_argument("--ndf", type=whole(1, 1 << 16), default=64, help="width of D")
    nets.add_argument(
        "--attention",
        action=BooleanOptionalAction,
        default=True,
        help="self-attention in the sagan nets",
    )
    nets.add_argument(
        "--spectral_norm",
        action=BooleanOptionalAction,
        help="spectral norm in D; if not given: on, but for wgan and wgangp",
    )
    nets.add_argument(
        "--init_type",
        default="normal",
        choices=("normal", "xavier", "kaiming", "orthogonal"),
        help="how weights start",
    )
    nets.add_argument(
        "--init_gain",
        type=number(above=0),
        default=0.02,
        help="scale of normal, xavier and orthogonal",
    )
    nets.add_argument(
        "--ema",
        type=number(0, below=1),
        default=0.999,
        help="decay of the generators' moving average, which grids and test.py use; 0 = off",
    )

    run = parser.add_argument_group("run")
    run.add_argument(
        "--name",
        type=run_name,
        help="folder in model_ckpt/ and save_image/; if not given: "
        "<gan_mode>_<images used>, or demo",
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="continue the run --name, or the newest, exactly where it stopped",
    )
    run.add_argument(
        "--init_from",
        help="start a new run from the generators (and a run's "
        "discriminators) of a file or folder of any layout in layouts.py",
    )
    run.add_argument(
        "--every_save_images", type=whole(1), default=1, help="epochs between sample grids"
    )
    run.add_argument(
        "--tensorboard",
        action=BooleanOptionalAction,
        default=False,
        help="also log to save_image/<name>/tensorboard (pip install tensorboard)",
    )
    run.add_argument(
        "--ckpt_num", type=whole(1), default=20, help="epochs between checkpoints that are kept"
    )
    run.add_argument(
        "--save_minutes",
        type=number(above=0),
        default=10.0,
        help="longest time between saves of the latest state",
    )
    run.add_argument(
        "--dry_run",
        action="store_true",
        help="print options, parameter counts and data found, and stop",
    )
    return parser


def _test_parser() -> OneLineParser:
    parser = make_parser("Translate anime faces to persons and back with a trained model.")
    parser.add_argument(
        "photos",
        nargs="*",
        metavar="PHOTO",
        help="your own pictures, or folders of them: to anime by the pretrained "
        "model, as test_image/NAME_anime.png, where no option says otherwise",
    )

    add_model_options(parser)

    data = parser.add_argument_group("data (default: the run's own folders, held-out images only)")
    add_data_options(parser, data)
    parser.set_defaults(domain_A_path=None, domain_B_path=None)
    data.add_argument(
        "--dataset_size",
        type=whole(1),
        default=1280,
        help="translate the first N images of each domain",
    )
    data.add_argument(
        "--batch_size", type=whole(1), default=64, help="images at a time, and tiles in a grid"
    )

    files = parser.add_argument_group("pictures in, pictures out")
    files.add_argument("--input", help="picture, or folder of pictures")
    files.add_argument(
        "--direction",
        choices=("AtoB", "BtoA"),
        help="AtoB: anime to person; BtoA: person to anime; without --input: only this one",
    )
    files.add_argument("--output", help="folder for the pictures (default: test_image)")
    files.add_argument("--overwrite", action="store_true", help="replace pictures in --output")
    files.add_argument(
        "--compare", action="store_true", help="write input, output and reconstruction side by side"
    )
    files.add_argument(
        "--scale",
        type=whole(1, 16),
        default=1,
        help="enlarge the pictures so many times; adds no detail",
    )
    files.add_argument(
        "--paste", action="store_true", help="put the translated faces back into the photographs"
    )
    add_face_options(files)
    return parser


def add_model_options(parser: OneLineParser) -> None:
    model = parser.add_argument_group("model (none of these: the newest run, else the published)")
    one = model.add_mutually_exclusive_group()
    one.add_argument("--ckpt", help="checkpoint: a file or folder of any layout in layouts.py")
    one.add_argument("--name", type=run_name, help="run, a folder in model_ckpt/")
    model.add_argument(
        "--model",
        choices=dtn_options.MODELS,
        help="of the runs here, the newest of this model; if not given: of any",
    )
    model.add_argument(
        "--image_size",
        type=whole(24, 8192),
        help="side of the square, pixels; if not given: the checkpoint's, or 256 "
        "where it tells none",
    )


def add_data_options(
    parser: OneLineParser, data: argparse._ArgumentGroup, demo: bool = True
) -> None:
    data.add_argument("--domain_A_path", default="data/anime", help="folder of anime faces")
    data.add_argument("--domain_B_path", default="data/person", help="folder of person faces")
    if demo:
        data.add_argument(
            "--demo",
            action="store_true",
            help="faces that demo/make.py draws; training gets small defaults",
        )
    data.add_argument(
        "--cache_dir", default="data/cache", help="folder for the decoded images, made once"
    )
    data.add_argument(
        "--num_workers",
        type=whole(0),
        default=min(8, os.cpu_count() or 1),
        help="threads that decode images; 0 = none of its own",
    )
    parser.add_argument(
        "--gpu_ids",
        help="for example 0,1,2,3, or -1 for the CPU; if not given: the first "
        "GPU if there is one, else the CPU",
    )


# ----------------------------------------------------------------------------------- checks


def _check_training(opt: Namespace, given: dict) -> Namespace:
    """Fill in what depends on other options, and refuse what cannot work together.

    given: options that stand on the command line, which must all have an effect.

    Options of another model are left out of what comes back.
    """
    dtn_options.choose_gan_mode(opt)
    wasserstein_alone = opt.gan_mode in ("wgan", "wgangp")
    if opt.discriminator is None:
        opt.discriminator = "patch" if wasserstein_alone else "sagan"
    if opt.n_critic is None:
        opt.n_critic = 5 if wasserstein_alone else 1
    if opt.spectral_norm is None:
        opt.spectral_norm = not wasserstein_alone
    refuse_unread(TRAIN, given, opt)
    opt.gpu_ids = resolve_gpu_ids(opt.gpu_ids)
    opt.amp = resolve_amp(opt.amp, opt.gpu_ids)

    if opt.gan_mode == "wgan" and opt.spectral_norm:
        raise UserError(
            "--gan_mode wgan --spectral_norm: wgan bounds D by clipping weights, which spectral "
            "norm would scale up again; leave --spectral_norm out, or use --gan_mode sn"
        )
    if opt.gan_mode in PENALTY_MODES and opt.spectral_norm != (opt.gan_mode == "sn+gp"):
        raise UserError(
            f"--gan_mode {opt.gan_mode} {'--' if opt.spectral_norm else '--no-'}spectral_norm: "
            "the penalty with spectral norm is --gan_mode sn+gp, without it --gan_mode wgangp"
        )
    if opt.compile and len(opt.gpu_ids) > 1:
        raise UserError(
            "--compile: does not go with nn.DataParallel over several --gpu_ids; start the run "
            f"with torchrun --nproc_per_node={len(opt.gpu_ids)} train.py instead"
        )
    generator = "decoder" if opt.model == "dtn" else opt.generator
    problem = image_size_problem(generator, opt.discriminator, opt.image_size)
    if problem:
        raise UserError(f"--image_size {opt.image_size}: {problem}")
    if opt.niter + opt.niter_decay == 0:
        raise UserError("--niter 0 --niter_decay 0: no epoch to train; give at least one of them")
    if opt.batch_size < len(opt.gpu_ids):
        raise UserError(
            f"--batch_size {opt.batch_size}: fewer than the {len(opt.gpu_ids)} GPUs of --gpu_ids; "
            "raise it or name fewer GPUs"
        )
    for key in dtn_options.foreign(opt.model):
        delattr(opt, key)
    return opt
