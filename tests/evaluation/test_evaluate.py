"""evaluate.py, run for real on tiny data, and attributes.py on made-up groups."""

import csv
import json
import os
import re
import shutil

import pytest
import torch
from conftest import ROOT, bright_anime_dark_persons
from PIL import Image

from benchmarks.instrument import drawn
from common.errors import UserError
from common.tensors import to_uint8
from evaluation.attributes import by_group, read_attributes, train_classifier
from pictures.names import rows_by_name

HERE = ("--gpu_ids", "-1")
FOLDERS = ("--domain_A_path", "data/anime", "--domain_B_path", "data/person")


@pytest.fixture
def run(workplace, train):
    """A finished tiny run, whose anime are bright and whose persons are dark."""
    bright_anime_dark_persons()
    assert train("--name", "run").code == 0
    return workplace


def figures(path="results.json"):
    with open(path) as file:
        return json.load(file)


def test_a_checkpoint_gets_every_figure_in_both_directions(run, script):
    done = script("evaluate.py", *HERE, "--name", "run", *FOLDERS)
    assert done.code == 0, done.err
    results = figures()
    assert results["checkpoint"]["epoch"] == 3
    for direction in ("AtoB", "BtoA"):
        assert results[direction]["N"] == 12
        assert {
            "swd",
            "diversity",
            "retrieval_colour",
            "retrieval_gradient",
            "cycle_l1",
            "region_correlation",
            "memorisation",
            "realism",
            "verdict",
        } <= results[direction].keys()
    assert results["anime"]["floor"]["N"] == 6
    assert "| own input found by colour layout" in done.out
    grids = sorted(os.listdir("results"))
    assert grids == [
        f"{d}_{kind}.png"
        for d in ("AtoB", "BtoA")
        for kind in ("best_median_worst", "nearest_training_images")
    ]


def test_the_same_command_gives_the_same_figures(run, script):
    for name in ("one.json", "two.json"):
        assert script("evaluate.py", *HERE, *FOLDERS, "--output", name).code == 0
    assert figures("one.json") == figures("two.json")


def test_floors_need_no_model_and_are_small(workplace, script):
    done = script("evaluate.py", *HERE, *FOLDERS, "--floors_only")
    assert done.code == 0 and "floors: FD " in done.out
    assert figures().keys() == {"seed", "anime", "person"}


def test_of_ready_outputs_copies_are_found_as_their_inputs(workplace, script):
    done = script("evaluate.py", *HERE, *FOLDERS, "--fakes", "data/person", "--direction", "BtoA")
    assert done.code == 0, done.err
    assert figures()["BtoA"]["retrieval_colour"]["top1"] == 1
    assert figures()["BtoA"]["region_correlation"]["hair"] == pytest.approx(1)


@pytest.mark.parametrize(
    "before", ["{}.png", "b/{}_person.JPG", "{}.gif", "{}.jpg_large", "{}_anime.1.png"]
)
@pytest.mark.parametrize("after", ["{}.png", "{}_anime.png", "{}.png.webp", "{}_person_anime.PNG"])
def test_outputs_and_inputs_are_paired_by_name(before, after):
    inputs = [before.format(i) for i in range(12)]
    outputs = sorted(after.format(name.rpartition(".")[0]) for name in inputs)
    rows = rows_by_name(inputs[:10], outputs, inputs[10:], "fakes")
    assert [outputs[row] for row in rows] == [
        after.format(name.rpartition(".")[0]) for name in inputs[:10]
    ]


def test_names_that_are_equal_as_they_stand_are_pairs_though_they_would_be_alike_without_types():
    names = ["a.gif", "a.png", "a_anime.png", "cafe\u0301.png"]
    rows = rows_by_name(names, [*names[2::-1], "caf\u00e9.png"], [], "fakes")
    assert rows == [2, 1, 0, 3]


def test_a_folder_of_outputs_need_not_have_the_folders_of_the_inputs():
    assert rows_by_name(["a/1.png", "b/2.png"], ["1_anime.png", "2_anime.png"], [], "") == [0, 1]


