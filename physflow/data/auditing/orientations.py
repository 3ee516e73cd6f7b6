"""The eight ways round in which a square array can be stored; four, where its sides differ."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["AS_STORED", "Orientation", "orientations"]

_NAMES = {
    (False, False, False): "as stored",
    (True, False, False): "transposed",
    (False, True, False): "flipped along x",
    (False, False, True): "flipped along y",
    (False, True, True): "turned by 180 degrees",
    (True, True, False): "turned by 90 degrees",
    (True, False, True): "turned by 270 degrees",
    (True, True, True): "transposed along the other diagonal",
}


@dataclass(frozen=True)
class Orientation:
    """A way round: the axes are exchanged first, or not, and then turned back to front, or not.

    Arguments:
        transposed: Whether x and y are exchanged.
        along_x: Whether x then runs backwards.
        along_y: Whether y then runs backwards.
    """

    transposed: bool = False
    along_x: bool = False
    along_y: bool = False

    def __call__(self, u: Tensor) -> Tensor:
        """The field, shape (..., nx, ny), turned this way."""
        u = u.mT if self.transposed else u
        axes = [axis for axis, back in ((-2, self.along_x), (-1, self.along_y)) if back]
        return u.flip(axes) if axes else u

    @property
    def inverse(self) -> Orientation:
        """The way back."""
        if self.transposed:
            return Orientation(True, self.along_y, self.along_x)
        return self

    @property
    def turns(self) -> int:
        """How far from the stored way: 0, 1 for what one exchange or flip does, else 2 or 3."""
        return self.transposed + self.along_x + self.along_y

    def __str__(self) -> str:
        return _NAMES[self.transposed, self.along_x, self.along_y]


AS_STORED = Orientation()


def orientations(shape: tuple[int, ...]) -> tuple[Orientation, ...]:
    """The ways round that keep the shape (nx, ny) of a field, the stored one first."""
    square = shape[-2] == shape[-1]
    ways = (Orientation(*way) for way in _NAMES)
    return tuple(way for way in ways if square or not way.transposed)
