r"""The Gaussian nearest to a posterior's mode: Laplace's approximation by Gauss-Newton.

The mode minimises :math:`\Phi(z) + \tfrac12 |z|^2`. With the Jacobian :math:`J` of the forward map in units of the
noise, :math:`J_{ij} = \sigma_i^{-1} \partial_j H_i`, and the residual :math:`r = (y - H(z)) / \sigma`, a step solves

.. math:: (J^T J + (1 + \mu) I)\, \delta = J^T r - z, \qquad \mu = \lambda\, \mathrm{tr}(J^T J + I) / d,

and is taken if it lowers the function, :math:`\lambda` falling then and rising otherwise. At the mode the covariance is
:math:`(J^T J + I)^{-1}`: exact for a linear forward map.

References:
    K. Madsen, H. B. Nielsen, O. Tingleff, "Methods for non-linear least squares problems", 2nd edition, 2004,
    section 3.2.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from physflow.inference.posterior import Gaussian, Posterior

__all__ = ["laplace"]

_TRIALS = 20
"""How often the damping rises before a descent is given up."""
_MISSED = 1.0
"""The nats that the next step would gain at most at what counts as a mode."""


def laplace(posterior: Posterior, start: Tensor | None = None, steps: int = 30, tolerance: float = 1e-3) -> Gaussian:
    """The Gaussian at the mode that a descent from one start reaches.

    A start for samplers that are right in the limit, not a posterior: of several modes it knows one.

    Arguments:
        posterior: The posterior.
        start: Where the descent starts, shape (d,); 0, the mode of the prior, by default.
        steps: The most steps. Each takes as many evaluations and adjoint solves as there are observations.
        tolerance: It stops where the next step would lower the function by less, a number of nats.

    Returns:
        The Gaussian, from wherever the last step ended.

    Raises:
        ValueError: If the forward map has no finite value at the start.

    Warns:
        RuntimeWarning: If the descent ended elsewhere than at a mode.
    """
    z = torch.zeros(posterior.dimension, dtype=torch.float64) if start is None else start.double()
    damping, identity = 1e-2, torch.eye(posterior.dimension, dtype=torch.float64)
    value = _objective(posterior, z)
    if not value < torch.inf:
        raise ValueError("the forward map is not finite at the start of the descent: start elsewhere")
    for step in range(steps + 1):
        r, J = posterior.linearised(z)
        slope, hessian = J.T @ r - z, J.T @ J + identity
        gain = 0.5 * float(slope @ torch.linalg.solve(hessian, slope))
        if gain < tolerance or step == steps:
            break
        for _ in range(_TRIALS):
            trial = z + torch.linalg.solve(hessian + damping * identity * hessian.diagonal().mean(), slope)
            found = _objective(posterior, trial)
            if found < value:
                break
            damping *= 8
        else:
            break
        z, value, damping = trial, found, damping / 4
    # Less is what the precision of a solver may leave.
    if not gain < _MISSED:
        warnings.warn(
            f"the descent ended {gain:.3g} nats above a mode, by its linearisation: start elsewhere, or allow more "
            f"than {steps} steps",
            RuntimeWarning,
            stacklevel=2,
        )
    # The inverse of the triangular factor of the inverse: L L^T = (J^T J + I)^-1.
    triangle = torch.linalg.cholesky(hessian)
    factor = torch.linalg.solve_triangular(triangle, identity, upper=False).T
    return Gaussian(z, factor.contiguous())


def _objective(posterior: Posterior, z: Tensor) -> Tensor:
    return posterior.potential(z[None])[0] + 0.5 * z.square().sum()
