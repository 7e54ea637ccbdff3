"""Which options are read only beside others; one that is given and would not be read is refused.

Options of where and how fast (--gpu_ids, --num_workers, --cache_dir, --batch_size where it only
saves memory) have no row: they change no result.
"""

from argparse import Namespace
from collections.abc import Callable

import dtn_options
from errors import UserError
from losses import PENALTY_MODES

Rule = Callable[[Namespace], str | None]  # resolved options -> why an option is not read, or None


def only(**choices: tuple[str, ...]) -> Rule:
    """Read where any of these options has one of these values."""

    def rule(opt: Namespace) -> str | None:
        if any(getattr(opt, key) in values for key, values in choices.items()):
            return None
        wanted = " or ".join(f"--{key} {value}" for key in choices for value in choices[key]
                           if value)  # fmt: skip
        have = " ".join(f"--{key} {getattr(opt, key)}" for key in choices)
        return f"is read only with {wanted}, and this is {have}; leave it out"

    return rule


def beside(other: str) -> Rule:
    """Read where another option is given."""

    def rule(opt: Namespace) -> str | None:
        return None if getattr(opt, other) else f"goes with --{other}; add that, or leave it out"

    return rule


def without(other: str) -> Rule:
    """Read where another option is not given."""

    def rule(opt: Namespace) -> str | None:
        value = getattr(opt, other)
        return value and f"is not read beside {_flag(other, value)}; leave one of them out"

    return rule


def refuse_unread(rows: dict[str, list[Rule]], given: dict, opt: Namespace) -> None:
    """Raise UserError if an option that stands on the command line would not be read.

    rows: one of the tables below; given: the options on the command line; opt: all, resolved.
    """
    for key in rows:
        for rule in rows[key] if key in given else ():
            if why := rule(opt):
                raise UserError(f"{_flag(key, given[key])}: {why}")


def _flag(key: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{key}" if value else f"--no-{key}"
    return f"--{key} {' '.join(value) if isinstance(value, list) else value}"


# An option of one model; of a run that starts from a file the weights are there already.
CYCLEGAN, DTN = only(model=("cyclegan",)), only(model=("dtn",))
TRAIN = {
    **{key: [CYCLEGAN] for key in dtn_options.CYCLEGAN_ONLY},
    **{key: [DTN] for key in dtn_options.DTN_ONLY},
    "n_blocks": [CYCLEGAN, only(generator=("resnet8", "resnet"))],
    "warm_steps": [CYCLEGAN, without("resume"), without("init_from")],
    "lambda_gp": [CYCLEGAN, only(gan_mode=PENALTY_MODES)],
    "clip_value": [CYCLEGAN, only(gan_mode=("wgan",))],
    "attention": [only(model=("dtn",), generator=("sagan",), discriminator=("sagan",))],
    "init_type": [without("resume")],
    "init_gain": [without("resume"), only(init_type=("normal", "xavier", "orthogonal"))],
}
DEMO_HAS_OWN = [without("demo")]
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
# Ready outputs and real images alone need no model, nor what belongs to one.
OF_A_MODEL = [without("fakes"), without("floors_only")]
EVALUATE = {
    "ckpt": OF_A_MODEL,
    "name": OF_A_MODEL,
    "model": OF_A_MODEL,
    "demo": OF_A_MODEL,
    "domain_A_path": DEMO_HAS_OWN,
    "domain_B_path": DEMO_HAS_OWN,
    "train_A_path": OF_A_MODEL,
    "train_B_path": OF_A_MODEL,
    "attributes": [*OF_A_MODEL, without("direction")],  # persons made again need both
    "fakes": [without("floors_only")],
    "direction": [without("floors_only")],
    "inception_weights": [without("floors_only")],
    "features": [without("floors_only")],
}
FACES = {"cascade": [beside("detect_faces")], "face_margin": [beside("detect_faces")]}
PRETRAIN = {
    "domain_A_path": DEMO_HAS_OWN,
    "domain_B_path": DEMO_HAS_OWN,
    "attributes": DEMO_HAS_OWN,
}
