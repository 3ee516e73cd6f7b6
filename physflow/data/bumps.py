r"""Sums of bumps in random places, the law of PDEBench's Darcy data.

On the box :math:`(0, L_x) \times (0, L_y)`

.. math:: G(x) = \sum_{j=1}^{5} e^{-|x - c_j|^2 / s_j} - m, \qquad c_j \sim U(\text{box}), \qquad
          s_j \sim \tfrac{L_x}{2} U(0, 1),

with m the mean of the sum over the box and the law. The published data take for m the mean over all samples of the set
and all points; that of the law is its limit, and leaves each sample independent of the others. In closed form the mean
of one bump of given s is a product over the axes of

.. math:: \frac{1}{L^2} \int_0^L\!\!\int_0^L e^{-(x - c)^2 / s}\, dx\, dc
          = \frac{\sqrt{\pi s}}{L} \operatorname{erf}\frac{L}{\sqrt{s}} - \frac{s}{L^2} \left(1 - e^{-L^2 / s}\right),

and its mean over s is an integral in one dimension.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.integrate
import torch

from physflow.data.random_fields import Array, RandomField
from physflow.data.white_noise import uniforms
from physflow.grid import Grid

__all__ = ["NUMBER", "Bumps"]

NUMBER = 5
"""How many bumps a field has."""


class Bumps(RandomField):
    r"""Five bumps of random place and width, less their mean: smooth, and positive in a few islands at most.

    **Good values.** There is nothing to choose; it is made for the sign of G, as `physflow.data.laws.Binary` takes it.

    **When it fails.** It is neither Gaussian nor stationary: there is more near the middle of the box than at its
    walls. A bump narrower than a cell, on 64 x 64 points one in two thousand, falls between the points of the grid.

    Arguments:
        grid: A grid of two axes.

    Attributes:
        mean: The mean m of the sum of the bumps.

    Raises:
        ValueError: If the grid has not two axes.

    References:
        Takamoto et al., PDEBench: an extensive benchmark for scientific machine learning, NeurIPS 2022, and its public
        generator.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        if grid.ndim != 2:
            raise ValueError(f"the law of bumps needs a grid of two axes, got shape {grid.shape}")
        self._sides = np.array([b - a for a, b in grid.bounds])
        self._points = [torch.from_numpy(x - a) for x, (a, _) in zip(grid.coordinates(), grid.bounds, strict=True)]
        self.mean = NUMBER * _mean_of_one(*self._sides)

    def _draw_block(self, seed: int, first: int) -> Array:
        numbers = uniforms(seed, np.arange(first, first + self.block), 3 * NUMBER).reshape(-1, NUMBER, 3)
        centres, widths = self._sides * numbers[..., :2], self._sides[0] / 2 * numbers[..., 2:]
        return self._sum(torch.from_numpy(centres), torch.from_numpy(widths)).numpy() - self.mean

    def _sum(self, centres: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
        """The sums of bumps, shape (batch, nx, ny); each bump is a product over the axes."""
        along_x, along_y = (
            torch.exp(-((x - centres[..., axis, None]) ** 2) / widths) for axis, x in enumerate(self._points)
        )
        return along_x.transpose(1, 2) @ along_y


def _mean_of_one(width: float, height: float) -> float:
    def along(side: float, root: float) -> float:
        s = root**2
        return math.sqrt(math.pi) * root / side * math.erf(side / root) - s / side**2 * -math.expm1(-(side**2) / s)

    # In the root of s, where the integrand is smooth: the mean of f(s) is the integral of f(r^2) 2 r dr over its range.
    most = math.sqrt(width / 2)
    integral, _ = scipy.integrate.quad(
        lambda r: along(width, r) * along(height, r) * 2 * r / most**2, 0, most, epsabs=1e-14, epsrel=1e-13
    )
    return float(integral)
