r"""Integrators: from a velocity to samples.

`integrate` solves :math:`dx/dt = v(x, t, z)` from :math:`t_0` to :math:`t_1`; generation runs from 0 (noise)
to 1 (data), inversion from 1 to 0. An explicit Runge-Kutta method with s stages takes a step of size h by

.. math:: k_i = v\Big(x + h \sum_{j < i} a_{ij} k_j,\; t + c_i h\Big), \qquad
          x \leftarrow x + h \sum_{i=1}^{s} b_i k_i, \qquad c_i = \sum_j a_{ij},

and has order p if the error at :math:`t_1` falls like :math:`h^p` for a smooth v. Fixed steps are the
default: adaptive step control measures the error over the whole batch, so that an item's result depends on
its neighbours.

References:
    E. Hairer, S. P. Norsett, G. Wanner, "Solving ordinary differential equations I", 2nd edition, sections
    II.1 and II.4.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from physflow.config import nearest
from physflow.generative.paths import Velocity

__all__ = [
    "RK4",
    "Adaptive",
    "Callback",
    "Counted",
    "Euler",
    "Heun",
    "Midpoint",
    "RightHandSide",
    "RungeKutta",
    "Solver",
    "SolverDiverged",
    "at",
    "called",
    "check_finite",
    "integrate",
]

Callback = Callable[[int, float, Tensor], Tensor | None]
RightHandSide = Callable[[Tensor, float], Tensor]


class SolverDiverged(FloatingPointError):
    """A solution that stopped being finite.

    Attributes:
        t: The time at which it did.
        times: The times of the finite states that are kept.
        states: Those states: all so far where a trajectory was asked for, otherwise the last one.
    """

    def __init__(self, message: str, t: float, times: Sequence[float], states: Sequence[Tensor]) -> None:
        super().__init__(message)
        self.t, self.times, self.states = t, tuple(times), tuple(states)


class Solver(ABC):
    """A numerical method for initial value problems."""

    @abstractmethod
    def solve(
        self, f: RightHandSide, x: Tensor, times: Sequence[float], callback: Callback | None, trajectory: bool
    ) -> Tensor:
        """The state carried along the given times.

        Arguments:
            f: The right-hand side f(x, t), t a number.
            x: The state at the first time, shape (batch, ...).
            times: Equally spaced times, rising or falling, at least two.
            callback: See `integrate`.
            trajectory: Whether to return the states at all times.

        Returns:
            The state at the last time, or the states at all times stacked along a new first axis.

        Raises:
            SolverDiverged: If the state stops being finite.
        """


class RungeKutta(Solver):
    """An explicit Runge-Kutta method with one step between two neighbouring times.

    A subclass states its Butcher tableau.
    """

    order: ClassVar[int]
    """The power p at which the error falls with the step."""
    a: ClassVar[tuple[tuple[float, ...], ...]]
    """The rows of the strictly lower triangle, the first one empty; row sums are the nodes c."""
    b: ClassVar[tuple[float, ...]]
    """The weights of the stages."""

    def step(self, f: RightHandSide, x: Tensor, t: float, t_next: float) -> Tensor:
        """The state at `t_next` from the state x at `t`."""
        h = t_next - t
        stages: list[Tensor] = []
        for row in self.a:
            c = sum(row)
            # t + h may differ from t_next in the last bit, and so lie outside [t0, t1].
            stages.append(f(_combine(x, h, row, stages), t_next if c == 1 else t + c * h))
        return _combine(x, h, self.b, stages)

    def solve(
        self, f: RightHandSide, x: Tensor, times: Sequence[float], callback: Callback | None, trajectory: bool
    ) -> Tensor:
        """One step between neighbouring times; see `Solver.solve`."""
        states = [x]
        for i, (t, t_next) in enumerate(itertools.pairwise(times), start=1):
            x = self.step(f, x, t, t_next)
            check_finite(x, t_next, "the state", states, times[:i])
            if callback is not None:
                x = called(callback, i, t_next, x)
            states = [*states, x] if trajectory else [x]
        return torch.stack(states) if trajectory else x


@dataclass(frozen=True)
class Euler(RungeKutta):
    """The explicit Euler method: order 1, one evaluation a step, at its start."""

    order = 1
    a = ((),)
    b = (1.0,)


@dataclass(frozen=True)
class Midpoint(RungeKutta):
    """The explicit midpoint method: order 2, two evaluations a step, at its start and its middle."""

    order = 2
    a = ((), (1 / 2,))
    b = (0.0, 1.0)


@dataclass(frozen=True)
class Heun(RungeKutta):
    """Heun's method, the explicit trapezoidal rule: order 2, two evaluations a step, at its start and end.

    A step that ends at t = 1 is an Euler step, so that generation never evaluates the velocity at t = 1,
    where it may be singular. The error of that one Euler step is of order h^2, so the order remains 2 where
    v is smooth.

    References:
        T. Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022,
        algorithm 1.
    """

    order = 2
    a = ((), (1.0,))
    b = (1 / 2, 1 / 2)

    def step(self, f: RightHandSide, x: Tensor, t: float, t_next: float) -> Tensor:
        """The state at `t_next` from the state x at `t`."""
        return Euler().step(f, x, t, t_next) if t_next == 1 else super().step(f, x, t, t_next)


@dataclass(frozen=True)
class RK4(RungeKutta):
    """The classical Runge-Kutta method: order 4, four evaluations a step, at start, middle (twice), end."""

    order = 4
    a = ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0))
    b = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


@dataclass(frozen=True)
class Adaptive(Solver):
    r"""An embedded Runge-Kutta pair of torchdiffeq, whose steps follow the estimated error.

    A step is accepted if the root mean square of :math:`e / (\text{atol} + \text{rtol} |x|)` over all
    elements of the batch is at most 1, e being the estimated error: the items of a batch share their steps.
    A step is made to end at the end time, so that t never leaves the interval. The number of steps given to
    `integrate` only sets the times of a trajectory. At each of them too a step is made to end, since the
    states that torchdiffeq interpolates within a step miss the tolerance.

    Arguments:
        method: ``"dopri5"`` (order 5), ``"dopri8"`` (8), ``"bosh3"`` (3), ``"fehlberg2"`` or
            ``"adaptive_heun"`` (2).
        rtol: The relative tolerance.
        atol: The absolute tolerance, in the unit of x.

    Raises:
        ValueError: If the method is unknown or a tolerance is not positive.
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        methods = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
        if self.method not in methods:
            raise ValueError(f"unknown adaptive method {self.method!r}; {nearest(self.method, methods)}")
        for name in ("rtol", "atol"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")

    def solve(
        self, f: RightHandSide, x: Tensor, times: Sequence[float], callback: Callback | None, trajectory: bool
    ) -> Tensor:
        """Adaptive steps from the first to the last time; see `Solver.solve`.

        Raises:
            ValueError: If there is a callback.
            SolverDiverged: If the velocity stops being finite, or the tolerance cannot be met.
        """
        if callback is not None:
            raise ValueError(
                "a callback needs a solver with fixed steps (Euler, Midpoint, Heun, RK4): "
                f"{self} chooses its steps itself and may reject them"
            )
        times = times if trajectory else (times[0], times[-1])
        if x.numel() == 0:
            # No error to control: its mean over no elements is undefined.
            return torch.stack([x] * len(times)) if trajectory else x
        # Imported here because it is slow to import and fixed steps do without it.
        from torchdiffeq import odeint

        low, high = sorted((times[0], times[-1]))
        start, t_last = x, times[0]

        def right_hand_side(t: Tensor, x: Tensor) -> Tensor:
            nonlocal t_last
            # The heuristic for the first step probes where it likes, even beyond the end time.
            t_last = min(max(t.item(), low), high)
            velocity = f(x, t_last)
            check_finite(velocity, t_last, "the velocity", (start,), times[:1])
            return velocity

        t = torch.tensor(times, dtype=torch.float64, device=x.device)
        try:
            forced = {"step_t": t[1:]}
            states = odeint(right_hand_side, x, t, rtol=self.rtol, atol=self.atol, method=self.method, options=forced)
        except AssertionError as error:
            reason = str(error).partition(":")[0]
            if not reason.startswith(("underflow in dt", "non-finite values in state")):
                raise
            raise SolverDiverged(
                f"{self} cannot go on near t = {t_last:.6g} ({reason}); "
                "raise rtol and atol, integrate in float64, or use fixed steps",
                t_last,
                times[:1],
                (start,),
            ) from error
        check_finite(states[-1], times[-1], "the state", (start,), times[:1])
        return states if trajectory else states[-1]


_HEUN = Heun()


def integrate(
    velocity: Velocity,
    x0: Tensor,
    solver: Solver = _HEUN,
    steps: int = 10,
    z: Tensor | None = None,
    t0: float = 0.0,
    t1: float = 1.0,
    callback: Callback | None = None,
    trajectory: bool = False,
) -> Tensor:
    r"""The solution at :math:`t_1` of :math:`dx/dt = v(x, t, z)` with :math:`x(t_0)` given.

    Gradients flow through the steps; call it under `torch.no_grad()` where none are needed.

    Arguments:
        velocity: v(x, t, z=None) with x and the result (batch, ...), t (batch,), all times within [t0, t1].
        x0: The state at `t0`, shape (batch, ...).
        solver: The numerical method.
        steps: The number of equal steps; for `Adaptive`, of equal intervals between a trajectory's states.
        z: The latent, handed to the velocity unchanged; None calls velocity(x, t).
        t0: The start time, in [0, 1].
        t1: The end time, in [0, 1]; smaller than `t0` to go from data to noise.
        callback: Called as callback(step, t, x) after each step, step = 1, ..., `steps`, with the time and
            state reached; a tensor it returns replaces the state (a correction), None leaves it.
        trajectory: Whether to return all states instead of the last.

    Returns:
        The state at `t1`, shape (batch, ...), or the states at all times, shape (steps + 1, batch, ...).

    Raises:
        TypeError: If `x0` does not hold floating-point numbers.
        ValueError: If the interval or `steps` is wrong, the velocity or the callback changes the shape of x,
            or there is a callback for `Adaptive`.
        SolverDiverged: If the state stops being finite; the message names the time, and it has the states so far
            (of `Adaptive`, the first).
    """
    if not x0.is_floating_point():
        raise TypeError(f"expected a state of a floating-point type, got {x0.dtype}")
    if x0.ndim == 0:
        raise ValueError("expected a state of shape (batch, ...), got a scalar; x0[None] is a batch of one")
    if not (0 <= t0 <= 1 and 0 <= t1 <= 1):
        raise ValueError(f"t0 and t1 must lie in [0, 1] (0 is noise, 1 is data), got t0 = {t0}, t1 = {t1}")
    if t0 == t1:
        raise ValueError(f"t0 and t1 must differ, both are {t0}; 0 to 1 generates, 1 to 0 inverts")
    if isinstance(steps, bool) or int(steps) != steps or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps}")
    t0, t1 = float(t0), float(t1)
    check_finite(x0, t0, "the state")

    def f(x: Tensor, t: float) -> Tensor:
        v = velocity(x, at(t, x)) if z is None else velocity(x, at(t, x), z)
        if v.shape != x.shape:
            raise ValueError(f"expected the velocity to have the shape {tuple(x.shape)} of x, got {tuple(v.shape)}")
        return v.to(x.dtype)

    times = [t0 + i * (t1 - t0) / steps for i in range(int(steps))] + [t1]
    return solver.solve(f, x0, times, callback, trajectory)


