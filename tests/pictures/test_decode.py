"""decode.py: what a picture's file says beside its pixels, and what its numbers mean."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hostile_images import png, tiff_of
from PIL import Image, ImageCms

from pictures import decode
from pictures.decode import cut_square, load_image, open_image, to_rgb, way_to_srgb

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
            for count, value in values:
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


# ---- colour profiles ---------------------------------------------------------------------------

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
SOFT = Image.effect_noise((32, 24), 90).resize((64, 48), Image.Resampling.BICUBIC)


def curve(gamma: float) -> bytes:
    """A profile's entry: a curve of one number."""
    return b"curv" + bytes(4) + struct.pack(">LH", 1, round(gamma * 256)) + bytes(2)


def profile(space: bytes, **entries: bytes) -> bytes:
    """A display's profile of a colour space, with these entries."""
    entries = {"wtpt": xyz(0.9642, 1, 0.8249)} | entries
    table, body, start = b"", b"", 128 + 4 + 12 * len(entries)
    for name, entry in entries.items():
        table += struct.pack(">4sLL", name.encode(), start + len(body), len(entry))
        body += entry
    head = struct.pack(">L4sL4s4s4s", start + len(body), b"", 0x02100000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3l", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">L", len(entries)) + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3l", *(round(value * 65536) for value in values))


def of_colours(gamma: float, **primaries: tuple[float, float, float]) -> bytes:
    curves = {f"{c}TRC": curve(gamma) for c in "rgb"}
    return profile(b"RGB ", **{k: xyz(*v) for k, v in primaries.items()}, **curves)


# sRGB's colours, stored with another curve; Adobe RGB's; and grey of gamma 1, as of linear light.
BLUE = {"bXYZ": (0.1431, 0.0606, 0.7139)}
LINEAR = of_colours(1.0, rXYZ=(0.4361, 0.2225, 0.0139), gXYZ=(0.3851, 0.7169, 0.0971), **BLUE)
WIDE = of_colours(
    2.2, rXYZ=(0.6097, 0.3111, 0.0195), gXYZ=(0.2053, 0.6257, 0.0609), bXYZ=(0.1492, 0.0632, 0.7446)
)
GREY_LINEAR = profile(b"GRAY", kTRC=curve(1.0))


def from_linear(pixels: np.ndarray) -> np.ndarray:
    """sRGB's definition: stored light to stored sRGB, both 0 to 255."""
    x = pixels / 255
    return 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA"])
def test_a_profile_is_obeyed_whatever_file_and_mode_it_is_in(kind, mode):
    image = Image.merge("RGB", (SOFT, SOFT.rotate(180), SOFT.transpose(0))).convert(mode)
    if (kind, mode) in (("JPEG", "RGBA"), ("JPEG", "P"), ("JPEG", "LA"), ("WEBP", "P")):
        pytest.skip("there is no such file")
    save = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    for icc in [LINEAR] + [GREY_LINEAR] * (mode in ("L", "LA") and kind != "WEBP"):
        plain = read(saved(image, kind, **save))
        obeyed = read(saved(image, kind, icc_profile=icc, **save))
        assert np.abs(obeyed - from_linear(plain)).max() <= 1


def test_the_picture_of_the_collection_with_a_profile_is_read_as_its_author_saw_it():
    right = load_image(case("reference.png"), 96).astype(int)
    assert np.abs(load_image(case("icc_adobe_rgb.png"), 96) - right).mean() < 0.5


def test_deep_grey_pictures_obey_their_profile(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "x.png", icc_profile=GREY_LINEAR)
    with open_image(tmp_path / "x.png") as image:
        shown = np.asarray(to_rgb(image))[..., 0]
    assert np.abs(shown - from_linear(np.arange(256).reshape(16, 16))).max() <= 2


def test_inks_are_shown_by_their_profile(monkeypatch):
    asked = []

    class Way:
        input_mode = "CMYK"

        def apply(self, image):
            return Image.new("RGB", image.size, (1, 2, 3))

    monkeypatch.setattr(decode, "way_to_srgb", lambda *which: asked.append(which) or Way())
    image = Image.new("CMYK", (8, 8), (200, 0, 0, 0))
    assert (read(saved(image, "JPEG", icc_profile=LINEAR)) == (1, 2, 3)).all()
    assert asked == [(LINEAR, "CMYK")]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_profile_that_is_broken_or_of_other_colours_changes_nothing(mode):
    image = Image.merge("RGB", (SOFT, SOFT.rotate(180), SOFT.transpose(0))).convert(mode)
    plain = read(saved(image, "TIFF"))
    of_others = {"RGB": GREY_LINEAR, "L": b"x", "CMYK": LINEAR}[mode]
    broken = [LINEAR[:100], LINEAR[:300], bytes(200), LINEAR.replace(b"acsp", b"none"), of_others]
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for icc in (*broken, lab):
        assert (read(saved(image, "TIFF", icc_profile=icc)) == plain).all()


def test_srgb_itself_costs_nothing_and_changes_nothing():
    assert way_to_srgb(SRGB.tobytes(), "RGB") is None
    assert way_to_srgb(LINEAR, "RGB") is way_to_srgb(LINEAR, "RGB")  # made once


def test_colours_are_converted_before_they_lie_on_white():
    image = Image.new("RGBA", (8, 8), (55, 55, 55, 128))
    right = from_linear(np.array(55.0)) * 128 / 255 + 127
    assert np.abs(read(saved(image, "PNG", icc_profile=LINEAR)) - right).max() <= 1


