"""Marginals: scipy's distance on a line, shifts, closed forms of Gaussians, coefficients in modes, errors."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from physflow.metrics import coefficients, coefficients_distance, w1


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(1,), (40,), (25, 3), (9, 2, 3)])
def test_w1_of_each_coordinate_agrees_with_scipy(shape):
    x, y = normal(*shape), normal(*shape, seed=1).exp()
    found = w1(x, y)
    assert found.shape == shape[1:]
    a, b = x.reshape(len(x), -1), y.reshape(len(y), -1)
    expected = [wasserstein_distance(a[:, i], b[:, i]) for i in range(a.shape[1])]
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-12)


def test_w1_of_a_shift_is_the_shift_in_any_order():
    x, shift = normal(50, 3).float(), torch.tensor([0.0, 0.5, -2.0])
    found = w1(x.flip(0) + shift, x)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, shift.abs().double(), rtol=1e-6, atol=1e-6)


def test_w1_of_gaussians_has_its_closed_form():
    """N(0, 1) and N(0, 4): the mean of |q| (2 - 1) over the quantiles q, of 20,000 numbers to within 3 %."""
    assert w1(normal(20_000), 2 * normal(20_000, seed=1)).item() == pytest.approx(math.sqrt(2 / math.pi), rel=0.03)


def test_a_number_that_is_none_is_not_hidden():
    x = normal(4, 2)
    x[1, 0] = math.nan
    assert w1(x, normal(4, 2, seed=1)).isnan().tolist() == [True, False]


def test_coefficients_are_those_that_a_field_was_made_of():
    axes = (4, 3)
    modes = torch.linalg.qr(normal(12, 5)).Q
    xi = normal(7, 5, seed=1)
    u = (xi @ modes.T).reshape(7, *axes)
    torch.testing.assert_close(coefficients(u, modes), xi)
    torch.testing.assert_close(coefficients(u.float(), modes.float()), xi, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(coefficients(u, modes)[2, 3], (u[2] * modes[:, 3].reshape(axes)).sum())


def test_whitened_coefficients_have_a_standard_deviation_of_one():
    """Fields of a given covariance, 5000 of them: variances and covariances within four standard errors."""
    root = normal(6, 6)
    values, vectors = torch.linalg.eigh(root @ root.T)
    xi = coefficients(normal(5000, 6, seed=1) @ root.T, vectors / values.sqrt())
    assert ((xi.T @ xi / 5000 - torch.eye(6)).abs() < 4 * math.sqrt(2 / 5000)).all()


def test_the_distance_is_the_mean_over_the_modes_of_the_shift():
    modes = torch.linalg.qr(normal(12, 4)).Q
    u = normal(20, 4, 3, seed=1)
    moved = u + (modes @ torch.tensor([0.5, 0.0, -1.0, 0.1]).double()).reshape(4, 3)
    assert coefficients_distance(moved, u.flip(0), modes) == pytest.approx(1.6 / 4)
    assert coefficients_distance(u, u.flip(0), modes) < 1e-14


def test_what_does_not_fit_is_named():
    x = normal(5, 4, 3)
    with pytest.raises(ValueError, match=r"two sets of one shape, got \(5, 4, 3\) and \(4, 4, 3\): take as many"):
        w1(x, x[:4])
    for empty in (x[:0], x.sum()):
        with pytest.raises(ValueError, match=r"sets of shape \(n, ...\) of at least one number, got \("):
            w1(empty, empty)
    for fields, modes in ((x, normal(11, 2)), (x, normal(12)), (normal(12), normal(12, 2))):
        with pytest.raises(ValueError, match=r"modes of shape \(points, modes\) at as many points, got \("):
            coefficients(fields, modes)
