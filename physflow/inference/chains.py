r"""Markov chain Monte Carlo: many chains at once, to be judged by what they disagree on.

A burn-in finds the step of the kernel by its acceptance and, in four windows of about equal length, the Gaussian
reference in whose coordinates it moves: each window but the first moves in that of the draws of the one before.
Afterwards neither changes, so that the chains keep the law. They share step and reference, and nothing else.

`physflow.metrics.split_r_hat` and `physflow.metrics.effective_sample_size` say whether the draws can be used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from physflow.inference.kernels import Hamiltonian, Kernel, Tuned
from physflow.inference.posterior import Annealed, Gaussian, Posterior

__all__ = ["Chains", "run_chains"]

_WINDOWS = 4


@dataclass(frozen=True)
class Chains:
    """Draws of Markov chains after their burn-in.

    Arguments:
        z: The coordinates, shape (chains, draws, d).
        acceptance: The mean acceptance after the burn-in.
        step: The step, fixed after the burn-in.
    """

    z: Tensor
    acceptance: float
    step: float

    def spread_out(self, n: int) -> Tensor:
        """A number n of the draws, shape (n, d): of all chains in turn, and of each as far apart as can be.

        Raises:
            ValueError: If there are fewer.
        """
        chains, draws, _ = self.z.shape
        if not 1 <= n <= chains * draws:
            raise ValueError(f"expected one to {chains * draws} draws, of {chains} chains with {draws} each, got {n}")
        each = -(-n // chains)
        # The last draws first: they have forgotten more of where the chain began.
        last = draws - 1 - torch.arange(each) * draws // each
        return self.z[:, last].transpose(0, 1).flatten(0, 1)[:n]


def run_chains(
    posterior: Posterior,
    chains: int = 64,
    draws: int = 100,
    burn_in: int = 100,
    thin: int = 1,
    reference: Gaussian | None = None,
    kernel: Kernel | None = None,
    start: Tensor | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Chains:
    """Draw from a posterior by Markov chains.

    Arguments:
        posterior: The posterior.
        chains: Their number; they move together, so many cost little more than few.
        draws: Draws kept of each.
        burn_in: Moves before, in which step and reference are found.
        thin: Moves from one draw to the next.
        reference: The Gaussian in whose coordinates the burn-in begins: the prior by default, or a Gaussian near the
            posterior (`physflow.inference.laplace`).
        kernel: What moves them; `Hamiltonian` with one leap by default.
        start: Where they start, coordinates of shape (chains, d): draws of the reference by default. Chains that start
            wider apart than the posterior and agree in the end have forgotten where they came from.
        seed: The seed.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a count is too small, or the starts do not fit or have no finite potential.
    """
    if min(chains, draws, thin) < 1 or burn_in < 0:
        raise ValueError(
            f"expected one chain, draw and move or more, got chains={chains}, draws={draws}, thin={thin}, "
            f"burn_in={burn_in}"
        )
    prior, kernel = Gaussian.prior(posterior.dimension), kernel or Hamiltonian()
    reference, generator = reference or prior, torch.Generator().manual_seed(seed)
    if start is None:
        start = reference.draw(chains, generator)
    elif start.shape != (chains, posterior.dimension):
        raise ValueError(f"expected starts of shape {(chains, posterior.dimension)}, got {tuple(start.shape)}")
    law, tuned = Annealed(posterior, prior), Tuned(kernel, reference)
    state = law.state(start.double(), kernel.gradient)
    if lost := int((~state.potential.isfinite()).sum()):
        raise ValueError(
            f"{lost} of {chains} chains start where the potential is not finite, and would never leave: start elsewhere"
        )
    # Rounded up: what is left over must not become a window of one move.
    window, rate = max(1, -(-burn_in // _WINDOWS)), 0.0
    seen: list[Tensor] = []
    kept: list[Tensor] = []
    for move in tqdm(range(burn_in + draws * thin), desc="chains", disable=not progress):
        burning = move < burn_in
        state, found = tuned.move(law, state, generator, adapt=burning)
        if not burning:
            rate += found / (draws * thin)
            if (move - burn_in + 1) % thin == 0:
                kept.append(state.z)
        elif len(seen) + 1 < window:
            seen.append(state.z)
        elif move + 1 < burn_in:
            # The first half of a window still remembers where it started.
            tuned.refit(torch.cat([*seen[window // 2 :], state.z]))
            seen = []
    return Chains(torch.stack(kept, 1), rate, tuned.step)
