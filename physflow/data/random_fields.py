r"""Random fields on uniform grids.

A `RandomField` is a law of fields :math:`G` on the N points of a grid:

* `physflow.data.karhunen_loeve`: the leading modes of a Gaussian field of given covariance
  (`physflow.data.covariances`). Few modes give smooth fields; their coefficients need not be normal.
* `physflow.data.circulant`: the full Gaussian field of given covariance, by FFT.
* `physflow.data.cosine`: a Gaussian field given by its cosine series, by DCT.
* `physflow.data.bumps`: a sum of bumps in random places, which is not Gaussian.

Reproducibility: sample i depends on (seed, i) alone. Its numbers come from a generator keyed by both
(`physflow.data.white_noise`), and the arithmetic runs in blocks of fixed size aligned to i, so that neither the number
of samples nor of workers changes a bit of any.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from physflow.grid import Grid

__all__ = ["RandomField"]

Array: TypeAlias = NDArray[np.float64]

_BLOCK_POINTS = 2**19


class RandomField(ABC):
    """A law of random fields on a grid.

    Arguments:
        grid: The points.
        instants: How many instants are made of a sample later: as many fewer samples are computed together.
    """

    def __init__(self, grid: Grid, instants: int = 1) -> None:
        self.grid, self.instants = grid, instants

    @property
    def block(self) -> int:
        """How many samples are computed together; blocks are aligned to multiples of it.

        Enough to keep a processor busy, few enough for its cache: 128 up to 64 x 64 points, 8 from 256 x 256. A
        multiple of eight, as many as the compiled solver works on at once.
        """
        points = self.instants * int(np.prod(self.grid.shape))
        return max(8, min(128, 8 * (_BLOCK_POINTS // (8 * points))))

    @abstractmethod
    def _draw_block(self, seed: int, first: int) -> NDArray[Any]:
        """Samples first .. first + block - 1, shape (block, *grid.shape)."""

    def draw(self, seed: int, first: int, count: int) -> NDArray[Any]:
        """Draw samples first .. first + count - 1.

        Arguments:
            seed: The seed of the whole set.
            first: The index of the first sample.
            count: The number of samples.

        Returns:
            The fields, shape (count, *grid.shape), in the precision in which they are computed.
        """
        if first < 0 or count < 0:
            raise ValueError(f"expected indices that are not negative, got first={first}, count={count}")
        start = first - first % self.block
        blocks = [self._draw_block(seed, b) for b in range(start, first + count, self.block)]
        if not blocks:
            return np.empty((0, *self.grid.shape))
        if len(blocks) == 1:
            return blocks[0][first - start : first - start + count]
        return np.concatenate(blocks)[first - start : first - start + count]
