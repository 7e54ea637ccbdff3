"""train_features.py: its loss by algebra, its changes of colour, and whole runs on tiny data."""

import math
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from evaluation.features import load_features
from evaluation.train_features import TEMPERATURE, nt_xent, rate, recolour

TINY = "--width 1 --batch_size 4 --steps 3 --save_every 2 --gpu_ids -1 --output f.pth".split()


def test_views_that_equal_their_other_view_and_no_other_image_are_all_found():
    loss, found = nt_xent(torch.eye(4).repeat(2, 1), None)
    # one partner at cosine 1, six others at cosine 0
    assert loss.item() == pytest.approx(math.log(1 + 6 * math.exp(-1 / TEMPERATURE)), rel=1e-4)
    assert found.item() == 1


def test_images_of_the_other_domain_are_not_in_the_way():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).repeat(2, 1)  # two images that look the same
    apart = torch.tensor([0, 1]).repeat(2)
    assert nt_xent(rows, None)[0].item() == pytest.approx(math.log(3))
    assert nt_xent(rows, apart)[0].item() == pytest.approx(0, abs=1e-6)


def test_length_does_not_count():
    rows = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert nt_xent(rows, None)[0].item() == pytest.approx(nt_xent(7 * rows, None)[0].item())


def test_changes_of_colour_are_mild_and_each_image_has_its_own():
    x = torch.zeros(6, 3, 8, 8)
    x[:, :, 4:] = torch.tensor([0.5, 0.0, -0.5])[:, None, None]
    found = recolour(x, torch.Generator().manual_seed(0))
    assert (found - x).abs().max() < 0.5
    assert len({round(v, 5) for v in found.flatten(1).mean(dim=1).tolist()}) == 6
    assert (found[:, 0, 6, 0] > found[:, 2, 6, 0]).all()  # red stays red


def test_the_rate_climbs_and_falls_to_nothing(options):
    from argparse import Namespace

    opt = Namespace(lr=1.0, steps=1000)
    assert rate(opt, 0) < 0.05 < 0.9 < rate(opt, 60)
    assert rate(opt, 999) < 1e-4


def test_features_that_are_there_are_replaced_only_when_asked(workplace, script):
    Path("f.pth").write_bytes(b"mine")
    done = script("evaluation/train_features.py", *TINY)
    assert done.code == 2 and done.err.count("\n") == 1 and "--overwrite" in done.err
    assert Path("f.pth").read_bytes() == b"mine"
    assert script("evaluation/train_features.py", *TINY, "--overwrite").code == 0
    load_features(Path("f.pth"))


def test_a_run_writes_features_and_equal_seeds_give_equal_bits(workplace, script):
    for name in ("a.pth", "b.pth"):
        run = script("evaluation/train_features.py", *TINY, "--output", name)
        assert run.code == 0, run.err
        assert f"Features: {name}" in run.out
    a, b = (load_features(workplace / name).state_dict() for name in ("a.pth", "b.pth"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert (
        script("evaluation/train_features.py", *TINY, "--seed", "1", "--output", "c.pth").code == 0
    )
    c = load_features(workplace / "c.pth").state_dict()
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_a_missing_folder_and_too_large_a_batch_are_one_line(workplace, script):
    for args, message in (
        (("--domain_A_path", "nowhere"), "--domain_A_path"),
        (("--batch_size", "50"), "--batch_size 50"),
        (("--lr", "0"), "--lr"),
    ):
        run = script("evaluation/train_features.py", *TINY, *args)
        assert run.code == 2
        assert message in run.err
        assert "Traceback" not in run.err


def test_every_option_of_train_features_is_read_and_explained():
    text = (ROOT / "evaluation/train_features.py").read_text()
    for flag in ("width", "batch_size", "steps", "save_every", "lr", "seed", "output"):
        assert f"opt.{flag}" in text
