r"""Priors: where z comes from when a model generates.

* `Encodings`: :math:`z \sim \frac1N \sum_i q(z \mid x_1^{(i)})`, the encoding of a training sample drawn at random
  (Latent-CFM, Algorithm 2). The law is that of training, but samples lean on N stored encodings.
* `StandardNormal`: :math:`z \sim N(0, I)`, towards which the divergence pulls the posterior (V-RFM).
* `MixturePrior`, `FlowPrior`: a law fitted to the encodings of the training data: nothing of any one of them is kept.
* `ComponentIds`: the component of a mixture over the data, by the shares of the samples or by its weights.

Every draw takes its numbers from a generator of its own, so that sample i can depend on (seed, i) alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from physflow.generative.integrators import Heun, integrate
from physflow.generative.latents.base import Latent, Posterior
from physflow.generative.likelihood import log_likelihood
from physflow.generative.mixture import DiagonalMixture
from physflow.generative.sources import Gaussian

__all__ = ["ComponentIds", "Encodings", "FlowPrior", "MixturePrior", "Prior", "StandardNormal", "encodings_of"]


class Prior(nn.Module, ABC):
    """A law of z.

    Attributes:
        dimension: The number of components of z.
        words: What draws from it are, in words, for the attributes of samples.
    """

    dimension: int
    words: str = "drawn from a law of the user"

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Independent draws in float32 on the CPU, shape (n, dimension)."""

    def log_density(self, z: Tensor) -> Tensor:
        """The logarithm of the density in nats, or of the probability where z is one of finitely many, shape (batch,).

        Arguments:
            z: Latents, shape (batch, dimension).

        Raises:
            ValueError: If there is none.
        """
        raise ValueError(
            f"z is {self.words}, a law without a density: draw it from N(0, I), or from a mixture or flow fitted to "
            "the encodings (draw: mixture)"
        )


