"""Sets made so that algebra, or chance with known width, says what a figure must be."""

import math

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from evaluation import metrics
from evaluation.metrics import (
    bootstrap,
    collapse_report,
    colour_layout,
    gradient_layout,
    memorisation,
    near_duplicate_share,
    nearest,
    region_correlation,
    relative_spread,
    retrieval,
    sliced_wasserstein,
    wasserstein_1d,
)

LAYOUTS = pytest.mark.parametrize("layout", [colour_layout, gradient_layout])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n, seed=0):
    return torch.rand(n, 3, 64, 64, generator=seeded(seed)) * 2 - 1


def faces(n, seed=0):
    """Smooth pictures (n, 3, 64, 64): like real ones, they differ mostly at large scales."""
    coarse = torch.rand(n, 3, 6, 6, generator=seeded(seed)) * 1.8 - 0.9
    return F.interpolate(coarse, 64, mode="bilinear")


def shuffled(images, seed=0):
    return images[torch.randperm(len(images), generator=seeded(seed))]


def chance(n, k, deviations=4):
    """Highest share of n trials that chance k / n explains."""
    return k / n + deviations * math.sqrt(k / n * (1 - k / n) / n)


# ---- distribution ------------------------------------------------------------------------------


def test_distance_on_a_line_is_what_transport_costs():
    x = torch.randn(3, 50, generator=seeded())
    assert wasserstein_1d(x, x.flip(1)).tolist() == [0, 0, 0]
    shift = torch.tensor([0.5, -2.0, 0.0])
    assert torch.allclose(wasserstein_1d(x, shuffled(x.T).T + shift[:, None]), shift.abs())
    points = torch.tensor([[0.0, 0, 0, 1]]), torch.tensor([[1.0, 1, 0, 1]])  # two of four move by 1
    assert wasserstein_1d(*points).tolist() == [0.5]


def test_pyramid_adds_up_and_holds_only_what_a_halving_loses():
    finest, middle, coarsest = metrics._laplacian_pyramid(torch.full((1, 3, 64, 64), 0.3))
    assert finest.abs().max() < 1e-6 and middle.abs().max() < 1e-6
    assert torch.allclose(coarsest, torch.full((1, 3, 16, 16), 0.3))

    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)  # kept by a halving, but at the border
    finest, middle, _ = metrics._laplacian_pyramid(ramp)
    assert finest[..., 6:-6].abs().max() < 1e-6 and middle[..., 6:-6].abs().max() < 1e-6

    checks = (-1.0) ** (torch.arange(64)[:, None] + torch.arange(64)).expand(1, 3, 64, 64)
    finest, middle, coarsest = metrics._laplacian_pyramid(checks)  # lost by the first halving
    assert torch.allclose(finest, checks, atol=1e-6) and coarsest.abs().max() < 1e-6