def test_inputs_that_are_left_out_may_share_names_but_not_with_those_that_are_measured():
    assert rows_by_name(["1.png"], ["1_anime.png"], ["2.png", "2.gif"], "out") == [0]
    with pytest.raises(UserError, match=r"--fakes out: 1 of 1 inputs share a name \(1.png\); one"):
        rows_by_name(["1.png"], ["1_anime.png"], ["1.gif"], "out")


FAKES = ("--fakes", "fakes", "--direction", "BtoA", *FOLDERS)


@pytest.fixture
def fakes(workplace):
    """Ready outputs: copies of the persons, which are numbered without zeros, as test.py names."""
    os.mkdir("fakes")
    for i in range(12):
        os.rename(f"data/person/{i:02}.png", f"data/person/{i}.png")
        shutil.copy(f"data/person/{i}.png", f"fakes/{i}_anime.png")
    return workplace


def test_ready_outputs_are_of_the_inputs_of_their_name(fakes, script):
    done = script("evaluate.py", *HERE, *FAKES)
    assert done.code == 0, done.err
    assert figures()["BtoA"]["retrieval_colour"]["top1"] == 1


def test_ready_outputs_of_the_first_inputs_are_found_among_those_of_all(fakes, script):
    done = script("evaluate.py", *HERE, *FAKES, "--dataset_size", 8)
    assert done.code == 0, done.err
    assert figures()["BtoA"]["retrieval_colour"]["top1"] == 1


@pytest.mark.parametrize(
    "spoil,words",
    [
        (lambda: os.remove("fakes/3_anime.png"), "1 of 12 inputs have no output (3.png)"),
        (lambda: open("fakes/3_anime.png", "w").close(), "1 of 12 inputs have no output (3.png)"),
        (
            lambda: shutil.copy("fakes/3_anime.png", "fakes/12_anime.png"),
            "1 of 13 outputs have no input (12_anime.png)",
        ),
        (lambda: open("data/person/3.png", "w").close(), "have no input (3_anime.png)"),
        (lambda: os.remove("data/person/3.png"), "have no input (3_anime.png)"),
        (
            lambda: shutil.copy("fakes/3_anime.png", "fakes/3.png"),
            "2 of 13 outputs share a name (3.png, 3_anime.png)",
        ),
        (
            lambda: os.rename("fakes/3_anime.png", "fakes/three.png"),
            "1 of 12 inputs have no output (3.png), 1 of 12 outputs have no input (three.png)",
        ),
    ],
)
def test_outputs_and_inputs_without_each_other_are_refused(fakes, script, spoil, words):
    spoil()
    done = script("evaluate.py", *HERE, *FAKES)
    assert done.code == 2 and not os.path.exists("results.json")
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: --fakes fakes: ") and words in last


@pytest.fixture(scope="module")
def faces():
    return {domain: to_uint8(x).numpy() for domain, x in drawn(120).items()}


@pytest.fixture
def drawings(workplace, faces):
    """60 drawn faces in each of data/anime and data/person, and 60 other anime in data/more."""
    for folder, domain, rows in (
        ("anime", "anime", slice(60)),
        ("person", "person", slice(60)),
        ("more", "anime", slice(60, 120)),
    ):
        shutil.rmtree(f"data/{folder}", ignore_errors=True)
        os.makedirs(f"data/{folder}")
        for i, pixels in enumerate(faces[domain][rows]):
            Image.fromarray(pixels).save(f"data/{folder}/{i:02}.png")
    return workplace


def judged(script, fakes):
    done = script("evaluate.py", *HERE, *FOLDERS, "--fakes", fakes, "--direction", "BtoA")
    assert done.code == 0, done.err
    return done.out, figures()["BtoA"]


def test_untranslated_inputs_are_said_to_paint_over(drawings, script):
    out, found = judged(script, "data/person")
    assert "person to anime paints over: FD" in out
    assert found["realism"]["fd"] == found["realism"]["baselines"]["untranslated"]["fd"]
    assert found["realism"]["detail"]["kept"] == pytest.approx(1, abs=1e-3)


