r"""Draws of a posterior in few solves: many short Markov chains that begin where the posterior is.

Chains forget their start at the pace at which they mix, in one direction of 64 after six trajectories, say, in
another after one. Chains that begin at nearly right draws need few moves, and as each move of each chain is a draw,
nothing is thrown away. They begin

* at Laplace's approximation (``"laplace"``): draws of the Gaussian around one mode, resampled once towards the
  posterior, which takes away those where the approximation fails; or
* at the end of an annealing from the prior (``"prior"``, `physflow.inference.annealed`), which may find other modes.
  How many chains lie in each is what the annealing left there: chains seldom cross.

Annealed particles alone need more solves for the same error: at each temperature many descend from few, and moving
them apart again takes as many moves as chains do. On two Darcy problems of `benchmarks/posterior.py` their spread was
6 % too small after 126,000 solves, that of these chains 2 % after 61,000.

References:
    C. Margossian, M. Hoffman, P. Sountsov, L. Riou-Durand, A. Vehtari, A. Gelman, "Nested R-hat: assessing the
    convergence of Markov chain Monte Carlo when running many short chains", Bayesian Analysis, 2024.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from physflow.config import nearest
from physflow.config.checks import at_least
from physflow.inference.chains import Chains, run_chains
from physflow.inference.kernels import Hamiltonian, Kernel
from physflow.inference.laplace import laplace
from physflow.inference.posterior import Annealed, Gaussian, Posterior
from physflow.inference.smc import annealed, largest_rise, systematic

__all__ = ["Start", "sample_posterior"]

Start = Literal["laplace", "prior"]
"""Where the chains begin."""

_CHOICE = 4
"""Draws of Laplace's approximation for each chain."""


def sample_posterior(
    posterior: Posterior,
    start: Start = "laplace",
    chains: int = 64,
    burn_in: int = 8,
    draws: int = 20,
    kernel: Kernel | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Chains:
    """Draw from a posterior.

    **Good values.** The defaults take 28 trajectories of 64 chains, some 65,000 solves. That the draws can be used is
    for `physflow.metrics.effective_sample_size` to say: a few hundred, in the direction where they are fewest, leave
    errors of 5 % in the spread. Chains this short always have an R-hat above 1.1.

    Arguments:
        posterior: The posterior.
        start: Where the chains begin: around one mode, or everywhere.
        chains: Their number; they move together, so many cost little more than few.
        burn_in: Moves before the first draw.
        draws: Draws kept of each chain, one a move.
        kernel: What moves them; Hamiltonian trajectories of up to 40 leaps by default.
        seed: The seed.
        progress: Whether to show progress bars.

    Returns:
        The draws.

    Raises:
        ValueError: If the start is unknown, a count too small, or there is no start of finite potential.
    """
    if start not in get_args(Start):
        raise ValueError(f"unknown start {start!r}; {nearest(str(start), get_args(Start))}")
    at_least(1, chains=chains, draws=draws)
    if start == "laplace":
        reference = laplace(posterior)
        begin = _improved(posterior, reference, chains, torch.Generator().manual_seed(seed))
    else:
        found = annealed(posterior, 2 * chains, None, Hamiltonian(10), last=2, seed=seed, progress=progress).z
        # Descendants of one ancestor stand side by side.
        begin = found[::2]
        energy = posterior.potential(begin) + 0.5 * begin.square().sum(1)
        # Particles are too much alike for a covariance of their own.
        reference = laplace(posterior, begin[energy.argmin()])
    return run_chains(
        posterior,
        chains,
        draws,
        burn_in,
        reference=reference,
        kernel=kernel or Hamiltonian(40),
        start=begin,
        seed=seed + 1,
        progress=progress,
    )


def _improved(posterior: Posterior, reference: Gaussian, n: int, generator: torch.Generator) -> Tensor:
    """Draws of a reference that lie nearer to the posterior: resampled by weights that are worth half of them."""
    law = Annealed(posterior, reference, 0.0)
    z = reference.draw(_CHOICE * n, generator)
    difference = law.difference(law.state(z, False))
    if not difference.isfinite().any():
        raise ValueError("no draw around the mode has a finite potential: is the forward map defined there?")
    weights = (-largest_rise(difference, 1.0, 0.5) * difference).softmax(0)
    return z[systematic(weights, generator, n)]
