import math
import re

import pytest
import torch

from dtn.losses import class_generator_loss, class_loss, total_variation
from losses import (
    GAN_MODES,
    WASSERSTEIN_MODES,
    cycle_loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    identity_loss,
    negatives,
    shift,
    zero_centred_penalty,
    zoom,
)

REAL, FAKE = torch.tensor([[2.0], [0.5]]), torch.tensor([[-0.5], [1.0]])


def expected_D(mode):
    if mode == "sn":
        return (0 + 0.5) / 2 + (0.5 + 2) / 2
    if mode in WASSERSTEIN_MODES:
        return 0.25 - 1.25
    if mode == "lsgan":
        return 0.5 * ((1 + 0.25) / 2 + (0.25 + 1) / 2)
    if mode == "relativistic":
        return (math.log(1 + math.exp(-0.5 - 2)) + math.log(1 + math.exp(1 - 0.5))) / 2
    real = [-math.log(1 / (1 + math.exp(-x))) for x in (2.0, 0.5)]
    fake = [-math.log(1 - 1 / (1 + math.exp(-x))) for x in (-0.5, 1.0)]
    return 0.5 * (sum(real) / 2 + sum(fake) / 2)


def expected_G(mode):
    if mode == "sn" or mode in WASSERSTEIN_MODES:
        return -0.25
    if mode == "lsgan":
        return (2.25 + 0) / 2
    if mode == "relativistic":
        return (math.log(1 + math.exp(2 + 0.5)) + math.log(1 + math.exp(0.5 - 1))) / 2
    return sum(-math.log(1 / (1 + math.exp(-x))) for x in (-0.5, 1.0)) / 2


@pytest.mark.parametrize("mode", GAN_MODES)
def test_losses_equal_their_formula(mode):
    assert discriminator_loss(mode, REAL, FAKE).item() == pytest.approx(expected_D(mode))
    assert generator_loss(mode, FAKE, REAL).item() == pytest.approx(expected_G(mode))


@pytest.mark.parametrize("mode", GAN_MODES)
def test_D_is_pushed_towards_telling_apart_and_G_towards_fooling(mode):
    real = torch.full((3, 1), 0.5, requires_grad=True)
    fake = torch.full((3, 1), 0.5, requires_grad=True)
    discriminator_loss(mode, real, fake).backward()
    assert (real.grad < 0).all() and (fake.grad > 0).all()
    fake.grad = None
    generator_loss(mode, fake, real.detach()).backward()
    assert (fake.grad < 0).all()


def test_only_a_relativistic_D_goes_on_telling_bad_fakes_from_worse():
    real, fake = torch.tensor([[2.0], [2.0]]), torch.tensor([[-1.5], [-4.0]], requires_grad=True)
    discriminator_loss("sn", real, fake).backward()
    assert (fake.grad == 0).all()  # beyond -1 hinge is content with all alike
    fake.grad = None
    discriminator_loss("relativistic", real, fake).backward()
    assert fake.grad[0] > 5 * fake.grad[1] > 0


def test_a_relativistic_generator_without_real_images_says_what_is_missing():
    with pytest.raises(ValueError, match="needs pred_real"):
        generator_loss("relativistic", FAKE)


def test_unknown_mode_is_refused():
    for loss in (lambda: discriminator_loss("x", REAL, FAKE), lambda: generator_loss("x", FAKE)):
        with pytest.raises(ValueError, match="unknown gan_mode 'x'"):
            loss()


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, 3.0])
def test_penalty_of_a_linear_critic_is_its_slope_minus_one_squared(slope):
    direction = torch.randn(3, 8, 8)
    direction *= slope / max(direction.norm().item(), 1e-12)

    def critic(x):
        return (x * direction).sum(dim=(1, 2, 3))[:, None]

    real, fake = torch.randn(2, 5, 3, 8, 8).unbind()
    penalty = gradient_penalty(critic, real, fake, torch.Generator().manual_seed(0))
    assert penalty.item() == pytest.approx((slope - 1) ** 2, abs=1e-5)


def test_penalty_of_a_quadratic_critic_depends_on_points_between_real_and_fake():
    # D(x) = |x|^2 / 2 has gradient x; real at distance 2 and fake at 4 from 0 on one ray.
    ray = torch.zeros(1000, 1, 1, 1) + 1.0
    points = []

    def critic(x):
        points.append(x.detach())
        return (x.square() / 2).flatten(1)

    penalty = gradient_penalty(critic, 2 * ray, 4 * ray, torch.Generator().manual_seed(0))
    assert 2 <= points[0].min() < 2.05 and 3.95 < points[0].max() <= 4
    assert penalty.item() == pytest.approx(13 / 3, rel=0.05)  # mean of (t - 1)^2 on [2, 4]


