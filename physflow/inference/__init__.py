"""Inference: corrections of sampled fields, and posteriors given observations."""

from physflow.inference.chains import Chains, run_chains
from physflow.inference.corrections import Completion, Correction
from physflow.inference.kernels import Hamiltonian, Kernel, PreconditionedCrankNicolson, Tuned
from physflow.inference.laplace import laplace
from physflow.inference.posterior import Annealed, Gaussian, Posterior, State
from physflow.inference.smc import Particles, annealed

__all__ = [
    "Annealed",
    "Chains",
    "Completion",
    "Correction",
    "Gaussian",
    "Hamiltonian",
    "Kernel",
    "Particles",
    "Posterior",
    "PreconditionedCrankNicolson",
    "State",
    "Tuned",
    "annealed",
    "laplace",
    "run_chains",
]
