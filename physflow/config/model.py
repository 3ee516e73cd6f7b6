"""Settings of a model: what it sees of the fields, and its network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from physflow.config.checks import at_least, fraction, literals
from physflow.config.latent import LatentConfig

__all__ = ["MLPConfig", "ModelConfig", "UNetConfig"]


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

    def __post_init__(self) -> None:
        levels = len(self.multipliers)
        at_least(1, channels=self.channels, blocks=self.blocks, heads=self.heads, levels=levels)
        literals(self)
        fraction(dropout=self.dropout)
        at_least(1, **{f"multipliers[{level}]": m for level, m in enumerate(self.multipliers)})


@dataclass(frozen=True)
class ModelConfig:
    """What a model sees of the fields, and the network that learns their velocity.

    Attributes:
        space: Whitened POD coordinates of each field, or standardised point values.
        log: Fields that enter as their logarithm, as in permeability or [a,b].
        rank: POD coordinates kept of each field; null takes as many as hold `energy`.
        energy: Fraction of the variance that the POD keeps.
        network: The residual perceptron (space pod) or the U-Net (space pixel).
        precondition: Start from the exact flow to N(0, I) and learn the rest (Karras et al., 2022, section 5); or only
            let the state fade where it is noise (input), as suits prediction=data with a latent that tells much.
        mlp: The residual perceptron.
        unet: The U-Net.
        latent: What the network is told beside the state.
    """

    space: Literal["pod", "pixel"] = "pod"
    log: tuple[str, ...] = ("permeability",)
    rank: int | None = None
    energy: float = 0.9999
    network: Literal["mlp", "unet"] = "mlp"
    precondition: Literal["flow", "input", "none"] = "flow"
    mlp: MLPConfig = field(default_factory=MLPConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    latent: LatentConfig = field(default_factory=LatentConfig)

    def __post_init__(self) -> None:
        literals(self)
        if (self.space == "pod") != (self.network == "mlp"):
            raise ValueError(
                f"space={self.space!r} does not go with network={self.network!r}: "
                "the mlp reads POD coordinates (space='pod'), the unet point values (space='pixel')"
            )
        if self.rank is not None:
            at_least(1, rank=self.rank)
        if not 0 < self.energy <= 1:
            raise ValueError(f"energy must lie in (0, 1], got {self.energy}")
        if self.latent.kind == "fields" and self.space != "pod":
            raise ValueError(
                "a latent of kind='fields' holds the POD coordinates of the fields: it needs space='pod', "
                f"got space={self.space!r}"
            )
