"""Inference: corrections of sampled fields, and posteriors given observations.

=========================================================  ============================================================
you have                                                   take
=========================================================  ============================================================
sensors, and an equation with a solver                     `physflow.condition`
sensors, and no solver                                     `physflow.condition` in mode ``"joint"``: `MMPS`, moment
                                                           matching posterior sampling
samples that must solve the equation                       ``model.sample(correction="complete")``: `Completion`
an equation without a solver                               `NewtonProjection`
a mean or values that are known exactly                    `FixedMean`, `FixedValues`
a likelihood of your own                                   `Posterior` and `sample_posterior`; `run_chains` for longer
a paper to compare with                                    `Replacement`, `DPS` (diffusion posterior sampling),
                                                           `CoCoGen` (physical consistency in sampling): baselines
=========================================================  ============================================================
"""

from physflow.inference.chains import Chains, run_chains
from physflow.inference.corrections import Completion, Correction
from physflow.inference.dps import DPS
from physflow.inference.guidance import CovarianceGuided, Guided, LikelihoodGuided
from physflow.inference.in_loop import Corrected, CorrectedSolver, InModelSpace, Reinterpolated
from physflow.inference.kernels import Hamiltonian, Kernel, PreconditionedCrankNicolson
from physflow.inference.laplace import laplace
from physflow.inference.linear_gaussian import linear_gaussian_posterior
from physflow.inference.linear_solves import LinearSolve
from physflow.inference.mmps import MMPS
from physflow.inference.newton import NewtonProjection, NewtonReport, NotConverged, ScaledFields
from physflow.inference.observations import Observation, Observations, assemble, joined
from physflow.inference.operators import Coarse, Function, Linear, Masked, Operator, Stacked
from physflow.inference.points import Points
from physflow.inference.posterior import Annealed, Gaussian, Posterior, State
from physflow.inference.projections import Affine, Composed, FixedMean, FixedValues, Projection, ZeroMean
from physflow.inference.pseudoinverse import PseudoinverseGuidance
from physflow.inference.replacement import Replacement
from physflow.inference.residual_guidance import CoCoGen, ResidualDescent
from physflow.inference.sampling import Start, sample_posterior
from physflow.inference.smc import Particles, annealed

__all__ = [
    "DPS",
    "MMPS",
    "Affine",
    "Annealed",
    "Chains",
    "CoCoGen",
    "Coarse",
    "Completion",
    "Composed",
    "Corrected",
    "CorrectedSolver",
    "Correction",
    "CovarianceGuided",
    "FixedMean",
    "FixedValues",
    "Function",
    "Gaussian",
    "Guided",
    "Hamiltonian",
    "InModelSpace",
    "Kernel",
    "LikelihoodGuided",
    "Linear",
    "LinearSolve",
    "Masked",
    "NewtonProjection",
    "NewtonReport",
    "NotConverged",
    "Observation",
    "Observations",
    "Operator",
    "Particles",
    "Points",
    "Posterior",
    "PreconditionedCrankNicolson",
    "Projection",
    "PseudoinverseGuidance",
    "Reinterpolated",
    "Replacement",
    "ResidualDescent",
    "ScaledFields",
    "Stacked",
    "Start",
    "State",
    "ZeroMean",
    "annealed",
    "assemble",
    "joined",
    "laplace",
    "linear_gaussian_posterior",
    "run_chains",
    "sample_posterior",
]
