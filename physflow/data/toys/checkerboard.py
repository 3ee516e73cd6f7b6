r"""The checkerboard: uniform on every other square of a board, with edges that a smooth flow can only approach.

The board has c x c squares of side a and its centre in the origin. The square in column i and row j, counted from the
lower left corner, is filled if i + j is even; there are :math:`M = \lceil c^2 / 2 \rceil` filled ones and

.. math:: p(x) = \frac{1}{M a^2} \text{ on filled squares}, \qquad p(x) = 0 \text{ elsewhere}.

A square holds its left and lower edge. With the centres :math:`m_k` of the filled squares, the mean is that of the
centres, the covariance that of the centres plus :math:`a^2 / 12\; I`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physflow.data.toys.base import Toy

__all__ = ["Checkerboard"]


@dataclass(frozen=True)
class Checkerboard(Toy):
    """The uniform law on the filled squares of a checkerboard in the plane.

    Arguments:
        squares: The number c of squares along a side of the board.
        side: The length a of a square's side.

    Raises:
        ValueError: If there is no square, or the side is not positive and finite.
    """

    squares: int = 4
    side: float = 1.0

    def __post_init__(self) -> None:
        if self.squares < 1:
            raise ValueError(f"expected at least one square along a side of the board, got squares = {self.squares}")
        if not 0 < self.side < math.inf:
            raise ValueError(f"expected a positive side of the squares, got side = {self.side}")

    @property
    def dimension(self) -> int:
        """Two coordinates."""
        return 2

    @property
    def modes(self) -> Tensor:
        """The centres of the filled squares, shape (M, 2)."""
        cells = torch.cartesian_prod(*[torch.arange(self.squares, dtype=torch.float64)] * 2).reshape(-1, 2)
        return (cells[cells.sum(1) % 2 == 0] + 0.5 - self.squares / 2) * self.side

    @property
    def weights(self) -> Tensor:
        """The probabilities of the filled squares, all the same, shape (M,)."""
        m = len(self.modes)
        return torch.full((m,), 1 / m, dtype=torch.float64)

    @property
    def mean(self) -> Tensor:
        """The mean, shape (2,)."""
        return self.modes.mean(0)

    @property
    def covariance(self) -> Tensor:
        """The covariance, shape (2, 2)."""
        centred = self.modes - self.mean
        return centred.T @ centred / len(centred) + self.side**2 / 12 * torch.eye(2, dtype=torch.float64)

    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        device, modes = generator.device, self.modes.to(generator.device)
        k = torch.randint(len(modes), (n,), generator=generator, device=device)
        return modes[k] + self.side * (torch.rand(n, 2, generator=generator, dtype=torch.float64, device=device) - 0.5)

    def _log_density(self, x: Tensor) -> Tensor:
        cells = torch.floor(x / self.side + self.squares / 2)
        filled = ((cells >= 0) & (cells < self.squares)).all(1) & (cells.sum(1) % 2 == 0)
        inside = -math.log(len(self.modes) * self.side**2)
        return torch.full_like(x[:, 0], -math.inf).masked_fill(filled, inside)
