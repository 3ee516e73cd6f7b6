"""Variograms: polynomials, brute force, an exact process, the fit against scipy's, its limits, errors."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit

from physflow.metrics import variogram, variogram_fit


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exponential(h, sill, length):
    return sill * (1 - np.exp(-h / length))


@pytest.mark.parametrize(
    ("shape", "axis"), [((7,), 0), ((8, 8), 0), ((9, 5), 1), ((5, 12), 1), ((2, 3, 4), 0), ((2, 3, 4), 2)]
)
def test_a_linear_field_has_half_the_square_of_the_lag_along_its_own_axis(shape, axis):
    x = torch.arange(shape[0], dtype=torch.float64) * 0.25
    u = (3 * x - 1).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    lags, gamma = variogram(torch.stack([u, -2 * u]), 0.25, axis)
    n = shape[axis]
    torch.testing.assert_close(lags, 0.25 * torch.arange(1, n // 2 + 1, dtype=torch.float64))
    expected = 4.5 * lags**2 if axis == 0 else 0 * lags
    torch.testing.assert_close(gamma, torch.stack([expected, 4 * expected]), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("shape", "axis"), [((7, 6), 0), ((7, 6), 1), ((1, 2), 1), ((3, 4, 5), 1)])
def test_agrees_with_a_sum_over_all_pairs(shape, axis):
    u = normal(2, *shape)
    lags, gamma = variogram(u, 0.1, axis)
    for k in range(1, shape[axis] // 2 + 1):
        pairs = [
            (u[(slice(None), *i)] - u[(slice(None), *j)]) ** 2
            for i in np.ndindex(*shape)
            for j in np.ndindex(*shape)
            if j[axis] - i[axis] == k and all(i[a] == j[a] for a in range(len(shape)) if a != axis)
        ]
        torch.testing.assert_close(gamma[:, k - 1], sum(pairs) / len(pairs) / 2, rtol=1e-12, atol=0)
        assert lags[k - 1].item() == pytest.approx(0.1 * k)


def process(fields, n, rho, seed=0):
    """A stationary process of variance 1 and correlation rho^k between points k apart, drawn exactly."""
    noise = normal(fields, n, seed=seed)
    u = [noise[:, 0]]
    for k in range(1, n):
        u.append(rho * u[-1] + math.sqrt(1 - rho**2) * noise[:, k])
    return torch.stack(u, 1)


def test_an_exponential_process_has_the_exponential_variogram():
    """Of 4000 paths, at each lag within four standard errors; the fit within 3 %, its scatter being about 1 %."""
    sill, length, spacing = 2.5, 0.3, 0.05
    u = math.sqrt(sill) * process(4000, 60, math.exp(-spacing / length)) + 10
    lags, gamma = variogram(u, spacing)
    expected = exponential(lags.numpy(), sill, length)
    assert lags[-1].item() == pytest.approx(1.5)
    assert ((gamma.mean(0) - torch.from_numpy(expected)).abs() < 4 * gamma.std(0) / 4000**0.5).all()
    fit = variogram_fit(lags, gamma.mean(0))
    assert fit.length == pytest.approx(length, rel=0.03)
    assert fit.sill == pytest.approx(sill, rel=0.03)


@pytest.mark.parametrize("length", [0.02, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("sill", [1e-6, 1.0, 400.0])
def test_the_fit_finds_the_model_itself(length, sill):
    h = np.arange(1, 17) / 16
    fit = variogram_fit(torch.from_numpy(h), torch.from_numpy(exponential(h, sill, length)))
    assert fit.length == pytest.approx(length, rel=1e-4)
    assert fit.sill == pytest.approx(sill, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_the_least_squares_of_scipy(seed):
    h = np.arange(1, 21) / 10
    g = exponential(h, 2.0, 0.5) + 0.1 * normal(20, seed=seed).numpy()
    fit = variogram_fit(torch.from_numpy(h), torch.from_numpy(g))
    expected, _ = curve_fit(exponential, h, g, p0=[1.5, 0.8], xtol=1e-12, ftol=1e-12)
    assert [fit.sill, fit.length] == pytest.approx(list(expected), rel=1e-4)


def test_white_noise_has_no_length_and_its_variance_as_sill():
    """Of 200 fields, the variance within four standard errors; a variogram that falls is as flat as can be too."""
    u = 3 * normal(200, 40)
    lags, gamma = variogram(u, 1.0)
    fit = variogram_fit(lags, gamma.mean(0))
    assert fit.length < 0.35
    assert abs(fit.sill - 9) < 4 * 9 * math.sqrt(2 / (200 * 40))
    falling = variogram_fit(lags, 3 - lags / 40)
    assert (falling.length, falling.sill) == (0, pytest.approx(float((3 - lags / 40).mean())))
    assert variogram_fit(lags, torch.full_like(lags, 2.0)).length == 0


@pytest.mark.parametrize("power", [1, 2])
def test_what_does_not_level_off_has_an_infinite_range(power):
    h = torch.arange(1, 9).double()
    fit = variogram_fit(h, 0.7 * h**power)
    assert (fit.length, fit.sill) == (math.inf, math.inf)


def test_no_fields_have_no_variograms_and_integers_and_single_precision_are_taken():
    assert variogram(torch.zeros(0, 6, 4), 1.0, 1)[1].shape == (0, 2)
    u = torch.tensor([[0, 1, 0, 1]])
    assert variogram(u, 1.0)[1].tolist() == [[0.5, 0.0]]
    assert variogram(u.float().requires_grad_(), 1.0)[1].tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize(
    ("field", "spacing", "axis", "message"),
    [
        (torch.zeros(8), 0.1, 0, r"one of their axes, 0 to 0, got \(8,\) and axis=0; add the batch axis"),
        (torch.zeros(2, 8, 8), 0.1, 2, r"one of their axes, 0 to 1, got \(2, 8, 8\) and axis=2"),
        (torch.zeros(2, 8), 0.1, -1, "axis=-1"),
        (torch.zeros(2, 8, 1), 0.1, 1, r"two points or more along axis 1, got fields of shape \(2, 8, 1\)"),
        (torch.zeros(2, 8, 0), 0.1, 0, "two points or more along axis 0"),
        (torch.zeros(2, 8), 0.0, 0, "expected a positive spacing, got 0.0"),
        (torch.zeros(2, 8), math.nan, 0, "expected a positive spacing, got nan"),
        (torch.zeros(2, 8, dtype=torch.complex64), 0.1, 0, "expected real fields"),
    ],
)
def test_bad_fields_are_named(field, spacing, axis, message):
    with pytest.raises(ValueError, match=message):
        variogram(field, spacing, axis)


@pytest.mark.parametrize(
    ("lags", "gamma", "message"),
    [
        ([1.0, 2.0], [1.0, 2.0], r"three at least, got \(2,\) and \(2,\)"),
        ([1.0, 2.0, 3.0], [[1.0, 2.0, 2.5]], r"got \(3,\) and \(1, 3\); take the mean over fields: gamma.mean\(0\)"),
        ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], "expected positive lags, got some between 0 and 2"),
        ([1.0, 2.0, 3.0], [1.0, -1.0, 2.0], "not negative and not zero throughout, got values between -1 and 2"),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], "between 0 and 0; fields that do not vary have no length"),
        ([1.0, 2.0, 3.0], [0.0, math.nan, 0.0], "expected a variogram that is finite"),
    ],
)
def test_what_cannot_be_fitted_is_named(lags, gamma, message):
    with pytest.raises(ValueError, match=message):
        variogram_fit(torch.tensor(lags), torch.tensor(gamma))
