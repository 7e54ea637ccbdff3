"""One image file to pixels: decoded, turned upright, cut to a square, RGB."""

import functools
import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

CROPS = ("center", "celeba")
MAX_PIXELS = 64_000_000  # refused by the header: a small file can claim to unpack to gigabytes
# Pillow goes by content, not by name; unlimited, a .png that holds EPS would start Ghostscript.
# Of the others here it reads no pixels, or only on Windows.
NOT_READ = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "IPTC", "MPEG"}
# Tried first, and told by their first bytes where a name does not tell its type.
COMMON = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF")
Image.init()
IMAGE_TYPES = {  # Pillow's type by the suffix, such as ".jpg"
    suffix: "JPEG" if kind == "MPO" else kind  # which JPEG's reader opens
    for suffix, kind in sorted(Image.EXTENSION.items())
    if kind in {*Image.OPEN, "MPO"} - NOT_READ
}
PILLOW_FORMATS = sorted(dict.fromkeys(IMAGE_TYPES.values()), key=lambda kind: kind not in COMMON)
SAME = 2  # of 255: by so little sRGB's own profiles differ from each other
EXACT = 0x0100  # cmsFLAGS_NOOPTIMIZE: of greys its optimization makes dark ones wrong by 10
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
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # it refuses twice as many, also inside of an icon
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


def begins_like_a_picture(start: bytes) -> bool:
    """Whether a file of these first 16 bytes is a picture of a common type."""
    accepts = (Image.OPEN[kind][1] for kind in COMMON if kind in PILLOW_FORMATS)
    return any(accept and accept(start) is True for accept in accepts)


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
            held.enter_context(IN_MEMORY.hold(pixels_of(image)))
            if hasattr(image, "tag_v2"):  # a TIFF turns itself, for which it would read all tags
                image.info.pop("xmp", None)
                image._exif = Image.Exif()
                image._exif._loaded = True
                image._exif[ORIENTATION] = image.tag_v2.get(ORIENTATION, 1)
            if image.format == "PNG" and image.tile and "transparency" in image.info:
                stored, raw_mode = image.info["transparency"], image.tile[0][3]
                image.info["transparency"] = as_decoded(stored, raw_mode)
            image.load()
            pixels_of(image)  # an icon may hold another size than it said
            if is_deep(image):
                image.info["black_and_white"] = black_and_white(image)
            turn = UPRIGHT.get(orientation(image))
            image = image.copy() if turn is None else image.transpose(turn)
        yield image


def pixels_of(image: Image.Image) -> int:
    """Width times height. Raises ValueError if there are none or too many."""
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels, accepted are 1 to {MAX_PIXELS}")
    return width * height


def as_decoded(transparent: Any, raw_mode: Any) -> Any:
    """A PNG's transparent colour, which Pillow gives as it is stored, as it decodes pixels."""
    if raw_mode in ("L;2", "L;4"):
        return transparent * {"L;2": 85, "L;4": 17}[raw_mode]
    if raw_mode == "RGB;16B":
        return tuple(value >> 8 for value in transparent)
    return transparent


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or EXIF cannot be read.

    Pillow stops at some odd tags before it, which have nothing to do with it.
    """
    found = exif_orientation(image.info.get("exif"))
    with suppress(Exception):  # in an old PNG's text, or in XMP
        return found or int(image.getexif().get(ORIENTATION, 1))
    return 1


def exif_orientation(exif: bytes | None) -> int | None:
    """The orientation that stands in EXIF, None if there is none or not where it should be."""
    with suppress(Exception):  # struct.error, KeyError, AttributeError
        content = exif.removeprefix(b"Exif\0\0")  # type: ignore[union-attr]
        order = {b"II": "<", b"MM": ">"}[content[:2]]
        (start,) = struct.unpack_from(f"{order}L", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", content, place)
            if tag == ORIENTATION:
                whole = {1: "B", 3: "H", 4: "L"}[kind]
                return struct.unpack_from(order + whole, content, place + 8)[0]
    return None


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
    """Any Pillow mode to sRGB by its colour profile: transparency on white, deep numbers scaled."""
    image, alpha = to_rgb_and_alpha(image)
    if alpha:
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)  # in place: of 64 million pixels each copy takes 256 MB
        return white
    return image


def to_rgb_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Any Pillow mode to sRGB by its colour profile; its opacity (mode L), None if it is whole."""
    profile = image.info.get("icc_profile")
    if is_deep(image):
        image = to_grey(image)
    kind = {"1": "L", "LA": "L", "La": "L"}.get(image.mode, image.mode)
    alpha = None
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        alpha = image.getchannel("A")
    way = way_to_srgb(profile, kind) if isinstance(profile, bytes) else None
    image = way.apply(image.convert(way.input_mode)) if way else image.convert("RGB")
    image.info = {}
    return image, alpha


