r"""Annealed sequential Monte Carlo: from a Gaussian to a posterior, step by step.

N particles are drawn from the reference and carried through the laws

.. math:: \pi_k(z) \propto \exp(-E_{\beta_k}(z)), \qquad 0 = \beta_0 < \beta_1 < \dots < \beta_K = 1,

between it and the posterior (`physflow.inference.posterior`). From one to the next each is weighted by
:math:`\exp(-(\beta_{k+1} - \beta_k)(E_1 - E_0))`, the next :math:`\beta` being the
largest at which the weights are worth a given share of the particles, :math:`(\sum_i W_i)^2 / \sum_i W_i^2 = \alpha N`;
then the particles are resampled by their weights and each takes some moves of a Markov kernel that keeps
:math:`\pi_{k+1}`. As N grows the particles have the law of the posterior, whatever the reference and the moves; these
decide what a given N is worth. Moves are made in the coordinates of the Gaussian of the particles themselves.

References:
    P. Del Moral, A. Doucet, A. Jasra, "Sequential Monte Carlo samplers", Journal of the Royal Statistical Society B 68,
    2006, section 3.
    A. Beskos, A. Jasra, E. Muzaffer, A. Stuart, "Sequential Monte Carlo methods for Bayesian elliptic inverse
    problems", Statistics and Computing 25, 2015.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from physflow.inference.kernels import Hamiltonian, Kernel, Tuned
from physflow.inference.posterior import Annealed, Gaussian, Posterior

__all__ = ["Particles", "annealed", "largest_rise", "systematic"]


@dataclass(frozen=True)
class Particles:
    r"""Draws of a posterior, all of one weight, and how they came about.

    Arguments:
        z: The coordinates, shape (particles, d).
        betas: The inverse temperatures :math:`\beta_1, \dots, \beta_K`.
        acceptance: The mean acceptance of the moves at each of them.
        ancestors: How many of the first particles have descendants: few mean that these draws resemble each other.
        log_evidence: The logarithm of :math:`\int \exp(-\Phi(z)) N(z; 0, I)\, dz`; the likelihood's own constant,
            :math:`-\sum_i \log(\sqrt{2 \pi} \sigma_i)`, is not in it. A rough estimate, low by a nat or two for few
            particles and moves, since the moves are fitted to the particles they move; from a reference near one mode
            it knows that mode alone.
    """

    z: Tensor
    betas: tuple[float, ...]
    acceptance: tuple[float, ...]
    ancestors: int
    log_evidence: float


def annealed(
    posterior: Posterior,
    particles: int = 500,
    reference: Gaussian | None = None,
    kernel: Kernel | None = None,
    moves: int = 2,
    last: int = 6,
    share: float = 0.5,
    seed: int = 0,
    progress: bool = False,
) -> Particles:
    """Draw from a posterior by annealing from a Gaussian reference.

    Arguments:
        posterior: The posterior.
        particles: Their number N.
        reference: Where they start: the prior by default, or a Gaussian near the posterior
            (`physflow.inference.laplace`), which takes fewer temperatures.
        kernel: What moves them; `Hamiltonian` with one leap by default.
        moves: Moves of each particle at each temperature.
        last: Moves at the last one, where they are worth most: particles that share an ancestor part there.
        share: The share of the particles that the weights are worth from one temperature to the next.
        seed: The seed.
        progress: Whether to show the moves made and the inverse temperature reached.

    Raises:
        ValueError: If a count is too small, the share not in (0, 1), or no particle has a finite potential.
    """
    if particles < 2 or min(moves, last) < 1:
        raise ValueError(f"expected two particles and one move or more, got {particles} and {min(moves, last)}")
    if not 0 < share < 1:
        raise ValueError(f"the share of the particles must lie between 0 and 1, got {share}")
    start = reference or Gaussian.prior(posterior.dimension)
    kernel = kernel or Hamiltonian()
    law, tuned = Annealed(posterior, start, 0.0), Tuned(kernel, start)
    generator = torch.Generator().manual_seed(seed)
    state = law.state(start.draw(particles, generator), kernel.gradient)
    if not state.potential.isfinite().any():
        raise ValueError("no particle of the reference has a finite potential: is the forward map defined there?")
    # Both Gaussians of the ratio exp(-difference) carry a constant: they differ by the determinant of the factor.
    log_evidence = float(torch.linalg.slogdet(start.factor).logabsdet)
    betas: list[float] = []
    rates: list[float] = []
    line = torch.arange(particles)
    # How many temperatures it takes shows on the way only.
    with tqdm(desc="anneal", unit=" moves", disable=not progress) as bar:
        while law.beta < 1:
            difference = law.difference(state)
            rise = largest_rise(difference, 1 - law.beta, share)
            logs = -rise * difference
            log_evidence += float(logs.logsumexp(0)) - math.log(particles)
            chosen = systematic(logs.softmax(0), generator, particles)
            state, line = state.taken(chosen), line[chosen]
            law = dataclasses.replace(law, beta=1.0 if rise >= 1 - law.beta else law.beta + rise)
            bar.set_postfix_str(f"inverse temperature {law.beta:.2g} of 1", refresh=False)
            tuned.refit(state.z)
            rate, taken = 0.0, last if law.beta == 1 else moves
            for _ in range(taken):
                state, found = tuned.move(law, state, generator)
                rate += found / taken
                bar.update()
            betas.append(law.beta)
            rates.append(rate)
    return Particles(state.z, tuple(betas), tuple(rates), len(line.unique()), log_evidence)


def largest_rise(potential: Tensor, most: float, share: float) -> float:
    """The largest rise of the inverse temperature, up to `most`, at which the weights are worth `share` of all.

    Arguments:
        potential: By how much the energy rises with it, shape (particles,); some must be finite.
        most: The most.
        share: The share, in (0, 1).
    """

    def worth(rise: float) -> float:
        logs = -rise * potential
        return float((2 * logs.logsumexp(0) - (2 * logs).logsumexp(0)).exp()) / len(potential)

    if worth(most) >= share:
        return most
    low, high = 0.0, most
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if worth(middle) >= share else (low, middle)
    # Particles of infinite potential can be more than a share allows: they must leave, by a step that is not zero.
    return low if low > 0 else high


def systematic(weights: Tensor, generator: torch.Generator, n: int) -> Tensor:
    """The numbers of n particles, each chosen as often as its weight says but for rounding, by one uniform number.

    Arguments:
        weights: The weights, of sum 1, shape (particles,).
        generator: Random numbers.
        n: How many are chosen.
    """
    places = (torch.arange(n) + torch.rand((), dtype=torch.float64, generator=generator)) / n
    sums = weights.cumsum(0)
    return torch.searchsorted(sums / sums[-1], places).clamp_max(len(weights) - 1)
