r"""The heat equation.

.. math:: \partial_t u = \kappa \Delta u

on a box, solved exactly: in a basis of cosines, sines or waves each coefficient decays by itself.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physflow.config import nearest
from physflow.grid import Grid
from physflow.pde.evolution import Evolution
from physflow.pde.fast_poisson import Walls, multiplied
from physflow.pde.waves import squares

__all__ = ["Heat"]


class Heat(Evolution):
    r"""Diffusion of a temperature, in one, two or three dimensions.

    .. math:: \partial_t u = \kappa \Delta u

    **Channels.** The temperature :math:`u`, at the points of the grid.

    **Boundary conditions**, on all walls: ``"periodic"``; ``"neumann"``, no flux, which keeps the mean; or
    ``"dirichlet"``, u = 0.

    **Scheme.** The exact propagator :math:`e^{-\kappa |k|^2 \Delta t}` of every wave k that the grid holds: no error of
    its own, whatever the time between stored instants. What is not a sum of these waves, a front say, is smoothed as
    its interpolant.

    **Good values.** A diffusivity such that :math:`\kappa T` is between 1e-3 and 1e-1 squares of the side length:
    less and nothing moves, more and all is flat.

    **When it fails.** It cannot; but backwards in time it is ill-posed: an initial state is not known from a later one
    beyond the waves that survive rounding.

    Arguments:
        grid: A grid of cells with ``t`` as its first axis.
        diffusivity: The number :math:`\kappa > 0`.
        boundary: The condition on the walls.

    Raises:
        ValueError: If the grid is not of cells or has no time, the diffusivity is not positive or a name unknown.
    """

    fields: ClassVar[tuple[str, ...]] = ("temperature",)
    solutions: ClassVar[tuple[str, ...]] = ("temperature",)

    def __init__(self, grid: Grid, diffusivity: float = 0.01, boundary: Walls = "periodic") -> None:
        super().__init__(grid)
        if boundary not in get_args(Walls):
            raise ValueError(f"unknown boundary {boundary!r}; {nearest(str(boundary), get_args(Walls))}")
        if not 0 < diffusivity < math.inf:
            raise ValueError(f"the diffusivity must be positive and finite, got {diffusivity}")
        self.diffusivity, self.boundary = float(diffusivity), boundary

    def advance(self, *states: Tensor) -> tuple[Tensor, ...]:
        """The temperature at the next stored instant; see `Evolution.advance`."""
        (u,) = states
        decay = torch.from_numpy(_decay(self.grid, self.boundary, self.diffusivity)).to(u.device)
        return (multiplied(u.double(), self.boundary, decay).to(u.dtype),)

    def attributes(self) -> dict[str, str | float]:
        """Plain values that rebuild the equation on its grid."""
        return {"equation": "Heat", "diffusivity": self.diffusivity, "boundary": self.boundary}


@functools.lru_cache(maxsize=32)
def _decay(grid: Grid, walls: Walls, diffusivity: float) -> NDArray[np.float64]:
    """By what each wave is multiplied between stored instants, in the order of ``torch.fft.rfftn``."""
    space = grid.space
    shape = space.shape if walls == "periodic" else tuple(2 * n for n in space.shape)
    return np.exp(-diffusivity * grid.spacing[0] * squares(shape, space.spacing))
