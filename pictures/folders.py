"""The image files below a folder."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath

from common.errors import UserError, say
from pictures.decode import IMAGE_TYPES, begins_like_a_picture

# Twitter's .jpg_large, .png!w800 of servers that resize, and wget's .1 of the second x.jpg
ODD_SUFFIX = re.compile(r"\.(?:jpe?g|jpe|jfif|png|webp|avif|gif|tiff?)[^.~]+|\.\d+")
NO_PICTURES = ("report.json", "attributes.csv")  # written by prepare_data.py beside the pictures
MOST_KINDS = 8  # that are counted in a line


def walk_files(folder: Path) -> Iterator[str]:
    """Posix relative path of every visible file below `folder`, strings since there may be many.

    Links to folders are followed, each folder read once. Raises OSError if `folder` or a folder
    below it cannot be listed.
    """

    def visible(name: str) -> bool:
        return not name.startswith(".") and name != "__MACOSX"

    def stop(error: OSError) -> None:  # os.walk would pass over an unreadable folder in silence
        raise error

    seen = set()
    for parent, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(filter(visible, folders))
        below = Path(parent).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        yield from (prefix + name for name in names if visible(name))


def is_picture(name: str, start: Callable[[], bytes]) -> bool:
    """By the suffix of a name; where that tells nothing, by the file's first 16 bytes."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in IMAGE_TYPES or suffix and not ODD_SUFFIX.fullmatch(suffix):
        return suffix in IMAGE_TYPES
    return begins_like_a_picture(start())


def look_through(folder: Path) -> tuple[list[str], list[str]]:
    """The image files below `folder`, and the other files: sorted posix relative paths.

    Raises OSError if a folder cannot be listed.
    """

    def start(path: str) -> bytes:
        with suppress(OSError):
            # isfile: a broken link cannot be opened, and opening a named pipe would wait for ever.
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    return file.read(16)
        return b""

    found: dict[bool, list[str]] = {True: [], False: []}
    for name in walk_files(folder):
        path = f"{folder}/{name}"
        found[is_picture(name, partial(start, path)) and os.path.isfile(path)].append(name)
    return sorted(found[True]), sorted(found[False])


def find_images(folder: Path) -> list[str]:
    """The image files below `folder`: sorted posix relative paths. Raises OSError."""
    return look_through(folder)[0]


def tell_passed_over(where: Path, others: list[str]) -> None:
    """One line on the files that are no pictures, but for those that prepare_data.py writes."""
    others = [name for name in others if PurePosixPath(name).name not in NO_PICTURES]
    if others:
        say(f"{where}: passed over what is no picture that Pillow reads: {kinds_of(others)}")


def kinds_of(names: list[str]) -> str:
    """How many files there are of which suffix."""
    kinds = Counter(PurePosixPath(name).suffix.lower() or "without type" for name in names)
    most = [f"{number} {suffix}" for suffix, number in kinds.most_common(MOST_KINDS)]
    rest = len(names) - sum(number for _, number in kinds.most_common(MOST_KINDS))
    return ", ".join(most + [f"{rest} others"] * (rest > 0))


def find_images_or_explain(folder: Path, flag: str) -> list[str]:
    """`find_images`, and a line on what was passed over.

    Raises UserError that names `flag` if there is nothing to train on.
    """
    remedy = f"set {flag} to one"
    try:
        images, others = look_through(folder)
        if images:
            tell_passed_over(folder, others)
            return images
        kinds = kinds_of(others) or "it is empty"
        found = f"no images there, {len(others)} other files ({kinds})"
    except FileNotFoundError:
        nearest = next(filter(os.path.isdir, folder.absolute().parents), "none")
        found = f"no such folder, the nearest one that exists is {nearest}"
        if flag.startswith("--domain"):
            remedy += ", or try python train.py --demo, which draws its own faces"
    except NotADirectoryError:
        found = "this is a file; unpack it if it is an archive"
    except OSError as error:
        found = f"{error.filename} cannot be read ({error.strerror}); change its permissions"
    raise UserError(
        f"{flag} {folder}: {found}. A folder of images was looked for (JPEG, PNG and all "
        f"other types that Pillow reads; nested folders included); {remedy}"
    )


def first_of(names: list[str], count: int, where: Path | str) -> list[str]:
    """The first `count` names, in sorted order as they are; one line where that leaves any out."""
    if left_out := len(names[count:]):
        say(
            f"{where}: --dataset_size {count} takes the first of {len(names)} pictures in sorted "
            f"order, up to {names[count - 1]!r}; {left_out} are left out"
        )
    return names[:count]


def check_domains(path_A: Path, path_B: Path) -> None:
    """Raise UserError if the two domains are one folder, or one lies inside the other."""

    def holds(outer: Path, inner: Path) -> bool:
        real = Path(os.path.realpath(inner))
        return any(os.path.samefile(outer, parent) for parent in (real, *real.parents))

    if not (os.path.exists(path_A) and os.path.exists(path_B)):
        return  # load_folder says which one is missing
    if holds(path_A, path_B) or holds(path_B, path_A):
        raise UserError(
            f"--domain_A_path {path_A} and --domain_B_path {path_B}: the same folder, or one "
            "inside the other, so both domains would share images; set one of them to another "
            "folder"
        )
