r"""Projections onto affine constraints, in closed form.

The nearest field that satisfies linear conditions :math:`A u = b`, in the distance :math:`\sum_i w_i\, \delta_i^2` of
weights :math:`w > 0`, :math:`W = \operatorname{diag}(w)`, is

.. math:: P(u) = u + W^{-1} A^T (A W^{-1} A^T)^{-1} (b - A u).

A projection leaves what satisfies the conditions as it is, :math:`P(P(u)) = P(u)`, and moves the rest at right
angles to the feasible directions, :math:`\langle W (P(u) - u), v \rangle = 0` for all :math:`A v = 0`. Means and
values at points have formulas of their own: a mean shifts its channel by a constant, values are written over.

Fields are tensors (batch, channel, \*axes). All is computed in float64 and returned in the type of the fields.

A projection of a law is not the law conditioned on the constraint, and values written over a field leave a jump at
their edge, which a derivative amplifies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from scipy import sparse
from scipy.linalg import lapack
from torch import Tensor

from physflow.inference.corrections import Correction

__all__ = ["Affine", "Composed", "FixedMean", "FixedValues", "Projection", "ZeroMean"]

_AGREEMENT = 1e-6
"""The relative error up to which dependent rows agree: they are told from others to about half the digits."""


class Projection(ABC):
    """A map of fields to the nearest ones in an affine set. A subclass writes `project`."""

    @abstractmethod
    def project(self, fields: Tensor) -> Tensor:
        """The nearest fields of the set, for fields (batch, channel, *axes) in float64."""

    def __call__(self, fields: Tensor) -> Tensor:
        """The nearest fields of the set, of the shape (batch, channel, *axes) and type of the given ones."""
        return self.project(fields.double()).to(fields.dtype)


class FixedMean(Projection):
    r"""A given mean of one channel, over all points or a region.

    .. math:: \bar u = \frac{\sum_i w_i u_i}{\sum_i w_i} = m, \qquad u_i \leftarrow u_i + m - \bar u,

    with sums and shift over the region; nearest in the distance of the weights. An integral over a region is its
    mean times the volume of the region.

    Arguments:
        channel: The channel.
        value: The mean :math:`m`, in the unit of the channel: one for all samples, or one each, shape (batch,).
        weights: The weights :math:`w` of a quadrature rule, shape (*axes), positive; None for equal ones.
        region: Whether a point belongs to the region, shape (*axes), boolean; None for all points.

    Raises:
        TypeError: If the region is not boolean.
        ValueError: If weights are not positive, the region is empty, or the means are no number and no list of them.
    """

    def __init__(
        self, channel: int, value: float | Tensor, weights: Tensor | None = None, region: Tensor | None = None
    ) -> None:
        if weights is not None and not bool((weights > 0).all()):
            raise ValueError(f"expected positive weights, the smallest is {float(weights.min()):g}")
        if region is not None:
            _check_boolean("region", region)
            if not bool(region.any()):
                raise ValueError("expected a region of at least one point, it is empty")
        self.channel, self.value = channel, torch.as_tensor(value, dtype=torch.float64)
        if self.value.ndim > 1:
            raise ValueError(f"expected one mean, or one for each sample, got shape {tuple(self.value.shape)}")
        self.weights, self.region = weights, region

    def project(self, fields: Tensor) -> Tensor:
        """Shift the channel within the region; see `Projection.project`.

        Raises:
            ValueError: If weights or region do not have the shape of the axes, or the means are not one a sample.
        """
        u = fields[:, self.channel]
        if self.value.shape not in ((), (len(u),)):
            raise ValueError(f"expected one mean for each of the {len(u)} samples, got {len(self.value)}")
        w = torch.ones(u.shape[1:], dtype=u.dtype, device=u.device)
        for name, factor in (("weights", self.weights), ("region", self.region)):
            if factor is not None:
                _check_axes(name, factor, u)
                w = w * factor.to(w)
        mean = (w * u).flatten(1).sum(1) / w.sum()
        shift = (self.value.to(u) - mean).reshape(-1, *(1,) * (u.ndim - 1))
        return _replaced(fields, self.channel, u + torch.where(w > 0, shift, 0.0))


class ZeroMean(FixedMean):
    """The mean zero of one channel: the free constant of a pressure between walls without flux.

    Arguments:
        channel: The channel.
        weights: The weights of a quadrature rule, shape (*axes), positive; None for equal ones.

    Raises:
        ValueError: If weights are not positive.
    """

    def __init__(self, channel: int, weights: Tensor | None = None) -> None:
        super().__init__(channel, 0.0, weights)


class FixedValues(Projection):
    """Given values of one channel at some points: boundary values, or observations without noise.

    Arguments:
        channel: The channel.
        mask: Where the values are given, shape (*axes), boolean.
        values: The values, in the unit of the channel: a number, or shape (*axes) or (batch, *axes); what it holds
            elsewhere is not read.

    Raises:
        TypeError: If the mask is not boolean.
        ValueError: If the values do not fit the mask, or one that is given is not finite.
    """

    def __init__(self, channel: int, mask: Tensor, values: float | Tensor) -> None:
        _check_boolean("mask", mask)
        self.channel, self.mask, self.values = channel, mask, torch.as_tensor(values, dtype=torch.float64)
        if self.values.shape not in ((), mask.shape) and self.values.shape[1:] != mask.shape:
            raise ValueError(
                f"expected one value, or values of shape {tuple(mask.shape)} or (batch, *axes), as the "
                f"mask has, got {tuple(self.values.shape)}"
            )
        if not bool(torch.where(mask, self.values, 0.0).isfinite().all()):
            raise ValueError("expected finite values wherever the mask is true; take missing ones out of the mask")

    def project(self, fields: Tensor) -> Tensor:
        """Write the values over the field; see `Projection.project`.

        Raises:
            ValueError: If the mask does not fit the axes, or the values are not those of as many samples.
        """
        u = fields[:, self.channel]
        _check_axes("mask", self.mask, u)
        if self.values.ndim == u.ndim and len(self.values) != len(u):
            raise ValueError(f"expected values for each of the {len(u)} samples, got those of {len(self.values)}")
        return _replaced(fields, self.channel, torch.where(self.mask.to(u.device), self.values.to(u), u))


class Affine(Projection):
    r"""Any linear conditions :math:`A u = b` on all channels together, for few rows.

    Rows that repeat what others say are allowed as long as they agree. The Cholesky factor of
    :math:`A W^{-1} A^T` is computed once; time and memory grow like the square of the number of rows.

    Arguments:
        matrix: The matrix :math:`A`, shape (conditions, n), dense or sparse, for fields flattened from
            (channel, *axes) to n values in C order.
        b: The right sides, shape (conditions,) for all samples or (batch, conditions).
        weights: The weights :math:`w` of the distance, shape (n,), positive; None for equal ones.

    Raises:
        ValueError: If shapes do not fit, a number is not finite, weights are not positive, or rows contradict each
            other.
    """

    def __init__(self, matrix: Tensor, b: Tensor, weights: Tensor | None = None) -> None:
        if matrix.ndim != 2 or b.ndim not in (1, 2) or b.shape[-1] != len(matrix):
            raise ValueError(
                "expected a matrix (conditions, n) and right sides (conditions,) or (batch, conditions), got "
                f"{tuple(matrix.shape)} and {tuple(b.shape)}"
            )
        A, b = matrix.detach().double().cpu(), b.detach().double().cpu()
        A = A if A.layout == torch.strided else A.to_sparse_coo().coalesce()
        entries = A.values() if A.is_sparse else A
        if not bool(entries.isfinite().all()) or not bool(b.isfinite().all()):
            raise ValueError("expected finite numbers in the matrix and the right sides, found NaN or infinity")
        n = A.shape[1]
        w = torch.ones(n, dtype=torch.float64) if weights is None else weights.detach().double().cpu()
        if w.shape != (n,) or not bool((w > 0).all()):
            raise ValueError(f"expected {n} positive weights, one for each column of the matrix")
        self.columns = n
        self._rows = _independent(A, b, w)

    def project(self, fields: Tensor) -> Tensor:
        """Add the least correction; see `Projection.project`.

        Raises:
            ValueError: If the fields do not have as many values as the matrix has columns, or the right sides are not
                those of as many samples.
        """
        u = fields.flatten(1)
        if u.shape[1] != self.columns:
            raise ValueError(
                f"the matrix has {self.columns} columns, but fields of shape {tuple(fields.shape[1:])} have "
                f"{u.shape[1]} values; one column for each value of (channel, *axes) in C order"
            )
        A, b, w, factor = (value.to(u.device) for value in self._rows)
        if len(b) not in (1, len(u)):
            raise ValueError(f"expected right sides for each of the {len(u)} samples, got those of {len(b)}")
        # The second time takes away what rounding left of the first.
        for _ in range(2 if len(A) else 0):
            missing = b.mT - A @ u.mT
            u = u + (A.mT @ torch.cholesky_solve(missing, factor)).mT / w
        return u.reshape(fields.shape)


class Composed:
    """Several corrections, one after the other.

    The last one holds exactly; an earlier one only if those after it leave what it does alone.

    Arguments:
        corrections: The corrections in their order; without any, the fields stay as they are.
    """

    def __init__(self, *corrections: Correction) -> None:
        self.corrections = corrections

    def __call__(self, fields: Tensor) -> Tensor:
        """The corrected fields."""
        for correction in self.corrections:
            fields = correction(fields)
        return fields


class _Rows(NamedTuple):
    """Independent conditions: A of rows of length one, b (1 or batch, rows), w, and the factor of A W^-1 A^T."""

    A: Tensor
    b: Tensor
    w: Tensor
    factor: Tensor


def _independent(A: Tensor, b: Tensor, w: Tensor) -> _Rows:
    """The rows that say something new, found by a Cholesky factorisation with pivots."""
    gram = _gram(A, w)
    length = gram.diagonal().sqrt()
    empty = length == 0
    if bool((b[..., empty] != 0).any()):
        row = int((empty & (b != 0).reshape(-1, len(A)).any(0)).nonzero()[0])
        raise ValueError(f"row {row} of the matrix is zero but its right side is not: no field satisfies it")
    length = torch.where(empty, 1.0, length)
    gram, b = gram / (length[:, None] * length), torch.atleast_2d(b) / length
    if not len(A):
        return _Rows(A, b, w, gram)
    rounding = 16 * len(A) * torch.finfo(gram.dtype).eps
    c, order, rank, _ = lapack.dpstrf(gram.numpy(), tol=rounding, lower=1)
    order = torch.from_numpy(order - 1).long()
    kept, others = order[:rank], order[rank:]
    factor = torch.from_numpy(c[:rank, :rank]).tril().contiguous()
    if len(others) and rank:
        # The others are combinations of the kept rows, and must ask for the same combination of right sides.
        shares = torch.cholesky_solve(gram[kept][:, others], factor)
        error = (b[:, others] - b[:, kept] @ shares).abs()
        wrong = (error > _AGREEMENT * (b[:, others].abs() + b[:, kept].abs() @ shares.abs())).any(0)
        if bool(wrong.any()):
            m, n = A.shape
            many = f"{m} conditions on {n} values, more observations than unknowns: " if m > n else ""
            raise ValueError(
                f"{many}row {int(others[wrong].min())} of the matrix is a combination of other rows but its right side "
                "is not: no field satisfies all of them; leave rows out, or average repeated observations"
            )
    return _Rows(torch.index_select(_scaled(A, 1 / length), 0, kept), b[:, kept], w, factor)


def _gram(A: Tensor, w: Tensor) -> Tensor:
    """The matrix A W^-1 A^T, dense."""
    if not A.is_sparse:
        return (A / w) @ A.mT
    # scipy: torch has no product of two sparse matrices without its compressed format, of which it warns.
    i, j = A.indices().numpy()
    half = sparse.csr_array((A.values().numpy() / w.numpy()[j] ** 0.5, (i, j)), shape=(A.shape[0], A.shape[1]))
    return torch.from_numpy((half @ half.T).toarray())


def _scaled(A: Tensor, rows: Tensor) -> Tensor:
    """The matrix with its rows multiplied by numbers."""
    if not A.is_sparse:
        return rows[:, None] * A
    values = rows[A.indices()[0]] * A.values()
    return torch.sparse_coo_tensor(A.indices(), values, A.shape, check_invariants=True)


def _replaced(fields: Tensor, channel: int, u: Tensor) -> Tensor:
    result = fields.clone()
    result[:, channel] = u
    return result


def _check_boolean(name: str, mask: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise TypeError(f"expected a boolean {name}, got {mask.dtype}; write it as a comparison, {name} > 0")


def _check_axes(name: str, value: Tensor, u: Tensor) -> None:
    if value.shape != u.shape[1:]:
        raise ValueError(f"expected {name} of the shape {tuple(u.shape[1:])} of the axes, got {tuple(value.shape)}")
