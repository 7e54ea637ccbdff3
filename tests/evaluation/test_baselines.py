"""baselines.py: inputs in the target's colours, and how much fine structure outputs keep."""

import pytest
import torch
from torch.nn.functional import interpolate

from evaluation.baselines import baselines, detail_kept, recoloured


def noise(count=8, seed=0, size=32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator) - 0.5


def test_recoloured_inputs_have_the_targets_mean_and_contrast_by_channel():
    real = noise(seed=1) * torch.tensor([0.2, 0.4, 0.6])[:, None, None] + 0.1
    found = recoloured(noise(), real)
    over = (0, 2, 3)
    assert torch.allclose(found.mean(dim=over), real.mean(dim=over), atol=1e-4)
    assert torch.allclose(found.std(dim=over), real.std(dim=over), atol=1e-4)
    assert detail_kept(noise(), found)["kept"] > 0.8


def test_the_first_baseline_is_the_inputs_themselves():
    x = noise()
    assert torch.equal(baselines(x, noise(seed=1))["untranslated"], x)


def test_untranslated_and_inverted_outputs_keep_all_detail():
    x = noise()
    assert detail_kept(x, x)["kept"] == pytest.approx(1, abs=1e-5)
    assert detail_kept(x, -x)["kept"] == pytest.approx(1, abs=1e-5)


def test_other_noise_flat_images_and_one_image_repeated_keep_none():
    x = noise()
    assert detail_kept(x, noise(seed=1))["kept"] < 0.1
    assert detail_kept(x, torch.full_like(x, 0.5)) == {"kept": 0, "shuffled": 0}
    once = detail_kept(x, x[:1].expand_as(x))
    assert once["kept"] < 0.2


def test_what_is_only_smooth_has_no_detail_of_the_input():
    coarse = interpolate(noise(size=4), 32, mode="bicubic")
    assert detail_kept(coarse + 0.3 * noise(seed=2), coarse)["kept"] < 0.3


def test_shuffled_pairs_say_what_chance_is():
    x = noise()
    found = detail_kept(x, x)
    assert found["shuffled"] < 0.1
    same = x[:1].expand_as(x)
    assert detail_kept(same, same)["shuffled"] == pytest.approx(1, abs=1e-5)
