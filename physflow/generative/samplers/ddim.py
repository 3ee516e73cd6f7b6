r"""Steps that are exact while the predictions of data and noise stand still.

With the predictions :math:`D = E[x_1 \mid x_t]` and :math:`N = E[x_0 \mid x_t]`, so that
:math:`x_t = \alpha_t D + \sigma_t N`, a step from t to s > t is

.. math:: x_s = \alpha_s D + \sqrt{\sigma_s^2 - \varsigma^2}\, N + \varsigma\, \xi, \qquad
          \varsigma^2 = \eta^2\, \frac{\sigma_s^2}{\sigma_t^2}
          \Bigl(\sigma_t^2 - \frac{\alpha_t^2}{\alpha_s^2} \sigma_s^2\Bigr).

For :math:`\eta = 0` nothing is random, and as the step falls it is the probability flow: order 1, but with an error
that knows nothing of the schedule's own curvature. On the straight line it is Euler's method. For :math:`\eta = 1` the
step draws from :math:`p(x_s \mid x_t, x_1 = D)` and is that of the original diffusion models.

References:
    J. Song, C. Meng, S. Ermon, "Denoising diffusion implicit models", ICLR 2021, equations 12 and 16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physflow.generative.integrators import at
from physflow.generative.paths import per_item
from physflow.generative.predictors import Predictor
from physflow.generative.samplers.base import Noise, Sampler

__all__ = ["DDIM"]


@dataclass(frozen=True)
class DDIM(Sampler):
    r"""Denoising diffusion implicit steps, one evaluation each.

    Arguments:
        eta: The share :math:`\eta` of noise, in [0, 1].

    Raises:
        ValueError: If `eta` is out of range.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta, the share of noise, must lie in [0, 1], got {self.eta}")

    def step(self, model: Predictor, x: Tensor, t: float, t_next: float, noise: Noise, z: Tensor | None) -> Tensor:
        """One step; see `Sampler.step`."""
        data, own = model.predict(x, model.inside(at(t, x)), "data", "noise", z=z)
        times = torch.tensor([t, t_next], dtype=torch.float64)
        (alpha, alpha_next), (sigma, sigma_next) = model.path.alpha(times), model.path.sigma(times)
        fresh = self.eta**2 * (sigma_next / sigma) ** 2 * (sigma**2 - (alpha / alpha_next * sigma_next) ** 2)
        fresh = fresh.clamp_min(0)
        shares = torch.stack([alpha_next, (sigma_next**2 - fresh).clamp_min(0).sqrt(), fresh.sqrt()])
        a, b, c = (per_item(share.to(x.device).expand(len(x)), x) for share in shares)
        x = a * data + b * own
        return x + c * noise(x) if self.eta > 0 else x
