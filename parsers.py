"""The flags of train.py and test.py, and those that other scripts share with them."""

import argparse
import os
from argparse import BooleanOptionalAction

from common.options import OneLineParser, make_parser, number, run_name, whole
from common.presets import PRESETS
from dtn import options as dtn_options
from losses import GAN_MODES
from pictures.decode import CROPS
from pictures.faces import add_face_options


def train_parser() -> OneLineParser:
    parser = make_parser(
        "Train a translation between anime faces (domain A) and persons (domain B). Each group of\n"
        "options begins with an example. A try that needs no data, minutes on a CPU:\n\n"
        "  python train.py --demo",
        usage="python train.py [options]",
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="a whole recipe, under the options given beside it (common/presets.py): faces, that "
        "of the published model; cyclegan, that of Zhu et al. 2017; original, that of "
        "anime_person_translation",
    )
    dtn_options.add_options(parser)

    data = parser.add_argument_group(
        "data",
        "python train.py --domain_A_path data/anime --domain_B_path data/person --crop celeba",
    )
    add_data_options(parser, data)
    add_dataset_size(data)
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

    schedule = parser.add_argument_group(
        "schedule", "python train.py --batch_size 16 --niter 20 --niter_decay 10 --lr_G 2e-4"
    )
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
        "--seed", type=whole(0), default=0, help="of weights, data order and all else random"
    )

    losses = parser.add_argument_group("losses", "python train.py --gan_mode lsgan --lambda_idt 1")
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
        "--cycle_pool",
        type=whole(1, 64),
        default=4,
        help="compare images after a cycle by means over squares of N pixels; 1: pixel by pixel",
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
        "--lambda_r1",
        type=number(0),
        default=0.0,
        help="weight of D's squared slope at real and fake images (R1, R2); 0 = off",
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
    losses.add_argument(
        "--zoom",
        type=number(0, below=1),
        default=0.0,
        help="share of batches of which D sees a window near the middle, enlarged: eyes; 0 = off",
    )
    losses.add_argument(
        "--negatives",
        type=number(0, below=1),
        default=0.0,
        help="of what D must call fake, the share of images with a wrong region: a lost eye, "
        "a piece of the other domain; 0 = off",
    )
    schedule.add_argument(
        "--warm_steps",
        type=whole(0),
        default=1000,
        help="batches before the first epoch, on which the generators learn to keep images as "
        "they are or, with --init_from and generators alone, the discriminators catch up; 0 = off",
    )

    speed = parser.add_argument_group("speed", "python train.py --compile")
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

    nets = parser.add_argument_group(
        "networks", "python train.py --generator unet --ngf 32 --ndf 32"
    )
    nets.add_argument(
        "--generator",
        default="resnet8",
        choices=("resnet8", "resnet", "unet", "sagan"),
        help="resnet8: residual blocks at an eighth of the size, less than half of the cost "
        "of resnet, CycleGAN's; sagan: the original author's, through a "
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

    run = parser.add_argument_group("run", "python train.py --resume --name sn_50000")
    run.add_argument(
        "--name",
        type=run_name,
        help="folder in model_ckpt/ and save_image/; if not given: "
        "<preset or gan_mode>_<images used>, or demo",
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="continue the run --name, or the newest, exactly where it stopped",
    )
    run.add_argument(
        "--init_from",
        help="start a new run from the generators (and a run's "
        "discriminators) of a file or folder of any layout in interop/layouts.py",
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


def test_parser() -> OneLineParser:
    parser = make_parser(
        "Translate anime faces to persons and back with a trained model. Each group of options\n"
        "begins with an example. Your own photograph, to test_image/me_anime.png:\n\n"
        "  python test.py me.jpg",
        usage="python test.py [PHOTO ...] [options]",
    )
    parser.add_argument(
        "photos",
        nargs="*",
        metavar="PHOTO",
        help="your own pictures, or folders of them: to anime by the pretrained "
        "model, as test_image/NAME_anime.png, where no option says otherwise",
    )

    add_model_options(parser)

    data = parser.add_argument_group(
        "data (if not given: the run's own folders, held-out images only)",
        "python test.py --domain_A_path data/anime_test --domain_B_path data/person_test",
    )
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

    files = parser.add_argument_group(
        "pictures in, pictures out", "python test.py party.jpg --detect_faces --paste"
    )
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
    model = parser.add_argument_group(
        "model (none of these: the newest run, else the published)",
        f"python {parser.prog} --ckpt model_ckpt/pretrained",
    )
    one = model.add_mutually_exclusive_group()
    one.add_argument(
        "--ckpt", help="checkpoint: a file or folder of any layout in interop/layouts.py"
    )
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


def add_dataset_size(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "--dataset_size",
        type=whole(2),
        default=50000,
        help="use the first N images of each domain, in sorted order",
    )
