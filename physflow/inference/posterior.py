r"""Posteriors over coordinates with a standard normal prior.

A field is made from coordinates, :math:`u = G(z)` with :math:`z \sim N(0, I_d)`: Karhunen-Loeve coefficients of a
random field, or the noise of a trained flow. Observations :math:`y = H(z) + \sigma \eta`,
:math:`\eta \sim N(0, I_m)`, where :math:`H` makes the field, solves the equation and reads the sensors, give

.. math:: \pi(z \mid y) \propto \exp(-\Phi(z))\, N(z; 0, I), \qquad
          \Phi(z) = \tfrac12 \Bigl| \frac{y - H(z)}{\sigma} \Bigr|^2 .

Between a Gaussian :math:`q = N(\bar z, L L^T)`, such as the prior, and the posterior lie the laws

.. math:: \pi_\beta(z) \propto \exp(-E_\beta(z)) = \bigl(e^{-\Phi(z)} N(z; 0, I)\bigr)^\beta\, q(z)^{1 - \beta},
          \qquad \beta \in [0, 1].

References:
    A. M. Stuart, "Inverse problems: a Bayesian perspective", Acta Numerica 19, 2010, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physflow.inference.observations import Observations

__all__ = ["Annealed", "Gaussian", "Posterior", "State"]


@dataclass(frozen=True)
class Gaussian:
    r"""A Gaussian law :math:`N(\bar z, L L^T)` of the coordinates.

    Arguments:
        mean: The mean :math:`\bar z`, shape (d,).
        factor: The factor L of the covariance, shape (d, d).
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def prior(cls, dimension: int) -> Gaussian:
        """N(0, I)."""
        return cls(torch.zeros(dimension, dtype=torch.float64), torch.eye(dimension, dtype=torch.float64))

    def widened(self, scale: float) -> Gaussian:
        """The same law with all standard deviations times a number."""
        return Gaussian(self.mean, scale * self.factor)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws, shape (n, d)."""
        return self.coordinates(torch.randn(n, len(self.mean), dtype=torch.float64, generator=generator))

    def coordinates(self, w: Tensor) -> Tensor:
        r"""The coordinates :math:`z = \bar z + L w` of points w, shape (batch, d)."""
        return self.mean + w @ self.factor.T

    def whitened(self, z: Tensor) -> Tensor:
        r"""The points :math:`w = L^{-1} (z - \bar z)` of coordinates z, shape (batch, d)."""
        return torch.linalg.solve(self.factor, (z - self.mean).T).T

    def refitted(self, z: Tensor) -> Gaussian:
        r"""The Gaussian of draws z, shape (n, d): of their mean, and of their covariance drawn towards this one.

        In the coordinates of this Gaussian the covariance is :math:`(1 - s) S + s \tfrac{\mathrm{tr} S}{d} I`, where
        :math:`s` falls with the number of draws; S alone would be singular for few.

        References:
            Y. Chen, A. Wiesel, Y. Eldar, A. Hero, "Shrinkage algorithms for MMSE covariance estimation", IEEE
            Transactions on Signal Processing 58, 2010, equation 23.
        """
        w = self.whitened(z)
        n, d = w.shape
        mean = w.mean(0)
        if not (w != w[:1]).any():
            # Draws that are all the same know no covariance.
            return Gaussian(self.coordinates(mean), self.factor)
        S = (w - mean).T @ (w - mean) / n
        trace, square = S.trace(), S.square().sum()
        # With one coordinate, or all variances the same, there is nothing to draw it towards: 0 / 0.
        share = ((1 - 2 / d) * square + trace**2) / ((n + 1 - 2 / d) * (square - trace**2 / d))
        # A little remains in any case, against rounding.
        s = float(share.nan_to_num(0.0).clamp(1e-3, 1))
        factor = torch.linalg.cholesky((1 - s) * S + s * trace / d * torch.eye(d, dtype=S.dtype))
        return Gaussian(self.coordinates(mean), self.factor @ factor)


class Posterior:
    """The law of coordinates given observations, with a count of what it took.

    Arguments:
        observations: The observations in the space of the coordinates: their operator is the map H, from coordinates
            (batch, d), float64, to what the sensors would read, (batch, m). Once differentiable, each item by itself.
            An item without a solution is NaN: it gets probability 0.
        dimension: The number d of coordinates.
        block: How many items are evaluated together.

    Attributes:
        forwards: Evaluations of H so far, each counted for its own item.
        adjoints: Vector-Jacobian products of H so far. With an adjoint solve each costs about one evaluation.
    """

    def __init__(self, observations: Observations, dimension: int, block: int = 1024) -> None:
        self.observations, self.dimension, self.block = observations, dimension, block
        self.forwards = self.adjoints = 0

    @torch.no_grad()
    def potential(self, z: Tensor) -> Tensor:
        r"""The potential :math:`\Phi(z)`, shape (batch,); infinite where H is not finite.

        Raises:
            ValueError: If the coordinates or what H returns have another shape.
        """
        self._check(z)
        self.forwards += len(z)
        return torch.cat([z.new_empty(0), *(self._potential(piece) for piece in z.split(self.block) if len(piece))])

    def potential_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""The potential :math:`\Phi(z)`, shape (batch,), and its gradient, (batch, d), 0 where it is infinite."""
        self._check(z)
        self.forwards += len(z)
        self.adjoints += len(z)
        potentials, gradients = [z.new_empty(0)], [z.new_empty(0, self.dimension)]
        for piece in z.split(self.block) if len(z) else ():
            with torch.inference_mode(False), torch.enable_grad():
                leaf = piece.detach().clone().requires_grad_()
                misfit = self._potential(leaf)
                finite = misfit.isfinite()
                # The sum of the finite ones: an infinite one has no gradient to spread.
                (gradient,) = torch.autograd.grad(misfit[finite].sum(), leaf)
            potentials.append(misfit.detach())
            gradients.append(torch.where(finite[:, None] & gradient.isfinite(), gradient, 0.0))
        return torch.cat(potentials), torch.cat(gradients)

    def linearised(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""The residual :math:`r = (y - H(z)) / \sigma` at one point, and the Jacobian of H in units of the noise.

        Arguments:
            z: The point, shape (d,).

        Returns:
            r of shape (m,) and :math:`J = \sigma^{-1} H'(z)` of shape (m, d), by m vector-Jacobian products.
        """
        m = self.observations.size
        self._check(z[None])
        self.forwards += m
        self.adjoints += m
        rows = []
        for cotangents in torch.eye(m, dtype=torch.float64).split(self.block):
            with torch.inference_mode(False), torch.enable_grad():
                leaf = z.detach().expand(len(cotangents), -1).clone().requires_grad_()
                residual = self.observations.residual(leaf)
                (row,) = torch.autograd.grad(residual, leaf, -cotangents)
            rows.append(row)
        return residual.detach()[0], torch.cat(rows)

    def _potential(self, z: Tensor) -> Tensor:
        potential = self.observations.potential(z)
        return torch.where(potential.isfinite(), potential, torch.inf)

    def _check(self, z: Tensor) -> None:
        if z.ndim != 2 or z.shape[1] != self.dimension or z.dtype != torch.float64:
            raise ValueError(
                f"expected coordinates of shape (batch, {self.dimension}) in float64, got {tuple(z.shape)}, {z.dtype}"
            )


@dataclass(frozen=True)
class State:
    r"""Points of a posterior, with what is known there.

    Arguments:
        z: The coordinates, shape (batch, d).
        potential: :math:`\Phi(z)`, shape (batch,).
        gradient: :math:`\nabla \Phi(z)`, shape (batch, d), or None where nobody asked for it.
    """

    z: Tensor
    potential: Tensor
    gradient: Tensor | None = None

    def replaced(self, other: State, which: Tensor) -> State:
        """The states of `other` where `which`, shape (batch,), is true."""
        gradient = None
        if self.gradient is not None and other.gradient is not None:
            gradient = torch.where(which[:, None], other.gradient, self.gradient)
        z = torch.where(which[:, None], other.z, self.z)
        return State(z, torch.where(which, other.potential, self.potential), gradient)

    def taken(self, index: Tensor) -> State:
        """The states of the given numbers."""
        return State(self.z[index], self.potential[index], None if self.gradient is None else self.gradient[index])


@dataclass(frozen=True)
class Annealed:
    r"""The law :math:`\pi_\beta` between a Gaussian and a posterior.

    Arguments:
        posterior: The posterior.
        start: The Gaussian q.
        beta: The inverse temperature :math:`\beta`; 1 is the posterior itself.
    """

    posterior: Posterior
    start: Gaussian
    beta: float = 1.0

    def state(self, z: Tensor, gradient: bool) -> State:
        """What is known at coordinates z, with or without the gradient."""
        if gradient:
            return State(z, *self.posterior.potential_and_gradient(z))
        return State(z, self.posterior.potential(z))

    def difference(self, state: State) -> Tensor:
        r"""What :math:`E_\beta` gains with :math:`\beta`: :math:`E_1 - E_0`, shape (batch,), but for a constant."""
        return state.potential + 0.5 * (state.z.square().sum(1) - self.start.whitened(state.z).square().sum(1))

    def energy(self, state: State) -> Tensor:
        r"""The energy :math:`E_\beta(z)`, shape (batch,), but for a constant."""
        energy = 0.5 * self.start.whitened(state.z).square().sum(1)
        # 0 times an infinite potential is no number.
        return energy + self.beta * self.difference(state) if self.beta else energy

    def slope(self, state: State) -> Tensor:
        r"""The gradient :math:`\nabla E_\beta(z)`, shape (batch, d)."""
        if state.gradient is None:
            raise ValueError("expected a state with its gradient")
        start = torch.linalg.solve(self.start.factor.T, self.start.whitened(state.z).T).T
        return self.beta * (state.gradient + state.z) + (1 - self.beta) * start
