"""Models that translate, and new runs that start, from any file of generators (layouts.py)."""

from argparse import Namespace
from pathlib import Path

from torch import nn

from arguments import follow_gan_mode, resumed_options
from common import distributed
from common.errors import UserError
from common.unread import as_flag
from cyclegan_model import GENERATORS
from interop.build import make_model, refuse_misfit, spectral_normed
from interop.layouts import ORIGINAL, ORIGINAL_NAMES, PUBLISHED, Found, read_generators
from storage.checkpoint import ROOT, find_checkpoint
from storage.validate import LOAD_ERRORS, short, shown
from translation_model import TranslationModel

PRETRAINED = ROOT / "pretrained"
# The options that shape each net, beside its own name.
SHAPE = {
    "generator": {
        "resnet8": ("ngf", "n_blocks"),
        "resnet": ("ngf", "n_blocks"),
        "unet": ("ngf",),
        "sagan": ("ngf", "attention"),
    },
    "discriminator": {
        "sagan": ("ndf", "attention", "spectral_norm"),
        "patch": ("ndf", "spectral_norm"),
    },
}


def find_generators(opt: Namespace, demo: bool = False, published: bool = False) -> Path:
    """The file or folder to translate with: --ckpt, else --name, the newest run, or the published.

    The newest run of --model, where that is given; `published`: the published model comes before
    it; `demo`: runs of the demo alone. Raises UserError if there is none.
    """
    if opt.ckpt:
        return Path(opt.ckpt)
    runs = not published and any(ROOT.glob("*/latest.pth"))
    if not (opt.name or demo or opt.model == "dtn" or runs):
        folder = bundled(PRETRAINED)
        if any((folder / file).is_file() for file in PUBLISHED.values()):
            return folder
    return find_checkpoint(opt.name, "demo*" if demo else "*", opt.model)


def bundled(path: Path) -> Path:
    """A file or folder of the repository: the one here, else the one beside the scripts."""
    beside = Path(__file__).resolve().parent.parent / path
    return beside if beside.exists() and not path.exists() else path


def load_generators(
    path: Path,
    gpu_ids: list[int],
    batch_size: int,
    direction: str | None = None,
    image_size: int | None = None,
) -> tuple[TranslationModel, Found]:
    """A model that translates, made of any file or folder that layouts.py lists, and its content.

    direction: the one to translate, if only one; also that of a file which does not record its own.
    image_size overrides the file's. The model's `opt` are the options that it was rebuilt from, its
    `directions` those that it can translate. Raises UserError.
    """
    found = read_generators(path, direction)
    if found.options.get("model") == "dtn":
        held = [found.options.get("direction")]
    else:
        held = [d for d, name in GENERATORS.items() if name in found.nets]
    if not held:
        raise UserError(f"{path}: holds discriminators alone; name its folder, or a generator")
    if direction and direction not in held:
        raise UserError(
            f"--direction {direction}: {path} holds only the generator for {held[0]}; "
            "name another file"
        )
    # The patch discriminator, which is not made here, takes almost any image size. Where weights
    # were averaged, the averages are in found.nets already.
    saved = {"image_size": 256, "discriminator": "patch", **found.options, "ema": 0.0}
    if image_size:
        saved |= {"image_size": image_size, "discriminator": "patch"}
    here = {"gpu_ids": ",".join(map(str, gpu_ids)) or "-1", "amp": "off", "compile": False}
    try:
        opt = resumed_options(saved, here, path)
        _refuse_misfit(opt, found, [name for name in found.nets if not name.startswith("netD")])
        model = make_model(opt, training=False, saved={"encoder_options": found.encoder_options})
    except LOAD_ERRORS as error:
        reason = short(str(error) or type(error).__name__, 100)
        raise UserError(
            f"{path}: its options name no architecture that this version can build "
            f"({reason}); use another file"
        ) from error
    opt.batch_size = batch_size
    if "domain_A_path" not in found.options:
        opt.domain_A_path = opt.domain_B_path = None
    for name in list(model.nets):
        if name in found.nets:
            _load(found, name, model.nets[name])
        else:
            del model.nets[name]
    return model, found


