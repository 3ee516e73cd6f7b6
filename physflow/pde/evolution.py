r"""Equations of motion: fields over time and space, of which the first instant is given.

.. math:: \partial_t s = F(s), \qquad s(0) \text{ given},

is discretised by a scheme that takes the fields of one stored instant to those of the next,
:math:`s_{n+1} = \Phi(s_n)`, in as many steps of its own as it needs. The residual is that of this scheme,

.. math:: r_n = \frac{\Phi(s_{n-1}) - s_n}{\Delta t}, \qquad r_0 = 0,

with :math:`\Delta t` the time between stored instants: at rounding for the scheme's own solutions, of the unit of
:math:`\partial_t s`, and of the size of the error that is made *between* two instants for any other field. It does not
add up along the way, as the distance from the solution does.

Fields have the shape (batch, nt, \*space), with time as the first axis of the grid.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from physflow.grid import TIME, Grid
from physflow.pde.equation import Equation

__all__ = ["Evolution"]


class Evolution(Equation):
    r"""An equation of motion on a grid of time and space.

    A subclass names its fields, checks its grid, and writes `advance`. All fields are solutions: what is given is
    their first instant, not a field of its own.

    Arguments:
        grid: A grid of cells with ``t`` as its first axis.

    Raises:
        ValueError: If the grid is not of cells, or has no time.
    """

    inputs: ClassVar[tuple[str, ...]] = ()
    trivial_answer: ClassVar[str] = "nothing moves"

    def __init__(self, grid: Grid) -> None:
        name = type(self).__name__
        if grid.axes[0] != TIME:
            raise ValueError(
                f"{name} needs a grid with time as its first axis, got the axes {grid.axes}; use Grid((nt, "
                f"{', '.join(f'n{axis}' for axis in grid.axes)}), axes={(TIME, *grid.axes)})"
            )
        if grid.centering != "cells":
            raise ValueError(f"{name} needs a grid of cells, got one of {grid.centering}")
        self.grid = grid

    @abstractmethod
    def advance(self, *states: Tensor) -> tuple[Tensor, ...]:
        r"""The fields at the next stored instant.

        Arguments:
            states: All fields at one instant, in the order of `fields`, each of shape (batch, \*space).

        Returns:
            The fields :math:`\Phi(s)`, of the same shapes and types; differentiable.
        """

    def residual(self, *fields: Tensor) -> Tensor:
        r"""The residual :math:`r_n` of every instant; see the module's docstring.

        Arguments:
            fields: All fields in the order of `fields`, each of shape (batch, nt, \*space).

        Returns:
            The residual, zero at the first instant: of the shape of one field, or (batch, fields, nt, \*space) with
            several.

        Raises:
            ValueError: If a field does not fit the grid or is not finite.
        """
        self._check_all(fields)
        batch, nt = len(fields[0]), self.grid.shape[0]
        # All instants advance at once, as one batch.
        before = [s[:, :-1].flatten(0, 1) for s in fields]
        after = self.advance(*before)
        found = []
        for s, next_one in zip(fields, after, strict=True):
            r = (next_one.unflatten(0, (batch, nt - 1)) - s[:, 1:]) / self.grid.spacing[0]
            found.append(torch.cat([torch.zeros_like(s[:, :1]), r], 1))
        return found[0] if len(found) == 1 else torch.stack(found, 1)

    def solve(self, *initial: Tensor) -> Any:
        r"""The solution that begins with the given fields, differentiable in them.

        Arguments:
            initial: All fields at the first instant, in the order of `fields`, each of shape (batch, \*space).

        Returns:
            The fields at all instants, shape (batch, nt, \*space): a tensor, or a tuple of several. The first
            instant is the tensor that was given.

        Raises:
            ValueError: If a field does not fit the grid or is not finite.
            FloatingPointError: If the scheme diverges.
        """
        if len(initial) != len(self.fields):
            raise TypeError(
                f"{type(self).__name__}.solve takes {', '.join(self.fields)} at the first instant, got {len(initial)} "
                "tensors"
            )
        # The layout of one instant is that of a trajectory without its time.
        self._check_all([s.unsqueeze(1).expand(-1, self.grid.shape[0], *s.shape[1:]) for s in initial])
        states = [initial]
        for n in range(1, self.grid.shape[0]):
            states.append(self.advance(*states[-1]))
            if not all(bool(s.isfinite().all()) for s in states[-1]):
                raise FloatingPointError(
                    f"{type(self).__name__} diverges before t = {self.grid.coordinates()[0][n]:g}: take smaller steps"
                )
        found = tuple(torch.stack(instants, 1) for instants in zip(*states, strict=True))
        return found[0] if len(found) == 1 else found

    def complete(self, *fields: Tensor) -> tuple[Tensor, ...]:
        r"""All fields, recomputed from their first instant.

        Arguments:
            fields: All fields in the order of `fields`, each of shape (batch, nt, \*space).

        Returns:
            All fields in the same order.
        """
        self._check_all(fields)
        found = self.solve(*(s[:, 0] for s in fields))
        return found if isinstance(found, tuple) else (found,)

    def trivial(self, *fields: Tensor) -> tuple[Tensor, ...]:
        """The first instant at all times; see `Equation.trivial`. Its residual is the motion of that instant."""
        return tuple(s[:, :1].expand_as(s) for s in fields)

    def spliced(self, given: Sequence[Tensor], answer: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The first instant of one set of fields, and the others of another; see `Equation.spliced`."""
        return tuple(torch.cat([s[:, :1], t[:, 1:]], 1) for s, t in zip(given, answer, strict=True))

    def precondition(self, residual: Tensor, *inputs: Tensor) -> Tensor:
        r"""The correction :math:`\delta = \Delta t\, r`, which repairs each instant as if its past were right.

        Arguments:
            residual: A residual r.
            inputs: None.

        Returns:
            The correction, of the shape of the residual.
        """
        return self.grid.spacing[0] * residual

    def _check_all(self, fields: Any) -> None:
        if len(fields) != len(self.fields):
            raise TypeError(
                f"{type(self).__name__} takes the fields {', '.join(self.fields)}, got {len(fields)} tensors"
            )
        self.check(**dict(zip(self.fields, fields, strict=True)))
