r"""The viscous Burgers equation.

.. math:: \partial_t u + u\, \partial_x u = \nu\, \partial_x^2 u

on a periodic interval: waves steepen to fronts, which viscosity keeps smooth.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from physflow.grid import Grid
from physflow.pde.semilinear import Semilinear, Spectra

__all__ = ["Burgers"]


class Burgers(Semilinear):
    r"""Burgers' equation in one dimension, in conservative form.

    .. math:: \partial_t u = -\tfrac12 \partial_x (u^2) + \nu\, \partial_x^2 u

    **Channels.** The velocity :math:`u` over time and space.

    **Boundary conditions.** Periodic. The mean of u is kept exactly.

    **Scheme.** Waves, of which the products are cut off at two thirds of the highest, and ETDRK4 in time
    (`physflow.pde.semilinear`): of fourth order in time, and exact in space as long as the fronts are resolved.

    **Good values.** Fronts between velocities that differ by :math:`\delta` have a width of :math:`4 \nu / \delta`;
    the grid must put two points in it. On 128 points of a unit interval, with u of size 1: :math:`\nu \ge 0.005`.
    Steps of :math:`h / (2 \max|u|)` are enough, with h the spacing.

    **When it fails.** Fronts thinner than the grid ring: u gets ripples all over, at no loss of residual. Steps too
    long diverge.

    Arguments:
        grid: A grid of cells with the axes t and x.
        viscosity: The number :math:`\nu > 0`.
        substeps: The steps of the scheme between stored instants.

    Raises:
        ValueError: If the grid has other axes than t and one of space, or the viscosity is not positive.

    References:
        C. Jacobsen, Y. Zhuang, K. Duraisamy, "CoCoGen: physically-consistent and conditioned score-based generative
        models for forward and inverse problems", 2023 (Burgers as a field over time and space).
    """

    fields: ClassVar[tuple[str, ...]] = ("velocity",)
    solutions: ClassVar[tuple[str, ...]] = ("velocity",)

    def __init__(self, grid: Grid, viscosity: float = 0.01, substeps: int = 10) -> None:
        super().__init__(grid, substeps)
        if grid.ndim != 2:
            raise ValueError(f"Burgers needs a grid of time and one axis of space, got the axes {grid.axes}")
        if not 0 < viscosity < math.inf:
            raise ValueError(f"the viscosity must be positive and finite, got {viscosity}")
        self.viscosity = float(viscosity)

    def linear(self) -> tuple[Tensor, ...]:
        """The decay of each wave; see `Semilinear.linear`."""
        return (-self.viscosity * self.square,)

    def nonlinear(self, *spectra: Tensor) -> Spectra:
        """The transport of each wave; see `Semilinear.nonlinear`."""
        kept = self.kept.to(spectra[0].device)
        u = self.to_points(spectra[0] * kept)
        return (-0.5 * self.derivative(self.to_waves(u**2), 0) * kept,)

    def attributes(self) -> dict[str, str | float]:
        """Plain values that rebuild the equation on its grid."""
        return {"equation": "Burgers", "viscosity": self.viscosity, "substeps": self.substeps}
