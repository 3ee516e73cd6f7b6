r"""How a latent enters a U-Net at its bottleneck, the features :math:`h` of its coarsest grid.

Published is a sum with one vector for all points,

.. math:: h \leftarrow 0.1\, h + 0.9\, W_2\, \mathrm{SiLU}(W_1 z + b_1) + b_2'

(:math:`b_2'` is 0.9 times the bias of the second layer). All that follows on the way up sees the latent at nine times
the weight of the features, while the fine levels still reach the result past it.

A vector that is the same at every point cannot say where something is. `BottleneckMap` adds one for each point i of the
coarsest grid instead,

.. math:: h_i \leftarrow h_i + W_i z + b_i.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from physflow.generative.networks.embedding import check_latent

__all__ = ["FEATURE_WEIGHT", "LATENT_WEIGHT", "BottleneckMap", "BottleneckSum"]

FEATURE_WEIGHT = 0.1
LATENT_WEIGHT = 0.9


class BottleneckSum(nn.Module):
    """The weighted sum of features and latent of the module's docstring.

    Arguments:
        latent: The width of the latent z, at least 1.
        width: The number of channels of the features.
        hidden: The features between the two layers.

    Raises:
        ValueError: If there is no latent.

    References:
        Guo and Schwing (2025), Variational rectified flow matching, section 4.4 ("bottleneck sum").
    """

    def __init__(self, latent: int, width: int, hidden: int) -> None:
        super().__init__()
        _check(latent, "bottleneck")
        self.latent = latent
        self.layers = nn.Sequential(nn.Linear(latent, hidden), nn.SiLU(), nn.Linear(hidden, width))

    def forward(self, h: Tensor, z: Tensor | None) -> Tensor:
        """The sum, of the shape of the features.

        Arguments:
            h: The features, shape (batch, width, *axes).
            z: The latents, shape (batch, latent).

        Raises:
            ValueError: If z is missing or does not belong to h.
        """
        z = check_latent(z, h.shape[0], self.latent)
        return FEATURE_WEIGHT * h + LATENT_WEIGHT * self.layers(z)[(...,) + (None,) * (h.ndim - 2)]


class BottleneckMap(nn.Module):
    """The sum with a map of the latent of the module's docstring.

    Arguments:
        latent: The width of the latent z, at least 1.
        width: The number of channels of the features.
        axes: The points of the coarsest grid along each axis.

    Raises:
        ValueError: If there is no latent.
    """

    def __init__(self, latent: int, width: int, axes: Sequence[int]) -> None:
        super().__init__()
        _check(latent, "map")
        self.latent, self.shape = latent, (width, *axes)
        self.layers = nn.Linear(latent, math.prod(self.shape))

    def forward(self, h: Tensor, z: Tensor | None) -> Tensor:
        """The sum, of the shape of the features.

        Arguments:
            h: The features, shape (batch, width, *axes).
            z: The latents, shape (batch, latent).

        Raises:
            ValueError: If z is missing or does not belong to h, or the grid is another.
        """
        z = check_latent(z, h.shape[0], self.latent)
        if h.shape[1:] != self.shape:
            raise ValueError(
                f"fusion='map' serves the grid that the network was built for, {self.shape[1:]} points at its "
                f"coarsest, got {tuple(h.shape[2:])}; give resolution= for this grid, or fusion='adaptive', for any"
            )
        return h + self.layers(z).view_as(h)


def _check(latent: int, fusion: str) -> None:
    if latent < 1:
        raise ValueError(
            f"fusion={fusion!r} needs a latent to fuse, got latent={latent}; "
            "give latent >= 1, or leave fusion='adaptive'"
        )
