r"""What every toy distribution can do: draw samples, state its density, its mean and its covariance.

A toy is a law of points x in :math:`\mathbb{R}^d`, d small, of which everything is known, so that what a model learns
can be compared with the truth. Points are rows: a sample has the shape (n, d). Parameters and arithmetic are in
float64; results come in the type of the points they are for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["Toy"]


class Toy(ABC):
    """A law of points with an exact sampler and a known density."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """The number d of coordinates of a point."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """The mean, shape (d,), float64."""

    @property
    @abstractmethod
    def covariance(self) -> Tensor:
        """The covariance, shape (d, d), float64."""

    @abstractmethod
    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Points (n, d) in float64 on the generator's device, n positive."""

    @abstractmethod
    def _log_density(self, x: Tensor) -> Tensor:
        """The logarithm of the density (batch,) at points (batch, d) in float64."""

    def sample(
        self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Independent points.

        Arguments:
            n: Their number.
            generator: All random numbers; one seed gives one sample in every `dtype` and on every `device`.
            dtype: The floating-point type of the result.
            device: The device of the result.

        Returns:
            The points, shape (n, d).

        Raises:
            ValueError: If n is negative.
        """
        if n < 0:
            raise ValueError(f"expected a number of points that is not negative, got n = {n}")
        if n == 0:
            return torch.empty(0, self.dimension, dtype=dtype, device=device)
        return self._draw(n, generator).to(device, dtype)

    def log_density(self, x: Tensor) -> Tensor:
        r"""The logarithm of the density, :math:`\log p(x)`, per unit of d-dimensional volume.

        Arguments:
            x: Points, shape (batch, d).

        Returns:
            The logarithms, shape (batch,), in the type of x; minus infinity where the density is zero.

        Raises:
            ValueError: If the points have another dimension.
        """
        return self._log_density(self._points(x)).to(x.dtype)

    def _points(self, x: Tensor) -> Tensor:
        """The points in float64, once their shape is seen to be right."""
        if x.ndim != 2 or x.shape[1] != self.dimension:
            raise ValueError(f"expected points of shape (batch, {self.dimension}), got {tuple(x.shape)}")
        return x.double()
