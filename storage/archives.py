"""What a file of tensors may look like, checked before torch reads it.

torch trusts sizes that a file declares: it reads beyond a record, makes a storage as large as a
tensor claims, and verifies no checksum. Here a file is read once as bytes, none of which is run:
the zip archives that torch writes, and what it wrote before 1.6. Those of ours end in a SHA-256 of
all the rest (append_digest); of others the archive's own CRC-32 is verified, and files from before
1.6 have nothing that could be.
"""

import hashlib
import math
import pickletools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

DIGEST = b"sha256="  # and 64 digits: the archive's comment, which torch passes over
COMMENT_BYTES = len(DIGEST) + 64
LEGACY_START = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # of torch before 1.6
# What is made of these takes far more memory than they do: below 64 MB with all at their most.
MOST_DIRECTORY_BYTES = 1 << 20  # each record is kept with its name; usual are 0.2 MB
MOST_PICKLE_BYTES = 2 << 20  # of names, sizes and plain values; usual are 0.1 MB
MOST_OPERATIONS = 200_000  # each makes an object or refers to one; usual are 25,000
MOST_VIEWS = 4  # times a file's size: what its tensors may hold in all, sharing storages
MOST_SIDES = 64
DEEPEST_TUPLE = 8  # Python hashes tuples by recursion, without a limit
CHUNK = 1 << 20
STORAGES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
    "ComplexFloat": 8,
    "ComplexDouble": 16,
}
TENSOR, PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
ORDERED, SIZE = "collections OrderedDict", "torch Size"
CALLED = {TENSOR, PARAMETER, ORDERED, SIZE}
KNOWN = CALLED | {f"torch {kind}Storage" for kind in STORAGES}
VALUES = {
    "BINUNICODE",
    "SHORT_BINSTRING",
    "BINSTRING",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
}
OPAQUE = object()  # a value that needs no second look


class Damaged(ValueError):
    """The file is not as it was written. The message is a short reason."""


class HoldsObjects(ValueError):
    """The file asks for more than tensors and plain values. The message names it."""


class _Name(str):
    """Something that a pickle refers to by module and name."""


class _Storage(NamedTuple):
    key: str
    size: int  # numbers that it holds
    item: int  # bytes of each


class _Tuple(tuple):
    depth = 1


class _Filled:
    """A list or dict. It is copied where a call takes it, which a few bytes could ask for often."""

    __slots__ = ("copied",)

    def __init__(self) -> None:
        self.copied = False


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
    content = _operations(b"".join(_chunks(file, *pickle[:2])))
    for storage in _Pickle(content, size).storages.values():
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
    operations = _operations(*[file] * 5)  # the bounds are those of all together
    pickles = [_Pickle(operations, size) for _ in range(5)]
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


# ---- pickles -----------------------------------------------------------------------------------


def _operations(*sources: bytes | BinaryIO) -> Iterator[tuple[str, object]]:
    """Name and argument of each operation of pickles, one pickle behind the other."""
    number = 0
    for source in sources:
        for operation, value, place in pickletools.genops(source):
            number += 1
            if place > MOST_PICKLE_BYTES or number > MOST_OPERATIONS:
                raise Damaged("its names and plain values are too many")
            yield operation.name, value


