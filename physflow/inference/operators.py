r"""Observation operators: what sensors read of fields.

An operator maps fields u, of shape (batch, channel, \*axes), to what m sensors would read without noise,

.. math:: H : u \mapsto H(u) \in \mathbb{R}^m,

each item by itself and in differentiable operations. `Masked`, `Linear`, `Coarse` and `Points`
(`physflow.inference.points`) are linear; with ``log=True`` those of one channel read the logarithm of the field, for
permeabilities and the like. `Function` takes any other, such as the solution of an equation at the sensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from torch import Tensor

__all__ = ["Coarse", "Function", "Linear", "Masked", "Operator", "Stacked", "channel_of"]


class Operator(ABC):
    """What m sensors read of fields."""

    @property
    def size(self) -> int | None:
        """The number m of sensors, or None where only the fields tell."""
        return None

    @abstractmethod
    def __call__(self, fields: Tensor) -> Tensor:
        """What the sensors read.

        Arguments:
            fields: The fields, shape (batch, channel, *axes).

        Returns:
            The readings, shape (batch, m), in the type of the fields.

        Raises:
            ValueError: If the fields are not those for which the operator was made.
        """


def channel_of(fields: Tensor, channel: int, log: bool = False) -> Tensor:
    """One channel of fields, or its logarithm.

    Arguments:
        fields: The fields, shape (batch, channel, *axes).
        channel: The number of the channel.
        log: Whether to take the natural logarithm.

    Returns:
        The channel, shape (batch, *axes).

    Raises:
        ValueError: If there is no such channel, or a value has no logarithm.
    """
    if fields.ndim < 3 or not 0 <= channel < fields.shape[1]:
        raise ValueError(
            f"expected fields of shape (batch, channel, *axes) with a channel {channel}, got {tuple(fields.shape)}"
        )
    field = fields[:, channel]
    if not log:
        return field
    if not (field > 0).all():
        raise ValueError(
            f"the logarithm of channel {channel} is observed, but it is not positive everywhere: its smallest value is "
            f"{field.min().item():g}; map samples to positive fields first, or observe the field itself"
        )
    return field.log()


@dataclass(frozen=True, eq=False)
class Masked(Operator):
    r"""The values at chosen grid points, :math:`H(u)_i = u_c(x_i)`.

    Arguments:
        channel: The number c of the field.
        mask: True at the observed grid points, shape (\*axes); they are read in the order of ``field[mask]``.
        log: Whether the logarithm of the field is observed.

    Raises:
        ValueError: If the mask is not one of booleans, or chooses no point.
    """

    channel: int
    mask: Tensor
    log: bool = False

    def __post_init__(self) -> None:
        mask = torch.as_tensor(self.mask)
        object.__setattr__(self, "mask", mask)
        if mask.dtype != torch.bool:
            raise ValueError(f"expected a mask of booleans, true at the observed points, got one of {mask.dtype}")
        if not mask.any():
            raise ValueError(f"the mask of shape {tuple(mask.shape)} chooses no point; nothing would be observed")

    @property
    def size(self) -> int:
        """The number m of chosen points."""
        return int(self.mask.sum())

    def __call__(self, fields: Tensor) -> Tensor:
        """The values at the chosen points; see `Operator`."""
        field = channel_of(fields, self.channel, self.log)
        if field.shape[1:] != self.mask.shape:
            raise ValueError(
                f"expected fields on the mask's grid of {tuple(self.mask.shape)}, got {tuple(field.shape[1:])}"
            )
        return field[:, self.mask.to(field.device)]


class Linear(Operator):
    r"""Any linear functionals of all fields, :math:`H(u) = A u`.

    Arguments:
        matrix: The matrix A, shape (m, n), with the n numbers of an item in the order of ``fields.flatten(1)``: a
            tensor, dense or sparse, an array, or a sparse matrix of scipy.

    Raises:
        ValueError: If it is no matrix, or holds values that are not finite.
    """

    def __init__(self, matrix: Tensor | ArrayLike | scipy.sparse.sparray | scipy.sparse.spmatrix) -> None:
        self.matrix = _as_tensor(matrix)
        if self.matrix.ndim != 2 or 0 in self.matrix.shape:
            raise ValueError(f"expected a matrix of shape (m, n), one row a sensor, got {tuple(self.matrix.shape)}")
        values = self.matrix.values() if self.matrix.is_sparse else self.matrix
        if not values.isfinite().all():
            raise ValueError("expected a matrix of finite numbers, some are NaN or infinite")

    def __repr__(self) -> str:
        rows, columns = self.matrix.shape
        return f"Linear({rows} x {columns})"

    @property
    def size(self) -> int:
        """The number m of rows."""
        return self.matrix.shape[0]

    def __call__(self, fields: Tensor) -> Tensor:
        """The product with each item; see `Operator`."""
        items = fields.flatten(1)
        if items.shape[1] != self.matrix.shape[1]:
            raise ValueError(
                f"expected {self.matrix.shape[1]} numbers an item, one for each column of the matrix, "
                f"got fields of shape {tuple(fields.shape)} with {items.shape[1]}"
            )
        return (self.matrix.to(items) @ items.T).T


def _as_tensor(matrix: Tensor | ArrayLike | scipy.sparse.sparray | scipy.sparse.spmatrix) -> Tensor:
    """The matrix as a tensor, dense or of coordinates."""
    if scipy.sparse.issparse(matrix):
        entries = scipy.sparse.coo_array(matrix)
        places, values = torch.as_tensor(np.stack(entries.coords), dtype=torch.int64), torch.as_tensor(entries.data)
        return torch.sparse_coo_tensor(places, values, entries.shape, check_invariants=True).coalesce()
    tensor = torch.as_tensor(matrix)
    return tensor if tensor.layout == torch.strided else tensor.to_sparse_coo().coalesce()


@dataclass(frozen=True, eq=False)
class Coarse(Operator):
    r"""The means over blocks of grid points: the same field seen on a coarser grid.

    The logarithm, if it is observed, is taken before the mean.

    Arguments:
        channel: The number of the field.
        factor: The number of points of a block along each axis, or one for all axes. The blocks are read in the order
            of the coarse field's ``flatten``.
        log: Whether the logarithm of the field is observed.

    Raises:
        ValueError: If a factor is not a whole number of at least 1.
    """

    channel: int
    factor: int | tuple[int, ...]
    log: bool = False

    def __post_init__(self) -> None:
        for factor in np.atleast_1d(np.asarray(self.factor)).tolist():
            if int(factor) != factor or factor < 1:
                raise ValueError(f"the factor of a block must be a whole number of at least 1, got {self.factor}")

    def __call__(self, fields: Tensor) -> Tensor:
        """The means; see `Operator`."""
        field = channel_of(fields, self.channel, self.log)
        shape = tuple(field.shape[1:])
        factors = (self.factor,) * len(shape) if isinstance(self.factor, int) else tuple(self.factor)
        if len(factors) != len(shape) or any(n % k for n, k in zip(shape, factors, strict=False)):
            raise ValueError(
                f"blocks of {factors} points do not divide a grid of {shape}; expected one factor for each axis that "
                "divides its number of points"
            )
        blocks = [length for n, k in zip(shape, factors, strict=True) for length in (n // k, k)]
        return field.reshape(len(field), *blocks).mean(tuple(range(2, len(blocks) + 1, 2))).flatten(1)


@dataclass(frozen=True, eq=False)
class Function(Operator):
    """Any differentiable function.

    Arguments:
        function: Maps fields (batch, channel, *axes) to readings (batch, m), each item by itself.
        sensors: The number m, if it is known beforehand.
    """

    function: Callable[[Tensor], Tensor]
    sensors: int | None = None

    @property
    def size(self) -> int | None:
        """The number m, as far as it was told."""
        return self.sensors

    def __call__(self, fields: Tensor) -> Tensor:
        """The function's readings; see `Operator`."""
        readings = self.function(fields)
        m = "m" if self.sensors is None else self.sensors
        if readings.ndim != 2 or len(readings) != len(fields) or self.sensors not in (None, readings.shape[1]):
            raise ValueError(
                f"expected the function to return shape ({len(fields)}, {m}), one row for each item, "
                f"got {tuple(readings.shape)}"
            )
        return readings


class Stacked(Operator):
    """Several operators, one after another.

    Arguments:
        operators: The operators; the readings of the first come first.

    Raises:
        ValueError: If there is none.
    """

    def __init__(self, *operators: Operator) -> None:
        if not operators:
            raise ValueError("expected at least one operator to stack, got none")
        self.operators = operators

    def __repr__(self) -> str:
        return f"Stacked{self.operators!r}"

    @property
    def size(self) -> int | None:
        """The number of all sensors, if each operator knows its own."""
        total = 0
        for operator in self.operators:
            if operator.size is None:
                return None
            total += operator.size
        return total

    def __call__(self, fields: Tensor) -> Tensor:
        """The readings of all; see `Operator`."""
        return torch.cat([operator(fields) for operator in self.operators], dim=1)
