"""What a file may hold: every check of a checkpoint's contents, options and weights."""

import argparse
import math
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

from common.errors import UserError

if TYPE_CHECKING:
    from translation_model import TranslationModel

FORMAT = 1  # of checkpoints
KEYS = {"format", "options", "epoch", "batch", "totals", "model"}
# What Python and torch raise where options or weights of a damaged or foreign file do not fit.
LOAD_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def unfit_weight(weights: dict[str, Tensor]) -> str | None:
    """The first of the weights that no net can have, and why; None if all are finite floats."""
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            return f"{key} is no tensor"
        if not value.is_floating_point() and not key.endswith("num_batches_tracked"):
            return f"{key} is of {value.dtype}"
        if not value.isfinite().all():
            return f"{key} is not finite"
    return None


def check_options(parser: argparse.ArgumentParser, options: dict, source: object) -> None:
    """Raise UserError unless each option, read from a source, could have been given to `parser`."""
    for action in parser._actions:
        value = options.get(action.dest)
        if value is None:
            continue
        try:
            if action.dest == "gpu_ids":
                known = isinstance(value, list) and all(type(i) is int and i >= 0 for i in value)
            elif action.nargs == 0:  # a flag
                known = type(value) is bool
            elif action.choices or not callable(action.type):
                known = type(value) is str and "\0" not in value
                known = known and value in (action.choices or (value,))
            else:
                known = type(value) in (int, float, str) and action.type(str(value)) == value
        except (argparse.ArgumentTypeError, ValueError):
            known = False
        if not known:
            raise UserError(
                f"{source}: its option {action.dest} cannot be {reprlib.repr(value)}; "
                "use another file"
            )


def as_checkpoint(path: Path, state: object) -> dict:
    """What was read from a file, if that is a checkpoint of ours. Raises UserError."""
    if not isinstance(state, dict) or not KEYS <= state.keys():
        raise UserError(f"{path}: a file of tensors, but not a checkpoint that train.py wrote")
    if type(state["format"]) is not int or state["format"] != FORMAT:
        raise UserError(f"{path}: format {shown(state['format'])}, but this version reads {FORMAT}")
    model = state["model"] if _is_by_name(state["model"]) else {}
    rules = {
        "options": _is_by_name(state["options"]),
        "epoch": _is_count(state["epoch"]),
        "batch": _is_count(state["batch"]),
        "totals": isinstance(state["totals"], dict)
        and all(map(_is_total, state["totals"].items())),
        "model": _is_by_name(state["model"]),
        "nets": _are_nets(model.get("nets")),
        "steps": _is_count(model.get("steps")),
        "encoder_options": isinstance(model.get("encoder_options"), dict | None),
        "data": isinstance(state.get("data", {}), dict),
        "held_out": _are_names(state.get("held_out", {})),
        "asked": _is_by_name(state.get("asked", {})),
        "best": state.get("best") is None or _is_best(state["best"]),
    }
    for key, kept in rules.items():
        if not kept:
            value = (model | state).get(key)
            raise UserError(f"{path}: its {key} {shown(value)} cannot be; use another checkpoint")
    return state


def refuse_misfit(path: Path, state: dict, model: "TranslationModel") -> None:
    """Raise UserError unless a model can take up a state that was read from a file.

    model: that of the file's options. The state must have its keys, shapes and types, and finite
    numbers; but Adam may have no moments yet, and a pool any number of images.
    """
    try:
        if state["nets"].keys() != model.nets.keys():
            raise ValueError(f"its nets are {shown(list(state['nets']))}")
        for name, net in model.nets.items():
            _refuse_unlike(name, state["nets"][name], net.state_dict())
        for name in ("optimizer_G", "optimizer_D"):
            weights = dict(enumerate(getattr(model, name).param_groups[0]["params"]))
            group = state[name]["param_groups"][0]
            if len(group["params"]) != len(weights):
                raise ValueError(f"{name} is of other nets")
            if not _is_number(group["lr"]) or group["lr"] < 0:
                raise ValueError(f"{name} has the learning rate {shown(group['lr'])}")
            for number, found in state[name]["state"].items():
                own = dict.fromkeys(("exp_avg", "exp_avg_sq"), weights[number])
                _refuse_unlike(f"{name}.{number}", found, {"step": torch.zeros(()), **own})
        for name in ("pool_A", "pool_B") if hasattr(model, "pool_A") else ():
            if count := state[name].shape[0]:
                shape = count, 3, model.opt.image_size, model.opt.image_size
                own = {"images": torch.empty(shape, device="meta")}
                _refuse_unlike(name, {"images": state[name]}, own)
        torch.Generator().set_state(state["generator"])
    except LOAD_ERRORS as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: does not fit its own options ({reason})") from error


def _refuse_unlike(name: str, found: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Raise ValueError unless `found` is finite and has the keys, shapes and types of `own`."""
    if reason := unfit_weight(found):
        raise ValueError(f"{name}: {reason}")
    if found.keys() != own.keys():
        raise ValueError(
            f"{name} lacks or has too much: {shown(sorted(map(str, found.keys() ^ own.keys())))}"
        )
    for key, tensor in own.items():
        if (found[key].dtype, found[key].shape) != (tensor.dtype, tensor.shape):
            raise ValueError(
                f"{name}: {key} is {found[key].dtype} {list(found[key].shape)}, and the model's is "
                f"{tensor.dtype} {list(tensor.shape)}"
            )


def shown(value: object) -> str:
    """Any value of a file in a few words, however large or deep it is."""
    return reprlib.repr(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_by_name(value: object) -> TypeGuard[dict]:
    return isinstance(value, dict) and all(map(_is_text, value))


def _are_nets(nets: object) -> bool:
    """Whether these are dicts of tensors, by net."""
    return _is_by_name(nets) and all(
        _is_by_name(weights) and all(isinstance(weight, Tensor) for weight in weights.values())
        for weights in nets.values()
    )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_number(value: object) -> bool:
    return (type(value) is int or type(value) is float) and math.isfinite(value)


def _is_total(item: tuple) -> bool:
    name, total = item
    return (
        _is_text(name)
        and isinstance(total, list | tuple)
        and len(total) == 2
        and _is_number(total[0])
        and _is_count(total[1])
        and total[1] > 0
    )


def _are_names(held_out: object) -> bool:
    """Whether these are names of images by folder."""
    return isinstance(held_out, dict) and all(
        _is_text(key) and isinstance(names, list) and names and all(map(_is_text, names))
        for key, names in held_out.items()
    )


def _is_best(best: object) -> bool:
    # "swd": of the version before, which judged by it
    return (
        isinstance(best, dict)
        and _is_count(best.get("epoch"))
        and _is_number(best.get("fd", best.get("swd")))
    )
