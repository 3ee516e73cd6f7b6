r"""SiT, a transformer over patches of fields whose layer norms follow time and latent, and an encoder of its kind.

The tokens of the patches (`physflow.generative.networks.transformer`) pass blocks under the embedding
:math:`e(t, z)`; a last adaptive layer norm and a linear map, which starts at zero, make each token a patch of the
result. There is no convolution and no level: every patch sees every other in every block, and the cost grows with the
square of their number.

The encoder is the same trunk, with half the blocks, of whose tokens the mean is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from physflow.config import SiTConfig
from physflow.config.checks import at_least
from physflow.generative.networks.blocks import zero
from physflow.generative.networks.embedding import Conditioning
from physflow.generative.networks.optional_time import OptionalTime
from physflow.generative.networks.transformer import Block, Patches, modulated, pasted

__all__ = ["SiT", "SiTEncoder"]

_SINUSOIDS = 256


class SiT(nn.Module):
    r"""A transformer over patches: called as ``network(x, t, z=None)``.

    Arguments:
        channels_in: The number of channels of a field, read and written.
        resolution: The points along each axis of a field, one, two or three of them, divisible by `patch`.
        width: The width C of a token. SiT-S, B, L and XL have 384, 768, 1024 and 1152,
        depth: blocks in number 12, 12, 24 and 28,
        heads: heads of the attention 6, 12, 16 and 16,
        patch: and patches of 2 points along each axis (S/2 to XL/2).
        expansion: The width inside a block, in multiples of `width`.
        latent: The width of the latent z; 0 for a network without one. It is added to the embedding of time, and so
            reaches every layer norm (V-SiT).
        latent_layers: Linear layers between the latent and the embedding, 1 or 2.
        frequency: The last angular frequency of the sinusoids of the time.
        classes: The number of classes of labelled data; 0 for a network that is told none. One more embedding stands
            for "no class".

    Raises:
        ValueError: If a setting is impossible, or an axis not divisible by the patch.

    References:
        Peebles and Xie (2023), Scalable diffusion models with transformers (DiT, section 3).
        Ma et al. (2024), SiT: exploring flow and diffusion-based generative models with scalable interpolant
        transformers.
        Guo and Schwing (2025), Variational rectified flow matching, appendix D.4 (the latent).
    """

    def __init__(
        self,
        channels_in: int,
        resolution: Sequence[int],
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch: int = 2,
        expansion: int = 4,
        latent: int = 0,
        latent_layers: int = 2,
        frequency: float = 1000.0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        # The settings that a configuration shares with the network are checked in one place.
        SiTConfig(width, depth, heads, patch, expansion, latent_layers, frequency)
        at_least(0, latent=latent, classes=classes)
        at_least(1, channels_in=channels_in)
        self.channels_in, self.resolution, self.patch, self.classes = channels_in, tuple(resolution), patch, classes
        self.conditioning = Conditioning(_SINUSOIDS, width, latent, latent_layers, frequency)
        self.labels = nn.Embedding(classes + 1, width) if classes else None
        if self.labels is not None:
            nn.init.normal_(self.labels.weight, std=0.02)
        self.patches = Patches(channels_in, resolution, patch, width)
        self.blocks = nn.ModuleList(Block(width, heads, expansion) for _ in range(depth))
        self.modulation = zero(nn.Linear(width, 2 * width))
        self.output = zero(nn.Linear(width, channels_in * patch ** len(self.resolution)))

    def forward(self, x: Tensor, t: Tensor, z: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """The network's value at the fields x and times t.

        Arguments:
            x: The fields, shape (batch, channels_in, *resolution).
            t: The times, shape (batch,).
            z: The latents, shape (batch, latent); only for a network with latent > 0.
            y: The classes, whole numbers of shape (batch,), `classes` itself meaning none; for a network with
                classes > 0, of which None means that no item has one.

        Returns:
            A tensor of x's shape.

        Raises:
            ValueError: If a shape does not fit, or classes are given where none are expected.
        """
        h, e = self.patches(x), self.conditioning(x, t, z)
        if (named := self._classes(x, y)) is not None:
            e = e + named
        for block in self.blocks:
            h = block(h, e)
        shift, scale = self.modulation(silu(e)).chunk(2, dim=1)
        return pasted(self.output(modulated(h, scale, shift)), self.channels_in, self.resolution, self.patch)

    def _classes(self, x: Tensor, y: Tensor | None) -> Tensor | None:
        if self.labels is None:
            if y is not None:
                raise ValueError("this network is told no classes; leave y out, or build the network with classes=")
            return None
        if y is None:
            y = torch.full((len(x),), self.classes, device=x.device)
        if y.shape != (len(x),) or y.is_floating_point():
            raise ValueError(
                f"expected one class per item, whole numbers of shape ({len(x)},), got {y.dtype} of {tuple(y.shape)}"
            )
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) <= self.classes:
            raise ValueError(
                f"classes must lie in 0, ..., {self.classes} (the last is none), got {int(y.min())} to {int(y.max())}"
            )
        named: Tensor = self.labels(y)
        return named


class SiTEncoder(nn.Module):
    r"""An encoder of fields by a transformer: called as ``encoder(x)``, or ``encoder(x, t)`` if it reads the time.

    Arguments:
        channels_in: The number of channels of a field; of several fields joined, their sum.
        resolution: The points along each axis of a field, divisible by `patch`.
        width: The width C of a token, and the number of features.
        depth: The number of blocks; half that of the flow's network as published.
        heads: The heads of the attention.
        patch: The points of a patch along each axis.
        expansion: The width inside a block, in multiples of `width`.
        time: Whether it reads the time.

    Attributes:
        width: The number of features.

    Raises:
        ValueError: If a setting is impossible, or an axis not divisible by the patch.

    References:
        Guo and Schwing (2025), Variational rectified flow matching, appendix D.4 (the posterior of V-SiT).
    """

    def __init__(
        self,
        channels_in: int,
        resolution: Sequence[int],
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
        patch: int = 2,
        expansion: int = 4,
        time: bool = False,
    ) -> None:
        super().__init__()
        SiTConfig(width, depth, heads, patch, expansion)
        at_least(1, channels_in=channels_in)
        self.width = width
        self.time = OptionalTime(_SINUSOIDS, width, time)
        # Without a time the blocks still scale, shift and gate: by an embedding that is learned.
        self.still = None if time else nn.Parameter(0.02 * torch.randn(width))
        self.patches = Patches(channels_in, resolution, patch, width)
        self.blocks = nn.ModuleList(Block(width, heads, expansion) for _ in range(depth))
        self.output = nn.LayerNorm(width)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The features of fields, shape (batch, width), and their times (batch,) if it reads them.

        Raises:
            ValueError: If a shape does not fit, or the time is missing or superfluous.
        """
        e = self.time(x, t)
        if self.still is not None:
            e = self.still.expand(len(x), -1)
        h = self.patches(x)
        for block in self.blocks:
            h = block(h, e)
        features: Tensor = self.output(h).mean(dim=1)
        return features
