"""Maximum mean discrepancy: kernels of scikit-learn, closed forms of Gaussians, the bandwidths, invariances, errors."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import rbf_kernel

from physflow.metrics import kernels, mmd, points


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force(x, y, sigmas):
    """The estimate with all kernel matrices at once."""
    total = 0.0
    for gamma in (1 / (2 * sigma**2) for sigma in sigmas):
        xx, yy, xy = rbf_kernel(x, x, gamma), rbf_kernel(y, y, gamma), rbf_kernel(x, y, gamma)
        n, m = xy.shape
        within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
        total += within - 2 * xy.mean()
    return total


@pytest.mark.parametrize("entries", [10, 2**22])
@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 1), (7, 12, 3), (30, 5, 2)])
@pytest.mark.parametrize("sigmas", [[0.7], [0.2, 1.0, 30.0]])
def test_agrees_with_kernel_matrices(monkeypatch, entries, n, m, d, sigmas):
    monkeypatch.setattr(points, "_ENTRIES", entries)
    x, y = normal(n, d), normal(m, d, seed=1) + 0.5
    assert mmd(x, y, sigmas) == pytest.approx(brute_force(x, y, sigmas), rel=1e-9, abs=1e-13)


def test_one_bandwidth_may_be_a_number():
    x, y = normal(5, 2), normal(6, 2, seed=1)
    assert mmd(x, y, 2) == mmd(x, y, 2.0) == mmd(x, y, [2.0])


@pytest.mark.parametrize("m", [2, 3, 12])
def test_the_bandwidths_are_multiples_of_the_median_distance_of_the_reference(m):
    x, y = 5 * normal(9, 2), normal(m, 2, seed=1)
    median = np.sort(pdist(y))[(m * (m - 1) // 2 - 1) // 2]
    assert mmd(x, y) == pytest.approx(brute_force(x, y, [median / 2, median, 2 * median]), rel=1e-9)


def test_the_median_of_a_large_reference_is_that_of_points_spread_over_it(monkeypatch):
    monkeypatch.setattr(kernels, "_MEDIAN_POINTS", 8)
    # A reference in two halves of two scales: its first points alone would say 1.
    y = torch.cat([normal(10, 2), 100 * normal(10, 2, seed=1)])
    x = normal(4, 2, seed=2)
    distances = np.sort(pdist(y[::3]))
    median = distances[(len(distances) - 1) // 2]
    assert mmd(x, y) == pytest.approx(brute_force(x, y, [median / 2, median, 2 * median]), rel=1e-9)


def mean_kernel(difference, covariance, sigma):
    """E exp(-|u|^2 / (2 sigma^2)) of u ~ N(difference, covariance)."""
    total = covariance / sigma**2 + np.eye(len(covariance))
    return np.exp(-difference @ np.linalg.solve(total, difference) / (2 * sigma**2)) / np.sqrt(np.linalg.det(total))


@pytest.mark.parametrize("sigma", [0.5, 3.0])
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.7, 1.0), (0.0, 1.6)])
def test_the_mean_is_the_discrepancy_of_gaussians(sigma, shift, scale):
    """Of 400 sets of 20 and 30 points: within four standard errors, at every size since the estimate is unbiased."""
    root = np.array([[1.0, 0.0], [0.5, 0.8]])
    difference = np.array([shift, -shift])
    C, D = root @ root.T, scale**2 * root @ root.T
    zero = np.zeros(2)
    expected = (
        mean_kernel(zero, 2 * C, sigma) + mean_kernel(zero, 2 * D, sigma) - 2 * mean_kernel(difference, C + D, sigma)
    )
    A = torch.from_numpy(root.T)
    x = normal(400, 20, 2) @ A
    y = scale * normal(400, 30, 2, seed=1) @ A + torch.from_numpy(difference)
    found = np.array([mmd(a, b, sigma) for a, b in zip(x, y, strict=True)])
    error = found.std(ddof=1) / 20
    assert abs(found.mean() - expected) < 4 * error
    if shift or scale > 1:
        assert expected > 4 * error
    else:
        assert expected == pytest.approx(0, abs=1e-15)
        assert 0.4 < (found < 0).mean() < 0.8


def test_equal_sets_are_below_zero_by_the_pairs_that_are_left_out():
    x = normal(10, 2)
    kernel = rbf_kernel(x, gamma=0.5)
    off_diagonal = (kernel.sum() - 10) / 90
    assert mmd(x, x.flip(0), 1.0) == pytest.approx(-2 / 10 * (1 - off_diagonal), rel=1e-9)


def test_sets_far_apart_see_themselves_alone():
    x = torch.tensor([0.0, 0.0])
    y = torch.tensor([1e6, 1e6])
    assert mmd(x, y, 1.0) == 2.0


def test_items_of_any_shape_and_precision():
    x, y = normal(6, 2, 3).float(), normal(8, 2, 3, seed=1).float().requires_grad_()
    assert mmd(x, y) == mmd(x.flatten(1).double(), y.flatten(1).double())


@pytest.mark.parametrize("moved", [lambda z: z + 100, lambda z: z.flip(1), lambda z: 7 * z])
def test_is_the_same_after_motions_and_in_other_units(moved):
    x, y = normal(10, 2), normal(12, 2, seed=1) + 0.3
    assert mmd(moved(x), moved(y)) == pytest.approx(mmd(x, y), rel=1e-9)


def test_what_cannot_be_compared_is_named():
    x = normal(4, 2)
    with pytest.raises(ValueError, match="two points or more in each set, as none is paired with itself, got 1 and 4"):
        mmd(x[:1], x)
    for bandwidth in (0, -1.0, math.nan, math.inf, [1.0, 0.0], []):
        with pytest.raises(ValueError, match=r"bandwidth must be positive and finite, got .*; leave it out to have"):
            mmd(x, x, bandwidth)
    with pytest.raises(ValueError, match=r"half of the pairs of y or more are copies: .* is 0; give bandwidth="):
        mmd(x, x[:1].expand(4, 2))
    assert mmd(x, x[:1].expand(4, 2), 1.0) > 0