def test_one_output_for_all_inputs_is_said_to_be_collapsed(drawings, script):
    for i in range(60):
        if i != 7:
            shutil.copy("data/more/07.png", f"data/more/{i:02}.png")
    out, found = judged(script, "data/more")
    assert "person to anime collapsed: " in out and "paints over" not in out


def test_real_images_of_the_domain_are_neither_said_to_paint_over_nor_collapsed(drawings, script):
    out, found = judged(script, "data/more")
    assert found["verdict"] == "" and "paints over" not in out and "| collapsed | no |" in out
    assert found["realism"]["fd"] < 2 * found["realism"]["floor"]["fd"]
    assert "| FD (real) |" in out and "| FD of the inputs recoloured |" in out


def test_without_its_features_evaluate_says_that_fd_is_left_out(workplace, script, monkeypatch):
    def missing():
        raise UserError("features.pth: there is no such file")

    monkeypatch.setattr("evaluation.realism.load_features", missing)
    done = script("evaluate.py", *HERE, *FOLDERS, "--fakes", "data/person", "--direction", "BtoA")
    assert done.code == 0, done.err
    assert "FD left out: features.pth: there is no such file" in done.out
    assert "| FD (real) | - |" in done.out
    assert figures()["BtoA"]["realism"] is None


@pytest.mark.parametrize(
    "flags,words",
    [
        (["--domain_A_path", "data/person", "--domain_B_path", "data/anime"], ["swapped"]),
        (
            ["--domain_A_path", "few", "--domain_B_path", "data/person"],
            ["--domain_A_path: 1 images of few", "at least 6"],
        ),
        ([], ["--domain_A_path: 1 held out of data/anime", "at least 6"]),
        ([*FOLDERS, "--attributes", "one.csv", "few/0.png"], ["--attributes few/0.png"]),
        (["--domain_A_path", "nowhere"], ["--domain_A_path nowhere"]),
        (["--name", "none"], ["--name none"]),
        (
            ["--fakes", "few", "--direction", "BtoA", *FOLDERS],
            [
                "--fakes few: 12 of 12 inputs have no output (00.png, 01.png, 02.png, ...)",
                "(0.png)",
            ],
        ),
        (["--fakes", "few"], ["--direction"]),
        (["--floors_only"], ["--domain_A_path"]),
        (["--demo", *FOLDERS], ["--domain_A_path data/anime: is not read beside --demo"]),
        ([*FOLDERS, "--attributes", "few/0.png"], ["--attributes few/0.png"]),
        ([*FOLDERS, "--attributes", "one.csv", "one.csv", "one.csv"], ["more than two"]),
    ],
)
def test_bad_input_ends_in_one_clear_line_and_exit_code_2(run, script, flags, words):
    os.mkdir("few")
    shutil.copy("data/anime/00.png", "few/0.png")
    with open("one.csv", "w") as file:
        file.write("file,Male\n00.png,1\n")
    done = script("evaluate.py", *HERE, *flags)
    assert done.code == 2, done.out
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in done.err
    for word in words:
        assert word in last


def copied(change, suffix="png"):
    """data/more: the images that the run was trained on, changed, under other names."""
    for domain in ("anime", "person"):
        os.makedirs(f"data/more/{domain}")
        for i in range(12):
            with Image.open(f"data/{domain}/{i:02}.png") as image:
                change(image).save(f"data/more/{domain}/x{11 - i}.{suffix}", quality=75)


MORE = ("--domain_A_path", "data/more/anime", "--domain_B_path", "data/more/person")