def test_penalty_reaches_the_critics_weights_and_not_the_images():
    critic = torch.nn.Conv2d(3, 1, 4)
    real = torch.randn(3, 3, 4, 4, requires_grad=True)
    fake = torch.randn(3, 3, 4, 4, requires_grad=True)
    gradient_penalty(critic, real, fake, torch.Generator()).backward()
    assert critic.weight.grad.abs().sum() > 0
    assert real.grad is None and fake.grad is None


def test_a_zero_centred_penalty_is_half_the_squared_slope():
    direction = torch.randn(3, 8, 8, dtype=torch.float64)
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    linear = zero_centred_penalty(lambda x: (x * direction).sum(dim=(1, 2, 3))[:, None], images)
    assert linear.item() == pytest.approx(direction.square().sum().item() / 2)
    bowl = zero_centred_penalty(lambda x: x.square().sum(dim=(1, 2, 3))[:, None] / 2, images)
    assert bowl.item() == pytest.approx(images.square().sum().item() / 5 / 2)  # its slope is x


def test_a_zero_centred_penalty_reaches_the_critics_weights_and_not_the_images():
    critic = torch.nn.Conv2d(3, 1, 4)
    images = torch.randn(3, 3, 4, 4, requires_grad=True)
    zero_centred_penalty(critic, images).backward()
    assert torch.allclose(critic.weight.grad, critic.weight)  # of half its square
    assert images.grad is None


def test_penalty_does_not_grow_with_the_number_of_patches():
    def critic(x):  # every patch gives the same logit
        return x.mean(dim=(1, 2, 3), keepdim=True).expand(-1, 1, 6, 6) * 5

    def one(x):
        return x.mean(dim=(1, 2, 3)).unsqueeze(1) * 5

    real, fake = torch.randn(2, 2, 3, 8, 8).unbind()
    many, single = (
        gradient_penalty(f, real, fake, torch.Generator().manual_seed(0)) for f in (critic, one)
    )
    assert many.item() == pytest.approx(single.item())
    many, single = (zero_centred_penalty(f, real) for f in (critic, one))
    assert many.item() == pytest.approx(single.item())


def test_cycle_and_identity_are_mean_absolute_errors():
    a, b = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), -0.25)
    assert cycle_loss(a, b).item() == identity_loss(a, b).item() == 0.25


def test_a_pooled_cycle_does_not_ask_for_strokes_but_for_colours():
    stripes = torch.tensor([0.5, -0.5]).repeat(1, 3, 8, 4)  # of one pixel each: (1, 3, 8, 8)
    assert cycle_loss(stripes, torch.zeros_like(stripes)).item() == 0.5
    assert cycle_loss(stripes, torch.zeros_like(stripes), pool=4).item() == 0
    assert cycle_loss(stripes + 0.25, stripes, pool=4).item() == 0.25


def test_a_pooled_cycle_sees_the_edge_of_an_image_that_is_no_multiple():
    a, b = torch.zeros(2, 1, 3, 6, 6).unbind()
    b[..., 4:, 4:] = 1  # one square of 2x2 pixels of four squares
    assert cycle_loss(a, b, pool=4).item() == 0.25


# ---- DTN ---------------------------------------------------------------------------------------


def logits(*values):
    return torch.tensor(values, dtype=torch.float64)[None, :, None, None]


def test_class_losses_have_the_values_that_algebra_gives():
    sure = logits(0.0, 0.0, 5.0)
    wrong = logits(2.0, 0.0, -1.0)
    cross_entropy = torch.logsumexp(wrong, 1).item() + 1
    assert class_loss("vanilla", wrong, 2).item() == pytest.approx(cross_entropy)
    assert class_loss("sn", sure, 2).item() == 0  # margin 5
    assert class_loss("sn", wrong, 2).item() == pytest.approx(4)  # margin -3
    assert class_loss("lsgan", logits(0.0, 0.0, 1.0), 2).item() == 0
    assert class_loss("lsgan", wrong, 2).item() == pytest.approx(4 + 0 + 4)
    assert class_generator_loss("sn", wrong, 2).item() == pytest.approx(3)
    for mode in ("vanilla", "lsgan"):
        assert torch.equal(class_generator_loss(mode, wrong, 1), class_loss(mode, wrong, 1))


def test_class_losses_are_means_over_images_and_places():
    generator = torch.Generator().manual_seed(0)
    many = torch.randn(4, 3, 2, 5, generator=generator, dtype=torch.float64)
    for mode in ("vanilla", "sn", "lsgan"):
        each = [
            class_loss(mode, many[i, :, y, x][None, :, None, None], 1)
            for i in range(4)
            for y in range(2)
            for x in range(5)
        ]
        assert class_loss(mode, many, 1).item() == pytest.approx(torch.stack(each).mean().item())


@pytest.mark.parametrize("mode", ["wgan", "wgangp", "sn+gp"])
def test_critics_of_two_sets_have_no_class_loss(mode):
    with pytest.raises(ValueError, match=re.escape(mode)):
        class_loss(mode, logits(0.0, 0.0, 0.0), 0)


