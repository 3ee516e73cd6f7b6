r"""Derivatives of a linear solve by the implicit function theorem.

Let :math:`p = S(K)` be defined by :math:`r(K, p) = f - A(K)\, p = 0`. Differentiating the equation gives
:math:`A\, \mathrm{d}p = \partial_K r\, \mathrm{d}K`, so for a loss with gradient :math:`g = \partial \ell /
\partial p`

.. math:: A^T \lambda = g, \qquad \frac{\partial \ell}{\partial K} = \lambda^T\, \partial_K r(K, p):

one adjoint solve and one vector-Jacobian product of the residual, whatever solver found :math:`p`. If
:math:`A` has a null space (Neumann walls), `solve` and `adjoint` must return the same representative: the
pseudo-inverse.

References:
    Bai, Kolter and Koltun, "Deep equilibrium models", NeurIPS 2019, theorem 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["implicit_solve"]


def implicit_solve(
    solve: Callable[..., Tensor],
    adjoint: Callable[..., Tensor],
    residual: Callable[..., Tensor],
    *inputs: Tensor,
) -> Tensor:
    r"""The solution of :math:`r(K, p) = 0`, once differentiable in the inputs :math:`K`.

    Arguments:
        solve: ``solve(*inputs)`` returns :math:`p`. Runs without autograd, so in-place arithmetic is welcome.
        adjoint: ``adjoint(g, *inputs)`` returns :math:`\lambda` with :math:`A^T \lambda = g`. Runs without
            autograd.
        residual: ``residual(*inputs, p)`` returns :math:`r = f - A(K) p`, in differentiable operations.
            Called only in the backward pass.
        inputs: The tensors :math:`K`.

    Returns:
        The solution :math:`p`.
    """
    p: Tensor = _ImplicitSolve.apply(solve, adjoint, residual, *inputs)
    return p


class _ImplicitSolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        solve: Callable[..., Tensor],
        adjoint: Callable[..., Tensor],
        residual: Callable[..., Tensor],
        *inputs: Tensor,
    ) -> Tensor:
        p = solve(*inputs)
        ctx.adjoint, ctx.residual = adjoint, residual
        ctx.save_for_backward(p, *inputs)
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        p, *inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        multiplier = ctx.adjoint(g, *inputs)
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(need) for x, need in zip(inputs, needed, strict=True)]
            r = ctx.residual(*leaves, p.detach())
            wanted = [x for x in leaves if x.requires_grad]
            gradients = iter(torch.autograd.grad(r, wanted, multiplier))
        return (None, None, None, *(next(gradients) if need else None for need in needed))
