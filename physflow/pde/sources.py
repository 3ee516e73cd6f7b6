r"""Source terms :math:`f` of :math:`f + \nabla \cdot (K \nabla p) = 0`.

``"wells"`` (Jacobsen et al., 2023): an injector in the lower corner of the box and a producer in the upper
one,

.. math:: f(x) = \begin{cases} r & |x_i - w/2| \le w/2 \text{ for all } i \\
          -r & |x_i - 1 + w/2| \le w/2 \text{ for all } i \\
          0 & \text{else,} \end{cases} \qquad r = 10,\; w = 1/8,

with :math:`x_i` measured in the side lengths of the box. ``"constant"`` is :math:`f = 1`.

On a grid of cells a source holds exact cell averages, partly covered cells included, so that :math:`\int f`
is exact at any resolution; on nodes it holds point values.

References:
    Jacobsen, Zhuang and Duraisamy, "CoCoGen: physically-consistent and conditioned score-based generative
    models for forward and inverse problems", 2023.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray

from physflow.config import nearest
from physflow.grid import Grid

__all__ = ["SOURCES", "WELL_RATE", "source_term"]

SOURCES = ("constant", "wells")
"""The names that `source_term` knows."""
WELL_RATE = 10.0
"""The rate :math:`r` of a well per unit of area."""


def source_term(grid: Grid, source: str | ArrayLike) -> NDArray[np.float64]:
    """The source term on a grid.

    Arguments:
        grid: The grid.
        source: ``"wells"``, ``"constant"``, or an array of the grid's shape (cell averages or nodal values).

    Returns:
        The source :math:`f`, float64, of the grid's shape.

    Raises:
        ValueError: If the name is unknown, or an array does not fit the grid or is not finite.
    """
    if isinstance(source, str):
        if source == "constant":
            return np.ones(grid.shape)
        if source == "wells":
            return _wells(grid)
        raise ValueError(f"unknown source {source!r}; {nearest(source, SOURCES)}; or give an array")
    f = np.asarray(source, dtype=np.float64).copy()
    if f.shape != grid.shape:
        raise ValueError(f"the source must have the grid's shape {grid.shape}, got {f.shape}")
    if not np.isfinite(f).all():
        raise ValueError(f"the source must be finite, but {(~np.isfinite(f)).sum()} of its values are not")
    return f


def _wells(grid: Grid) -> NDArray[np.float64]:
    covered = []
    for n in grid.shape:
        i = np.arange(n)
        if grid.centering == "cells":
            covered.append(np.clip(n / 8 - i, 0.0, 1.0))
        else:
            # Whole numbers, so that a node on the rim of the well belongs to it whatever the rounding.
            covered.append((8 * i <= n - 1).astype(np.float64))
    injector = reduce(np.multiply.outer, covered)
    producer = reduce(np.multiply.outer, [c[::-1] for c in covered])
    return WELL_RATE * (injector - producer)
