"""Options of --model dtn, and which options belong to one model alone."""

import argparse
from argparse import BooleanOptionalAction, Namespace

from common.errors import UserError
from common.options import number

MODELS = ("cyclegan", "dtn")
CYCLEGAN_ONLY = (
    "generator",
    "n_blocks",
    "lambda_A",
    "lambda_B",
    "cycle_pool",
    "lambda_idt",
    "lambda_gp",
    "lambda_r1",
    "clip_value",
    "pool_size",
    "shift",
    "zoom",
    "negatives",
    "warm_steps",
)
DTN_ONLY = ("f_encoder", "train_f", "direction", "lambda_const", "lambda_tid", "lambda_tv")
GAN_MODES = ("vanilla", "sn", "lsgan")
# What --demo changes beside arguments.DEMO_DEFAULTS: eight epochs, about seven minutes on a core.
# The weight of L_TID is what the paper has for digits; with the one for faces colours come late.
# Mirrored faces are strange to f, which learned from the demo's factors which way a face turns.
DEMO_DEFAULTS = {
    "f_encoder": "data/demo/encoder.pth",
    "flip": False,
    "batch_size": 8,
    "ngf": 16,
    "ndf": 32,
    "niter": 4,
    "niter_decay": 4,
    "lr_G": 4e-4,
    "lr_D": 4e-4,
    "ema": 0.99,
    "lambda_tid": 15.0,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        choices=MODELS,
        default="cyclegan",
        help="cyclegan: both directions at once; dtn: one direction, through the "
        "features of an encoder that pretrain_encoder.py trains",
    )
    dtn = parser.add_argument_group(
        "--model dtn (loss weights: the paper's numbers for faces)",
        "python train.py --model dtn --direction BtoA --lambda_tid 15",
    )
    dtn.add_argument(
        "--f_encoder",
        default="data/encoder.pth",
        help="f: what pretrain_encoder.py wrote, or resnet18:FILE with torchvision's "
        "weights (also resnet34, 50, 101, 152)",
    )
    dtn.add_argument(
        "--direction",
        choices=("AtoB", "BtoA"),
        default="BtoA",
        help="what is translated: BtoA persons to anime, AtoB anime to persons",
    )
    dtn.add_argument(
        "--lambda_const",
        type=number(0),
        default=100.0,
        help="weight of L_CONST: f(G(x)) like f(x); the paper's alpha. Features are "
        "about 1 long and their squares averaged: an f with more numbers than 128 "
        "wants as many times more of it",
    )
    dtn.add_argument(
        "--lambda_tid",
        type=number(0),
        default=1.0,
        help="weight of L_TID: G leaves images of the target domain alone; its beta",
    )
    dtn.add_argument(
        "--lambda_tv",
        type=number(0),
        default=0.05,
        help="weight of L_TV, mean total variation of what G makes; its gamma, which "
        "the paper applies to the sum over pixels",
    )
    dtn.add_argument(
        "--train_f",
        action=BooleanOptionalAction,
        default=False,
        help="train f along, as the original author did: L_CONST then shrinks f until "
        "it tells little apart; only for comparison",
    )


def foreign(model: str) -> tuple[str, ...]:
    """The options that the other model alone has."""
    return CYCLEGAN_ONLY if model == "dtn" else DTN_ONLY


def choose_gan_mode(opt: Namespace) -> None:
    """Fill in --gan_mode where it was not given; refuse those that do not go with three classes."""
    if opt.gan_mode is None:
        opt.gan_mode = "vanilla" if opt.model == "dtn" else "sn"
    if opt.model == "dtn" and opt.gan_mode not in GAN_MODES:
        raise UserError(
            f"--gan_mode {opt.gan_mode}: measures a distance between two sets of images, and DTN's "
            "discriminator tells three apart; use --gan_mode vanilla (cross-entropy, the paper's), "
            "sn (hinge) or lsgan"
        )
