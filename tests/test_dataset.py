"""dataset.py: what is found, how each image is read, when the cache holds."""

import json
import os
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

import dataset
from common.errors import UserError
from dataset import load_folder
from pictures import decode as decoding
from pictures.decode import IMAGE_TYPES, UnreadableImage, load_image
from pictures.folders import check_domains, find_images, find_images_or_explain

SIZE = 8


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_folder(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(noise(12, 10, number)).save(folder / f"{number:03d}.png")
    return folder


def load(folder: Path, cache: Path, **changes) -> dataset.ImageArray:
    options = dict(dataset_size=1000, image_size=SIZE, crop="center", num_workers=0)
    return load_folder(folder, "--domain_A_path", cache_dir=cache, **{**options, **changes})


def raise_if_decoded(*_):
    raise AssertionError("decoded although a complete cache is there")


def relative(folder: Path) -> list[str]:
    return find_images(folder)


def link(target: Path, path: Path) -> None:
    try:
        path.symlink_to(target, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no symbolic links")


# ---- finding files -----------------------------------------------------------------------------


def test_images_are_found_nested_by_type_and_sorted_and_hidden_files_passed_over(tmp_path):
    wanted = ["B.JPG", "a.jpeg", "a/z.png", "a/z/1.webp", "a0.tif", "b.Gif"]
    passed = [".DS_Store", "._a.png", "__MACOSX/x.png", ".git/y.png", "notes.txt", "png"]
    for name in wanted + passed:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert relative(tmp_path) == wanted


JPEG = b"\xff\xd8\xff\xe0" + bytes(12)  # what one begins with
TAKEN = [
    *("1.jfif", "2.jpe", "3.JPG", "4.tga", "5.apng", "6.psd", "7.jp2", "8.mpo", "9.pnm", "ico.ico"),
    *("a.jpg_large", "b.jpg:orig", "c.png!w800", "d.jpg.1", "e.jpeg-small", "without", "f.jpg (1)"),
]
PASSED = "g.heic h.jpg.part i.txt j.png~ k.svg l.JSON m.HEIC n.jpg.tmp o.eps".split()


def test_every_picture_is_found_and_what_is_passed_over_is_told_in_one_line(tmp_path, capsys):
    for name in TAKEN + PASSED:
        (tmp_path / name).write_bytes(JPEG)
    for name in ("text", "t.jpg_text", "empty", "empty.png!w800", "report.json", ".hidden"):
        (tmp_path / name).write_bytes(b"no picture"[: 0 if "empty" in name else None])
    assert find_images_or_explain(tmp_path, "--input") == sorted(TAKEN)
    (line,) = capsys.readouterr().err.splitlines()
    start, _, kinds = line.partition(" picture that Pillow reads: ")
    assert start == f"{tmp_path}: passed over what is no"
    assert {"2 .heic", "2 without type", "1 .txt", "3 others"} <= {*kinds.split(", ")}
    assert sum(int(kind.split()[0]) for kind in kinds.split(", ")) == len(PASSED) + 4


def test_every_suffix_is_one_of_a_type_that_is_read_and_scripts_are_none():
    assert {".jpg", ".jfif", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif"} <= {*IMAGE_TYPES}
    assert (".avif" in IMAGE_TYPES) == features.check("avif")
    assert not {".eps", ".ps", ".pdf", ".wmf", ".emf", ".h5", ".mpg"} & {*IMAGE_TYPES}
    assert not {"EPS", "WMF", "PDF"} & {*decoding.PILLOW_FORMATS}


def test_pictures_of_all_these_names_are_read(tmp_path):
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".jpg_large": "JPEG", ".1": "PNG", ".tga": "TGA"}
    kinds |= {"": "WEBP", ".jp2": "JPEG2000", ".ico": "ICO", ".pcx": "PCX", ".qoi": "QOI"}
    kinds |= {".sgi": "SGI", ".dds": "DDS", ".mpo": "MPO", ".icns": "ICNS", ".im": "IM"}
    kinds |= {".avif": "AVIF"} if features.check("avif") else {}
    kinds = {suffix: kind for suffix, kind in kinds.items() if kind in Image.SAVE}
    image = Image.new("RGB", (32, 32), (200, 100, 50))
    for suffix, kind in kinds.items():
        image.save(tmp_path / f"x{suffix}", kind)
    loaded = load(tmp_path, tmp_path.with_name("cache"))
    assert len(loaded.paths) == len(kinds) and loaded.skipped == 0
    assert np.abs(loaded.images.astype(int) - (200, 100, 50)).max() <= 4


def test_linked_folders_are_followed_and_loops_and_duplicates_are_not(tmp_path):
    make_folder(tmp_path / "elsewhere", 2)
    root = make_folder(tmp_path / "root", 1)
    link(root, root / "loop")
    link(tmp_path / "elsewhere", root / "more")
    link(tmp_path / "elsewhere", root / "more_again")
    link(tmp_path / "gone.png", root / "broken.png")
    assert relative(root) == ["000.png", "more/000.png", "more/001.png"]


def test_one_folder_for_both_domains_is_refused(tmp_path):
    a, b = make_folder(tmp_path / "a", 1), make_folder(tmp_path / "b", 1)
    inner = make_folder(a / "inner", 1)
    check_domains(a, b)
    check_domains(a, tmp_path / "missing")
    for pair in [(a, a), (a, inner), (inner, a), (a, tmp_path / "b" / ".." / "a")]:
        with pytest.raises(UserError, match="--domain_A_path .*--domain_B_path .*set one"):
            check_domains(*pair)
    link(a, tmp_path / "linked")
    with pytest.raises(UserError, match="same folder"):
        check_domains(tmp_path / "linked", a)


# ---- one image ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
@pytest.mark.parametrize("height, width", [(1, 1), (1, 1000), (1000, 1), (9, 31), (64, 64)])
def test_every_mode_and_shape_becomes_a_square_rgb_array(tmp_path, mode, height, width):
    path = tmp_path / f"x.{dict(CMYK='jpg', YCbCr='jpg', F='tif').get(mode, 'png')}"
    if mode == "I;16":
        Image.fromarray(np.full((height, width), 40000, np.uint16)).save(path)
    else:
        Image.fromarray(noise(height, width)).convert(mode).save(path)
    image = load_image(path, SIZE)
    assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "RGB with a transparent colour", "gif"])
