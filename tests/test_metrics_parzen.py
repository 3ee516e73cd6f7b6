import math

import numpy as np
import pytest
import torch
from scipy.optimize import brute
from scipy.spatial.distance import cdist
from scipy.stats import gaussian_kde, norm

from physflow.metrics import parzen_bandwidth, parzen_log_density


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("m", "n", "h"), [(7, 40, 0.3), (50, 9, 1.7), (1, 25, 0.05)])
def test_it_is_the_kernel_estimate_of_scipy(m, n, h):
    x, y = noise(m, 1), noise(n, 1, seed=1)
    # scipy's bandwidth is in units of the samples' standard deviation.
    kde = gaussian_kde(y[:, 0].numpy(), bw_method=h / y.std().item())
    expected = kde.logpdf(x[:, 0].numpy()).mean()
    assert parzen_log_density(x, y, h) == pytest.approx(expected, rel=1e-12)


def test_in_the_plane_it_is_the_kernel_estimate_of_scipy():
    x, y = noise(30, 2), noise(60, 2, seed=1)
    # Samples whose covariance is the identity: scipy's kernel is then round too.
    y = y - y.mean(0)
    y = y @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(y.T))).T
    kde = gaussian_kde(y.T.numpy(), bw_method=0.4)
    assert parzen_log_density(x, y, 0.4) == pytest.approx(kde.logpdf(x.T.numpy()).mean(), rel=1e-10)


def test_of_many_normal_samples_it_is_the_closed_form_and_best_if_they_are_a_little_narrow():
    h, x, y = 0.5, noise(8000, 1), noise(8000, 1, seed=1)
    found = {}
    for s in (0.6, math.sqrt(1 - h**2), 1.0):
        # The estimate of N(0, s^2) tends to N(0, s^2 + h^2).
        variance = s**2 + h**2
        expected = -0.5 * math.log(2 * math.pi * variance) - 0.5 / variance
        found[s] = parzen_log_density(x, s * y, h)
        assert found[s] == pytest.approx(expected, abs=0.02)
    narrowest, best, own = found.values()
    assert best > own + 0.005
    assert best > narrowest + 0.005


def test_of_one_sample_it_is_a_normal_law():
    x = torch.tensor([[0.0], [2.0]])
    expected = norm(1.0, 0.7).logpdf([0.0, 2.0]).mean()
    assert parzen_log_density(x, torch.tensor([[1.0]]), 0.7) == pytest.approx(expected, rel=1e-12)


def test_blocks_do_not_change_it(monkeypatch):
    x, y = noise(31, 3), noise(17, 3, seed=1)
    whole = parzen_log_density(x, y, 0.4), parzen_bandwidth(x)
    monkeypatch.setattr("physflow.metrics.points._ENTRIES", 50)
    assert (parzen_log_density(x, y, 0.4), parzen_bandwidth(x)) == pytest.approx(whole, rel=1e-12)


def test_far_from_all_samples_and_far_from_the_origin_it_stays_finite_and_exact():
    x = 1e6 + torch.tensor([[0.0, 300.0]], dtype=torch.float64)
    y = 1e6 + torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    expected = -math.log(2 * math.pi) - 0.5 * 300.0**2
    assert parzen_log_density(x, y, 1.0) == pytest.approx(expected, rel=1e-12)


def test_fields_of_any_precision_count_as_points():
    x, y = noise(5, 2, 3), noise(8, 2, 3, seed=1)
    flat = parzen_log_density(x.float().flatten(1), y.float().flatten(1), 0.8)
    assert parzen_log_density(x.float(), y.float(), 0.8) == flat
    assert parzen_log_density(x, y, 0.8) == pytest.approx(flat, rel=1e-5)


def test_the_two_directions_see_different_faults():
    data = torch.cat([noise(200, 1) - 10, noise(200, 1, seed=1) + 10])
    missing = noise(400, 1, seed=2) - 10
    assert parzen_log_density(data, missing, 0.5) < -100
    assert parzen_log_density(missing, data, 0.5) > -3


def leave_one_out(x, h):
    weights = norm(0, h).pdf(cdist(x, x))
    np.fill_diagonal(weights, 0)
    return np.log(weights.sum(1) / (len(x) - 1)).mean()


def test_the_bandwidth_is_the_most_likely_of_a_fine_grid():
    x = noise(60, 1)
    found = parzen_bandwidth(x)
    best = brute(lambda h: -leave_one_out(x.numpy(), h[0]), [(0.1, 3.0)], Ns=500)[0]
    assert found == pytest.approx(best, rel=5e-3)
    assert parzen_log_density(x, noise(9, 1, seed=1)) == parzen_log_density(x, noise(9, 1, seed=1), found)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_bandwidth_of_two_points_is_known(d):
    x = torch.zeros(2, d)
    x[1] = 3.0
    # The most likely deviation of one normal number in each of d coordinates.
    assert parzen_bandwidth(x) == pytest.approx(3.0, rel=2e-3)


def test_the_bandwidth_scales_with_the_points_and_falls_with_their_number():
    x = noise(800, 2)
    h = parzen_bandwidth(x)
    assert parzen_bandwidth(100 * x + 7) == pytest.approx(100 * h, rel=5e-3)
    assert h < parzen_bandwidth(x[:50])


def test_copies_of_some_points_do_no_harm():
    x = noise(40, 1)
    assert 0.05 < parzen_bandwidth(torch.cat([x, x[:5]])) < 1


@pytest.mark.parametrize(
    ("x", "y", "h", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(3, 2), 1.0, r"expected points of shape \(n, ...\), at least one, got \(0, 2\)"),
        (torch.zeros(3, 2), torch.zeros(0, 2), 1.0, r"expected samples of shape \(n, ...\), at least one, got \(0, 2"),
        (torch.zeros(3), torch.zeros(3), 1.0, r"expected points of shape \(n, ...\), at least one, got \(3,\)"),
        (torch.zeros(3, 2), torch.zeros(3, 1), 1.0, r"agree beyond the first axis, got \(3, 2\) and \(3, 1\)"),
        (torch.full((3, 2), math.nan), torch.zeros(3, 2), 1.0, "points hold values that are NaN or infinite: leave"),
        (torch.zeros(3, 2), torch.full((3, 2), math.inf), 1.0, "samples hold values that are NaN or infinite: leave"),
        (torch.zeros(3, 2), torch.zeros(3, 2), 0.0, "bandwidth must be positive and finite, got 0.0; leave it out"),
        (torch.zeros(3, 2), torch.zeros(3, 2), math.nan, "bandwidth must be positive and finite, got nan"),
        (torch.zeros(1, 2), torch.zeros(3, 2), None, "a bandwidth is chosen from two points at least, got 1; give ban"),
        (torch.zeros(3, 2), torch.zeros(3, 2), None, "every point has a copy among the others, .* give bandwidth="),
    ],
)
def test_what_is_wrong_is_said(x, y, h, message):
    with pytest.raises(ValueError, match=message):
        parzen_log_density(x, y, h)
