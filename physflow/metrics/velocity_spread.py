r"""How many velocities pass through one point.

On a path between source and data many pairs :math:`(x_0, x_1)` pass through the same point x at the same time t, each
with its own velocity :math:`u_t`. A flow without a latent regresses their mean; their standard deviation

.. math:: s(x, t) = \operatorname{std}(u_t \mid x_t = x)

is what it cannot represent, and what a latent can. It is estimated in bins of (x, t) from draws of
:math:`(x_t, u_t, t)`. Of a vector x one coordinate is taken, of the velocity the same one. A bin is not a point: s also
holds how much the mean velocity varies within the bin, of width :math:`h_x` and :math:`h_t`, which adds about
:math:`(h_x \partial_x v)^2 / 12 + (h_t \partial_t v)^2 / 12` to its square, and over the other coordinates.

References:
    P. Guo, A. Schwing, "Variational rectified flow matching", 2025, section 4.1 (the map for data on a line).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["VelocitySpread", "velocity_spread"]


@dataclass(frozen=True)
class VelocitySpread:
    """The spread of the velocity over bins of x and t.

    Arguments:
        std: The standard deviation of the velocity in each bin, shape (x bins, t bins), in the unit of the velocity;
            NaN where a bin holds fewer than two items.
        count: The number of items in each bin, same shape.
        x_edges: The edges of the bins of x, shape (x bins + 1,), in the unit of x.
        t_edges: The edges of the bins of t in [0, 1], shape (t bins + 1,).
    """

    std: Tensor
    count: Tensor
    x_edges: Tensor
    t_edges: Tensor


def velocity_spread(
    x_t: Tensor,
    velocities: Tensor,
    t: Tensor,
    bins: tuple[int, int] = (40, 40),
    x_range: tuple[float, float] | None = None,
    coordinate: int = 0,
) -> VelocitySpread:
    r"""The standard deviation :math:`s(x, t)` of velocities in bins of x and t.

    Arguments:
        x_t: Points :math:`x_t`, shape (batch,) or (batch, d).
        velocities: The velocities there, same shape: conditional ones :math:`u_t` (as of
            `physflow.generative.Path.interpolate`), or those a model predicts for latents drawn anew for each item.
        t: Times in [0, 1], shape (batch,).
        bins: The number of equal bins of x and of t.
        x_range: The ends of the bins of x; by default those of the points. Points beyond are left out.
        coordinate: Which coordinate of (batch, d) to take, of points and velocities.

    Returns:
        The map, float64. The standard deviation is that of a sample, with n - 1 in the denominator.

    Raises:
        ValueError: If the shapes do not fit, there are no points, values are not finite, a time lies outside [0, 1], or
            bins, range or coordinate are wrong.

    References:
        P. Guo, A. Schwing, 2025, section 4.1.
    """
    x, v = _coordinate(x_t, coordinate).double(), _coordinate(velocities, coordinate).double()
    if x_t.shape != velocities.shape or t.shape != x.shape:
        raise ValueError(
            "expected points and velocities of one shape, (batch,) or (batch, d), and times of shape (batch,), got "
            f"{tuple(x_t.shape)}, {tuple(velocities.shape)} and {tuple(t.shape)}"
        )
    if len(x) == 0:
        raise ValueError("expected at least one point, got none")
    if not (torch.isfinite(x).all() and torch.isfinite(v).all()):
        raise ValueError("points or velocities hold values that are NaN or infinite; leave those out")
    if not ((t >= 0) & (t <= 1)).all():
        raise ValueError(f"times must lie in [0, 1], got some between {t.min().item():g} and {t.max().item():g}")
    if min(bins) < 1:
        raise ValueError(f"expected at least one bin of x and one of t, got {bins}")
    low, high = x_range or (x.min().item(), x.max().item())
    if not low < high:
        raise ValueError(f"the bins of x need a range of rising ends, got {low:g} to {high:g}; give x_range")

    x_edges = torch.linspace(low, high, bins[0] + 1, dtype=x.dtype, device=x.device)
    t_edges = torch.linspace(0, 1, bins[1] + 1, dtype=x.dtype, device=x.device)
    within = (x >= low) & (x <= high)
    x, v, t = x[within], v[within], t[within].double()
    index = _bin(x, x_edges) * bins[1] + _bin(t, t_edges)

    count = torch.bincount(index, minlength=bins[0] * bins[1])
    mean = torch.bincount(index, v, len(count)) / count.clamp(min=1)
    squares = torch.bincount(index, (v - mean[index]).square(), len(count))
    std = torch.where(count > 1, (squares / (count - 1).clamp(min=1)).sqrt(), torch.nan)
    return VelocitySpread(std.reshape(bins), count.reshape(bins), x_edges, t_edges)


def _coordinate(values: Tensor, coordinate: int) -> Tensor:
    """One coordinate (batch,) of points (batch,) or (batch, d)."""
    if values.ndim not in (1, 2):
        raise ValueError(
            f"expected points and velocities of shape (batch,) or (batch, d), got {tuple(values.shape)}; "
            "flatten fields, or project them"
        )
    columns = values[:, None] if values.ndim == 1 else values
    if not 0 <= coordinate < columns.shape[1]:
        raise ValueError(f"coordinate must be one of 0 to {columns.shape[1] - 1}, got {coordinate}")
    return columns[:, coordinate]


def _bin(values: Tensor, edges: Tensor) -> Tensor:
    """The bin of each value, the last edge belonging to the last bin."""
    return torch.bucketize(values, edges, right=True).sub(1).clamp(0, len(edges) - 2)
