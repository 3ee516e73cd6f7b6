r"""Uniform tensor-product grids.

A `Grid` divides the box :math:`[a_1, b_1] \times \dots \times [a_d, b_d]` into
:math:`n_1 \times \dots \times n_d` points.

* ``cells``: point :math:`i` is the centre of cell :math:`i`, :math:`x_i = a + (i + 1/2) h` with
  :math:`h = (b - a) / n`. No point lies on the boundary; a field holds cell averages.
* ``nodes``: the end points are included, :math:`x_i = a + i h` with :math:`h = (b - a) / (n - 1)`.

An axis called ``t`` is time, comes first, and is always of nodes: its first point is the initial instant.

Convention, everywhere in physflow: ``field[..., i, j]`` is the value at :math:`(x_i, y_j)`. Nothing is ever
transposed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["AXIS_NAMES", "TIME", "Centering", "Grid"]

Centering = Literal["cells", "nodes"]
TIME = "t"
AXIS_NAMES = ("x", "y", "z")
"""The axes of space."""


@dataclass(frozen=True)
class Grid:
    """A uniform grid on a box.

    Arguments:
        shape: The number of points :math:`n` along each axis.
        bounds: The pair :math:`(a, b)` of each axis, in the unit of length; the unit box by default.
        centering: ``"cells"`` or ``"nodes"`` (see the module's docstring).
        axes: The name of each axis, the dimension's name in a Dataset; ``x``, ``y``, ``z`` by default, after a ``t``
            for time if there is one.

    Raises:
        ValueError: If a size, a bound, a name or the centring makes no grid.
    """

    shape: tuple[int, ...]
    bounds: tuple[tuple[float, float], ...] = ()
    centering: Centering = "cells"
    axes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(int(n) != n for n in self.shape):
            raise ValueError(f"expected a whole number of points along each axis, got shape {self.shape}")
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        bounds = self.bounds or ((0.0, 1.0),) * len(self.shape)
        object.__setattr__(self, "bounds", tuple((float(a), float(b)) for a, b in bounds))
        object.__setattr__(self, "axes", tuple(self.axes) or AXIS_NAMES[: len(self.shape)])
        if not 1 <= len(self.shape) - (TIME in self.axes) <= len(AXIS_NAMES):
            raise ValueError(
                f"expected a grid of 1 to {len(AXIS_NAMES)} axes, beside one of time ({TIME!r}), got shape {self.shape}"
            )
        if len(self.axes) != len(self.shape) or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"expected one distinct name per axis of shape {self.shape}, got {self.axes}")
        if TIME in self.axes[1:]:
            raise ValueError(f"time must be the first axis, got axes {self.axes}")
        if len(self.bounds) != len(self.shape):
            raise ValueError(
                f"expected one (low, high) pair of bounds per axis of shape {self.shape}, got {self.bounds}"
            )
        if self.centering not in ("cells", "nodes"):
            raise ValueError(f"expected centering 'cells' or 'nodes', got {self.centering!r}")
        for axis, n in zip(self.axes, self.shape, strict=True):
            least = 2 if self._of_nodes(axis) else 1
            if n < least:
                kind = "an axis of time" if axis == TIME else f"a grid of {self.centering}"
                raise ValueError(f"{kind} needs at least {least} points per axis, got shape {self.shape}")
        if any(not -math.inf < a < b < math.inf for a, b in self.bounds):
            raise ValueError(f"each bound must be a finite pair low < high, got {self.bounds}")

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """The distance :math:`h` of neighbouring points along each axis."""
        gaps = (n - self._of_nodes(axis) for axis, n in zip(self.axes, self.shape, strict=True))
        return tuple((b - a) / m for (a, b), m in zip(self.bounds, gaps, strict=True))

    @property
    def space(self) -> Grid:
        """The grid without its axis of time, if it has one."""
        first = int(TIME in self.axes)
        return Grid(self.shape[first:], self.bounds[first:], self.centering, self.axes[first:])

    @property
    def cell_volume(self) -> float:
        """The product of the spacings."""
        return math.prod(self.spacing)

    def coordinates(self) -> tuple[NDArray[np.float64], ...]:
        """The points of each axis, one array of shape (n,) an axis."""
        return tuple(
            a + (np.arange(n, dtype=np.float64) + (0.0 if self._of_nodes(axis) else 0.5)) * h
            for axis, (a, _), n, h in zip(self.axes, self.bounds, self.shape, self.spacing, strict=True)
        )

    def mesh(self) -> tuple[NDArray[np.float64], ...]:
        """The coordinates of every point, one array of the grid's shape an axis (``indexing="ij"``)."""
        return tuple(np.meshgrid(*self.coordinates(), indexing="ij"))

    def _of_nodes(self, axis: str) -> bool:
        return axis == TIME or self.centering == "nodes"

    @classmethod
    def from_coordinates(
        cls, *coordinates: ArrayLike, centering: Centering = "cells", axes: tuple[str, ...] = ()
    ) -> Grid:
        """The grid whose points are the given coordinates, one array an axis.

        Raises:
            ValueError: If a coordinate is not increasing with a constant step.
        """
        bounds, shape = [], []
        axes = axes or AXIS_NAMES[: len(coordinates)]
        if not 1 <= len(coordinates) - (TIME in axes) <= len(AXIS_NAMES) or len(axes) != len(coordinates):
            raise ValueError(
                f"expected 1 to {len(AXIS_NAMES)} coordinates, beside one of time ({TIME!r}), and one name for each, "
                f"got {len(coordinates)} coordinates and the names {axes}"
            )
        for name, values in zip(axes, coordinates, strict=True):
            x = np.asarray(values, dtype=np.float64)
            if x.ndim != 1 or x.size < 2:
                raise ValueError(
                    f"coordinate '{name}' must be one-dimensional, of two points or more, got shape {x.shape}"
                )
            if not np.all(np.isfinite(x)):
                raise ValueError(f"coordinate '{name}' holds values that are not finite")
            h, steps = (x[-1] - x[0]) / (x.size - 1), np.diff(x)
            # The tolerance lets coordinates be stored in float32.
            if np.all(steps < 0):
                raise ValueError(f"coordinate '{name}' is not increasing but falls; sort the data, ds.sortby({name!r})")
            if h <= 0 or np.abs(steps - h).max() > 1e-3 * h:
                raise ValueError(
                    f"coordinate '{name}' is not uniform and increasing: its steps range from "
                    f"{steps.min():.6g} to {steps.max():.6g}; interpolate the data to a uniform grid first"
                )
            half = h / 2 if centering == "cells" and name != TIME else 0.0
            # Rounded to what the stored precision holds, so that 0.01 - 0.5 / 50 gives exactly 0.
            eps = np.finfo(np.result_type(np.asarray(values), np.float32)).eps
            digits = -math.ceil(math.log10(max(4 * eps * np.abs(x).max(), 1e-12 * h)))
            bounds.append((round(x[0] - half, digits) + 0.0, round(x[-1] + half, digits) + 0.0))
            shape.append(x.size)
        return cls(tuple(shape), tuple(bounds), centering, axes)
