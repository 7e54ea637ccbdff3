"""test.py: grids of both domains, and one picture in, one picture out."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

TEST = ("--gpu_ids", "-1")


@pytest.fixture
def run(workplace, train):
    """A finished tiny run."""
    assert train("--name", "run").code == 0
    return workplace


def pictures(folder):
    return {path: np.array(Image.open(Path(folder, path))) for path in sorted(os.listdir(folder))}


def test_grids_show_each_picture_beside_its_translation(run, script):
    paths = ("--domain_A_path", "data/anime", "--domain_B_path", "data/person")
    done = script("test.py", *TEST, *paths, "--batch_size", 8)
    assert done.code == 0, done.err
    kinds = ("anime_real", "anime_test", "person_real", "person_test")
    expected = [f"{number}__{kind}.png" for number in (0, 1) for kind in kinds]
    assert sorted(os.listdir("test_image")) == [*expected, "index.html"]
    assert "0__person_real.png" in Path("test_image/index.html").read_text()
    grid = np.array(Image.open("test_image/1__person_real.png"))
    ninth = np.array(Image.open("data/person/08.png"))
    assert (grid[2:66, 2:66] == ninth).all()  # full range, in order

    script("test.py", *TEST, "--input", "data/person", "--direction", "BtoA", "--output", "out")
    translated = np.array(Image.open("out/08.png")).astype(int)
    tile = np.array(Image.open("test_image/1__anime_test.png"))[2:66, 2:66]
    assert np.abs(tile - translated).max() <= 1  # torchvision rounds on its own


def test_grids_of_an_earlier_call_do_not_stay_beside_new_ones(run, script):
    Path("test_image").mkdir()
    Path("test_image/README.md").write_text("stays")
    paths = ("--domain_A_path", "data/anime", "--domain_B_path", "data/person")
    assert script("test.py", *TEST, *paths, "--batch_size", 4).code == 0
    assert len(os.listdir("test_image")) == 3 * 4 + 2
    done = script("test.py", *TEST, *paths, "--direction", "BtoA")
    assert done.code == 0
    assert "--domain_A_path data/anime: not read, since only BtoA is translated" in done.out
    left = ["0__anime_test.png", "0__person_real.png", "README.md", "index.html"]
    assert sorted(os.listdir("test_image")) == left
    assert "1__person_real.png" not in Path("test_image/index.html").read_text()


@pytest.mark.parametrize(
    "source, output",
    [
        ("data/person", "data/person"),
        ("data/person/03.png", "data/person"),
        ("data", "data/out"),
        ("data", "data/person/../deep/er"),
    ],
)
def test_inputs_are_never_written_over_nor_outputs_translated_again(run, script, source, output):
    before = {path: path.read_bytes() for path in Path("data").rglob("*.png")}
    flags = ("--input", source, "--direction", "BtoA", "--output", output, "--overwrite")
    done = script("test.py", *TEST, *flags)
    assert done.code == 2 and f"--output {output}: " in done.err and "name a" in done.err
    assert before == {path: path.read_bytes() for path in Path("data").rglob("*.png")}


def test_without_paths_the_held_out_images_of_the_run_are_used(run, script):
    done = script("test.py", *TEST)
    assert done.code == 0 and "1 images that training held out" in done.out
    assert "run/latest.pth (epoch 3, averaged weights)" in done.out.replace("\\", "/")
    assert np.array(Image.open("test_image/0__anime_real.png")).shape == (64, 64, 3)  # just one


def test_a_folder_of_odd_pictures_gives_one_output_each_with_names_kept(run, script):
    odd = Path("odd")
    (odd / "deep" / "er").mkdir(parents=True)
    face = Image.open("data/person/00.png")
    face.resize((200, 130)).save(odd / "wide.jpg")
    face.resize((40, 333)).convert("L").save(odd / "deep" / "tall.PNG")
    face.convert("RGBA").save(odd / "deep" / "er" / "clear.webp")
    face.convert("CMYK").save(odd / "cmyk.jpeg")
    face.convert("P").save(odd / "moving.gif")
    face.convert("1").save(odd / "bits.bmp")
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(odd / "deep16.tiff")
    (odd / "liar.png").write_text("no picture")
    (odd / ".DS_Store").write_text("x")
    (odd / "notes.txt").write_text("x")
    flags = ("--input", odd, "--direction", "BtoA", "--output", "out", "--batch_size", 3)
    done = script("test.py", *TEST, *flags)
    assert done.code == 0, done.err
    assert "7 of 8 pictures" in done.out and "liar.png" in done.err
    files = sorted(str(p.relative_to("out")) for p in Path("out").rglob("*") if p.is_file())
    assert files == sorted(
        [
            "wide.jpg",
            str(Path("deep/tall.PNG")),
            str(Path("deep/er/clear.webp")),
            "cmyk.jpeg",
            "moving.gif.png",
            "bits.bmp",
            "deep16.tiff.png",
        ]
    )
    for file in files:
        with Image.open(Path("out", file)) as image:
            assert (image.mode, image.size) == ("RGB", (64, 64))

    again = script("test.py", *TEST, *flags)
    assert again.code == 2 and "--overwrite" in again.err
    assert script("test.py", *TEST, *flags, "--overwrite").code == 0


def test_two_pictures_for_one_name_are_refused_and_none_is_lost(run, script):
    Path("twins").mkdir()
    Image.open("data/person/00.png").save("twins/a.gif")
    Image.open("data/person/01.png").save("twins/a.gif.png")
    flags = ("--input", "twins", "--direction", "BtoA", "--output", "out")
    done = script("test.py", *TEST, *flags)
    assert done.code == 2 and "a.gif.png" in done.err and not Path("out").exists()


def test_one_file_in_one_file_out(run, script):
    flags = ("--input", "data/person/03.png", "--direction", "BtoA", "--output", "out")
    assert script("test.py", *TEST, *flags, "--ckpt", "model_ckpt/run/epoch_0003.pth").code == 0
    assert list(pictures("out")) == ["03.png"]


def test_directions_differ_and_do_not_depend_on_the_batch_size(run, script):
    results = []
    for direction, size in (("AtoB", 1), ("BtoA", 1), ("AtoB", 5)):
        output = f"out-{direction}-{size}"
        flags = ("--input", "data/anime", "--direction", direction, "--output", output)
        assert script("test.py", *TEST, *flags, "--batch_size", size).code == 0
        results.append(np.stack(list(pictures(output).values())).astype(int))
    assert np.abs(results[0] - results[2]).max() <= 1
    assert np.abs(results[0] - results[1]).max() > 1


def change(path, **changes):
    state = torch.load(path, weights_only=True)
    for key, value in changes.items():
        state["options"][key] = value
    torch.save(state, path)


@pytest.mark.parametrize(
    "flags,words",
    [
        (["--name", "none"], ["--name none", "run"]),
        (["--ckpt", "none.pth"], ["none.pth", "no such checkpoint"]),
        (["--ckpt", "model_ckpt/run/cut.pth"], ["cut.pth", "damaged"]),
        (["--ckpt", "model_ckpt/run/other.pth"], ["other.pth", "netG_A does not fit"]),
        (["--input", "none.jpg", "--direction", "AtoB", "--output", "o"], ["--input none.jpg"]),
        (["--input", "model_ckpt", "--direction", "AtoB", "--output", "o"], ["no images"]),
        (["--input", "liar.png", "--direction", "AtoB", "--output", "o"], ["none of 1"]),
        (["--input", "data", "--direction", "AtoB", "--output", "liar.png"], ["cannot be written"]),
        (["--domain_A_path", "none"], ["--domain_A_path none"]),
        (["--demo", "--domain_B_path", "data"], ["--domain_B_path data: is not read"]),
        (["--domain_A_path", "data/person"], ["--domain_B_path", "same folder"]),
    ],
)
def test_bad_input_ends_in_one_clear_line_and_exit_code_2(run, script, flags, words):
    with open("model_ckpt/run/latest.pth", "rb") as file:
        whole = file.read()
    for name, content in (("cut", whole[:5000]), ("other", whole)):
        with open(f"model_ckpt/run/{name}.pth", "wb") as file:
            file.write(content)
    change("model_ckpt/run/other.pth", ngf=6)
    with open("liar.png", "w") as file:
        file.write("no picture")
    done = script("test.py", *TEST, *flags)
    assert done.code == 2, done.out
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in done.err
    for word in words:
        assert word in last
