r"""Point sensors: fields read between the grid points.

On a tensor-product grid with coordinates :math:`x_{a, 0} < x_{a, 1} < \dots` along axis a, a sensor at :math:`s` reads
the multilinear interpolant

.. math:: H(u) = \sum_{k \in \{0, 1\}^d} u_{j + k} \prod_{a=1}^{d} \bigl(k_a w_a + (1 - k_a)(1 - w_a)\bigr), \qquad
          w_a = \frac{s_a - x_{a, j_a}}{x_{a, j_a + 1} - x_{a, j_a}} \in [0, 1],

exact for fields that are linear along each axis, and of an error :math:`O(h^2)` for smooth ones. On a grid of cells it
continues as a constant beyond the outermost points, up to the walls at half a spacing; on one of nodes these points lie
on the walls.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from physflow.inference.operators import Operator, channel_of

__all__ = ["Points"]

# Of a spacing: coordinates may have been stored in float32.
_ROUNDING = 1e-3


class Points(Operator):
    r"""The field at any places of the domain, by multilinear interpolation.

    Arguments:
        channel: The number of the field.
        coordinates: The coordinates of the grid points, one increasing array of two or more numbers an axis.
        locations: The places s of the sensors, shape (m, d), in the unit of the coordinates.
        log: Whether the logarithm of the field is observed. It is what is interpolated then.
        cells: Whether the points are centres of cells, or else nodes.
        labels: What each sensor is called in an error, ``"line 12"`` say; its number by default.

    Raises:
        ValueError: If a coordinate does not increase, the locations have another shape, or one lies outside.
    """

    def __init__(
        self,
        channel: int,
        coordinates: Sequence[ArrayLike],
        locations: ArrayLike,
        log: bool = False,
        *,
        cells: bool = True,
        labels: Sequence[str] | None = None,
    ) -> None:
        # Copies: the arrays of a Dataset may be read-only, of which torch warns.
        axes = [torch.tensor(np.asarray(axis), dtype=torch.float64) for axis in coordinates]
        for a, axis in enumerate(axes):
            if axis.ndim != 1 or len(axis) < 2 or not (axis.diff() > 0).all():
                raise ValueError(
                    f"expected increasing coordinates of two points or more along axis {a}, "
                    f"got {axis.tolist() if axis.numel() < 8 else f'an array of shape {tuple(axis.shape)}'}"
                )
        places = torch.as_tensor(locations, dtype=torch.float64)
        if places.ndim != 2 or not len(places) or places.shape[1] != len(axes):
            raise ValueError(
                f"expected locations of shape (m, {len(axes)}), one row a sensor and one column an axis, "
                f"got {tuple(places.shape)}"
            )
        self.channel, self.log, self.locations = channel, log, places
        self.shape = tuple(len(axis) for axis in axes)
        _check_inside(axes, places, 0.5 if cells else 0.0, labels)
        lower, share = zip(*map(_bracket, axes, places.T), strict=True)
        index, weights = [], []
        for corner in itertools.product((0, 1), repeat=len(axes)):
            flat, weight = torch.zeros(len(places), dtype=torch.int64), torch.ones(len(places), dtype=torch.float64)
            for k, n, j, w in zip(corner, self.shape, lower, share, strict=True):
                flat, weight = n * flat + j + k, weight * (w if k else 1 - w)
            index.append(flat)
            weights.append(weight)
        self._index, self._weights = torch.stack(index), torch.stack(weights)

    def __repr__(self) -> str:
        return f"Points(channel={self.channel}, {self.size} sensors{', log' if self.log else ''})"

    @property
    def size(self) -> int:
        """The number m of sensors."""
        return len(self.locations)

    def __call__(self, fields: Tensor) -> Tensor:
        """The interpolated values; see `Operator`."""
        field = channel_of(fields, self.channel, self.log)
        if field.shape[1:] != self.shape:
            raise ValueError(
                f"expected fields on the grid of {self.shape} points of the sensors' coordinates, "
                f"got {tuple(field.shape[1:])}"
            )
        corners = field.flatten(1)[:, self._index.to(field.device)]
        return (corners * self._weights.to(corners)).sum(1)


def _bracket(axis: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """For each place along an axis the number of the point before it, and how far it is to the next, in [0, 1]."""
    before = (torch.searchsorted(axis, places.contiguous(), right=True) - 1).clamp(0, len(axis) - 2)
    return before, ((places - axis[before]) / (axis[before + 1] - axis[before])).clamp(0, 1)


def _check_inside(axes: Sequence[Tensor], places: Tensor, beyond: float, labels: Sequence[str] | None) -> None:
    """Raise if a place is farther outside the points than a share of a spacing."""
    walls = [(a[0] - beyond * (a[1] - a[0]), a[-1] + beyond * (a[-1] - a[-2])) for a in axes]
    slack = torch.stack([_ROUNDING * axis.diff().min() for axis in axes])
    low, high = torch.tensor(walls, dtype=torch.float64).T
    outside = ~((places >= low - slack) & (places <= high + slack)).all(1)
    if outside.any():
        i = int(outside.nonzero()[0])
        domain = " x ".join(f"[{a:g}, {b:g}]" for a, b in walls)
        place = ", ".join(f"{s:g}" for s in places[i].tolist())
        name = labels[i] if labels else f"sensor {i}"
        raise ValueError(
            f"{name} at ({place}) lies outside the domain {domain} ({int(outside.sum())} of {len(places)} sensors "
            "do); give locations in the unit of the grid's coordinates"
        )
