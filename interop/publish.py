"""The body of publish.py: taking the nets out of a checkpoint, to be handed on."""

import io
from argparse import Namespace
from pathlib import Path

import torch

from common.errors import UserError, one_line_errors
from common.options import make_parser
from common.tensors import derived_generator
from cyclegan_model import GENERATORS
from interop.generators import (
    PRETRAINED,
    find_generators,
    load_generators,
    refuse_dtn,
    shape_options,
)
from interop.layouts import DISCRIMINATORS, PUBLISHED, PUBLISHED_FORMAT, Found
from parsers import add_model_options
from storage.files import write_tensors

MOST_BYTES = 16 << 20  # of one file: a repository keeps every version for ever


@one_line_errors
def main() -> None:
    opt = publish_options()
    path = find_generators(opt)
    model, found = load_generators(
        path, [], batch_size=8, direction=opt.direction, image_size=opt.image_size
    )
    refuse_dtn(found, "publish.py")
    directions = [opt.direction] if opt.direction else model.directions
    files = {direction: Path(opt.output) / PUBLISHED[direction] for direction in directions}
    judges = Path(opt.output) / DISCRIMINATORS
    there = [file for file in (*files.values(), judges) if file.exists()]
    if there and not opt.overwrite:
        raise UserError(
            f"--output {opt.output}: {there[0].name} exists there already; choose "
            "another folder, or replace it with --overwrite"
        )

    states = {direction: published(found, model.opt, direction) for direction in directions}
    whole = "netD_A" in found.nets and len(directions) == 2
    judging = published(found, model.opt, None) if whole else None
    for direction, file in files.items():
        write_tensors(file, states[direction])
    if judging:
        write_tensors(judges, judging)
    else:
        judges.unlink(missing_ok=True)  # those of an earlier model

    # What a user will get, against what it was made of.
    size = model.opt.image_size
    x = 2 * torch.rand(8, 3, size, size, generator=derived_generator(0, "publish")) - 1
    for direction, file in files.items():
        again, _ = load_generators(file, [], batch_size=8)
        before, after = (m.translate(x, direction, and_back=False)[0] for m in (model, again))
        difference = (after - before).abs().max().item()
        print(
            f"{file}: {file.stat().st_size / 1e6:.1f} MB, from {path} ({found.about}); on 8 "
            f"random images its outputs differ by at most {difference * 127.5:.2f} of 255 "
            "grey levels from the original's"
        )
    if judging:
        print(f"{judges}: {judges.stat().st_size / 1e6:.1f} MB, for train.py --init_from")


def published(found: Found, opt: Namespace, direction: str | None) -> dict:
    """What a file holds: nets in half precision, and what rebuilds them. Raises UserError.

    direction: of the one generator; None for both discriminators.
    """
    names = [GENERATORS[direction]] if direction else ["netD_A", "netD_B"]
    nets = {name: {key: x.half() for key, x in found.nets[name].items()} for name in names}
    state = {
        "published": PUBLISHED_FORMAT,
        "direction": direction,
        "options": shape_options(found.options, "generator" if direction else "discriminator")
        | {"image_size": opt.image_size, "crop": opt.crop},
        "weights": nets[names[0]] if direction else nets,
        "epoch": found.epoch,
        "steps": found.steps,
        "seed": found.options.get("seed"),
    }
    for key, value in ((key, x) for net in nets.values() for key, x in net.items()):
        if not torch.isfinite(value).all():
            raise UserError(
                f"{found.path}: {key} holds numbers beyond half precision; it cannot be published"
            )
    file = io.BytesIO()
    torch.save(state, file)
    if file.tell() > MOST_BYTES:
        name = PUBLISHED[direction] if direction else DISCRIMINATORS
        raise UserError(
            f"{found.path}: {name} would have {file.tell() / 1e6:.1f} MB, at most "
            f"{MOST_BYTES / 1e6:.1f} MB are allowed; train with fewer "
            "--n_blocks or a smaller --ngf"
        )
    return state


def publish_options() -> Namespace:
    """Parse the options. Raises UserError."""
    parser = make_parser("Take the nets out of a checkpoint, to be handed on.")
    add_model_options(parser)
    files = parser.add_argument_group("files")
    files.add_argument("--direction", choices=tuple(PUBLISHED), help="only this one")
    files.add_argument("--output", default=str(PRETRAINED), help="folder")
    files.add_argument("--overwrite", action="store_true", help="replace files in --output")
    return parser.parse_args()
