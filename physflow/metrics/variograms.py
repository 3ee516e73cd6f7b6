r"""Directional variograms of fields on uniform grids, and the range and the sill of a model of them.

The variogram of a field u along the unit vector e of an axis is half the mean square of its increments,

.. math:: \gamma(h) = \tfrac12\, E\, (u(x + h e) - u(x))^2,

a mean over all pairs of points of one field that lie h apart (Matheron's estimate). Unlike a covariance it needs no
mean, and exists for fields that have no variance. A stationary field of variance :math:`s` and covariance :math:`C` has
:math:`\gamma(h) = s - C(h)`: it rises to the sill s over the range. The exponential model is

.. math:: \gamma(h) = s\, (1 - e^{-h / \ell})

with the range parameter :math:`\ell`; 95 % of the sill are reached at :math:`3 \ell`, the practical range. Lags end at
half the domain: beyond it, few pairs are left, all of them with points near the boundary.

References:
    G. Matheron, "Principles of geostatistics", Economic Geology 58, 1963.
    N. Cressie, "Statistics for spatial data", 1993, sections 2.4 and 2.6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

__all__ = ["VariogramFit", "variogram", "variogram_fit"]


def variogram(field: Tensor, spacing: float, axis: int = 0) -> tuple[Tensor, Tensor]:
    r"""The variogram of each field of a batch along one axis.

    Arguments:
        field: Fields u of shape (batch, *axes), real, in any unit.
        spacing: The distance of neighbouring points along that axis, in the unit of length.
        axis: The axis, counted without that of the batch: 0 is x.

    Returns:
        The lags h, 1 to n // 2 spacings for n points along the axis, shape (lags,), in the unit of length, and
        :math:`\gamma` of shape (batch, lags), in the unit of the field squared; both float64, on the field's device.

    Raises:
        ValueError: If the field has no such axis, fewer than two points along it or none along another, is complex, or
            the spacing is not positive.

    References:
        N. Cressie, 1993, section 2.4.
    """
    if field.is_complex():
        raise ValueError(f"expected real fields, got {field.dtype}; give the real and imaginary part one by one")
    if field.ndim < 2 or not 0 <= axis < field.ndim - 1:
        raise ValueError(
            f"expected fields of shape (batch, *axes) and one of their axes, 0 to {max(field.ndim - 2, 0)}, got "
            f"{tuple(field.shape)} and axis={axis}; add the batch axis to a single field: field[None]"
        )
    n = field.shape[axis + 1]
    if n < 2 or 0 in field.shape[1:]:
        raise ValueError(f"expected two points or more along axis {axis}, got fields of shape {tuple(field.shape)}")
    if not 0 < spacing < math.inf:
        raise ValueError(f"expected a positive spacing, got {spacing}")
    u = field.detach().double().movedim(axis + 1, -1)
    k = range(1, n // 2 + 1)
    gamma = [(u[..., i:] - u[..., :-i]).square().flatten(1).mean(1) / 2 for i in k]
    return torch.tensor(k, dtype=u.dtype, device=u.device) * spacing, torch.stack(gamma, 1)


@dataclass(frozen=True)
class VariogramFit:
    r"""An exponential variogram.

    Attributes:
        length: The range parameter :math:`\ell`, in the unit of length.
        sill: The sill s, in the unit of the field squared.
    """

    length: float
    sill: float


def variogram_fit(lags: Tensor, gamma: Tensor) -> VariogramFit:
    r"""The exponential model that is nearest to a variogram in the sense of least squares, all lags alike.

    For a given :math:`\ell` the best sill is linear in :math:`\gamma`; the length alone is searched, for the least sum
    of squares on a logarithmic grid and then between its neighbours. There are two limits: a variogram that does not
    rise has the length 0 and its mean as sill (white noise); one that has not begun to level off within the lags has an
    infinite length and sill, since they determine its slope alone. The variogram of one field is uncertain at lags that
    are not small against the domain: fit the mean over fields.

    Arguments:
        lags: Positive lags h, shape (lags,), three at least, in the unit of length.
        gamma: The variogram there, same shape, in the unit of the field squared.

    Returns:
        The length and the sill.

    Raises:
        ValueError: If the shapes are wrong, lags are not positive, or gamma is not finite, negative or zero throughout.

    References:
        N. Cressie, 1993, section 2.6.
    """
    if lags.ndim != 1 or lags.shape != gamma.shape or len(lags) < 3:
        raise ValueError(
            "expected lags and variogram of one shape (lags,), three at least, got "
            f"{tuple(lags.shape)} and {tuple(gamma.shape)}; take the mean over fields: gamma.mean(0)"
        )
    h, g = (values.detach().cpu().double().numpy() for values in (lags, gamma))
    if not (np.isfinite(h).all() and (h > 0).all()):
        raise ValueError(f"expected positive lags, got some between {h.min():g} and {h.max():g}")
    if not (np.isfinite(g).all() and (g >= 0).all() and g.any()):
        raise ValueError(
            "expected a variogram that is finite, not negative and not zero throughout, got values between "
            f"{g.min():g} and {g.max():g}; fields that do not vary have no length"
        )

    def sill(log_l: float) -> float:
        f = -np.expm1(-h / math.exp(log_l))
        return float(f @ g / (f @ f))

    def misfit(log_l: float) -> float:
        return float(np.square(-sill(log_l) * np.expm1(-h / math.exp(log_l)) - g).sum() / np.square(g).sum())

    # At the ends the model is a constant and a line, to rounding and to to one part in a thousand.
    grid = np.linspace(math.log(h.min() / 40), math.log(h.max() * 500), 100)
    best = int(np.argmin([misfit(log_l) for log_l in grid]))
    if grid[best] < math.log(h.min() / 20):
        return VariogramFit(0.0, float(g.mean()))
    if best == len(grid) - 1:
        return VariogramFit(math.inf, math.inf)
    found = minimize_scalar(misfit, bounds=(grid[best - 1], grid[best + 1]), method="bounded", options={"xatol": 1e-9})
    return VariogramFit(math.exp(found.x), sill(found.x))
