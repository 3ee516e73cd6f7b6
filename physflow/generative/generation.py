"""From noise to samples, by a solver of the flow or by a sampler that may draw random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from physflow.generative.consistency import ConsistencyFlowMatching
from physflow.generative.integrators import Solver, integrate
from physflow.generative.objectives import FlowMatching
from physflow.generative.paths import Velocity
from physflow.generative.regression import Regression
from physflow.generative.samplers import Sampler, simulate
from physflow.generative.sources import Gaussian, Scaled

__all__ = ["generate"]


def generate(
    objective: FlowMatching | ConsistencyFlowMatching | Regression,
    network: Callable[..., Tensor],
    x0: Tensor,
    method: Solver | Sampler,
    steps: int,
    z: Tensor | None = None,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """The samples of a trained network from draws of its objective's start (`Objective.start`).

    Arguments:
        objective: What the network was trained by.
        network: The network.
        x0: The draws, shape (batch, ...).
        method: A solver, or a sampler.
        steps: The number of steps.
        z: The latents, handed to the network unchanged.
        generators: The random numbers of a sampler, one for each item.

    Raises:
        ValueError: If a sampler is to be used where no score is known.
        SolverDiverged: If a state stops being finite.
    """
    if not isinstance(method, Sampler):
        velocity: Velocity = objective.velocity(network)
        return integrate(velocity, x0, method, steps, z)
    if (
        not isinstance(objective, FlowMatching)
        or not isinstance(objective.source, Gaussian)
        or not objective.coupling.independent
    ):
        raise ValueError(
            f"{method} needs a score, which is known for noise that is N(0, I) and drawn independently of the data: "
            "this model was trained otherwise; sample it with a solver such as heun"
        )
    start = objective.start
    x0 = x0 / start.factor if isinstance(start, Scaled) else x0
    return simulate(objective.predictor(network), x0, method, steps, generators, z)
