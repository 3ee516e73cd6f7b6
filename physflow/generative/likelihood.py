r"""The density of a flow's samples, by the instantaneous change of variables.

Along a trajectory of :math:`dx/dt = v(x, t, z)` the density changes as

.. math:: \frac{d}{dt} \log p_t(x_t) = - \nabla \cdot v(x_t, t, z), \qquad
          \log p_1(x_1) = \log p_0(x_0) - \int_0^1 \nabla \cdot v(x_t, t, z)\, dt,

where :math:`x_0` is what the flow, run backward, makes of :math:`x_1`. State and integral are solved as one system, so
that the error is that of the solver, and with random probes (`Hutchinson`) that of their mean too.

It is the density of the law that the velocity generates when it is solved exactly, from the source as it is. Steps with
random numbers have no such trajectories, and no density by this formula.

For values that were whole numbers v = 0, 1, ... and became :math:`x = w v + c`, spread by uniform noise over bins of
width w, the density bounds the probability of the whole numbers, :math:`\log P(v) \ge E \log p(x) + d \log w`, which is
told in

.. math:: \text{bits per dimension} = - \frac{\log p(x) + d \log w}{d \log 2}.

References:
    R. T. Q. Chen et al., "Neural ordinary differential equations", NeurIPS 2018, theorem 1.
    W. Grathwohl et al., "FFJORD: Free-form continuous dynamics for scalable reversible generative models", ICLR 2019.
    L. Theis, A. van den Oord, M. Bethge, "A note on the evaluation of generative models", ICLR 2016 (bits).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from physflow.generative.divergence import Divergence, Exact
from physflow.generative.integrators import RK4, Adaptive, Solver, integrate
from physflow.generative.paths import Velocity
from physflow.generative.sources import Gaussian, Source

__all__ = ["Likelihood", "bits_per_dimension", "check_solver", "log_likelihood", "standard_error"]

_EXACT, _GAUSSIAN, _RK4 = Exact(), Gaussian(), RK4()


@dataclass(frozen=True)
class Likelihood:
    """Densities of data samples.

    Attributes:
        log_density: The logarithms of the densities in nats, shape (batch,).
        standard_error: Their standard errors by the spread over random probes or draws, shape (batch,): zero where
            nothing is random, NaN for one alone.
        noise: Where the samples come from, :math:`x_0`, shape (batch, ...).
    """

    log_density: Tensor
    standard_error: Tensor
    noise: Tensor


def log_likelihood(
    velocity: Velocity,
    x1: Tensor,
    solver: Solver = _RK4,
    steps: int = 50,
    *,
    divergence: Divergence = _EXACT,
    source: Source = _GAUSSIAN,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    z: Tensor | None = None,
    progress: bool = False,
) -> Likelihood:
    """The log-density of data samples under a flow.

    Arguments:
        velocity: v(x, t, z=None), whose derivative by x autograd finds.
        x1: The samples, shape (batch, ...); float64 is worth its time where 1e-4 nats matter.
        solver: The numerical method; `Adaptive` shares its steps within a batch.
        steps: The number of equal steps of a method with fixed ones.
        divergence: `Exact`, or `Hutchinson` for many dimensions.
        source: The law of the flow at t = 0 (`Objective.start`).
        generator: The random numbers of the probes: a generator, or one for each item.
        z: The latents, handed to the velocity unchanged; the density is then that given z (see
            `physflow.generative.latent_log_likelihood`).
        progress: Whether to show a progress bar, with fixed steps.

    Returns:
        The densities, their standard errors, and the noise.

    Raises:
        TypeError: If the solver is a sampler that draws random numbers, or the samples are no floating-point numbers.
        ValueError: If the velocity has no derivative, the source no known density, or the probes no generator.
        SolverDiverged: If the state stops being finite.
    """
    check_solver(solver, "a log-likelihood")
    if not x1.is_floating_point():
        raise TypeError(f"expected samples of a floating-point type, got {x1.dtype}")
    shape, d = x1.shape, math.prod(x1.shape[1:])
    with torch.inference_mode(False):
        # What inference mode made could not be in the graph of a derivative.
        x1, z = x1.clone(), None if z is None else z.clone()
        probes = divergence.probes(x1, generator)

    def augmented(state: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        def f(x: Tensor) -> Tensor:
            return velocity(x, t) if z is None else velocity(x, t, z)

        v, trace = divergence(f, state[:, :d].reshape(shape), probes)
        return torch.cat([v.flatten(1), trace], dim=1)

    k = 1 if probes is None else len(probes)
    adaptive = isinstance(solver, Adaptive)
    with tqdm(total=steps, desc="likelihood", disable=not progress or adaptive) as bar:

        def count(step: int, t: float, state: Tensor) -> None:
            bar.update()

        with torch.inference_mode(False), torch.no_grad():
            start = torch.cat([x1.flatten(1), x1.new_zeros(len(x1), k)], dim=1)
            end = integrate(augmented, start, solver, steps, z, 1.0, 0.0, None if adaptive else count)
    noise, traces = end[:, :d].reshape(shape), end[:, d:]
    error = torch.zeros_like(traces[:, 0]) if probes is None else standard_error(traces.T)
    return Likelihood(source.log_density(noise) + traces.mean(1), error, noise)


def bits_per_dimension(log_density: Tensor, dimension: int, width: float = 1.0) -> Tensor:
    """Densities in bits per dimension, by the module's formula.

    Arguments:
        log_density: Logarithms of densities in nats, of any shape.
        dimension: The number d of values of a sample.
        width: The width w of a bin of the values, in their unit: 1 is for values of unit steps.

    Raises:
        ValueError: If the dimension or the width is not positive.
    """
    if dimension < 1 or not 0 < width < math.inf:
        raise ValueError(f"expected a positive dimension and width, got {dimension} and {width}")
    return -(log_density / dimension + math.log(width)) / math.log(2)


def standard_error(estimates: Tensor) -> Tensor:
    """The standard errors of means over estimates of shape (k, batch), shape (batch,); NaN for k = 1."""
    k = len(estimates)
    return (estimates - estimates.mean(0)).square().sum(0).div(k * (k - 1)).sqrt()


def check_solver(solver: object, what: str) -> None:
    """Refuse what is no solver of an ordinary differential equation, with the reason."""
    if not isinstance(solver, Solver):
        raise TypeError(
            f"{what} needs trajectories without random numbers, which can be run backward: expected a Solver such as "
            f"RK4() or Adaptive(), got {type(solver).__name__}; the velocity of its model has one "
            "(physflow.generative.integrate)"
        )
