"""frechet.py: distances of Gaussians, kernels and neighbourhoods whose answers algebra gives."""

import math

import pytest
import torch

from common.errors import UserError
from evaluation.features import VARIANCE
from evaluation.frechet import coverage_report, distances, floor, frechet_distance, kernel_distance


def rows(count, dim=8, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).double()


def test_equal_sets_have_no_frechet_distance():
    x = rows(50)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-9)


def test_a_moved_set_is_as_far_as_it_was_moved_squared():
    x = rows(50)
    assert frechet_distance(x, x + 3) == pytest.approx(9 * 8)


def test_a_stretched_set_differs_by_its_deviations_squared():
    x = rows(50)
    x = x - x.mean(dim=0)
    assert frechet_distance(x, 3 * x) == pytest.approx(4 * x.var(dim=0).sum().item())


def test_the_covariances_count_and_not_the_variances_alone():
    a = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).double()
    b = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
    # two lines at a right angle: tr A + tr B - 2 tr sqrt(A B), with A B = 0
    assert frechet_distance(a, b) == pytest.approx(2 * a.var(dim=0).sum().item())


def test_fewer_rows_than_dimensions_are_no_problem():
    assert math.isfinite(frechet_distance(rows(5, 20), rows(5, 20, seed=1)))


def test_the_kernel_distance_of_one_distribution_is_0_on_average_and_grows_with_a_shift():
    same = [kernel_distance(rows(60, seed=2 * i), rows(60, seed=2 * i + 1)) for i in range(40)]
    mean, error = torch.tensor(same).mean(), torch.tensor(same).std() / 40**0.5
    assert abs(mean) < 3 * error
    assert kernel_distance(rows(60), rows(60, seed=1) + 5) > 10 * max(same)


def test_the_kernel_distance_of_two_points_each_is_that_of_the_formula():
    a, b = torch.zeros(2, 1).double(), torch.full((2, 1), VARIANCE**0.5).double()
    # k(a, a) = 1, k(b, b) = (1 + 1)^3, k(a, b) = 1
    assert kernel_distance(a, b) == pytest.approx(1000 * (1 + 8 - 2))


def test_real_against_real_covers_nearly_all():
    found = coverage_report(rows(300), rows(300, seed=1))
    assert found["coverage"] > 0.9
    assert found["density"] == pytest.approx(1, abs=0.25)


def test_one_real_image_repeated_is_precise_and_covers_nearly_nothing():
    real = rows(100)
    found = coverage_report(real[:1].repeat(100, 1), real)
    assert found["precision"] == 1
    assert found["coverage"] < 0.2
    assert found["recall"] <= 0.01


def test_fakes_far_away_are_neither_precise_nor_covering():
    found = coverage_report(rows(50) + 100, rows(50, seed=1))
    assert found == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_noise_of_all_directions_recalls_what_it_does_not_match():
    found = coverage_report(6 * rows(200, 4), rows(200, 4, seed=1))
    assert found["recall"] > 0.9 > 0.5 > found["precision"]


def test_unequal_sets_are_cut_to_the_smaller_since_the_bias_hangs_on_both():
    a, b = rows(60), rows(40, seed=1)
    assert distances(a, b) == distances(a[:40], b)
    assert distances(a, b)["N"] == 40


def test_the_floor_is_what_as_many_other_real_images_score():
    real, others = rows(400), [rows(400, seed=seed) for seed in range(1, 9)]
    expected = torch.tensor([frechet_distance(x, real) for x in others]).mean().item()
    found = floor(real, 0)
    assert found["fd"] == pytest.approx(expected, rel=0.2)
    assert found["N"] == 400
    assert found == floor(real, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_by_name(bad):
    broken = rows(10)
    broken[3, 0] = bad
    with pytest.raises(UserError, match="b: NaN or inf at index 3"):
        frechet_distance(rows(10), broken)


def test_too_few_rows_are_refused():
    assert floor(rows(11), 0) is None  # halves would have too few neighbours
    assert floor(rows(12), 0)["N"] == 12
    with pytest.raises(UserError, match="fakes: 5 given, at least 6 needed"):
        coverage_report(rows(5), rows(50))
