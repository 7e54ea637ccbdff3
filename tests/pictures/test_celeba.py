"""celeba.py: its tables in each form that they are downloaded in, and what is chosen by them."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_prepare_data import noise, zipped

from common.errors import UserError
from evaluation.attributes import read_attributes
from pictures.celeba import read_table
from pictures.decode import load_image
from pictures.tables import read_column

PERSONS = {  # partition, Male, Eyeglasses
    "000001": (0, -1, -1),
    "000002": (0, 1, 1),
    "000003": (1, 1, -1),
    "000004": (2, -1, 1),
    "000005": (0, 1, -1),
}


def tables(folder, kind):
    """CelebA's two tables as the official text files or as Kaggle's CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "txt":
        parts = [f"{name}.jpg {row[0]}" for name, row in PERSONS.items()]
        values = [f"{name}.jpg {row[1]:2d} {row[2]:2d}" for name, row in PERSONS.items()]
        values = [str(len(PERSONS)), "Male Eyeglasses ", *values]
    else:
        parts = [f"{name}.jpg,{row[0]}" for name, row in PERSONS.items()]
        values = [f"{name}.jpg,{row[1]},{row[2]}" for name, row in PERSONS.items()]
        parts, values = ["image_id,partition", *parts], ["image_id,Male,Eyeglasses", *values]
    (folder / f"list_eval_partition.{kind}").write_text("\n".join(parts) + "\n")
    (folder / f"list_attr_celeba.{kind}").write_text("\n".join(values) + "\n")


@pytest.fixture(params=["official zip", "official folder", "kaggle folder", "kaggle zip"])
def celeba(request, tmp_path):
    """The source of a made-up CelebA in each form that it is downloaded in."""
    edition, form = request.param.split()
    plain = tmp_path / "plain"
    pictures = plain / "img_align_celeba"
    if edition == "kaggle":
        pictures /= "img_align_celeba"
    pictures.mkdir(parents=True)
    for number, name in enumerate(PERSONS):
        noise(number).save(pictures / f"{name}.jpg", quality=95)
    if edition == "kaggle":
        tables(plain, "csv")
        return zipped(plain, tmp_path / "down" / "archive.zip") if form == "zip" else plain
    tables(tmp_path / "Eval", "txt")
    (tmp_path / "Eval" / "list_attr_celeba.txt").rename(tmp_path / "list_attr_celeba.txt")
    return zipped(plain, tmp_path / "Img" / "img_align_celeba.zip") if form == "zip" else pictures


def test_a_partition_of_celeba_is_cropped_as_training_crops_and_has_its_attributes(
    celeba, prepare, tmp_path
):
    done = prepare(celeba, "out", "--partition", "train")
    assert done.code == 0, done.err
    assert "3 pictures of 3 files (2 more were not asked for)" in done.out
    made = sorted(path.name for path in Path("out").glob("*.png"))
    assert made == ["000001.png", "000002.png", "000005.png"]
    (original,) = (tmp_path / "plain").rglob("000002.jpg")
    pixels = np.array(Image.open("out/000002.png"))
    assert (pixels == load_image(original, 64, "celeba")).all()
    assert read_attributes(Path("out/attributes.csv")) == [
        {
            "000001": {"Male": 0, "Eyeglasses": 0},
            "000002": {"Male": 1, "Eyeglasses": 1},
            "000005": {"Male": 1, "Eyeglasses": 0},
        }
    ]


def test_identities_go_into_the_table_so_that_nobody_is_on_both_sides(celeba, prepare):
    numbers = zip(PERSONS, (7, 7, 2880, 1, 2), strict=True)
    people = [f"{name}.jpg {number}" for name, number in numbers]
    (celeba.parent / "identity_CelebA.txt").write_text("\n".join(people))
    assert "whose face it is" in prepare(celeba, "out").out
    lines = Path("out/attributes.csv").read_text().splitlines()
    assert lines[0] == "file,identity,Male,Eyeglasses" and lines[3] == "000003.png,2880,1,0"
    assert read_column(Path("out/attributes.csv"), "identity")["000002"] == "7"
    assert read_attributes(Path("out/attributes.csv"))[0]["000002"] == {"Male": 1, "Eyeglasses": 1}


@pytest.mark.parametrize(
    "flags, names",
    [
        ([], ["000001", "000002", "000003", "000004", "000005"]),
        (["--partition", "test"], ["000004"]),
        (["--attributes", "Male=1"], ["000002", "000003", "000005"]),
        (["--attributes", "Male=1", "Eyeglasses=0", "--partition", "train"], ["000005"]),
    ],
)
def test_partition_and_attributes_choose_together(tmp_path, prepare, flags, names):
    Path("faces").mkdir()
    tables(tmp_path, "csv")
    for number, name in enumerate(PERSONS):
        noise(number, 40, 50).save(f"faces/{name}.png")
    assert prepare("faces", "out", *flags).code == 0
    assert sorted(path.stem for path in Path("out").glob("*.png")) == names


def test_tables_of_other_pictures_give_no_attributes(tmp_path, prepare):
    Path("faces").mkdir()
    tables(tmp_path, "txt")
    for name in ("000001", "mine"):
        noise(len(name)).save(f"faces/{name}.png")
    assert prepare("faces", "out").code == 0
    assert not Path("out/attributes.csv").exists()


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "wrong columns"),
        ("image_id,partition,more\n000001.jpg,0,1\n", "wrong columns"),
        ("000001.jpg\n", "wrong columns"),
        (" , ,,\n\n", "wrong columns"),
        ("a b c\n000001.jpg 0\n", "wrong columns"),
        ("000001.jpg 0\n000002.jpg 3\n", "line 2 "),
        ("000001.jpg 0\n000002.jpg\n", "line 2 "),
        ("image_id,partition\n000001.jpg,0\n000002.jpg,one\n", "line 3 "),
    ],
)
def test_a_table_that_is_no_partition_is_refused_by_line(text, words):
    with pytest.raises(UserError, match=f"^parts.txt: .*{words}"):
        read_table("parts.txt", text, range(3), columns=1)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--partition", "train"], "--partition train: needs .*list_eval_partition.txt"),
        (["--attributes", "Male=1"], "--attributes Male=1: needs .*list_attr_celeba"),
        (["--attributes", "Male=yes"], "--attributes: Male=yes"),
        (["--partition", "everything"], "--partition.*everything"),
    ],
)
def test_what_celeba_alone_has_is_refused_without_its_tables(prepare, flags, words):
    Path("faces").mkdir()
    noise(0).save("faces/a.png")
    done = prepare("faces", "out", *flags)
    assert done.code == 2 and re.search(words, done.err) and not Path("out").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--attributes", "Mail=1"], "--attributes Mail: .*it has Male, Eyeglasses"),
        (["--partition", "train"], "puts none of the 1 files"),
        (["--attributes", "Male=1"], "says this of none"),
    ],
)
def test_tables_that_do_not_fit_the_pictures_are_refused(prepare, tmp_path, flags, words):
    Path("faces").mkdir()
    tables(tmp_path, "txt")
    noise(0).save("faces/mine.png")
    done = prepare("faces", "out", *flags)
    assert done.code == 2 and re.search(words, done.err) and not Path("out").exists()
