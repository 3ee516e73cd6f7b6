r"""The sampler of Karras et al. for any path and prediction: a grid of noise levels, Heun steps, and churn.

Everything is done on points divided by the data's share, :math:`y = x_t / \alpha_t = x_1 + \varsigma x_0`, whose noise
level is :math:`\varsigma = \sigma_t / \alpha_t`. With the data prediction D the flow there is
:math:`dy / d\varsigma = (y - D) / \varsigma`, nearly straight, and the levels are spaced by

.. math:: \varsigma_i = \Bigl(\varsigma_{\max}^{1/\rho} + \tfrac{i}{n - 1}
          \bigl(\varsigma_{\min}^{1/\rho} - \varsigma_{\max}^{1/\rho}\bigr)\Bigr)^\rho, \quad i < n, \qquad
          \varsigma_n = 0.

Churn first raises the level, from :math:`\varsigma` to :math:`\hat\varsigma = (1 + \gamma) \varsigma` with
:math:`0 \le \gamma \le \sqrt 2 - 1`, by fresh noise, and then steps down from there.

References:
    T. Karras, M. Aittala, T. Aila, S. Laine, "Elucidating the design space of diffusion-based generative models",
    NeurIPS 2022, equation 5 and algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physflow.config.checks import positive
from physflow.generative.integrators import at
from physflow.generative.paths import Path, per_item
from physflow.generative.predictors import Predictor, time_at
from physflow.generative.samplers.base import Noise, Sampler

__all__ = ["EDM"]


@dataclass(frozen=True)
class EDM(Sampler):
    r"""Heun steps along a grid of noise levels, with churn: order 2, two evaluations a step but one in the last.

    Where the path covers fewer levels (a path that starts or ends at another), its own ends are taken.

    Arguments:
        sigma_min: The last level :math:`\varsigma_{\min}` before 0, for data of unit variance.
        sigma_max: The first level :math:`\varsigma_{\max}`.
        rho: The exponent :math:`\rho`; a larger one takes shorter steps near the data.
        churn: The share :math:`\gamma` by which each step first raises the level, at most :math:`\sqrt 2 - 1`; the
            paper's :math:`S_{churn}` over the number of steps. 0 draws no random numbers.
        churn_min: The lowest level with churn.
        churn_max: The highest level with churn.
        churn_spread: The standard deviation of the fresh noise.

    Raises:
        ValueError: If a number is out of range.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_spread: float = 1.0

    def __post_init__(self) -> None:
        positive(sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho, churn_spread=self.churn_spread)
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"expected sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")
        if not 0 <= self.churn <= math.sqrt(2) - 1:
            raise ValueError(
                f"churn, by which a step raises the noise, must lie in [0, 0.414], got {self.churn}; for the paper's "
                "S_churn give S_churn / steps"
            )

    def times(self, path: Path, steps: int) -> Sequence[float]:
        """The times at which the path has these noise levels, then 1."""
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        levels = (high + ramp * (low - high)) ** self.rho
        times: list[float] = time_at(path, torch.ones_like(levels), levels).tolist()
        # Levels beyond the path's own last one would be steps of no length.
        return [t for t in dict.fromkeys(times) if t < 1] + [1.0]

    def step(self, model: Predictor, x: Tensor, t: float, t_next: float, noise: Noise, z: Tensor | None) -> Tensor:
        """Churn, then one Heun step; see `Sampler.step`."""
        level, alpha = _level(model.path, t)
        end, alpha_end = _level(model.path, t_next)
        y = x / alpha
        if self.churn > 0 and self.churn_min <= level <= self.churn_max:
            y, level = self._churned(y, level, noise, _level(model.path, 0.0)[0])
        slope = _slope(model, y, level, z)
        reached = y + (end - level) * slope
        if t_next < 1:
            reached = y + (end - level) / 2 * (slope + _slope(model, reached, end, z))
        return alpha_end * reached

    def _churned(self, y: Tensor, level: float, noise: Noise, highest: float) -> tuple[Tensor, float]:
        """The point with fresh noise, and its level, at most the highest of the path."""
        raised = min(level * (1 + self.churn), highest)
        return y + math.sqrt(raised**2 - level**2) * self.churn_spread * noise(y), raised


def _level(path: Path, t: float) -> tuple[float, float]:
    """The noise level of a time, and the data's share."""
    time = torch.tensor([t], dtype=torch.float64)
    alpha, sigma = path.alpha(time).item(), path.sigma(time).item()
    return sigma / alpha if alpha > 0 else math.inf, alpha


def _slope(model: Predictor, y: Tensor, level: float, z: Tensor | None) -> Tensor:
    """The derivative of the flow by the noise level."""
    one = torch.ones(1, dtype=torch.float64)
    time = time_at(model.path, one, level * one)
    x = per_item(model.path.alpha(time).expand(len(y)).to(y.device), y) * y
    return (y - model.data(x, at(time.item(), y), z)) / level
