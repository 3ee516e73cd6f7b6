r"""Conjugate gradients for many small systems at once, of which only products with the matrix are known.

.. math:: A_i w_i = b_i, \qquad A_i \text{ symmetric and positive definite}, \quad i = 1, \dots, \text{batch}.

In exact arithmetic m unknowns take at most m iterations, and no more than A has different eigenvalues. A few give the
best approximation of :math:`w` in the energy norm within the Krylov space of A and b.

References:
    Y. Saad, "Iterative methods for sparse linear systems", 2nd edition, 2003, algorithm 6.18.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradients"]


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float = 0.0
) -> Tensor:
    r"""The solutions, after a number of iterations that each item decides for itself.

    An item stops for good where its residual is small, and where a direction p has :math:`p^T A p \le 0`: its matrix is
    not positive definite, and a further step would lead away. What it has then is what it returns; with a matrix like
    that at the first step this is zero. No item depends on another.

    Arguments:
        apply: The products :math:`A_i p_i` of vectors, shape (batch, m), each item by itself.
        b: The right sides, shape (batch, m).
        iterations: The most iterations.
        tolerance: The norm of the residual, relative to that of b, at which an item stops.

    Returns:
        The solutions w, shape (batch, m).
    """
    w, r, p = torch.zeros_like(b), b, b
    rr = b.square().sum(1)
    goal = tolerance**2 * rr
    active = rr > goal
    for _ in range(iterations):
        if not active.any():
            break
        q = apply(p)
        curvature = (p * q).sum(1)
        # Not a number compares false: such an item stops too.
        active = active & (curvature > 0)
        step, going = (rr / curvature)[:, None], active[:, None]
        # Chosen, not multiplied by zero: what has stopped may hold products that are no numbers.
        w, r = torch.where(going, w + step * p, w), torch.where(going, r - step * q, r)
        previous, rr = rr, r.square().sum(1)
        active = active & (rr > goal)
        p = torch.where(active[:, None], r + (rr / previous)[:, None] * p, p)
    return w