# ---- numbers of more than eight bits -----------------------------------------------------------

RAMP = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)


def shown(values: np.ndarray) -> np.ndarray:
    """What a TIFF of these numbers shows: uint8 (H, W)."""
    return read(saved(Image.fromarray(values), "TIFF"))[..., 0]


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
@pytest.mark.parametrize("hot", [1.01, 2.0, 300.0, 70_000.0, 1e30, np.inf, -1e30, -np.inf, np.nan])
@pytest.mark.parametrize("count", [1, 20])
def test_pixels_far_from_the_others_do_not_decide_what_is_white(white, hot, count):
    values = RAMP * np.float32(white)
    values[5, :count] = hot * white
    right = (RAMP * 255).round()
    right[5, :count] = 255 if hot > 0 else 0
    assert np.abs(shown(values) - right).max() <= 1


def test_numbers_of_no_usual_scale_are_white_where_they_are_greatest():
    assert np.abs(shown(RAMP * 1e6) - RAMP * 255).max() <= 1
    values = (RAMP * 2e6).astype(np.int32)
    assert np.abs(shown(values) - RAMP * 255).max() <= 1
    values[3, 3] = 2**31 - 1
    assert np.abs(np.delete(shown(values) - RAMP * 255, 99)).max() <= 1


def test_one_integer_above_sixteen_bits_changes_no_other():
    values = (RAMP * 65535).astype(np.int32)
    values[3, 3] = 2**31 - 1
    assert np.abs(np.delete(shown(values) - RAMP * 255, 99)).max() <= 1


def test_a_dark_background_and_highlights_do_not_change_the_scale():
    values = np.where(RAMP > 0.9, RAMP, 0).astype(np.float32)
    assert np.abs(shown(values) - values * 255).max() <= 1
    assert np.abs(shown(values * 255) - values * 255).max() <= 1
    bright = np.where(RAMP > 0.9, 3, RAMP).astype(np.float32)
    assert np.abs(shown(bright) - bright.clip(0, 1) * 255).max() <= 1


def test_numbers_without_light_are_black():
    for values in (0.0, -1.0, np.nan, -np.inf):
        assert shown(np.full((8, 8), values, np.float32)).max() == 0
    assert shown(np.full((8, 8), np.inf, np.float32)).min() == 255


def test_a_square_of_a_deep_picture_is_as_bright_as_the_whole():
    values = RAMP * 255
    values[:16, :16] = 0.7
    with open_image(io.BytesIO(saved(Image.fromarray(values), "TIFF"))) as image:
        assert cut_square(image, (0, 0, 16, 16), 16).max() == 1


def test_a_deep_tiff_may_begin_with_white_or_have_twelve_bits():
    values = (RAMP * 65535).astype("<u2").tobytes()
    head = dict(width=32, height=32, bits=16)
    white_first = tiff_of(data=values, **head).replace(TAG(262, 1), TAG(262, 0))
    assert np.abs(read(white_first)[..., 0] - (255 - RAMP * 255)).max() <= 1
    twelve = (RAMP * 4095).astype(np.uint16).reshape(-1, 2)
    a, b = twelve.T
    packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8)
    content = tiff_of(data=packed.tobytes(), width=32, height=32, bits=12)
    assert np.abs(read(content)[..., 0] - RAMP * 255).max() <= 1


def TAG(number: int, value: int) -> bytes:
    return struct.pack("<HHII", number, 3, 1, value)


@pytest.mark.parametrize("colour", [0, 2])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_colour_of_any_depth_lies_on_white(colour, depth):
    """A PNG of two halves, of which the right one has the transparent colour."""
    if colour and depth < 8:
        pytest.skip("there is no such PNG")
    most, samples = 2**depth - 1, 3 if colour else 1
    key, other = (most // 3, most) if depth > 1 else (0, 1)
    row = "".join(f"{value:0{depth}b}" * samples for value in [other] * 8 + [key] * 8)
    line = b"\0" + int(row, 2).to_bytes(len(row) // 8, "big")
    pixels = zlib.compress(line * 16)
    for transparent, right in ((key, 255), (other, key / most * 255)):
        more = [(b"tRNS", struct.pack(">H", transparent) * samples)]
        image = read(png(16, 16, more, pixels, depth, colour))
        assert np.abs(image[:, 8:] - right).max() <= 1 and image[:, :8].min() == 255


def test_the_deep_picture_of_the_collection_with_a_transparent_grey():
    with open_image(case("grey16_trns.png")) as image:
        assert abs(np.asarray(to_rgb(image)).mean() - 219.3) < 0.5
    with open_image(case("float01_one_hot_pixel.tif")) as image:
        assert abs(np.asarray(to_rgb(image)).mean() - 147.8) < 0.5


def test_lab_and_half_transparent_palettes_are_shown_as_they_are():
    image = Image.merge("RGB", (SOFT, SOFT.rotate(180), SOFT.transpose(0)))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    as_lab = ImageCms.buildTransform(srgb, lab, "RGB", "LAB").apply(image)
    assert np.abs(read(saved(as_lab, "TIFF")) - np.asarray(image, int)).mean() < 2
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 100, 0, 200])
    content = saved(palette, "PNG", transparency=bytes([255, 51]))
    assert np.abs(read(content) - (224, 204, 244)).max() <= 1
