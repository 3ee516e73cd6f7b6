"""Latents: what a flow is told of the sample it makes, how it is learned and how it is drawn."""

from physflow.generative.latents.base import INPUTS, Latent, Posterior
from physflow.generative.latents.conditioned import Conditioned
from physflow.generative.latents.coordinates import Coordinates
from physflow.generative.latents.encoders import Components, Encoded
from physflow.generative.latents.evidence import latent_log_likelihood
from physflow.generative.latents.normal import NormalLatent
from physflow.generative.latents.priors import (
    ComponentIds,
    Encodings,
    FlowPrior,
    MixturePrior,
    Prior,
    StandardNormal,
    encodings_of,
)

__all__ = [
    "INPUTS",
    "ComponentIds",
    "Components",
    "Conditioned",
    "Coordinates",
    "Encoded",
    "Encodings",
    "FlowPrior",
    "Latent",
    "MixturePrior",
    "NormalLatent",
    "Posterior",
    "Prior",
    "StandardNormal",
    "encodings_of",
    "latent_log_likelihood",
]