@pytest.mark.parametrize(
    "change,suffix",
    [
        (lambda image: image, "png"),
        (lambda image: image, "jpg"),
        (lambda image: image.resize((100, 100)), "webp"),
        (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "bmp"),
    ],
)
def test_that_images_were_trained_on_is_said_first_whatever_their_names(
    run, script, change, suffix
):
    copied(change, suffix)
    done = script("evaluate.py", *HERE, "--name", "run", *MORE)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    for line, domain, letter in zip(lines, ("anime", "person"), "AB", strict=False):
        assert line.startswith(f"warning: {domain}: 11 of 12 images ")  # one was held out
        assert f"--domain_{letter}_path" in line
    assert figures()["anime"]["trained_on"] == figures()["person"]["trained_on"] == 11
    assert "real anime: N 12, 11 of them trained on" in done.out


def test_memorisation_is_not_defined_by_images_that_were_trained_on(run, script):
    done = script("evaluate.py", *HERE, "--name", "run", *FOLDERS)
    assert done.code == 0, done.err
    assert figures()["BtoA"]["memorisation"]["ratio"] is None
    row = "| distance to training images over that of held-out ones | not defined | not defined |"
    assert row in done.out
    assert not re.search(r"\d{6}|\binf\b|\bnan\b", done.out.split("real anime", 1)[1])


def test_of_new_images_nothing_is_said_and_the_ratio_stands(run, script):
    random = torch.Generator().manual_seed(5)
    for domain, shift in (("anime", 150), ("person", 10)):
        os.makedirs(f"data/more/{domain}")
        for i in range(12):
            coarse = torch.randint(0, 90, (4, 4, 3), generator=random) + shift
            image = Image.fromarray(coarse.to(torch.uint8).numpy()).resize((64, 64))
            image.save(f"data/more/{domain}/{i:02}.png")
    done = script("evaluate.py", *HERE, "--name", "run", *MORE)
    assert done.code == 0, done.err
    assert "warning" not in done.out and figures()["anime"]["trained_on"] == 0
    assert 0.1 < figures()["BtoA"]["memorisation"]["ratio"] < 10


def test_where_all_real_images_are_the_same_what_is_measured_by_them_is_not_defined(
    workplace, script
):
    for i in range(1, 12):
        shutil.copy("data/anime/00.png", f"data/anime/{i:02}.png")
    done = script("evaluate.py", *HERE, *FOLDERS, "--fakes", "data/person", "--direction", "BtoA")
    assert done.code == 0, done.err
    assert "| spread over real | not defined |" in done.out
    assert "| FD over that of real images | not defined |" in done.out
    assert figures()["BtoA"]["diversity"]["spread"] is None
    assert figures()["BtoA"]["diversity"]["nearest"] is None


@pytest.mark.parametrize("place", ["results.json", "there/figures.json"])
def test_figures_and_grids_are_overwritten_only_where_that_is_asked(run, script, place):
    command = ("evaluate.py", *HERE, "--name", "run", *FOLDERS, "--output", place)
    grid = os.path.join(place.removesuffix(".json"), "AtoB_best_median_worst.png")
    for file in (place, grid):
        os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
        with open(file, "w") as opened:
            opened.write("mine")
        done = script(*command)
        assert done.code == 2 and done.out == ""
        assert done.err == (
            f"error: --output {place}: {os.path.basename(file)} exists there already; choose "
            "another name, or replace what is there with --overwrite\n"
        )
        with open(file) as opened:
            assert opened.read() == "mine"
        if file == place:
            os.remove(place)
    assert script(*command, "--overwrite").code == 0
    assert script(*command).code == 2
    assert script(*command, "--overwrite").code == 0


@pytest.mark.parametrize(
    "name,words",
    [
        ("results", "--output results: has no suffix"),
        ("there.json", "--output there.json: is a folder; name a file in it"),
        (".", "--output .: is a folder"),
        ("taken.json", "--output taken.json: its grids go to the folder taken, which is a file"),
        ("taken/results.json", "taken/results.json: cannot be written"),
    ],
)
def test_an_output_that_could_not_be_written_is_refused_before_the_work(
    workplace, script, name, words
):
    os.mkdir("there.json")
    open("taken", "w").close()
    done = script("evaluate.py", *HERE, *FOLDERS, "--floors_only", "--output", name)
    assert done.code == 2 and done.err.startswith(f"error: {words}")
    assert done.out == ""  # nothing was measured yet


