r"""The density of samples of a flow with a latent: an importance-weighted bound.

With :math:`z \sim p(z)` the samples' density is :math:`p(x) = E_{p(z)}\, p(x \mid z)`. Of K draws of a proposal q,

.. math:: \hat p(x) = \frac1K \sum_{k=1}^{K} w_k, \qquad w_k = p(x \mid z_k)\, \frac{p(z_k)}{q(z_k)}, \qquad
          E \log \hat p(x) \le \log p(x):

without bias for the density, below its logarithm in the mean, and the closer the more draws. The proposal is the
posterior of x where there is one, :math:`q(z \mid x_1)`, else the prior itself, which finds in few draws only what z
says little of.

Reference: Y. Burda, R. Grosse, R. Salakhutdinov, "Importance weighted autoencoders", ICLR 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from physflow.config.checks import at_least
from physflow.generative.latents.base import Latent
from physflow.generative.latents.priors import Prior
from physflow.generative.likelihood import Likelihood, log_likelihood, standard_error
from physflow.generative.paths import Velocity
from physflow.generative.samplers.base import normals

__all__ = ["latent_log_likelihood"]


def latent_log_likelihood(
    velocity: Velocity,
    x1: Tensor,
    latent: Latent,
    prior: Prior,
    draws: int = 16,
    *,
    generator: torch.Generator | Sequence[torch.Generator],
    **settings: Any,
) -> Likelihood:
    """A lower bound, in the mean, of the log-density of data samples under a flow with a latent.

    Arguments:
        velocity: v(x, t, z).
        x1: The samples, whole items, shape (batch, ...).
        latent: The latent; one that reads :math:`x_1` alone, and draws, proposes z.
        prior: The law of z in generation.
        draws: The number K of draws of z for each sample.
        generator: The random numbers: a generator, or one for each item.
        settings: Further arguments of `log_likelihood`.

    Returns:
        The bound, its standard error by the spread of the weights (NaN for one draw), and the noise of the draw of the
        largest weight.

    Raises:
        ValueError: If z holds a part of the sample exactly, the prior has no known density but the posterior proposes,
            or for a reason of `log_likelihood`.
    """
    at_least(1, draws=draws)
    if latent.rest(x1).shape != x1.shape:
        raise ValueError(
            "z of this latent is a part of the sample itself: given z there is no density of the whole, and the bound "
            "has none either; score the rest alone, or train without a latent of fields"
        )
    generators = [generator] * len(x1) if isinstance(generator, torch.Generator) else generator
    if len(generators) != len(x1):
        raise ValueError(f"expected one generator, or one for each of the {len(x1)} items, got {len(generators)}")
    with torch.no_grad():
        like = next(latent.parameters(), x1)
        proposes = latent.stochastic and latent.inputs == ("x1",)
        posterior = latent.posterior(x1=x1.to(like.dtype)) if proposes else None
    weights, noises = [], []
    for _ in range(draws):
        if posterior is not None and posterior.log_variance is not None:
            epsilon = normals(generators)(posterior.mean)
            z = posterior.sample(epsilon).to(x1)
            # A prior stays where it was made when its model moves.
            own = prior.log_density(z.cpu()).to(x1)
            squares = epsilon.square() + posterior.log_variance + math.log(2 * math.pi)
            ratio = own + 0.5 * squares.sum(1).to(x1)
        else:
            drawn = [prior.draw(1, g) for g in generators]
            z, ratio = torch.cat([x1.new_zeros(0, latent.dimension), *(d.to(x1) for d in drawn)]), x1.new_zeros(len(x1))
        given = log_likelihood(velocity, x1, generator=generators, z=z, **settings)
        weights.append(given.log_density + ratio)
        noises.append(given.noise)
    logs = torch.stack(weights)
    largest = logs.argmax(0)
    mean = logs.logsumexp(0) - math.log(draws)
    # The logarithm of a mean errs by the error of the mean relative to it.
    error = standard_error((logs - mean).exp())
    noise = torch.stack(noises)[largest, torch.arange(len(x1), device=x1.device)]
    return Likelihood(mean, error, noise)
