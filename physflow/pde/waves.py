r"""The waves of a periodic grid, as ``torch.fft.rfftn`` orders them.

On n points of spacing h along an axis there are the wavenumbers :math:`k = 2 \pi j / (n h)`. All but the last axis have
both signs of j; the last one has those that are not negative, as the transform of real values is symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["squares", "wavenumbers"]

Array = NDArray[np.float64]


def wavenumbers(shape: Sequence[int], spacing: Sequence[float]) -> tuple[Array, ...]:
    """The wavenumbers k along each axis, each shaped to be multiplied with the transform of one field.

    Arguments:
        shape: The number of points along each axis.
        spacing: Their spacing.
    """
    found: list[Array] = []
    for axis, (n, h) in enumerate(zip(shape, spacing, strict=True)):
        after = len(shape) - 1 - axis
        k = 2 * math.pi * (np.fft.fftfreq if after else np.fft.rfftfreq)(n, h)
        found.append(k.reshape(-1, *(1,) * after).astype(np.float64))
    return tuple(found)


def squares(shape: Sequence[int], spacing: Sequence[float]) -> Array:
    """The square :math:`|k|^2` of each wave, of the shape of the transform of one field."""
    return np.asarray(sum(k**2 for k in wavenumbers(shape, spacing)))
