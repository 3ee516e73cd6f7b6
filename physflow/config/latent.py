"""Settings of a latent: what the network is told beside the state, how it is learned and how it is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from physflow.config.checks import at_least, literals, nearest

__all__ = ["EncoderConfig", "LatentConfig"]

_INPUTS = ("x0", "x1", "xt", "t")


@dataclass(frozen=True)
class EncoderConfig:
    """The network that reads a latent's inputs: a perceptron for coordinates, convolutions for point values.

    Attributes:
        width: Features that the encoder hands to the latent's head, and hidden width of the perceptron.
        layers: Hidden layers of the perceptron.
        channels: Channels of the convolutions at the finest level.
        multipliers: Channels of each level, in multiples of `channels`.
        blocks: Residual blocks per level.
    """

    width: int = 128
    layers: int = 3
    channels: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 1

    def __post_init__(self) -> None:
        levels = len(self.multipliers)
        at_least(1, width=self.width, layers=self.layers, channels=self.channels, blocks=self.blocks, levels=levels)
        at_least(1, **{f"multipliers[{level}]": m for level, m in enumerate(self.multipliers)})


@dataclass(frozen=True)
class LatentConfig:
    """The latent z of a model.

    Attributes:
        kind: No latent; a posterior trained with the flow; one on the frozen encoder of a VAE trained before; the
            component of a Gaussian mixture; or the coordinates of `fields`, over which the flow then does not run.
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
        if self.kind == "vae" and self.inputs != ("x1",):
            raise ValueError(f"the encoder of a VAE reads x1 alone, got inputs={list(self.inputs)}")
        if len(set(self.inputs)) < len(self.inputs) or len(set(self.fields)) < len(self.fields):
            raise ValueError(f"expected inputs and fields once each, got {list(self.inputs)} and {list(self.fields)}")
        if self.kind == "mixture" and self.draw not in ("default", "encodings", "mixture"):
            raise ValueError(
                "the components of a mixture are drawn with the shares of the training samples (encodings) or with the "
                f"mixture's weights (mixture), not by draw={self.draw!r}"
            )
        if self.kind in ("none", "mixture", "fields") and self.inputs != ("x1",):
            raise ValueError(f"inputs are for kind='posterior', got inputs={list(self.inputs)} with kind={self.kind!r}")
        if self.kind == "none" and self.draw != "default":
            raise ValueError(f"there is no latent to draw: draw={self.draw!r} needs another kind than 'none'")
        if (self.kind == "fields") != bool(self.fields):
            raise ValueError(
                f"kind={self.kind!r} does not go with fields={list(self.fields)}: kind='fields' takes the coordinates "
                "of the fields named there, any other kind names none"
            )

    @property
    def drawn(self) -> Literal["encodings", "normal", "mixture", "flow"]:
        """How z is drawn, the method's own way filled in."""
        if self.draw != "default":
            return self.draw
        return "normal" if self.kind == "fields" or self.inputs != ("x1",) else "encodings"
