r"""Corrections inside of sampling.

At each time the velocity of a flow says what it expects of the data, :math:`D(x, t) = E[x_1 \mid x_t = x]`. A
correction :math:`C` of this estimate steers the rest of the way, while there still is one:

* `Corrected` is a velocity, for any integrator: that of the state's own noise and the corrected data,

  .. math:: N' = \frac{x - \alpha_t C(D)}{\sigma_t}, \qquad v' = \dot\alpha_t C(D) + \dot\sigma_t N';

  `CorrectedSolver` is a solver along it, for those who are given the velocity, such as `physflow.model.Model.sample`;

* `Reinterpolated` is a solver: each step goes to the point of the path between the predicted or a fresh noise
  :math:`N` and the corrected data,

  .. math:: x_{t'} = \alpha_{t'} C(D) + \sigma_{t'} N.

The first keeps the state where it is and turns the velocity; the second replaces the state. Both take the model for
what it is, without gradients through it. Neither draws from the law conditioned on the constraint: a single estimate
stands for all data that could have led to the state. See `physflow.generative.paths` for the symbols.

References:
    C. Cheng et al., "Gradient-free generation for hard-constrained systems", ICLR 2025 (ECI sampling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from physflow.generative import (
    Callback,
    Euler,
    Gaussian,
    Heun,
    LinearPath,
    Path,
    RightHandSide,
    RungeKutta,
    Solver,
    Source,
    Velocity,
)
from physflow.inference.corrections import Correction

__all__ = ["Corrected", "CorrectedSolver", "InModelSpace", "Reinterpolated"]


@dataclass(frozen=True)
class InModelSpace:
    r"""A correction of fields in physical units as one of model space, :math:`y \mapsto T(C(T^{-1}(y)))`.

    For a trained model `physflow.corrected_solver` makes it, with all that belongs to it.

    Arguments:
        correction: The correction :math:`C` of fields (batch, channel, *axes).
        decode: :math:`T^{-1}`, from model space to fields: the ``inverse`` of a `physflow.transforms.Transform`.
        encode: :math:`T`, from fields to model space: the transform itself. If it reduces the fields (a truncated
            basis), the result satisfies a constraint up to what it leaves out.
    """

    correction: Correction
    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]

    def __call__(self, y: Tensor) -> Tensor:
        """The corrected state in model space, of the shape and type of the given one."""
        return self.encode(self.correction(self.decode(y))).to(y.dtype)


class Corrected:
    r"""A velocity whose data prediction is corrected, from a time on.

    Used like the velocity itself, with any integrator of fixed steps. On the linear path the last step of `Euler` and
    of `Heun` ends in the corrected data themselves; other methods and paths end near them, and a last correction
    brings them there.

    The conversion back to a velocity divides by :math:`\sigma_t`: where that is zero, at :math:`t = 1`, it does not
    exist, and asking for it, as `RK4` does, is an error; integrate to an earlier time, or by another method, which
    does not ask. `Adaptive` comes as close as rounding allows, and is slow for that.

    Arguments:
        velocity: The velocity v(x, t, z=None) of a model.
        correction: The correction of a data prediction of the shape of the state (`InModelSpace`). A sample must not
            depend on its neighbours.
        path: The path for which the velocity was trained.
        start: The time from which the prediction is corrected; before it the velocity is the model's. Early
            predictions are near the mean of the data, and their corrections of little use.

    Raises:
        ValueError: If `start` is not in [0, 1].
    """

    def __init__(
        self, velocity: Velocity, correction: Correction, path: Path | None = None, start: float = 0.0
    ) -> None:
        if not 0 <= start <= 1:
            raise ValueError(f"start is a time in [0, 1], got {start}")
        self.velocity, self.correction, self.start = velocity, correction, start
        self.path = LinearPath() if path is None else path

    def __call__(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The velocity at x (batch, ...) and t (batch,), with the latent z if there is one.

        Raises:
            ValueError: Where the path has no conversion: at t = 1 if no noise is left there.
        """
        v = self.velocity(x, t) if z is None else self.velocity(x, t, z)
        late = t >= self.start
        if not late.any():
            return v
        x, t = x[late], t[late]
        data = self.correction(self.path.convert(v[late], x, t, given="velocity", wanted="data"))
        _check_shape(data, x)
        result = v.clone()
        result[late] = self.path.convert(data, x, t, given="data", wanted="velocity").to(v.dtype)
        return result