@pytest.mark.parametrize(
    "flags,words",
    [
        ("--fakes data/person --ckpt nowhere", "--ckpt nowhere: is not read beside --fakes"),
        (
            "--fakes data/person --train_A_path nowhere",
            "--train_A_path nowhere: is not read beside",
        ),
        ("--fakes data/person --demo", "--demo: is not read beside --fakes data/person"),
        (
            "--fakes data/person --attributes a.csv",
            "--attributes a.csv: is not read beside --fakes",
        ),
        ("--floors_only --name run", "--name run: is not read beside --floors_only"),
        (
            "--floors_only --fakes data/person",
            "--fakes data/person: is not read beside --floors_only",
        ),
        ("--floors_only --features f.pth", "--features f.pth: is not read beside --floors_only"),
        (
            "--attributes a.csv b.csv --direction BtoA",
            "--attributes a.csv b.csv: is not read beside",
        ),
    ],
)
def test_an_option_that_would_not_be_read_is_refused(workplace, script, flags, words):
    done = script("evaluate.py", *HERE, *FOLDERS, *flags.split())
    assert done.code == 2 and words in done.err and "leave one of them out" in done.err


def test_with_few_images_near_duplicates_are_told_beside_those_of_real_ones(workplace, script):
    flags = ("--fakes", "data/person", "--direction", "BtoA")
    done = script("evaluate.py", *HERE, *FOLDERS, *flags)
    assert figures()["BtoA"]["diversity"]["near_duplicates_real"] == 2 / 12
    assert "| near duplicates (real) | " in done.out and "(16.7%)" in done.out


def test_attributes_are_read_by_file_name_with_minus_one_as_no(tmp_path):
    path = tmp_path / "list.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["file", "Male", "Other"], ["a.jpg", "1", "x"], ["b.jpg", "-1", "x"]])
    assert read_attributes(path) == [{"a": {"Male": 1}, "b": {"Male": 0}}]
    path.write_text("file,Other\na,1\n")
    with pytest.raises(UserError, match="--attributes .*no column of Male"):
        read_attributes(path)


def test_of_several_tables_only_groups_that_all_have_are_read(tmp_path):
    a, b, c = (tmp_path / f"{name}.csv" for name in "abc")
    a.write_text("file,Male,Eyeglasses\na.jpg,1,0\n")
    b.write_text("file,Black_Hair,Male\nb.jpg,1,-1\n")
    c.write_text("file,Gray_Hair\nc.jpg,1\n")
    assert read_attributes(a, b) == [{"a": {"Male": 1}}, {"b": {"Male": 0}}]
    with pytest.raises(UserError, match="no column of Male.* in each"):
        read_attributes(a, b, c)


def test_a_table_labels_its_own_folder_alone_where_both_folders_have_the_same_names(run, script):
    for folder, shift in (("train", 0), ("test", 1)):  # the label is whether a face is bright
        os.mkdir(folder)
        rows = ["file,Male"]
        for i in range(24):
            label = (i + shift) % 2
            Image.new("RGB", (64, 64), (40 + 150 * label, i, 0)).save(f"{folder}/{i:05}.png")
            rows.append(f"{i:05}.png,{label}")
        with open(f"{folder}.csv", "w") as file:
            file.write("\n".join(rows))
    flags = ("--domain_A_path", "data/anime", "--domain_B_path", "test", "--train_B_path", "train")
    done = script("evaluate.py", *HERE, *flags, "--attributes", "train.csv")
    assert done.code == 2
    assert "--attributes: one row, 00000, for two images, 00000.png and 00000.png" in done.err
    done = script("evaluate.py", *HERE, *flags, "--attributes", "train.csv", "test.csv")
    assert done.code == 0, done.err
    assert "12 test persons with, 12 without, 12 training persons without, 12 with it" in done.out


