r"""Direct regression from a latent: the anchor of every model that is told what determines its sample.

.. math:: L(\theta) = E\, \tfrac{1}{d} \lVert f_\theta(0, 0, z) - y \rVert^2, \qquad x_1 = (z, y),

with the network of a flow, whose state and time stay at zero. The minimiser is :math:`E[y \mid z]`, one value a latent:
where z leaves something open, it gives no distribution but a mean. Where z determines y, it is what a conditional flow
can at best become, at a single evaluation; a flow that does not beat it has gained nothing from being one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from physflow.generative.latents.base import Latent
from physflow.generative.objectives import Objective
from physflow.generative.paths import Velocity
from physflow.generative.sources import Source

__all__ = ["Origin", "Regression"]


@dataclass(frozen=True)
class Origin(Source):
    """The source that is the point zero."""

    def sample(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Zeros; no random number is used. See `Source.sample`."""
        return torch.zeros(tuple(shape), dtype=dtype, device=device)


@dataclass(frozen=True)
class Regression(Objective):
    """The mean squared error of a network that is told the latent alone.

    Arguments:
        latent: A latent without randomness; the network is `Conditioned(network, latent)`.

    Raises:
        ValueError: If the latent is stochastic: its posterior would be told what is to be predicted.
    """

    latent: Latent
    source: Source = Origin()

    def __post_init__(self) -> None:
        if self.latent.stochastic:
            raise ValueError("regression needs a latent that is given, not a posterior that is told the answer")

    def loss(
        self,
        network: Callable[..., Any],
        x1: Tensor,
        generator: torch.Generator,
        average: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """The mean squared error over all elements; see `Objective.loss`.

        Raises:
            TypeError: If `x1` does not hold floating-point numbers.
            ValueError: If the batch is empty, or the network returns a wrong shape.
        """
        if not x1.is_floating_point():
            raise TypeError(f"expected data of a floating-point type, got {x1.dtype}")
        if x1.numel() == 0:
            raise ValueError(f"the mean over an empty batch is undefined; got data of shape {tuple(x1.shape)}")
        x1 = x1.to(torch.promote_types(x1.dtype, torch.float32))
        y = self.latent.rest(x1)
        zero = torch.zeros_like(y)
        predicted, _ = network(zero, zero.new_zeros(len(y)), None, zero, x1, None)
        if predicted.shape != y.shape:
            raise ValueError(f"expected the network to keep the shape {tuple(y.shape)}, got {tuple(predicted.shape)}")
        return (predicted - y).square().mean()

    def velocity(self, network: Callable[..., Tensor]) -> Velocity:
        """The constant velocity that carries zero to the prediction, exactly in one step of any solver."""

        def velocity(x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
            return network(torch.zeros_like(x), torch.zeros_like(t), z)

        return velocity
