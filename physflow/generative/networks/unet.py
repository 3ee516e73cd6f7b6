r"""A U-Net over fields on one, two or three axes, in the style of ADM.

Residual blocks (group norm, SiLU, convolution, twice) work on :math:`L` levels of resolution. Level l has
:math:`m_l C` channels on a grid coarsened by :math:`2^l`; strided convolutions lead down, nearest-neighbour
repetition and a convolution lead up, and each block on the way up also reads the output of its partner on the
way down. The embedding of time and latent enters every residual block, either added to the features or as
scale and shift of the second group norm. The latent may instead enter at the bottleneck alone (see
`physflow.generative.networks.fusion`), after the middle of the network and before the way up; then the embedding is
that of time.

The output convolution and the last layer of every block start at zero, so an untrained network is the zero
function.

The boundary lives in the padding of the convolutions: ``"circular"`` for periodic fields makes the network
commute with translations by multiples of the coarsest cell; ``"zeros"`` tells it where the walls are;
``"reflect"`` and ``"replicate"`` continue the field beyond them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from physflow.config import UNetConfig
from physflow.generative.networks.blocks import (
    Down,
    Padding,
    Residual,
    Up,
    check_sizes,
    convolution_on,
    group_norm,
    zero,
)
from physflow.generative.networks.embedding import Conditioning
from physflow.generative.networks.fusion import BottleneckMap, BottleneckSum

__all__ = ["UNet"]


class UNet(nn.Module):
    r"""A U-Net, called as ``network(x, t, z=None)``.

    Arguments:
        channels_in: The number of channels of a field, read and written.
        channels: The base width :math:`C`.
        multipliers: The width of each level, :math:`m_1, \dots, m_L`, in units of `channels`; every axis of a
            field must be divisible by :math:`2^{L - 1}`.
        blocks: Residual blocks per level on the way down (one more on the way up).
        attention: The resolutions, in points along the first axis, whose blocks are followed by
            self-attention. Where any is given, the middle of the network has it too, as in ADM; none makes
            the network purely convolutional.
        heads: The number of heads of the attention.
        dropout: The probability that training drops a feature of a residual block.
        modulation: ``"add"`` adds the embedding to the features, ``"adaptive"`` scales and shifts their
            second norm.
        padding: ``"zeros"``, ``"circular"``, ``"reflect"`` or ``"replicate"``, in every convolution.
        fusion: ``"adaptive"`` adds the latent to the embedding of time, ``"bottleneck"`` sums it with the features
            of the coarsest grid, the same at every point, ``"map"`` adds another for each of its points.
        latent: The width of the latent z; 0 for a network without one.
        dimension: The number of axes of a field: 1, 2 or 3.
        resolution: Points along each axis of the fields the network is meant for; one number if they are equal. Only
            two settings need it: `attention`, to find its levels by the first axis, which stay where they are when the
            network is called on another grid; and ``fusion="map"``, which serves this grid alone.
        latent_layers: Linear layers between the latent and the embedding of time, 1 or 2 (``fusion="adaptive"``).
        frequency: The last angular frequency of the sinusoids of the time, see
            `physflow.generative.networks.embedding`.

    Raises:
        ValueError: If a setting is impossible, or the settings contradict one another.

    References:
        Dhariwal and Nichol (2021), Diffusion models beat GANs on image synthesis, section 3.
        Guo and Schwing (2025), Variational rectified flow matching, section 4.4 (the two fusions).
    """

    def __init__(
        self,
        channels_in: int,
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (),
        heads: int = 4,
        dropout: float = 0.0,
        modulation: Literal["add", "adaptive"] = "add",
        padding: Padding = "zeros",
        fusion: Literal["adaptive", "bottleneck", "map"] = "adaptive",
        latent: int = 0,
        dimension: int = 2,
        resolution: int | Sequence[int] | None = None,
        latent_layers: int = 1,
        frequency: float = 1000.0,
    ) -> None:
        super().__init__()
        # The settings that a configuration shares with the network are checked in one place.
        shared = (channels, tuple(multipliers), blocks, tuple(attention), heads, dropout, modulation, padding, fusion)
        UNetConfig(*shared, latent_layers, frequency)
        convolution = convolution_on(dimension, padding)
        if channels_in < 1 or latent < 0:
            raise ValueError(
                f"expected channels_in >= 1 and latent >= 0, got channels_in={channels_in}, latent={latent}"
            )
        self.channels_in, self.dimension, self.padding, self.latent = channels_in, dimension, padding, latent
        self.factor = 2 ** (len(multipliers) - 1)
        sizes = (resolution,) * dimension if isinstance(resolution, int) else resolution
        if sizes is not None:
            check_sizes(sizes, self.factor, padding)
        attentive = _levels_of(attention, sizes, len(multipliers))
        embedding = 4 * channels
        fused = fusion != "adaptive"
        features = channels + channels % 2
        self.conditioning = Conditioning(features, embedding, 0 if fused else latent, latent_layers, frequency)

        def stage(width_in: int, width: int, attend: bool) -> _Stage:
            residual = Residual(convolution, width_in, width, embedding, dropout, modulation)
            return _Stage(residual, _Attention(width, heads) if attend else None)

        widths = [m * channels for m in multipliers]
        width = widths[0]
        self.input = convolution(channels_in, width)
        skips = [width]
        self.down = nn.ModuleList()
        for level, new in enumerate(widths):
            if level > 0:
                self.down.append(Down(convolution, width))
                skips.append(width)
            for _ in range(blocks):
                self.down.append(stage(width, new, level in attentive))
                width = new
                skips.append(width)
        self.middle = nn.ModuleList([stage(width, width, bool(attentive)), stage(width, width, False)])
        self.fusion: BottleneckSum | BottleneckMap | None = None
        if fusion == "bottleneck":
            self.fusion = BottleneckSum(latent, width, embedding)
        elif fusion == "map":
            if sizes is None or len(sizes) != dimension:
                raise ValueError(
                    f"fusion='map' needs the grid of the fields: give resolution=, their points along each of "
                    f"{dimension} axes, got {resolution}"
                )
            self.fusion = BottleneckMap(latent, width, [n // self.factor for n in sizes])
        self.up = nn.ModuleList()
        for level, new in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(stage(width + skips.pop(), new, level in attentive))
                width = new
            if level > 0:
                self.up.append(Up(convolution, width))
        self.norm = group_norm(width)
        self.output = zero(convolution(width, channels_in))
        if dimension == 2 and padding == "zeros":
            # The order that convolutions compute in; paddings that copy the field would turn it back each time.
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The network's value at the fields x and times t.

        Arguments:
            x: The fields, shape (batch, channels_in, *axes).
            t: The times, shape (batch,).
            z: The latents, shape (batch, latent); only for a network with latent > 0.

        Returns:
            A tensor of x's shape.

        Raises:
            ValueError: If a shape does not fit; for a size that cannot be halved often enough, with the
                nearest ones that can.
        """
        self._check(x)
        e = silu(self.conditioning(x, t, z if self.fusion is None else None))
        h = self.input(x)
        skips = [h]
        for part in self.down:
            h = part(h, e)
            skips.append(h)
        for part in self.middle:
            h = part(h, e)
        if self.fusion is not None:
            h = self.fusion(h, z)
        for part in self.up:
            h = part(h if isinstance(part, Up) else torch.cat([h, skips.pop()], dim=1), e)
        return self.output(silu(self.norm(h)))

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 + self.dimension or x.shape[1] != self.channels_in:
            axes = ", ".join(f"n{i + 1}" for i in range(self.dimension))
            raise ValueError(f"expected fields of shape (batch, {self.channels_in}, {axes}), got {tuple(x.shape)}")
        check_sizes(x.shape[2:], self.factor, self.padding)


