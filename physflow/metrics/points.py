"""Sets of points: what all distances of two sets ask of them, and the Euclidean distances of their points.

A set is a tensor of shape (n, ...): n points of one shape, each taken as one vector of d numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["distances", "pair"]

# Distances held at a time.
_ENTRIES = 2**22


def pair(x: Tensor, y: Tensor, equal: bool = True, names: tuple[str, str] = ("x", "y")) -> tuple[Tensor, Tensor]:
    """Two sets of points as float64 matrices on the CPU.

    Arguments:
        x: Points, shape (n, ...).
        y: Points of the same shape, (m, ...).
        equal: Whether there must be as many of both.
        names: What errors call the sets.

    Returns:
        The points as rows, shapes (n, d) and (m, d).

    Raises:
        ValueError: If a set is empty or not finite, or the shapes do not agree.
    """
    if x.shape[1:] != y.shape[1:] or x.ndim < 1 or (equal and len(x) != len(y)):
        same = "of one shape" if equal else "of one dimension"
        raise ValueError(f"expected two sets of points {same}, got {tuple(x.shape)} and {tuple(y.shape)}")
    if not len(x) or not len(y):
        raise ValueError(f"expected points in both sets, got {len(x)} and {len(y)}")
    x, y = (points.detach().reshape(len(points), -1).double().cpu() for points in (x, y))
    for name, points in zip(names, (x, y), strict=True):
        if not points.isfinite().all():
            raise ValueError(f"{name} holds values that are NaN or infinite: leave those samples out and say how many")
    return x, y


def distances(x: Tensor, y: Tensor, leave_one_out: bool = False) -> Iterator[Tensor]:
    """The Euclidean distances of all x to all y, in blocks of rows, so that memory does not grow with the sets.

    Arguments:
        x: Points, shape (n, d).
        y: Points, shape (m, d).
        leave_one_out: Whether x and y are one set, whose points are to be infinitely far from themselves.

    Yields:
        Blocks of shape (rows, m), the first rows first, in the unit of the points.
    """
    rows = max(1, _ENTRIES // len(y))
    for start in range(0, len(x), rows):
        # Differences rather than scalar products: points far from the origin lose no digits.
        part = torch.cdist(x[start : start + rows], y, compute_mode="donot_use_mm_for_euclid_dist")
        if leave_one_out:
            part.diagonal(start).fill_(math.inf)
        yield part
