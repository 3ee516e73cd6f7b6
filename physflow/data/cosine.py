r"""Gaussian fields given by a cosine series, the law of the Fourier neural operator's Darcy data.

On a box with sides :math:`L_a`, and :math:`\Delta` the Laplacian with zero normal derivative on the walls,

.. math:: G \sim N\!\left(0,\; \sigma^2 \tau^{2(\alpha - 1)} (-\Delta + \tau^2 I)^{-\alpha}\right)

without its constant mode, that is

.. math:: G = \sum_{k \ne 0} a_k \xi_k \phi_k, \qquad
          a_k = \sigma\, \tau^{\alpha - 1} \Big(\pi^2 \sum_a k_a^2 / L_a^2 + \tau^2\Big)^{-\alpha / 2}, \qquad
          \xi_k \sim N(0, 1),

with the cosines :math:`\phi_k = \prod_a c_a \cos(\pi k_a x_a / L_a)`, of unit norm in :math:`L^2`:
:math:`c_a^2 = 1 / L_a` for :math:`k_a = 0`, else :math:`2 / L_a`. A grid of n points along an axis carries
:math:`k_a < n`.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft

from physflow.data.random_fields import Array, RandomField
from physflow.data.white_noise import normals
from physflow.grid import Grid

__all__ = ["CosineSeries"]


class CosineSeries(RandomField):
    r"""A Gaussian field by its cosine series, exact on the grid's points, by one DCT a sample.

    The walls are mirrors: near them the variance is larger than inside, and :math:`\partial_n G = 0` there. The mean of
    each sample over the box is zero.

    **Good values.** :math:`\alpha = 2`, :math:`\tau = 3` are the published ones (two-dimensional, unit square).
    A larger :math:`\alpha` gives smoother fields, a larger :math:`\tau` shorter correlations, about :math:`1 / \tau`.

    **When it fails.** For :math:`\alpha` near d / 2 and below the variance grows with the resolution without bound.

    Arguments:
        grid: The points; cells or nodes.
        alpha: The exponent :math:`\alpha`.
        tau: The inverse length :math:`\tau`, in the inverse unit of the grid's bounds.
        std: The factor :math:`\sigma`; the published amplitude has 1.
        modes: How many terms to keep, those of largest :math:`a_k`; None keeps all. With a number, the same
            coefficients belong to the same cosines at every resolution.

    Attributes:
        amplitudes: :math:`a_k`, shape of the grid, zero for a term left out.

    Raises:
        ValueError: If there are not as many terms as modes.

    References:
        Li et al., Fourier neural operator for parametric partial differential equations, ICLR 2021, section 5.2 and
        appendix A.3.2.
    """

    def __init__(
        self, grid: Grid, alpha: float = 2.0, tau: float = 3.0, std: float = 1.0, modes: int | None = None
    ) -> None:
        super().__init__(grid)
        terms = int(np.prod(grid.shape)) - 1
        if modes is not None and not 1 <= modes <= terms:
            raise ValueError(f"expected between 1 and {terms} modes on this grid, got {modes}")
        sides = [b - a for a, b in grid.bounds]
        waves = np.meshgrid(*(np.arange(n) / L for n, L in zip(grid.shape, sides, strict=True)), indexing="ij")
        eigenvalues = np.pi**2 * np.sum(np.square(waves), axis=0) + tau**2
        # The terms by size, ties in C order, without the constant one, which comes first.
        largest = np.argsort(eigenvalues, axis=None, kind="stable")[1:][:modes]
        self._kept = None if modes is None else largest
        self.amplitudes: Array = np.zeros(grid.shape)
        self.amplitudes.flat[largest] = std * tau ** (alpha - 1) * eigenvalues.flat[largest] ** (-alpha / 2)
        self._factors = self.amplitudes * self._normalisation(sides)

    def _normalisation(self, sides: list[float]) -> Array:
        """What turns coefficients of the cosines of unit norm into those of the transform."""
        if self.grid.centering == "cells":
            # The orthonormal transform has unit norm in the sum over the cells.
            return np.full(self.grid.shape, 1 / np.sqrt(self.grid.cell_volume))
        result = np.ones(self.grid.shape)
        for axis, (n, side) in enumerate(zip(self.grid.shape, sides, strict=True)):
            factors = np.full(n, np.sqrt(2 / side))
            factors[0] = np.sqrt(1 / side)
            factors[1:-1] /= 2  # The transform of type 1 counts these terms twice.
            result *= factors.reshape([n if a == axis else 1 for a in range(self.grid.ndim)])
        return result

    def _draw_block(self, seed: int, first: int) -> Array:
        indices, points = np.arange(first, first + self.block), math.prod(self.grid.shape)
        if self._kept is None:
            noise = normals(seed, indices, points).astype(np.float64)
        else:
            noise = np.zeros((self.block, points))
            noise[:, self._kept] = normals(seed, indices, self._kept.size)
        return self._series(noise.reshape(-1, *self.grid.shape))

    def _series(self, coefficients: Array) -> Array:
        r"""The field on the grid for coefficients :math:`\xi_k`, shape (batch, \*axes)."""
        axes = tuple(range(1, 1 + self.grid.ndim))
        if self.grid.centering == "cells":
            return scipy.fft.idctn(self._factors * coefficients, type=2, axes=axes, norm="ortho", overwrite_x=True)
        return scipy.fft.dctn(self._factors * coefficients, type=1, axes=axes, overwrite_x=True)