class StandardNormal(Prior):
    """The standard normal law N(0, I).

    Arguments:
        dimension: The number of components of z.
    """

    words = "drawn from N(0, I)"

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Standard normal numbers; see `Prior.draw`."""
        return torch.randn(n, self.dimension, generator=generator)

    def log_density(self, z: Tensor) -> Tensor:
        """The normal density; see `Prior.log_density`."""
        return Gaussian().log_density(z)


class Encodings(Prior):
    """The mixture of the posteriors of the training samples.

    Arguments:
        mean: The posterior means of the training samples, shape (samples, dimension).
        log_variance: The logarithms of the posterior variances, same shape; None for points.

    Raises:
        ValueError: If there is no encoding, or the shapes differ.
    """

    words = "drawn from the encodings of the training data"

    mean: Tensor
    log_variance: Tensor | None

    def __init__(self, mean: Tensor, log_variance: Tensor | None = None) -> None:
        super().__init__()
        if mean.ndim != 2 or len(mean) == 0:
            raise ValueError(f"expected encodings of shape (samples, dimension), at least one, got {tuple(mean.shape)}")
        if log_variance is not None and log_variance.shape != mean.shape:
            raise ValueError(f"expected variances of the means' shape {tuple(mean.shape)}, got {log_variance.shape}")
        self.register_buffer("mean", mean.float())
        self.register_buffer("log_variance", None if log_variance is None else log_variance.float())
        self.dimension = mean.shape[1]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws from the posteriors of training samples that are chosen with replacement; see `Prior.draw`."""
        return self._draw(torch.randint(len(self.mean), (n,), generator=generator), generator)

    def draw_each(self, generator: torch.Generator) -> Tensor:
        """One draw from the posterior of every training sample, shape (samples, dimension)."""
        return self._draw(torch.arange(len(self.mean)), generator)

    def log_density(self, z: Tensor) -> Tensor:
        """The density of the mixture of all posteriors; see `Prior.log_density`."""
        if self.log_variance is None:
            return super().log_density(z)
        logs = []
        for one in z.split(max(1, 2**22 // self.mean.numel())):
            squares = (one[:, None] - self.mean).square() * (-self.log_variance).exp()
            logs.append((-0.5 * (squares + self.log_variance + math.log(2 * math.pi)).sum(2)).logsumexp(1))
        return torch.cat(logs) - math.log(len(self.mean)) if logs else z.new_zeros(0)

    def _draw(self, which: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(which), self.dimension, generator=generator)
        variance = None if self.log_variance is None else self.log_variance[which]
        return Posterior(self.mean[which], variance).sample(noise)


class MixturePrior(Prior):
    """A Gaussian mixture fitted to encodings.

    Arguments:
        mixture: The fitted mixture over z.
    """

    words = "drawn from a mixture fitted to the encodings of the training data"

    def __init__(self, mixture: DiagonalMixture) -> None:
        super().__init__()
        self.mixture, self.dimension = mixture.requires_grad_(False), mixture.dimension

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws from the mixture; see `Prior.draw`."""
        return self.mixture.sample(n, generator)

    def log_density(self, z: Tensor) -> Tensor:
        """The density of the mixture; see `Prior.log_density`."""
        return self.mixture.log_prob(z)


class ComponentIds(Prior):
    """The numbers of a mixture's components as unit vectors.

    With the shares of the training samples that belong most to each (`Components`) the law is that of training. The
    published algorithm (A.2) draws with the weights of the mixture, which differ from the shares where components
    overlap.

    Arguments:
        weights: The probability of each component, shape (components,).

    Raises:
        ValueError: If a weight is negative, or they do not sum to one.
    """

    words = "drawn from the components of a mixture"

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        if weights.ndim != 1 or bool((weights < 0).any()) or abs(float(weights.sum()) - 1) > 1e-4:
            raise ValueError(f"expected weights that are not negative and sum to one, got {weights.tolist()}")
        self.register_buffer("weights", weights.detach().float().clone())
        self.dimension = len(weights)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Unit vectors; see `Prior.draw`."""
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        sums = self.weights.double().cumsum(0)
        # Divided by the last sum, which may be off one by rounding; no id has a weight of zero.
        return one_hot(torch.searchsorted(sums / sums[-1], u, right=True), self.dimension).float()

    def log_density(self, z: Tensor) -> Tensor:
        """The probabilities of the components; see `Prior.log_density`."""
        return self.weights[z.argmax(1)].to(z).log()


class FlowPrior(Prior):
    """A flow from N(0, I) to the law of encodings.

    Arguments:
        network: The trained velocity of z, called as network(z, t).
        dimension: The number of components of z.
        mean: The mean of the encodings, shape (dimension,): the flow runs over standardised ones.
        std: Their standard deviation, same shape.
        steps: The number of Heun steps.
    """

    words = "drawn from a flow fitted to the encodings of the training data"

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, dimension: int, mean: Tensor, std: Tensor, steps: int = 20) -> None:
        super().__init__()
        self.network, self.dimension, self.steps = network.requires_grad_(False), dimension, steps
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    @torch.no_grad()
    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws by integrating the flow; see `Prior.draw`."""
        noise = torch.randn(n, self.dimension, generator=generator)
        return self.mean + self.std * integrate(self.network, noise, Heun(), self.steps)

    def log_density(self, z: Tensor) -> Tensor:
        """The density by the flow, of its standardised encodings; see `Prior.log_density`."""
        whitened = (z.float() - self.mean) / self.std
        return log_likelihood(self.network, whitened, Heun(), self.steps).log_density - self.std.log().sum()


@torch.no_grad()
def encodings_of(latent: Latent, batches: Iterable[Tensor]) -> Encodings:
    """The posteriors of data samples, to draw from.

    Arguments:
        latent: A latent that reads :math:`x_1` alone.
        batches: The data samples, in pieces of shape (batch, ...).

    Raises:
        ValueError: If the latent reads more than :math:`x_1`, or there are no samples.
    """
    if latent.inputs != ("x1",):
        raise ValueError(
            f"encodings are functions of a data sample alone, but this posterior reads {', '.join(latent.inputs)}: "
            "draw z from N(0, I) instead"
        )
    posteriors = [latent.posterior(x1=piece) for piece in batches]
    if not posteriors:
        raise ValueError("there are no training samples to encode")
    variances = [p.log_variance for p in posteriors if p.log_variance is not None]
    mean = torch.cat([p.mean for p in posteriors])
    return Encodings(mean.cpu(), torch.cat(variances).cpu() if variances else None)
