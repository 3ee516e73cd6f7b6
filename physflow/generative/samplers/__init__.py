"""Samplers of diffusions and flows, with and without noise: one family a file."""

from physflow.generative.samplers.base import Noise, Sampler, normals, simulate
from physflow.generative.samplers.ddim import DDIM
from physflow.generative.samplers.edm import EDM
from physflow.generative.samplers.ode import ProbabilityFlow
from physflow.generative.samplers.predictor_corrector import PredictorCorrector
from physflow.generative.samplers.sde import EulerMaruyama, StochasticHeun

__all__ = [
    "DDIM",
    "EDM",
    "EulerMaruyama",
    "Noise",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Sampler",
    "StochasticHeun",
    "normals",
    "simulate",
]
