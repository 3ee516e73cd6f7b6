r"""Correlated noise in any number of axes, for the source of a flow.

Noise with the separable covariance :math:`k(x, x') = \prod_a \rho(|x_a - x'_a|)`, :math:`\rho(0) = 1`, is
:math:`(L_1 \otimes \dots \otimes L_d) w` with :math:`L_a L_a^T` the covariance matrix of axis a: one small matrix
product an axis, on any device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from physflow.data.covariances import Covariance
from physflow.grid import Grid

__all__ = ["CorrelatedNoise"]


class CorrelatedNoise:
    r"""A linear map of white noise to Gaussian noise of unit variance with a separable covariance.

    Arguments:
        grid: The points.
        covariance: The covariance :math:`\rho` along each axis; it is scaled to unit variance.
    """

    def __init__(self, grid: Grid, covariance: Covariance) -> None:
        self.factors = []
        for x in grid.coordinates():
            matrix = covariance(np.abs(x[:, None] - x[None, :]))
            values, vectors = np.linalg.eigh(matrix / matrix[0, 0])
            # The symmetric root exists also where rounding leaves eigenvalues just below zero.
            root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
            self.factors.append(torch.from_numpy(root))

    def __call__(self, white: Tensor) -> Tensor:
        """Correlate white noise.

        Arguments:
            white: Independent N(0, 1) values, shape (..., *axes).

        Returns:
            Noise of the same shape, type and device.
        """
        for axis, factor in enumerate(self.factors):
            position = axis - len(self.factors)
            white = torch.tensordot(white, factor.to(white), dims=([position], [1])).movedim(-1, position)
        return white
