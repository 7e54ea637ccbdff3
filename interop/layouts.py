"""Files of generators, whoever wrote them, read into our own terms.

| layout | file or folder | translates |
| --- | --- | --- |
| a run of train.py | `latest.pth`, `epoch_0020.pth`, or the run's folder | both ways |
| published | `anime_to_person.pth`, `person_to_anime.pth` | as they say |
| | their folder, perhaps with `discriminators.pth` | both ways |
| anime_person_translation (2018) | `iter-200_sn_sn_sumiter200.pth` | both ways |
| pytorch-CycleGAN-and-pix2pix | a folder with `latest_net_G_A.pth`, `..._B.pth` | both ways |
| | one file with both, their names beginning with `netG_A.`, `netG_B.` | both ways |
| | one file, or a folder with `latest_net_G.pth` | as --direction says |

The original's A and netG_A are ours: anime, and anime to person. So is a folder of
pytorch-CycleGAN-and-pix2pix read, G_A as netG_A; where its A was the persons, name its files one by
one with --direction.

Files are read as tensors and plain values, so none can run code. Weights may be in half precision
and carry the prefixes of nn.DataParallel and torch.compile. What a file lacks or has too much is an
error that names the first of it.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from common.errors import UserError
from cyclegan_model import GENERATORS
from storage.checkpoint import load_checkpoint, read_or_suggest
from storage.files import read_tensors
from storage.validate import LOAD_ERRORS, as_checkpoint, misfit, short, shown

PUBLISHED = {"AtoB": "anime_to_person.pth", "BtoA": "person_to_anime.pth"}
PUBLISHED_FORMAT = 1
DISCRIMINATORS = "discriminators.pth"  # beside those two, for train.py --init_from
ORIGINAL = "of anime_person_translation, 2018"
# Its names of layers, and ours.
ORIGINAL_NAMES = {
    "up_sample.": "encoder.",
    **{f"l{i + 1}.0.module.": f"decoder.{3 * i}." for i in range(4)},
    **{
        f"up_attn{i}.{theirs}": f"attention_{size}.{ours}"
        for i, size in ((1, 16), (2, 32))
        for theirs, ours in (
            ("conv_f.", "query."),
            ("conv_g.", "key."),
            ("conv_h.", "value."),
            ("gamma", "gamma"),
        )
    },
    "last.": "head.",
}
WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")  # of nn.DataParallel and torch.compile


@dataclass
class Found:
    """What a file of generators holds, in our own terms.

    options          those of train.py that it records, a run all of them
    nets             float32 weights by net: netG_A (anime to person) and netG_B, without spectral
                     norm, averaged where they were; of a run also netD_A and netD_B; of a DTN's run
                     netF, netG and netD
    about            a few words for people
    data             fingerprints of the folders that it was trained on
    held_out         hashes of the images in them that it was not trained on, by folder
    encoder_options  what rebuilds a DTN's f
    """

    path: Path
    options: dict
    nets: dict[str, dict[str, Tensor]]
    about: str
    epoch: int | None = None
    steps: int | None = None
    data: dict = field(default_factory=dict)
    encoder_options: dict | None = None
    held_out: dict[str, list[str]] = field(default_factory=dict)


def read_generators(path: Path, direction: str | None = None) -> Found:
    """Read any of the layouts above onto the CPU. Raises UserError.

    direction: that of a single file of pytorch-CycleGAN-and-pix2pix, which does not record it.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path, direction)
    if not path.is_file():
        load_checkpoint(path)  # raises: says which runs there are
    state = read_or_suggest(path)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise UserError(f"{path}: holds no weights by name; use a file of generators")
    if "published" in state:
        return _published(path, state)
    if "options" in state:
        return _run(path, as_checkpoint(path, state))
    if any(key.split(".")[0] in GENERATORS.values() for key in unwrapped(state)):
        return _both(path, unwrapped(state))
    if any(WRAPPERS.sub("", key).startswith("model.") for key in state):
        if direction is None:
            raise UserError(
                f"{path}: a generator of pytorch-CycleGAN-and-pix2pix, which does not record its "
                "direction; give --direction AtoB (anime to person) or BtoA, or name a folder "
                "with latest_net_G_A.pth and latest_net_G_B.pth"
            )
        return _cyclegan(path, {GENERATORS[direction]: state})
    raise UserError(
        f"{path}: not a checkpoint that train.py wrote, nor generators of "
        "publish.py, anime_person_translation or pytorch-CycleGAN-and-pix2pix; its first "
        f"keys are {', '.join(short(key, 30) for key in list(state)[:3]) or 'none'}"
    )


