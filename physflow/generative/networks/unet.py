r"""A U-Net over fields on one, two or three axes, in the style of ADM.

Residual blocks (group norm, SiLU, convolution, twice) work on :math:`L` levels of resolution. Level l has
:math:`m_l C` channels on a grid coarsened by :math:`2^l`; strided convolutions lead down, nearest-neighbour
repetition and a convolution lead up, and each block on the way up also reads the output of its partner on the
way down. The embedding of time and latent enters every residual block, either added to the features or as
scale and shift of the second group norm.

The output convolution and the last layer of every block start at zero, so an untrained network is the zero
function.

The boundary lives in the padding of the convolutions: ``"circular"`` for periodic fields makes the network
commute with translations by multiples of the coarsest cell; ``"zeros"`` tells it where the walls are;
``"reflect"`` and ``"replicate"`` continue the field beyond them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from physflow.config import UNetConfig
from physflow.generative.networks.embedding import Conditioning

__all__ = ["UNet"]

Convolution = Callable[..., nn.Module]
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


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
        latent: The width of the latent z; 0 for a network without one.
        dimension: The number of axes of a field: 1, 2 or 3.
        resolution: Points along the first axis of the fields the network is meant for. Only `attention` needs
            it, to find its levels; they stay where they are when the network is called on another grid.

    Raises:
        ValueError: If a setting is impossible, or the settings contradict one another.

    References:
        Dhariwal and Nichol (2021), Diffusion models beat GANs on image synthesis, section 3.
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
        padding: Literal["zeros", "circular", "reflect", "replicate"] = "zeros",
        latent: int = 0,
        dimension: int = 2,
        resolution: int | None = None,
    ) -> None:
        super().__init__()
        # The settings that a configuration shares with the network are checked in one place.
        UNetConfig(channels, tuple(multipliers), blocks, tuple(attention), heads, dropout, modulation, padding)
        if dimension not in CONVOLUTIONS:
            raise ValueError(f"expected fields on 1, 2 or 3 axes, got dimension={dimension}")
        if channels_in < 1 or latent < 0:
            raise ValueError(
                f"expected channels_in >= 1 and latent >= 0, got channels_in={channels_in}, latent={latent}"
            )
        self.channels_in, self.dimension, self.padding = channels_in, dimension, padding
        self.factor = 2 ** (len(multipliers) - 1)
        attentive = _levels_of(attention, resolution, len(multipliers))
        convolution: Convolution = partial(CONVOLUTIONS[dimension], kernel_size=3, padding=1, padding_mode=padding)
        embedding = 4 * channels
        self.conditioning = Conditioning(channels + channels % 2, embedding, latent)

        def stage(width_in: int, width: int, attend: bool) -> _Stage:
            residual = _Residual(convolution, width_in, width, embedding, dropout, modulation)
            return _Stage(residual, _Attention(width, heads) if attend else None)

        widths = [m * channels for m in multipliers]
        width = widths[0]
        self.input = convolution(channels_in, width)
        skips = [width]
        self.down = nn.ModuleList()
        for level, new in enumerate(widths):
            if level > 0:
                self.down.append(_Down(convolution, width))
                skips.append(width)
            for _ in range(blocks):
                self.down.append(stage(width, new, level in attentive))
                width = new
                skips.append(width)
        self.middle = nn.ModuleList([stage(width, width, bool(attentive)), stage(width, width, False)])
        self.up = nn.ModuleList()
        for level, new in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(stage(width + skips.pop(), new, level in attentive))
                width = new
            if level > 0:
                self.up.append(_Up(convolution, width))
        self.norm = _group_norm(width)
        self.output = _zero(convolution(width, channels_in))

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
        e = silu(self.conditioning(x, t, z))
        h = self.input(x)
        skips = [h]
        for part in self.down:
            h = part(h, e)
            skips.append(h)
        for part in self.middle:
            h = part(h, e)
        for part in self.up:
            h = part(h if isinstance(part, _Up) else torch.cat([h, skips.pop()], dim=1), e)
        return self.output(silu(self.norm(h)))

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 + self.dimension or x.shape[1] != self.channels_in:
            axes = ", ".join(f"n{i + 1}" for i in range(self.dimension))
            raise ValueError(f"expected fields of shape (batch, {self.channels_in}, {axes}), got {tuple(x.shape)}")
        # Reflection continues a field by its second point, so the coarsest level must have one.
        least = self.factor * (2 if self.padding == "reflect" else 1)
        for axis, n in enumerate(x.shape[2:]):
            if n % self.factor or n < least:
                below = n // self.factor * self.factor
                sizes = [s for s in (below, below + self.factor) if s >= least and s != n] or [least]
                raise ValueError(
                    f"expected sizes of at least {least} and divisible by {self.factor}, got {n} points "
                    f"along axis {axis} of {tuple(x.shape[2:])}; {' or '.join(map(str, sizes))} would work, "
                    "and so would fewer multipliers"
                )


def _levels_of(attention: Sequence[int], resolution: int | None, levels: int) -> set[int]:
    """The levels whose grids have the resolutions named in `attention`."""
    if not attention:
        return set()
    if resolution is None:
        raise ValueError(
            f"attention at the resolutions {tuple(attention)} needs to know that of the fields; "
            "give resolution=, their points along the first axis"
        )
    found = {resolution // 2**level: level for level in range(levels)}
    unknown = [n for n in attention if n not in found]
    if unknown:
        raise ValueError(
            f"no level has the attention resolution {', '.join(map(str, unknown))}; "
            f"fields of {resolution} points have levels of {', '.join(map(str, found))}"
        )
    return {found[n] for n in attention}


def _group_norm(channels: int) -> nn.GroupNorm:
    """Up to 32 groups, of four channels or more where there are so many.

    The norm of a lone channel would forget its amplitude.
    """
    most = min(32, max(1, channels // 4))
    return nn.GroupNorm(next(g for g in range(most, 0, -1) if channels % g == 0), channels)


def _zero(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class _Residual(nn.Module):
    """Norm, SiLU, convolution; the embedding; norm, SiLU, dropout, convolution; plus the input."""

    def __init__(
        self,
        convolution: Convolution,
        width_in: int,
        width: int,
        embedding: int,
        dropout: float,
        modulation: str,
    ) -> None:
        super().__init__()
        self.adaptive = modulation == "adaptive"
        self.norm1, self.conv1 = _group_norm(width_in), convolution(width_in, width)
        self.modulation = nn.Linear(embedding, 2 * width if self.adaptive else width)
        self.norm2, self.dropout = _group_norm(width), nn.Dropout(dropout)
        self.conv2 = _zero(convolution(width, width))
        same = width_in == width
        # A point-wise convolution pads nothing, whatever the mode.
        self.skip = (
            nn.Identity() if same else convolution(width_in, width, kernel_size=1, padding=0, padding_mode="zeros")
        )

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        m = self.modulation(e)[(...,) + (None,) * (x.ndim - 2)]
        if self.adaptive:
            scale, shift = m.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + m)
        return self.skip(x) + self.conv2(self.dropout(silu(h)))


class _Attention(nn.Module):
    """Self-attention over all points of a field, plus the input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"expected a width divisible by the heads of the attention, got {width} channels and {heads} heads"
            )
        self.heads = heads
        self.norm = _group_norm(width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.output = _zero(nn.Conv1d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        # (batch, width, points) to three of (batch, heads, points, width / heads).
        parts = self.qkv(self.norm(x).flatten(2)).chunk(3, dim=1)
        q, k, v = (part.unflatten(1, (self.heads, -1)).transpose(2, 3) for part in parts)
        h = scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)
        return x + self.output(h).view_as(x)


class _Stage(nn.Module):
    """A residual block and, at some levels, attention after it."""

    def __init__(self, residual: _Residual, attention: _Attention | None) -> None:
        super().__init__()
        self.residual, self.attention = residual, attention

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        h = self.residual(h, e)
        return h if self.attention is None else self.attention(h)


class _Down(nn.Module):
    """Half the resolution, by a strided convolution."""

    def __init__(self, convolution: Convolution, width: int) -> None:
        super().__init__()
        self.conv = convolution(width, width, stride=2)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        return self.conv(h)


class _Up(nn.Module):
    """Twice the resolution, by repetition and a convolution."""

    def __init__(self, convolution: Convolution, width: int) -> None:
        super().__init__()
        self.conv = convolution(width, width)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        return self.conv(interpolate(h, scale_factor=2.0, mode="nearest"))
