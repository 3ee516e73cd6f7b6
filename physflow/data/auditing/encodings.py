"""How inputs that must be positive can be stored otherwise: as logarithms, or as labels of two materials."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AS_IT_IS", "Encoding", "Labels", "Logarithm", "encodings_of", "other_encodings"]

_LARGE = 80.0
"""The largest logarithm that is taken for one."""

_LARGEST = 12.0
"""The range of positive values that may be logarithms: of a contrast that solvers bear."""

_CONTRAST = 8.0
"""Where the search for the contrast of two materials begins: both ways round."""


@dataclass(frozen=True)
class Encoding:
    """Values stored as they are."""

    def __call__(self, u: Tensor) -> Tensor:
        """The values of an input as stored, of any shape."""
        return u

    def __str__(self) -> str:
        return ""


AS_IT_IS = Encoding()


@dataclass(frozen=True)
class Logarithm(Encoding):
    """Values stored as their natural logarithm."""

    def __call__(self, u: Tensor) -> Tensor:
        """See `Encoding.__call__`."""
        return u.exp()

    def __str__(self) -> str:
        return "stored as its natural logarithm"


@dataclass(frozen=True)
class Labels(Encoding):
    """Two values that stand for two materials: 1 and `contrast` times as much; a factor of both is one of the solution.

    Arguments:
        low: The label of the value 1.
        high: That of the other.
        contrast: The other value.
    """

    low: float
    high: float
    contrast: float

    def __call__(self, u: Tensor) -> Tensor:
        """See `Encoding.__call__`."""
        return torch.where(u == self.high, self.contrast, 1.0).to(u.dtype)

    def __str__(self) -> str:
        return f"stored as labels, {self.high:g} for {self.contrast:.3g} times as much as {self.low:g}"


def encodings_of(u: Tensor, name: str) -> tuple[Encoding, ...]:
    """What stored values of an input that must be positive can be.

    Raises:
        ValueError: If they are neither positive, logarithms nor labels.
    """
    if (u > 0).all():
        return (AS_IT_IS,)
    if labels := _labels(u):
        return labels
    if float(u.abs().max()) > _LARGE:
        raise ValueError(
            f"{name} has values that are not positive, from {float(u.min()):.3g} to {float(u.max()):.3g}, and too "
            "large for logarithms; give the field as it is in the equation, not standardised"
        )
    return (Logarithm(),)


def other_encodings(u: Tensor) -> tuple[Encoding, ...]:
    """What positive values can be that are not understood as they are."""
    if not bool((u > 0).all()):
        return ()
    logarithm = (Logarithm(),) if float(u.max() - u.min()) < _LARGEST else ()
    return _labels(u) or logarithm


def _labels(u: Tensor) -> tuple[Encoding, ...]:
    values = u.unique()
    if len(values) != 2:
        return ()
    low, high = map(float, values)
    return (Labels(low, high, _CONTRAST), Labels(low, high, 1 / _CONTRAST))
