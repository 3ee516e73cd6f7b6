"""Flow matching on tensors: paths, sources, couplings, objectives, integrators, networks and training.

Nothing here knows about grids or equations: images and fields share it unchanged. A velocity is any callable
v(x, t, z=None) with x of shape (batch, ...), t of shape (batch,) from 0 (noise) to 1 (data), z a latent.
"""

from physflow.generative import networks
from physflow.generative.batches import BatchSource, BatchStream, TensorBatches
from physflow.generative.couplings import Coupling, ExactOT, Independent
from physflow.generative.integrators import (
    RK4,
    Adaptive,
    Callback,
    Euler,
    Heun,
    Midpoint,
    RightHandSide,
    RungeKutta,
    Solver,
    integrate,
)
from physflow.generative.networks import MLP, Preconditioned, UNet
from physflow.generative.objectives import LAST_TIME, FlowMatching, LateWeight, Objective
from physflow.generative.paths import LinearPath, Path, Quantity, Velocity
from physflow.generative.sources import Gaussian, GaussianProcess, Source
from physflow.generative.training import TrainingDiverged, train

__all__ = [
    "LAST_TIME",
    "MLP",
    "RK4",
    "Adaptive",
    "BatchSource",
    "BatchStream",
    "Callback",
    "Coupling",
    "Euler",
    "ExactOT",
    "FlowMatching",
    "Gaussian",
    "GaussianProcess",
    "Heun",
    "Independent",
    "LateWeight",
    "LinearPath",
    "Midpoint",
    "Objective",
    "Path",
    "Preconditioned",
    "Quantity",
    "RightHandSide",
    "RungeKutta",
    "Solver",
    "Source",
    "TensorBatches",
    "TrainingDiverged",
    "UNet",
    "Velocity",
    "integrate",
    "networks",
    "train",
]
