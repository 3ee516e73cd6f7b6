r"""A function at a point, and the products of its derivative with vectors.

.. math:: f(x + \delta) \approx f(x) + J \delta, \qquad
          \text{pullback}: w \mapsto J^T w, \quad \text{pushforward}: \delta \mapsto J \delta.

The matrix J is never formed. One evaluation serves every pullback. The pullback is linear in w, so that its own
derivative by w is J: a pushforward is a pullback of the pullback, which needs no more of f than that its derivative be
differentiable too. Solvers with an adjoint are differentiable once only; there a central difference takes its place,

.. math:: J \delta \approx \frac{f(x + h \delta) - f(x - h \delta)}{2h}, \qquad
          h = \epsilon^{1/4} \, |x| / |\delta|,

with the rounding :math:`\epsilon` of the type: h is larger than for an error of rounding alone, because the values of
a solver hold its tolerance besides.

References:
    A. Griewank, A. Walther, "Evaluating derivatives", 2nd edition, 2008, chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Linearisation"]


class Linearisation:
    """A function of tensors at a point, each item by itself. Works where autograd is switched off, too.

    Arguments:
        function: Maps (batch, ...) to (batch, ...), in differentiable operations.
        at: The point x, shape (batch, ...).

    Attributes:
        value: The value f(x), without a graph.

    Raises:
        ValueError: If the function's result does not depend on x by differentiable operations.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], at: Tensor) -> None:
        self._function = function
        with torch.inference_mode(False), torch.enable_grad():
            # A clone: what inference mode made has no place in a graph.
            self._x = at.detach().clone().requires_grad_()
            self._f = function(self._x)
        if not self._f.requires_grad:
            raise ValueError(
                "expected a differentiable function, but its result does not depend on its argument by operations that "
                "autograd knows; was the result detached, or computed in numpy or under no_grad?"
            )
        self.value = self._f.detach()

    def pullback(self, w: Tensor) -> Tensor:
        """The product of the transposed derivative with w, shaped as the value; shaped as x."""
        with torch.inference_mode(False), torch.enable_grad():
            (product,) = torch.autograd.grad(self._f, self._x, w.clone(), retain_graph=True)
        return product

    def pushforward(self, delta: Tensor) -> Tensor:
        """The product of the derivative with delta, shaped as x; shaped as the value."""
        if self._twice is None:
            return self._difference(delta)
        w, pulled = self._twice
        with torch.inference_mode(False), torch.enable_grad():
            (product,) = torch.autograd.grad(pulled, w, delta.clone(), retain_graph=True)
        return product

    @cached_property
    def _twice(self) -> tuple[Tensor, Tensor] | None:
        """A vector w and its pullback, differentiable in w; None if the function is differentiable once only."""
        with torch.inference_mode(False), torch.enable_grad():
            w = torch.zeros_like(self._f, requires_grad=True)
            (pulled,) = torch.autograd.grad(self._f, self._x, w, create_graph=True)
        return None if _is_cut(pulled) else (w, pulled)

    @torch.no_grad()
    def _difference(self, delta: Tensor) -> Tensor:
        x, axes = self._x.detach(), (1,) * (self._x.ndim - 1)
        norm_x, norm = (v.flatten(1).norm(dim=1) for v in (x, delta))
        h = torch.finfo(x.dtype).eps ** 0.25 * torch.where(norm_x > 0, norm_x, 1.0)
        # A direction of zero gives zero, whatever its length is said to be.
        h = h / torch.where(norm > 0, norm, 1.0)
        step = h.reshape(-1, *axes) * delta
        change = self._function(x + step) - self._function(x - step)
        return change / (2 * h).reshape(-1, *(1,) * (change.ndim - 1))


def _is_cut(pulled: Tensor) -> bool:
    """Whether something within the graph of a derivative is not differentiable again.

    Autograd puts a node there that raises an error, but only if it is reached: on the way to another input it is not,
    and what hangs on it would silently count as zero.
    """
    seen, waiting = set(), [pulled.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            return True
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
    return False