def _folder(folder: Path, direction: str | None) -> Found:
    """A folder of published generators, of a run, or of pytorch-CycleGAN-and-pix2pix."""
    published = [folder / name for name in PUBLISHED.values() if (folder / name).is_file()]
    if published:
        found, *others = (read_generators(path) for path in published)
        for other in others:
            if other.options != found.options:
                raise UserError(
                    f"{folder}: {PUBLISHED['AtoB']} and {PUBLISHED['BtoA']} are of two "
                    "architectures; name one of them"
                )
            found.nets |= other.nets
        if (folder / DISCRIMINATORS).is_file() and len(found.nets) == 2:
            judges = read_generators(folder / DISCRIMINATORS)
            found.nets |= judges.nets
            found.options = judges.options | found.options
        found.path = folder
        return found
    theirs = {name: folder / f"latest_net_{name[3:]}.pth" for name in GENERATORS.values()}
    theirs = {name: path for name, path in theirs.items() if path.is_file()}
    if theirs:
        return _cyclegan(folder, {name: read_tensors(path) for name, path in theirs.items()})
    for name in ("latest.pth", "latest_net_G.pth"):
        if (folder / name).is_file():
            return read_generators(folder / name, direction)
    raise UserError(
        f"{folder}: no generators in this folder; looked for {', '.join(PUBLISHED.values())}, "
        "latest_net_G_A.pth, latest_net_G_B.pth, latest_net_G.pth and latest.pth"
    )


def _run(path: Path, state: dict) -> Found:
    """A checkpoint of train.py, with the discriminators."""
    nets = state["model"]["nets"]
    averaged = any(name.endswith("_ema") for name in nets)
    weights = {
        name: _floats(path, nets.get(f"{name}_ema", weights))
        for name, weights in nets.items()
        if not name.endswith("_ema")
    }
    try:
        for name in GENERATORS.values():
            _divide_out_spectral_norm(weights.get(name, {}))
    except LOAD_ERRORS as error:
        raise UserError(
            f"{path}: a generator's spectral norm lacks or mixes up {error}; use another checkpoint"
        ) from error
    about = f"epoch {state['epoch']}, {'averaged weights' if averaged else 'weights as trained'}"
    return Found(
        path,
        state["options"],
        weights,
        about,
        state["epoch"],
        state["model"]["steps"],
        state.get("data", {}),
        state["model"].get("encoder_options"),
        state.get("held_out", {}),
    )


def _divide_out_spectral_norm(weights: dict[str, Tensor]) -> None:
    """Turn the sagan generator's normed transposed convolutions into plain ones, in place."""
    suffix = ".parametrizations.weight.original"
    for layer in [key.removesuffix(suffix) for key in weights if key.endswith(suffix)]:
        weight = weights.pop(layer + suffix)  # (C_in, C_out, 4, 4)
        u, v = (weights.pop(f"{layer}.parametrizations.weight.0.{name}") for name in ("_u", "_v"))
        # torch takes the output channels for rows, also here where they come second.
        sigma = u @ (weight.transpose(0, 1).flatten(1) @ v)
        weights[f"{layer}.weight"] = weight / sigma


def _published(path: Path, state: dict) -> Found:
    """A file of publish.py: one generator, or both discriminators."""
    if type(state["published"]) is not int or state["published"] != PUBLISHED_FORMAT:
        raise UserError(
            f"{path}: published in format {shown(state['published'])}, but this "
            f"version reads {PUBLISHED_FORMAT}"
        )
    try:
        keys = ("generator", "ngf", "n_blocks", "attention", "image_size", "crop")
        if state["direction"] is None:
            keys = ("discriminator", "ndf", "attention", "spectral_norm", "image_size", "crop")
        options = {key: state["options"][key] for key in keys if key in state["options"]}
        epoch, steps = state["epoch"], state["steps"]
        if type(epoch) not in (int, type(None)) or type(steps) not in (int, type(None)):
            raise TypeError("an epoch and steps that are numbers")
        if state["direction"] is None:
            nets = {name: _floats(path, state["weights"][name]) for name in ("netD_A", "netD_B")}
        else:
            nets = {GENERATORS[state["direction"]]: _floats(path, state["weights"])}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: published, but without {error}; use another file") from error
    return Found(path, options, nets, "published", epoch, steps)


