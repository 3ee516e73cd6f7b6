r"""Residual blocks of convolutions on the full grid: a small network without levels, for small images and fields.

The field and the time are encoded apart, joined as channels, and decoded together,

.. math:: v(x, t, z) = D \bigl( E(x), e(t), \ell(\gamma(z)) \bigr),

with E and D each a convolution, B residual blocks and a convolution; the embeddings of the time and of the sinusoids of
the components of z are the same at every point. Convolutions reach :math:`4 B + 3` points to each side; what lies
beyond is seen by the group norms alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physflow.config import ResNetConfig
from physflow.generative.networks.blocks import Convolution, Padding, Residual, convolution_on, zero
from physflow.generative.networks.embedding import Conditioning, Sinusoids, check_latent

__all__ = ["ResNet"]

_SINUSOIDS = 64
"""The features of the time, and of each component of a latent."""


class ResNet(nn.Module):
    r"""A convolutional network without levels: called as ``network(x, t, z=None)``.

    Arguments:
        channels_in: The number of channels of a field, read and written.
        channels: The hidden channels.
        blocks: The residual blocks B of the encoder, and of the decoder.
        padding: ``"zeros"``, ``"circular"``, ``"reflect"`` or ``"replicate"``, in every convolution.
        latent: The width of the latent z; 0 for a network without one.
        dimension: The number of axes of a field: 1, 2 or 3.
        frequency: The last angular frequency of the sinusoids of the time.

    Raises:
        ValueError: If a setting is impossible.

    References:
        Guo and Schwing (2025), Variational rectified flow matching, appendix D.2 (MNIST). The output starts at zero
        here.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int = 64,
        blocks: int = 5,
        padding: Padding = "zeros",
        latent: int = 0,
        dimension: int = 2,
        frequency: float = 1000.0,
    ) -> None:
        super().__init__()
        # The settings that a configuration shares with the network are checked in one place.
        ResNetConfig(channels, blocks, padding, frequency)
        if channels_in < 1 or latent < 0:
            raise ValueError(
                f"expected channels_in >= 1 and latent >= 0, got channels_in={channels_in}, latent={latent}"
            )
        convolution = convolution_on(dimension, padding)
        self.channels_in, self.dimension, self.width = channels_in, dimension, latent
        self.conditioning = Conditioning(_SINUSOIDS, channels, frequency=frequency)
        self.latent: nn.Module | None = None
        if latent:
            # The components of z are of order one: a turn is enough.
            sinusoids = nn.Sequential(nn.Flatten(0), Sinusoids(_SINUSOIDS, 10.0), nn.Unflatten(0, (-1, latent)))
            layers = nn.Linear(latent * _SINUSOIDS, channels), nn.SiLU(), nn.Linear(channels, channels)
            self.latent = nn.Sequential(sinusoids, nn.Flatten(), *layers)
        joined = channels * (3 if latent else 2)
        self.encoder = _chain(convolution, channels_in, channels, blocks, convolution(channels, channels))
        last = zero(convolution(channels, channels_in, kernel_size=1, padding=0, padding_mode="zeros"))
        self.decoder = _chain(convolution, joined, channels, blocks, last)

    def forward(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The network's value at the fields x and times t.

        Arguments:
            x: The fields, shape (batch, channels_in, *axes).
            t: The times, shape (batch,).
            z: The latents, shape (batch, latent); only for a network with latent > 0.

        Returns:
            A tensor of x's shape.

        Raises:
            ValueError: If a shape does not fit.
        """
        if x.ndim != 2 + self.dimension or x.shape[1] != self.channels_in:
            axes = ", ".join(f"n{i + 1}" for i in range(self.dimension))
            raise ValueError(f"expected fields of shape (batch, {self.channels_in}, {axes}), got {tuple(x.shape)}")
        told = [self.conditioning(x, t, z if self.latent is None else None)]
        if self.latent is not None:
            told.append(self.latent(check_latent(z, len(x), self.width)))
        everywhere = [e[(...,) + (None,) * self.dimension].expand(-1, -1, *x.shape[2:]) for e in told]
        return self.decoder(torch.cat([self.encoder(x), *everywhere], dim=1))


def _chain(convolution: Convolution, width_in: int, width: int, blocks: int, last: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        convolution(width_in, width), *(Residual(convolution, width, width) for _ in range(blocks)), last
    )
