"""The image files below a folder."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

IMAGE_TYPES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")


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


def find_images(folder: Path) -> list[str]:
    """The image files below `folder`, by extension: sorted posix relative paths.

    Raises OSError if a folder cannot be listed.
    """
    endings = tuple(f".{kind}" for kind in IMAGE_TYPES)
    named = (name for name in walk_files(folder) if name.lower().endswith(endings))
    # isfile: a broken link cannot be opened, and opening a named pipe would wait for ever.
    return sorted(name for name in named if os.path.isfile(f"{folder}/{name}"))


def find_images_or_explain(folder: Path, flag: str) -> list[str]:
    """`find_images`, with a UserError that names `flag` if there is nothing to train on."""
    remedy = f"set {flag} to one"
    try:
        if images := find_images(folder):
            return images
        others = Counter(Path(name).suffix or "without type" for name in walk_files(folder))
        kinds = ", ".join(f"{number} {suffix}" for suffix, number in others.most_common(5))
        found = f"no images there, {others.total()} other files ({kinds or 'it is empty'})"
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
        f"{flag} {folder}: {found}. A folder of images was looked for ({', '.join(IMAGE_TYPES)}; "
        f"nested folders included); {remedy}"
    )


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
