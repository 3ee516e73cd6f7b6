"""Circulant embedding: the dense covariance matrix, by its products and by its draws."""

import numpy as np
import pytest
from random_field_oracles import dense, responses

from physflow.data import circulant
from physflow.data.circulant import CirculantEmbedding, Torus
from physflow.data.covariances import Exponential, Gaussian, Matern
from physflow.grid import Grid

GRIDS = [Grid((4, 4)), Grid((7, 5)), Grid((9, 6), centering="nodes"), Grid((6, 12), ((0, 1), (0, 3))), Grid((20,))]
PLANE = GRIDS[:-1]
SLANTED = (Exponential((0.3, 0.05), 2.0, 30.0), Matern((0.05, 0.2), 1.0, -20.0), Gaussian((0.2, 0.1), 1.0, 110.0))


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_products_are_those_of_the_dense_matrix(grid, factor):
    covariance = Matern(0.5, 2.0)
    torus, points = Torus(grid, covariance, factor), np.prod(grid.shape)
    columns = np.stack([torus.multiply(e) for e in np.eye(points)], axis=1)
    np.testing.assert_allclose(columns, dense(grid, covariance), atol=1e-12)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("covariance", SLANTED, ids=str)
@pytest.mark.parametrize("grid", PLANE, ids=str)
def test_products_along_slanted_axes(grid, covariance, factor):
    torus, points = Torus(grid, covariance, factor), np.prod(grid.shape)
    columns = np.stack([torus.multiply(e) for e in np.eye(points)], axis=1)
    np.testing.assert_allclose(columns, dense(grid, covariance), atol=1e-12)


@pytest.mark.parametrize(
    ("grid", "covariance"),
    [
        (Grid((4, 3)), Exponential(0.2, 2.0)),
        (Grid((3, 4), ((0, 2), (0, 1))), Exponential((0.3, 0.1), 1.5, 30.0)),
        (Grid((4, 3), centering="nodes"), Gaussian(0.2)),
        (Grid((3, 3)), Matern((0.2, 0.1), 2.0, 60.0)),
        (Grid((7,)), Exponential(0.5)),
    ],
    ids=str,
)
def test_draws_have_exactly_the_covariance(monkeypatch, grid, covariance):
    field = CirculantEmbedding(grid, covariance)
    even, odd = responses(monkeypatch, circulant, field, 2)
    exact = dense(grid, covariance)
    # The transform of a draw is in single precision.
    np.testing.assert_allclose(even @ even.T, exact, atol=1e-5)
    np.testing.assert_allclose(odd @ odd.T, exact, atol=1e-5)
    np.testing.assert_allclose(even @ odd.T, 0, atol=1e-5)


def test_a_smooth_covariance_takes_a_larger_torus(monkeypatch):
    grid = Grid((6, 5))
    assert Torus(grid, Gaussian(0.3)).spectrum.min() < -1e-3, "twice the grid is too small"
    field = CirculantEmbedding(grid, Gaussian(0.3, 2.0))
    even, odd = responses(monkeypatch, circulant, field, 2)
    assert even.shape[1] > 2 * 4 * 30
    np.testing.assert_allclose(even @ even.T, dense(grid, Gaussian(0.3, 2.0)), atol=1e-5)
    np.testing.assert_allclose(even @ odd.T, 0, atol=1e-5)


def test_draws_are_normal():
    fields = CirculantEmbedding(Grid((3, 2)), Exponential(0.2, 2.0)).draw(0, 0, 20000)
    # Six standard errors of the mean, the variance and the fourth moment of N(0, 4) over the set.
    assert np.abs(fields.mean(0)).max() < 6 * 2 / np.sqrt(20000)
    assert np.abs(fields.var(0) / 4 - 1).max() < 6 * np.sqrt(2 / 20000)
    assert np.abs((fields**4).mean(0) / 48 - 1).max() < 6 * np.sqrt(96 / 9 / 20000)


def test_an_embedding_that_is_not_positive_is_refused():
    message = r"not positive \(its smallest eigenvalue is -.*, the largest .*, on a torus of 8 times the grid\): "
    with pytest.raises(ValueError, match=message + "the correlation length is too long .* give a number of modes"):
        CirculantEmbedding(Grid((16, 16)), Gaussian(2.0))
