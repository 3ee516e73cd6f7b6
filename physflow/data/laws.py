r"""Laws of the permeability :math:`K`, made of a random field :math:`G`.

* `Lognormal`: :math:`K = e^G`.
* `Binary`: :math:`K` takes one of two values, by the sign of :math:`G`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physflow.config import DataConfig
from physflow.data.bumps import Bumps
from physflow.data.circulant import CirculantEmbedding
from physflow.data.cosine import CosineSeries
from physflow.data.covariances import Covariance, Exponential, Gaussian, Matern
from physflow.data.karhunen_loeve import KarhunenLoeve
from physflow.data.random_fields import RandomField
from physflow.grid import Grid

__all__ = ["Binary", "Lognormal", "PermeabilityLaw", "grid_of_config", "law_of"]


class PermeabilityLaw(ABC):
    """A law of permeabilities on a grid: a function, point by point, of a random field.

    Arguments:
        field: The law of G.
    """

    def __init__(self, field: RandomField) -> None:
        self.field = field

    @property
    def grid(self) -> Grid:
        """The points."""
        return self.field.grid

    @property
    def block(self) -> int:
        """How many samples are computed together; blocks are aligned to multiples of it."""
        return self.field.block

    @abstractmethod
    def of(self, field: NDArray[Any]) -> NDArray[Any]:
        """The permeability K for values of G, in the same shape and type."""

    def draw(self, seed: int, first: int, count: int, dtype: str = "float64") -> NDArray[Any]:
        """Draw permeabilities first .. first + count - 1; sample i depends on (seed, i) alone.

        Arguments:
            seed: The seed of the whole set.
            first: The index of the first sample.
            count: The number of samples.
            dtype: The type of K, ``"float32"`` or ``"float64"``; G is rounded to it first.

        Returns:
            The permeability K, dimensionless and positive, shape (count, *grid.shape).
        """
        return self.of(self.field.draw(seed, first, count).astype(dtype, copy=False))


class Lognormal(PermeabilityLaw):
    """The permeability K = exp(G).

    **Good values.** A standard deviation of G of 1 to 3; 1 spans two orders of magnitude.

    **When it fails.** Storage in float32 costs the residual a digit for each unit of the standard deviation
    (`physflow.pde.Darcy`), and K overflows in float32 where G exceeds 88.
    """

    def of(self, field: NDArray[Any]) -> NDArray[Any]:
        """The permeability K for values of G, in the same shape and type."""
        return np.exp(field)


class Binary(PermeabilityLaw):
    r"""A permeability of two values: :math:`K = b` where :math:`G \ge 0`, :math:`K = a` elsewhere.

    **Good values.** (a, b) = (3, 12), as published with the cosine series, and (0.1, 1), with the bumps.

    **When it fails.** The interface runs along the faces of the grid, so a refined grid has another K near it. Above a
    contrast of about 1000 the solver slows down (`physflow.pde.Darcy`).

    Arguments:
        field: The law of G.
        levels: The low and the high value (a, b), both positive.

    Raises:
        ValueError: If not 0 < a < b.
    """

    def __init__(self, field: RandomField, levels: tuple[float, float] = (3.0, 12.0)) -> None:
        super().__init__(field)
        if not 0 < levels[0] < levels[1]:
            raise ValueError(f"expected two levels 0 < low < high, got {levels}")
        self.levels = levels

    def of(self, field: NDArray[Any]) -> NDArray[Any]:
        """The permeability K for values of G, in the same shape and type."""
        low, high = self.levels
        return np.where(field >= 0, field.dtype.type(high), field.dtype.type(low))


def grid_of_config(config: DataConfig) -> Grid:
    """The grid of a data set: the box of its extent, with one corner at the origin."""
    (width, height) = config.extent
    return Grid(config.shape, ((0.0, width), (0.0, height)), centering=config.discretization)


def law_of(config: DataConfig) -> PermeabilityLaw:
    """The law of the permeability of a data set.

    Raises:
        ValueError: If there is no such law, as where no circulant embedding of the covariance is positive.
    """
    field = _field_of(config)
    return Binary(field, config.levels) if config.permeability == "binary" else Lognormal(field)


def _field_of(config: DataConfig) -> RandomField:
    grid = grid_of_config(config)
    if config.covariance == "bumps":
        return _made(Bumps, grid)
    if config.covariance == "cosine":
        return _made(CosineSeries, grid, config.alpha, config.tau, config.std, config.modes)
    covariance = _covariance_of(config)
    if config.modes is None:
        return _made(CirculantEmbedding, grid, covariance)
    return _made(KarhunenLoeve, grid, covariance, config.modes, config.coefficients)


def _covariance_of(config: DataConfig) -> Covariance:
    arguments = (config.correlation_length, config.std, config.angle)
    if config.covariance == "matern":
        return Matern(*arguments, config.smoothness)
    return Gaussian(*arguments) if config.covariance == "gaussian" else Exponential(*arguments)


@lru_cache(maxsize=4)
def _made(field: Callable[..., RandomField], *arguments: Any) -> RandomField:
    # A field holds its factorisation; what differs in seed, equation or storage alone shares it.
    return field(*arguments)
