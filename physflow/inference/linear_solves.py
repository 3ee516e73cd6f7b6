r"""Linear solves of an equation by products alone: with its linearised residual, and with a cheap inverse.

For residuals :math:`r(u, s)` of input fields u and a solution field s, :math:`L = -\partial r / \partial s` is applied
by automatic differentiation, and :math:`L^{-1}` by conjugate gradients around the equation's own preconditioner. Each
sample stops by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from physflow.inference.conjugate_gradients import conjugate_gradients
from physflow.inference.linearisation import Linearisation

__all__ = ["LinearSolve", "linearised"]


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
        return conjugate_gradients(
            lambda v: -at_zero.pushforward(v),
            y,
            self.iterations,
            self.tolerance,
            lambda q: self.precondition(q, *inputs),
        )
