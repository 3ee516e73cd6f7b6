r"""Covariances of stationary Gaussian fields.

The covariance of the values at two points is a function of the lag :math:`h = x - x'` between them,

.. math:: k(h) = \sigma^2 \rho(r), \qquad r = \left| \operatorname{diag}(1/l_1, \dots, 1/l_d)\, R(\theta)^T h \right|,

with the standard deviation :math:`\sigma`, the correlation function :math:`\rho`, :math:`\rho(0) = 1`, and the scaled
distance :math:`r`. With one correlation length :math:`l` the field is isotropic, :math:`r = |h| / l`. In two dimensions
there can be two, :math:`l_1` along the direction at the angle :math:`\theta` from the x axis and :math:`l_2` across it:
the columns of the rotation :math:`R(\theta)` are these principal axes.

A covariance is called with the components of the lag, one array an axis.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.special
from numpy.typing import NDArray

__all__ = ["Covariance", "Exponential", "Gaussian", "Matern"]

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Covariance(ABC):
    r"""A covariance :math:`k(h) = \sigma^2 \rho(r)` of the lag :math:`h`.

    Arguments:
        correlation_length: The length :math:`l`, or the pair :math:`(l_1, l_2)`, in the unit of the grid's bounds.
        std: The standard deviation :math:`\sigma`.
        angle: The angle :math:`\theta` of the first principal axis from the x axis, in degrees.

    Raises:
        ValueError: If a length or the standard deviation is not positive and finite.
    """

    correlation_length: float | tuple[float, float] = 0.1
    std: float = 1.0
    angle: float = 0.0

    def __post_init__(self) -> None:
        length = self.correlation_length
        for value in (*(length if isinstance(length, tuple) else (length,)), self.std):
            if not 0 < value < math.inf:
                raise ValueError(f"expected positive correlation lengths and a positive std, got {self}")

    @abstractmethod
    def correlation(self, r: Array) -> Array:
        r"""The correlation :math:`\rho(r)` at each scaled distance."""

    def distance(self, *lag: Array) -> Array:
        """The scaled distance :math:`r` of each lag, given as one array an axis.

        Raises:
            ValueError: If there are two correlation lengths, but not two axes.
        """
        if not isinstance(self.correlation_length, tuple):
            return np.sqrt(sum(h**2 for h in lag)) / self.correlation_length
        if len(lag) != 2:
            raise ValueError(
                f"two correlation lengths {self.correlation_length} need a grid of two axes, got {len(lag)}; give one"
            )
        theta = math.radians(self.angle)
        along = math.cos(theta) * lag[0] + math.sin(theta) * lag[1]
        across = math.cos(theta) * lag[1] - math.sin(theta) * lag[0]
        return np.sqrt((along / self.correlation_length[0]) ** 2 + (across / self.correlation_length[1]) ** 2)

    def __call__(self, *lag: Array) -> Array:
        """The covariance at each lag, given as one array an axis."""
        return self.std**2 * self.correlation(self.distance(*lag))


@dataclass(frozen=True)
class Exponential(Covariance):
    r"""The exponential covariance, :math:`\rho(r) = e^{-r}`: continuous fields, nowhere differentiable.

    **Good values.** l = 0.1 on the unit square is the published one. A grid resolves the field where l spans several
    cells; below one cell the points are nearly independent.

    **When it fails.** Where fields should have a gradient: they are rough at every scale, and refining the grid adds
    detail without end.
    """

    def correlation(self, r: Array) -> Array:
        r"""The correlation :math:`\rho(r)` at each scaled distance."""
        return np.exp(-r)


@dataclass(frozen=True)
class Matern(Covariance):
    r"""The Matern covariance, whose fields are as smooth as one wishes.

    .. math:: \rho(r) = \frac{2^{1 - \nu}}{\Gamma(\nu)} z^\nu K_\nu(z), \qquad z = \sqrt{2 \nu}\, r,

    with the modified Bessel function :math:`K_\nu`. The fields have :math:`\lceil \nu \rceil - 1` derivatives (in mean
    square); :math:`\nu = 1/2` is the exponential covariance, :math:`\nu \to \infty` the Gaussian one.

    **Good values.** :math:`\nu` = 3/2 and 5/2, fields with one and two derivatives.

    **When it fails.** A smooth covariance needs room to decay: its circulant embedding takes shorter lengths than that
    of the exponential one (`physflow.data.circulant`).

    Arguments:
        smoothness: The parameter :math:`\nu`, in (0, 50].
    """

    smoothness: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.smoothness <= 50:
            raise ValueError(f"expected a smoothness in (0, 50], got {self.smoothness}; Gaussian is the limit")

    def correlation(self, r: Array) -> Array:
        r"""The correlation :math:`\rho(r)` at each scaled distance."""
        nu, z = self.smoothness, math.sqrt(2 * self.smoothness) * np.asarray(r, dtype=np.float64)
        # In logarithms, for z**nu and the Bessel function leave the range of floats in opposite directions.
        with np.errstate(divide="ignore", invalid="ignore"):
            log = (1 - nu) * math.log(2) - scipy.special.gammaln(nu) + nu * np.log(z) + np.log(scipy.special.kve(nu, z))
        # kve is infinite where z is so small that rho is 1 to rounding.
        return np.where(np.isfinite(log), np.exp(log - z), 1.0)


@dataclass(frozen=True)
class Gaussian(Covariance):
    r"""The Gaussian covariance, :math:`\rho(r) = e^{-r^2 / 2}`: fields with all derivatives.

    **Good values.** l = 0.1 on the unit square; few modes hold nearly all of the variance.

    **When it fails.** Its eigenvalues fall so fast that all but the first few tens are rounding errors: modes beyond
    them add nothing.
    """

    def correlation(self, r: Array) -> Array:
        r"""The correlation :math:`\rho(r)` at each scaled distance."""
        return np.exp(-(r**2) / 2)
