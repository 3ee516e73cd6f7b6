"""The probability flow: the flow of the velocity, which draws no random numbers and can be run backward."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from physflow.generative.integrators import Heun, RungeKutta, at
from physflow.generative.predictors import Predictor
from physflow.generative.samplers.base import Noise, Sampler

__all__ = ["ProbabilityFlow"]


@dataclass(frozen=True)
class ProbabilityFlow(Sampler):
    """The flow of the velocity, by a Runge-Kutta method with fixed steps.

    `physflow.generative.integrate` does the same, has adaptive methods besides, and runs backward too.

    Arguments:
        solver: The method.

    Raises:
        TypeError: If the solver chooses its steps itself.
    """

    solver: RungeKutta = field(default_factory=Heun)

    def __post_init__(self) -> None:
        if not isinstance(self.solver, RungeKutta):
            raise TypeError(f"expected a solver with fixed steps, got {self.solver}; use integrate(model, x0, solver)")

    def step(self, model: Predictor, x: Tensor, t: float, t_next: float, noise: Noise, z: Tensor | None) -> Tensor:
        """One step of the solver; see `Sampler.step`."""

        def f(x: Tensor, t: float) -> Tensor:
            return model(x, at(t, x)) if z is None else model(x, at(t, x), z)

        return self.solver.step(f, x, t, t_next)