def initialised_options(opt: Namespace, given: dict, found: Found) -> Namespace:
    """Options of a new run of train.py whose nets start from a file (--init_from).

    What shapes those nets, image size and crop are the file's where they are not given. The last
    two may be given otherwise, the rest may not: raises UserError.
    """
    if opt.model == "dtn":
        raise UserError("--init_from: is for --model cyclegan; a DTN starts from --f_encoder")
    refuse_dtn(found, "--init_from")
    try:
        shape = shape_options(found.options, "generator")
        if "netD_A" in found.nets:
            shape |= shape_options(found.options, "discriminator")
    except UserError as error:
        raise UserError(f"{found.path}: {error}") from error
    for key, value in shape.items():
        if key in given and given[key] != value:
            raise UserError(
                f"--{key} {given[key]}: --init_from {found.path} was made with {shown(value)}; "
                f"leave --{key} out"
                + (
                    ", or start from the generators alone: publish.py's two files of them"
                    if "netD_A" in found.nets
                    else ""
                )
            )
    if given.get("warm_steps") and "netD_A" in found.nets:
        raise UserError(
            f"--warm_steps {given['warm_steps']}: --init_from {found.path} brings its "
            "discriminators, and nothing is left to warm; leave it out"
        )
    usual = follow_gan_mode(str(found.options.get("gan_mode")))
    followed = {key: value for key, value in shape.items() if usual.get(key) == value}
    taken = {
        key: found.options[key]
        for key in ("image_size", "crop")
        if key in found.options and key not in given
    }
    try:
        kept = {key: value for key, value in shape.items() if key not in followed}
        new = resumed_options({**vars(opt), **taken, **kept}, given, found.path)
        for key, value in followed.items():
            if getattr(new, key) != value:
                raise UserError(
                    f"--gan_mode {new.gan_mode}: makes {as_flag(key, getattr(new, key))} of what "
                    f"is not given, but the discriminators there are {as_flag(key, value)}; give "
                    "that too, their --gan_mode, or the generators alone: publish.py's two files"
                )
    except UserError as error:
        brought = ", ".join(f"{key} {shown(value)}" for key, value in (taken | shape).items())
        raise UserError(f"{error} (--init_from {found.path} brings {brought})") from error
    _refuse_misfit(new, found, list(found.nets))
    return new


def check_model(wanted: str | None, found: Found) -> None:
    """Raise UserError if --model names another one than a file holds."""
    held = found.options.get("model", "cyclegan")
    if wanted not in (None, held):
        raise UserError(
            f"--model {wanted}: {found.path} holds a {held}; leave --model out, or "
            "name another file"
        )


def refuse_dtn(found: Found, wanted_by: str) -> None:
    """Raise UserError if the file holds a DTN, whose generator needs its encoder."""
    if found.options.get("model") == "dtn":
        raise UserError(f"{found.path}: a DTN, which {wanted_by} does not take; name a CycleGAN")


def start_from(model: TranslationModel, found: Found) -> None:
    """Give the nets of a new run the weights of a file, averages too. Raises UserError."""
    for name, net in model.nets.items():
        if name.removesuffix("_ema") in found.nets:
            _load(found, name.removesuffix("_ema"), net)
    distributed.copy_from_rank_zero(model.nets.values())
    fresh = [name for name in model.nets if name.removesuffix("_ema") not in found.nets]
    print(
        f"Starting from {found.path} ({found.about}): {', '.join(found.nets)}"
        + (f"; {', '.join(fresh)} randomly initialised" if fresh else "")
    )


def _refuse_misfit(opt: Namespace, found: Found, names: list[str]) -> None:
    """Raise UserError unless these nets of a file are those of the options."""
    try:
        nets = {name: found.nets[name] for name in names}
        refuse_misfit(opt, nets, found.encoder_options, found.path)
    except UserError as error:
        line = str(error)
        for theirs, ours in ORIGINAL_NAMES.items() if found.about == ORIGINAL else ():
            line = line.replace(f" {ours}", f" {theirs}").replace(f"({ours}", f"({theirs}")
        raise UserError(line) from error


def _load(found: Found, name: str, net: nn.Module) -> None:
    net.load_state_dict(spectral_normed(found.nets[name], net))


def shape_options(options: dict, net: str) -> dict:
    """The options that shape the generator, or the discriminator. Raises UserError."""
    if not isinstance(options.get(net), str) or options[net] not in SHAPE[net]:
        raise UserError(f"{net} {shown(options.get(net))}: no architecture that this version knows")
    keys = (net, *SHAPE[net][options[net]])
    return {key: options[key] for key in keys if key in options}
