r"""Darcy flow: the steady pressure of a fluid in a porous medium.

.. math:: f + \nabla \cdot (K \nabla p) = 0

on a rectangle, with permeability :math:`K > 0`, pressure :math:`p`, flux :math:`-K \nabla p` and source
:math:`f`, discretised by conservative finite volumes on a grid of cells.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csc_array
from torch import Tensor

from physflow.config import nearest
from physflow.grid import Grid
from physflow.pde import conjugate_gradients, finite_volumes, solvers
from physflow.pde.adjoint import implicit_solve
from physflow.pde.equation import Equation, Symmetry
from physflow.pde.finite_volumes import Boundary, Faces
from physflow.pde.sources import source_term
from physflow.pde.stencils import product_rule

__all__ = ["Darcy"]


class Darcy(Equation):
    r"""Darcy flow on cells by conservative finite volumes.

    .. math:: r = f + \nabla \cdot (K \nabla p)

    **Channels.** Input: the permeability :math:`K`, positive. Solution: the pressure :math:`p`. Both hold
    cell averages.

    **Boundary conditions**, on all walls:

    * ``"neumann"``: no flux, :math:`K\, \partial_n p = 0`. The pressure is fixed up to a constant, taken such
      that its mean is zero; the source must have mean zero, for what flows in must flow out.
    * ``"dirichlet"``: :math:`p = 0` on the walls. They enter through the flux over half a cell, so the
      residual has no separate part for them.

    **Good values.** ``faces="harmonic"`` for rough or discontinuous K (exact for layers across the flow);
    ``"arithmetic"`` differs from it by :math:`O(h^2)` for smooth K and lets more flow past barriers of one
    cell. ``tolerance=1e-8`` leaves relative errors of 1e-10 to 1e-9 in the pressure between Neumann walls,
    1e-10 to 3e-8 between Dirichlet walls, the larger ones on coarse grids. Random fields of standard
    deviation 1, 2, 3 in log K take 9, 13, 20 iterations, whatever the grid. Many samples in one call are
    faster than many calls.

    **When it fails.** K of two values takes 8 iterations at a contrast of 4, 15 to 22 at 100, 60 and more at
    10,000; samples that take more than the 100 allowed go to a direct solver, which is many times slower.
    Beyond a contrast of about 1e14 double precision holds no solution, which is an error. A
    residual is a second derivative of the pressure: noise on p is amplified by :math:`K / h^2`, and storage
    in float32 alone leaves a relative residual of 3e-5 on 64 x 64 cells at a standard deviation of 1 (3e-4 at
    2).

    Arguments:
        grid: A two-dimensional grid of cells; sizes may be odd, and the cells need not be square.
        source: The source :math:`f`: a name (see `physflow.pde.sources`) or cell averages of the grid's
            shape.
        boundary: The condition on the walls.
        faces: The mean that gives the permeability of a face.

    Attributes:
        source_term: The source :math:`f`, a float64 tensor of the grid's shape.

    Raises:
        ValueError: If the grid is not two-dimensional and of cells, a name is unknown, or the source does not
            fit the grid or the walls.
    """

    fields: ClassVar[tuple[str, ...]] = ("permeability", "pressure")
    inputs: ClassVar[tuple[str, ...]] = ("permeability",)
    solutions: ClassVar[tuple[str, ...]] = ("pressure",)
    trivial_answer: ClassVar[str] = "p = 0"
    positive: ClassVar[tuple[str, ...]] = ("permeability",)

    def __init__(
        self,
        grid: Grid,
        source: str | ArrayLike = "wells",
        boundary: Boundary = "neumann",
        faces: Faces = "harmonic",
    ) -> None:
        if grid.centering != "cells":
            raise ValueError(
                f"Darcy needs a grid of cells, got one of {grid.centering}; use Grid({grid.shape}), or the "
                "equation DarcyNodes for fields on nodes"
            )
        if grid.ndim != 2:
            raise ValueError(f"Darcy needs a grid of two axes, got shape {grid.shape}")
        for name, value, valid in (("boundary", boundary, Boundary), ("faces", faces, Faces)):
            if value not in get_args(valid):
                raise ValueError(f"unknown {name} {value!r}; {nearest(str(value), get_args(valid))}")
        self.grid, self.boundary, self.faces = grid, boundary, faces
        self.source = source if isinstance(source, str) else "custom"
        f = source_term(grid, source)
        if boundary == "neumann":
            mean = f.mean()
            if abs(mean) > 1e-6 * np.abs(f).mean():
                raise ValueError(
                    f"zero-flux (Neumann) walls need a source of zero mean, but its mean is {mean:.3g}; "
                    "subtract that from the source, or use boundary='dirichlet'"
                )
            if self.source == "custom":
                # What rounding left of the mean (in float32, say) would stay in every residual.
                f -= mean
        self.source_term = torch.from_numpy(f)

    @property
    def up_to_a_constant(self) -> bool:
        """Whether no wall fixes the pressure."""
        return self.boundary == "neumann"

    def residual(self, permeability: Tensor, pressure: Tensor) -> Tensor:
        r"""The residual :math:`r = f + \nabla \cdot (K \nabla p)` of each cell.

        Arguments:
            permeability: The permeability :math:`K`, shape (batch, nx, ny).
            pressure: The pressure :math:`p`, same shape.

        Returns:
            The residual, same shape, in the unit of f. At rounding error for `solve`'s pressure; multiplied
            by the cell volume it is the mass that the cell gains.

        Raises:
            ValueError: If a field does not fit the grid or is not finite, or a permeability is not positive.
        """
        self.check(permeability=permeability, pressure=pressure)
        return self._residual(permeability, pressure)

    def strong_residual(self, permeability: Tensor, pressure: Tensor, accuracy: int = 2) -> Tensor:
        r"""The residual :math:`f + K \Delta p + \nabla K \cdot \nabla p` by finite differences.

        The product rule holds for smooth K only, and the one-sided stencils at the walls know no boundary
        condition; so this is not zero for a right pressure, but of the size of the discretisation error.

        Arguments:
            permeability: The permeability :math:`K`, shape (batch, nx, ny).
            pressure: The pressure :math:`p`, same shape.
            accuracy: The even order of the stencils.

        Returns:
            The residual, same shape.

        Raises:
            ValueError: As `residual`, and if the grid has too few cells for the stencils.
        """
        self.check(permeability=permeability, pressure=pressure)
        return self._source(permeability, pressure) + product_rule(permeability, pressure, self.grid.spacing, accuracy)

    def solve(self, permeability: Tensor, tolerance: float = 1e-8, max_iterations: int = 100) -> Tensor:
        r"""The pressure :math:`p = S(K)`, differentiable once in K with an adjoint solve.

        Arguments:
            permeability: The permeability :math:`K`, shape (batch, nx, ny).
            tolerance: The residual relative to the source, in the Euclidean norm, at which each sample stops.
            max_iterations: The most iterations of multigrid-preconditioned conjugate gradients before a
                direct solver takes over.

        Returns:
            The pressure, of the permeability's shape, type and device; computed in float64. Its mean is zero
            under Neumann walls. A sample's pressure does not depend on the other samples of the batch.

        Raises:
            ValueError: If the permeability does not fit the grid, or is not finite and positive.
            RuntimeError: If a sample does not reach the tolerance.
        """
        self.check(permeability=permeability)

        def invert(f: Tensor, K: Tensor) -> Tensor:
            limits: Any = {"tolerance": tolerance, "max_iterations": max_iterations}
            return solvers.solve(K, f, self.grid.spacing, self.faces, self.boundary, **limits).to(K.dtype)

        def forward(K: Tensor) -> Tensor:
            return invert(self.source_term.to(K.device), K)

        # The matrix is symmetric, so the adjoint solve is the same solve.
        return implicit_solve(forward, invert, self._residual, permeability)

    def precondition(self, residual: Tensor, permeability: Tensor) -> Tensor:
        r"""One multigrid V-cycle for :math:`-\nabla \cdot (K \nabla \delta) = r`.

        Arguments:
            residual: A residual :math:`r`, shape (batch, nx, ny). Its mean is taken out under Neumann walls.
            permeability: The permeability :math:`K`, same shape.

        Returns:
            The correction :math:`\delta`, same shape, without a gradient; adding it to the pressure takes
            most of the residual away. Linear, symmetric and positive in r, to the precision of float32.

        Raises:
            ValueError: As `residual`.
        """
        self.check(permeability=permeability, residual=residual)
        t = self._transmissibilities(permeability.detach().double())
        delta = conjugate_gradients.precondition(t, residual, self.grid.spacing, singular=self.boundary == "neumann")
        return delta.to(residual.dtype)

    def matrix(self, permeability: Tensor) -> csc_array:
        r"""The sparse matrix of :math:`A = -\nabla \cdot (K \nabla)` for one permeability.

        Arguments:
            permeability: The permeability :math:`K` of one sample, shape (nx, ny).

        Returns:
            A symmetric matrix, float64, for fields flattened in C order: :math:`r = f - A p`.
        """
        self.check(permeability=permeability[None])
        return finite_volumes.matrix([t[0] for t in self._transmissibilities(permeability[None].double())])

    def symmetries(self) -> tuple[Symmetry, ...]:
        r"""The reflections and transpositions of the grid that keep the source, or turn its sign.

        If :math:`f \circ g = \pm f` for a symmetry g of the grid, then :math:`(K \circ g, \pm p \circ g)` solves the
        equation whenever :math:`(K, p)` does. The wells have four such maps, a constant source on a square has eight.

        Returns:
            Maps of (K, p) together, shape (batch, 2, nx, ny) to the same; the identity is the first.
        """
        (nx, ny), (hx, hy) = self.grid.shape, self.grid.spacing
        transpositions = (False, True) if nx == ny and math.isclose(hx, hy) else (False,)
        found = []
        for transposed, *flipped in itertools.product(transpositions, (False, True), (False, True)):
            axes = [axis for axis, flip in zip((-2, -1), flipped, strict=True) if flip]
            image = _moved(self.source_term, transposed, axes)
            for sign in (1.0, -1.0):
                if torch.allclose(image, sign * self.source_term, rtol=1e-12, atol=0):
                    found.append(functools.partial(_image, transposed=transposed, axes=axes, sign=sign))
                    break
        return tuple(found)

    def attributes(self) -> dict[str, str | float]:
        """Plain values that rebuild the equation on its grid; a custom source array is not among them."""
        return {"equation": "Darcy", "source": self.source, "boundary": self.boundary, "faces": self.faces}

    def _transmissibilities(self, permeability: Tensor) -> tuple[Tensor, ...]:
        return finite_volumes.transmissibilities(permeability, self.grid.spacing, self.faces, self.boundary)

    def _source(self, permeability: Tensor, pressure: Tensor) -> Tensor:
        return self.source_term.to(pressure.device, torch.promote_types(permeability.dtype, pressure.dtype))

    def _residual(self, permeability: Tensor, pressure: Tensor) -> Tensor:
        flow = finite_volumes.divergence(self._transmissibilities(permeability), pressure)
        return self._source(permeability, pressure) + flow


def _moved(u: Tensor, transposed: bool, axes: list[int]) -> Tensor:
    return (u.transpose(-2, -1) if transposed else u).flip(axes)


def _image(fields: Tensor, transposed: bool, axes: list[int], sign: float) -> Tensor:
    return _moved(fields, transposed, axes) * fields.new_tensor([1.0, sign]).view(2, 1, 1)
