r"""Finite-difference derivatives on uniform grids, in torch.

On a grid of spacing :math:`h` the derivative of order :math:`m` at point :math:`i` is the weighted sum

.. math:: \partial^m u(x_i) = h^{-m} \sum_k c_k u_{i + k} + O(h^a)

over neighbours. Inside, the offsets :math:`k` are symmetric (central differences). The points nearer to an
end than the central stencil reaches use a one-sided stencil of the same accuracy :math:`a`. The weights
:math:`c_k` are exact rational numbers from `findiff`. Here they act on slices of a tensor, so that a
derivative can itself be differentiated and runs where the tensor lies.

For :math:`a = 2` the one-sided stencils are :math:`(-3, 4, -1) / 2h` and :math:`(2, -5, 4, -1) / h^2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["derivative", "product_rule"]


class _Stencils(NamedTuple):
    """Pairs (offset, weight) for unit spacing; `margin` points near each end are out of the central reach."""

    central: tuple[tuple[int, float], ...]
    forward: tuple[tuple[int, float], ...]
    backward: tuple[tuple[int, float], ...]
    margin: int


@cache
def _stencils(order: int, accuracy: int) -> _Stencils:
    """The stencils of the derivative of the given order, exact rational weights rounded once to float64."""
    # Imported on first use: findiff brings sympy, which takes most of a second.
    from findiff import coefficients

    # The floating-point weights of findiff come from a Vandermonde solve, with errors of 1e-10 at accuracy 8.
    schemes = coefficients(deriv=order, acc=accuracy, symbolic=True)
    central, forward, backward = (
        tuple((int(k), float(c)) for k, c in zip(scheme["offsets"], scheme["coefficients"], strict=True) if c != 0)
        for scheme in (schemes["center"], schemes["forward"], schemes["backward"])
    )
    return _Stencils(central, forward, backward, margin=central[-1][0])


def derivative(u: Tensor, axis: int, order: int, spacing: float, accuracy: int = 2) -> Tensor:
    r"""The derivative :math:`\partial^m u / \partial x^m` along one axis.

    Arguments:
        u: A field :math:`u` on a uniform grid, of any shape and real floating-point type.
        axis: The axis of the tensor along which to differentiate.
        order: The order :math:`m` of the derivative, 1 or more.
        spacing: The distance :math:`h` of neighbouring points, in the unit of length.
        accuracy: The even order :math:`a` of the truncation error :math:`O(h^a)`, also at the ends.

    Returns:
        The derivative at every point, with the shape and type of `u`, in the unit of `u` / length**order.

    Raises:
        TypeError: If `u` holds no real floating-point numbers.
        ValueError: If `order` or `accuracy` names no stencil, or `u` has too few points along the axis.

    References:
        B. Fornberg, "Generation of finite difference formulas on arbitrarily spaced grids", Math. Comp. 51
        (1988).
    """
    if not u.is_floating_point():
        raise TypeError(f"expected a field of real floating-point numbers, got {u.dtype}; convert it with .double()")
    if order != int(order) or order < 1:
        raise ValueError(f"the order of a derivative must be a whole number of at least 1, got {order}")
    if accuracy != int(accuracy) or accuracy < 2 or accuracy % 2:
        raise ValueError(f"accuracy must be an even whole number of at least 2, got {accuracy}")
    central, forward, backward, margin = _stencils(int(order), int(accuracy))
    points, least = u.shape[axis], margin + forward[-1][0]
    if points < least:
        raise ValueError(
            f"a derivative of order {order} and accuracy {accuracy} needs at least {least} points along an "
            f"axis, got {points} along axis {axis} of shape {tuple(u.shape)}; use a finer grid or a lower "
            "accuracy"
        )

    def combine(stencil: tuple[tuple[int, float], ...], start: int, length: int) -> Tensor:
        (k, c), *rest = stencil
        total = c * u.narrow(axis, start + k, length)
        for k, c in rest:
            total = total.add(u.narrow(axis, start + k, length), alpha=c)
        return total

    parts = (
        combine(forward, 0, margin),
        combine(central, margin, points - 2 * margin),
        combine(backward, points - margin, margin),
    )
    return torch.cat(parts, dim=axis) / spacing**order


def product_rule(permeability: Tensor, pressure: Tensor, spacing: Sequence[float], accuracy: int = 2) -> Tensor:
    r"""The strong form :math:`K \Delta p + \nabla K \cdot \nabla p` of :math:`\nabla \cdot (K \nabla p)`.

    It equals the divergence for smooth fields only: it conserves no mass across a jump of :math:`K`.

    Arguments:
        permeability: The permeability :math:`K`, of shape (..., \*axes).
        pressure: The pressure :math:`p`, of the same shape.
        spacing: The spacing :math:`h` of each of the trailing axes; their number is the dimension of space.
        accuracy: The even order of the truncation error, also at the walls (one-sided stencils).

    Returns:
        The strong form at every point, of the same shape.

    Raises:
        ValueError: See `derivative`.
    """
    total = torch.zeros_like(pressure)
    for axis, h in enumerate(spacing, start=-len(spacing)):
        total = total + permeability * derivative(pressure, axis, 2, h, accuracy)
        total = total + derivative(permeability, axis, 1, h, accuracy) * derivative(pressure, axis, 1, h, accuracy)
    return total
