r"""A network that is told a latent, and the posterior of that latent: trained, averaged and stored together."""

from __future__ import annotations

import typing

from torch import Tensor, nn

from physflow.generative.latents.base import Latent

__all__ = ["Conditioned"]


class Conditioned(nn.Module):
    """A network that is told a latent, with the rule that gives the latent in training.

    Called as ``network(x, t, z)`` it is the network itself. With a data sample it encodes first and returns the
    divergence beside the prediction: that is how `physflow.generative.FlowMatching` calls it.

    Arguments:
        network: Called as network(x, t, z).
        latent: The latent, of the dimension that the network takes.

    Raises:
        ValueError: If the network states another width of its latent (its attribute `latent`).
    """

    def __init__(self, network: nn.Module, latent: Latent) -> None:
        super().__init__()
        width = getattr(network, "latent", latent.dimension)
        if isinstance(width, int) and width != latent.dimension:
            raise ValueError(
                f"the network takes latents of {width} components, but the latent has {latent.dimension}: build the "
                f"network with latent={latent.dimension}"
            )
        self.network = network
        self.latent = latent

    @typing.overload
    def forward(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor: ...

    @typing.overload
    def forward(
        self,
        x: Tensor,
        t: Tensor,
        z: Tensor | None,
        x0: Tensor | None,
        x1: Tensor,
        epsilon: Tensor | None = None,
        told: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        z: Tensor | None = None,
        x0: Tensor | None = None,
        x1: Tensor | None = None,
        epsilon: Tensor | None = None,
        told: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The prediction for a given z, or for the z of a data sample.

        Arguments:
            x: The points of the path, shape (batch, ...).
            t: The times, shape (batch,).
            z: The latents, shape (batch, dimension), in generation.
            x0: The source samples, shape (batch, ...), in training.
            x1: The data samples, whole items, shape (batch, ...), in training.
            epsilon: Standard normal numbers of the posterior's draw, shape (batch, dimension); None takes its mean.
            told: A factor of z for each item, shape (batch,), such as 0 for those that are to be told nothing.

        Returns:
            The prediction, of x's shape; in training with the divergence, shape (batch,).
        """
        if x1 is None:
            prediction: Tensor = self.network(x, t, z)
            return prediction
        posterior = self.latent(x0, x1, x, t)
        drawn = posterior.sample(epsilon)
        return self.network(x, t, drawn if told is None else told[:, None] * drawn), posterior.kl()
