"""One image file to pixels: decoded, turned upright, cut to a square, RGB."""

import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

CROPS = ("center", "celeba")
MAX_PIXELS = 64_000_000  # refused by the header: a small file can claim to unpack to gigabytes
# Pillow goes by content, not by name; unlimited, a .png that holds EPS would start Ghostscript.
PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
ORIENTATION = 0x0112  # of EXIF, and how to turn what is stored so that it is upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
CELEBA_SIZE = (178, 218)
CELEBA_BOX = (25, 47, 153, 175)  # left, top, right, bottom: tight around the aligned face
TILE = 1024  # side of what is converted at once
CHUNK = 256  # images decoded ahead of the writer: bounds the memory of a build
# Pillow warns of odd metadata and large sizes; a file that cannot be read gets one line from us.
warnings.filterwarnings("ignore", module="PIL")
# Blocks of over 32 MB are given back by malloc; of Pillow's own 16 MB each thread keeps hundreds.
Image.core.set_block_size(64 << 20)


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
            if hasattr(image, "tag_v2"):  # a TIFF turns itself, for which it would read all tags
                image.info.pop("xmp", None)
                image._exif = Image.Exif()
                image._exif._loaded = True
                image._exif[ORIENTATION] = image.tag_v2.get(ORIENTATION, 1)
            image.load()
            turn = UPRIGHT.get(orientation(image))
            image = image.copy() if turn is None else image.transpose(turn)
        yield image


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or EXIF cannot be read.

    Pillow stops at some odd tags before it, which have nothing to do with it.
    """
    with suppress(Exception):  # struct.error, KeyError: none there, or not where it should be
        exif = image.info["exif"].removeprefix(b"Exif\0\0")
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (start,) = struct.unpack_from(f"{order}L", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, place)
            if tag == ORIENTATION:
                return struct.unpack_from(order + {1: "B", 3: "H", 4: "L"}[kind], exif, place + 8)[
                    0
                ]
    with suppress(Exception):  # in an old PNG's text, or in XMP
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


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
