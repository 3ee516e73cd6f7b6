"""Sums of bumps: the explicit sum, and the mean by quadrature in all its dimensions."""

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import torch

from physflow.data.bumps import Bumps
from physflow.data.white_noise import uniforms
from physflow.grid import Grid


@pytest.mark.parametrize(
    "grid",
    [Grid((8, 8)), Grid((5, 9), ((0, 2), (1, 1.5))), Grid((6, 4), ((-1, 0), (0, 1)), centering="nodes")],
    ids=str,
)
def test_a_field_is_the_explicit_sum(grid):
    field = Bumps(grid)
    numbers, expected = uniforms(4, [7], 15).reshape(5, 3), -field.mean * np.ones(grid.shape)
    places, widths = numbers[:, :2], numbers[:, 2]
    (x, y), ((left, right), (low, high)) = grid.mesh(), grid.bounds
    for (u, v), w in zip(places, widths, strict=True):
        squared = (x - left - u * (right - left)) ** 2 + (y - low - v * (high - low)) ** 2
        expected += np.exp(-squared / (w * (right - left) / 2))
    np.testing.assert_allclose(field.draw(4, 7, 1)[0], expected, atol=1e-13)


@pytest.mark.parametrize(("width", "height"), [(1.0, 1.0), (2.0, 0.5), (0.3, 3.0)])
def test_the_mean_is_that_of_the_law(width, height):
    def mean_along(side, s):
        # Over the places in closed form, over the points by quadrature.
        def at(x):
            a = np.sqrt(s)
            return np.sqrt(np.pi) * a / 2 * (scipy.special.erf((side - x) / a) + scipy.special.erf(x / a))

        return scipy.integrate.quad(at, 0, side, limit=200)[0] / side**2

    # s = r^2 makes the integrand smooth; few points suffice.
    nodes, weights = np.polynomial.legendre.leggauss(16)
    r = (nodes + 1) / 2 * np.sqrt(width / 2)
    density = 2 * r / (width / 2) * np.sqrt(width / 2) / 2
    exact = 5 * sum(
        w * d * mean_along(width, q**2) * mean_along(height, q**2) for w, d, q in zip(weights, density, r, strict=True)
    )
    assert Bumps(Grid((4, 4), ((0, width), (0, height)))).mean == pytest.approx(exact, rel=1e-6)


def test_the_mean_of_many_fields_is_zero():
    means = Bumps(Grid((16, 16))).draw(0, 0, 4000).mean((1, 2))
    assert abs(means.mean()) < 6 * means.std() / np.sqrt(4000)


def test_the_narrowest_bumps_are_finite():
    field = Bumps(Grid((4, 4)))
    narrow = field._sum(torch.full((1, 5, 2), 0.3, dtype=torch.float64), torch.full((1, 5, 1), 1e-300).double())
    assert (narrow == 0).all()


def test_bumps_need_a_plane():
    with pytest.raises(ValueError, match=r"bumps needs a grid of two axes, got shape \(5,\)"):
        Bumps(Grid((5,)))