@functools.lru_cache(maxsize=8)
def way_to_srgb(profile: bytes, kind: str) -> ImageCms.ImageCmsTransform | None:
    """From the colours of a profile to sRGB's; None if these are equal or it cannot be obeyed.

    kind: the image's mode without transparency. Grey images may have a profile of colours.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[source.profile.xcolor_space.strip()]
        if "CMYK" in (mode, kind) and mode != kind or mode == "L" != kind:
            return None
        srgb = ImageCms.createProfile("sRGB")
        flags: Any = EXACT if mode == "L" else 0  # Pillow 10.1 has no names for them
        way = ImageCms.buildTransform(source, srgb, mode, "RGB", flags=flags)
        if mode != "CMYK":
            steps = np.mgrid[0:256:15, 0:256:15, 0:256:15].reshape(3, -1).T.astype(np.uint8)
            probe = Image.fromarray(steps[None]).convert(mode)
            before, after = (np.asarray(i, int) for i in (probe.convert("RGB"), way.apply(probe)))
            if np.abs(before - after).max() <= SAME:
                return None
        return way
    except Exception:  # PyCMSError, OSError, KeyError; ImportError where Pillow lacks LittleCMS
        return None


def way_from_srgb(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """From sRGB to the colours of a profile of RGB images, None if it cannot be gone."""
    try:
        target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(ImageCms.createProfile("sRGB"), target, "RGB", "RGB")
    except Exception:  # as above
        return None


# ---- numbers of more than eight bits -----------------------------------------------------------


def is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def black_and_white(image: Image.Image) -> tuple[float, float]:
    """The numbers that stand for black and white in a deep image.

    Integers are of 16 bits where the file does not say otherwise. Floats have no fixed white: the
    first usual one that all but a few fit, which may be highlights or single wrong pixels.
    """
    tags = getattr(image, "tag_v2", {})  # of TIFF: bits, and whether it begins with white
    if image.mode.startswith("I;16"):
        white = 2.0 ** tags.get(258, (16,))[0] - 1
    else:
        size = min(image.width, TILE), min(image.height, TILE)
        values = np.asarray(image.resize(size, Image.Resampling.NEAREST), np.float64)
        lit = values[np.isfinite(values) & (values > 0)]
        most = np.percentile(lit, 95) if lit.size else 0.0
        usual = ((4, 1.0), (400, 255.0), (100_000, 65535.0))[-1 if image.mode == "I" else 0 :]
        fitting = (white for limit, white in usual if most <= limit)
        white = next(fitting, 0) or lit[lit <= 2 * most].max()
    return (white, 0.0) if tags.get(262) == 0 else (0.0, white)


def to_grey(image: Image.Image) -> Image.Image:
    """A deep image to L, or LA where one number is transparent.

    By tiles: as arrays they take four times the image.
    """
    black, white = image.info.get("black_and_white") or black_and_white(image)
    transparent = image.info.get("transparency")
    grey = Image.new("L" if transparent is None else "LA", image.size)
    for top, left in product(range(0, image.height, TILE), range(0, image.width, TILE)):
        box = left, top, min(left + TILE, image.width), min(top + TILE, image.height)
        values = np.asarray(image.crop(box), np.float32)
        shares = np.nan_to_num((values - black) / (white - black)).clip(0, 1)
        pixels = (shares * 255).round().astype(np.uint8)
        if transparent is not None:
            pixels = np.dstack([pixels, np.where(values == transparent, 0, 255).astype(np.uint8)])
        grey.paste(Image.fromarray(pixels), box)
    return grey
