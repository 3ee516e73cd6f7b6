r"""Markov kernels that keep a law :math:`\exp(-E(z))`, seen from a Gaussian reference.

In the coordinates w of a reference, :math:`z = \bar z + L w`, the law is :math:`\exp(-\Psi(w))\, N(w; 0, I)` with
:math:`\Psi(w) = E(z) - \tfrac12 |w|^2`. Both kernels leave the Gaussian untouched on their own, so that what is
accepted or rejected is :math:`\Psi` alone: with the prior as reference a finer field needs no smaller steps, and with a
Gaussian near the law, from which :math:`\Psi` is nearly constant, steps may be large. The reference moves the cost, not
the law.

* `PreconditionedCrankNicolson` proposes :math:`w' = \cos(\epsilon)\, w + \sin(\epsilon)\, \xi`,
  :math:`\xi \sim N(0, I)`, and accepts with probability :math:`\min(1, e^{\Psi(w) - \Psi(w')})`.
* `Hamiltonian` draws a momentum :math:`v \sim N(0, I)` and takes l leaps: half a kick
  :math:`v \leftarrow v - \tfrac{\epsilon}{2} \nabla \Psi(w)`, the exact flow of the Gaussian part, a rotation

  .. math:: (w, v) \leftarrow (w \cos \epsilon + v \sin \epsilon,\; v \cos \epsilon - w \sin \epsilon),

  and half a kick; it accepts by the change of :math:`\Psi(w) + \tfrac12 |w|^2 + \tfrac12 |v|^2`. One leap is the
  preconditioned Crank-Nicolson Langevin proposal (pCN-MALA).

References:
    S. Cotter, G. Roberts, A. Stuart, D. White, "MCMC methods for functions: modifying old algorithms to make them
    faster", Statistical Science 28, 2013.
    A. Beskos, F. Pinski, J. Sanz-Serna, A. Stuart, "Hybrid Monte Carlo on Hilbert spaces", Stochastic Processes and
    their Applications 121, 2011.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from physflow.inference.posterior import Annealed, Gaussian, State

__all__ = ["Hamiltonian", "Kernel", "PreconditionedCrankNicolson", "Tuned"]

_LEAST = 0.2
"""The shortest step of a trajectory, over the longest."""


class Kernel(ABC):
    """One move of all chains at once, each by itself.

    Attributes:
        gradient: Whether it needs the gradient of the potential.
        acceptance: The mean acceptance at which it does best.
    """

    gradient: ClassVar[bool]
    acceptance: ClassVar[float]

    @abstractmethod
    def propose(
        self, law: Annealed, reference: Gaussian, state: State, step: float, generator: torch.Generator
    ) -> tuple[State, Tensor]:
        r"""A proposal for each chain, and the logarithm of the ratio by which it is accepted.

        Arguments:
            law: The law.
            reference: The reference.
            state: The state of the chains.
            step: The step :math:`\epsilon`, in (0, pi / 2].
            generator: Random numbers.

        Returns:
            The proposed state and the logarithms, shape (chains,).
        """

    def move(
        self, law: Annealed, reference: Gaussian, state: State, step: float, generator: torch.Generator
    ) -> tuple[State, Tensor]:
        """One move of each chain.

        Arguments:
            law: This and all that follows as for `propose`.
            reference: The reference.
            state: The state.
            step: The step.
            generator: Random numbers.

        Returns:
            The new state, and the probability with which each proposal was accepted, shape (chains,).
        """
        proposed, ratio = self.propose(law, reference, state, step, generator)
        probability = torch.where(ratio.isnan(), 0.0, ratio.clamp_max(0).exp())
        uniform = torch.rand(len(state.z), dtype=torch.float64, generator=generator)
        return state.replaced(proposed, uniform < probability), probability


@dataclass(frozen=True)
class PreconditionedCrankNicolson(Kernel):
    """A random walk without gradients: one evaluation a move."""

    gradient = False
    acceptance = 0.25

    def propose(
        self, law: Annealed, reference: Gaussian, state: State, step: float, generator: torch.Generator
    ) -> tuple[State, Tensor]:
        """The walk; see `Kernel.propose`."""
        w = reference.whitened(state.z)
        xi = torch.randn(w.shape, dtype=torch.float64, generator=generator)
        w_new = math.cos(step) * w + math.sin(step) * xi
        proposed = law.state(reference.coordinates(w_new), self.gradient)
        before, after = (law.energy(s) - 0.5 * x.square().sum(1) for s, x in ((state, w), (proposed, w_new)))
        return proposed, before - after


@dataclass(frozen=True)
class Hamiltonian(Kernel):
    r"""Trajectories by the gradient: an evaluation and an adjoint solve for each leap.

    The step of each chain and move is drawn anew, between a fifth of :math:`\epsilon` and all of it: where the law is
    narrower than elsewhere a chain would otherwise stay for ever.

    Arguments:
        leaps: The most leaps l of a move. Each move takes between one and l of them, the same number for all chains,
            drawn anew: trajectories of one length may return to where they came from.

    Raises:
        ValueError: If there are none.
    """

    leaps: int = 1

    gradient = True
    acceptance = 0.7

    def __post_init__(self) -> None:
        if self.leaps < 1:
            raise ValueError(f"expected at least one leap, got {self.leaps}")

    def propose(
        self, law: Annealed, reference: Gaussian, state: State, step: float, generator: torch.Generator
    ) -> tuple[State, Tensor]:
        """The end of a trajectory; see `Kernel.propose`."""
        w = reference.whitened(state.z)
        v = torch.randn(w.shape, dtype=torch.float64, generator=generator)
        leaps = int(torch.randint(1, self.leaps + 1, (), generator=generator))
        share = torch.rand(len(w), 1, dtype=torch.float64, generator=generator)
        steps = step * (_LEAST + (1 - _LEAST) * share)
        energy = law.energy(state) + 0.5 * v.square().sum(1)
        moved, cos, sin = state, steps.cos(), steps.sin()
        for _ in range(leaps):
            v = v - 0.5 * steps * (law.slope(moved) @ reference.factor - w)
            w, v = cos * w + sin * v, cos * v - sin * w
            moved = law.state(reference.coordinates(w), self.gradient)
            v = v - 0.5 * steps * (law.slope(moved) @ reference.factor - w)
        return moved, energy - law.energy(moved) - 0.5 * v.square().sum(1)


class Tuned:
    r"""A kernel whose step follows its acceptance, by the recursion of Robbins and Monro on the mean of all chains.

    .. math:: \log \epsilon_{n+1} = \log \epsilon_n + n^{-1/2} (a_n - a^*).

    Arguments:
        kernel: The kernel.
        reference: The reference; may be replaced between moves.
        step: The first step.

    References:
        C. Andrieu, J. Thoms, "A tutorial on adaptive MCMC", Statistics and Computing 18, 2008, section 4.2.
    """

    def __init__(self, kernel: Kernel, reference: Gaussian, step: float = 0.3) -> None:
        self.kernel, self.reference, self.step, self.adapted = kernel, reference, step, 0

    def refit(self, z: Tensor) -> None:
        """Take the Gaussian of draws z, shape (n, d), as reference, and let the step move freely again."""
        self.reference, self.adapted = self.reference.refitted(z), 0

    def move(self, law: Annealed, state: State, generator: torch.Generator, adapt: bool = True) -> tuple[State, float]:
        """One move of all chains, and their mean acceptance; the next step follows it where `adapt` says so."""
        state, probability = self.kernel.move(law, self.reference, state, self.step, generator)
        rate = float(probability.mean())
        if adapt:
            self.adapted += 1
            rise = (rate - self.kernel.acceptance) / math.sqrt(self.adapted)
            self.step = min(math.pi / 2, self.step * math.exp(rise))
        return state, rate
