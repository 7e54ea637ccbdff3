"""Files that are whole or absent: written to a temporary name beside the target, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch

from errors import UserError


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends, and only if it ends well.

    durable: it also outlives a power cut from then on, for which the disk is waited for.
    Makes missing parent folders. Raises UserError, with the old file intact, when the disk is full
    or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise UserError(
                f"{path}: cannot be written ({error.strerror or error}); free some space or "
                "choose another folder. What was saved there before is untouched"
            ) from error
        raise


def write_tensors(path: Path, state: dict) -> None:
    """Write tensors and plain values, whole or not at all. Raises UserError."""
    with atomic_write(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # When the disk is full, torch fails once more while closing its archive.
            raise error.__context__ or error from None


def read_tensors(path: Path) -> object:
    """Read a file of tensors and plain values onto the CPU, without executing what it may carry.

    Raises UserError if the file is missing, damaged, or carries pickled code.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; check the path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle each have kinds of their own
        if "weights_only" in str(error) or "Weights only" in str(error):
            why = "it holds Python objects beside tensors and plain values, which could run code"
        else:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            why = f"it is damaged or incomplete ({reason})"
        raise UserError(f"{path}: not loaded, {why}; use another file") from error