def _levels_of(attention: Sequence[int], sizes: Sequence[int] | None, levels: int) -> set[int]:
    """The levels whose grids have the resolutions named in `attention`."""
    if not attention:
        return set()
    if sizes is None:
        raise ValueError(
            f"attention at the resolutions {tuple(attention)} needs to know that of the fields; "
            "give resolution=, their points along the first axis"
        )
    found = {sizes[0] // 2**level: level for level in range(levels)}
    unknown = [n for n in attention if n not in found]
    if unknown:
        raise ValueError(
            f"no level has the attention resolution {', '.join(map(str, unknown))}; "
            f"fields of {sizes[0]} points have levels of {', '.join(map(str, found))}: name some of these, or none, in "
            "attention (model.unet.attention)"
        )
    return {found[n] for n in attention}


class _Attention(nn.Module):
    """Self-attention over all points of a field, plus the input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"expected a width divisible by the heads of the attention, got {width} channels and {heads} heads"
            )
        self.heads = heads
        self.norm = group_norm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = zero(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        # The channels of a point go last: only so does PyTorch fuse the attention on a processor.
        parts = self.qkv(self.norm(x).flatten(2).transpose(1, 2)).chunk(3, dim=2)
        # From (batch, points, width) to (batch, heads, points, width / heads).
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        h = self.output(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + h.transpose(1, 2).view_as(x)


class _Stage(nn.Module):
    """A residual block and, at some levels, attention after it."""

    def __init__(self, residual: Residual, attention: _Attention | None) -> None:
        super().__init__()
        self.residual, self.attention = residual, attention

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        h = self.residual(h, e)
        return h if self.attention is None else self.attention(h)
