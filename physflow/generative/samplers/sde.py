r"""The generating stochastic differential equation, and schemes for it.

For any :math:`g_t \ge 0` the process

.. math:: dx = a(x, t)\, dt + g_t\, dw, \qquad a = v + \tfrac12 g_t^2 \nabla \log p_t,

has the marginals :math:`p_t` of the flow :math:`dx = v\, dt`: what the noise spreads, the score draws together. With
the rate of the noising process (`Path.squared_diffusion`) it is that process, run backward. Noise forgets errors that
were made before, and costs steps.

On paths that start without data (:math:`\alpha_0 = 0`) the rate of the noising process is infinite at :math:`t = 0`,
and no scheme of fixed steps can follow it. There :math:`g_t^2 = 2 \sigma_t` is taken, unless a rate is given.

The weak order of a scheme is the power of the step at which the error of moments of the samples falls.

References:
    Y. Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021.
    M. Albergo, N. Boffi, E. Vanden-Eijnden, "Stochastic interpolants", 2023, section 2.3.
    N. Ma et al., "SiT: Exploring flow and diffusion-based generative models with scalable interpolant transformers",
    ECCV 2024, section 3.3.
    P. Kloeden, E. Platen, "Numerical solution of stochastic differential equations", 1992, sections 14.1 and 15.1.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from physflow.generative.integrators import at
from physflow.generative.paths import Path, per_item
from physflow.generative.predictors import Predictor
from physflow.generative.samplers.base import Noise, Sampler

__all__ = ["EulerMaruyama", "StochasticHeun"]


@dataclass(frozen=True)
class _Stochastic(Sampler):
    r"""A scheme for the generating equation.

    Arguments:
        rate: The squared diffusion :math:`g_t^2`, a map of times (batch,) to values (batch,) that are not negative;
            None is that of the noising process, or :math:`2 \sigma_t` on paths that start without data.
    """

    rate: Callable[[Tensor], Tensor] | None = None

    def squared(self, path: Path, t: Tensor) -> Tensor:
        """The squared diffusion at the times t, shape (batch,)."""
        if self.rate is None:
            starts_with_data = path.alpha(torch.zeros(1))[0] > 0
            return path.squared_diffusion(t) if starts_with_data else 2 * path.sigma(t)
        squared = self.rate(t)
        if squared.shape != t.shape or not (squared >= 0).all() or squared.isinf().any():
            raise ValueError(
                f"expected rate(t), the squared diffusion, to be finite and not negative, one for each of {len(t)} "
                f"times, got {squared.tolist()}"
            )
        return squared

    def drift(self, model: Predictor, x: Tensor, t: Tensor, z: Tensor | None) -> Tensor:
        """The drift a, shape (batch, ...)."""
        v, score = model.predict(x, model.inside(t), "velocity", "score", z=z)
        return v + per_item(self.squared(model.path, t) / 2, x) * score

    @abstractmethod
    def step(self, model: Predictor, x: Tensor, t: float, t_next: float, noise: Noise, z: Tensor | None) -> Tensor:
        """One step; see `Sampler.step`."""


class EulerMaruyama(_Stochastic):
    r"""The Euler-Maruyama scheme: weak order 1, one evaluation a step.

    .. math:: x_{t + h} = x + h\, a(x, t) + g_t \sqrt{h}\, \xi, \qquad \xi \sim N(0, I).
    """

    def step(self, model: Predictor, x: Tensor, t: float, t_next: float, noise: Noise, z: Tensor | None) -> Tensor:
        """One step; see `Sampler.step`."""
        h, time = t_next - t, at(t, x)
        width = per_item((h * self.squared(model.path, time)).sqrt(), x)
        return x + h * self.drift(model, x, time, z) + width * noise(x)


class StochasticHeun(_Stochastic):
    r"""Heun's scheme with noise: weak order 2 for this equation, whose diffusion depends on t alone.

    .. math:: \hat x = x + h\, a(x, t) + w, \qquad
              x_{t + h} = x + \tfrac{h}{2} \bigl(a(x, t) + a(\hat x, t + h)\bigr) + w, \qquad
              w = \sqrt{\tfrac{h}{2} (g_t^2 + g_{t + h}^2)}\; \xi,

    two evaluations a step. A step that ends at :math:`t = 1`, where the score may not exist, is
    :math:`\hat x` itself, whose error of order :math:`h^2` is made once.
    """

    def step(self, model: Predictor, x: Tensor, t: float, t_next: float, noise: Noise, z: Tensor | None) -> Tensor:
        """One step; see `Sampler.step`."""
        h, time, later = t_next - t, at(t, x), at(t_next, x)
        squared = self.squared(model.path, time) + self.squared(model.path, later)
        w = per_item((h / 2 * squared).sqrt(), x) * noise(x)
        first = self.drift(model, x, time, z)
        end = x + h * first + w
        if math.isclose(t_next, 1.0):
            return end
        return x + h / 2 * (first + self.drift(model, end, later, z)) + w
