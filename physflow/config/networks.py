"""Settings of the networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from physflow.config.checks import at_least, fraction, literals, positive

__all__ = ["MLPConfig", "ResNetConfig", "SiTConfig", "UNetConfig"]


@dataclass(frozen=True)
class MLPConfig:
    """A residual multilayer perceptron over a vector of coordinates.

    Attributes:
        width: Width of the residual stream.
        blocks: Number of residual blocks.
        expansion: Width inside a block, in multiples of `width`.
        fusion: How a latent enters: joined to the state, or added to the embedding of the time.
    """

    width: int = 512
    blocks: int = 4
    expansion: int = 2
    fusion: Literal["concatenate", "adaptive"] = "concatenate"

    def __post_init__(self) -> None:
        literals(self)
        at_least(1, width=self.width, blocks=self.blocks, expansion=self.expansion)


@dataclass(frozen=True)
class UNetConfig:
    """A U-Net in the style of ADM (Dhariwal and Nichol, 2021).

    Attributes:
        channels: Channels at the finest level.
        multipliers: Channels of each level, in multiples of `channels`, as in [1,2,2].
        blocks: Residual blocks per level.
        attention: Resolutions (points along the first axis) with self-attention, as in [16,8].
        heads: Heads of the self-attention.
        dropout: Probability of dropping an activation.
        modulation: How the time enters a block: added, or as scale and shift.
        padding: How a convolution sees beyond the walls.
        fusion: How a latent enters: added to the embedding of the time, summed with the coarsest features, or as a map
            over the coarsest grid, which can say where something is.
        latent_layers: Linear layers from a latent to the embedding of the time, 1 or 2.
        frequency: Last angular frequency of the sinusoids of the time; 10000^(-(m - 1)/m), with m half of `channels`,
            makes those of Tong et al.
    """

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = ()
    heads: int = 4
    dropout: float = 0.0
    modulation: Literal["add", "adaptive"] = "add"
    padding: Literal["zeros", "circular", "reflect", "replicate"] = "zeros"
    fusion: Literal["adaptive", "bottleneck", "map"] = "adaptive"
    latent_layers: int = 1
    frequency: float = 1000.0

    def __post_init__(self) -> None:
        levels = len(self.multipliers)
        _check_embedding(self.latent_layers, self.frequency)
        at_least(1, channels=self.channels, blocks=self.blocks, heads=self.heads, levels=levels)
        literals(self)
        fraction(dropout=self.dropout)
        at_least(1, **{f"multipliers[{level}]": m for level, m in enumerate(self.multipliers)})


@dataclass(frozen=True)
class SiTConfig:
    """A transformer over patches of a field (Ma et al., 2024); the defaults are SiT-S/2.

    Attributes:
        width: Width of a patch's features; 384, 768, 1024 and 1152 are S, B, L and XL.
        depth: Number of blocks; 12, 12, 24 and 28.
        heads: Heads of the self-attention; 6, 12, 16 and 16.
        patch: Points of a patch along each axis.
        expansion: Width inside a block, in multiples of `width`.
        latent_layers: Linear layers from a latent to the embedding of the time, 1 or 2.
        frequency: Last angular frequency of the sinusoids of the time.
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 2
    expansion: int = 4
    latent_layers: int = 2
    frequency: float = 1000.0

    def __post_init__(self) -> None:
        at_least(1, width=self.width, depth=self.depth, heads=self.heads, patch=self.patch, expansion=self.expansion)
        _check_embedding(self.latent_layers, self.frequency)
        if self.width % self.heads:
            raise ValueError(f"width must be divisible by the heads of the attention, {self.heads}, got {self.width}")


@dataclass(frozen=True)
class ResNetConfig:
    """Residual blocks of convolutions on the full grid (Guo and Schwing, 2025, appendix D.2).

    Attributes:
        channels: Hidden channels.
        blocks: Residual blocks before the time (and the latent) enters, and as many after.
        padding: How a convolution sees beyond the walls.
        frequency: Last angular frequency of the sinusoids of the time.
    """

    channels: int = 64
    blocks: int = 5
    padding: Literal["zeros", "circular", "reflect", "replicate"] = "zeros"
    frequency: float = 1000.0

    def __post_init__(self) -> None:
        literals(self)
        at_least(1, channels=self.channels, blocks=self.blocks)
        _check_embedding(1, self.frequency)


def _check_embedding(latent_layers: int, frequency: float) -> None:
    if latent_layers not in (1, 2):
        raise ValueError(f"latent_layers must be 1 or 2, got {latent_layers!r}")
    positive(frequency=frequency)
