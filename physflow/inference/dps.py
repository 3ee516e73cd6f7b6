r"""Diffusion posterior sampling, plain and with a widened noise.

Plain, the data prediction stands for the data, :math:`p(y \mid x_t) \approx N(A D, S_y)`, as if nothing were uncertain
before the end: sensors are trusted too early, and the samples spread too little. Widened, the variance of each sensor
grows by what is left of the noise,

.. math:: p(y \mid x_t) \approx N\Bigl(A D,\; S_y + \gamma \frac{b_t r_t}{a_t^2} I\Bigr), \qquad
          \frac{b_t r_t}{a_t^2} = \frac{(1 - t)^2}{t^2} \text{ on the straight line},

which stands for :math:`A C A^T` by one number :math:`\gamma`. The multipliers are

.. math:: w_i = \rho_i(D) \Big/ \Bigl(1 + \frac{\gamma}{\sigma_i^2} \frac{b_t r_t}{a_t^2}\Bigr).

The other symbols are those of `physflow.inference.guidance`. The published DPS scales the plain gradient by a step
size of its own instead of the variance; here :math:`\gamma = 0` is the likelihood as it stands.

References:
    H. Chung et al., "Diffusion posterior sampling for general noisy inverse problems", ICLR 2023, section 3.
    F. Rozet, G. Louppe, "Score-based data assimilation", NeurIPS 2023, section 3.2 (the widened noise).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from physflow.inference.guidance import LikelihoodGuided
from physflow.inference.linearisation import Linearisation

__all__ = ["DPS"]


@dataclass(frozen=True, eq=False)
class DPS(LikelihoodGuided):
    r"""Guidance by the misfit of the data prediction.

    An evaluation costs one of the model and one vector-Jacobian product. With small :math:`\gamma` and precise sensors
    the velocity is stiff: it takes many steps, or `physflow.generative.Adaptive`.

    Arguments:
        velocity: See `Guided`, as `observations`, `path` and `t_min`.
        observations: See there.
        gamma: The factor :math:`\gamma \ge 0`. With 1, a sensor that reads one number of variance one is trusted no
            more than it should be at any time; 0 is plain DPS.

    Raises:
        ValueError: If `gamma` is negative or not finite, or `t_min` out of range.
    """

    gamma: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma < math.inf:
            raise ValueError(
                f"gamma, the factor of the widened noise, must be finite and not negative, got {self.gamma}"
            )

    def multipliers(self, model: Linearisation, residual: Linearisation, t: Tensor) -> Tensor:
        """The residual over the widened variance; see `LikelihoodGuided`."""
        a, b, _, _ = self.path.shares(t)
        widened = (b * self.path.score_scale(t) / a**2).to(residual.value)[:, None]
        variance = self.observations.noise_std.to(residual.value).square()
        return residual.value / (1 + self.gamma * widened / variance)
