r"""Stationary Gaussian fields by waves on a torus.

.. math:: G = \sigma \sum_{k \ne 0} s_k \xi_k e^{i k x}, \qquad s_k \propto (|k|^2 + \tau^2)^{-\alpha / 2},
          \qquad \sum_k s_k^2 = 1,

with complex normal coefficients :math:`\xi_k`: the covariance is a power of that of the equation
:math:`(\tau^2 - \Delta) G = \text{white noise}`, and every point has the standard deviation :math:`\sigma`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from physflow.data.random_fields import Array, RandomField
from physflow.data.white_noise import normals
from physflow.grid import Grid
from physflow.pde.waves import squares

__all__ = ["FourierSeries"]


class FourierSeries(RandomField):
    r"""A Gaussian field with a power law for its spectrum, by one FFT a sample.

    On a periodic box the torus is the box, and the mean of every sample is zero. Else the torus has twice its sides, of
    which the field fills a quarter in two dimensions: it does not repeat, and its mean is any.

    **Good values.** :math:`\alpha` of 2 to 3; correlations reach some :math:`1 / \tau`.

    **When it fails.** For :math:`\alpha \le d / 2` the field is noise of single points in the limit of fine grids, and
    with :math:`\tau` of less than the side over the torus is too small for the correlations: they are cut off.

    Arguments:
        grid: A grid of cells.
        std: The standard deviation :math:`\sigma`.
        alpha: The exponent :math:`\alpha`.
        tau: The inverse length :math:`\tau`, in the inverse unit of the grid's bounds.
        periodic: Whether the box is a torus.
        instants: How many instants are made of a sample later: as many fewer samples are computed together.

    Raises:
        ValueError: If tau is negative, or zero where the mean is not fixed.

    References:
        Z. Li et al., "Fourier neural operator for parametric partial differential equations", ICLR 2021, appendix A.3
        (the laws of the first instants for Burgers and Navier-Stokes).
    """

    def __init__(
        self,
        grid: Grid,
        std: float = 1.0,
        alpha: float = 2.0,
        tau: float = 3.0,
        periodic: bool = True,
        instants: int = 1,
    ) -> None:
        super().__init__(grid, instants)
        self._torus = tuple(n if periodic else 2 * n for n in grid.shape)
        if tau < 0 or (tau == 0 and not periodic):
            raise ValueError(f"tau must be positive, or zero on a periodic box, got {tau!r}")
        square = squares(self._torus, grid.spacing) + tau**2
        constant = (0,) * grid.ndim
        square[constant] = square[constant] or 1.0
        amplitudes = square ** (-alpha / 2)
        if periodic:
            amplitudes[constant] = 0.0
        # Each wave but those of the last axis' ends stands for two.
        twice = np.full(amplitudes.shape[-1], 2.0)
        twice[0] = 1.0
        if self._torus[-1] % 2 == 0:
            twice[-1] = 1.0
        power = float((twice * amplitudes**2).sum()) / math.prod(self._torus)
        self._amplitudes: Array = std * amplitudes / math.sqrt(power)

    def _draw_block(self, seed: int, first: int) -> NDArray[Any]:
        axes, points = tuple(range(1, self.grid.ndim + 1)), math.prod(self._torus)
        noise = normals(seed, np.arange(first, first + self.block), points).reshape(self.block, *self._torus)
        waves = scipy.fft.rfftn(noise.astype(np.float64), axes=axes)
        field = scipy.fft.irfftn(waves * self._amplitudes, s=self._torus, axes=axes)
        return np.ascontiguousarray(field[(slice(None), *(slice(n) for n in self.grid.shape))])
