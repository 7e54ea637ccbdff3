"""pretrain_encoder.py: its losses by algebra, what it holds out, and whole runs on tiny data."""

import csv
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from common.errors import UserError
from demo.drawing import draw_face
from demo.make import make_demo, training_factors
from demo.truth import factor_labels
from dtn import pretraining as pretrain_encoder
from dtn.encoder import load_encoder
from dtn.losses import balanced_bce, vicreg
from dtn.pretraining import views

TINY = "--width 2 --dim 4 --batch_size 8 --steps 3 --gpu_ids -1 --output f.pth".split()


@pytest.fixture
def pretrain(workplace, script):
    return lambda *args: script("pretrain_encoder.py", *TINY, *args)


def write_table(rows, path="table.csv"):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


# ---- losses -----------------------------------------------------------------------------------


def test_vicreg_of_equal_independent_views_of_deviation_1_costs_nothing():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * math.sqrt(3) / 2
    assert vicreg(x, x).item() == pytest.approx(0, abs=1e-6)


def test_vicreg_charges_difference_little_variance_and_saying_things_twice():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * math.sqrt(3) / 2
    assert vicreg(x, x + 2).item() == pytest.approx(25 * 4, rel=1e-4)
    # half of the deviation, of both views; the tiny number under the root is part of it
    missing = 1 - math.sqrt(0.25 + 1e-4)
    assert vicreg(x / 2, x / 2).item() == pytest.approx(25 * missing, rel=1e-3)
    # both columns the same: covariance 1 off the diagonal, twice, over D = 2, of both views
    twice = x[:, :1].expand(-1, 2)
    assert vicreg(twice, twice).item() == pytest.approx(2.0, rel=1e-3)


def test_balanced_bce_weighs_both_answers_alike_and_passes_over_unknown_ones():
    labels = torch.tensor([[1.0, 0.0], [0.0, math.nan], [0.0, 1.0], [0.0, math.nan]])
    rates = torch.tensor([0.25, 0.5])
    logits = torch.zeros(4, 2)
    # each answer costs log 2; weights of the first column are 1/0.5 once and 1/1.5 thrice
    expected = math.log(2) * (2 + 3 * 2 / 3 + 1 + 1) / 6
    assert balanced_bce(logits, labels, rates).item() == pytest.approx(expected)
    logits.requires_grad_(True)
    balanced_bce(logits, labels, rates).backward()
    assert logits.grad[1, 1] == 0 and logits.grad[:, 0].sum().item() == pytest.approx(0, abs=1e-6)


