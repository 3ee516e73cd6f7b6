"""Fields half a cell off: what averages of neighbours give, as when nodes are taken for cells."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["HALVES", "shifted"]

HALVES = tuple((a / 2, b / 2) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0))
"""The shifts by half a cell along x and y, in cells."""


def shifted(u: Tensor, half: tuple[float, float]) -> Tensor:
    """A field, shape (..., nx, ny), at points half a cell further on, by averages; the last value is repeated."""
    for axis, step in zip((-2, -1), half, strict=True):
        if step:
            n = u.shape[axis]
            rows = torch.arange(n) + (1 if step > 0 else -1)
            u = (u + u.index_select(axis, rows.clamp(0, n - 1))) / 2
    return u
