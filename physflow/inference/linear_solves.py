r"""Linear solves of an equation by products alone: with its linearised residual, and with a cheap inverse.

For residuals :math:`r(u, s)` of input fields u and a solution field s, :math:`L = -\partial r / \partial s` is applied
by automatic differentiation, and :math:`L^{-1}` by conjugate gradients around the equation's own preconditioner. Each
sample stops by itself.

References:
    Y. Notay, "Flexible conjugate gradients", SIAM Journal on Scientific Computing 22, 2000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from physflow.inference.linearisation import Linearisation

__all__ = ["LinearSolve", "flexible_conjugate_gradients", "inner", "linearised", "spread"]


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The scalar product of two tensors (batch, ...) in each sample, shape (batch,)."""
    return (a * b).flatten(1).sum(1)


def spread(values: Tensor, x: Tensor) -> Tensor:
    """One value for each sample, shape (batch,), shaped to multiply tensors like x (batch, ...)."""
    return values.reshape(-1, *(1,) * (x.ndim - 1))


def linearised(residual: Callable[[Tensor], Tensor], w: Tensor, name: str = "the fields") -> Linearisation:
    """The linearisation of a residual r(w) at w, shape (batch, ...), that says what it is not differentiable in.

    Arguments:
        residual: r(w), shape (batch, ...), in differentiable torch operations.
        w: The point, shape (batch, ...).
        name: What w is, for the error.

    Raises:
        ValueError: If the residual is not differentiable in w.
    """

    def checked(w: Tensor) -> Tensor:
        r = residual(w)
        if torch.is_grad_enabled() and not r.requires_grad:
            raise ValueError(
                f"the residual is not differentiable in {name}: no gradient leads back to them; write it in torch "
                "operations, without detach(), numpy or torch.no_grad()"
            )
        return r

    return Linearisation(checked, w)


def flexible_conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    b: Tensor,
    target: Tensor,
    iterations: int,
) -> Tensor:
    r"""Approximate solutions of :math:`A x = b`, one a sample, each left alone from its own target on.

    The direction is corrected by :math:`\beta = z_{k+1} \cdot (q_{k+1} - q_k) / z_k \cdot q_k` with the residuals
    :math:`q` and :math:`z = M q`, so that :math:`M` may be linear up to a small error only.

    Arguments:
        apply: A, symmetric and not negative; b lies in its range.
        precondition: M, symmetric and positive on the range of A.
        b: The right sides, shape (batch, ...).
        target: The norm of the residual at which a sample stops, shape (batch,).
        iterations: The most iterations.

    Returns:
        The solutions, of the shape of b.
    """
    x, q = torch.zeros_like(b), b
    z = precondition(q)
    p, qz = z, inner(q, z)
    active = inner(q, q) > target**2
    for _ in range(iterations if active.any() else 0):
        ap = apply(p)
        curvature = inner(p, ap)
        # What rounding leaves, or a preconditioner that sees nothing more, is no direction.
        active = active & (curvature > 0) & (qz > 0)
        step, going = spread(qz / curvature, p), spread(active, p)
        # Chosen, not multiplied by zero: what has stopped may hold products that are no numbers.
        x = torch.where(going, x + step * p, x)
        q, previous = torch.where(going, q - step * ap, q), q
        active = active & (inner(q, q) > target**2)
        if not active.any():
            break
        z = precondition(q)
        beta = spread(inner(q - previous, z) / qz, p)
        p, qz = torch.where(spread(active, p), z + beta * p, p), inner(q, z)
    return x


@dataclass(frozen=True)
class LinearSolve:
    r"""A good :math:`L^{-1} y` with :math:`L = -\partial r / \partial s`, made of a cheap one.

    For residuals linear in the solution field :math:`s`, with :math:`L` symmetric and positive, or with a null space
    that the cheap preconditioner leaves out (zero-flux walls).

    **Good values.** A V-cycle alone shrinks the error in the norm of the energy, not in the Euclidean one that
    `NewtonProjection` needs, the less so the rougher the coefficient. Solved to 1e-6, it takes 7 V-cycles at a
    standard deviation of 1 in log K and 14 at 3; solved to 0.1 it saves little, and does not do at 2 already.

    Arguments:
        residual: residual(*inputs, s), shape (batch, *axes).
        precondition: precondition(y, *inputs), an approximate :math:`L^{-1} y`, linear, symmetric and positive.
        tolerance: The relative residual at which a sample stops.
        iterations: The most iterations.
    """

    residual: Callable[..., Tensor]
    precondition: Callable[..., Tensor]
    tolerance: float = 1e-6
    iterations: int = 60

    def __call__(self, y: Tensor, *inputs: Tensor) -> Tensor:
        """The solution, of the shape (batch, *axes) of the right side y, for the given inputs."""
        at_zero = linearised(lambda s: self.residual(*inputs, s), torch.zeros_like(y), "the solution field")
        return flexible_conjugate_gradients(
            lambda v: -at_zero.pushforward(v),
            lambda q: self.precondition(q, *inputs),
            y,
            self.tolerance * inner(y, y).sqrt(),
            self.iterations,
        )
