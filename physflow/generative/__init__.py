"""Flow matching on tensors: paths, sources, couplings, latents, objectives, integrators, networks and training.

Nothing here knows about grids or equations: images and fields share it unchanged. A velocity is any callable
v(x, t, z=None) with x of shape (batch, ...), t of shape (batch,) from 0 (noise) to 1 (data), z a latent.
"""

from physflow.generative import latents, networks, samplers
from physflow.generative.assignment import assignment
from physflow.generative.batches import BatchSource, BatchStream, DrawnBatches, TensorBatches
from physflow.generative.bridges import BridgePath, BridgeWeight
from physflow.generative.consistency import ConsistencyFlowMatching
from physflow.generative.couplings import Coupling, ExactOT, Independent
from physflow.generative.diffusions import VE, VP
from physflow.generative.divergence import Divergence, Exact, Hutchinson
from physflow.generative.entropic import SchroedingerBridge, Sinkhorn
from physflow.generative.exploration import latent_grid, latent_values, many_from_one, traverse
from physflow.generative.generation import generate
from physflow.generative.guidance import (
    ClassifierFree,
    ClassifierGuided,
    LogProbability,
    posterior_log_probability,
)
from physflow.generative.integrators import (
    RK4,
    Adaptive,
    Callback,
    Counted,
    Euler,
    Heun,
    Midpoint,
    RightHandSide,
    RungeKutta,
    Solver,
    SolverDiverged,
    integrate,
)
from physflow.generative.inversion import Inverted, invert, slerp
from physflow.generative.latents import (
    INPUTS,
    ComponentIds,
    Components,
    Conditioned,
    Coordinates,
    Encoded,
    Encodings,
    FlowPrior,
    Latent,
    MixturePrior,
    NormalLatent,
    Posterior,
    Prior,
    StandardNormal,
    encodings_of,
    latent_log_likelihood,
)
from physflow.generative.likelihood import Likelihood, bits_per_dimension, check_solver, log_likelihood
from physflow.generative.maximum_likelihood import MaximumLikelihood
from physflow.generative.mixture import DiagonalMixture
from physflow.generative.networks import (
    MLP,
    BottleneckMap,
    BottleneckSum,
    Conditioning,
    ConvDecoder,
    ConvEncoder,
    Faded,
    MLPDecoder,
    MLPEncoder,
    Preconditioned,
    ResNet,
    Sinusoids,
    SiT,
    SiTEncoder,
    UNet,
)
from physflow.generative.objectives import Evaluation, FlowMatching, LateWeight, Objective
from physflow.generative.paths import LinearPath, Path, Quantity, Velocity
from physflow.generative.physics import PhysicsInformed
from physflow.generative.predictors import LAST_TIME, Predictor, time_at
from physflow.generative.reflow import Pairs, ReFlow, reflow_pairs
from physflow.generative.regression import Origin, Regression
from physflow.generative.samplers import (
    DDIM,
    EDM,
    EulerMaruyama,
    Noise,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
    StochasticHeun,
    normals,
    simulate,
)
from physflow.generative.schedules import CondOT, Cosine
from physflow.generative.score_matching import Counts, ErrorWeight, ScoreMatching
from physflow.generative.seeds import item_generator
from physflow.generative.sources import Drawn, Gaussian, GaussianProcess, Scaled, Source
from physflow.generative.starts import starting_points
from physflow.generative.times import LogitNormal, TimeLaw, Uniform
from physflow.generative.training import TrainingDiverged, train
from physflow.generative.translation import Items, translate
from physflow.generative.vae import ELBO, VAE

__all__ = [
    "DDIM",
    "EDM",
    "ELBO",
    "INPUTS",
    "LAST_TIME",
    "MLP",
    "RK4",
    "VAE",
    "VE",
    "VP",
    "Adaptive",
    "BatchSource",
    "BatchStream",
    "BottleneckMap",
    "BottleneckSum",
    "BridgePath",
    "BridgeWeight",
    "Callback",
    "ClassifierFree",
    "ClassifierGuided",
    "ComponentIds",
    "Components",
    "CondOT",
    "Conditioned",
    "Conditioning",
    "ConsistencyFlowMatching",
    "ConvDecoder",
    "ConvEncoder",
    "Coordinates",
    "Cosine",
    "Counted",
    "Counts",
    "Coupling",
    "DiagonalMixture",
    "Divergence",
    "Drawn",
    "DrawnBatches",
    "Encoded",
    "Encodings",
    "ErrorWeight",
    "Euler",
    "EulerMaruyama",
    "Evaluation",
    "Exact",
    "ExactOT",
    "Faded",
    "FlowMatching",
    "FlowPrior",
    "Gaussian",
    "GaussianProcess",
    "Heun",
    "Hutchinson",
    "Independent",
    "Inverted",
    "Items",
    "LateWeight",
    "Latent",
    "Likelihood",
    "LinearPath",
    "LogProbability",
    "LogitNormal",
    "MLPDecoder",
    "MLPEncoder",
    "MaximumLikelihood",
    "Midpoint",
    "MixturePrior",
    "Noise",
    "NormalLatent",
    "Objective",
    "Origin",
    "Pairs",
    "Path",
    "PhysicsInformed",
    "Posterior",
    "Preconditioned",
    "Predictor",
    "PredictorCorrector",
    "Prior",
    "ProbabilityFlow",
    "Quantity",
    "ReFlow",
    "Regression",
    "ResNet",
    "RightHandSide",
    "RungeKutta",
    "Sampler",
    "Scaled",
    "SchroedingerBridge",
    "ScoreMatching",
    "SiT",
    "SiTEncoder",
    "Sinkhorn",
    "Sinusoids",
    "Solver",
    "SolverDiverged",
    "Source",
    "StandardNormal",
    "StochasticHeun",
    "TensorBatches",
    "TimeLaw",
    "TrainingDiverged",
    "UNet",
    "Uniform",
    "Velocity",
    "assignment",
    "bits_per_dimension",
    "check_solver",
    "encodings_of",
    "generate",
    "integrate",
    "invert",
    "item_generator",
    "latent_grid",
    "latent_log_likelihood",
    "latent_values",
    "latents",
    "log_likelihood",
    "many_from_one",
    "networks",
    "normals",
    "posterior_log_probability",
    "reflow_pairs",
    "samplers",
    "simulate",
    "slerp",
    "starting_points",
    "time_at",
    "train",
    "translate",
    "traverse",
]
