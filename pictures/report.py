"""report.json of a folder that prepare_data.py makes: what became of each file."""

import hashlib
import json
import os
from argparse import Namespace
from itertools import chain
from pathlib import Path
from typing import Any

from common.errors import UserError
from pictures.source import PictureSource
from storage.files import atomic_write

REPORT = "report.json"
# By file: why it gave no picture, the pictures that it gave, and what it held (its digest).
LISTS = ("left_out", "pictures", "contents")
NOT_OF_THE_RESULT = ("source", "output", "num_workers")  # of the options; source by its full path


def start_report(output: Path, source: PictureSource, opt: Namespace) -> dict:
    """The report of an earlier call with the same options, or a new one, saved.

    Raises UserError if the folder holds anything else, or was made in another way.
    """
    names = "\n".join(source.names).encode(errors="replace")
    options = {"source": str(source.path.absolute()), "source_files": digest(names)[:16]}
    options |= {key: value for key, value in vars(opt).items() if key not in NOT_OF_THE_RESULT}
    try:
        there = [name for name in os.listdir(output) if not name.endswith((".tmp", ".lock"))]
        before = json.loads((output / REPORT).read_bytes()) if there else None
        if there and not is_report(before):
            raise ValueError(f"its {REPORT} is damaged")
        if before and (before["pictures"] or len(there) > 1):  # not all may be in it yet
            for key, value in options.items():
                if before["options"].get(key) != value:
                    was = f"--{key} {before['options'].get(key)} and not {value}"
                    was = "other files in --source" if key == "source_files" else was
                    raise UserError(
                        f"--output {output}: was made with {was}; choose another "
                        "folder, or the same options to go on"
                    )
            return {key: before[key] for key in ("options", *LISTS)}
    except FileNotFoundError as error:
        if os.path.isdir(output):
            raise UserError(
                f"--output {output}: is not empty, and holds no {REPORT} of an earlier "
                "call to go on with; choose another folder"
            ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"--output {output}: cannot be used ({error}); choose another folder"
        ) from error
    report = {"options": options} | {key: {} for key in LISTS}
    save_report(output, report)
    return report


def is_report(report: Any) -> bool:
    """Whether that is what save_report wrote: files of names that lead nowhere else."""
    try:
        lists = [*report["pictures"].values(), *report["left_out"].values()]
        return (
            all(isinstance(report[key], dict) for key in ("options", *LISTS))
            and all(isinstance(x, list) for x in lists)
            and all(isinstance(x, str) for x in chain.from_iterable(lists))
            and all(Path(x).name == x for x in chain.from_iterable(report["pictures"].values()))
        )
    except (LookupError, TypeError, AttributeError):
        return False


def save_report(output: Path, report: dict) -> None:
    files = {key: dict(sorted(report[key].items())) for key in LISTS}
    with atomic_write(output / REPORT) as file:
        file.write(json.dumps({"finished": False} | report | files, indent=1).encode())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
