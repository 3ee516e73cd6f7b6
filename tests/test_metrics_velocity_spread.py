import math

import numpy as np
import pytest
import torch
from scipy.stats import binned_statistic_2d

from physflow.generative import LinearPath
from physflow.metrics import velocity_spread


def draws(n, mean=0.0, std=1.0, seed=0):
    """Points, conditional velocities and times of the straight lines from N(0, 1) to N(mean, std^2)."""
    generator = torch.Generator().manual_seed(seed)
    x0, x1 = torch.randn(2, n, 1, generator=generator, dtype=torch.float64)
    t = torch.rand(n, generator=generator, dtype=torch.float64)
    return *LinearPath().interpolate(x0, mean + std * x1, t), t


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.4)])
def test_a_gaussian_pair_has_its_closed_form(mean, std):
    found = velocity_spread(*draws(400_000, mean, std), bins=(30, 20), x_range=(-2.5, 2.5))
    t = (found.t_edges[1:] + found.t_edges[:-1]) / 2
    # Cov(u, x_t)^2 / Var(x_t) of the variance of u = x1 - x0 is explained by x_t, whatever its value.
    variance = 1 + std**2 - (t * std**2 - (1 - t)) ** 2 / ((1 - t) ** 2 + t**2 * std**2)
    full = found.count > 500
    assert full.sum() > 200
    torch.testing.assert_close(found.std[full], variance.sqrt().expand(30, 20)[full], rtol=0.12, atol=0)
    ratio = (found.std / variance.sqrt())[full]
    assert ratio.mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("bins", [(1, 1), (3, 7), (12, 5)])
def test_the_map_is_that_of_scipy(bins):
    x, v, t = draws(300)
    found = velocity_spread(x, v, t, bins)
    args = x[:, 0].numpy(), t.numpy(), v[:, 0].numpy()
    edges = [found.x_edges.numpy(), found.t_edges.numpy()]
    count = binned_statistic_2d(*args, "count", edges).statistic
    std = binned_statistic_2d(*args, lambda u: np.std(u, ddof=1) if len(u) > 1 else math.nan, edges).statistic
    np.testing.assert_array_equal(found.count.numpy(), count)
    np.testing.assert_allclose(found.std.numpy(), np.where(count > 1, std, np.nan), rtol=1e-10)
    assert found.count.sum() == 300


def test_a_velocity_field_has_no_spread_but_that_of_its_bin():
    x, _, t = draws(200_000)
    found = velocity_spread(x, 3 * x + t[:, None], t, (10, 10), (-1.0, 1.0))
    expected = math.sqrt((3 * 0.2) ** 2 / 12 + 0.1**2 / 12)
    torch.testing.assert_close(found.std, torch.full_like(found.std, expected), rtol=0.05, atol=0)


def test_bins_of_fewer_than_two_items_are_nan():
    found = velocity_spread(
        torch.tensor([0.0, 0.1, 1.0]), torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.0, 0.2, 1.0]), (2, 2)
    )
    assert found.count.tolist() == [[2, 0], [0, 1]]
    torch.testing.assert_close(found.std[0, 0].item(), math.sqrt(2))
    assert found.std.isnan().tolist() == [[False, True], [True, True]]


def test_a_coordinate_of_the_plane_is_taken_from_both():
    x, v, t = draws(500)
    other = draws(500, seed=1)
    both = velocity_spread(torch.cat([other[0], x], 1), torch.cat([other[1], v], 1), t, (5, 4), coordinate=1)
    torch.testing.assert_close(both.std, velocity_spread(x[:, 0], v[:, 0], t, (5, 4)).std, equal_nan=True)


def test_points_beyond_the_range_are_left_out_and_its_ends_belong_to_it():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 1.5])
    found = velocity_spread(x, torch.ones(5), torch.full((5,), 0.5), (2, 1), (-1.0, 1.0))
    assert found.count.flatten().tolist() == [1, 2]


def test_the_offset_of_a_velocity_costs_no_digits():
    x, v, t = draws(200)
    torch.testing.assert_close(
        velocity_spread(x, v + 1e6, t, (3, 3)).std, velocity_spread(x, v, t, (3, 3)).std, rtol=1e-8, atol=0
    )


ONE, TWO = torch.zeros(4), torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: velocity_spread(ONE, TWO, ONE), "points and velocities of one shape"),
        (lambda: velocity_spread(TWO, TWO, torch.zeros(3)), r"times of shape \(batch,\), got \(4, 2\), \(4, 2\)"),
        (lambda: velocity_spread(torch.zeros(4, 1, 8), torch.zeros(4, 1, 8), ONE), "flatten fields, or project them"),
        (lambda: velocity_spread(ONE[:0], ONE[:0], ONE[:0]), "at least one point"),
        (lambda: velocity_spread(ONE, ONE / 0, ONE), "NaN or infinite"),
        (lambda: velocity_spread(ONE, ONE, ONE + 2), r"times must lie in \[0, 1\], got some between 2 and 2"),
        (lambda: velocity_spread(ONE, ONE, ONE, (0, 3)), "at least one bin"),
        (lambda: velocity_spread(ONE, ONE, ONE), "range of rising ends, got 0 to 0; give x_range"),
        (lambda: velocity_spread(TWO, TWO, ONE, coordinate=2), "coordinate must be one of 0 to 1, got 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