def _both(path: Path, state: dict) -> Found:
    """Both generators in one file: flat, netG_A.model.1.weight, or a dict of weights for each."""
    nets: dict[str, dict] = {name: {} for name in GENERATORS.values()}
    for key, value in state.items():
        net, _, layer = key.partition(".")
        if net in nets:
            nets[net] |= {layer: value} if layer else value if isinstance(value, dict) else {}
        elif net not in ("netD_A", "netD_B", "criterionGAN"):
            raise UserError(
                f"{path}: looks like both generators of a CycleGAN, but has {short(key)} too; "
                "use another file"
            )
    layers = [WRAPPERS.sub("", str(layer)) for weights in nets.values() for layer in weights]
    if any(layer.startswith("up_sample.") for layer in layers):
        return _original(path, nets)
    if layers and all(layer.startswith("model.") for layer in layers):
        return _cyclegan(path, {name: weights for name, weights in nets.items() if weights})
    raise UserError(
        f"{path}: holds netG_A or netG_B, but of no architecture that is known here; its first "
        f"layers are {', '.join(short(layer, 30) for layer in layers[:3]) or 'none'}"
    )


def _original(path: Path, nets: dict[str, dict]) -> Found:
    """A checkpoint of anime_person_translation (2018): generators through a 100-vector.

    Its domain A is anime too, and its images are in [-1, 1] too. Its spectral norm takes the first
    dimension for rows, and makes one power iteration from the stored u in every forward pass, in
    evaluation as well. Only with one GPU was the new u kept; a file's u gives its first pass.
    """
    for name, weights in nets.items():
        weights = _floats(path, weights)
        if weights.get("up_sample.0.weight", torch.empty(0)).dim() != 4:
            raise UserError(
                f"{path}: {name} has no up_sample.0.weight; of the generators of "
                "anime_person_translation only 'sn' is known"
            )
        nets[name] = {_our_name(key): value for key, value in weights.items()}
        for theirs, ours in ORIGINAL_NAMES.items():
            if not theirs.endswith("module."):
                continue
            try:
                weight, u, _ = (nets[name].pop(f"{ours}weight_{k}") for k in ("matrices", "u", "v"))
            except KeyError as error:
                key = error.args[0].replace(ours, theirs)
                raise UserError(f"{path}: {name} has no {key}; use another file") from error
            if weight.dim() != 4 or u.shape != weight.shape[:1]:
                raise UserError(f"{path}: {name}.{theirs}weight_u does not fit its weight_matrices")
            rows = weight.flatten(1)
            v = normalize(rows.T @ u, dim=0)
            u = normalize(rows @ v, dim=0)
            nets[name][f"{ours}weight"] = weight / (u @ (rows @ v))
    ngf = len(nets["netG_A"]["encoder.0.weight"])
    options = {"generator": "sagan", "ngf": ngf, "attention": True, "image_size": 64}
    return Found(path, options, nets, ORIGINAL)


def unwrapped(weights: dict[str, Any]) -> dict[str, Any]:
    """Names without what nn.DataParallel and torch.compile put before."""
    return {WRAPPERS.sub("", key): value for key, value in weights.items()}


def _our_name(key: str) -> str:
    """Our name of a layer of anime_person_translation; what it has not stays as it is."""
    for theirs, ours in ORIGINAL_NAMES.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def _cyclegan(path: Path, states: dict[str, object]) -> Found:
    """Resnet generators with instance norm of pytorch-CycleGAN-and-pix2pix.

    Old ones hold running statistics, which that code does not use either: it translates in
    training mode. With dropout, which is nothing in evaluation, a block's second convolution is
    number 6 instead of 5.
    """
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    nets = {
        name: {
            key.replace("conv_block.6.", "conv_block.5."): value
            for key, value in _floats(path, state).items()
            if not key.endswith(statistics)
        }
        for name, state in states.items()
    }
    weights = next(iter(nets.values()))
    if weights.get("model.1.weight", torch.empty(0)).dim() != 4:
        raise UserError(
            f"{path}: has no model.1.weight; of the generators of "
            "pytorch-CycleGAN-and-pix2pix only the resnet ones are known"
        )
    ngf = len(weights["model.1.weight"])
    n_blocks = len({key.split(".")[1] for key in weights if ".conv_block." in key})
    about = f"of pytorch-CycleGAN-and-pix2pix, {n_blocks} blocks"
    return Found(path, {"generator": "resnet", "ngf": ngf, "n_blocks": n_blocks}, nets, about)


def _floats(path: Path, weights: object) -> dict[str, Tensor]:
    """Weights in float32, their names unwrapped."""
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise UserError(f"{path}: holds no weights by name; use a file of generators")
    if reason := misfit(weights):
        raise UserError(f"{path}: {reason}; use another file of generators")
    return {key: value.float() for key, value in unwrapped(weights).items()}