@dataclass(frozen=True)
class CorrectedSolver(Solver):
    """A solver with fixed steps along the velocity with a corrected data prediction (`Corrected`).

    Arguments:
        correction: The correction of a data prediction of the shape of the state (`InModelSpace`).
        solver: The solver.
        path: The path for which the velocity was trained.
        start: The time from which the prediction is corrected.
    """

    correction: Correction = field(repr=False)
    solver: RungeKutta = field(default_factory=Heun)
    path: Path = field(default_factory=LinearPath)
    start: float = 0.0

    def solve(
        self, f: RightHandSide, x: Tensor, times: Sequence[float], callback: Callback | None, trajectory: bool
    ) -> Tensor:
        """The state carried along the given times; see `physflow.generative.Solver.solve`."""

        def corrected(x: Tensor, t: float) -> Tensor:
            velocity = Corrected(lambda x, _, z=None: f(x, t), self.correction, self.path, self.start)
            return velocity(x, _times(t, x))

        return self.solver.solve(corrected, x, times, callback, trajectory)


@dataclass(frozen=True)
class Reinterpolated(Euler):
    r"""A solver that replaces each state by a point between the noise and the corrected data.

    Without a correction and with the predicted noise it is Euler's method on the linear path. At :math:`t = 1` the
    state is the corrected data themselves, so that the result satisfies the constraint exactly as far as the
    correction does.

    With fresh noise each step forgets the state but for its data prediction, a mean, and the law gets too narrow: data
    of unit variance end at :math:`1 / \sqrt 2` of their standard deviation, however many steps are taken. Samples
    depend on the order in which the generator draws, and so on their batch.

    Arguments:
        correction: The correction of a data prediction of the shape of the state (`InModelSpace`).
        path: The path for which the velocity was trained.
        mixing: How often the prediction is made, corrected and brought back to the time at which it was made before
            the step moves on; each costs an evaluation. Lets the corrected part and the rest settle with each other.
        generator: Draws fresh noise for each state; None keeps the predicted noise.
        source: The law of fresh noise.

    Raises:
        ValueError: If `mixing` is less than one.

    References:
        C. Cheng et al., ICLR 2025 (ECI sampling).
    """

    correction: Correction
    path: Path = field(default_factory=LinearPath)
    mixing: int = 1
    generator: torch.Generator | None = None
    source: Source = field(default_factory=Gaussian)

    def __post_init__(self) -> None:
        if self.mixing < 1:
            raise ValueError(f"expected mixing of at least 1, a prediction a step, got {self.mixing}")

    def step(self, f: RightHandSide, x: Tensor, t: float, t_next: float) -> Tensor:
        """The state at `t_next` from the state x at `t`.

        Raises:
            ValueError: If the step goes back in time, or the correction changes the shape.
        """
        if t_next < t:
            raise ValueError(f"a reinterpolated step goes from noise to data, got one from t = {t:g} to {t_next:g}")
        for end in (*(t,) * (self.mixing - 1), t_next):
            v, now = f(x, t), _times(t, x)
            data = self.correction(self.path.convert(v, x, now, given="velocity", wanted="data"))
            _check_shape(data, x)
            if end == 1:
                return data.to(x.dtype)
            if self.generator is None:
                noise = self.path.convert(v, x, now, given="velocity", wanted="noise")
            else:
                noise = self.source.sample(x.shape, self.generator, x.dtype, x.device)
            alpha, sigma, _, _ = self.path.shares(_times(end, x))
            x = _each(alpha, x) * data.to(x.dtype) + _each(sigma, x) * noise
        return x


def _times(t: float, x: Tensor) -> Tensor:
    """The time of each sample, in a type that holds it."""
    return torch.full((len(x),), t, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)


def _each(share: Tensor, x: Tensor) -> Tensor:
    """Values (batch,) in the type of x, shaped to multiply it."""
    return share.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def _check_shape(data: Tensor, x: Tensor) -> None:
    if data.shape != x.shape:
        raise ValueError(
            f"expected the correction to keep the shape {tuple(x.shape)} of the state, got {tuple(data.shape)}; lift a "
            "correction of fields to model space with InModelSpace"
        )
