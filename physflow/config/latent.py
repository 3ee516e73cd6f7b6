"""Settings of a latent: what the network is told beside the state, how it is learned and how it is drawn."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Literal

from physflow.config.checks import at_least, literals, nearest

__all__ = ["EncoderConfig", "LatentConfig"]

_INPUTS = ("x0", "x1", "xt", "t")

_USED = {
    "none": (),
    "posterior": ("dimension", "beta", "inputs", "draw", "fitted", "fitting_steps", "encoder"),
    "vae": (
        *("dimension", "beta", "draw", "fitted", "fitting_steps", "encoder"),
        *("pretraining_steps", "pretraining_beta"),
    ),
    "mixture": ("components", "draw", "fitting_steps"),
    "fields": ("fields", "draw", "fitted", "fitting_steps"),
}
"""The settings that each kind of latent has a use for."""


@dataclass(frozen=True)
class EncoderConfig:
    """The network that reads a latent's inputs: a perceptron for coordinates, convolutions for point values.

    Attributes:
        width: Features that the encoder hands to the latent's head, and hidden width of the perceptron.
        layers: Hidden layers of the perceptron.
        channels: Channels of the convolutions at the finest level.
        multipliers: Channels of each level, in multiples of `channels`.
        blocks: Residual blocks per level.
        depth: Blocks of a transformer of the width, heads and patches of the network (network sit), in place of
            convolutions; 0 is without.
    """

    width: int = 128
    layers: int = 3
    channels: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 1
    depth: int = 0

    def __post_init__(self) -> None:
        levels = len(self.multipliers)
        at_least(0, depth=self.depth)
        at_least(1, width=self.width, layers=self.layers, channels=self.channels, blocks=self.blocks, levels=levels)
        at_least(1, **{f"multipliers[{level}]": m for level, m in enumerate(self.multipliers)})


@dataclass(frozen=True)
class LatentConfig:
    """The latent z of a model.

    Attributes:
        kind: No latent; a posterior trained with the flow (Latent-CFM in one stage, V-RFM); one on the frozen encoder
            of a VAE trained before (Latent-CFM in two stages); the component of a Gaussian mixture (GMM); or the POD
            coordinates of `fields`, over which the flow then does not run.
        dimension: Components of z (posterior, vae).
        beta: Weight of the divergence from N(0, I) in nats, against the mean squared error (posterior, vae).
        inputs: What the posterior reads among x0, x1, xt and t: x1 alone is Latent-CFM, others are V-RFM.
        fields: Fields whose coordinates are the latent, as in permeability or [a,b] (fields).
        components: Components of the mixture (mixture).
        draw: How z is drawn to sample: encodings of training data, N(0, I), or a mixture or flow fitted to the
            encodings; the default is the method's own. Of kind mixture, encodings are the shares of the components
            among the training data, mixture its weights.
        fitted: Components of the mixture that `draw: mixture` fits, or half as many until none of them dies.
        fitting_steps: Steps of every fit of a mixture, or of the flow over z.
        pretraining_steps: Steps of training the VAE (vae).
        pretraining_beta: Weight of its divergence (vae).
        encoder: The network of posterior and VAE.
    """

    kind: Literal["none", "posterior", "vae", "mixture", "fields"] = "none"
    dimension: int = 8
    beta: float = 1e-3
    inputs: tuple[str, ...] = ("x1",)
    fields: tuple[str, ...] = ()
    components: int = 16
    draw: Literal["default", "encodings", "normal", "mixture", "flow"] = "default"
    fitted: int = 16
    fitting_steps: int = 2000
    pretraining_steps: int = 1000
    pretraining_beta: float = 1e-3
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        literals(self)
        for setting in fields(self):
            value = getattr(self, setting.name)
            default = EncoderConfig() if setting.default is MISSING else setting.default
            if setting.name not in ("kind", *_USED[self.kind]) and value != default:
                raise ValueError(
                    f"a latent of kind={self.kind!r} has no use for {setting.name}={value!r}; kinds that have: "
                    f"{', '.join(kind for kind, used in _USED.items() if setting.name in used)}"
                )
        at_least(1, dimension=self.dimension, components=self.components, fitted=self.fitted)
        at_least(1, fitting_steps=self.fitting_steps, pretraining_steps=self.pretraining_steps)
        for name in ("beta", "pretraining_beta"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)!r}")
        for name in self.inputs:
            if name not in _INPUTS:
                raise ValueError(f"unknown input {name!r} of a posterior; {nearest(name, _INPUTS)}")
        if self.kind == "posterior" and not self.inputs:
            raise ValueError("a posterior must read something: give inputs among x0, x1, xt, t")
        if self.kind == "posterior" and self.inputs != ("x1",) and self.draw not in ("default", "normal"):
            raise ValueError(
                f"draw={self.draw!r} needs encodings of data samples alone, but the posterior reads "
                f"{', '.join(self.inputs)}: use draw='normal', or inputs=[x1]"
            )
        if len(set(self.inputs)) < len(self.inputs) or len(set(self.fields)) < len(self.fields):
            raise ValueError(f"expected inputs and fields once each, got {list(self.inputs)} and {list(self.fields)}")
        if self.kind == "mixture" and self.draw not in ("default", "encodings", "mixture"):
            raise ValueError(
                "the components of a mixture are drawn with the shares of the training samples (encodings) or with the "
                f"mixture's weights (mixture), not by draw={self.draw!r}"
            )
        if self.kind == "fields" and not self.fields:
            raise ValueError("kind='fields' takes the coordinates of some fields: name them in latent.fields")

    @property
    def drawn(self) -> Literal["encodings", "normal", "mixture", "flow"]:
        """How z is drawn, the method's own way filled in."""
        if self.draw != "default":
            return self.draw
        return "normal" if self.kind == "fields" or self.inputs != ("x1",) else "encodings"
