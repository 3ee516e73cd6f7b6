r"""Guidance: velocities that lean towards what goes with a label, a class or a latent.

Bayes' rule for the score, :math:`\nabla \log p_t(x \mid y) = \nabla \log p_t(x) + \nabla \log p_t(y \mid x)`, and
:math:`v = f_t x + \tfrac12 g_t^2 \nabla \log p_t` (`Path.drift`) give the flow to the data that go with y, and beyond
it for a scale s > 1,

.. math:: v_s(x, t) = v(x, t) + s\, \tfrac12 g_t^2\, \nabla_x \log p(y \mid x_t = x).

* Classifier guidance asks a classifier of noisy points, :math:`\log p(y \mid x_t)`.
* A flow with a latent has one at hand: its posterior. Of the estimate of the clean sample, :math:`D(x, t, z)`, it tells
  :math:`\log q(z \mid x_1 = D)`: guidance towards samples whose encoding is the z that was asked for.
* Classifier-free guidance takes the difference of two velocities for the gradient,
  :math:`v_s = v(x, t) + s\, \bigl(v(x, t, z) - v(x, t)\bigr)`: of a network that has learnt with and without z.

For s = 1 and exact parts the first and the last are the flow to the conditioned law. For other scales they are no flow
to a law that anybody states: s sharpens and narrows what is sampled. They are for a source N(0, I) drawn independently
of the data, and each item is guided by itself.

References:
    P. Dhariwal, A. Nichol, "Diffusion models beat GANs on image synthesis", NeurIPS 2021, section 4.
    J. Ho, T. Salimans, "Classifier-free diffusion guidance", 2022.
    A. Samaddar et al., "Efficient flow matching using latent variables", 2025, section 4.4 (names the posterior).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from physflow.config.checks import finite
from physflow.generative.latents.base import Latent
from physflow.generative.paths import LinearPath, Path, Velocity, per_item
from physflow.generative.predictors import Predictor

__all__ = ["ClassifierFree", "ClassifierGuided", "LogProbability", "posterior_log_probability"]

LogProbability = Callable[[Tensor, Tensor, Tensor | None], Tensor]
r"""A map of x (batch, ...), t (batch,) and z to :math:`\log p(y \mid x_t = x)`, shape (batch,), each item by itself."""


@dataclass(frozen=True)
class ClassifierFree:
    r"""The velocity :math:`v_u + s\, (v_c - v_u)`, called as v(x, t, z=None).

    One network serves for both where it was trained with z left out at times (`FlowMatching(unconditional=0.1)`)::

        guided = ClassifierFree(network, lambda x, t: network(x, t, torch.zeros_like(z)), scale=2.0)

    Arguments:
        conditional: The velocity :math:`v_c(x, t, z)`.
        unconditional: The velocity :math:`v_u(x, t)`.
        scale: The scale s: 0 is :math:`v_u`, 1 is :math:`v_c`.

    Raises:
        ValueError: If the scale is not finite.
    """

    conditional: Velocity
    unconditional: Callable[[Tensor, Tensor], Tensor]
    scale: float = 1.0

    def __post_init__(self) -> None:
        finite(scale=self.scale)

    def __call__(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The velocity at x (batch, ...), t (batch,), with the latents z."""
        plain = self.unconditional(x, t)
        told = self.conditional(x, t) if z is None else self.conditional(x, t, z)
        return plain + self.scale * (told - plain)


@dataclass(frozen=True)
class ClassifierGuided:
    r"""A velocity with the gradient of a log-probability, called as v(x, t, z=None).

    Before `t_min` the gradient and its factor are those at (x, t_min): at t = 0 the point says nothing of the data, and
    the factor :math:`\tfrac12 g^2` is infinite. At t = 1 of a path without noise it vanishes.

    Arguments:
        velocity: The velocity v(x, t, z=None).
        log_probability: :math:`\log p(y \mid x_t = x)`, differentiable in x.
        scale: The scale s.
        path: The path for which the velocity was made.
        t_min: The time before which guidance is that at `t_min`, in (0, 1).

    Raises:
        ValueError: If the scale is not finite, or `t_min` not in (0, 1).
    """

    velocity: Velocity
    log_probability: LogProbability
    scale: float = 1.0
    path: Path = field(default_factory=LinearPath, kw_only=True)
    t_min: float = field(default=0.02, kw_only=True)

    def __post_init__(self) -> None:
        finite(scale=self.scale)
        if not 0 < self.t_min < 1:
            raise ValueError(f"t_min, where guidance starts, must lie strictly between 0 and 1, got {self.t_min}")

    def __call__(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The velocity at x (batch, ...), t (batch,), without a graph; a ValueError if there is no gradient."""
        later = t.clamp_min(self.t_min)
        with torch.inference_mode(False), torch.enable_grad():
            # Clones: what inference mode made has no place in a graph.
            start, time = x.detach().clone().requires_grad_(), later.clone()
            value = self.log_probability(start, time, None if z is None else z.clone())
        if value.shape != t.shape or not value.requires_grad:
            raise ValueError(
                f"expected one log-probability for each of {len(t)} items, differentiable in x, got the shape "
                f"{tuple(value.shape)}{'' if value.requires_grad else ' without a derivative: was it detached?'}"
            )
        with torch.inference_mode(False):
            (gradient,) = torch.autograd.grad(value.sum(), start)
        with torch.no_grad():
            own = self.velocity(x, t) if z is None else self.velocity(x, t, z)
        return own + per_item(0.5 * self.scale * self.path.squared_diffusion(later), x) * gradient


def posterior_log_probability(latent: Latent, model: Predictor) -> LogProbability:
    r"""The log-posterior of the latent, :math:`\log q(z \mid x_1 = D(x, t, z))`, for `ClassifierGuided`.

    Arguments:
        latent: A stochastic latent that reads :math:`x_1` alone.
        model: The flow that is told z, and its path; its data prediction is D.

    Raises:
        ValueError: If the posterior reads more than :math:`x_1`, or is a point.
    """
    if latent.inputs != ("x1",) or not latent.stochastic:
        raise ValueError(
            "guidance by q(z | x1) needs a posterior that reads x1 alone and draws, this one reads "
            f"{', '.join(latent.inputs)}{'' if latent.stochastic else ' and is a point'}: train one with "
            "latent: {kind: posterior}"
        )

    def log_probability(x: Tensor, t: Tensor, z: Tensor | None) -> Tensor:
        if z is None:
            raise ValueError("guidance by q(z | x1) needs the z to guide to: pass z to integrate")
        posterior = latent.posterior(x1=model.data(x, model.inside(t), z))
        assert posterior.log_variance is not None
        squares = (z - posterior.mean).square() * (-posterior.log_variance).exp()
        return -0.5 * (squares + posterior.log_variance + math.log(2 * math.pi)).flatten(1).sum(1)

    return log_probability
