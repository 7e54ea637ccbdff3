"""faces.py and photos.py: which square is cut out for a face, and what test.py makes of a photo."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_decode import GREY_LINEAR, LINEAR, WIDE, from_linear

from arguments import test_options as options_of_test
from common.errors import UserError
from demo.drawing import draw_face
from demo.factors import sample_factors
from pictures.decode import cut_square, load_image, open_image, to_rgb
from pictures.faces import FACE_MARGIN, FACE_RISE, LONG_SIDE, FaceDetector, squares_of_faces
from pictures.photos import file_type, paste_back, save_picture, translated

CPU = ("--gpu_ids", "-1")
SMALL = SimpleNamespace(image_size=64, crop="center")


@pytest.fixture(scope="session")
def faces():
    """Three drawn persons, 256x256, that OpenCV's cascade finds."""
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless<5")
    if not hasattr(cv2, "CascadeClassifier"):
        pytest.skip("this OpenCV has no cascades; needs opencv-python-headless<5")
    generator = torch.Generator().manual_seed(0)
    factors = [sample_factors(generator) for _ in range(8)]
    return [draw_face(factors[number], "person", 256, number) for number in (0, 2, 7)]


def scene(faces, places, size=(800, 600)):
    """A photograph of faces at (left, top, side) on a plain wall."""
    image = Image.new("RGB", size, (150, 160, 150))
    for face, (left, top, side) in zip(faces, places, strict=False):
        image.paste(face.resize((side, side), Image.Resampling.LANCZOS), (left, top))
    return image


def apart(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).mean()


# ---- the square of a face ----------------------------------------------------------------------


@pytest.fixture
def cv2_that_finds(monkeypatch, tmp_path):
    """Put a module in OpenCV's place whose cascade finds given (left, top, width, height)."""

    def install(found, size=None):
        class Cascade:
            def __init__(self, file):
                pass

            def empty(self):
                return False

            def detectMultiScale(self, pixels, **_):
                assert size is None or pixels.shape[::-1] == size
                boxes = found(len(pixels)) if callable(found) else found
                return np.array(boxes, np.int32) if boxes else ()

        (tmp_path / "haarcascade_frontalface_alt2.xml").touch()
        fake = SimpleNamespace(
            CascadeClassifier=Cascade,
            setNumThreads=lambda n: None,
            data=SimpleNamespace(haarcascades=str(tmp_path)),
        )
        monkeypatch.setitem(sys.modules, "cv2", fake)

    return install


def test_the_square_is_wider_than_the_box_and_higher_up(cv2_that_finds):
    cv2_that_finds([(150, 250, 100, 100)], size=(500, 450))
    ((left, top, right, bottom),) = FaceDetector().boxes(Image.new("RGB", (400, 350)))
    assert right - left == bottom - top == round(100 * FACE_MARGIN)
    # An edge of 400 / 8 pixels was put around the image for the search.
    assert abs((left + right) / 2 - (150 + 50 - 50)) <= 1
    assert abs((top + bottom) / 2 - (250 + 50 - 100 * FACE_RISE - 50)) <= 1


