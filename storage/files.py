"""Files that are whole or absent, and the files of tensors among them.

Written to a temporary name beside the target, then renamed.
"""

import errno
import hashlib
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch

from common.errors import UserError, say
from storage.locks import remove_strays_of
from storage.validate import short

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's part of it, a file
LONGEST_NAME = 200  # bytes of a file name that get a prefix and a suffix while it is written
MOST_PICKLE_BYTES = 8 << 20  # of names and plain values, usually 0.1 MB; in memory 100 times that
MOST_VIEWS = 4  # times a file's size: what its tensors may hold in all, sharing numbers
HEAD_BYTES = 512
OLD_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # what files of before torch 1.6 begin with
AGAIN = "save the weights with torch.save(net.state_dict(), FILE)"
# Other files that are taken for one of tensors: how they begin, in small letters; the way out.
KINDS: dict[str, tuple[tuple[bytes, ...], str]] = {
    "a pointer of Git LFS, not the file itself": (
        (b"version https://git-lfs",),
        "run git lfs pull",
    ),
    "a web page, not the file itself": ((b"<!doctype", b"<html", b"<?xml"), "download it again"),
    "a compressed archive": (
        (b"\x1f\x8b", b"\xfd7zxz", b"7z\xbc\xaf", b"bzh", b"rar!", b"\x28\xb5\x2f\xfd"),
        "unpack it first",
    ),
    "HDF5, as Keras writes it": ((b"\x89hdf",), AGAIN),
    "a NumPy array": ((b"\x93numpy",), AGAIN),
    "a plain pickle, which could run code": ((b"\x80",), AGAIN),
    "an ONNX file": (
        tuple(bytes((8, version, 18)) for version in range(3, 30)),
        "name the PyTorch file that it was made from",
    ),
}


class DamagedFile(UserError):
    """A file of tensors that is not as it was written, so that another copy may help."""

    def __init__(self, path: Path, reason: object) -> None:
        self.reason = short(str(reason) or type(reason).__name__, 100)
        super().__init__(
            f"{path}: not loaded, it is damaged or incomplete ({self.reason}); use another file"
        )


class _Foreign(UserError):
    """A file of a kind that is not read here."""

    def __init__(self, path: Path, kind: str, way_out: str) -> None:
        super().__init__(f"{path}: not loaded, it is {kind}; {way_out}")


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


def refuse_overwriting(path: Path, allowed: bool) -> None:
    """Raise UserError if what --output names is there already, unless --overwrite was given."""
    if Path(path).exists() and not (allowed or Path(path).is_dir()):  # a folder has its own line
        raise UserError(
            f"--output {path}: exists already; name another file, or replace it with --overwrite"
        )


