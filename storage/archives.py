"""What a file of tensors may look like, checked before torch reads it.

torch trusts sizes that a file declares: it reads beyond a record, makes a storage as large as a
tensor claims, and verifies no checksum. Here a file is read once as bytes, none of which is run:
the zip archives that torch writes, and what it wrote before 1.6. Those of ours end in a SHA-256 of
all the rest (append_digest); of others the archive's own CRC-32 is verified, and files from before
1.6 have nothing that could be.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from storage.pickles import MOST_PICKLE_BYTES, Damaged, Pickle, read_operations

DIGEST = b"sha256="  # and 64 digits: the archive's comment, which torch passes over
COMMENT_BYTES = len(DIGEST) + 64
LEGACY_START = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # of torch before 1.6
# What is made of these takes far more memory than they do: below 64 MB with all at their most.
MOST_DIRECTORY_BYTES = 1 << 20  # each record is kept with its name; usual are 0.2 MB
CHUNK = 1 << 20


class _Record(NamedTuple):
    start: int
    size: int
    crc: int


def check(file: BinaryIO) -> None:
    """Raise Damaged or HoldsObjects unless torch can load a file, opened for reading, safely."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(len(LEGACY_START))
    if head == LEGACY_START:
        _check_legacy(file, size)
    elif head.startswith(b"PK\3\4"):
        _check_archive(file, size)
    else:
        raise Damaged("it does not start as files of tensors do" if head else "it is empty")


def is_whole(path: Path) -> bool:
    """Whether `check` passes a file."""
    try:
        with open(path, "rb") as file:
            check(file)
        return True
    except (OSError, ValueError):
        return False


