"""Names of pictures: plain and different from each other, and which two belong together."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain, count
from pathlib import PurePosixPath

from PIL import Image

from common.errors import UserError

TYPES = (*Image.registered_extensions(), ".jpg_large")


def flat_stems(names: Sequence[str]) -> dict[str, str]:
    """A file name without type for each path, no two alike on any file system.

    The path's own name; where several have that, with its folders before it, its type behind it,
    or a number.
    """

    def key(stem: str) -> str:  # macOS composes accents, Windows and macOS ignore case
        return unicodedata.normalize("NFC", stem).casefold()

    plain = {name: plain_name(PurePosixPath(name).stem) for name in names}
    times = Counter(map(key, plain.values()))
    stems, used = {}, set()
    for name in sorted(names, key=lambda name: (times[key(plain[name])] > 1, name)):
        parts = PurePosixPath(name).parts
        folders = "__".join(parts[:-1] + (PurePosixPath(name).stem,))
        longer = map(plain_name, (folders, "__".join(parts)))
        numbered = (f"{plain[name]}~{number}" for number in count(2))
        alone = [plain[name]] if times[key(plain[name])] == 1 else []
        stems[name] = next(s for s in chain(alone, longer, numbered) if key(s) not in used)
        used.add(key(stems[name]))
    return stems


def plain_name(text: str) -> str:
    """A name that leads nowhere and that every file system takes: no slashes, dots in front ..."""
    text = "".join("_" if c in '/\\:*?"<>|' or not c.isprintable() else c for c in text)
    text = text.encode()[:150].decode(errors="ignore")
    return text.lstrip(".") or "_"


def without_type(name: str) -> str:
    """A path without its picture's type; other dots stay."""
    return name.rpartition(".")[0] if name.lower().endswith(TYPES) else name


def plain(name: str) -> str:
    """A path without the types and the _anime or _person that test.py puts behind a name."""
    while (shorter := without_type(name).removesuffix("_anime").removesuffix("_person")) != name:
        name = shorter
    return name


def rows_by_name(
    inputs: list[str], outputs: list[str], beyond: list[str], folder: str
) -> list[int]:
    """For each input the row of the output of its name, in `folder`; all are paths below folders.

    Names count as they stand or, where that leaves some over, without type, without _anime and
    _person too, without folders. beyond: inputs left out, which may have outputs. Raises UserError
    if there are inputs or outputs without each other, or several of one name.
    """

    def keys(key: Callable[[str], str], names: list[str]) -> list[str]:
        return [key(unicodedata.normalize("NFC", name)) for name in names]

    for key in (str, without_type, plain, lambda name: plain(name).rpartition("/")[2]):
        wanted, there, others = keys(key, inputs), keys(key, outputs), keys(key, beyond)
        row = {name: i for i, name in enumerate(there)}
        alone = len(row) == len(there) and len({*wanted} - {*others}) == len(wanted)
        if alone and {*wanted} <= row.keys() <= {*wanted, *others}:
            return [row[name] for name in wanted]

    wanted, there, others = (keys(plain, names) for names in (inputs, outputs, beyond))
    outputs_of, inputs_of = Counter(there), Counter([*wanted, *others])
    wrong = []
    for names, by_name, times, is_wrong, what in (
        (inputs, wanted, outputs_of, lambda n: n == 0, "inputs have no output"),
        (outputs, there, inputs_of, lambda n: n == 0, "outputs have no input"),
        (inputs, wanted, inputs_of, lambda n: n > 1, "inputs share a name"),
        (outputs, there, outputs_of, lambda n: n > 1, "outputs share a name"),
    ):
        if left := [n for n, key in zip(names, by_name, strict=True) if is_wrong(times[key])]:
            more = ", ..." if len(left) > 3 else ""
            wrong.append(f"{len(left)} of {len(names)} {what} ({', '.join(left[:3])}{more})")
    raise UserError(
        f"--fakes {folder}: {', '.join(wrong)}; one readable output is needed of each input, with "
        "its name, or that and _anime or _person"
    )
