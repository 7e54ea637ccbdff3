"""Files that are whole or absent: written to a temporary name beside the target, then renamed."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch

from common.errors import UserError
from storage import archives
from storage.locks import remove_strays_of
from storage.pickles import HoldsObjects

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's part of it, a file
LONGEST_NAME = 200  # bytes of a file name that get a prefix and a suffix while it is written


class DamagedFile(UserError):
    """A file of tensors that is not as it was written, so that another copy may help."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path}: not loaded, it is damaged or incomplete ({reason}); use another file"
        )
        self.reason = reason


class _Rehearsal(Exception):
    """Ends an atomic_write that was only to be tried."""


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends, and only if it ends well.

    durable: it also outlives a power cut from then on, for which the disk is waited for.
    Makes missing parent folders, and removes what earlier processes that were killed had begun.
    Raises UserError, with the old file intact, when the disk is full or the folder cannot be
    written.
    """
    path = Path(path)
    name = path.name
    if len(os.fsencode(name)) > LONGEST_NAME:  # with more around it no file system would take it
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_strays_of(path.with_name(name))
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
            advice = "free some space" if error.errno in FULL else "choose another place"
            raise UserError(
                f"{path}: cannot be written ({error.strerror or error}); {advice}. "
                "What was saved there before is untouched"
            ) from error
        raise


def refuse_unwritable(path: Path) -> None:
    """Raise UserError if `path` cannot be written; to be asked before long work. Leaves no file."""
    if Path(path).is_dir():
        raise UserError(f"{path}: cannot be written, it is a folder; name a file in it")
    with suppress(_Rehearsal), atomic_write(path):
        raise _Rehearsal  # so that nothing is renamed


def write_tensors(path: Path, state: dict) -> None:
    """Write tensors and plain values with a digest, whole or not at all. Raises UserError."""
    with atomic_write(path) as file:
        digesting = archives.Digesting(file)
        try:
            torch.save(state, digesting)  # type: ignore[arg-type]  # it needs write and flush
        except RuntimeError as error:
            # When the disk is full, torch fails once more while closing its archive.
            raise error.__context__ or error from None
        digesting.append_digest()


def read_tensors(path: Path) -> object:
    """Read a file of tensors and plain values onto the CPU, without executing what it may carry.

    Raises UserError if the file is missing or carries pickled code, DamagedFile if it is damaged.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; check the path")
    try:
        with open(path, "rb") as file:
            archives.check(file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except HoldsObjects as error:
        raise UserError(
            f"{path}: not loaded, it holds Python objects beside tensors and plain values, which "
            f"could run code ({error}); use another file"
        ) from error
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); change its mode") from error
    except Exception as error:  # torch and pickle have kinds of their own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedFile(path, reason) from error