def test_transparency_lies_on_white(tmp_path, kind):
    path, save = tmp_path / f"x.{'gif' if kind == 'gif' else 'png'}", {}
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    if kind == "LA":
        image = image.convert("LA")
    elif kind != "RGBA":
        image = Image.new("RGB", (8, 8), "black")
        image.paste((0, 0, 200), (0, 0, 4, 8))
        save = {"transparency": (0, 0, 200)}
        if kind != "RGB with a transparent colour":
            image = image.quantize(2)
            save = {"transparency": image.getpixel((0, 0))}
    image.save(path, **save)
    loaded = load_image(path, 8)
    assert (loaded[:, :4] == 255).all() and (loaded[:, 4:] == 0).all()


def test_sixteen_bits_and_floats_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    want = (ramp * 255).round()
    Image.fromarray((ramp * 65535).astype(np.uint16)).save(tmp_path / "u16.png")
    Image.fromarray((ramp * 65535).astype(np.uint16)).save(tmp_path / "u16.tif")
    Image.fromarray((ramp * 65535).astype(np.int32)).save(tmp_path / "i32.tif")
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "one.tif")
    Image.fromarray((ramp * 255).astype(np.float32)).save(tmp_path / "eight.tif")
    big_endian = (ramp * 65535).astype(">u2").tobytes()
    (tmp_path / "maxval.pgm").write_bytes(b"P5 8 8 65535\n" + big_endian)
    for path in map(tmp_path.joinpath, find_images(tmp_path)):
        loaded = load_image(path, 8).astype(int)
        assert np.abs(loaded - want[..., None]).max() <= 1, path.name


def test_tiles_of_sixteen_bits_and_floats_are_scaled_alike(monkeypatch):
    values = np.random.default_rng(0).normal(0, 1000, (7, 11)).astype(np.float32)
    shorts = values.clip(0).astype(np.uint16)
    values[2, 3], values[3, 4], values[4, 5] = np.nan, np.inf, 70000
    for image in (Image.fromarray(values), Image.fromarray(shorts)):
        whole = np.asarray(decoding.to_rgb(image))
        assert whole.max() == 255 or image.mode != "F"
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "TILE", 3)
            assert (np.asarray(decoding.to_rgb(image)) == whole).all()


def test_constant_black_stays_black_in_every_depth(tmp_path):
    for name, dtype in [("u16.png", np.uint16), ("f.tif", np.float32), ("i.tif", np.int32)]:
        Image.fromarray(np.zeros((8, 8), dtype)).save(tmp_path / name)
        assert (load_image(tmp_path / name, 8) == 0).all()


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (16, 16), "black")
    image.paste((255, 255, 255), (0, 0, 16, 8))  # top half white as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the top goes to the right
    image.save(tmp_path / "x.png", exif=exif)
    loaded = load_image(tmp_path / "x.png", 8)
    assert loaded[:, :3].max() < 50 and loaded[:, 5:].min() > 200


