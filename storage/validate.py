"""What a file may hold: every check of a checkpoint's contents, options and weights."""

import argparse
import reprlib
from pathlib import Path

from torch import Tensor

from common.errors import UserError, one_line

FORMAT = 1  # of checkpoints
# What a checkpoint holds, and its model.
TYPES = {"format": int, "options": dict, "epoch": int, "batch": int, "totals": dict, "model": dict}
MODEL_TYPES = {"asked": dict, "nets": dict, "steps": int}  # the first is new
# What Python and torch raise where options or weights of a damaged or foreign file do not fit.
LOAD_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def misfit(found: dict, own: dict[str, Tensor] | None = None) -> str | None:
    """Why weights from a file are not those of a net, in a few words; None if they are.

    own: the net's; None if it is not known. They must be finite, and floats where the net's are;
    half precision is taken.
    """
    if own is not None and found.keys() != own.keys():
        missing, more = ([*a.keys() - b.keys()] for a, b in ((own, found), (found, own)))
        parts = [
            f"{what} {short(min(keys, key=str))}" + f" and {len(keys) - 1} more" * (len(keys) > 1)
            for what, keys in (("lacks", missing), ("has no place for", more))
            if keys
        ]
        return " and ".join(parts)
    for key, value in found.items():
        if not isinstance(value, Tensor):
            return f"{short(key)} is no tensor"
        if own is not None and value.shape != own[key].shape:
            size, wanted = (_size(tensor) for tensor in (value, own[key]))
            return f"{short(key)} is {size}, and the net's {wanted}"
        # Batch norm counts in whole numbers.
        whole = (
            key.endswith("num_batches_tracked") if own is None else not own[key].is_floating_point()
        )
        if not (value.is_floating_point() or whole):
            return f"{short(key)} is of {value.dtype}"
        if not value.isfinite().all():
            return f"{short(key)} is not finite"
    return None


def _size(tensor: Tensor) -> str:
    return short("x".join(map(str, tensor.shape)) or "one number", 40)


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
    if not isinstance(state, dict) or not TYPES.keys() <= state.keys():
        raise UserError(f"{path}: a file of tensors, but not a checkpoint that train.py wrote")
    if type(state["format"]) is not int or state["format"] != FORMAT:
        raise UserError(f"{path}: format {shown(state['format'])}, but this version reads {FORMAT}")
    model = state["model"] if isinstance(state["model"], dict) else {}
    parts = {"asked": {}, **state, **model}
    for key, kind in {**TYPES, **MODEL_TYPES}.items():
        if not isinstance(parts.get(key), kind):
            raise UserError(
                f"{path}: its {key} {shown(parts.get(key))} cannot be; use another file"
            )
    nets = state["model"]["nets"].items()
    if not all(isinstance(net, str) and isinstance(weights, dict) for net, weights in nets):
        raise UserError(f"{path}: its nets are no weights by name; use another file")
    return state


def shown(value: object) -> str:
    """Any value of a file in a few words, however large or deep it is."""
    return reprlib.repr(value)


def short(text: object, most: int = 60) -> str:
    """A key or a reason of a file on one line of at most so many characters, cut in the middle."""
    line = one_line(" ".join(text.split())) if isinstance(text, str) else ""
    line = line or shown(text)
    half = most // 2 - 2
    return line if len(line) <= most else f"{line[:half]}...{line[-half:]}"