def test_patches_are_taken_where_told_and_standardised_per_channel_of_the_set():
    level = faces(20) * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1) + 1
    y, x = torch.randint(58, (2, 20, 5), generator=seeded())
    patches = metrics._patches(level, y, x)
    assert patches.shape == (100, 147)
    channels = patches.view(100, 3, 49).transpose(0, 1).flatten(1)
    assert torch.allclose(channels.mean(dim=1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(channels.std(dim=1, correction=0), torch.ones(3))
    wanted = level[7, 1, y[7, 2] : y[7, 2] + 7, x[7, 2] : x[7, 2] + 7].flatten()
    assert torch.corrcoef(torch.stack([patches.view(20, 5, 3, 49)[7, 2, 1], wanted]))[0, 1] > 0.9999


def test_sliced_wasserstein_is_zero_on_equal_sets_and_grows_with_change():
    real = faces(60)

    def distance(outputs):
        return sliced_wasserstein(real, outputs, seeded(), 16, 64)

    assert distance(real) == {64: 0, 32: 0, 16: 0}
    # Not seen, by design: each set is normalised.
    assert max(distance(real * 0.5 + 0.2).values()) < 0.1
    little, much = distance(real + 0.05 * noise(60)), distance(real + 0.5 * noise(60))
    assert all(1 < little[size] < much[size] for size in (64, 32, 16))
    half = real + 1.0 * (torch.arange(60) < 30).view(-1, 1, 1, 1)
    assert distance(half)[16] > 10 * max(distance(half)[64], 1)  # brightness is coarse
    assert distance(F.avg_pool2d(real + noise(60), 3, 1, 1))[64] > 10


@pytest.mark.parametrize("size, levels", [(48, [48, 24]), (50, [50, 25]), (16, [16])])
def test_sliced_wasserstein_names_the_levels_of_any_size(size, levels):
    small = noise(4)[..., :size, :size]
    assert list(sliced_wasserstein(small[:2], small[2:], seeded())) == levels


def test_sliced_wasserstein_draws_from_the_given_generator_alone():
    first, again, other = (
        sliced_wasserstein(noise(3), noise(3, seed=1), seeded(seed), 4, 8) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_sliced_wasserstein_refuses_unequal_sets_and_names_both():
    with pytest.raises(UserError, match=r"a \(3, .* and b \(4, .* 3 images"):
        sliced_wasserstein(noise(3), noise(4), seeded())


# ---- variety -----------------------------------------------------------------------------------


def test_nearest_is_the_root_mean_square_difference_of_thumbnails(monkeypatch):
    grey = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 3, 64, 64)
    distances, indices = nearest(grey * 0.9, grey)
    assert torch.allclose(distances, torch.tensor([0.1, 0.0, 0.1]), atol=1e-6)
    assert indices.tolist() == [0, 1, 2]
    distances, indices = nearest(grey[[0, 0, 2]], grey[[0, 0, 2]], exclude_same_index=True)
    assert distances.tolist() == [0, 0, 2] and indices[:2].tolist() == [1, 0]
    assert nearest(grey[:1], grey[2:])[0].item() == 2

    real = faces(50)
    whole = nearest(real, real, True)
    monkeypatch.setattr(metrics, "CHUNK", 7)
    for one, chunked in zip(whole, nearest(real, real, True), strict=True):
        assert torch.equal(one, chunked)
    with pytest.raises(UserError, match="queries .* and references"):
        nearest(real[:4], real, exclude_same_index=True)


def test_about_one_real_image_in_a_hundred_counts_as_near_duplicate():
    real = faces(400)
    assert 0.005 <= near_duplicate_share(real, real) <= 0.015
    assert near_duplicate_share(faces(400, seed=1), real) < chance(400, 4)
    assert near_duplicate_share(faces(800, seed=1), real) < chance(400, 4)  # cut to as many
    copies = real.clone()
    copies[:20] = copies[20:40]
    assert near_duplicate_share(copies, real) == pytest.approx(0.1, abs=0.015)
    # With copies among the real images the percentile is 0; outputs that are one must still tell.
    assert near_duplicate_share(real[:1].expand(400, -1, -1, -1), copies) == 1


@pytest.mark.parametrize("draw", [faces, noise])
def test_varied_outputs_are_not_collapsed(draw):
    report = collapse_report(draw(150, seed=1), draw(150))
    assert report["spread"] == pytest.approx(1, abs=0.1)
    assert report["nearest"] == pytest.approx(1, abs=0.1)
    assert report["near_duplicates"] < chance(150, 1.5) and report["collapsed"] is False


def test_one_image_with_a_little_noise_is_collapsed():
    real = faces(100)
    report = collapse_report(real[:1] + 0.01 * noise(100), real)
    assert report["spread"] < 0.05 and report["nearest"] < 0.05
    assert report["near_duplicates"] == 1 and report["collapsed"] is True


def test_five_images_in_turn_are_collapsed_although_their_spread_is_that_of_real_ones():
    real = faces(100)
    report = collapse_report(real[:5].repeat(20, 1, 1, 1) + 0.01 * noise(100), real)
    assert report["spread"] > metrics.COLLAPSE_SPREAD
    assert report["near_duplicates"] == 1 and report["collapsed"] is True


def test_low_spread_alone_is_collapsed():
    real = faces(50).repeat(2, 1, 1, 1)  # copies among the real images: no output is as near
    outputs = 0.4 * faces(100)
    report = collapse_report(outputs, real)
    assert report["spread"] == relative_spread(outputs, real) == pytest.approx(0.4, abs=0.02)
    assert report["near_duplicates"] == 0 and report["collapsed"] is True


def test_memorisation_tells_copies_from_new_images():
    training, held_out = faces(300), faces(200, seed=1)
    assert memorisation(training[:100], training, held_out) == {"ratio": 0, "share": 1}
    same = memorisation(held_out, training, held_out)
    assert same == {"ratio": 1, "share": pytest.approx(0.01)}
    new = memorisation(faces(250, seed=2), training, held_out)
    assert new["ratio"] == pytest.approx(1, abs=0.1) and new["share"] < chance(200, 2, 5)
    half = torch.cat([training[:50] + 0.01 * noise(50), held_out[:50]])
    assert memorisation(half, training, held_out)["share"] == pytest.approx(0.5, abs=0.02)


def test_a_figure_over_a_spread_or_distance_of_0_is_not_defined():
    real, same = faces(20), faces(1).repeat(20, 1, 1, 1)
    assert memorisation(real, same, same)["ratio"] is None
    assert relative_spread(real, same) is None
    report = collapse_report(real, same)
    assert report["spread"] is None and report["nearest"] is None and not report["collapsed"]


# ---- content -----------------------------------------------------------------------------------


def test_colour_layout_holds_the_means_of_areas():
    image = torch.zeros(1, 3, 64, 64)
    image[0, 1, 8:16, 56:] = 0.7
    expected = torch.zeros(3, 8, 8)
    expected[1, 1, 7] = 0.7
    assert torch.allclose(colour_layout(image).view(3, 8, 8), expected)


def test_gradient_layout_holds_slopes_by_direction_whatever_their_sign():
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    across, down = gradient_layout(ramp).view(2, 8, 8)
    assert torch.allclose(across[:, 1:-1], torch.tensor(2 / 63)) and down.abs().max() < 1e-6
    assert torch.allclose(gradient_layout(-ramp), gradient_layout(ramp))
    turned = gradient_layout(ramp.transpose(2, 3)).view(2, 8, 8)
    assert torch.allclose(turned, torch.stack([down.T, across.T]), atol=1e-6)


@LAYOUTS
def test_retrieval_finds_every_image_that_is_kept_or_changed_like_all_others(layout, monkeypatch):
    real = faces(100)
    perfect = {"top1": 1, "top5": 1, "chance1": 0.01, "chance5": 0.05}
    assert retrieval(real, real, layout) == perfect
    assert retrieval(real, 0.5 * real + 0.3, layout) == perfect
    monkeypatch.setattr(metrics, "CHUNK", 30)
    assert retrieval(real, real, layout) == perfect


def test_retrieval_by_colour_does_not_mind_another_palette():
    real = faces(100)
    gains, offsets = torch.tensor([[0.9, 0.5, 0.2], [0.1, -0.3, 0.5]]).view(2, 3, 1, 1)
    assert retrieval(real, gains * real + offsets, colour_layout)["top1"] == 1


@LAYOUTS
def test_retrieval_of_shuffled_outputs_is_chance(layout):
    real = faces(400)
    found = retrieval(real, shuffled(real), layout)
    assert found["top1"] < chance(400, 1) and found["top5"] < chance(400, 5)


@LAYOUTS
def test_retrieval_of_constant_outputs_is_not_above_chance(layout):
    real = faces(100)
    constant = real[:1].expand_as(real)
    zero = {"top1": 0, "top5": 0, "chance1": 0.01, "chance5": 0.05}
    assert retrieval(real, constant, layout) == zero
    assert retrieval(constant, real, layout) == zero
    rounded = retrieval(real, constant + 1e-6 * noise(100), layout)
    assert rounded["top1"] < chance(100, 1) and rounded["top5"] < chance(100, 5)


@LAYOUTS
def test_retrieval_counts_equally_similar_inputs_as_better(layout):
    real = faces(100)
    real[50:] = real[:50]
    found = retrieval(real, real, layout)
    assert found["top1"] == 0 and found["top5"] == 1


def test_region_correlation_is_that_of_the_colours_taken_over():
    real = faces(300)
    assert region_correlation(real, real) == pytest.approx({"hair": 1, "background": 1})
    assert region_correlation(real, 0.3 * real + 0.5) == pytest.approx({"hair": 1, "background": 1})
    assert region_correlation(real, -real) == pytest.approx({"hair": -1, "background": -1})
    unrelated = region_correlation(real, shuffled(real))
    # Its standard error is 1 / sqrt(3 * 300): the channels are independent here.
    assert all(abs(value) < 4 / 30 for value in unrelated.values())


def test_region_correlation_of_regions_that_never_change_is_zero():
    real = faces(50)
    white = torch.ones_like(real)
    assert region_correlation(real, white) == {"hair": 0, "background": 0}
    assert region_correlation(white * 0.3, white * 0.1) == {"hair": 0, "background": 0}


@pytest.mark.parametrize("size", [64, 32])
def test_regions_lie_where_hair_and_background_are(size):
    real, other = (F.adaptive_avg_pool2d(faces(200, seed), size) for seed in (0, 1))
    hair, corners = real.clone(), real.clone()
    top, bottom, left, right, corner = (round(size * x) for x in (0.05, 0.15, 0.3, 0.7, 0.12))
    hair[:, :, top:bottom, left:right] = 0
    assert region_correlation(real, hair) == pytest.approx({"hair": 0, "background": 1})
    corners[:, :, :corner, :corner] = corners[:, :, :corner, -corner:] = 0
    assert region_correlation(real, corners) == pytest.approx({"hair": 1, "background": 0})
    one_corner = torch.cat([other[..., :corner], real[..., corner:]], dim=3)
    # The other one is half of the sum's variance. Standard error: below 1 / sqrt(3 * 200).
    assert region_correlation(real, one_corner)["background"] == pytest.approx(0.5, abs=0.15)


# ---- certainty and refusals --------------------------------------------------------------------


def test_bootstrap_agrees_with_the_formula_of_the_standard_error():
    values = torch.randn(400, generator=seeded()) * 3 + 1
    mean, error = bootstrap(values, seeded(), rounds=1000)
    assert mean == values.mean().item()
    assert error == pytest.approx(values.std().item() / 20, rel=0.1)  # 4 / sqrt(2 * 1000)
    assert bootstrap(torch.ones(5), seeded()) == (1, 0)
    assert bootstrap(values, seeded(1)) == bootstrap(values, seeded(1))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused_by_name(value):
    good, bad = noise(6), noise(6)
    bad[4, 1, 2, 3] = value
    calls = {
        "a": lambda: sliced_wasserstein(bad, good, seeded()),
        "b": lambda: sliced_wasserstein(good, bad, seeded()),
        "queries": lambda: nearest(bad, good),
        "references": lambda: nearest(good, bad),
        "outputs": lambda: near_duplicate_share(bad, good),
        "real": lambda: collapse_report(good, bad),
        "training": lambda: memorisation(good, bad, good),
        "held_out": lambda: memorisation(good, good, bad),
        "images": lambda: gradient_layout(bad),
        "inputs": lambda: retrieval(bad, good, colour_layout),
        "values": lambda: bootstrap(bad[:, 1, 2, 3], seeded()),
    }
    for name, call in calls.items():
        with pytest.raises(UserError, match=f"^{name}: NaN or inf at index 4"):
            call()
    for call in (
        lambda: region_correlation(good, bad),
        lambda: collapse_report(bad, good),
        lambda: memorisation(bad, good, good),
        lambda: retrieval(good, bad, colour_layout),
    ):
        with pytest.raises(UserError, match="^outputs: NaN or inf"):
            call()
    with pytest.raises(UserError, match="^real: NaN or inf"):
        near_duplicate_share(good, bad)
    with pytest.raises(UserError, match="^images: NaN or inf"):
        colour_layout(bad)


def test_too_few_or_unequally_many_images_are_refused_with_the_number_needed():
    few = noise(1)
    for call in (
        lambda: sliced_wasserstein(few, few, seeded()),
        lambda: nearest(few, few, exclude_same_index=True),
        lambda: near_duplicate_share(few, few),
        lambda: collapse_report(few, few),
        lambda: memorisation(few, few, few),
        lambda: region_correlation(few, few),
        lambda: bootstrap(torch.ones(1), seeded()),
    ):
        with pytest.raises(UserError, match="1 given, at least 2 needed"):
            call()
    with pytest.raises(UserError, match="5 given, at least 6 needed"):
        retrieval(noise(5), noise(5), colour_layout)
    for call in (
        lambda: retrieval(noise(6), noise(7), colour_layout),
        lambda: region_correlation(noise(6), noise(7)),
    ):
        with pytest.raises(UserError, match=r"inputs \(6, .* outputs \(7, "):
            call()
