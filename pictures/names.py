"""Names of prepared pictures: plain, and different from each other."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import chain, count
from pathlib import PurePosixPath


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
