"""Checkpoints: one file with everything, plain types and tensors only, whole or absent.

A run lives in model_ckpt/<name>/: latest.pth, which --resume and test.py take, and epoch_0020.pth,
epoch_0040.pth ..., which are kept. A file is a dict: "format", "options" (all of them), "asked"
(arguments.RESOLVED, as the run was asked for them), "epoch" and "batch" (where training goes on),
"totals" (loss sums of the epoch so far), "data" (fingerprints of the image folders), "held_out"
(hashes of the images that the run never trains on, by folder), "measured_on" (which images and
features "best" was measured with), "model" (see TranslationModel.state_dict).
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from storage.files import DamagedFile, is_whole, read_tensors, write_tensors
from storage.validate import FORMAT, as_checkpoint

ROOT, IMAGES = Path("model_ckpt"), Path("save_image")
RUN_FILE = re.compile(r"(latest|best|epoch_\d+)\.pth")


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint; the old file stays until the new one is complete. Raises UserError."""
    write_tensors(path, {"format": FORMAT, **state})


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint onto the CPU, without executing anything that it may carry.

    Raises UserError if the file is missing, damaged, not one of ours, or carries pickled code.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint file; {_runs_found()}")
    return as_checkpoint(path, read_or_suggest(path))


def read_or_suggest(path: Path) -> object:
    """files.read_tensors, whose error names the newest whole checkpoint beside a damaged one."""
    try:
        return read_tensors(path)
    except DamagedFile as error:
        beside = [p for p in Path(path).parent.glob("*.pth") if p.name != Path(path).name]
        for other in sorted(beside, key=lambda p: p.stat().st_mtime, reverse=True):
            if RUN_FILE.fullmatch(other.name) and is_whole(other):
                raise UserError(
                    f"{path} is damaged ({error.reason}); {other.name} beside it is whole: name it "
                    f"with --ckpt, or copy it over {Path(path).name} to resume from there"
                ) from error
        raise


def find_checkpoint(name: str | None, pattern: str = "*", model: str | None = None) -> Path:
    """The latest.pth of a run or, without a name, of the newest that fits `pattern` and `model`.

    Raises UserError if there is none.
    """
    if name:
        path = ROOT / name / "latest.pth"
        if not path.is_file():
            raise UserError(f"--name {name}: there is no {path}; {_runs_found()}")
        return path
    paths = sorted(ROOT.glob(f"{pattern}/latest.pth"), key=lambda p: p.stat().st_mtime)
    fits = (
        p
        for p in reversed(paths)
        if model in (None, load_checkpoint(p)["options"].get("model", "cyclegan"))
    )
    if newest := next(fits, None):
        return newest
    of, flag = (f" of --model {model}", f" --model {model}") if model else ("", "")
    raise UserError(
        f"no checkpoint {ROOT / pattern / 'latest.pth'}{of} here; train one first, for "
        f"example with: python train.py{flag} --demo"
    )


def free_names(name: str) -> Iterator[str]:
    """Those of `name`, name-2, name-3, ... that no run has yet."""
    for candidate in itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2))):
        if not sign_of_run(candidate):
            yield candidate


def sign_of_run(name: str) -> Path | None:
    """A file that a run of this name has left, if there is any; its latest.pth may be lost."""
    folders = (folder / name for folder in (ROOT, IMAGES) if (folder / name).is_dir())
    found = (path for folder in folders for path in sorted(folder.iterdir()))
    return next((path for path in found if not path.name.startswith(".")), None)


def _runs_found() -> str:
    names = sorted(path.parent.name for path in ROOT.glob("*/latest.pth"))
    return f"runs in {ROOT.resolve()}: {', '.join(names) or 'none'}"
