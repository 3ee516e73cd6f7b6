"""Covariances: closed forms, limits, principal axes."""

import math
from functools import partial

import numpy as np
import pytest
from random_field_oracles import dense

from physflow.data.covariances import Exponential, Gaussian, Matern
from physflow.grid import Grid

R = np.concatenate([[0.0, 1e-300, 1e-12, 1e-6], np.geomspace(1e-3, 1e3, 200)])
ALL = {
    "exponential": Exponential,
    "matern 0.3": partial(Matern, smoothness=0.3),
    "matern": Matern,
    "matern 50": partial(Matern, smoothness=50.0),
    "gaussian": Gaussian,
}
every_covariance = pytest.mark.parametrize("make", ALL.values(), ids=ALL)


@pytest.mark.parametrize(
    ("smoothness", "closed_form"),
    [
        (0.5, lambda r: np.exp(-r)),
        (1.5, lambda r: (1 + math.sqrt(3) * r) * np.exp(-math.sqrt(3) * r)),
        (2.5, lambda r: (1 + math.sqrt(5) * r + 5 / 3 * r**2) * np.exp(-math.sqrt(5) * r)),
    ],
)
def test_matern_has_the_closed_forms_of_half_integers(smoothness, closed_form):
    np.testing.assert_allclose(
        Matern(1.0, smoothness=smoothness).correlation(R), closed_form(R), rtol=1e-12, atol=1e-15
    )


def test_matern_one_half_is_exponential():
    np.testing.assert_allclose(Matern(0.2, 1.5, smoothness=0.5)(R), Exponential(0.2, 1.5)(R), rtol=1e-12, atol=1e-15)


def test_the_limit_of_matern_is_gaussian():
    errors = [np.abs(Matern(1.0, smoothness=nu).correlation(R) - Gaussian(1.0).correlation(R)).max() for nu in (25, 50)]
    # The correction is of order 1 / nu.
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)


@every_covariance
def test_correlations_fall_from_one_to_zero(make):
    rho = make(1.0).correlation(R)
    assert rho[0] == 1
    assert np.isfinite(rho).all()
    assert (np.diff(rho) < 1e-12).all()
    assert abs(rho[-1]) < 1e-12


@every_covariance
def test_length_and_std_scale_the_covariance(make):
    lag = np.linspace(0, 3, 50)
    np.testing.assert_allclose(make(0.5, 3.0)(lag), 9 * make(1.0)(2 * lag), rtol=1e-12)
    x, y, z = np.random.default_rng(0).standard_normal((3, 20))
    np.testing.assert_allclose(make(0.5)(x, y, z), make(0.5)(np.sqrt(x**2 + y**2 + z**2)), rtol=1e-9, atol=1e-15)


@every_covariance
@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, -110.0])
def test_the_principal_axes_have_their_lengths(make, angle):
    covariance, lag = make((0.4, 0.1), 2.0, angle), np.linspace(-1, 1, 41)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    np.testing.assert_allclose(covariance(c * lag, s * lag), make(0.4, 2.0)(lag), rtol=1e-9)
    np.testing.assert_allclose(covariance(-s * lag, c * lag), make(0.1, 2.0)(lag), rtol=1e-9, atol=1e-12)


@every_covariance
def test_a_quarter_turn_swaps_the_lengths(make):
    x, y = np.random.default_rng(0).standard_normal((2, 20))
    np.testing.assert_allclose(make((0.4, 0.1), 1.0, 90.0)(x, y), make((0.1, 0.4))(x, y), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(make((0.3, 0.3), 1.0, 17.0)(x, y), make(0.3)(x, y), rtol=1e-9, atol=1e-15)


@every_covariance
@pytest.mark.parametrize("length", [0.3, (0.5, 0.1)])
def test_matrices_are_positive(make, length):
    matrix = dense(Grid((6, 5)), make(length, 1.0, 0.0 if length == 0.3 else 20.0))
    np.testing.assert_array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > -1e-13


@pytest.mark.parametrize("arguments", [(0.0,), (-1.0,), (math.nan,), (math.inf,), ((0.1, 0.0),), (0.1, 0.0)])
def test_impossible_scales_are_refused(arguments):
    with pytest.raises(ValueError, match="positive correlation lengths and a positive std"):
        Exponential(*arguments)


@pytest.mark.parametrize("smoothness", [0.0, -1.0, 50.5, math.nan])
def test_impossible_smoothness_is_refused(smoothness):
    with pytest.raises(ValueError, match=r"smoothness in \(0, 50\], got"):
        Matern(smoothness=smoothness)


def test_two_lengths_need_two_axes():
    with pytest.raises(ValueError, match=r"two correlation lengths \(0.2, 0.1\) need a grid of two axes, got 1"):
        Exponential((0.2, 0.1))(np.zeros(3))
