"""Correlated noise has the covariance it names."""

import numpy as np
import pytest
import torch

from physflow.data.correlated_noise import CorrelatedNoise
from physflow.data.covariances import Exponential
from physflow.grid import Grid


@pytest.mark.parametrize("grid", [Grid((5,)), Grid((4, 3)), Grid((3, 2, 4), ((0, 1), (0, 2), (0, 1)))], ids=str)
def test_covariance_is_the_product_over_the_axes(grid):
    noise = CorrelatedNoise(grid, Exponential(0.3, std=2.0))
    points = int(np.prod(grid.shape))
    # The map of the identity is the matrix of the linear map itself.
    columns = noise(torch.eye(points, dtype=torch.float64).view(points, *grid.shape)).view(points, points)
    exact = np.ones((1, 1))
    for x in grid.coordinates():
        exact = np.kron(exact, np.exp(-np.abs(x[:, None] - x[None, :]) / 0.3))
    np.testing.assert_allclose((columns.T @ columns).numpy(), exact, atol=1e-12)


def test_leading_dimensions_and_type_are_kept():
    noise = CorrelatedNoise(Grid((4, 3)), Exponential(0.3))
    white = torch.randn(2, 5, 4, 3)
    result = noise(white)
    assert result.shape == white.shape
    assert result.dtype == white.dtype
    torch.testing.assert_close(result[1, 2], noise(white[1, 2]))
