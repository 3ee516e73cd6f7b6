r"""The posterior of a Gaussian vector given noisy linear observations.

For :math:`u \sim N(\mu, P)` and :math:`y = A u + e`, :math:`e \sim N(0, R)` with R diagonal, the posterior is Gaussian:

.. math:: K = P A^T (A P A^T + R)^{-1}, \qquad E[u \mid y] = \mu + K (y - A \mu), \qquad
          \mathrm{Cov}[u \mid y] = (I - K A) P (I - K A)^T + K R K^T .

This is Joseph's form of the covariance, a sum of two positive semidefinite matrices: it stays one in floating point,
where the shorter :math:`(I - K A) P` does not.

References:
    R. Bucy, P. Joseph, "Filtering for stochastic processes with applications to guidance", 1968.
    C. Rasmussen, C. Williams, "Gaussian processes for machine learning", 2006, section 2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["linear_gaussian_posterior"]


def linear_gaussian_posterior(
    mean: Tensor, covariance: Tensor, A: Tensor, y: Tensor, noise_std: float | Tensor
) -> tuple[Tensor, Tensor]:
    r"""The posterior's mean and covariance.

    Arguments:
        mean: The prior mean :math:`\mu`, shape (n,).
        covariance: The prior covariance P, shape (n, n), symmetric and positive semidefinite.
        A: The matrix of the observations, shape (m, n).
        y: The observed values, shape (m,).
        noise_std: The standard deviations of the noise, the roots of R's diagonal, shape (m,) or one number; positive.

    Returns:
        The mean (n,) and the covariance (n, n), in float64.

    Raises:
        ValueError: If the shapes do not fit each other, or a noise is not positive.
    """
    mean, P, A, y = (torch.as_tensor(a, dtype=torch.float64) for a in (mean, covariance, A, y))
    n, m = mean.numel(), y.numel()
    shapes = tuple(map(tuple, (mean.shape, P.shape, A.shape, y.shape)))
    if shapes != ((n,), (n, n), (m, n), (m,)):
        raise ValueError(
            "expected mean (n,), covariance (n, n), A (m, n) and y (m,), got "
            f"{', '.join(map(str, shapes[:-1]))} and {shapes[-1]}"
        )
    std = torch.as_tensor(noise_std, dtype=torch.float64, device=mean.device)
    if std.shape not in ((), (m,)) or not (std > 0).all():
        raise ValueError(f"expected a positive noise_std, one number or of shape ({m},), got {std.tolist()}")
    R = torch.diag(std.square().expand(m))
    root = torch.linalg.cholesky(A @ P @ A.T + R)
    K = torch.cholesky_solve(A @ P, root).T
    rest = torch.eye(n, dtype=torch.float64, device=mean.device) - K @ A
    return mean + K @ (y - A @ mean), rest @ P @ rest.T + K @ R @ K.T
