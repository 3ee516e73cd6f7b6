"""Settings of a model: what it sees of the fields, and its network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from physflow.config.checks import at_least, literals, positive
from physflow.config.latent import LatentConfig
from physflow.config.networks import MLPConfig, ResNetConfig, SiTConfig, UNetConfig

__all__ = ["ModelConfig"]


@dataclass(frozen=True)
class ModelConfig:
    """What a model sees of the fields, and the network that learns their velocity.

    Attributes:
        space: Whitened POD coordinates of each field, or standardised point values.
        log: Fields that enter as their logarithm, as in permeability or [a,b].
        rank: POD coordinates kept of each field; null takes as many as hold `energy`.
        energy: Fraction of the variance that the POD keeps.
        scale: What point values are multiplied by; null brings them to zero mean and unit variance.
        network: The residual perceptron (space pod); or the U-Net, the transformer or the residual convolutions
            (space pixel).
        precondition: Start from the exact flow to N(0, I) and learn the rest (Karras et al., 2022, section 5); or only
            let the state fade where it is noise (input), as suits prediction=data with a latent that tells much.
        mlp: The residual perceptron.
        unet: The U-Net.
        sit: The transformer.
        resnet: The residual convolutions.
        latent: What the network is told beside the state.
    """

    space: Literal["pod", "pixel"] = "pod"
    log: tuple[str, ...] = ("permeability",)
    rank: int | None = None
    energy: float = 0.9999
    scale: float | None = None
    network: Literal["mlp", "unet", "sit", "resnet"] = "mlp"
    precondition: Literal["flow", "input", "none"] = "flow"
    mlp: MLPConfig = field(default_factory=MLPConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    sit: SiTConfig = field(default_factory=SiTConfig)
    resnet: ResNetConfig = field(default_factory=ResNetConfig)
    latent: LatentConfig = field(default_factory=LatentConfig)

    def __post_init__(self) -> None:
        literals(self)
        if (self.space == "pod") != (self.network == "mlp"):
            raise ValueError(
                f"space={self.space!r} does not go with network={self.network!r}: "
                "the mlp reads POD coordinates (space='pod'), the others point values (space='pixel')"
            )
        if self.rank is not None:
            at_least(1, rank=self.rank)
        if not 0 < self.energy <= 1:
            raise ValueError(f"energy must lie in (0, 1], got {self.energy}")
        if self.scale is not None:
            positive(scale=self.scale)
            if self.space == "pod":
                raise ValueError(
                    f"scale={self.scale:g} multiplies point values (space='pixel'), but POD coordinates are whitened: "
                    "leave scale out"
                )
        if (depth := self.latent.encoder.depth) and (self.network != "sit" or self.latent.kind != "posterior"):
            raise ValueError(
                f"an encoder of depth={depth} is a transformer like the network: it needs network='sit' and a latent "
                f"of kind='posterior', got network={self.network!r} and kind={self.latent.kind!r}"
            )
        if depth and self.latent.encoder.width != self.sit.width:
            raise ValueError(
                f"an encoder of depth={depth} has the width of the network: expected latent.encoder.width="
                f"{self.sit.width}, got {self.latent.encoder.width}"
            )
        if self.latent.kind == "fields" and self.space != "pod":
            raise ValueError(
                "a latent of kind='fields' holds the POD coordinates of the fields: it needs space='pod', "
                f"got space={self.space!r}"
            )
