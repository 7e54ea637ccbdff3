"""What a pickle of tensors may say: read word by word, and never executed."""

import math
import pickletools
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

# What is made of these takes far more memory than they do: below 64 MB with all at their most.
MOST_PICKLE_BYTES = 2 << 20  # of names, sizes and plain values; usual are 0.1 MB
MOST_OPERATIONS = 200_000  # each makes an object or refers to one; usual are 25,000
MOST_VIEWS = 4  # times a file's size: what its tensors may hold in all, sharing storages
MOST_SIDES = 64
DEEPEST_TUPLE = 8  # Python hashes tuples by recursion, without a limit
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


def read_operations(*sources: bytes | BinaryIO) -> Iterator[tuple[str, object]]:
    """Name and argument of each operation of pickles, one pickle behind the other."""
    number = 0
    for source in sources:
        for operation, value, place in pickletools.genops(source):
            number += 1
            if place is None or place > MOST_PICKLE_BYTES or number > MOST_OPERATIONS:
                raise Damaged("its names and plain values are too many")
            yield operation.name, value


class Pickle:
    """Goes through a pickle as torch will, but makes nothing: only tuples, numbers and strings.

    storages  those that it refers to, by key
    strings   all strings in it

    Raises Damaged where a tensor does not lie within its storage, HoldsObjects where anything is
    named that torch's own files of tensors and plain values do not name. Takes what
    `read_operations` gives, up to its end or that of the pickle.
    """

    def __init__(self, operations: Iterator[tuple[str, object]], file_size: int) -> None:
        self.storages: dict[str, _Storage] = {}
        self.strings: list[str] = []
        self.stack: list = []
        self.left = MOST_VIEWS * file_size
        marks: list[int] = []
        memo: dict[object, object] = {}
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
                    stack.append(self.nested(pop_mark()))
                elif name in ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
                    number = int(name[-1]) if name[-1].isdigit() else 0
                    items = [stack.pop() for _ in range(number)]
                    stack.append(self.nested(items[::-1]))
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
                        raise HoldsObjects(str(value).replace(" ", "."))
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

    def nested(self, items: list) -> _Tuple:
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

    def tensor(self, storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> None:
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
