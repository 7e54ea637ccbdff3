"""Checkpoints: one file with everything, plain types and tensors only, whole or absent.

A run lives in model_ckpt/<name>/: latest.pth, which --resume and test.py take, and epoch_0020.pth,
epoch_0040.pth ..., which are kept. A file is a dict: "format", "options" (all of them), "epoch" and
"batch" (where training goes on), "totals" (loss sums of the epoch so far), "data" (fingerprints of
the image folders), "model" (see TranslationModel.state_dict).
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

from errors import UserError
from files import read_tensors, write_tensors

ROOT = Path("model_ckpt")
FORMAT = 1
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
    return as_checkpoint(path, read_tensors(path))


def as_checkpoint(path: Path, state: object) -> dict:
    """What was read from a file, if that is a checkpoint of ours. Raises UserError."""
    if not isinstance(state, dict) or not KEYS <= state.keys():
        raise UserError(f"{path}: a file of tensors, but not a checkpoint that train.py wrote")
    if state["format"] != FORMAT:
        raise UserError(f"{path}: format {state['format']}, but this version reads {FORMAT}")
    return state


def find_checkpoint(name: str | None, pattern: str = "*") -> Path:
    """The latest checkpoint of a run, or of the newest run whose name fits. Raises UserError."""
    if name:
        path = ROOT / name / "latest.pth"
        if not path.is_file():
            raise UserError(f"--name {name}: there is no {path}; {_runs_found()}")
        return path
    paths = sorted(ROOT.glob(f"{pattern}/latest.pth"), key=lambda p: p.stat().st_mtime)
    if not paths:
        raise UserError(
            f"no checkpoint {ROOT / pattern / 'latest.pth'} here; train one first, for example "
            "with: python train.py --demo"
        )
    return paths[-1]


def free_names(name: str) -> Iterator[str]:
    """Those of `name`, name-2, name-3, ... that no run has yet."""
    for candidate in itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2))):
        if not (ROOT / candidate / "latest.pth").exists():
            yield candidate


def _runs_found() -> str:
    names = sorted(path.parent.name for path in ROOT.glob("*/latest.pth"))
    return f"runs in {ROOT.resolve()}: {', '.join(names) or 'none'}"
