r"""Descent on the residual: corrections that lower :math:`r(u)` a little, for use inside of sampling.

The residual of a differential equation amplifies the noise of single points. The gradient :math:`2 J^T r` of
:math:`|r|^2` sees little else: with :math:`L = -\partial r / \partial s` and the solution field :math:`s` it is
:math:`-2 L^T r`, and descent along it takes as many steps as the square of the condition number of :math:`L`. The
preconditioned energy

.. math:: E(u) = \tfrac12 \langle r, M r \rangle, \qquad M \approx L^{-1},

is the energy of the error of :math:`s`, and in the metric of :math:`M` its gradient :math:`-M L^T M r` is about the
error itself, so that a few steps will do. `ResidualDescent` takes these, `CoCoGen` the former.

Both leave the inputs alone by default: a residual can be lowered by any channel, and what moves the inputs moves
their law.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from physflow.inference.conjugate_gradients import inner, spread
from physflow.inference.linear_solves import linearised
from physflow.inference.linearisation import Linearisation

__all__ = ["CoCoGen", "ResidualDescent"]

_ARMIJO = 1e-4
"""The share of the decrease promised by the slope that a step must bring."""

_HALVINGS = 30
"""How often a step is halved before its sample is left where it is."""


class _Descent(ABC):
    """Steps of some channels of fields. A subclass writes one step."""

    def __init__(self, residual: Callable[..., Tensor], steps: int, channels: Sequence[int]) -> None:
        _check_steps(steps, channels)
        self.residual, self.steps, self.channels = residual, steps, tuple(channels)

    def __call__(self, fields: Tensor) -> Tensor:
        """The fields after the steps, of the shape (batch, channel, *axes) and type of the given ones.

        Raises:
            ValueError: If the residual is not differentiable in the channels.
        """
        if len(fields) == 0:
            return fields
        with torch.inference_mode(False), torch.no_grad():
            u = fields.detach().clone().double()
            channels = _absolute(self.channels, u)
            # An equation refuses a whole batch for one field that is none: those that are not finite stay as they are.
            known = u.isfinite().flatten(1).all(1)
            for _ in range(self.steps if known.any() else 0):
                u[known] = self._step(u[known], channels)
        return u.to(fields.dtype)

    @abstractmethod
    def _step(self, u: Tensor, channels: list[int]) -> Tensor:
        """The fields (batch, channel, *axes), float64, after one step of the channels, counted from the first."""


class ResidualDescent(_Descent):
    r"""Steps of steepest descent on the energy :math:`E = \frac12 \langle r, M r \rangle`.

    .. math:: u_c \leftarrow u_c - \tau P_c\, g_c, \qquad g = J^T M r,

    for the chosen channels, with :math:`P_c = M` for a solution field and the identity for an input. :math:`M`
    belongs to the inputs at the start of a step. The length :math:`\tau` starts at the minimum of the linearised
    energy and is halved until Armijo's rule holds,

    .. math:: E(u - \tau P g) \le E(u) - 10^{-4}\, \tau \langle g, P g \rangle,

    for each sample by itself. Near a solution, where no length does, a sample stays as it is. Computed in float64.

    **Positive inputs.** A step on a permeability may leave the positive numbers. Let it run on the logarithm: write
    residual and preconditioner as functions of :math:`\log K`, and wrap the descent in `InModelSpace` with the
    logarithm of that channel for `decode` and its exponential for `encode`.

    Arguments:
        residual: residual(*fields), called on one tensor (batch, *axes) for each channel, returns (batch, *axes) in
            differentiable torch operations.
        precondition: precondition(y, *inputs), an approximate :math:`L^{-1} y` for a right side y (batch, *axes),
            linear, symmetric and positive, such as `physflow.pde.Equation.precondition`.
        steps: The number of steps.
        channels: The channels that move, negative ones from the end: by default the last, the solution field.
        inputs: The number of input fields, the first channels.

    Raises:
        ValueError: If there is no step or no channel.

    References:
        J. Nocedal, S. Wright, "Numerical optimization", 2nd edition, 2006 (algorithm 3.1).
    """

    def __init__(
        self,
        residual: Callable[..., Tensor],
        precondition: Callable[..., Tensor],
        steps: int = 1,
        channels: Sequence[int] = (-1,),
        inputs: int = 1,
    ) -> None:
        super().__init__(residual, steps, channels)
        self.precondition, self.inputs = precondition, inputs

    def energy(self, fields: Tensor) -> Tensor:
        """The energy of each sample, shape (batch,), float64, for fields (batch, channel, *axes)."""
        fields = fields.detach().double()
        r = self.residual(*fields.unbind(1))
        return inner(r, self.precondition(r, *self._inputs(fields))) / 2

    def _inputs(self, fields: Tensor) -> tuple[Tensor, ...]:
        return fields[:, : self.inputs].unbind(1)

    def _step(self, u: Tensor, channels: list[int]) -> Tensor:
        inputs = self._inputs(u)
        at = _at(self.residual, u, channels)
        weighted = self.precondition(at.value, *inputs)
        g = at.pullback(weighted)
        direction = -torch.stack(
            [self.precondition(g[:, k], *inputs) if c >= self.inputs else g[:, k] for k, c in enumerate(channels)], 1
        )
        energy, slope = inner(at.value, weighted) / 2, inner(g, direction)
        bent = at.pushforward(direction)
        curvature = inner(bent, self.precondition(bent, *inputs))
        # Without a slope there is nothing to gain, and rounding is all that an uphill one can be.
        waiting = (slope < 0) & (curvature > 0)
        length = torch.where(waiting, -slope / curvature, 0.0)
        result = u
        for _ in range(_HALVINGS):
            if not waiting.any():
                break
            trial = u.index_add(
                1, _index(channels, u), spread(torch.where(waiting, length, 0.0), direction) * direction
            )
            r = self.residual(*trial.unbind(1))
            reached = inner(r, self.precondition(r, *inputs)) / 2
            enough = waiting & (reached <= energy + _ARMIJO * length * slope)
            result = torch.where(spread(enough, u), trial, result)
            waiting, length = waiting & ~enough, length / 2
        return result


class CoCoGen(_Descent):
    r"""The published correction: steps of a fixed largest change along the gradient of :math:`|r|^2`.

    .. math:: p \leftarrow p - \varepsilon\, \frac{g}{\max |g|}, \qquad g = \frac{\partial |r|^2}{\partial p} = 2 J^T r

    with the maximum over the points of each sample. A baseline: near the solution the fixed step goes too far and the
    residual rises again, and the smooth part of the error hardly moves at all.

    This is the formula of the paper with the true gradient. The published code has :math:`2 r\, \partial r_i /
    \partial p_i` in its place, the residual times the diagonal of the Jacobian, which is a sweep of Jacobi's kind.

    Arguments:
        residual: residual(*fields), as for `ResidualDescent`.
        step: The largest change :math:`\varepsilon` of a value in a step, in the unit of the channel.
        steps: The number of steps.
        channels: The channels that move, negative ones from the end: by default the last, the solution field.

    Raises:
        ValueError: If there is no step or no channel, or the step is not positive.

    References:
        Jacobsen, Zhuang and Duraisamy, "CoCoGen: physically-consistent and conditioned score-based generative models
        for forward and inverse problems", 2023.
    """

    def __init__(
        self, residual: Callable[..., Tensor], step: float = 2e-3, steps: int = 1, channels: Sequence[int] = (-1,)
    ) -> None:
        super().__init__(residual, steps, channels)
        if not 0 < step < math.inf:
            raise ValueError(f"expected a positive step, in the unit of the channel, got {step}")
        self.step = step

    def _step(self, u: Tensor, channels: list[int]) -> Tensor:
        at = _at(self.residual, u, channels)
        g = at.pullback(2 * at.value)
        largest = g.abs().flatten(1).amax(1)
        # Where the gradient vanishes there is nowhere to go.
        scale = torch.where(largest > 0, self.step / largest, 0.0)
        return u.index_add(1, _index(channels, u), -spread(scale, g) * g)


def _at(residual: Callable[..., Tensor], u: Tensor, channels: list[int]) -> Linearisation:
    """The residual as a function of some channels of u alone."""

    def of_part(part: Tensor) -> Tensor:
        fields = list(u.unbind(1))
        for c, field in zip(channels, part.unbind(1), strict=True):
            fields[c] = field
        return residual(*fields)

    return linearised(of_part, u[:, _index(channels, u)], f"the channels {channels}")


def _index(channels: list[int], u: Tensor) -> Tensor:
    return torch.tensor(channels, device=u.device)


def _absolute(channels: Sequence[int], u: Tensor) -> list[int]:
    """The channels counted from the first."""
    found = [c + u.shape[1] if c < 0 else c for c in channels]
    if len(set(found)) < len(found) or not all(0 <= c < u.shape[1] for c in found):
        raise ValueError(f"expected different channels of the {u.shape[1]} that the fields have, got {list(channels)}")
    return found


def _check_steps(steps: int, channels: Sequence[int]) -> None:
    if steps < 1 or not channels:
        raise ValueError(f"expected at least one step and one channel, got steps={steps}, channels={channels}")
