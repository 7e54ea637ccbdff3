"""decode.py: what a picture's file says beside its pixels, and what its numbers mean."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hostile_images import tiff_of
from PIL import Image

from pictures.decode import load_image, open_image, to_rgb

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as decode.py has it

CASES = ROOT.parent / "shared/cases"


def case(name: str) -> Path:
    """An odd file of the house's collection."""
    if not (CASES / name).exists():
        pytest.skip(f"{CASES / name} is not here")
    return CASES / name


def read(content: bytes) -> np.ndarray:
    """What a file shows: uint8 (H, W, 3)."""
    with open_image(io.BytesIO(content)) as image:
        return np.asarray(to_rgb(image))


def saved(image: Image.Image, kind: str, **save) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **save)
    return file.getvalue()


# ---- EXIF --------------------------------------------------------------------------------------

# Stored lying on its side: white above, black below; shown upright, white is on the right.
LYING = np.zeros((16, 24, 3), np.uint8)
LYING[:8] = 255


def exif(*tags: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of tags (number, type, count, four bytes) and an orientation of 6."""
    tags = sorted([(0x0112, 3, 1, b"\6\0\0\0"), *tags])
    body = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in tags)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + bytes(36)


def is_upright(pixels: np.ndarray) -> bool:
    return pixels.shape == (24, 16, 3) and pixels[:, 10:].min() > 200 and pixels[:, :6].max() < 50


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_odd_tag_beside_the_orientation_loses_no_picture(kind):
    values = [(1, b"\1\0\0\0"), (3, b"*\0\0\0"), (1, b"\xff" * 4), (2**31, b"AB\0\0")]
    for tag in (0x0100, 0x011A, 0x0128, 0x010F, 0x8769, 0x8825, 0x9286, 0xA005, 0xC4A5):
        for kind_of_tag in range(14):
            for count, value in (
                (1, b"\1\0\0\0"),
                (3, b"*\0\0\0"),
                (1, b"\xff" * 4),
                (2**31, b"AB\0\0"),
            ):
                odd = exif((tag, kind_of_tag, count, value))
                assert is_upright(read(saved(Image.fromarray(LYING), kind, exif=odd)))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_an_orientation_is_read_in_either_order_and_any_whole_number(order, kind):
    value = struct.pack(order + {1: "B", 3: "H", 4: "L"}[kind], 6).ljust(4, b"\0")
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(
        f"{order}HLHHHL", 42, 8, 1, 0x0112, kind, 1
    )
    content = saved(Image.fromarray(LYING), "JPEG", exif=b"Exif\0\0" + head + value + bytes(4))
    assert is_upright(read(content))


def test_an_odd_tag_of_a_tiff_loses_no_picture():
    for odd in ((700, 4, 1, 1), (34853, 9, 1, 2**32 - 1), (0x8769, 2, 4, 7)):
        grey = LYING[..., 0].tobytes()
        assert is_upright(read(tiff_of(24, 16, data=grey, more=[(274, 3, 1, 6), odd])))


def test_exif_that_cannot_be_read_turns_nothing():
    for odd in (b"", b"II*\0", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\1x"):
        content = saved(Image.fromarray(LYING), "PNG", exif=b"Exif\0\0" + odd)
        assert (read(content) == LYING).all()


def test_the_odd_picture_of_the_collection_is_read():
    right = np.rot90(load_image(case("reference.png"), 96), -1).astype(int)
    assert np.abs(load_image(case("exif_resolution_type.jpg"), 96) - right).mean() < 2