def write_tensors(path: Path, state: dict) -> None:
    """Write tensors and plain values, whole or not at all. Raises UserError."""
    with atomic_write(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # When the disk is full, torch fails once more while closing its archive.
            raise error.__context__ or error from None


# ---- reading -----------------------------------------------------------------------------------


def read_tensors(path: Path) -> object:
    """Read a file of tensors and plain values onto the CPU; no code in it is ever run.

    What torch.save writes, also before torch 1.6, and safetensors where that package is installed.
    Raises UserError if the file is missing or of another kind, which is named with the way out;
    DamagedFile if it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    try:
        with open(path, "rb") as file:
            head, size = file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size
            file.seek(0)
            if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < size:
                return _load_safetensors(path, file)
            if head.startswith(b"PK\3\4"):
                _check_archive(path, file, size)
            elif OLD_MAGIC not in head:
                _refuse_foreign(path, head)
            file.seek(0)
            state = _load(path, file)
        _refuse_inflated(state, size)
        return state
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); change its mode") from error
    except Exception as error:  # torch, zipfile and safetensors have kinds of their own
        raise DamagedFile(path, error) from error


def is_whole(path: Path) -> bool:
    """Whether read_tensors reads a file."""
    try:
        read_tensors(path)
        return True
    except UserError:
        return False


def _check_archive(path: Path, file: BinaryIO, size: int) -> None:
    """Raise unless a zip archive is torch.save's, whole, and no larger in memory than here."""
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        records = {info.filename.partition("/")[2]: info for info in infos}
        if "constants.pkl" in records:
            raise _Foreign(
                path,
                "a TorchScript module, which is code",
                "keep its weights alone: torch.save(torch.jit.load(FILE).state_dict(), NEW)",
            )
        if "data.pkl" not in records:
            first = infos[0].filename if infos else "nothing"
            if first.endswith(".npy"):
                raise _Foreign(path, "NumPy's arrays", AGAIN)
            way = "unpack it first" if first.endswith((".pth", ".pt")) else AGAIN
            raise _Foreign(path, f"a zip archive of other things ({short(first)})", way)
        if sum(info.file_size for info in infos) > size:
            raise _Foreign(path, "compressed, as torch.save makes none", AGAIN)
        if (pickled := records["data.pkl"].file_size) > MOST_PICKLE_BYTES:
            raise _Foreign(path, f"{pickled >> 20} MB of names and plain values", AGAIN)
        if not any(info.CRC for info in infos):  # torch can be told to write none
            say(f"{path}: has no checksums; it is read, but damage to it would not be noticed")
        elif broken := archive.testzip():
            raise DamagedFile(path, f"the checksum of {broken} is wrong")


def _load(path: Path, file: BinaryIO) -> object:
    """What torch.load makes of a file of its own without running code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        protocol, old = _protocol(file)
        if name := re.search(r"GLOBAL ([\w.]+)", str(error)):
            held = f"Python objects ({short(name[1])}) beside tensors, which could run code"
        elif protocol != 2:
            raise _Foreign(
                path,
                f"in pickle protocol {protocol}, which torch cannot read without running code",
                "if you trust its author, save it again: "
                "torch.save(torch.load(FILE, weights_only=False), NEW)",
            ) from error
        elif old:
            raise  # it has no checksum, and this looks like damage
        else:
            held = "more than tensors and plain values, which could run code"
        way = "have its author save the weights alone: torch.save(net.state_dict(), FILE)"
        raise _Foreign(path, held, way) from error


def _protocol(file: BinaryIO) -> tuple[int, bool]:
    """The pickle protocol that a file says to be in, and whether it is of before torch 1.6."""
    file.seek(0)
    start, old = file.read(2), True
    if start == b"PK":
        old = False
        with zipfile.ZipFile(file) as archive:
            places = [
                i.header_offset for i in archive.infolist() if i.filename.endswith("data.pkl")
            ]
        file.seek(places[0] + 26)  # not by zipfile, which would verify a checksum
        file.seek(sum(struct.unpack("<2H", file.read(4))), 1)  # over a name and an extra field
        start = file.read(2)
    return (start[1] if start[:1] == b"\x80" else 0), old


def _load_safetensors(path: Path, file: BinaryIO) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load
    except ImportError as error:
        way = "install the package that reads it: pip install safetensors"
        raise _Foreign(path, "of the kind safetensors", way) from error
    return load(file.read())


def _refuse_foreign(path: Path, head: bytes) -> None:
    """Raise what a file is that begins like none of tensors."""
    for kind, (starts, way) in KINDS.items():
        if head.lstrip().lower().startswith(starts):
            raise _Foreign(path, kind, way)
    if head[257:262] == b"ustar":
        raise _Foreign(path, "a tar archive", "unpack it first, or " + AGAIN)
    raise DamagedFile(path, "it does not start as files of tensors do" if head else "it is empty")


def _refuse_inflated(state: object, size: int) -> None:
    """Raise ValueError where plain tensors claim more numbers than their file has bytes for.

    A few bytes can ask for as large a tensor as one likes, since views repeat numbers; and old
    versions of torch read a storage as long as it is said to be.
    """
    claimed, storages = 0, {}
    todo, seen = [state], set()
    while todo:
        value = todo.pop()
        if isinstance(value, torch.Tensor):
            if value.layout is not torch.strided or value.device.type != "cpu":
                raise ValueError("a tensor in it is not a plain one")
            claimed += value.numel() * value.element_size()
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            todo += value.values() if isinstance(value, dict) else value
    if claimed > MOST_VIEWS * size or sum(storages.values()) > size:
        raise ValueError("its tensors claim more numbers than it holds")
