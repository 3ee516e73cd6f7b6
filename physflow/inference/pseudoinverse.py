r"""Pseudoinverse guidance for flows: the covariance of white data.

The law of :math:`x_1` given :math:`x_t` is replaced by a Gaussian at D with the covariance that data N(0, I) have,

.. math:: x_1 \mid x_t \approx N(D, r_t^2 I), \qquad r_t^2 = \frac{b_t r'_t}{a_t^2 + b_t r'_t}
          = \frac{(1 - t)^2}{t^2 + (1 - t)^2} \text{ on the straight line}

(:math:`r'` the scale of the score), which gives the multipliers

.. math:: (I + r_t^2 \rho' \rho'^T)\, w = \rho(D), \qquad \text{that is} \quad
          D_y = D + \kappa_t (\partial_x D)^T A^T (S_y + r_t^2 A A^T)^{-1} (y - A D) .

The symbols are those of `physflow.inference.guidance`. Data that are white in the space of x lose nothing; others the
more, the farther their covariance is from I.

References:
    J. Song et al., "Pseudoinverse-guided diffusion models for inverse problems", ICLR 2023.
    A. Pokle et al., "Training-free linear image inverses via flows", TMLR 2024 (OT-ODE).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from physflow.inference.guidance import CovarianceGuided
from physflow.inference.linearisation import Linearisation

__all__ = ["PseudoinverseGuidance"]


@dataclass(frozen=True, eq=False)
class PseudoinverseGuidance(CovarianceGuided):
    r"""Guidance with the covariance that white data would have.

    An evaluation costs one of the model and one vector-Jacobian product. The system is solved by conjugate gradients
    with A alone: where :math:`A A^T` and the noise are multiples of the identity (a mask, sensors at grid points) one
    iteration is exact. A nonlinear A is linearised at D.

    Arguments:
        velocity: See `Guided`, as `observations`, `path` and `t_min`.
        observations: See there.
        iterations: The most iterations; as many as there are sensors, at most, are of use.
        tolerance: The relative residual at which they stop, in [0, 1).

    Raises:
        ValueError: If `iterations` is not a whole number of at least 1, or the tolerance or `t_min` out of range.
    """

    iterations: int = field(default=100, kw_only=True)

    def product(self, model: Linearisation, direction: Tensor, t: Tensor) -> Tensor:
        """The product with the covariance that white data would have; see `CovarianceGuided`."""
        a, b, _, _ = self.path.shares(t)
        noise = b * self.path.score_scale(t)
        return torch.einsum("b,b...->b...", (noise / (a**2 + noise)).to(direction), direction)