class Digesting:
    """Takes what torch.save writes to a file, for append_digest."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def append_digest(self) -> None:
        """Make the digest of all that was written the comment of the zip archive."""
        self.file.seek(-2, 1)  # over the length of the comment that it has not yet
        digest = self.sha.hexdigest().encode()
        self.file.write(struct.pack("<H", COMMENT_BYTES) + DIGEST + digest)


# ---- zip archives ------------------------------------------------------------------------------


def _check_archive(file: BinaryIO, size: int) -> None:
    # One reading of an archive only: its end at the very end, the directory right before it.
    end, digest = _find_end(file, size)
    records = _directory(file, end)
    if digest:
        sha = hashlib.sha256()
        for chunk in _chunks(file, 0, size - COMMENT_BYTES - 2):
            sha.update(chunk)
        sha.update(b"\0\0")
        if sha.hexdigest().encode() != digest:
            raise Damaged("its bytes are not those that were written")
    else:
        for name, record in records.items():
            crc = 0
            for chunk in _chunks(file, record.start, record.size):
                crc = zlib.crc32(chunk, crc)
            if crc != record.crc:
                raise Damaged(f"the checksum of {name} is wrong")
    root = next(iter(records), "").partition("/")[0]
    if not all(name.startswith(f"{root}/") for name in records):
        raise Damaged("its records are in several folders")
    sizes = {name.removeprefix(f"{root}/data/"): record.size for name, record in records.items()}
    pickle = records.get(f"{root}/data.pkl")
    if pickle is None:
        raise Damaged("it holds no data.pkl")
    if pickle.size > MOST_PICKLE_BYTES:
        raise Damaged(f"its names and plain values fill {pickle.size / 2**20:.0f} MB")
    content = read_operations(b"".join(_chunks(file, *pickle[:2])))
    for storage in Pickle(content, size).storages.values():
        # More would be read from beyond the record.
        if sizes.get(storage.key) != storage.size * storage.item:
            raise Damaged(f"its record data/{storage.key} is not of the size that was declared")


def _find_end(file: BinaryIO, size: int) -> tuple[int, bytes]:
    """Where the end record starts, and the digest behind it, b"" in files of others."""
    for comment in (COMMENT_BYTES, 0):
        end = size - 22 - comment
        if end < 0:
            continue
        file.seek(end)
        tail = file.read(22 + comment)
        if tail[:4] == b"PK\5\6" and tail[20:22] == struct.pack("<H", comment):
            if comment and tail[22 : 22 + len(DIGEST)] != DIGEST:
                break
            return end, tail[22 + len(DIGEST) :]
    raise Damaged("its end is missing or not as it was written")


def _directory(file: BinaryIO, end: int) -> dict[str, _Record]:
    """The records by name; all stored plainly, one behind the other."""
    disk, first, here, count, length, offset = struct.unpack("<4H2L", _at(file, end + 4, 16))
    if end >= 76 and _at(file, end - 20, 4) == b"PK\6\7":  # the 64-bit form has the last word
        disk, start, _ = struct.unpack("<LQL", _at(file, end - 16, 16))
        end -= 76
        if start != end or _at(file, end, 4) != b"PK\6\6":
            raise Damaged("its directory is not where it should be")
        fields = struct.unpack("<QHHLLQQQQ", _at(file, end + 4, 52))
        disk, first, here, count, length, offset = fields[3:]
    if disk or first or here != count or offset + length != end:
        raise Damaged("its directory is not as torch writes it")
    if length > MOST_DIRECTORY_BYTES:
        raise Damaged("its records are too many")
    directory, place = _at(file, offset, length), 0
    records: dict[str, _Record] = {}
    seen, behind = set(), 0  # the end of the record before
    for _ in range(count):
        if directory[place : place + 4] != b"PK\1\2" or place + 46 > length:
            raise Damaged("its directory is broken")
        fields = struct.unpack_from("<6H3L5H2L", directory, place + 4)
        flags, method, crc, packed, plain, names, extras, comments = (*fields[2:4], *fields[6:12])
        header = fields[15]
        place += 46
        raw = directory[place : place + names]
        extra = directory[place + names : place + names + extras]
        place += names + extras + comments
        if 0xFFFFFFFF in (packed, plain, header):
            packed, plain, header = _wide(extra, packed, plain, header)
        name = raw.decode("utf-8", "replace")
        if flags & 0x2041 or method or packed != plain:
            raise Damaged(f"its record {name} is encrypted or compressed, as torch writes none")
        local = _at(file, header, 30)
        _, _, _, packing, *_, local_names, local_extras = struct.unpack("<4s5H3L2H", local)
        start = header + 30 + local_names + local_extras
        if (
            local[:4] != b"PK\3\4"
            or packing
            or _at(file, header + 30, local_names) != raw
            or header < behind
            or start + plain > offset
        ):
            raise Damaged(f"its record {name} is not where the directory says")
        if name.lower() in seen:  # as torch compares them
            raise Damaged(f"it holds {name} twice")
        seen.add(name.lower())
        behind = start + plain
        records[name] = _Record(start, plain, crc)
    if place != length:
        raise Damaged("its directory is broken")
    return records


def _wide(extra: bytes, *numbers: int) -> Iterator[int]:
    """Sizes and places beyond 4 GB, which are in an extra field."""
    kind, length = struct.unpack_from("<HH", extra) if len(extra) >= 4 else (0, 0)
    wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, 4) if length < len(extra) else ())
    if kind != 1 or length // 8 < numbers.count(0xFFFFFFFF):
        raise Damaged("its directory lacks a size")
    return (next(wide) if number == 0xFFFFFFFF else number for number in numbers)


def _at(file: BinaryIO, place: int, length: int) -> bytes:
    file.seek(place)
    data = file.read(length)
    if len(data) != length:
        raise Damaged("it ends too early")
    return data


def _chunks(file: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    file.seek(start)
    while length:
        chunk = file.read(min(CHUNK, length))
        if not chunk:
            raise Damaged("it ends too early")
        length -= len(chunk)
        yield chunk


# ---- torch before 1.6 --------------------------------------------------------------------------


def _check_legacy(file: BinaryIO, size: int) -> None:
    """Five pickles, of which the fourth is the content and the fifth its storages' order."""
    file.seek(0)
    operations = read_operations(*[file] * 5)  # the bounds are those of all together
    pickles = [Pickle(operations, size) for _ in range(5)]
    storages, keys = pickles[3].storages, pickles[4].strings
    if sorted(storages) != sorted(keys):
        raise Damaged("its list of storages is not that of its tensors")
    place = file.tell()
    for storage in map(storages.__getitem__, keys):
        if _at(file, place, 8) != struct.pack("<q", storage.size):
            raise Damaged(f"its storage {storage.key} is not of the size that was declared")
        place += 8 + storage.size * storage.item
    if place != size:
        raise Damaged("it ends too early" if place > size else "it goes on behind its end")
