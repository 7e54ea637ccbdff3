"""Options of train.py and test.py: defaults, meaning, and every check that needs no data.

`python train.py --help` and `python test.py --help` show them in groups. Bad values and bad
combinations raise UserError here, before any work is done.
"""

from argparse import Namespace
from collections.abc import Sequence

from common import distributed
from common.device import resolve_amp, resolve_gpu_ids
from common.errors import UserError
from common.options import given_options
from common.presets import PRESETS
from common.unread import (
    DEMO_HAS_OWN,
    as_flag,
    beside,
    only,
    refuse_unread,
    unless_resumed,
    without,
)
from dtn import options as dtn_options
from losses import GAN_MODES, PENALTY_MODES
from networks import image_size_problem
from parsers import test_parser, train_parser
from storage.validate import check_options

# An option of one model.
CYCLEGAN, DTN = only(model=("cyclegan",)), only(model=("dtn",))
TRAIN = {
    **{key: [CYCLEGAN] for key in dtn_options.CYCLEGAN_ONLY},
    **{key: [DTN] for key in dtn_options.DTN_ONLY},
    "preset": [CYCLEGAN, without("resume"), *DEMO_HAS_OWN],
    "n_blocks": [CYCLEGAN, only(generator=("resnet8", "resnet"))],
    "warm_steps": [CYCLEGAN, unless_resumed],
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
    "batch_size": 8,
    "ngf": 24,
    "n_blocks": 2,
    "ndf": 32,
    "warm_steps": 300,
    "shift": 2,
    "niter": 1,
    "niter_decay": 4,
    "lr_G": 1e-3,
    "lr_D": 1e-3,
    "ema": 0.98,
}
# What these were before they were options, or before their defaults changed: older checkpoints.
BEFORE = {"generator": "resnet", "shift": 0, "warm_steps": 0, "cycle_pool": 1}
# Where one is not given, it follows from other options or from the machine. A checkpoint keeps both
# what was asked for and what came of it, and a resumed run works it out anew.
RESOLVED = ("discriminator", "n_critic", "spectral_norm", "amp", "compile")
# What this machine or this call has; never read from a checkpoint.
MACHINE = ("gpu_ids", "num_workers", "dry_run")
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
    parser = train_parser()
    given = given_options(parser, argv)
    if "preset" in given:
        parser.set_defaults(**PRESETS[str(given["preset"])])
    if given.get("demo"):
        parser.set_defaults(**DEMO_DEFAULTS)
        if given.get("model") == "dtn":
            parser.set_defaults(**dtn_options.DEMO_DEFAULTS)
    opt = parser.parse_args(argv)
    if opt.resume and "init_from" in given:
        raise UserError("--init_from: starts a new run; leave it out to resume one")
    # What is given is checked together with what a run or a file brings.
    return (opt if opt.resume or opt.init_from else _check_training(opt, given)), given


def resumed_options(
    saved: dict, given: dict, source: object = "the file", asked: dict | None = None
) -> Namespace:
    """Lay the options given on the command line over those saved in a checkpoint, `source`.

    asked: those of RESOLVED as that run was asked for them. Raises UserError where an option would
    change the architecture, or cannot be.
    """
    defaults = vars(train_parser().parse_args([]))
    # A checkpoint of an older version may lack options, one of a newer may have more.
    saved = {key: saved.get(key, default) for key, default in (defaults | BEFORE).items()}
    check_options(train_parser(), {**saved, **dict.fromkeys(MACHINE)}, source)
    for key in ARCHITECTURE:
        if key == "ema" and key in given and bool(given[key]) == bool(saved[key]):
            continue  # another decay is no other architecture
        if key in given and given[key] != saved[key]:
            raise UserError(
                f"--{key}: {given[key]} was asked for, but the run to resume was trained with "
                f"{saved[key]}, and its architecture cannot change; leave the option out, or start "
                "a new run"
            )
    asked = {key: value for key, value in (asked or {}).items() if key in RESOLVED}
    check_options(train_parser(), asked, source)
    if saved["amp"] == "bf16":  # perhaps what auto found on another machine
        asked.setdefault("amp", "auto")
    machine = {key: defaults[key] for key in MACHINE}
    opt = _check_training(Namespace(**{**saved, **asked, **machine, **given}), given)
    for key in ("discriminator", "spectral_norm"):
        if saved[key] not in (None, getattr(opt, key)) and key not in given:
            raise UserError(
                f"--gan_mode {opt.gan_mode}: makes {as_flag(key, getattr(opt, key))} of what is "
                f"not given, but the run to resume was trained with {as_flag(key, saved[key])}, "
                "and its architecture cannot change; give that too, or start a new run"
            )
    return opt


