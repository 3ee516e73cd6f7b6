r"""The Poisson equation and its kin with constant coefficients: screened Poisson and Helmholtz.

.. math:: f + \Delta u - \kappa u = 0

on a box, with source :math:`f` and potential :math:`u`, discretised by the second difference on a grid of cells and
solved directly (`physflow.pde.fast_poisson`).
"""

from __future__ import annotations

import math
from typing import ClassVar, get_args

from torch import Tensor

from physflow.config import nearest
from physflow.grid import Grid
from physflow.pde import fast_poisson
from physflow.pde.equation import Equation
from physflow.pde.fast_poisson import Walls

__all__ = ["Poisson"]

_RESONANCE = 1e-9
"""How near the number k^2 may come to an eigenvalue, relative to it, beside the rounding of the largest."""


class Poisson(Equation):
    r"""Poisson's equation, screened or not, in one, two or three dimensions.

    .. math:: r = f + \Delta_h u - \kappa u

    * :math:`\kappa = 0`: Poisson, the potential of charges, or heat at rest;
    * :math:`\kappa > 0`: screened Poisson; a point source is felt over a length of :math:`\kappa^{-1/2}`;
    * :math:`\kappa = -k^2 < 0`: Helmholtz, waves of wavenumber :math:`k` between walls that reflect them.

    **Channels.** Input: the source :math:`f`. Solution: the potential :math:`u`. Both hold cell averages.

    **Boundary conditions**, on all walls: ``"dirichlet"``, u = 0; ``"neumann"``, no flux; or ``"periodic"``.
    With the latter two and :math:`\kappa = 0` only sources of mean zero have a solution, which is known up to a
    constant: `solve` leaves the mean of f out, and takes the solution of mean zero. The residual keeps that mean.

    **Good values.** The scheme is of second order; as it is solved directly, pairs are solutions to rounding. Stored in
    float32 they have a relative residual of about :math:`1.5 \cdot 10^{-9} n^2` on n points along an axis, since
    rounding of u is divided by :math:`h^2` (6e-6 on 64 x 64; up to four times that between other walls than
    Dirichlet's, where u is larger), and a relative error of 3e-8. Helmholtz needs ten
    cells to a wavelength :math:`2 \pi / k` or more; with fewer the discrete waves are of another length.

    **When it fails.** Near a resonance, where :math:`k^2` is an eigenvalue of :math:`-\Delta_h`, u is large for any
    f, and at one there is none. Helmholtz beyond the first resonance is not definite: `precondition` still solves
    it exactly, but conjugate gradients must not be used.

    Arguments:
        grid: A grid of cells; sizes may be odd, and the cells need not be cubes.
        boundary: The condition on the walls.
        screening: The number :math:`\kappa`, in inverse squares of the unit of length.

    Raises:
        ValueError: If the grid is not of cells, a name is unknown, the screening is not finite or at a resonance.

    References:
        The data sets of `DiffusionPDE` (Huang et al., 2024) have Poisson and Helmholtz with k = 1.
    """

    fields: ClassVar[tuple[str, ...]] = ("source", "potential")
    inputs: ClassVar[tuple[str, ...]] = ("source",)
    solutions: ClassVar[tuple[str, ...]] = ("potential",)
    trivial_answer: ClassVar[str] = "u = 0"

    def __init__(self, grid: Grid, boundary: Walls = "dirichlet", screening: float = 0.0) -> None:
        if grid.centering != "cells":
            raise ValueError(f"Poisson needs a grid of cells, got one of {grid.centering}; use Grid({grid.shape})")
        if boundary not in get_args(Walls):
            raise ValueError(f"unknown boundary {boundary!r}; {nearest(str(boundary), get_args(Walls))}")
        if not math.isfinite(screening):
            raise ValueError(f"the screening must be finite, got {screening}")
        self.grid, self.boundary, self.screening = grid, boundary, float(screening)
        if screening < 0:
            distance, eigenvalue = self._resonance()
            if distance < _RESONANCE:
                raise ValueError(
                    f"k^2 = {-screening:g} is an eigenvalue of the negative Laplacian on this grid, {eigenvalue:.12g}: "
                    "at a resonance there is no solution; take another wavenumber"
                )

    @property
    def up_to_a_constant(self) -> bool:
        """Whether neither walls nor screening fix the potential."""
        return self.screening == 0 and self.boundary != "dirichlet"

    def residual(self, source: Tensor, potential: Tensor) -> Tensor:
        r"""The residual :math:`r = f + \Delta_h u - \kappa u` of each cell.

        Arguments:
            source: The source :math:`f`, shape (batch, \*axes).
            potential: The potential :math:`u`, same shape.

        Returns:
            The residual, same shape, in the unit of f.

        Raises:
            ValueError: If a field does not fit the grid or is not finite.
        """
        self.check(source=source, potential=potential)
        return source + fast_poisson.laplacian(potential, self.grid.spacing, self.boundary) - self.screening * potential

    def solve(self, source: Tensor) -> Tensor:
        """The potential :math:`u = S(f)`: linear in f, and differentiable as often as one likes.

        Arguments:
            source: The source :math:`f`, shape (batch, *axes).

        Returns:
            The potential, of the source's shape, type and device; computed in float64.

        Raises:
            ValueError: If the source does not fit the grid or is not finite.
        """
        self.check(source=source)
        return self._inverse(source)

    def precondition(self, residual: Tensor, source: Tensor) -> Tensor:
        r"""The exact correction :math:`\delta = (\kappa - \Delta_h)^{-1} r`, whatever the source.

        Arguments:
            residual: A residual r, shape (batch, \*axes).
            source: The source, same shape.

        Returns:
            The correction, same shape.
        """
        self.check(source=source, residual=residual)
        return self._inverse(residual)

    def attributes(self) -> dict[str, str | float]:
        """Plain values that rebuild the equation on its grid."""
        return {"equation": "Poisson", "boundary": self.boundary, "screening": self.screening}

    def _inverse(self, f: Tensor) -> Tensor:
        return fast_poisson.solve(f.double(), self.grid.spacing, self.boundary, self.screening).to(f.dtype)

    def _resonance(self) -> tuple[float, float]:
        """The relative distance from the eigenvalue that is nearest to k^2, and that eigenvalue."""
        values = fast_poisson.eigenvalues(self.grid.shape, self.grid.spacing, self.boundary)
        if self.boundary == "dirichlet":
            for axis in range(self.grid.ndim):
                values = values.narrow(axis, 1, values.shape[axis] - 1)
        nearest_one = values.flatten()[(values + self.screening).abs().argmin()]
        size = max(-self.screening, float(nearest_one)) + 1e-6 * float(values.max())
        return float((nearest_one + self.screening).abs()) / size, float(nearest_one)
