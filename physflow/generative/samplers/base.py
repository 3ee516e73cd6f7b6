r"""What every sampler of diffusions shares: times, noise, steps, and what is said when one fails.

A sampler carries points from :math:`t = 0` (noise) to :math:`t = 1` (data) in steps that may draw random numbers.
`simulate` runs one, for any `Predictor`: a network trained by flow matching or by score matching, on any path.

Each item of a batch is stepped by itself, so that a sample does not depend on its neighbours; with a generator for each
item (`physflow.generative.item_generator`) it does not depend on how many there are either.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from physflow.generative.integrators import Callback, at, called, check_finite
from physflow.generative.paths import Path, per_item
from physflow.generative.predictors import Predictor
from physflow.generative.sources import Gaussian

__all__ = ["Noise", "Sampler", "normals", "simulate"]

Noise: TypeAlias = Callable[[Tensor], Tensor]
"""Makes standard normal numbers of the shape, type and device of its argument."""


class Sampler(ABC):
    """A way from noise to data."""

    def times(self, path: Path, steps: int) -> Sequence[float]:
        """The times between which steps are taken, rising to 1: equally spaced from 0, unless a sampler says otherwise.

        Arguments:
            path: The path.
            steps: The number of steps, at least 1.
        """
        return [i / steps for i in range(steps)] + [1.0]

    @abstractmethod
    def step(self, model: Predictor, x: Tensor, t: float, t_next: float, noise: Noise, z: Tensor | None) -> Tensor:
        """The state at `t_next` from the state x at `t`.

        Arguments:
            model: What is known of the flow.
            x: The state, shape (batch, ...).
            t: The time.
            t_next: The next time, larger.
            noise: Where random numbers come from.
            z: The latent, for the model.
        """


def normals(generator: torch.Generator | Sequence[torch.Generator]) -> Noise:
    """Standard normal numbers of one generator, or of one for each item of the batch.

    Arguments:
        generator: The generator, or as many as there are items.
    """

    def noise(x: Tensor) -> Tensor:
        if isinstance(generator, torch.Generator):
            return Gaussian().sample(x.shape, generator, x.dtype, x.device)
        if len(generator) != len(x):
            raise ValueError(f"expected one generator, or one for each of the {len(x)} items, got {len(generator)}")
        items = [Gaussian().sample(x.shape[1:], g, x.dtype, x.device) for g in generator]
        return torch.stack(items) if items else x.clone()

    return noise


def simulate(
    model: Predictor,
    x0: Tensor,
    sampler: Sampler,
    steps: int = 50,
    generator: torch.Generator | Sequence[torch.Generator] | Noise | None = None,
    z: Tensor | None = None,
    callback: Callback | None = None,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    r"""Carry draws of N(0, I) to samples.

    The first state is :math:`\sqrt{\alpha^2 + \sigma^2}\, x_0` at the sampler's first time: on a path that starts a
    little short of pure noise, or at a time a little after 0, as spread as data of unit variance would be.

    Arguments:
        model: What is known of the flow, and its path.
        x0: Draws of N(0, I), shape (batch, ...).
        sampler: How to step.
        steps: The number of steps.
        generator: The random numbers: a generator, one for each item, or any `Noise`; None for samplers that draw none.
        z: The latent, handed to the model unchanged.
        callback: Called as callback(step, t, x) after each step, with the time and state reached; a tensor that it
            returns replaces the state.
        trajectory: Whether to return all states instead of the last.
        progress: Whether to show a progress bar.

    Returns:
        The samples, shape (batch, ...), or the states at all times, shape (steps + 1, batch, ...).

    Raises:
        TypeError: If `x0` does not hold floating-point numbers.
        ValueError: If `steps` is wrong, or the sampler draws random numbers and there is no generator.
        SolverDiverged: If the state stops being finite; it has the states so far.
    """
    if not x0.is_floating_point():
        raise TypeError(f"expected a state of a floating-point type, got {x0.dtype}")
    if isinstance(steps, bool) or int(steps) != steps or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps}")
    noise = _noise(sampler, generator)
    times = [float(t) for t in sampler.times(model.path, int(steps))]
    x = per_item(model.path.spread(at(times[0], x0)), x0) * x0
    check_finite(x, times[0], "the state")
    states = [x]
    for i, (t, t_next) in enumerate(tqdm(list(itertools.pairwise(times)), "sample", disable=not progress), start=1):
        x = sampler.step(model, x, t, t_next, noise, z)
        check_finite(x, t_next, "the state", states, times[:i])
        if callback is not None:
            x = called(callback, i, t_next, x)
        states = [*states, x] if trajectory else [x]
    return torch.stack(states) if trajectory else x


def _noise(sampler: Sampler, generator: torch.Generator | Sequence[torch.Generator] | Noise | None) -> Noise:
    if callable(generator):
        return generator
    if generator is not None:
        return normals(generator)

    def missing(x: Tensor) -> Tensor:
        raise ValueError(f"{sampler} draws random numbers; pass a torch.Generator as generator")

    return missing