class _Pickle:
    """Goes through a pickle as torch will, but makes nothing: only tuples, numbers and strings.

    storages  those that it refers to, by key
    strings   all strings in it

    Raises Damaged where a tensor does not lie within its storage, HoldsObjects where anything is
    named that torch's own files of tensors and plain values do not name. Takes what `_operations`
    gives, up to its end or that of the pickle.
    """

    def __init__(self, operations: Iterator[tuple[str, object]], file_size: int) -> None:
        self.storages: dict[str, _Storage] = {}
        self.strings: list[str] = []
        self.stack: list = []
        self.left = MOST_VIEWS * file_size
        marks, memo = [], {}
        stack = self.stack

        def pop_mark() -> list:
            items = stack[marks[-1] :]
            del stack[marks.pop() :]
            return items

        try:
            for name, value in operations:
                if name in VALUES:
                    stack.append(value)
                    if isinstance(value, str):
                        self.strings.append(value)
                elif name in ("BINPUT", "LONG_BINPUT"):
                    memo[value] = stack[-1]
                elif name in ("BINGET", "LONG_BINGET"):
                    stack.append(memo[value])
                elif name == "MARK":
                    marks.append(len(stack))
                elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
                    stack.append(OPAQUE)
                elif name in ("EMPTY_LIST", "EMPTY_DICT"):
                    stack.append(_Filled())
                elif name == "TUPLE":
                    stack.append(self.tuple(pop_mark()))
                elif name in ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
                    number = int(name[-1]) if name[-1].isdigit() else 0
                    items = [stack.pop() for _ in range(number)]
                    stack.append(self.tuple(items[::-1]))
                elif name in ("SETITEMS", "APPENDS"):
                    pop_mark()
                elif name in ("APPEND", "SETITEM"):
                    del stack[-2 if name == "SETITEM" else -1 :]
                elif name == "BUILD":  # of an OrderedDict, whose attributes are a dict
                    self.copy(stack.pop())
                    if type(stack[-1]) is not _Filled:
                        raise HoldsObjects("a call")
                elif name == "GLOBAL":
                    if value not in KNOWN:
                        raise HoldsObjects(value.replace(" ", "."))
                    stack.append(_Name(value))
                elif name == "BINPERSID":
                    stack.append(self.storage(stack.pop()))
                elif name == "REDUCE":
                    arguments, function = stack.pop(), stack.pop()
                    if type(function) is not _Name or function not in CALLED:
                        raise HoldsObjects("a call")
                    stack.append(self.call(function, arguments))
                elif name == "STOP":
                    break
                elif name != "PROTO":
                    raise HoldsObjects(name)
        except (HoldsObjects, Damaged):
            raise
        except Exception as error:  # of pickletools, and of stacks and types that do not fit
            raise Damaged(f"its names and sizes are broken: {error}") from error

    def tuple(self, items: list) -> _Tuple:
        made = _Tuple(items)
        depth = 1 + max((item.depth for item in items if type(item) is _Tuple), default=0)
        if depth > DEEPEST_TUPLE:
            raise Damaged("its tuples are nested too deep")
        if depth > 1:  # an attribute takes more memory than the tuple
            made.depth = depth
        return made

    def call(self, function: str, arguments: tuple) -> object:
        if function == TENSOR:
            self.tensor(*arguments)
        elif function == SIZE:
            (sides,) = arguments
            if type(sides) is not _Tuple or len(sides) > MOST_SIDES:
                raise Damaged("a shape in it is not possible")
        elif function == ORDERED:  # of a list, in files that Python 2 wrote
            for items in arguments:
                self.copy(items)
            return _Filled()
        return OPAQUE

    def copy(self, filled: object) -> None:
        if type(filled) is not _Filled or filled.copied:
            raise Damaged("it copies what is not a list or a dict, or does it twice")
        filled.copied = True

    def storage(self, described: tuple) -> _Storage:
        kind, number_type, key, _, size, *view = described
        item = STORAGES[number_type.removeprefix("torch ").removesuffix("Storage")]
        storage = _Storage(key, size, item)
        if (
            kind != "storage"
            or type(number_type) is not _Name
            or type(key) is not str
            or not _whole(size)
            or view not in ([], [OPAQUE])
            or self.storages.setdefault(key, storage) != storage
        ):
            raise Damaged("a storage in it is declared in an unknown way")
        return storage

    def tensor(self, storage: _Storage, offset: int, shape: tuple, strides: tuple, *_) -> None:
        count = math.prod(shape) if all(map(_whole, shape)) and len(shape) <= MOST_SIDES else -1
        if (
            count < 0
            or not all(map(_whole, (offset, *strides)))
            or len(strides) != len(shape)
            or type(storage) is not _Storage
            or offset > storage.size
        ):
            raise Damaged("a tensor in it has no possible shape")
        last = sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
        self.left -= count * storage.item
        if count and (offset + last >= storage.size or count > storage.size) or self.left < 0:
            raise Damaged(f"a tensor in it claims {count} numbers, which the file does not hold")


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**62
