"""Images that lie, and a fuzzer of them; `hostile_files.py images N` runs it in a process."""

import io
import random
import struct
import zlib
from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
from hostile_files import mutated, peak_mb
from PIL import Image

KINDS = {
    "jpg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "bmp": "BMP",
    "gif": "GIF",
    "tif": "TIFF",
    "ppm": "PPM",
    "pgm": "PPM",
    "tga": "TGA",
    "ico": "ICO",
    "icns": "ICNS",
    "pcx": "PCX",
    "sgi": "SGI",
    "dds": "DDS",
    "im": "IM",
}
Image.init()
OPTIONAL = {"qoi": "QOI", "jp2": "JPEG2000", "avif": "AVIF"}  # by Pillow's version and libraries
KINDS |= {suffix: kind for suffix, kind in OPTIONAL.items() if kind in Image.SAVE}


def saved(kind: str, mode: str = "RGB", size=(20, 16), **save) -> bytes:
    """A valid image file of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **save)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width=4, height=4, more=(), pixels=None, depth=8, colour=2) -> bytes:
    """A PNG of any claimed size, with chunks of one's own before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(4 * 13)) if pixels is None else pixels
    chunks = [
        png_chunk(b"IHDR", header),
        *(png_chunk(*chunk) for chunk in more),
        png_chunk(b"IDAT", pixels),
        png_chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bomb(megabytes: int) -> bytes:
    """Zeros, packed a thousandfold."""
    packer = zlib.compressobj(9)
    million = bytes(1 << 20)
    return b"".join(packer.compress(million) for _ in range(megabytes)) + packer.flush()


def tiff(tags: list[tuple[int, int, int, int]], data: bytes = b"", pages: int = 1) -> bytes:
    """A TIFF of these tags (number, type, count, value) on each of many pages."""
    page = 6 + 12 * len(tags)
    body = b""
    for number in range(pages):
        following = 8 + page * (number + 1) if number + 1 < pages else 0
        body += struct.pack("<H", len(tags))
        body += b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
        body += struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", 8) + body + data


def tiff_of(width=4, height=4, compression=1, bits=8, data=bytes(64), pages=1, more=()) -> bytes:
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
        (273, 4, 1, 0),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
        *more,
    ]
    start = 8 + pages * (6 + 12 * len(tags))
    tags[5] = 273, 4, 1, start
    return tiff(tags, data, pages)


def gif_of_frames(number: int) -> bytes:
    """A GIF of many frames, each of one pixel."""
    frame = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    return b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + frame * number + b";"


def fuzz_images(count: int) -> dict:
    """Every mutation of a small image of each kind is a square of pixels, or a reason why not."""
    from dataset import load_folder
    from pictures.decode import UnreadableImage, load_image, open_image
    from pictures.folders import find_images
    from pictures.photos import cut_out

    files = [
        (kind, saved(name, mode, **save))
        for kind, name in KINDS.items()
        for mode, save in MODES.get(name, [("RGB", {})])
    ]
    chance, became = random.Random(0), Counter()
    folder = Path("folder")
    folder.mkdir()
    for _, content in files:  # all decoders are there before memory is measured
        Path("warm").write_bytes(content)
        load_image(Path("warm"), 8)
        with open_image(Path("warm")) as image:
            image.convert("RGB")
    start = peak_mb(forget=True)
    for number in range(count):
        kind, content = files[number % len(files)]
        (folder / f"{number:05}.{kind}").write_bytes(mutated(content, chance))
        if number % 500 != 499 and number + 1 < count:
            continue
        names = find_images(folder)
        for name in names[::2]:  # as --input does
            try:
                pixels = load_image(folder / name, 8)
                assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
            except UnreadableImage as error:
                assert "\n" not in str(error) and str(error)
        plan = [(folder / name, [(Path(name), None)]) for name in names[1::2]]
        of_model = Namespace(image_size=8, crop="center")
        for *_, pixels in cut_out(plan, of_model, tell=False):
            assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
        Path(folder, "zz.png").write_bytes(saved("PNG"))  # other images go on
        loaded = load_folder(folder, "--domain_A_path", 10**6, 8, "center", Path("cache"), 0)
        assert loaded.paths[-1] == "zz.png" and loaded.images.shape[1:] == (8, 8, 3)
        became["read"] += len(loaded.paths) - 1
        became["skipped"] += loaded.skipped
        for path in (*folder.iterdir(), *Path("cache").iterdir()):
            path.unlink()
    return {**became, "grew_mb": peak_mb() - start}


MODES = {
    "PNG": [("1", {}), ("L", {}), ("P", {}), ("RGB", {}), ("RGBA", {}), ("I;16", {})],
    "JPEG": [
        (
            "RGB",
            {"exif": bytes.fromhex("45786966000049492a000800000001001201030001000000060000000000")},
        ),
        ("CMYK", {}),
        ("L", {"progressive": True}),
    ],
    "WEBP": [("RGB", {}), ("RGBA", {"lossless": True})],
    "TIFF": [
        ("RGB", {"compression": how})
        for how in (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg")
    ]
    + [("1", {"compression": "group4"}), ("F", {}), ("CMYK", {})],
    "GIF": [("P", {}), ("P", {"save_all": True, "append_images": [Image.new("P", (20, 16))] * 3})],
    "BMP": [("1", {}), ("P", {}), ("RGB", {}), ("RGBA", {})],
    "PPM": [("RGB", {}), ("L", {}), ("1", {})],
}