def test_persons_of_training_and_of_testing_get_the_labels_of_their_own_tables(monkeypatch):
    monkeypatch.setattr(train_classifier, "__defaults__", (100,))  # steps
    images = (torch.arange(80) % 2 * 1.0 - 0.5)[:, None, None, None].expand(-1, 3, 64, 64)
    names = [f"{i:05}.png" for i in range(80)]
    bright = {f"{i:05}": {"Male": i % 2} for i in range(80)}
    dark = {name: {"Male": 1 - row["Male"]} for name, row in bright.items()}
    person = {"test": -images, "names": names, "train": images, "train_names": names}
    found = by_group([bright, dark], person, -images, -images, images, seed=0)["Male"]
    assert found["classifier_accuracy"] == 1


def test_two_rows_of_one_file_name_that_differ_are_refused(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("file,Male\ntrain/0.png,1\ntest/0.png,0\n")
    with pytest.raises(UserError, match="--attributes .*train/0.png and test/0.png have one name"):
        read_attributes(path)
    path.write_text("file,Male\ntrain/0.png,1\ntest/0.png,1\n")
    assert read_attributes(path) == [{"0": {"Male": 1}}]


def test_tables_of_training_and_testing_are_joined_and_what_is_missing_is_told(run, script):
    shutil.copytree("data/person", "test")
    for i in range(12):
        os.rename(f"test/{i:02}.png", f"test/t{i:02}.png")
    for table, prefix in (("train.csv", ""), ("test.csv", "t")):
        with open(table, "w") as file:
            file.writelines(["file,Male\n", *(f"{prefix}{i:02}.png,{i % 2}\n" for i in range(12))])
    folders = ("--domain_A_path", "data/anime", "--domain_B_path", "test")
    done = script("evaluate.py", *HERE, *folders, "--attributes", "train.csv", "test.csv")
    assert done.code == 0, done.err
    assert figures()["groups"]["Male"]["N"] == 6  # of the test persons
    assert "6 test persons with, 6 without, 5 training persons without, 6 with it" in done.out
    assert "too few to tell" in done.out
    assert script("publish.py", "--name", "run", "--output", "out").code == 0
    flags = ("--ckpt", "out", "--attributes", "test.csv", "--overwrite")
    done = script("evaluate.py", *HERE, *folders, *flags)
    assert done.code == 0 and "--train_B_path" in done.out


def test_groups_tell_who_loses_an_attribute_there_and_back(monkeypatch):
    monkeypatch.setattr(train_classifier, "__defaults__", (100,))  # steps
    generator = torch.Generator().manual_seed(0)

    def people(labels):  # the attribute is a bright left half
        images = torch.rand(len(labels), 3, 64, 64, generator=generator) - 0.5
        images[..., :32] += 0.5 * labels[:, None, None, None]
        return images

    labels = (torch.arange(80) % 2).float()
    names = [f"p{i}.png" for i in range(80)]
    table = {f"p{i}": {"Male": int(label)} for i, label in enumerate(labels)}
    person = {"test": people(labels), "names": names, "train": people(labels), "train_names": names}
    nobody = people(torch.zeros(80))
    lost = by_group([table], person, person["test"], nobody, nobody, seed=0)["Male"]
    assert lost["classifier_accuracy"] > 0.95 and lost["majority_rate"] == 0.5
    assert lost["kept_after_there_and_back"] < 0.1 and lost["share_of_persons_made_of_anime"] < 0.1
    kept = by_group([table], person, person["test"], person["test"], nobody, seed=0)["Male"]
    assert kept["kept_after_there_and_back"] > 0.9 and kept["gained_after_there_and_back"] < 0.1
    assert kept["retrieval_colour"]["top1"] == 1


def test_every_option_of_evaluate_is_read_somewhere():
    files = ("evaluation/evaluate.py", "evaluation/images.py", "test.py")
    text = "".join((ROOT / file).read_text() for file in files)
    options = re.findall(r'add_argument\(\s*"-*(\w+)"', text)
    assert options
    for option in options:
        assert f"opt.{option}" in text, option