def test_center_crop_is_the_middle_square(tmp_path):
    pixels = noise(8, 20)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert (load_image(tmp_path / "x.png", 8) == pixels[:, 6:14]).all()


def test_celeba_box_is_for_178x218_only(tmp_path):
    pixels = noise(218, 178)
    Image.fromarray(pixels).save(tmp_path / "celeba.png")
    assert (load_image(tmp_path / "celeba.png", 128, "celeba") == pixels[47:175, 25:153]).all()
    assert (load_image(tmp_path / "celeba.png", 178, "center") == pixels[20:198]).all()
    Image.fromarray(pixels[:-1]).save(tmp_path / "other.png")
    other = [load_image(tmp_path / "other.png", 32, crop) for crop in ("celeba", "center")]
    assert (other[0] == other[1]).all()


def test_only_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("x.gif", "x.webp", "x.tif"):
        options = {"lossless": True} if name == "x.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert (load_image(tmp_path / name, 8) == (255, 0, 0)).all()


def hostile(name: str) -> bytes:
    """The bytes of a file that Pillow must not be able to read to its end."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return {
        "empty.png": b"",
        "text.png": b"this is no image\nat all",
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "bomb.png": b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + b"\0" * 32,
        "zero.ppm": b"P6 0 8 255\n",
        "short.ppm": b"P6 8 8 255\nxxx",
        "header.gif": b"GIF89a\x08\0",
        "header.bmp": b"BM" + b"\xff" * 40,
        "header.tif": b"II*\0\xff\xff\xff\x7f",
        "header.webp": b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    }[name]


NAMES = ["empty.png", "text.png", "script.jpg", "bomb.png", "zero.ppm", "short.ppm"]


@pytest.mark.parametrize("name", [*NAMES, "header.gif", "header.bmp", "header.tif", "header.webp"])
def test_hostile_files_give_one_kind_of_error_with_a_one_line_reason(tmp_path, name):
    (tmp_path / name).write_bytes(hostile(name))
    with pytest.raises(UnreadableImage) as caught:
        load_image(tmp_path / name, SIZE)
    assert 0 < len(str(caught.value)) < 200 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.bmp", "x.tif"])
def test_truncated_files_are_unreadable_and_not_grey_below(tmp_path, name):
    Image.fromarray(noise(64, 64)).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImage):
        load_image(tmp_path / name, SIZE)


def test_an_image_over_the_pixel_limit_is_refused_by_its_header(tmp_path, monkeypatch):
    Image.fromarray(noise(8, 8)).save(tmp_path / "x.png")
    monkeypatch.setattr(decoding, "MAX_PIXELS", 63)
    with pytest.raises(UnreadableImage, match="8x8 pixels, accepted are 1 to 63"):
        load_image(tmp_path / "x.png", SIZE)


def test_threads_hold_no_more_pixels_than_one_image_may_have():
    memory, held, most = decoding.PixelsInMemory(10), Counter(), []

    def decode(pixels):
        with memory.hold(pixels):
            held[threading.get_ident()] = min(pixels, 10)
            most.append(held.total())
            time.sleep(0.002)
            del held[threading.get_ident()]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(decode, [10, 3, 3, 4, 9, 1, 6, 12] * 5))
    assert memory.free == 10 and max(most) <= 10 and len(most) == 40


def test_a_file_that_fails_leaves_its_place_in_memory(tmp_path):
    (tmp_path / "x.png").write_bytes(hostile("short.ppm"))
    with pytest.raises(UnreadableImage):
        load_image(tmp_path / "x.png", SIZE)
    assert decoding.IN_MEMORY.free == decoding.MAX_PIXELS


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(UnreadableImage, match="No such file"):
        load_image(tmp_path / "gone.png", SIZE)


# ---- the cache ---------------------------------------------------------------------------------


def test_array_holds_the_images_in_sorted_order_read_only(tmp_path):
    folder = make_folder(tmp_path / "a", 5)
    array = load(folder, tmp_path / "cache")
    assert array.paths == [f"{number:03d}.png" for number in range(5)] and array.skipped == 0
    for number, path in enumerate(array.paths):
        assert (array.images[number] == load_image(folder / path, SIZE)).all()
    assert isinstance(array.images, np.memmap) and not array.images.flags.writeable
    assert load(folder, tmp_path / "cache", dataset_size=3).paths == array.paths[:3]


def test_dataset_size_says_how_many_pictures_it_leaves_out_and_which(tmp_path, capsys):
    folder = make_folder(tmp_path / "a", 5)
    for _ in range(2):  # also from the cache
        assert len(load(folder, tmp_path / "cache", dataset_size=3).images) == 3
        assert (
            f"{folder}: --dataset_size 3 takes the first of 5 pictures in sorted order, up to "
            "'002.png'; 2 are left out"
        ) in capsys.readouterr().err.splitlines()
    load(folder, tmp_path / "cache", dataset_size=5)
    assert "dataset_size" not in capsys.readouterr().err


def test_second_load_decodes_nothing(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "a", 3)
    first = load(folder, tmp_path / "cache")
    monkeypatch.setattr(dataset, "load_image", raise_if_decoded)
    second = load(folder, tmp_path / "cache")
    assert (first.images == second.images).all() and first.paths == second.paths


def test_a_complete_cache_is_used_where_nothing_can_be_written_any_more(tmp_path, monkeypatch):
    folder, cache = make_folder(tmp_path / "a", 3), tmp_path / "cache"
    load(folder, cache)
    monkeypatch.setattr(dataset, "alone_in", raise_if_decoded)  # root may write anywhere
    cache.chmod(0o555)
    assert len(load(folder, cache).images) == 3
    cache.chmod(0o755)


def test_a_moved_folder_keeps_its_cache(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "a" / "faces", 3)
    load(folder, tmp_path / "cache")
    moved = folder.rename(tmp_path / "faces")
    monkeypatch.setattr(dataset, "load_image", raise_if_decoded)
    assert len(load(moved, tmp_path / "cache").images) == 3


def test_two_folders_never_share_a_cache_though_archives_gave_them_equal_names_sizes_and_dates(
    tmp_path,
):
    folders = [tmp_path / side / "faces" for side in "ab"]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        Image.fromarray(noise(SIZE, SIZE, number)).save(folder / "000.ppm")  # of one size always
        os.utime(folder / "000.ppm", (1, 1))
    first, second = (load(folder, tmp_path / "cache") for folder in folders)
    assert not np.array_equal(first.images, second.images)
    assert first.fingerprint() != second.fingerprint()


def test_a_file_replaced_by_one_of_equal_size_and_date_is_decoded_again(tmp_path):
    folder = make_folder(tmp_path / "a", 3)
    Image.fromarray(noise(SIZE, SIZE, 1)).save(folder / "003.ppm")
    os.utime(folder / "003.ppm", (1, 1))
    before = load(folder, tmp_path / "cache").images.copy()
    Image.fromarray(noise(SIZE, SIZE, 2)).save(folder / "003.ppm")
    os.utime(folder / "003.ppm", (1, 1))
    assert not np.array_equal(before, load(folder, tmp_path / "cache").images)


def test_a_fingerprint_is_of_names_and_pixels_and_not_of_place_or_date(tmp_path):
    """A run may move to another machine, and its cache be built again."""
    one, same, other = (make_folder(tmp_path / name, 3) for name in ("one", "same", "other"))
    os.utime(same / "000.png", (1, 1))
    Image.fromarray(noise(12, 10, 9)).save(other / "001.png")
    prints = [load(f, tmp_path / "cache").fingerprint() for f in (one, same, other)]
    assert prints[0] == prints[1] != prints[2]
    assert prints[0].split("-")[0] == prints[2].split("-")[0]
    assert load(one, tmp_path / "cache").fingerprint() == prints[0]  # also from the index


@pytest.mark.parametrize("change", ["touched", "rewritten", "added", "removed", "renamed", "size"])
def test_a_changed_folder_is_decoded_again(tmp_path, change):
    folder, options = make_folder(tmp_path / "a", 3), {}
    load(folder, tmp_path / "cache")
    changed = folder / "001.png"
    if change == "touched":
        os.utime(changed, (1, 1))
    elif change == "rewritten":
        stat = changed.stat()
        Image.fromarray(noise(30, 30, 8)).save(changed)
        os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "added":
        Image.fromarray(noise(12, 10, 9)).save(folder / "000b.png")
    elif change == "removed":
        changed.unlink()
    elif change == "renamed":
        changed.rename(folder / "009.png")
    else:
        options = {"image_size": SIZE * 2}
    array = load(folder, tmp_path / "cache", **options)
    size = options.get("image_size", SIZE)
    want = [load_image(folder / name, size) for name in find_images(folder)]
    assert array.paths == relative(folder) and (array.images == np.stack(want)).all()
    assert len(list((tmp_path / "cache").glob("*.u8"))) == 2


@pytest.mark.parametrize("damage", "array, no array, json, no json, list, null, names".split(", "))
def test_a_damaged_cache_is_built_again_and_one_line_says_so(tmp_path, capsys, damage):
    folder, cache = make_folder(tmp_path / "a", 3), tmp_path / "cache"
    want = np.array(load(folder, cache).images)  # a copy: Windows replaces no mapped file
    (array,), (index,) = cache.glob("*.u8"), cache.glob("*.json")
    assert capsys.readouterr().err == ""
    if damage == "array":
        array.write_bytes(array.read_bytes()[:-1])
    elif damage == "no array":
        array.unlink()
    elif damage == "no json":
        index.unlink()
    else:
        broken = {"json": "{", "list": "[]", "null": '{"paths": null}'}
        broken["names"] = json.dumps({"paths": ["x"] * 3, "skipped": {}})
        index.write_text(broken[damage])
    again = load(folder, cache)
    lines = capsys.readouterr().err.splitlines()
    assert (again.images == want).all() and len(again.paths) == 3
    assert len(lines) == 1 and "built again" in lines[0] and array.name in lines[0]
    assert sorted(path.name for path in cache.iterdir()) == sorted([array.name, index.name])


def test_unreadable_files_are_skipped_and_reported_also_from_the_cache(tmp_path, capsys):
    folder = make_folder(tmp_path / "a", 4)
    (folder / "001.png").write_bytes(b"no image")
    (folder / "002b.png").write_bytes((folder / "002.png").read_bytes()[:200])
    array = load(folder, tmp_path / "cache")
    lines = capsys.readouterr().err.splitlines()
    assert array.skipped == 2 and array.paths == ["000.png", "002.png", "003.png"]
    assert (array.images[2] == load_image(folder / "003.png", SIZE)).all()
    assert len(lines) == 3 and "'001.png'" in lines[0] and "'002b.png'" in lines[1]
    assert "2 of 5 files unreadable" in lines[2]
    assert load(folder, tmp_path / "cache").skipped == 2
    assert capsys.readouterr().err.splitlines() == lines[2:]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows allows no such names")
def test_a_name_with_a_line_break_is_reported_in_one_line(tmp_path, capsys):
    folder = make_folder(tmp_path / "a", 1)
    (folder / "two\nlines\x1b[31m.png").write_bytes(b"no image")
    assert load(folder, tmp_path / "cache").skipped == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "two\\nlines\\x1b[31m.png" in lines[0]


def test_any_number_of_workers_gives_the_same_array(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "a", 25)
    (folder / "013.png").write_bytes(b"no image")
    monkeypatch.setattr(dataset, "CHUNK", 10)
    arrays = [load(folder, tmp_path / f"cache{n}", num_workers=n) for n in (0, 3)]
    assert (arrays[0].images == arrays[1].images).all()
    assert arrays[0].paths == arrays[1].paths and len(arrays[0].paths) == 24


@pytest.mark.parametrize("num_workers", [0, 3])
def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch, num_workers):
    folder, decode = make_folder(tmp_path / "a", 10), load_image

    def interrupted(path, *rest):
        if path.name == "007.png":
            raise KeyboardInterrupt
        return decode(path, *rest)

    monkeypatch.setattr(dataset, "load_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(folder, tmp_path / "cache", num_workers=num_workers)
    assert list(tmp_path.glob("cache/*")) == []


# ---- errors ------------------------------------------------------------------------------------


def refusal(folder: Path, tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, tmp_path / "cache")
    text = str(caught.value)
    assert text.startswith(f"--domain_A_path {folder}: ") and "\n" not in text
    assert "looked for" in text and "set --domain_A_path" in text
    return text


def test_a_missing_folder_is_refused_with_the_nearest_that_exists(tmp_path):
    text = refusal(tmp_path / "no" / "such", tmp_path)
    assert "no such folder" in text and f"exists is {tmp_path}." in text


def test_a_file_for_a_folder_is_refused(tmp_path):
    (tmp_path / "faces.zip").touch()
    assert "this is a file; unpack it" in refusal(tmp_path / "faces.zip", tmp_path)


def test_a_folder_without_images_is_refused_with_what_is_there(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    assert "it is empty" in refusal(folder, tmp_path)
    for name in ("x.txt", "y.txt", "z.npz", "plain", ".DS_Store"):
        (folder / name).touch()
    text = refusal(folder, tmp_path)
    assert "4 other files" in text and "2 .txt" in text and "1 without type" in text


def test_a_folder_without_readable_images_is_refused_each_time(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"no image")
    for _ in range(2):
        assert "none of the 1 files" in refusal(tmp_path / "a", tmp_path)


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    def denied(path):  # chmod would not stop root
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    assert "Permission denied" in refusal(tmp_path, tmp_path)