def test_large_photographs_are_searched_small_and_cut_at_full_size(cv2_that_finds):
    edge = LONG_SIDE // 8
    cv2_that_finds([(edge, edge, 100, 100)], size=(LONG_SIDE * 5 // 4, LONG_SIDE // 2 + 2 * edge))
    photo = Image.new("L", (LONG_SIDE * 3, LONG_SIDE * 3 // 2))
    ((left, top, right, bottom),) = FaceDetector(margin=2.0).boxes(photo)
    assert (right - left, left, top) == (600, -150, round(150 - 300 * FACE_RISE - 300))


def test_faces_are_sorted_from_left_to_right_and_none_is_none(cv2_that_finds):
    cv2_that_finds([(90, 10, 40, 40), (10, 50, 40, 40)])
    lefts = [box[0] for box in FaceDetector().boxes(Image.new("RGB", (300, 200)))]
    assert lefts == sorted(lefts) and len(lefts) == 2
    cv2_that_finds([])
    assert FaceDetector().boxes(Image.new("RGB", (1, 1000))) == []


@pytest.fixture
def detector_of(monkeypatch, tmp_path):
    """A FaceDetector whose cascades find given boxes in a picture as it is, and mirrored."""

    def make(front=(), left=(), right=()):
        class Cascade:
            def __init__(self, file):
                self.profile = "profile" in file

            def empty(self):
                return False

            def detectMultiScale(self, pixels, **_):
                mirrored = pixels[0, 0] > pixels[0, -1]  # the photograph is darker on the left
                boxes = (right if mirrored else left) if self.profile else front
                return np.array(boxes, np.int32) if boxes else ()

        for name in ("frontalface_alt2", "profileface"):
            (tmp_path / f"haarcascade_{name}.xml").touch()
        fake = SimpleNamespace(
            CascadeClassifier=Cascade,
            setNumThreads=lambda n: None,
            data=SimpleNamespace(haarcascades=str(tmp_path)),
        )
        monkeypatch.setitem(sys.modules, "cv2", fake)
        return FaceDetector(margin=1.0)

    return make


def test_faces_from_the_side_are_taken_only_where_none_is_from_the_front_and_named(detector_of):
    photo = Image.linear_gradient("L").rotate(90).resize((400, 400))
    front = squares_of_faces(photo, detector_of([(50, 50, 80, 80)], left=[(9, 9, 90, 90)]), SMALL)
    assert len(front[0]) == 1 and front[1] == [] and front[0][0][0] == 0
    boxes = {}
    for side in ("left", "right"):
        detector = detector_of(**{side: [(90, 90, 80, 80)]})
        boxes[side], notes = squares_of_faces(photo, detector, SMALL)
        assert len(notes) == 1 and "from the side" in notes[0]
    ((left, top, right, bottom),) = boxes["left"]
    assert (left, right, bottom - top) == (40, 120, 80)  # an edge of 400 / 8 was put around
    assert boxes["right"] == [(400 - right, top, 400 - left, bottom)]


def test_a_face_smaller_than_the_model_and_a_picture_without_one_get_a_line_each(detector_of):
    photo = Image.new("L", (2048, 1024))
    detector = detector_of([(200, 200, 99, 99), (400, 200, 40, 40)])
    boxes, notes = squares_of_faces(photo, detector, SimpleNamespace(image_size=100))
    assert len(boxes) == 2
    assert notes == ["face 2 of 2 is only 80 pixels wide, and the model takes 100; expect a blur"]
    boxes, notes = squares_of_faces(photo, detector_of(), SMALL)
    assert boxes == [(512, 0, 1536, 1024)]
    assert len(notes) == 1 and "no face found" in notes[0] and "64 pixels" in notes[0]


def test_a_face_is_framed_alike_wherever_and_however_large_it_is(faces):
    detector, cuts = FaceDetector(), []
    for place in ((0, 0, 256), (100, 50, 256), (300, 200, 380), (620, 400, 160)):
        photo = scene(faces, [place])
        ((left, top, right, bottom),) = detector.boxes(photo)
        cuts.append(((left + right) / 2 - place[0], (top + bottom) / 2 - place[1], right - left))
        cuts[-1] = np.array(cuts[-1]) / place[2]
    assert np.abs(np.array(cuts) - cuts[0]).max() < 0.06


def test_the_command_measures_how_faces_are_framed(cv2_that_finds, tmp_path, script):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)

    def lower(side):  # the side of the picture and an edge of an eighth around it
        size = side // 5 * 4
        left = side // 2 - size // 4
        return [(left, left + round(0.06 * size), size // 2, size // 2)]

    cv2_that_finds(lower)
    assert script("pictures/faces.py", tmp_path, "--dataset_size", 1).out.splitlines() == [
        "found in 100.0%",
        "margin 2.00 (middle 80 %: 2.00 to 2.00)",
        "rise 0.12 (middle 80 %: 0.12 to 0.12)",
    ]
    (tmp_path / "a.png").write_bytes(b"no picture")
    done = script("pictures/faces.py", tmp_path)
    assert "found in 100.0%" in done.out and done.code == 0
    assert "a.png" in done.out + done.err and "Traceback" not in done.err
    cv2_that_finds([])
    assert "no face found in 1 pictures" in script("pictures/faces.py", tmp_path).err


def test_a_square_that_leaves_the_image_goes_on_with_the_edge():
    pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    image = Image.fromarray(pixels)
    cut = cut_square(image, (-2, -3, 6, 5), 8)
    assert (cut == np.pad(pixels, ((3, 0), (2, 2), (0, 0)), mode="edge")).all()
    assert (cut_square(image, (1, 1, 4, 4), 3) == pixels[1:4, 1:4]).all()


@pytest.mark.parametrize("module", [None, SimpleNamespace(__version__="5.0.0")])
def test_without_opencv_4_one_line_says_how_to_install_it(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "cv2", module)
    with pytest.raises(UserError, match="--detect_faces: .*pip install -r requirements-app.txt"):
        FaceDetector()


def test_a_file_that_is_no_cascade_is_refused(faces, tmp_path):
    (tmp_path / "x.xml").write_text("<nothing/>")
    for name in ("x.xml", "missing.xml"):
        with pytest.raises(UserError, match=f"--cascade .*{name}"):
            FaceDetector(str(tmp_path / name))


@pytest.mark.parametrize("flag", ["--detect_faces", "--compare", "--overwrite", "--cascade x.xml"])
def test_options_of_single_pictures_ask_for_input(flag):
    with pytest.raises(UserError, match=f"{flag.split()[0]}.*--input"):
        options_of_test(flag.split())


# ---- test.py --input ---------------------------------------------------------------------------


@pytest.fixture
def translate(workplace, train, script):
    """Run test.py on a folder `photos` with a finished tiny model."""
    assert train("--name", "run").code == 0
    Path("photos").mkdir()

    def run(*flags, output="out"):
        return script(
            "test.py", *CPU, "--input", "photos", "--direction", "BtoA", "--output", output, *flags
        )

    return run


def test_each_face_gives_a_picture_numbered_from_the_left_and_one_keeps_its_name(faces, translate):
    scene(faces, [(500, 300, 200), (40, 80, 256)]).save("photos/two.png")
    scene(faces, [(300, 100, 256)]).save("photos/one.jpg")
    Image.new("RGB", (300, 200), "grey").save("photos/none.bmp")
    Path("photos/broken.png").write_text("no picture")
    done = translate("--detect_faces", "--compare")
    assert done.code == 0, done.err
    assert sorted(os.listdir("out")) == ["none.bmp", "one.jpg", "two_1.png", "two_2.png"]
    assert "3 of 4 pictures translated to out/ as 4 results" in done.out
    assert done.err.count("none.bmp': no face found (upright") == 1
    assert done.err.count("broken.png") == 1
    # The left third of each strip is what the model saw.
    seen = {name: np.array(Image.open(f"out/{name}"))[:, :64] for name in os.listdir("out")}
    photo = Image.open("photos/two.png")
    boxes = FaceDetector().boxes(photo)
    for name, box in zip(("two_1.png", "two_2.png"), boxes, strict=True):
        assert (seen[name] == cut_square(photo, box, 64)).all()
    assert (seen["none.bmp"] == load_image(Path("photos/none.bmp"), 64)).all()

    assert translate("--detect_faces").code == 2  # the same names are there already
    assert translate("--detect_faces", "--overwrite").code == 0
    assert Image.open("out/two_1.png").size == (64, 64)


def test_a_face_is_found_upright_whatever_the_camera_was(faces, translate):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = scene(faces, [(100, 50, 256)])
    photo.save("photos/upright.png")
    photo.transpose(Image.Transpose.ROTATE_90).save("photos/turned.png", exif=exif)
    assert translate("--detect_faces").code == 0
    assert (np.array(Image.open("out/upright.png")) == np.array(Image.open("out/turned.png"))).all()


def test_a_name_that_two_faces_would_share_is_refused_before_anything_is_written(faces, translate):
    scene(faces, [(500, 300, 200), (40, 80, 256)]).save("photos/a.png")
    scene(faces, [(40, 80, 256)]).save("photos/a_1.png")
    done = translate("--detect_faces")
    assert done.code == 2 and "a_1.png" in done.err and not Path("out").exists()


def test_compare_shows_input_output_and_reconstruction(translate):
    Image.open("data/person/03.png").resize((90, 70)).save("photos/x.png")
    assert translate("--compare").code == 0 and translate(output="plain").code == 0
    strip = np.array(Image.open("out/x.png"))
    assert strip.shape == (64, 192, 3)
    assert (strip[:, :64] == load_image(Path("photos/x.png"), 64)).all()
    assert (strip[:, 64:128] == np.array(Image.open("plain/x.png"))).all()
    assert apart(strip[:, 128:], strip[:, 64:128]) > 0


def test_compare_with_a_model_of_one_direction_shows_input_and_output():
    asked = []

    def translate(images, direction, and_back):
        asked.append((direction, and_back))
        return -images, None

    images = torch.full((2, 3, 4, 4), 1.0)
    strips = translated(SimpleNamespace(translate=translate), images, "BtoA", True)
    assert strips.shape == (2, 4, 8, 3) and asked == [("BtoA", True)]
    assert (strips[:, :, :4] == 255).all() and (strips[:, :, 4:] == 0).all()


# ---- test.py PHOTO -----------------------------------------------------------------------------


def test_own_photos_become_anime_by_the_pretrained_model_whatever_was_trained_since(
    workplace, train, script
):
    assert train("--name", "run").code == 0
    os.rename("data/anime/03.png", "data/anime/x.webp")
    done = script("test.py", *CPU, "data/person/03.png", "data/anime")
    assert done.code == 0, done.err
    assert "model_ckpt/pretrained" in done.out.splitlines()[0]
    assert "13 of 13 pictures translated to test_image/" in done.out
    assert len(os.listdir("test_image")) == 13
    fake = np.array(Image.open("test_image/03_anime.png"))
    assert apart(fake, load_image(Path("data/person/03.png"), 64)) > 0

    one = script(
        "test.py",
        *CPU,
        "data/person/04.png",
        "--output",
        "out",
        "--direction",
        "AtoB",
        "--name",
        "run",
    )
    assert "model_ckpt/run" in one.out.splitlines()[0] and os.listdir("out") == ["04_person.png"]
    assert "data/person/04.png -> out/04_person.png" in one.out


def test_own_photos_are_never_written_over(workplace, script):
    assert script("test.py", *CPU, "data/person/03.png").code == 0
    again = script("test.py", *CPU, "data/person/03.png")
    assert again.code == 2 and "03_anime.png exists there already" in again.err
    assert script("test.py", *CPU, "data/person/03.png", "--overwrite").code == 0
    os.rename("data/person/03.png", "data/person/03_anime.png")
    os.rename("data/person/04.png", "data/person/03.png")
    lost = script(
        "test.py",
        *CPU,
        "data/person/03.png",
        "data/person/03_anime.png",
        "--output",
        "data/person",
        "--overwrite",
    )
    assert lost.code == 2 and "is one of the pictures of data/person/03.png" in lost.err


def test_a_model_of_one_direction_chooses_it(workplace, script):
    ckpt = ROOT / "model_ckpt/pretrained/anime_to_person.pth"
    assert script("test.py", *CPU, "data/anime/03.png", "--ckpt", ckpt).code == 0
    assert os.listdir("test_image") == ["03_person.png"]


@pytest.mark.parametrize(
    "flags, line",
    [
        (
            "data/person/03.png --input data/person/04.png",
            "--input data/person/04.png: data/person/03",
        ),
        ("nosuch.jpg", "PHOTO nosuch.jpg: no such file or folder"),
        ("data/person/03.png --scale 0", "--scale"),
        ("--scale 2", "--scale 2: goes with --input"),
        ("--paste", "--paste: goes with --input"),
        ("data/person/03.png --paste --scale 2", "--scale 2: is not read beside --paste"),
        ("data/person/03.png --paste --compare", "--compare: is not read beside --paste"),
    ],
)
def test_what_own_photos_cannot_be_made_of_ends_in_one_line(workplace, script, flags, line):
    done = script("test.py", *CPU, *flags.split())
    assert done.code == 2 and line in done.err and not Path("test_image").exists()


def test_scale_enlarges_what_is_written(workplace, script):
    assert script("test.py", *CPU, "data/person/03.png", "--scale", 4).code == 0
    assert script("test.py", *CPU, "data/person/03.png", "--output", "plain").code == 0
    large = Image.open("test_image/03_anime.png")
    assert large.size == (256, 256)
    plain = Image.open("plain/03_anime.png")
    assert apart(large.resize((64, 64), Image.Resampling.BOX), plain) < 6


def test_paste_changes_the_faces_and_nothing_else_of_a_photograph(faces, workplace, script):
    photo = scene(faces, [(500, 300, 200), (40, 80, 256)])
    photo.save("two.png")
    done = script("test.py", *CPU, "two.png", "--detect_faces", "--paste")
    assert done.code == 0, done.err
    assert os.listdir("test_image") == ["two_anime.png"]
    before, after = np.array(photo), np.array(Image.open("test_image/two_anime.png"))
    assert before.shape == after.shape
    outside = np.ones(before.shape[:2], bool)
    for left, top, right, bottom in FaceDetector().boxes(photo):
        quarter = (right - left) // 4
        middle = np.s_[top + quarter : bottom - quarter, left + quarter : right - quarter]
        assert apart(before[middle], after[middle]) > 5
        outside[max(0, top) : bottom, max(0, left) : right] = False
    assert outside.mean() > 0.5 and (before[outside] == after[outside]).all()


def test_a_face_that_leaves_the_photograph_is_pasted_where_it_is(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "x.png")
    white = np.full((8, 8, 3), 255, np.uint8)
    image, _ = paste_back(tmp_path / "x.png", [((-20, -20, 20, 20), white)], "PNG")
    image = np.array(image)
    assert image.shape == (40, 50, 3) and image[0, 0].min() == 255 and image[:, 20:].max() == 0
    assert (np.diff(image[0, :20, 0].astype(int)) <= 0).all()  # blended at its edge


def pasted(tmp_path, photo, suffix, **save):
    """A photograph and what --paste makes of it with a red face in the middle: their bytes."""
    before, after = tmp_path / f"x{suffix}", tmp_path / f"y{suffix}"
    photo.save(before, **save)
    with open_image(before) as upright:
        left, top = upright.width // 2 - 10, upright.height // 2 - 10
    red = np.broadcast_to(np.array([200, 40, 40], np.uint8), (64, 64, 3))
    image, kept = paste_back(before, [((left, top, left + 20, top + 20), red)], file_type(after))
    save_picture(after, image, **kept)
    with open_image(after) as image:
        face = np.asarray(to_rgb(image).crop((left + 5, top + 5, left + 15, top + 15)), int)
    assert np.abs(face - (200, 40, 40)).max() <= 12, face  # JPEG's and WebP's colours are coarse
    return Image.open(before), Image.open(after)


SAVED = {".png": {}, ".jpg": {"quality": 95}, ".webp": {"quality": 95}}


@pytest.mark.parametrize("suffix", SAVED)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
@pytest.mark.parametrize("turned", [1, 3, 6, 8])
def test_paste_writes_back_profile_exif_and_opacity_so_that_no_other_pixel_changes(
    tmp_path, suffix, mode, turned
):
    if suffix != ".png" and mode == "P" or (suffix, mode) == (".jpg", "RGBA"):
        pytest.skip("there is no such file")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels).resize((90, 60)).convert(mode)
    if mode == "RGBA":
        photo.putalpha(Image.linear_gradient("L").point(lambda v: max(v, 60)).resize(photo.size))
        photo.paste((9, 9, 9, 255), (30, 15, 60, 45))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = turned, "a camera"
    save = {"icc_profile": WIDE, "exif": exif.tobytes(), **SAVED[suffix]}
    before, after = pasted(tmp_path, photo, suffix, **save)
    assert after.info["icc_profile"] == WIDE and after.info["exif"] == before.info["exif"]
    assert after.size == before.size
    a, b = (np.asarray(image.convert("RGBA"), int) for image in (before, after))
    outside = np.ones(a.shape[:2], bool)
    outside[18:42, 33:57] = False
    assert np.abs(a - b)[outside].max() <= (0 if suffix == ".png" else 40)
    assert np.abs(a - b)[outside].mean() <= (0 if suffix == ".png" else 2)
    assert (a[..., 3] == b[..., 3]).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_where_a_profile_cannot_be_kept_the_colours_are_srgbs(tmp_path, suffix):
    photo = Image.new("L", (60, 60), 55).convert("RGB" if suffix == ".bmp" else "L")
    save = {} if suffix == ".bmp" else {"icc_profile": GREY_LINEAR}
    before, after = pasted(tmp_path, photo, suffix, **save)
    assert "icc_profile" not in after.info
    right = 55 if suffix == ".bmp" else from_linear(np.array(55.0))
    assert np.abs(np.asarray(after.convert("RGB"))[:10] - right).max() <= 2
    lab = Image.new("CMYK", (60, 60), (200, 10, 100, 0))
    before, after = pasted(tmp_path, lab, ".jpg", icc_profile=LINEAR)
    assert after.mode == "RGB" and "icc_profile" not in after.info
    assert apart(np.asarray(before.convert("RGB"))[:10], np.asarray(after)[:10]) < 2


def test_what_a_jpeg_cannot_hold_is_left_out_of_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "x" * 70_000
    photo = Image.new("RGBA", (60, 90), (9, 9, 9, 255))
    photo.paste((0, 0, 0, 0), (0, 0, 9, 9))
    photo.save(tmp_path / "x.png", exif=exif.tobytes())
    (tmp_path / "x.png").rename(tmp_path / "x.jpg")  # a PNG by content
    image, kept = paste_back(tmp_path / "x.jpg", [], "JPEG")
    save_picture(tmp_path / "y.jpg", image, **kept)
    after = Image.open(tmp_path / "y.jpg")
    assert after.size == (90, 60) and np.asarray(after)[:4, -4:].min() > 240
    assert kept == {}


def test_a_large_photograph_without_detect_faces_gets_a_hint(workplace, script):
    Image.new("RGB", (600, 500), "grey").save("large.jpg")
    done = script("test.py", *CPU, "large.jpg", "data/person/03.png")
    assert done.code == 0 and done.err.count("--detect_faces looks for it") == 1
    assert "large.jpg" in done.err


def test_missing_opencv_ends_in_one_line_before_anything_is_written(translate, monkeypatch):
    Image.open("data/person/03.png").save("photos/x.png")
    monkeypatch.setitem(sys.modules, "cv2", None)
    done = translate("--detect_faces")
    assert done.code == 2 and "requirements-app.txt" in done.err.splitlines()[-1]
    assert not Path("out").exists() and translate().code == 0