def _combine(x: Tensor, h: float, weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """The state x + h sum_i w_i k_i."""
    for weight, k in zip(weights, stages, strict=True):
        if weight != 0:
            x = x + (h * weight) * k
    return x


def at(t: float, x: Tensor) -> Tensor:
    """A time for every item of x (batch, ...), shape (batch,)."""
    return torch.full((len(x),), t, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)


def check_finite(x: Tensor, t: float, name: str, states: Sequence[Tensor] = (), times: Sequence[float] = ()) -> None:
    """Refuse a state, or a velocity, that is not finite.

    Arguments:
        x: The state, shape (batch, ...).
        t: Its time.
        name: What it is, for the message.
        states: The states so far.
        times: The times so far; the last of them are those of the states.

    Raises:
        SolverDiverged: If it is not; it has the states.
    """
    finite = torch.isfinite(x)
    if not finite.all():
        items = int((~finite.reshape(len(x), -1).all(1)).sum())
        raise SolverDiverged(
            f"{name} is not finite (NaN or infinity) at t = {t:.6g} in {items} of {len(x)} items; "
            "check the velocity there, or take more steps",
            t,
            tuple(times)[len(times) - len(states) :],
            tuple(states),
        )


def called(callback: Callback, step: int, t: float, x: Tensor) -> Tensor:
    """The state after the callback."""
    replaced = callback(step, t, x)
    if replaced is None:
        return x
    if replaced.shape != x.shape:
        raise ValueError(f"expected the callback to keep the shape {tuple(x.shape)} of x, got {tuple(replaced.shape)}")
    check_finite(replaced, t, "the state returned by the callback")
    return replaced.to(x.dtype)


class Counted:
    """A velocity that counts how often it is asked.

    Arguments:
        velocity: The velocity.

    Attributes:
        calls: The number of calls so far.
    """

    def __init__(self, velocity: Velocity) -> None:
        self.velocity, self.calls = velocity, 0

    def __call__(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The velocity at x and t."""
        self.calls += 1
        return self.velocity(x, t, z)
