r"""Conjugate gradients for many systems at once, of which only products with the matrix are known.

.. math:: A_i w_i = b_i, \qquad A_i \text{ symmetric and positive definite}, \quad i = 1, \dots, \text{batch}.

In exact arithmetic n unknowns take at most n iterations, and no more than A has different eigenvalues. A few give the
best approximation of :math:`w` in the energy norm within the Krylov space of A and b. With a preconditioner M, a cheap
inverse of A, it is the eigenvalues of M A that count.

References:
    Y. Saad, "Iterative methods for sparse linear systems", 2nd edition, 2003, algorithms 6.18 and 9.1.
    Y. Notay, "Flexible conjugate gradients", SIAM Journal on Scientific Computing 22, 2000.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradients", "inner", "spread"]


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The scalar product of two tensors (batch, ...) in each item, shape (batch,)."""
    return (a * b).flatten(1).sum(1)


def spread(values: Tensor, x: Tensor) -> Tensor:
    """One value for each item, shape (batch,), shaped to multiply tensors like x (batch, ...)."""
    return values.reshape(-1, *(1,) * (x.ndim - 1))


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    iterations: int,
    tolerance: float | Tensor = 0.0,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""The solutions, after a number of iterations that each item decides for itself.

    An item stops for good where its residual is small, and where a direction p has :math:`p^T A p \le 0`: its matrix is
    not positive definite, and a further step would lead away. What it has then is what it returns; with a matrix like
    that at the first step this is zero. No item depends on another.

    Directions are corrected by :math:`\beta = z_{k+1} \cdot (r_{k+1} - r_k) / z_k \cdot r_k`, with the residuals
    :math:`r` and :math:`z = M r`: M need be linear up to a small error only (Notay).

    Arguments:
        apply: The products :math:`A_i p_i` of tensors (batch, ...), each item by itself.
        b: The right sides, shape (batch, ...).
        iterations: The most iterations.
        tolerance: The norm of the residual, relative to that of b, at which an item stops: one, or one an item, shape
            (batch,).
        precondition: The products :math:`M_i r_i`, symmetric and positive where b and the range of A lie; none by
            default.

    Returns:
        The solutions w, of the shape of b.
    """
    w, r = torch.zeros_like(b), b
    goal = tolerance**2 * inner(b, b)
    active = inner(b, b) > goal
    if not active.any():
        return w
    z = r if precondition is None else precondition(r)
    p, rz = z, inner(r, z)
    for _ in range(iterations):
        q = apply(p)
        curvature = inner(p, q)
        # What rounding leaves, or a preconditioner that sees nothing more, is no direction. Not a number compares
        # false: such an item stops too.
        active = active & (curvature > 0) & (rz > 0)
        step, going = spread(rz / curvature, p), spread(active, p)
        # Chosen, not multiplied by zero: what has stopped may hold products that are no numbers.
        w = torch.where(going, w + step * p, w)
        r, previous = torch.where(going, r - step * q, r), r
        active = active & (inner(r, r) > goal)
        if not active.any():
            break
        z = r if precondition is None else precondition(r)
        beta = spread(inner(r - previous, z) / rz, p)
        p, rz = torch.where(spread(active, p), z + beta * p, p), inner(r, z)
    return w
