"""prepare_data.py: which pictures it makes of folders and archives, and how it goes on."""

import io
import json
import os
import re
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from pictures import prepare as prepare_data
from pictures import source as picture_source
from pictures.decode import load_image
from pictures.names import flat_stems


def noise(seed, height=218, width=178):
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height))


def zipped(folder, archive):
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder).as_posix())
    return archive


def report_of(output):
    return json.loads(Path(output, "report.json").read_text())


def files_of(output):
    return {p.name: p.read_bytes() for p in sorted(Path(output).iterdir())}


# ---- any pictures ------------------------------------------------------------------------------


def odd_pictures(folder):
    """Every kind of file that such a folder holds; returns the reasons for those left out."""
    for name in ("deep/er", "deep/other", "__MACOSX", ".hidden"):
        (folder / name).mkdir(parents=True)
    kinds = {
        "RGBA": "clear.png",
        "L": "grey.jpg",
        "P": "palette.png",
        "CMYK": "print.jpeg",
        "1": "bits.bmp",
        "RGB": "日本 é.webp",
    }
    for number, (mode, name) in enumerate(kinds.items(), 10):
        noise(number, 90, 70).convert(mode).save(folder / name)
    Image.fromarray(np.arange(80 * 80, dtype=np.uint16).reshape(80, 80)).save(folder / "deep16.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(20, 50, 80).save(folder / "turned.jpg", exif=exif)
    frames = [noise(seed, 64, 64).convert("P") for seed in (21, 22)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    for number, name in enumerate(("deep/er/same.png", "deep/other/same.png", "same.png"), 30):
        noise(number, 64, 64).save(folder / name)
    noise(40, 64, 64).save(folder / "first.png")
    noise(40, 64, 64).save(folder / "second.png", compress_level=0)
    noise(41, 31, 400).save(folder / "thin.png")
    (folder / "liar.jpg").write_text("no picture")
    whole = (folder / "grey.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    for name in ("notes.txt", ".DS_Store", "__MACOSX/a.png", ".hidden/b.png"):
        (folder / name).write_text("x")
    return {
        "second.png": "duplicate",
        "thin.png": "too small",
        "liar.jpg": "unreadable",
        "cut.jpg": "unreadable",
    }


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_odd_pictures_become_squares_and_the_report_says_what_was_left_out(prepare, tmp_path, form):
    left_out = odd_pictures(tmp_path / "in")
    source = "in" if form == "folder" else zipped(tmp_path / "in", tmp_path / "in.zip")
    done = prepare(source, "out", "--image_size", 48)
    assert done.code == 0, done.err
    report = report_of("out")
    assert report["finished"] and set(report["left_out"]) == set(left_out)
    for name, reason in left_out.items():
        assert report["left_out"][name][0].startswith(reason)
    assert "second.png would equal first.png" in report["left_out"]["second.png"][0]
    assert report["counts"] == {
        "files": 17,
        "not asked for": 0,
        "pictures": 13,
        "duplicate": 1,
        "too small": 1,
        "unreadable": 2,
    }
    assert "13 pictures of 17 files" in done.out and "2 unreadable" in done.out
    made = {
        "clear",
        "grey",
        "palette",
        "print",
        "bits",
        "日本 é",
        "deep16",
        "turned",
        "moving",
        "deep__er__same",
        "deep__other__same",
        "same",
        "first",
    }
    assert {unicodedata.normalize("NFC", path.stem) for path in Path("out").glob("*.png")} == made
    assert len(os.listdir("out")) == len(made) + 1
    for name, files in report["pictures"].items():
        with Image.open(f"out/{files[0]}") as image:
            assert (image.mode, image.size, image.format) == ("RGB", (48, 48), "PNG")
            assert (np.array(image) == load_image(tmp_path / "in" / name, 48)).all()


def test_names_in_an_archive_lead_nowhere_else(prepare, tmp_path):
    noise(0).save("a.png")
    names = [
        "../../up.png",
        "/root.png",
        "..\\back.png",
        "C:\\x\\drive.png",
        "a/../../b.png",
        "x.png",
        "nul\x01byte.png",
        "folder.png/",
        ".hidden.png",
        "../.git/z.png",
    ]
    Path("in").mkdir()
    with zipfile.ZipFile("in/x.zip", "w") as archive:
        for number, name in enumerate(names):
            noise(number).save("a.png")
            archive.writestr(name, Path("a.png").read_bytes())
    before = {path for path in tmp_path.rglob("*")}
    assert prepare("in/x.zip", "deep/out").code == 0
    added = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} - {
        path.relative_to(tmp_path).as_posix() for path in before
    }
    assert added == {"deep", "deep/out"} | {
        f"deep/out/{name}"
        for name in (
            "report.json",
            "up.png",
            "root.png",
            "_back.png",
            "C__x_drive.png",
            "b.png",
            "x.png",
            "nul_byte.png",
        )
    }


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_pictures_of_any_suffix_are_taken_and_one_line_says_what_is_passed_over(
    prepare, tmp_path, form
):
    Path("in").mkdir()
    for number, suffix in enumerate((".jpg", ".jfif", ".jpe", ".jpg_large", "", ".tga")):
        noise(number).save(f"in/{number}{suffix}", "TGA" if suffix == ".tga" else "JPEG")
    for name in ("x.heic", "y.heic", "notes.txt", ".hidden"):
        Path("in", name).write_text("no picture")
    source = "in" if form == "folder" else zipped(tmp_path / "in", tmp_path / "in.zip")
    done = prepare(source, "out")
    assert done.code == 0 and "6 pictures of 6 files" in done.out
    line = f"{source}: passed over what is no picture that Pillow reads: 2 .heic, 1 .txt"
    assert done.err.splitlines().count(line) == 1


def with_names(archive, names):
    """A zip of pictures by names in bytes, as programs write it that do not tell the encoding."""

    class Silent(zipfile.ZipInfo):
        def _encodeFilenameFlags(self):
            return self.filename.encode("latin-1"), self.flag_bits

    with zipfile.ZipFile(archive, "w") as file:
        for number, name in enumerate(names):
            noise(number, 64, 64).save("one.png")
            file.writestr(Silent(name.decode("latin-1")), Path("one.png").read_bytes())


JAPANESE = "表.png 十.png ソ/能.png 顔.png img_予.PNG 暴.jfif 構.jpg_large 貼".split()


@pytest.mark.parametrize(
    "encoding, names",
    [
        ("cp932", JAPANESE),
        ("cp932", ["ソ.png"]),
        ("utf-8", JAPANESE),
        ("utf-8", ["é.png", "Schön.png"]),
        ("gbk", ["动漫/头像.png", "俓.png", "真人.png"]),
        ("cp437", ["Schön.png", "été.png", "Mädchen.png"]),
    ],
)
def test_names_of_an_archive_are_read_in_the_encoding_of_whoever_made_it(prepare, encoding, names):
    with_names("x.zip", [name.encode(encoding) for name in names])
    assert prepare("x.zip", "out").code == 0
    assert sorted(report_of("out")["pictures"]) == sorted(names)
    assert len(os.listdir("out")) == len(names) + 1


@pytest.mark.parametrize("encoding", ["big5", "cp949", "koi8-r", "cp850", "latin-1"])
def test_every_picture_is_found_whatever_the_encoding_of_its_name_is(prepare, encoding):
    texts = {"big5": "功許蓋", "cp949": "한국뷁", "koi8-r": "фот", "cp850": "äöü"}
    texts["latin-1"] = "éàÿ"
    names = [f"{c}{d}.png".encode(encoding) for c in texts[encoding] for d in ("", "\\", "a")]
    with_names("x.zip", names)
    assert prepare("x.zip", "out").code == 0
    assert len(report_of("out")["pictures"]) == len(names)


def test_the_archive_of_the_collection_gives_up_all_its_pictures(prepare):
    archive = ROOT.parent / "shared/cases/cp932_names.zip"
    if not archive.exists():
        pytest.skip(f"{archive} is not here")
    assert "of 4 files" in prepare(archive, "out").out
    report = report_of("out")
    assert sorted({*report["pictures"], *report["left_out"]}) == sorted(
        "表十ソ顔"[i] + ".png" for i in range(4)
    )


def test_archives_that_unpack_to_absurd_sizes_are_refused(prepare, monkeypatch):
    Image.new("RGB", (2000, 2000)).save("flat.bmp")
    with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write("flat.bmp")
    assert prepare("bomb.zip", "harmless").code == 0
    for limit, words in (("MAX_FILE", "1 unreadable"), ("HARMLESS", "over 100 times its own size")):
        monkeypatch.setattr(picture_source, f"{limit}_BYTES", 10**6)
        done = prepare("bomb.zip", "out")
        assert done.code == 2 and words in done.err


def test_files_of_an_archive_that_cannot_be_read_are_left_out_one_by_one(prepare):
    for number, name in enumerate(("a.png", "b.png")):
        noise(number).save(name)
    with zipfile.ZipFile("x.zip", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.write(name)
    content = bytearray(Path("x.zip").read_bytes())
    content[content.index(b"IDAT") + 20] ^= 255  # of a.png: its checksum is wrong now
    Path("x.zip").write_bytes(content)
    assert prepare("x.zip", "out").code == 0
    assert list(report_of("out")["left_out"]) == ["a.png"]


def test_paths_become_names_that_no_file_system_confuses():
    names = [
        "a.png",
        "b/A.jpg",
        "c/a.png",
        "c/a.jpg",
        "c__a.png",
        "é.png",
        "d/e\u0301.png",
        "日本.gif",
        "tar.gz.png",
        "...png",
        "x" * 301 + "y.png",
        "x" * 301 + "z.png",
    ]
    stems = flat_stems(names)
    keys = {unicodedata.normalize("NFC", stem).casefold() for stem in stems.values()}
    assert len(keys) == len(names) and max(len(f"{stem}.png".encode()) for stem in keys) < 200
    assert stems["日本.gif"] == "日本" and stems["tar.gz.png"] == "tar.gz"
    assert stems["c__a.png"] == "c__a" and stems["b/A.jpg"] == "b__A"
    assert flat_stems(names[::-1]) == stems


# ---- interruption and what is there already ----------------------------------------------------


def stop_at(monkeypatch, name):
    """Ctrl-C while a file is opened; returns the files that were opened."""
    real, opened = prepare_data.open_image, []

    def open_image(file):
        opened.append(Path(file).name)
        if Path(file).name == name:
            raise KeyboardInterrupt
        return real(file)

    monkeypatch.setattr(prepare_data, "open_image", open_image)
    return opened


@pytest.mark.parametrize("num_workers", [0, 3])
def test_an_interrupted_call_goes_on_and_ends_as_if_it_had_not_been(
    prepare, tmp_path, monkeypatch, num_workers
):
    odd_pictures(tmp_path / "in")
    flags = ("--num_workers", num_workers)
    assert prepare("in", "whole", "--num_workers", 1).code == 0
    monkeypatch.setattr(prepare_data, "CHUNK", 4)
    with monkeypatch.context() as patch:
        stop_at(patch, "palette.png")
        done = prepare("in", "out", *flags)
    assert done.code == "interrupted" and "same command again" in done.err
    made = files_of("out")
    assert 4 <= len(made) < 13 and not report_of("out")["finished"]
    assert not [name for name in made if name.endswith(".tmp")]

    opened = stop_at(monkeypatch, None)
    assert prepare("in", "out", *flags).code == 0
    again = {path.name for path in (tmp_path / "in").rglob("*")} & set(opened)
    assert "same.png" in again and "bits.bmp" not in again
    assert files_of("out") == files_of("whole")


def test_pictures_that_were_damaged_are_made_again(prepare, tmp_path):
    odd_pictures(tmp_path / "in")
    assert prepare("in", "out").code == 0
    before = files_of("out")
    Path("out/first.png").write_bytes(before["first.png"][:100])
    Path("out/same.png").unlink()
    noise(1, 32, 32).save("out/grey.png")
    assert prepare("in", "out").code == 0 and files_of("out") == before


def same_size(seed):
    """A picture's file whose size does not depend on what it shows."""
    file = io.BytesIO()
    noise(seed, 64, 64).save(file, "BMP")
    return file.getvalue()


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_file_replaced_by_one_of_equal_name_size_and_date_gives_its_new_picture(
    prepare, tmp_path, form
):
    contents = {"a.bmp": same_size(0), "b.bmp": same_size(1), "c.bmp": same_size(1)}

    def source():
        (tmp_path / "in").mkdir(exist_ok=True)
        for name, content in contents.items():
            (tmp_path / "in" / name).write_bytes(content)
            os.utime(tmp_path / "in" / name, (10**9, 10**9))
        return "in" if form == "folder" else zipped(tmp_path / "in", tmp_path / "in.zip")

    def made():
        pixels = {file.name: np.array(Image.open(file)) for file in Path("out").glob("*.png")}
        for name, file in pixels.items():
            right = load_image(tmp_path / "in" / name.replace("png", "bmp"), 64)
            assert (file == right).all(), name
        return sorted(pixels)

    assert prepare(source(), "out").code == 0 and made() == ["a.png", "b.png"]
    contents["a.bmp"] = same_size(2)
    done = prepare(source(), "out")
    assert done.code == 0 and "goes on after 1 files" in done.err
    assert made() == ["a.png", "b.png"]
    contents["b.bmp"], contents["a.bmp"] = same_size(3), b"no picture".ljust(len(same_size(0)))
    assert prepare(source(), "out").code == 0 and made() == ["b.png", "c.png"]
    assert {name: why[0][:10] for name, why in report_of("out")["left_out"].items()} == {
        "a.bmp": "unreadable"
    }
    before = files_of("out")
    assert prepare(source(), "out").code == 0 and files_of("out") == before


def test_other_options_or_other_files_are_refused_and_nothing_changes(prepare, tmp_path):
    Path("in").mkdir()
    Path("there").mkdir()
    for number in range(3):
        noise(number).save(f"in/{number}.png")
    noise(9).save("there/mine.png")
    assert prepare("in", "out").code == 0
    before = files_of("out")
    for flags, words in (
        (["in", "out", "--image_size", 32], "--image_size 64 and not 32"),
        (["in", "out", "--crop", "center"], "--crop celeba"),
        (["there", "out"], "--source "),
        (["in", "there"], "is not empty"),
        (["in", "in/out"], "lies inside --source"),
        (["in", "in"], "lies inside --source"),
        (["in", "in/0.png/out"], "lies inside --source"),
        (["there", "in/0.png"], "--output in/0.png: cannot be used"),
        (["nowhere", "out2"], "--source nowhere: no such folder"),
        (["in/0.png", "out2"], "--source in/0.png: neither a folder nor a zip"),
    ):
        done = prepare(*flags)
        assert done.code == 2 and words in done.err.replace("\\", "/"), (flags, done.err)
        assert "Traceback" not in done.err and len(done.err.splitlines()) == 1
    noise(3).save("in/3.png")
    done = prepare("in", "out")
    assert done.code == 2 and "other files in --source" in done.err
    assert files_of("out") == before and os.listdir("there") == ["mine.png"]
    assert not Path("out2").exists()


def test_pictures_of_a_killed_call_whose_report_lists_none_are_not_mixed_with_others(prepare):
    Path("in").mkdir()
    Path("there").mkdir()
    for number in range(3):
        noise(number).save(f"in/{number}.png")
        noise(9 + number).save(f"there/x{number}.png")
    assert prepare("in", "out").code == 0
    before, report = files_of("out"), report_of("out")
    Path("out/report.json").write_text(json.dumps(report | {"finished": False, "pictures": {}}))
    done = prepare("there", "out")
    assert done.code == 2 and "choose another folder" in done.err
    assert prepare("in", "out").code == 0 and files_of("out") == before


def test_sources_without_pictures_are_refused(prepare):
    Path("empty").mkdir()
    with zipfile.ZipFile("empty.zip", "w") as archive:
        archive.writestr("notes.txt", "x")
    Path("liars").mkdir()
    Path("liars/a.png").write_text("no picture")
    for source, words in (
        ("empty", "no images there"),
        ("empty.zip", "no images in this archive"),
        ("liars", "none of 1 files gave a picture (1 unreadable)"),
    ):
        done = prepare(source, "out")
        assert done.code == 2 and words in done.err
    # Nothing came of it, so other options need no other folder.
    noise(0).save("liars/b.png")
    assert prepare("liars", "out", "--image_size", 32).code == 0


def test_a_full_disk_keeps_what_is_whole(prepare, monkeypatch):
    Path("in").mkdir()
    for number in range(3):
        noise(number).save(f"in/{number}.png")
    real = os.replace

    def replace(old, new):
        if Path(new).name == "2.png":
            raise OSError(28, "No space left on device")
        real(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        done = prepare("in", "out", "--num_workers", 0)
    assert done.code == 2 and "No space left" in done.err
    assert sorted(os.listdir("out")) == ["0.png", "1.png", "report.json"]
    assert prepare("in", "out").code == 0 and len(os.listdir("out")) == 4


# ---- faces -------------------------------------------------------------------------------------


def test_each_face_of_a_photograph_gives_a_picture(prepare, monkeypatch):
    from pictures import faces

    class Detector:  # a face for every 100 pixels of width, the last one too small
        def __init__(self, *_):
            pass

        def boxes(self, image):
            sides = [100] * (image.width // 100)
            return [(100 * i - 5, 0, 100 * i + side, side + 5) for i, side in enumerate(sides)]

    monkeypatch.setattr(faces, "FaceDetector", Detector)
    Path("in").mkdir()
    noise(0, 120, 320).save("in/x.jpg")
    noise(1, 120, 120).save("in/x_1.jpg")
    noise(2, 50, 50).save("in/none.png")
    assert prepare("in", "out", "--detect_faces").code == 0
    assert sorted(os.listdir("out")) == [
        "report.json",
        "x_1.png",
        "x_1_1.png",
        "x_2.png",
        "x_3.png",
    ]
    assert report_of("out")["left_out"] == {"none.png": ["no face"]}
    assert prepare("in", "out2", "--detect_faces", "--min_size", 106).code == 2
    assert "out: goes on after 2 files" in prepare("in", "out", "--detect_faces").err


def test_drawn_faces_are_found_by_opencv(prepare):
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless<5")
    if not hasattr(cv2, "CascadeClassifier"):
        pytest.skip("this OpenCV has no cascades; needs opencv-python-headless<5")
    import torch

    from demo.drawing import draw_face
    from demo.factors import sample_factors

    face = draw_face(sample_factors(torch.Generator().manual_seed(0)), "person", 256)
    photo = Image.new("RGB", (900, 500), "grey")
    photo.paste(face, (600, 100))
    Path("in").mkdir()
    photo.save("in/photo.png")
    photo.crop((0, 0, 500, 500)).save("in/wall.png")
    for workers in (0, 2):
        assert prepare("in", f"out{workers}", "--detect_faces", "--num_workers", workers).code == 0
    assert files_of("out0") == files_of("out2")
    assert sorted(os.listdir("out0")) == ["photo_1.png", "report.json"]
    found = np.array(Image.open("out0/photo_1.png")).astype(int)
    middle = np.asarray(face.resize((64, 64)))[16:48, 16:48].mean((0, 1))
    assert np.abs(found[16:48, 16:48].mean((0, 1)) - middle).max() < 30


# ---- options -----------------------------------------------------------------------------------


def test_every_option_has_a_help_text_and_is_read():
    text = (ROOT / "pictures/prepare.py").read_text() + (ROOT / "pictures/faces.py").read_text()
    for action in prepare_data._parser()._actions:
        assert action.help
        assert action.dest == "help" or re.search(rf"\bopt\.{action.dest}\b", text), action.dest
