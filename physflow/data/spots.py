r"""Round spots in random places of a periodic box: what patterns grow from.

.. math:: G(x) = \max_j e^{-|x - c_j|^2 / 2 w^2}, \qquad c_j \text{ uniform},

with the distance on the torus, and w a twentieth of the geometric mean of the sides.
"""

from __future__ import annotations

import math

import numpy as np

from physflow.data.random_fields import Array, RandomField
from physflow.data.white_noise import uniforms
from physflow.grid import Grid

__all__ = ["Spots"]

_WIDTH = 0.05


class Spots(RandomField):
    """Spots of height one on a periodic box.

    Arguments:
        grid: The points.
        spots: How many.
        instants: How many instants are made of a sample later: as many fewer samples are computed together.
    """

    def __init__(self, grid: Grid, spots: int, instants: int = 1) -> None:
        super().__init__(grid, instants)
        self._spots = spots

    def _draw_block(self, seed: int, first: int) -> Array:
        dim = self.grid.ndim
        places = uniforms(seed, np.arange(first, first + self.block), dim * self._spots)
        sides = [b - a for a, b in self.grid.bounds]
        width = _WIDTH * math.prod(sides) ** (1 / dim)
        square = np.zeros((self.block, self._spots, *(1,) * dim))
        for axis, (x, (low, _), side) in enumerate(zip(self.grid.coordinates(), self.grid.bounds, sides, strict=True)):
            centre = places[:, axis * self._spots : (axis + 1) * self._spots]
            distance = np.abs((x - low) / side - centre[..., None])
            distance = side * np.minimum(distance, 1 - distance)
            shape = [1] * dim
            shape[axis] = len(x)
            square = square + (distance**2).reshape(self.block, self._spots, *shape)
        field: Array = np.exp(-square.min(1) / (2 * width**2))
        return field