def test_total_variation_is_the_slope_of_a_ramp_and_nothing_on_a_flat_image():
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    assert total_variation((3 * x + 4 * y).expand(2, 3, 8, 8)).item() == pytest.approx(5)
    flat = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    total_variation(flat).backward()
    assert total_variation(flat).item() == pytest.approx(0, abs=1e-5)
    assert flat.grad.isfinite().all()


def test_a_shift_moves_all_images_alike_and_mirrors_at_the_edge():
    images = torch.arange(2 * 3 * 8 * 8).float().view(2, 3, 8, 8)
    padded = torch.nn.functional.pad(images, (2,) * 4, mode="reflect")
    windows = [padded[..., i : i + 8, j : j + 8] for i in range(5) for j in range(5)]
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(300):
        moved = shift(images, 2, generator)
        seen.add(next(k for k, window in enumerate(windows) if torch.equal(window, moved)))
    assert len(seen) == 25
    state = generator.get_state()
    assert shift(images, 0, generator) is images
    assert torch.equal(state, generator.get_state())  # runs without it draw what they drew


def test_a_zoom_shows_all_images_the_same_window_near_the_middle():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    images = torch.stack([y, x, y + x]).expand(3, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    sizes, centres = [], []
    for _ in range(300):
        seen = zoom(images, generator)
        assert seen.shape == images.shape and torch.equal(seen[0], seen[2])
        for channel, dim in ((0, -2), (1, -1)):
            ramp = seen[0, channel].mean(dim=-1 if dim == -2 else -2)
            assert ramp.min() >= 0 and ramp.max() <= 63 and (ramp.diff() >= 0).all()
            sizes.append(ramp.max() - ramp.min() + 1)
            centres.append((ramp.max() + ramp.min() + 1) / 2)
    for found, low, high in ((torch.stack(sizes), 32, 48), (torch.stack(centres), 24, 40)):
        assert low - 1 <= found.min() < low + 2 and high - 2 < found.max() <= high + 1


@pytest.mark.parametrize("size", [(24, 24), (25, 40)])
def test_a_zoom_keeps_sizes_and_flat_images(size):
    images = torch.full((2, 3, *size), 0.5)
    seen = zoom(images, torch.Generator().manual_seed(0))
    assert seen.shape == images.shape and torch.allclose(seen, images)


def test_negatives_are_real_images_but_for_a_region_and_keep_the_mean_colour_there():
    generator = torch.Generator().manual_seed(0)
    real = torch.full((400, 3, 32, 32), 0.25)
    other = torch.full((400, 3, 32, 32), -0.75)
    assert torch.allclose(negatives(real, other, generator), real)  # flat images have no region
    real = torch.rand(400, 3, 32, 32, generator=generator) - 0.5
    other = torch.rand(400, 3, 32, 32, generator=generator) - 0.5
    made = negatives(real, other, generator)
    changed = (made != real).any(dim=1)
    share = changed.float().mean(dim=(1, 2))
    assert share.min() > 0.01 and share.max() == 1 and 0.2 < share.mean() < 0.8
    assert (made.mean(dim=(2, 3)) - real.mean(dim=(2, 3))).abs().max() < 0.2
    for i in range(20):  # a box: rows times columns
        rows, columns = changed[i].any(dim=1), changed[i].any(dim=0)
        assert torch.equal(changed[i], rows[:, None] & columns[None])


def test_a_negative_holds_its_own_blur_or_another_image_of_either_domain():
    steps = torch.arange(64.0).view(1, 1, 1, 64).expand(300, 3, 64, 64) / 64 - 0.5
    signs = torch.ones(300, 1, 1, 1)
    signs[::2] = -1  # every second one is mirrored, so the one before is always another one
    real = steps * signs
    made = negatives(real, steps.transpose(2, 3), torch.Generator().manual_seed(1))
    rise = [(made.diff(dim=d) * 64 * (signs if d == 3 else 1))[:, 0] for d in (2, 3)]
    middle = [x[:, 24:40, 24:40].mean(dim=(1, 2)) for x in rise]
    whole = made[:, 0, 0, 0] != real[:, 0, 0, 0]  # where the region is all of the image
    down, right = (x[whole] for x in middle)
    kinds = [(right > 0.5) & (down < 0.1), (down > 0.5) & (right < 0.1), right < -0.5]
    assert all(kind.float().mean() > 0.2 for kind in kinds) and sum(kinds).eq(1).all()


@pytest.mark.parametrize("size", [16, 25, 64])
def test_negatives_of_one_image_are_finite_in_range_and_fixed_by_the_seed(size):
    real, other = (torch.rand(2, 1, 3, size, size) * 2 - 1).unbind()
    first = negatives(real, other, torch.Generator().manual_seed(3))
    assert first.shape == real.shape and first.abs().max() <= 1
    assert torch.equal(first, negatives(real, other, torch.Generator().manual_seed(3)))