def test_options(argv: Sequence[str] | None = None) -> tuple[Namespace, dict]:
    """Parse and check the options of test.py; returns them resolved, and those really given."""
    parser = test_parser()
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
    """Defaults of train.py for a run of these options: they depend on --model, --gan_mode, --demo.

    Of these three an unknown value counts as not given, and each has its own default in the result.
    """
    flags = ["--demo"] if options.get("demo") is True else []
    if options.get("preset") in PRESETS:
        flags += ["--preset", options["preset"]]
    for key, known in (("model", dtn_options.MODELS), ("gan_mode", GAN_MODES)):
        if options.get(key) in known:
            flags += [f"--{key}", options[key]]
    try:
        defaults = vars(train_options(flags)[0])
    except UserError:  # no run has such a mode with such a model
        return vars(train_options([])[0])
    mode = train_options(["--model", defaults["model"]])[0].gan_mode
    return defaults | {"demo": False, "model": "cyclegan", "gan_mode": mode}


def follow_gan_mode(gan_mode: str) -> dict:
    """What --gan_mode makes of options that are not given."""
    alone = gan_mode in ("wgan", "wgangp")
    return {
        "discriminator": "patch" if alone else "sagan",
        "n_critic": 5 if alone else 1,
        "spectral_norm": not alone,
    }


def tell_changes(saved: dict, opt: Namespace) -> None:
    """Print which options of a resumed run are not what they were, given or not."""
    skipped = (*MACHINE, "name", "resume", "init_from")
    changed = [
        f"{as_flag(key, value)} (was {saved[key]})"
        for key, value in sorted(vars(opt).items())
        if key in saved and saved[key] != value and key not in skipped
    ]
    if changed:
        print(f"Changed since {opt.name} was saved: {', '.join(changed)}")


def print_options(opt: Namespace) -> None:
    """Print every option in alphabetical order, those that differ from the default marked."""
    defaults = defaults_beside(vars(opt))
    print("----------------- options -----------------")
    for key in sorted(vars(opt).keys() - {"asked"}):
        value, default = getattr(opt, key), defaults[key]
        # Values that were found out on this machine are no choice of the user's.
        changed = value != default and key not in ("gpu_ids", "num_workers")
        print(f"{key:>18}: {value!s:<24}" + (f" [default: {default}]" if changed else ""))
    print("-------------------------------------------")


def _check_training(opt: Namespace, given: dict) -> Namespace:
    """Fill in what depends on other options, and refuse what cannot work together.

    given: options that stand on the command line, which must all have an effect.

    Options of another model are left out of what comes back; `asked` is added: RESOLVED, as they
    were asked for.
    """
    opt.asked = {key: getattr(opt, key) for key in RESOLVED}
    dtn_options.choose_gan_mode(opt)
    for key, value in follow_gan_mode(opt.gan_mode).items():
        if getattr(opt, key) is None:
            setattr(opt, key, value)
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
    if opt.compile and len(opt.gpu_ids) > 1 and not distributed.by_torchrun():
        raise UserError(
            "--compile: does not go with nn.DataParallel over several --gpu_ids; start the run "
            f"with torchrun --nproc_per_node={len(opt.gpu_ids)} train.py instead"
        )
    generator = "decoder" if opt.model == "dtn" else opt.generator
    problem = image_size_problem(generator, opt.discriminator, opt.image_size)
    if problem:
        raise UserError(f"--image_size {opt.image_size}: {problem}")
    if opt.model == "cyclegan" and opt.shift >= opt.image_size:
        raise UserError(
            f"--shift {opt.shift}: moves images of --image_size {opt.image_size} out of sight; "
            "4 is usual"
        )
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