def test_views_keep_hues_stay_in_range_and_depend_on_the_generator_alone():
    plain = torch.tensor([0.6, -0.2, 0.1])[None, :, None, None].expand(5, 3, 64, 64)
    seen = views(plain, torch.Generator().manual_seed(0))
    assert seen.shape == (5, 3, 64, 64)
    ratio = seen / plain
    assert torch.allclose(ratio, ratio[:, :1, :1, :1].expand_as(ratio), atol=1e-5)
    assert ratio.min() >= 0.8 - 1e-5 and ratio.max() <= 1.2 + 1e-5
    noise = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one, two = (views(noise, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two) and one.abs().max() <= 1


# ---- labels -----------------------------------------------------------------------------------


def test_factors_of_training_images_are_those_that_drew_them(tmp_path):
    make_demo(tmp_path, seed=3, count=5, test_count=2, image_size=32)
    factors = training_factors(tmp_path)
    for stream, style in enumerate(("anime", "person")):
        for i, one in enumerate(factors[style]):
            drawn = np.asarray(draw_face(one, style, 32, texture_seed=3 * i + stream))
            file = np.asarray(Image.open(tmp_path / style / f"{i:05d}.png"))
            assert (drawn == file).all()
    assert not set(factors["anime"]) & set(factors["person"])


def test_factor_labels_have_one_1_per_list_and_names(tmp_path):
    make_demo(tmp_path, count=4, test_count=1, image_size=16)
    people = training_factors(tmp_path)["anime"]
    labels, names = factor_labels(people)
    assert labels.shape == (4, len(names)) and "glasses" in names
    for factor in ("hair_colour", "turn", "mouth"):
        columns = [i for i, name in enumerate(names) if name.startswith(f"{factor}=")]
        assert (labels[:, columns].sum(dim=1) == 1).all()
    for i, one in enumerate(people):
        assert labels[i, names.index(f"hair_colour={one.hair_colour}")] == 1
        assert labels[i, names.index("glasses")] == one.glasses


def test_no_person_of_a_table_with_identities_is_on_both_sides(workplace, script, monkeypatch):
    rows = [["file", "identity", "Male"]]
    rows += [[f"{i:02}.png", 100 + i // 2, i % 2] for i in range(12)]
    write_table(rows)
    monkeypatch.setattr(pretrain_encoder, "FEWEST", 2)
    monkeypatch.setattr("sys.argv", ["x", "--attributes", "table.csv"])
    opt = pretrain_encoder.encoder_options()
    images = {domain: pretrain_encoder.load(opt, domain) for domain in "AB"}
    for seed in range(4):
        opt.seed = seed
        labels = pretrain_encoder.find_labels(opt, images)
        held, by = pretrain_encoder.hold_out(opt, images, labels)
        pairs = held["B"].view(6, 2)
        assert (pairs[:, 0] == pairs[:, 1]).all()
        assert by == "identity" and pairs[:, 0].sum() == 1  # a tenth, and at least one
        assert labels["B"].names == ["Male"]  # a column of numbers is no attribute
        assert not held["A"].any() and not labels["A"].known().any()  # files of the same names


def test_a_split_says_who_is_held_out(workplace, monkeypatch):
    parts = ["train", "valid", "test"]
    rows = [["file", "split", "identity", "Male"]]
    rows += [[f"{i:02}.png", parts[i % 3], i, i % 2] for i in range(12)]
    write_table(rows)
    monkeypatch.setattr(pretrain_encoder, "FEWEST", 2)
    monkeypatch.setattr("sys.argv", ["x", "--attributes", "table.csv"])
    opt = pretrain_encoder.encoder_options()
    images = {domain: pretrain_encoder.load(opt, domain) for domain in "AB"}
    held, by = pretrain_encoder.hold_out(opt, images, pretrain_encoder.find_labels(opt, images))
    assert by == "split" and held["B"].tolist() == [i % 3 > 0 for i in range(12)]


def test_attributes_with_holes_are_learned_and_rare_ones_named(
    workplace, script, monkeypatch, capsys
):
    rows = [["file", "Male", "Hat", "Beard"]]
    rows += [[f"{i:02}.png", i % 2, "" if i == 3 else i % 2, int(i == 5)] for i in range(12)]
    write_table(rows)
    monkeypatch.setattr(pretrain_encoder, "FEWEST", 2)
    monkeypatch.setattr("sys.argv", ["x", "--attributes", "table.csv"])
    opt = pretrain_encoder.encoder_options()
    images = {domain: pretrain_encoder.load(opt, domain) for domain in "AB"}
    labels = pretrain_encoder.find_labels(opt, images)
    assert labels["B"].names == ["Male", "Hat"]
    assert "table.csv: not learned" in (out := capsys.readouterr().out) and ": Beard" in out
    assert labels["B"].values.isnan().sum() == 1 and labels["B"].known().all()
    monkeypatch.setattr(pretrain_encoder, "FEWEST", 7)
    with pytest.raises(UserError, match="--attributes table.csv: no attribute is 0 in 7"):
        pretrain_encoder.find_labels(opt, images)


# ---- runs -------------------------------------------------------------------------------------


def test_without_labels_f_learns_by_itself_and_the_file_is_an_encoder(pretrain):
    done = pretrain()
    assert done.code == 0, done.err
    assert "data/anime: 12 images, 0 with labels, 0 held out" in done.out.replace("\\", "/")
    encoder, options = load_encoder("f.pth")
    assert (options["width"], options["dim"], options["image_size"]) == (2, 4, 64)
    assert options["steps"] == 3 and "--f_encoder f.pth" in done.out
    assert pretrain("--steps", 0, "--output", "start.pth").code == 0
    start = load_encoder("start.pth")[0]
    assert not torch.equal(encoder.linear.weight, start.linear.weight)


def test_an_encoder_that_is_there_is_replaced_only_when_asked_and_said_so_at_once(pretrain):
    Path("f.pth").write_bytes(b"mine")
    done = pretrain()
    assert done.code == 2 and done.err.count("\n") == 1 and done.out == "", (done.out, done.err)
    assert "f.pth" in done.err and "--overwrite" in done.err
    assert Path("f.pth").read_bytes() == b"mine"
    assert pretrain("--overwrite").code == 0
    load_encoder("f.pth")


def test_the_same_command_gives_the_same_bits(pretrain):
    for name in ("a.pth", "b.pth"):
        assert pretrain("--output", name).code == 0
    a, b = (load_encoder(name)[0].state_dict() for name in ("a.pth", "b.pth"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_an_attribute_that_shows_is_learned_and_beats_the_majority(workplace, script):
    random = np.random.default_rng(0)
    rows = [["file", "Bright", "split"]]
    for i in range(200):
        bright = int(random.random() < 0.3)
        pixels = random.integers(0, 120, (64, 64, 3)) + 130 * bright
        Image.fromarray(pixels.astype(np.uint8)).save(f"data/person/p{i:03}.png")
        rows.append([f"p{i:03}.jpg", bright or -1, "train"])
    write_table(rows)
    done = script("pretrain_encoder.py", *TINY, "--attributes", "table.csv", "--steps", 300)
    assert done.code == 0, done.err
    figures = next(line for line in done.out.splitlines() if line.startswith("| Bright"))
    right, majority, balanced = (float(cell.strip(" %")) for cell in figures.split("|")[2:5])
    assert right == balanced == 100 and 60 < majority < 90
    assert "held-out person images: 20" in done.out and "anime images" not in done.out


@pytest.fixture
def people(workplace):
    """data/others, 60 pictures, and a table whose last 20 are for testing and know no Hat."""
    os.mkdir("data/others")
    rows = [["file", "Male", "Hat", "split"]]
    for i in range(60):
        Image.new("RGB", (64, 64), (4 * i, 100, 200)).save(f"data/others/{i:02}.png")
        rows.append([f"{i:02}.png", i % 2, i % 2 if i < 40 else "", "train" if i < 40 else "test"])
    write_table(rows)
    return ("--domain_B_path", "data/others", "--attributes", "table.csv")


def test_an_attribute_that_no_held_out_image_knows_leaves_the_others_their_figures(people, script):
    flags = (*TINY, *people, "--image_size", 32, "--crop", "celeba")
    done = script("pretrain_encoder.py", *flags)
    assert done.code == 0, done.err
    assert "| Male |" in done.out and "| Hat |" not in done.out and "nan" not in done.out
    last = done.out.strip().splitlines()[-1]  # what it says goes with the encoder that it wrote
    assert "dtn --domain_B_path data/others --image_size 32 --crop celeba --f_encoder f.pth" in last


def test_a_split_without_images_for_training_is_refused(people, script):
    table = Path("table.csv").read_text().replace("train", "0").replace("test", "1")
    Path("table.csv").write_text(table)
    done = script("pretrain_encoder.py", *TINY, *people)
    assert done.code == 2 and "column 'split' puts none of the images into 'train'" in done.err


def test_the_demo_learns_from_its_factors(workplace, script, monkeypatch):
    make_demo("data/demo", count=40, test_count=2)
    settings = json.loads((workplace / "data/demo/demo.json").read_bytes())
    monkeypatch.setattr(
        pretrain_encoder, "make_demo", lambda folder: None
    )  # runpy's copy imports it from demo_faces
    monkeypatch.setattr("demo.make.make_demo", lambda folder: None)
    done = script("pretrain_encoder.py", *TINY, "--demo")
    assert done.code == 0, done.err
    assert settings["count"] == 40 and "40 images, 40 with labels, 4 held out" in done.out
    assert "hair_colour=red" in done.out and "--model dtn --demo" in done.out


def test_one_row_of_a_table_is_not_the_label_of_two_faces(pretrain):
    for name, colour in (("a", "red"), ("b", "blue")):
        os.mkdir(f"data/person/{name}")
        Image.new("RGB", (64, 64), colour).save(f"data/person/{name}/0.png")
    write_table([["file", "Male"], ["a/0.png", 1]])
    done = pretrain("--attributes", "table.csv")
    assert done.code == 2
    assert "--attributes: one row, 0, for two images, a/0.png and b/0.png" in done.err


@pytest.mark.parametrize(
    "flags,words",
    [
        (["--attributes", "none.csv"], ["--attributes none.csv"]),
        (["--attributes", "empty.csv"], ["--attributes empty.csv", "'file'"]),
        (["--attributes", "others.csv"], ["--attributes others.csv", "no row", "'x'"]),
        (["--attributes", "text.csv"], ["--attributes text.csv", "0 and 1"]),
        (["--attributes", "others.csv", "--demo"], ["--attributes", "--demo"]),
        (["--domain_A_path", "nowhere"], ["--domain_A_path nowhere"]),
        (["--batch_size", "13"], ["--batch_size 13"]),
        (["--dim", "1"], ["--dim", "at least 2"]),
        (["--attributes", "wide.csv"], ["--attributes wide.csv", "more cells"]),
        (["--attributes", "few.csv"], ["--attributes few.csv", "no attribute"]),
        (["--domain_B_path", "data/person", "--demo"], ["--domain_B_path data/person", "--demo"]),
        (["--output", "data"], ["data", "cannot be written", "a folder"]),
        (["--lr", "1e30"], ["--lr 1e+30", "lower it"]),
    ],
)
def test_bad_input_ends_in_one_clear_line_and_exit_code_2(pretrain, flags, words):
    write_table([["file", "Male"]], "empty.csv")
    write_table([["file", "Male"], ["x.png", 1]], "others.csv")
    write_table([["file", "Male"], ["00.png", "yes"]], "text.csv")
    write_table([["file", "Male"], ["00.png", 1, 1, 0]], "wide.csv")
    write_table([["file", "Male"], ["00.png", 1], ["01.png", 0]], "few.csv")
    done = pretrain("--steps", 30, *flags)
    assert done.code == 2, done.out
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in done.err
    for word in words:
        assert word in last
    assert not os.path.exists("f.pth")


def test_every_option_of_pretrain_encoder_is_read():
    text = (ROOT / "dtn/pretraining.py").read_text()
    options = re.findall(r'add_argument\(\s*"-*(\w+)"', text)
    assert options
    for option in options:
        assert f"opt.{option}" in text, option


def test_a_table_may_leave_cells_empty(tmp_path):
    from pictures.tables import read_column, read_table

    path = tmp_path / "table.csv"
    rows = [["file", "Male", "Hat", "identity"], ["a/b.jpg", -1, "", 7], ["c.png", 1, 1]]
    write_table(rows, path)
    names, table = read_table(path)
    assert names == ["Male", "Hat"] and table["b"][0] == 0 and math.isnan(table["b"][1])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as Excel writes UTF-8
    assert read_table(path)[0] == names
    assert table["c"] == [1, 1] and read_column(path, "identity") == {"b": "7"}
    with pytest.raises(UserError, match="--attributes"):
        read_table(tmp_path / "none.csv")
