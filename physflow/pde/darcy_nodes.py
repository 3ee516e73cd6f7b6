r"""Darcy flow in the published discretisation (nodes, product rule), for comparison with `Darcy`.

On a box, with permeability :math:`K > 0`, pressure :math:`p` and source :math:`f`,

.. math:: f + \nabla \cdot (K \nabla p) = 0, \qquad \partial_n p = 0 \text{ on the walls}, \qquad \int p = 0.

The published scheme (Jacobsen et al., 2023) takes nodes, walls included, and writes the divergence by the
product rule, :math:`K \Delta p + \nabla K \cdot \nabla p`, in central differences. The walls are mirrors: the
neighbour outside is the one inside, :math:`p_{-1} = p_1` and :math:`K_{-1} = K_1`. With mirrored neighbours
:math:`i \pm 1` each axis adds

.. math:: (A p)_i = a^+_i (p_{i+1} - p_i) + a^-_i (p_{i-1} - p_i), \qquad
          a^\pm_i = \frac{K_i}{h^2} \pm \frac{K_{i+1} - K_{i-1}}{4 h^2},

and the residual is :math:`r = f + A p`. A constant spans the right null space of :math:`A`. The left null
vector :math:`u` is not the trapezoid rule once :math:`K` varies, so :math:`u^T f \ne 0`: the system is not
exactly compatible and no pressure makes the residual zero. The published generator takes the least-squares
solution of :math:`A p = -f` with one row more, the trapezoid rule :math:`w^T p = 0`. Here it comes without a
dense least-squares solver:

1. The matrix bordered by :math:`w`, :math:`(A, w; w^T, 0)`, is invertible; a sparse LU factors it.
2. Its transpose maps :math:`(u, 0)` to :math:`(0, w^T u)`, so the right side :math:`(0, 1)` gives :math:`u`.
3. The range of :math:`A` is all that is orthogonal to :math:`u`, so the least-squares residual is the
   projection :math:`r = u\,(u^T f) / (u^T u)`.
4. The right side :math:`(r - f, 0)` gives the pressure: :math:`A p = r - f` and :math:`w^T p = 0` at once.

This :math:`r` is the floor of the scheme, of mean square :math:`(u^T f)^2 / (N u^T u)` on :math:`N` nodes. It
grows with the roughness of :math:`K`: for the wells on 64 x 64 nodes and an exponential covariance of
correlation length 0.1, its median is of the order of 1e-7 at 16 modes and 1e-5 at 256 (normal coefficients).

References:
    Jacobsen, Zhuang and Duraisamy, "CoCoGen: physically-consistent and conditioned score-based generative
    models for forward and inverse problems", 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu
from torch import Tensor

from physflow.grid import Grid
from physflow.pde.adjoint import implicit_solve
from physflow.pde.equation import Equation
from physflow.pde.sources import source_term
from physflow.pde.stencils import product_rule

__all__ = ["DarcyNodes"]

Array: TypeAlias = NDArray[np.float64]


class DarcyNodes(Equation):
    r"""Darcy flow on nodes by the product rule: zero-flux walls and a least-squares pressure.

    .. math:: r = f + A(K)\, p

    **Channels.** Input: the permeability :math:`K`, positive. Solution: the pressure :math:`p`. Both hold
    nodal values.

    **Boundary conditions.** No flux, :math:`\partial_n p = 0`, on all walls, by mirroring. The pressure has
    zero integral by the trapezoid rule, and so must the source.

    **When it fails.** The scheme conserves no mass, and the rougher K the higher its floor (see the module's
    docstring): it is here to compare with published results. `Darcy` is the equation to make data with.

    Arguments:
        grid: A grid of nodes.
        source: The source :math:`f`: a name (see `physflow.pde.sources`) or nodal values of the grid's shape.

    Attributes:
        source_term: The source :math:`f`, a float64 tensor of the grid's shape.

    Raises:
        ValueError: If the grid is not one of nodes, or the source has a non-zero integral (trapezoid rule).
    """

    fields: ClassVar[tuple[str, ...]] = ("permeability", "pressure")
    inputs: ClassVar[tuple[str, ...]] = ("permeability",)
    solutions: ClassVar[tuple[str, ...]] = ("pressure",)
    trivial_answer: ClassVar[str] = "p = 0"
    positive: ClassVar[tuple[str, ...]] = ("permeability",)
    boundary = "neumann"

    def __init__(self, grid: Grid, source: str | ArrayLike = "wells") -> None:
        if grid.centering != "nodes":
            raise ValueError(
                f"DarcyNodes needs a grid of nodes, got one of {grid.centering}; use "
                f"Grid({grid.shape}, centering='nodes'), or the equation Darcy for fields on cells"
            )
        self.grid = grid
        self.source = source if isinstance(source, str) else "custom"
        f = source_term(grid, source)
        self._weights = _trapezoid(grid.shape)
        self._neighbours = _mirrored_neighbours(grid.shape)
        mean, size = (self._weights @ g.ravel() / self._weights.sum() for g in (f, np.abs(f)))
        if abs(mean) > 1e-6 * size:
            raise ValueError(
                "zero-flux (Neumann) walls need a source whose integral is zero, but its mean by the "
                f"trapezoid rule is {mean:.3g}; subtract it from the source"
            )
        self.source_term = torch.from_numpy(f)

    @property
    def up_to_a_constant(self) -> bool:
        """Always: no wall fixes the pressure."""
        return True

    def attributes(self) -> dict[str, str | float]:
        """Plain values that rebuild the equation on its grid; a custom source array is not among them."""
        # A scheme of nodes has no faces; the attribute says so where `Darcy` names the mean it takes there.
        return {"equation": "DarcyNodes", "source": self.source, "boundary": self.boundary, "faces": "none"}

    def residual(self, permeability: Tensor, pressure: Tensor) -> Tensor:
        r"""The residual :math:`r = f + A p` at every node, mirrored walls included.

        Arguments:
            permeability: The permeability :math:`K`, shape (batch, \*axes).
            pressure: The pressure :math:`p`, same shape.

        Returns:
            The residual, same shape. For `solve`'s pressure it is the floor of the scheme, not zero.

        Raises:
            ValueError: If a field does not fit the grid or is not finite, or a permeability is not positive.
        """
        self.check(permeability=permeability, pressure=pressure)
        return self._residual(permeability, pressure)

    def strong_residual(self, permeability: Tensor, pressure: Tensor, accuracy: int = 2) -> Tensor:
        r"""The residual :math:`f + K \Delta p + \nabla K \cdot \nabla p`, one-sided at the walls.

        With second order this is the residual of the published code, at the right spacing. It does not see
        the conditions :math:`\partial_n p = 0` and :math:`\int p = 0`.

        Arguments:
            permeability: The permeability :math:`K`, shape (batch, \*axes).
            pressure: The pressure :math:`p`, same shape.
            accuracy: The even order of the truncation error.

        Returns:
            The residual at every node, same shape.

        Raises:
            ValueError: As `residual`, and if the grid has too few nodes for the accuracy.
        """
        self.check(permeability=permeability, pressure=pressure)
        return self._source(permeability, pressure) + product_rule(permeability, pressure, self.grid.spacing, accuracy)

    def solve(self, permeability: Tensor, tolerance: float = 1e-8) -> Tensor:
        r"""The least-squares pressure :math:`p = S(K)`, by one sparse LU a sample, in float64 on the CPU.

        Differentiable in :math:`K`: the pressure solves the normal equations
        :math:`A^T (f + A p) + w\,w^T p = 0`, whose implicit derivative takes one more factorisation.

        Arguments:
            permeability: The permeability :math:`K`, shape (batch, \*axes).
            tolerance: Taken for the signature of `Darcy.solve`; a direct solve is exact to rounding.

        Returns:
            The pressure, of the permeability's shape, type and device; its trapezoid rule is zero.

        Raises:
            ValueError: If the permeability does not fit the grid, or is not finite and positive.
        """
        self.check(permeability=permeability)
        p = implicit_solve(self._solve, self._adjoint, self._normal_residual, permeability.double().cpu())
        return p.to(permeability)

    def precondition(self, residual: Tensor, permeability: Tensor) -> Tensor:
        r"""The least-squares solution of :math:`-A\,\delta = r` with zero integral, by a direct solve.

        Adding :math:`\delta` to the pressure takes all of the residual away but the floor.

        Arguments:
            residual: A residual :math:`r`, shape (batch, \*axes).
            permeability: The permeability :math:`K`, same shape.

        Returns:
            The correction :math:`\delta`, of the residual's shape, type and device, without a gradient.

        Raises:
            ValueError: As `residual`.
        """
        self.check(permeability=permeability, residual=residual)
        return self._each(_Factors.least_squares, permeability, -residual).to(residual)

    def _source(self, permeability: Tensor, pressure: Tensor) -> Tensor:
        return self.source_term.to(pressure.device, torch.promote_types(permeability.dtype, pressure.dtype))

    def _residual(self, permeability: Tensor, pressure: Tensor) -> Tensor:
        return self._source(permeability, pressure) + self._operator(permeability, pressure)

    def _operator(self, permeability: Tensor, pressure: Tensor) -> Tensor:
        r"""The product :math:`A(K) p`, bilinear in its arguments."""
        p = pressure.flatten(1)
        product = torch.zeros_like(p)
        for a, k in zip(self._coefficients(permeability.flatten(1)), self._neighbours, strict=True):
            product = product + a * (p[:, k] - p)
        return product.reshape(pressure.shape)

    def _coefficients(self, K: Tensor) -> list[Tensor]:
        r"""The coefficients :math:`a^-, a^+` of each axis in turn, for :math:`K` of shape (batch, N)."""
        coefficients = []
        for before, after, h in zip(self._neighbours[::2], self._neighbours[1::2], self.grid.spacing, strict=True):
            slope = (K[:, after] - K[:, before]) / (4 * h**2)
            coefficients += [K / h**2 - slope, K / h**2 + slope]
        return coefficients

    def _solve(self, permeability: Tensor) -> Tensor:
        return self._each(_Factors.least_squares, permeability, -self.source_term.expand_as(permeability))

    def _adjoint(self, gradient: Tensor, permeability: Tensor) -> Tensor:
        return self._each(_Factors.normal_equations, permeability, gradient)

    def _normal_residual(self, permeability: Tensor, pressure: Tensor) -> Tensor:
        r"""The residual :math:`-A^T (f + A p)` of the normal equations, for :math:`w^T p = 0`."""
        q = torch.zeros_like(pressure, requires_grad=True)
        # A^T r is the gradient of r . A q with respect to q; like A, r depends on K but not on q.
        product = torch.sum(self._residual(permeability, pressure) * self._operator(permeability, q))
        return -torch.autograd.grad(product, q, create_graph=True)[0]

    def _each(self, solve: Callable[[_Factors, Array], Array], permeability: Tensor, b: Tensor) -> Tensor:
        """Apply ``solve(factors of A(K), b)`` to each sample."""
        K = permeability.detach().double().cpu().flatten(1)
        coefficients = torch.stack(self._coefficients(K), dim=1).numpy()
        neighbours = torch.stack(self._neighbours).numpy()
        x = np.empty(K.shape)
        for i, right in enumerate(b.detach().double().cpu().flatten(1).numpy()):
            x[i] = solve(_Factors(coefficients[i], neighbours, self._weights), right)
        return torch.from_numpy(x).reshape(b.shape)


class _Factors:
    r"""The bordered matrix of one permeability, factored.

    Arguments:
        coefficients: The coefficients :math:`a`, shape (neighbours, N).
        neighbours: The node that each of them couples to, shape (neighbours, N).
        weights: The trapezoid rule :math:`w`, shape (N,).
    """

    def __init__(self, coefficients: Array, neighbours: NDArray[np.int64], weights: Array) -> None:
        n = weights.size
        nodes, border = np.arange(n), np.full(n, n)
        rows = np.concatenate([np.tile(nodes, len(neighbours)), nodes, nodes, border])
        columns = np.concatenate([neighbours.ravel(), nodes, border, nodes])
        values = np.concatenate([coefficients.ravel(), -coefficients.sum(axis=0), weights, weights])
        matrix = csc_array((values, (rows, columns)), shape=(n + 1, n + 1))
        # A minimum degree ordering of the symmetric pattern fills half as much as the default.
        # Any: scipy's type stubs do not know the argument that asks for the transpose.
        self._lu: Any = splu(matrix, permc_spec="MMD_AT_PLUS_A")
        self._weights = weights
        self.null = self._solve(np.zeros(n), 1.0, transpose="T")

    def least_squares(self, b: Array) -> Array:
        r"""The :math:`x` with the least :math:`|A x - b|` and :math:`w^T x = 0`."""
        return self._solve(self._project(b), 0.0)

    def normal_equations(self, g: Array) -> Array:
        r"""The solution of :math:`(A^T A + w w^T)\, x = g`.

        Multiplied by a constant it says :math:`w^T x = 1^T g / 1^T w`. What remains is
        :math:`A^T y = g - w\,(w^T x)` with :math:`y` in the range of :math:`A`, then :math:`A x = y`.
        """
        integral = g.sum() / self._weights.sum()
        y = self._solve(g - integral * self._weights, 0.0, transpose="T")
        return self._solve(self._project(y), integral)

    def _solve(self, b: Array, last: float, transpose: str = "N") -> Array:
        return self._lu.solve(np.append(b, last), transpose)[:-1]

    def _project(self, b: Array) -> Array:
        u = self.null
        return b - u * (u @ b) / (u @ u)


def _trapezoid(shape: tuple[int, ...]) -> Array:
    """The trapezoid rule :math:`w` per cell volume, shape (N,): 1 inside, 1/2 on a wall, 1/4 in a corner."""
    axes = [np.ones(n) for n in shape]
    for w in axes:
        w[[0, -1]] = 0.5
    return reduce(np.multiply.outer, axes).ravel()


def _mirrored_neighbours(shape: tuple[int, ...]) -> list[Tensor]:
    """The neighbours before and after each node along each axis in turn, as flat indices, shape (N,)."""
    index = np.arange(math.prod(shape)).reshape(shape)
    neighbours = []
    for axis, n in enumerate(shape):
        mirrored = np.pad(index, [(int(a == axis),) * 2 for a in range(len(shape))], mode="reflect")
        for start in (0, 2):
            neighbours.append(torch.from_numpy(mirrored.take(range(start, start + n), axis).ravel()))
    return neighbours
