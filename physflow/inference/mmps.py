r"""Moment matching posterior sampling.

The law of :math:`x_1` given :math:`x_t` is replaced by the Gaussian of the same mean and covariance,

.. math:: x_1 \mid x_t \approx N(D, C), \qquad C = \kappa_t \, \partial_x D,

so that :math:`p(y \mid x_t) \approx N(A D, S_y + A C A^T)`. Without the derivative of C this gives the multipliers

.. math:: (I + \rho' C \rho'^T)\, w = \rho(D), \qquad \text{that is} \quad
          D_y = D + C A^T (S_y + A C A^T)^{-1} (y - A D),

with A linearised at D. The symbols are those of `physflow.inference.guidance`. For Gaussian data and linear A nothing
is approximated with as many iterations as sensors, and the flow ends in the posterior. Of data with separate modes each
is conditioned well, but their weights stay somewhat closer to those of the prior. C is never formed: an iteration of
conjugate gradients takes one product with it, a vector-Jacobian product of the model, and two with the derivative of
A.

References:
    F. Rozet, G. Andry, F. Lanusse, G. Louppe, "Learning diffusion priors from observations by expectation
    maximization", NeurIPS 2024, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from physflow.inference.guidance import CovarianceGuided
from physflow.inference.linearisation import Linearisation

__all__ = ["MMPS"]


@dataclass(frozen=True, eq=False)
class MMPS(CovarianceGuided):
    r"""Guidance with the covariance of the data given the point.

    An evaluation costs one of the model and ``iterations + 1`` of its vector-Jacobian products, each about as much.

    Arguments:
        velocity: See `Guided`, as `observations`, `path` and `t_min`.
        observations: See there.
        iterations: The most iterations of conjugate gradients. Few (1 to 3, as published) stop short of the
            posterior where sensors are precise, and forgive the model more: its derivative need not be symmetric, nor
            positive.
        tolerance: The relative residual at which they stop earlier, in [0, 1).

    Raises:
        ValueError: If `iterations` is not a whole number of at least 1, or the tolerance or `t_min` out of range.
    """

    def product(self, model: Linearisation, direction: Tensor, t: Tensor) -> Tensor:
        """The product with the covariance of the data given the point; see `CovarianceGuided`."""
        return self.covariance(model, direction, t)
