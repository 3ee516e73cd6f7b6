r"""Partial differential equations as objects.

An `Equation` is one partial differential equation with its boundary conditions, discretised in one way on one
grid:

.. math:: r(u, s) = 0

with input fields :math:`u` (coefficients, say) and solution fields :math:`s = S(u)`. The same discretisation
gives the residual :math:`r`, the solution operator :math:`S`, its derivative and a preconditioner, so that a
solved pair scores rounding error under its own residual.

Fields are tensors of shape (batch, *axes), one field a tensor, in the order of `Equation.fields`;
``field[..., i, j]`` lies at :math:`(x_i, y_j)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from physflow.grid import Grid

__all__ = ["Equation", "Symmetry", "check_device", "identity"]

Symmetry: TypeAlias = Callable[[Tensor], Tensor]
"""A map of all fields together, shape (batch, channel, *axes), that takes solutions to solutions."""


def identity(fields: Tensor) -> Tensor:
    """The symmetry that every equation has."""
    return fields


def check_device(device: str) -> str:
    """The device of this name, ``"auto"`` a GPU where there is one; a ValueError says which there are if it is none."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        valid = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise ValueError(f"no device {device!r} on this machine; valid: {valid}") from error
    return device


class Equation(ABC):
    """A partial differential equation, discretised on a grid.

    A subclass names its fields, takes a `grid`, and writes `residual`, `solve` and `precondition`.

    Attributes:
        fields: The names of all fields, in channel order: the inputs, then the solutions.
        inputs: The names of the fields that are given.
        solutions: The names of the fields that `solve` returns.
        positive: The names of the fields that must be positive everywhere.
        trivial_answer: The trivial answer in a few words; see `trivial`.
        grid: The grid on which every field lives.
    """

    fields: ClassVar[tuple[str, ...]]
    inputs: ClassVar[tuple[str, ...]]
    solutions: ClassVar[tuple[str, ...]]
    positive: ClassVar[tuple[str, ...]] = ()
    trivial_answer: ClassVar[str] = "zero"
    grid: Grid

    # The abstract signatures are open, so that a subclass may name its fields.

    @abstractmethod
    def residual(self, *args: Any, **kwargs: Any) -> Tensor:
        """The residual :math:`r` of all fields (in the order of `fields`), shape (batch, *axes)."""

    @abstractmethod
    def solve(self, *args: Any, **kwargs: Any) -> Any:
        """The solution fields of the inputs (in the order of `inputs`): a tensor, or a tuple of several.

        Differentiable in the inputs with an adjoint solve, not by unrolling the solver.
        """

    @abstractmethod
    def precondition(self, residual: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        r"""An approximate :math:`L^{-1} r` at the given inputs, with :math:`L = -\partial r / \partial s`.

        Cheap, linear in the residual; adding it to the solution field takes most of the residual away.
        """

    def complete(self, *fields: Tensor) -> tuple[Tensor, ...]:
        """All fields, with the solution fields recomputed from the input fields.

        Arguments:
            fields: All fields in the order of `fields`, or the inputs alone.

        Returns:
            All fields in the order of `fields`; the inputs are the tensors that were given.
        """
        if len(fields) not in (len(self.inputs), len(self.fields)):
            raise TypeError(
                f"{type(self).__name__}.complete takes the fields {', '.join(self.fields)} or the inputs "
                f"{', '.join(self.inputs)} alone, got {len(fields)} tensors"
            )
        inputs = fields[: len(self.inputs)]
        solutions = self.solve(*inputs)
        return (*inputs, *(solutions if isinstance(solutions, tuple) else (solutions,)))

    @property
    def up_to_a_constant(self) -> bool:
        """Whether nothing says which constant belongs to a solution; `solve` gives the one of mean zero then."""
        return False

    def trivial(self, *fields: Tensor) -> tuple[Tensor, ...]:
        """The answer that takes no work, to what is given in some fields: solution fields of zeros.

        Its residual is the yardstick of others: where the equation has a source, it is that source.

        Arguments:
            fields: All fields in the order of `fields`.

        Returns:
            All fields in the same order.
        """
        return self.spliced(fields, tuple(torch.zeros_like(s) for s in fields))

    def spliced(self, given: Sequence[Tensor], answer: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Fields with what the equation is given from one set, and what it is solved for from another.

        Arguments:
            given: All fields in the order of `fields`, of which the inputs are taken.
            answer: All fields, of which the solutions are taken.
        """
        return (*given[: len(self.inputs)], *answer[len(self.inputs) :])

    def symmetries(self) -> tuple[Symmetry, ...]:
        """The maps of the grid that take solutions to solutions; the identity is the first.

        Returns:
            Maps of all fields together, (batch, channel, *axes) to the same shape. A law of the inputs that has these
            symmetries too makes every image of a pair as likely as the pair itself.
        """
        return (identity,)

    def attributes(self) -> dict[str, str | float]:
        """Plain values that rebuild the equation on its grid, for the attributes of a dataset."""
        return {"equation": type(self).__name__}

    def check(self, **fields: Tensor) -> None:
        """Check that the named fields fit the grid and each other, are finite, and positive where they must.

        Raises:
            TypeError: If a field is not a tensor of float32 or float64.
            ValueError: If a shape is not (batch, *axes), the batch sizes differ, a value is NaN or infinite,
                or a value of a field in `positive` is not positive.
        """
        batch = None
        for name, field in fields.items():
            self._check_layout(name, field)
            if batch is not None and field.shape[0] != batch[1]:
                raise ValueError(
                    f"{name} has {field.shape[0]} samples but {batch[0]} has {batch[1]}; give both the same batch size"
                )
            batch = (name, field.shape[0])
            self._check_values(name, field)

    def _check_layout(self, name: str, field: Tensor) -> None:
        if not isinstance(field, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(field).__name__}; convert with torch.as_tensor")
        if field.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64, got {field.dtype}; convert with .double()")
        axes, shape = self.grid.shape, tuple(field.shape)
        if shape[1:] == axes:
            return
        names, sizes = ", ".join("n" + axis for axis in self.grid.axes), ", ".join(map(str, axes))
        if shape == axes:
            hint = "; add the batch axis: field[None]"
        elif shape[1:] == (1, *axes):
            hint = "; drop the channel axis: field[:, 0]"
        elif shape[1:] == axes[::-1]:
            hint = "; the axes look transposed, field[:, i, j] must lie at (x_i, y_j)"
        else:
            hint = "; is this the grid that the fields were made on?"
        raise ValueError(f"{name}: expected shape (batch, {names}) = (batch, {sizes}), got {shape}{hint}")

    def _check_values(self, name: str, field: Tensor) -> None:
        least = 0.0 if name in self.positive else -math.inf
        if field.numel() == 0:
            return
        low, high = field.detach().aminmax()
        # Not a number compares false.
        if low > least and high < math.inf:
            return
        wanted = "positive and finite" if name in self.positive else "finite"
        bad = ~(torch.isfinite(field) & (field > least))
        index = tuple(int(i) for i in bad.nonzero()[0])
        raise ValueError(
            f"{name} must be {wanted}, but {int(bad.sum())} of its {bad.numel()} values are not; the first, at "
            f"(sample, i, j) = {index}, is {field[index].item():g}"
        )
