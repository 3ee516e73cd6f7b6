r"""The blocks that convolutional networks over fields are made of, on one, two or three axes.

A residual block reads features :math:`h` and perhaps an embedding :math:`e` of time and latent,

.. math:: h \leftarrow S h + K_2 \ast \mathrm{SiLU} \bigl( \mathrm{GN} ( K_1 \ast \mathrm{SiLU}(\mathrm{GN}(h))
          + A e ) \bigr),

with group norms GN, convolutions :math:`K_1, K_2` and a point-wise map :math:`S` where the width changes (else the
identity). The embedding may instead scale and shift what the second norm returns. :math:`K_2` starts at zero: a new
block is its skip. Strided convolutions halve a grid; repetition of each point and a convolution double it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from physflow.config import UNetConfig

__all__ = [
    "Convolution",
    "Down",
    "Padding",
    "Residual",
    "Up",
    "check_levels",
    "check_sizes",
    "convolution_on",
    "group_norm",
    "zero",
]

Convolution = Callable[..., nn.Module]
Padding = Literal["zeros", "circular", "reflect", "replicate"]
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def convolution_on(dimension: int, padding: Padding) -> Convolution:
    """The convolution over three points per axis that keeps the grid: called as ``convolution(width_in, width)``.

    Arguments:
        dimension: The number of axes of a field: 1, 2 or 3.
        padding: How it sees beyond the walls: ``"zeros"``, ``"circular"``, ``"reflect"`` or ``"replicate"``.

    Raises:
        ValueError: If there is no convolution on so many axes.
    """
    if dimension not in CONVOLUTIONS:
        raise ValueError(f"expected fields on 1, 2 or 3 axes, got dimension={dimension}")
    return partial(CONVOLUTIONS[dimension], kernel_size=3, padding=1, padding_mode=padding)


def check_sizes(sizes: Sequence[int], factor: int, padding: Padding) -> None:
    """Refuse a grid that cannot be halved as often as the levels of a network ask.

    Arguments:
        sizes: The points along each axis.
        factor: The product of all halvings, a power of two.
        padding: The padding of the convolutions.

    Raises:
        ValueError: If an axis is too short or not divisible by `factor`, with the nearest sizes that would do.
    """
    # Reflection continues a field by its second point, so the coarsest level must have one.
    least = factor * (2 if padding == "reflect" else 1)
    for axis, n in enumerate(sizes):
        if n % factor or n < least:
            below = n // factor * factor
            found = [s for s in (below, below + factor) if s >= least and s != n] or [least]
            raise ValueError(
                f"expected sizes of at least {least} and divisible by {factor}, got {n} points "
                f"along axis {axis} of {tuple(sizes)}; {' or '.join(map(str, found))} would work, "
                "and so would fewer multipliers"
            )


def check_levels(
    resolution: Sequence[int], channels: int, multipliers: Sequence[int], blocks: int, padding: Padding
) -> torch.Size:
    """The coarsest grid of a network on a fixed grid, after making sure that its settings are possible.

    Arguments:
        resolution: The points along each axis of the fields.
        channels: The base width.
        multipliers: The width of each level in units of `channels`.
        blocks: Residual blocks per level.
        padding: The padding of the convolutions.

    Raises:
        ValueError: If a size is not positive, the padding unknown, or the grid not divisible.
    """
    # What these networks share with a U-Net is checked in one place.
    UNetConfig(channels, tuple(multipliers), blocks, padding=padding)
    factor = 2 ** (len(multipliers) - 1)
    check_sizes(resolution, factor, padding)
    return torch.Size(n // factor for n in resolution)


def group_norm(channels: int) -> nn.GroupNorm:
    """Up to 32 groups, of four channels or more where there are so many.

    The norm of a lone channel would forget its amplitude.
    """
    most = min(32, max(1, channels // 4))
    return nn.GroupNorm(next(g for g in range(most, 0, -1) if channels % g == 0), channels)


def zero(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Residual(nn.Module):
    """Norm, SiLU, convolution; the embedding; norm, SiLU, dropout, convolution; plus the input.

    Arguments:
        convolution: Makes a convolution, see `convolution_on`.
        width_in: The number of channels read.
        width: The number of channels written.
        embedding: The width of the embedding; 0 for a block that reads none.
        dropout: The probability that training drops a feature.
        modulation: ``"add"`` adds the embedding to the features, ``"adaptive"`` scales and shifts their second norm.
    """

    def __init__(
        self,
        convolution: Convolution,
        width_in: int,
        width: int,
        embedding: int = 0,
        dropout: float = 0.0,
        modulation: str = "add",
    ) -> None:
        super().__init__()
        self.adaptive = modulation == "adaptive"
        self.norm1, self.conv1 = group_norm(width_in), convolution(width_in, width)
        self.modulation = nn.Linear(embedding, 2 * width if self.adaptive else width) if embedding else None
        self.norm2, self.dropout = group_norm(width), nn.Dropout(dropout)
        self.conv2 = zero(convolution(width, width))
        same = width_in == width
        # A point-wise convolution pads nothing, whatever the mode.
        self.skip = (
            nn.Identity() if same else convolution(width_in, width, kernel_size=1, padding=0, padding_mode="zeros")
        )

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        """The features x (batch, width_in, *axes), changed under the embedding e (batch, embedding), if any."""
        h = self.conv1(silu(self.norm1(x)))
        m = None if self.modulation is None else self.modulation(e)[(...,) + (None,) * (x.ndim - 2)]
        if m is None:
            h = self.norm2(h)
        elif self.adaptive:
            scale, shift = m.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + m)
        return self.skip(x) + self.conv2(self.dropout(silu(h)))


class Down(nn.Module):
    """Half the resolution, by a strided convolution; called like a residual block, but reads no embedding."""

    def __init__(self, convolution: Convolution, width: int) -> None:
        super().__init__()
        self.conv = convolution(width, width, stride=2)

    def forward(self, h: Tensor, e: Tensor | None = None) -> Tensor:
        """The features h (batch, width, *axes) on the coarser grid."""
        return self.conv(h)


class Up(nn.Module):
    """Twice the resolution, by repetition and a convolution; called as `Down` is."""

    def __init__(self, convolution: Convolution, width: int) -> None:
        super().__init__()
        self.conv = convolution(width, width)

    def forward(self, h: Tensor, e: Tensor | None = None) -> Tensor:
        """The features h (batch, width, *axes) on the finer grid."""
        return self.conv(interpolate(h, scale_factor=2.0, mode="nearest"))
