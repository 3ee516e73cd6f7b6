r"""The variational autoencoder that the first stage of two-stage Latent-CFM trains.

An encoder reads x and gives a normal law of z, a decoder reads z and gives x back. Both are trained by minimising

.. math:: L = E_x\, E_{z \sim q(z \mid x)} \tfrac{1}{d} \lVert x - D(z) \rVert^2
          + \beta\, E_x\, \mathrm{KL}\bigl(q(z \mid x) \,\|\, N(0, I)\bigr),

with d the number of elements of x, the divergence a sum over the components of z, in nats, and both terms means over
the batch. Up to constants it is the negative evidence lower bound per element for a decoder of variance
:math:`s^2 = d \beta / 2`.

After the training, `VAE.latent` freezes the encoder and puts a new trainable head on its features, which is trained
with the velocity (Latent-CFM, Algorithm 1).

References:
    D. Kingma, M. Welling, "Auto-encoding variational Bayes", ICLR 2014.
    A. Samaddar et al., "Efficient flow matching using latent variables", 2025, Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from physflow.generative.latents import NormalLatent, Posterior
from physflow.generative.objectives import Objective
from physflow.generative.sources import Gaussian

__all__ = ["ELBO", "VAE"]


class VAE(nn.Module):
    """An encoder and a decoder around a normal latent.

    Arguments:
        encoder: Maps samples (batch, ...) to features (batch, width).
        width: The number of features.
        decoder: Maps latents (batch, dimension) to samples (batch, ...).
        dimension: The number of components of z.
    """

    def __init__(self, encoder: nn.Module, width: int, decoder: nn.Module, dimension: int) -> None:
        super().__init__()
        self.posterior, self.decoder = NormalLatent(encoder, width, dimension), decoder
        self.width, self.dimension = width, dimension

    def forward(self, x: Tensor, epsilon: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The reconstruction of x, and the divergence of its posterior, shape (batch,).

        Arguments:
            x: The samples, shape (batch, ...).
            epsilon: Standard normal numbers of the posterior's draw, shape (batch, dimension); None takes its mean.
        """
        posterior: Posterior = self.posterior(x1=x)
        return self.decoder(posterior.sample(epsilon)), posterior.kl()

    def latent(self, dimension: int | None = None) -> NormalLatent:
        """The latent of two-stage Latent-CFM: this encoder, frozen, with a new trainable head.

        Arguments:
            dimension: The number of components of its z; by default that of the autoencoder.
        """
        return NormalLatent(self.posterior.encoder, self.width, dimension or self.dimension, frozen=True)


@dataclass(frozen=True)
class ELBO(Objective):
    """The objective of a `VAE`, as the module's docstring has it.

    Arguments:
        dimension: The number of components of z.
        beta: The weight of the divergence, in units of the mean squared error per nat.

    Raises:
        ValueError: If `dimension` is not positive, or `beta` negative or not finite.
    """

    dimension: int
    beta: float = 1e-3

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise ValueError(f"expected a latent dimension of at least 1, got {self.dimension}")
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta, the weight of the divergence, must be finite and not negative, got {self.beta}")

    def loss(
        self,
        network: Callable[..., Any],
        x1: Tensor,
        generator: torch.Generator,
        average: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """The error and the weighted divergence; see `Objective.loss`. The network is a `VAE`, or wraps one."""
        error, rate = self.terms(network, x1, generator)
        return error + self.beta * rate

    def parts(self, network: Callable[..., Any], x1: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss, the error of the reconstruction and the rate in nats. See `Objective.parts`."""
        error, rate = self.terms(network, x1, generator)
        return {"loss": error + self.beta * rate, "error": error, "rate": rate}

    def terms(self, network: Callable[..., Any], x1: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The mean squared error and the mean divergence in nats, two scalars; arguments as for `loss`.

        Raises:
            ValueError: If the decoder returns another shape than that of the samples.
        """
        epsilon = Gaussian().sample((len(x1), self.dimension), generator, dtype=x1.dtype, device=x1.device)
        reconstruction, kl = network(x1, epsilon)
        if reconstruction.shape != x1.shape:
            raise ValueError(
                f"expected the decoder to return samples of shape {tuple(x1.shape)}, got {tuple(reconstruction.shape)}"
            )
        return (reconstruction - x1).square().mean(), kl.mean()
