"""Checkpoints: one file with everything, plain types and tensors only, whole or absent.

A run lives in model_ckpt/<name>/: latest.pth, which --resume and test.py take, and epoch_0020.pth,
epoch_0040.pth ..., which are kept. A file is a dict: "format", "options" (all of them), "epoch" and
"batch" (where training goes on), "totals" (loss sums of the epoch so far), "data" (fingerprints of
the image folders), "held_out" (names of the images that the run never trains on, by folder),
"measured_on" (which images "best" was measured on), "model" (see TranslationModel.state_dict).
"""

import itertools
import math
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path

import archives
from errors import UserError
from files import DamagedFile, read_tensors, write_tensors

ROOT = Path("model_ckpt")
FORMAT = 1
RUN_FILE = re.compile(r"(latest|best|epoch_\d+)\.pth")
KEYS = {"format", "options", "epoch", "batch", "totals", "model"}


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint; the old file stays until the new one is complete. Raises UserError."""
    write_tensors(path, {"format": FORMAT, **state})


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint onto the CPU, without executing anything that it may carry.

    Raises UserError if the file is missing, damaged, not one of ours, or carries pickled code.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint file; {_runs_found()}")
    return as_checkpoint(path, read_or_point_beside(path))


def read_or_point_beside(path: Path) -> object:
    """files.read_tensors, whose error names the newest whole checkpoint beside a damaged one."""
    try:
        return read_tensors(path)
    except DamagedFile as error:
        beside = [p for p in Path(path).parent.glob("*.pth") if p.name != Path(path).name]
        for other in sorted(beside, key=lambda p: p.stat().st_mtime, reverse=True):
            if RUN_FILE.fullmatch(other.name) and archives.is_whole(other):
                raise UserError(
                    f"{path} is damaged ({error.reason}); {other.name} beside it is whole: name it "
                    f"with --ckpt, or copy it over {Path(path).name} to resume from there"
                ) from error
        raise


def as_checkpoint(path: Path, state: object) -> dict:
    """What was read from a file, if that is a checkpoint of ours. Raises UserError."""
    if not isinstance(state, dict) or not KEYS <= state.keys():
        raise UserError(f"{path}: a file of tensors, but not a checkpoint that train.py wrote")
    if type(state["format"]) is not int or state["format"] != FORMAT:
        raise UserError(f"{path}: format {shown(state['format'])}, but this version reads {FORMAT}")
    rules = {
        "options": isinstance(state["options"], dict) and all(map(_is_text, state["options"])),
        "epoch": _is_count(state["epoch"]),
        "batch": _is_count(state["batch"]),
        "totals": isinstance(state["totals"], dict)
        and all(map(_is_total, state["totals"].items())),
        "model": isinstance(state["model"], dict) and all(map(_is_text, state["model"])),
        "data": isinstance(state.get("data", {}), dict),
        "held_out": _are_names(state.get("held_out", {})),
        "best": state.get("best") is None or _is_best(state["best"]),
    }
    for key, kept in rules.items():
        if not kept:
            raise UserError(f"{path}: its {key} {shown(state[key])} cannot be; use another "
                            "checkpoint")  # fmt: skip
    return state


def shown(value: object) -> str:
    """Any value of a file in a few words, however large or deep it is."""
    return reprlib.repr(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_total(item: tuple) -> bool:
    name, total = item
    return (_is_text(name) and isinstance(total, list | tuple) and len(total) == 2
            and _is_number(total[0]) and _is_count(total[1]) and total[1] > 0)  # fmt: skip


def _are_names(held_out: object) -> bool:
    """Whether these are names of images by folder."""
    return isinstance(held_out, dict) and all(
        _is_text(key) and isinstance(names, list) and names and all(map(_is_text, names))
        for key, names in held_out.items()
    )


def _is_best(best: object) -> bool:
    # "swd": of the version before, which judged by it
    return isinstance(best, dict) and _is_count(best.get("epoch")) and _is_number(
        best.get("fd", best.get("swd"))
    )


def find_checkpoint(name: str | None, pattern: str = "*", model: str | None = None) -> Path:
    """The latest checkpoint of a run, or of the newest one whose name fits, and its --model.

    Raises UserError if there is none.
    """
    if name:
        path = ROOT / name / "latest.pth"
        if not path.is_file():
            raise UserError(f"--name {name}: there is no {path}; {_runs_found()}")
        return path
    paths = sorted(ROOT.glob(f"{pattern}/latest.pth"), key=lambda p: p.stat().st_mtime)
    fits = (p for p in reversed(paths)
            if model in (None, load_checkpoint(p)["options"].get("model", "cyclegan")))  # fmt: skip
    if path := next(fits, None):
        return path
    of, flag = (f" of --model {model}", f" --model {model}") if model else ("", "")
    raise UserError(f"no checkpoint {ROOT / pattern / 'latest.pth'}{of} here; train one first, for "
                    f"example with: python train.py{flag} --demo")  # fmt: skip


def free_names(name: str) -> Iterator[str]:
    """Those of `name`, name-2, name-3, ... that no run has yet."""
    for candidate in itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2))):
        if not (ROOT / candidate / "latest.pth").exists():
            yield candidate


def _runs_found() -> str:
    names = sorted(path.parent.name for path in ROOT.glob("*/latest.pth"))
    return f"runs in {ROOT.resolve()}: {', '.join(names) or 'none'}"
