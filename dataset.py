"""Folders of images, decoded once into one uint8 array on disk that later runs memory-map.

H = W = image_size, N images of a folder. Domain A is anime, domain B is person.
"""

import hashlib
import json
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from errors import UserError, one_line
from files import atomic_write
from locks import alone_in, sweep

IMAGE_TYPES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")
CROPS = ("center", "celeba")
MAX_PIXELS = 64_000_000  # refused by the header: a small file can claim to unpack to gigabytes

# Pillow goes by content, not by name; unlimited, a .png that holds EPS would start Ghostscript.
PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
CELEBA_SIZE = (178, 218)
CELEBA_BOX = (25, 47, 153, 175)  # left, top, right, bottom: tight around the aligned face
CACHE_FORMAT = 2  # raise it when load_image changes what it returns, or the index what it holds
TILE = 1024  # side of what is converted at once
CHUNK = 256  # images decoded ahead of the writer: bounds the memory of a build

# Pillow warns of odd metadata and large sizes; a file that cannot be read gets one line from us.
warnings.filterwarnings("ignore", module="PIL")

# Blocks of over 32 MB are given back by malloc; of Pillow's own 16 MB each thread keeps hundreds.
Image.core.set_block_size(64 << 20)


# ---- files -------------------------------------------------------------------------------------


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
    try:
        if images := find_images(folder):
            return images
        others = Counter(Path(name).suffix or "without type" for name in walk_files(folder))
        kinds = ", ".join(f"{number} {suffix}" for suffix, number in others.most_common(5))
        found = f"no images there, {others.total()} other files ({kinds or 'it is empty'})"
    except FileNotFoundError:
        nearest = next(filter(os.path.isdir, folder.absolute().parents), "none")
        found = f"no such folder, the nearest one that exists is {nearest}"
    except NotADirectoryError:
        found = "this is a file; unpack it if it is an archive"
    except OSError as error:
        found = f"{error.filename} cannot be read ({error.strerror}); change its permissions"
    raise UserError(
        f"{flag} {folder}: {found}. A folder of images was looked for ({', '.join(IMAGE_TYPES)}; "
        f"nested folders included); set {flag} to one"
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


# ---- one image ---------------------------------------------------------------------------------


class UnreadableImage(Exception):
    """An image file that cannot be decoded completely. The message is a short reason, one line."""


@contextmanager
def unreadable_if_it_fails() -> Iterator[None]:
    """Whatever Pillow raises about a file becomes UnreadableImage."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnreadableImage("its content is no image of an accepted type") from error
    except Exception as error:  # hostile files: struct.error, SyntaxError, MemoryError and others
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImage(" ".join(reason.split())) from error


def load_image(path: Path, image_size: int, crop: str = "center") -> np.ndarray:
    """Decode the first frame of an image file: uint8 (H, W, 3), RGB, H = W = image_size.

    `crop` as for `crop_box`. Raises UnreadableImage, whatever Pillow raised.
    """
    with open_image(path) as image:
        return cut_square(image, crop_box(image.size, crop), image_size)


class PixelsInMemory:
    """Threads that decode images wait for each other, so that they hold `most` pixels in all."""

    def __init__(self, most: int) -> None:
        self.most = self.free = most
        self.changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        pixels = min(pixels, self.most)  # what is larger than all would wait for ever
        with self.changed:
            self.changed.wait_for(lambda: self.free >= pixels)
            self.free -= pixels
        try:
            yield
        finally:
            with self.changed:
                self.free += pixels
                self.changed.notify_all()


IN_MEMORY = PixelsInMemory(MAX_PIXELS)


@contextmanager
def open_image(file: Path | BinaryIO) -> Iterator[Image.Image]:
    """Decode the first frame of an image file, in its own mode, upright by its EXIF orientation.

    Other threads wait where their images and this one have over MAX_PIXELS together, until the
    block ends; so it must open no other image. Raises UnreadableImage, whatever Pillow raised.
    """
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise UnreadableImage("it is no regular file")  # a pipe or a device may never end
    with ExitStack() as held:
        with unreadable_if_it_fails(), Image.open(file, formats=PILLOW_FORMATS) as image:
            width, height = image.size
            if not 0 < width * height <= MAX_PIXELS:
                raise ValueError(f"{width}x{height} pixels, accepted are 1 to {MAX_PIXELS}")
            held.enter_context(IN_MEMORY.hold(width * height))
            image = ImageOps.exif_transpose(image)
        yield image


def crop_box(size: tuple[int, int], crop: str) -> tuple[int, int, int, int]:
    """The square (left, top, right, bottom) that is kept of an image of `size` (width, height).

    `crop` is 'center' (the largest centred square) or 'celeba' (the face box of a 178x218 CelebA
    image, 'center' for any other size).
    """
    if crop == "celeba" and size == CELEBA_SIZE:
        return CELEBA_BOX
    width, height = size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def cut_square(image: Image.Image, box: tuple[int, int, int, int], image_size: int) -> np.ndarray:
    """Cut a square out of an image: uint8 (H, W, 3), RGB, H = W = image_size.

    Where the square leaves the image, the nearest pixels of its edge go on. The cut comes before
    the resize, so that a 1x1000 image costs no more than a square one. Raises UnreadableImage.
    """
    with unreadable_if_it_fails():
        width, height = image.size
        left, top, right, bottom = box
        inner = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        image = to_rgb(image.crop(inner))
        if inner != tuple(box):
            missing = (inner[1] - top, bottom - inner[3]), (inner[0] - left, right - inner[2])
            image = Image.fromarray(np.pad(np.asarray(image), (*missing, (0, 0)), mode="edge"))
        image = image.resize((image_size, image_size), Image.Resampling.LANCZOS, reducing_gap=3.0)
        return np.array(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB: transparency on white, more than 8 bits scaled and not clipped."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = to_grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_grey(image: Image.Image) -> Image.Image:
    """Numbers of more than 8 bits to 8, by tiles: as arrays they take four times the image."""

    def tiles() -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        width, height = image.size
        for top, left in product(range(0, height, TILE), range(0, width, TILE)):
            tile = image.crop((left, top, min(left + TILE, width), min(top + TILE, height)))
            values = np.asarray(tile, np.float32)
            yield (left, top), np.nan_to_num(values, posinf=0.0, neginf=0.0).clip(0.0)

    most = max(values.max() for _, values in tiles())
    # Integers are 16-bit images. Floats have no fixed white: the first usual one that fits.
    whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    white = next((white for white in whites if most <= white), most)
    grey = Image.new("L", image.size)
    for place, values in tiles():
        grey.paste(Image.fromarray((values / white * 255.0).round().astype(np.uint8)), place)
    return grey


# ---- one folder --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageArray:
    """The readable images of a folder.

    images   read-only memory map, uint8 (N, H, W, 3)
    paths    N posix paths relative to the folder, in sorted order
    skipped  number of files that could not be read
    content  hash of all pixels
    """

    images: np.ndarray
    paths: list[str]
    skipped: int
    content: str

    def fingerprint(self) -> str:
        """Tells whether a folder still holds the same images: "<of names>-<of pixels>"."""
        names = hashlib.sha256("\n".join(self.paths).encode(errors="replace")).hexdigest()
        return f"{names[:16]}-{self.content[:16]}"


def load_folder(
    folder: Path,
    flag: str,
    dataset_size: int,
    image_size: int,
    crop: str,
    cache_dir: Path,
    num_workers: int,
) -> ImageArray:
    """Memory-map the first `dataset_size` images of a folder, decoding them if it is not done yet.

    The cache is `<folder>_<key>.u8`, the frames one after the other, and `.json`, written last.
    Its key covers the files' paths below the folder, sizes, times and places on the disk: another
    folder, or a changed one, gets a new cache, but one that was only moved keeps its own.
    `flag` is the option that named the folder. Unreadable files are skipped, one line each.
    Raises UserError: folder missing, a file, unlistable, without images, or none readable.
    """
    folder = Path(folder)
    names = find_images_or_explain(folder, flag)[:dataset_size]
    stats = [_state_of(f"{folder}/{name}") for name in names]
    key = json.dumps([CACHE_FORMAT, image_size, crop, names, stats]).encode()
    stem = f"{folder.resolve().name[:40]}_{hashlib.sha256(key).hexdigest()[:16]}"
    array_path, index_path = Path(cache_dir, f"{stem}.u8"), Path(cache_dir, f"{stem}.json")

    index = read_index(index_path, array_path, names, image_size)
    if index is not None:
        sweep(Path(cache_dir))  # a builder may have been killed after its last write
    else:
        with alone_in(Path(cache_dir), str(folder), wait=True):
            index = read_index(index_path, array_path, names, image_size, say)
            if index is None:
                index = build_cache(folder, names, array_path, image_size, crop, num_workers)
                with atomic_write(index_path) as file:
                    file.write(json.dumps(index, indent=1).encode())
    paths, skipped = index["paths"], index["skipped"]
    if not paths:
        raise UserError(
            f"{flag} {folder}: readable images were looked for, none of the {len(names)} files is "
            f"one ({names[0]!r}: {skipped[names[0]]}); mend them or set {flag} to another folder"
        )
    if skipped:
        say(f"{folder}: {len(skipped)} of {len(names)} files unreadable, skipped ({index_path})")
    images = np.memmap(array_path, np.uint8, "r", shape=(len(paths), image_size, image_size, 3))
    return ImageArray(images, paths, len(skipped), index["content"])


def _state_of(path: str) -> tuple[int, ...]:
    """What changes when a file does; zeros for one that has vanished, which is then unreadable.

    Archives set size and time of modification, so that two can agree in both; but not the inode and
    its time of change. The mode counts since a file skipped for it may be mended by chmod.
    """
    try:
        stat = os.stat(path)
    except OSError:
        return 0, 0, 0, 0, 0
    return stat.st_size, stat.st_mtime_ns, stat.st_mode, stat.st_ino, stat.st_ctime_ns


def read_index(
    index_path: Path,
    array_path: Path,
    names: list[str],
    size: int,
    tell: Callable[[str], None] = lambda line: None,
) -> dict | None:
    """The index of a complete cache, else None; `tell` gets a line if there is a damaged one."""
    if not (index_path.exists() or array_path.exists()):
        return None
    try:
        index = json.loads(index_path.read_bytes())
        if sorted([*index["paths"], *index["skipped"]]) != sorted(names):
            raise ValueError("its index lists other files")
        if array_path.stat().st_size != len(index["paths"]) * size * size * 3:
            raise ValueError("its array has the wrong length")
        if not isinstance(index["content"], str):
            raise ValueError("its index lacks the hash of the pixels")
        return index
    except (OSError, ValueError, KeyError, TypeError) as error:
        tell(f"{array_path}: the cache is incomplete or damaged ({error}); it is built again")
        return None


def build_cache(
    folder: Path, names: list[str], array_path: Path, image_size: int, crop: str, num_workers: int
) -> dict:
    """Decode the files and write the array; returns the index, {"paths": [...], "skipped":
    {...}, "content": hash of all pixels}.

    Threads, not processes: Pillow releases the GIL. Raises UserError if the disk is full.
    """

    def decode(name: str) -> np.ndarray | UnreadableImage:
        try:
            return load_image(folder / name, image_size, crop)
        except UnreadableImage as error:
            return error

    index: dict = {"paths": [], "skipped": {}}
    content = hashlib.sha256()
    bar = tqdm(total=len(names), desc=f"decoding {folder.name}", unit="image", disable=None)
    with bar, ThreadPoolExecutor(max(1, num_workers)) as pool, atomic_write(array_path) as file:
        run = pool.map if num_workers else map
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            for name, result in zip(chunk, run(decode, chunk), strict=True):
                if isinstance(result, UnreadableImage):
                    index["skipped"][name] = str(result)
                    say(f"{folder}: skipped {name!r}: {result}")  # !r: a name may hold line breaks
                else:
                    index["paths"].append(name)
                    file.write(result.tobytes())
                    content.update(result)
                bar.update()
    return index | {"content": content.hexdigest()}


def say(line: str) -> None:
    """One line on stderr, above the progress bar if there is one."""
    tqdm.write(one_line(line), file=sys.stderr)
