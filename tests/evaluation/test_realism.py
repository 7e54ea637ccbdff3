"""realism.py: what painting over, collapse, noise and real images are called, on drawn faces."""

import pytest
import torch

from benchmarks.instrument import drawn
from evaluation.features import load_features
from evaluation.metrics import collapse_report
from evaluation.realism import realism, verdict


@pytest.fixture(scope="module")
def faces():
    return drawn(120)


@pytest.fixture(scope="module")
def judge(faces):
    net = load_features()

    def judge(outputs):
        inputs, real = faces["person"][:60], faces["anime"][:60]
        found = realism(net, inputs, outputs, real)
        return found, verdict(found, collapse_report(outputs, real))

    return judge


def test_untranslated_inputs_paint_over_and_keep_all_detail(faces, judge):
    found, said = judge(faces["person"][:60])
    assert said.startswith("paints over: FD")
    assert found["detail"]["kept"] == pytest.approx(1, abs=1e-4)
    assert found["fd"] == found["baselines"]["untranslated"]["fd"]


def test_a_filter_over_the_inputs_paints_over(faces, judge):
    inputs = faces["person"][:60]
    for outputs in ((1.1 * inputs).clamp(-1, 1), (inputs + 0.1).clamp(-1, 1), inputs.flip(3)):
        assert judge(outputs)[1].startswith("paints over")


def test_other_real_images_of_the_domain_are_neither_collapsed_nor_painted(faces, judge):
    found, said = judge(faces["anime"][60:])
    assert said == ""
    assert found["detail"]["kept"] < 0.5


def test_one_real_image_repeated_is_collapsed(faces, judge):
    assert judge(faces["anime"][60:61].repeat(60, 1, 1, 1))[1].startswith("collapsed")


def test_noise_is_not_called_good(judge):
    noise = torch.rand(60, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert judge(noise)[1] != ""
