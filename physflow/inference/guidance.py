r"""Guidance: the velocity of a posterior from the velocity of a prior.

A flow carries noise to draws of :math:`p(x_1)`, and :math:`x_1` is observed, :math:`y = A(x_1) + e` with
:math:`e \sim N(0, S_y)`. The flow to the posterior :math:`p(x_1 \mid y)` is that of the conditioned data prediction

.. math:: D_y(x, t) = E[x_1 \mid x_t = x, y] = D(x, t) + \kappa_t \nabla_x \log p(y \mid x_t = x), \qquad
          \kappa_t = \frac{b_t r_t}{a_t},

by Bayes' rule for the score and :math:`x = a D + b N`, :math:`\nabla \log p_t = -N / r` (`physflow.generative.Path`);
on the straight line :math:`\kappa = (1 - t)^2 / t`. It holds for a source N(0, I) independent of the data. Likewise

.. math:: \mathrm{Cov}[x_1 \mid x_t = x] = \kappa_t \, \partial_x D(x, t) .

What is not known is :math:`p(y \mid x_t)`. The methods replace :math:`p(x_1 \mid x_t)` by a Gaussian at D, whose
covariance is the point on which they differ. With the residual :math:`\rho(x_1) = S_y^{-1/2} (y - A(x_1))` and its
derivative :math:`\rho'` at D all give

.. math:: D_y = D - \kappa_t\, (\partial_x D)^T \rho'^T w ,

with their own multipliers w. They need one evaluation of the model and its vector-Jacobian products, and work where
autograd is switched off, too.

Both ends. At :math:`t = 0` the point knows nothing of the data, and :math:`\kappa \partial_x D` is infinity times
zero; near it the derivative of a trained network is mostly error, blown up by :math:`\kappa`. Predictions at
:math:`t < t_{\min}` are therefore those at :math:`(x, t_{\min})`, which are off by :math:`O(t_{\min})` and carry
the state for a time :math:`t_{\min}` only. At :math:`t = 1` no noise is left: the velocity is the model's own, as
guidance, in proportion to the noise, vanishes there.

References:
    H. Chung et al., "Diffusion posterior sampling for general noisy inverse problems", ICLR 2023.
    A. Pokle et al., "Training-free linear image inverses via flows", TMLR 2024.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from physflow.config.checks import at_least, fraction
from physflow.generative import LinearPath, Path, Velocity
from physflow.inference.conjugate_gradients import conjugate_gradients
from physflow.inference.linearisation import Linearisation
from physflow.inference.observations import Observations

__all__ = ["CovarianceGuided", "Guided", "LikelihoodGuided"]


@dataclass(frozen=True, eq=False)
class Guided(ABC):
    r"""A velocity, to be integrated like any other, that leads to what is observed.

    Arguments:
        velocity: The prior's velocity v(x, t, z=None).
        observations: What was observed, in the space of x (`Observations.through` brings it there).
        path: The path for which the velocity was made, with a source N(0, I) independent of the data.
        t_min: The time before which predictions are those at `t_min` (see the module's docstring), in (0, 1).

    Raises:
        ValueError: If `t_min` is not in (0, 1).
    """

    velocity: Velocity
    observations: Observations
    path: Path = field(default_factory=LinearPath, kw_only=True)
    t_min: float = field(default=0.02, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.t_min < 1:
            raise ValueError(f"t_min, where predictions start, must lie strictly between 0 and 1, got {self.t_min}")

    @abstractmethod
    def data(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        r"""The conditioned data prediction :math:`E[x_1 \mid x_t = x, y]`.

        Arguments:
            x: Points of the path, shape (batch, ...).
            t: Times in (0, 1), shape (batch,).
            z: The latent, handed to the velocity unchanged.

        Returns:
            The prediction, shape (batch, ...), without a graph.
        """

    def __call__(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The velocity of the flow to the posterior, shape (batch, ...), without a graph; the arguments of `data`."""
        ended = self.path.shares(t)[1] * self.path.score_scale(t) == 0
        if ended.any():
            with torch.no_grad():
                own = self.prior(x, t, z)
            if ended.all():
                return own
            guided = self(x, torch.where(ended, self.t_min, t), z)
            return torch.where(ended.reshape(-1, *(1,) * (x.ndim - 1)), own, guided)
        data = self.data(x, t.clamp_min(self.t_min), z)
        return self.path.convert(data, x.detach(), t, given="data", wanted="velocity")

    def prior(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The prior's velocity; without a latent it is called as velocity(x, t)."""
        return self.velocity(x, t) if z is None else self.velocity(x, t, z)


class LikelihoodGuided(Guided):
    r"""Guidance by the gradient of an approximate likelihood :math:`p(y \mid x_t)`.

    A subclass states the multipliers w.
    """

    @abstractmethod
    def multipliers(self, model: Linearisation, residual: Linearisation, t: Tensor) -> Tensor:
        r"""The multipliers w in :math:`D_y = D - \kappa (\partial_x D)^T \rho'^T w`.

        Arguments:
            model: The data prediction D, linearised at x.
            residual: The residual :math:`\rho`, linearised at D.
            t: Times in (0, 1), shape (batch,).

        Returns:
            The multipliers, shape (batch, m).
        """

    def data(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The conditioned data prediction; see `Guided.data`."""
        with torch.inference_mode(False):
            # Clones, because the graph cannot hold what inference mode made.
            t, z = t.clone(), None if z is None else z.clone()

        def predict(x: Tensor) -> Tensor:
            return self.path.convert(self.prior(x, t, z), x, t, given="velocity", wanted="data")

        model = Linearisation(predict, x)
        residual = Linearisation(self.observations.residual, model.value)
        w = self.multipliers(model, residual, t)
        return model.value - self.covariance(model, residual.pullback(w), t)

    def covariance(self, model: Linearisation, direction: Tensor, t: Tensor) -> Tensor:
        r"""The product :math:`\kappa_t (\partial_x D)^T \delta` of the covariance of :math:`x_1` given :math:`x_t`.

        For the exact D the derivative is symmetric; for any other its transpose is what the gradient of the likelihood
        has.
        """
        return torch.einsum("b,b...->b...", self.kappa(t).to(direction), model.pullback(direction))

    def kappa(self, t: Tensor) -> Tensor:
        r"""The factor :math:`\kappa_t = b_t r_t / a_t`, shape (batch,)."""
        a, b, _, _ = self.path.shares(t)
        return b * self.path.score_scale(t) / a


@dataclass(frozen=True, eq=False)
class CovarianceGuided(LikelihoodGuided):
    r"""Guidance by a Gaussian at D: :math:`(I + \rho' C \rho'^T)\, w = \rho(D)`, solved by conjugate gradients.

    A subclass states the products with the covariance C, which is never formed.

    Arguments:
        velocity: See `Guided`, as `observations`, `path` and `t_min`.
        observations: See there.
        iterations: The most iterations.
        tolerance: The relative residual at which they stop earlier, in [0, 1).

    Raises:
        ValueError: If `iterations` is not a whole number of at least 1, or the tolerance or `t_min` out of range.
    """

    iterations: int = field(default=10, kw_only=True)
    tolerance: float = field(default=1e-6, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, iterations=self.iterations)
        fraction(tolerance=self.tolerance)

    @abstractmethod
    def product(self, model: Linearisation, direction: Tensor, t: Tensor) -> Tensor:
        r"""The product :math:`C \delta` for a direction of the shape (batch, ...) of x."""

    def multipliers(self, model: Linearisation, residual: Linearisation, t: Tensor) -> Tensor:
        """The solution of the system; see `LikelihoodGuided`."""

        def apply(w: Tensor) -> Tensor:
            return w + residual.pushforward(self.product(model, residual.pullback(w), t))

        with torch.no_grad():
            return conjugate_gradients(apply, residual.value, self.iterations, self.tolerance)
