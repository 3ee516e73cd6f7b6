r"""The maximum mean discrepancy of two sets of points.

A positive definite kernel k maps a law to the mean of :math:`k(\cdot, x)`, a function; the discrepancy of two laws is
the distance of these functions in the space that belongs to k,

.. math:: \operatorname{MMD}^2 = E\, k(x, x') + E\, k(y, y') - 2\, E\, k(x, y),

with all points independent. A Gaussian kernel tells any two laws apart. How well it does so with few points depends on
its bandwidth :math:`\sigma`: details much finer are blurred, and of differences much coarser each point sees nothing.
Kernels of several bandwidths are therefore added,

.. math:: k(x, y) = \sum_\sigma e^{-|x - y|^2 / (2 \sigma^2)}, \qquad
          \sigma \in \{\tfrac12, 1, 2\} \times \operatorname{median}_{i < j} |y_i - y_j|,

the median being that of the reference Y alone (commonly it is that of both sets): samples compared with one reference
then share one kernel, whatever they are.

The estimate leaves out the pairs of a point with itself, which makes it unbiased where the kernel is given: for sets of
one law it scatters about 0 and is negative about half of the time. It is the square: a root would have no unbiased
estimate.

References:
    A. Gretton, K. Borgwardt, M. Rasch, B. Schölkopf, A. Smola, "A kernel two-sample test", Journal of Machine Learning
    Research 13, 2012.
    Y. Li, K. Swersky, R. Zemel, "Generative moment matching networks", ICML 2015 (sums of kernels).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from physflow.metrics.points import distances, pair

__all__ = ["mmd"]

_FACTORS = (0.5, 1.0, 2.0)
# Points whose distances make up the median: two million pairs.
_MEDIAN_POINTS = 2048


def mmd(x: Tensor, y: Tensor, bandwidth: float | Sequence[float] | None = None) -> float:
    r"""The unbiased estimate of the squared maximum mean discrepancy under a sum of Gaussian kernels.

    .. math:: \frac{1}{n (n - 1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{m (m - 1)} \sum_{i \ne j} k(y_i, y_j)
              - \frac{2}{n m} \sum_{i, j} k(x_i, y_j)

    Time grows like :math:`(n + m)^2`, memory does not.

    Arguments:
        x: Points X, shape (n, ...), two at least.
        y: Points Y, the reference, shape (m, ...), two at least.
        bandwidth: The bandwidth :math:`\sigma` of the kernel, in the unit of the points, or one for each kernel of the
            sum. None is half, once and twice the median distance of the points of Y; of more than 2048 points, of so
            many at most, evenly spread over their order.

    Returns:
        The square, without unit; about 0, of either sign, for sets of one law.

    Raises:
        ValueError: If a set has fewer than two points or is not finite, the shapes of the points differ, a bandwidth
            is not positive, or none can be chosen.

    References:
        A. Gretton et al., 2012, lemma 6.
    """
    x, y = pair(x, y, equal=False)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"expected two points or more in each set, as none is paired with itself, got {n} and {m}")
    if bandwidth is None:
        sigmas = _bandwidths(y)
    else:
        sigmas = [float(bandwidth)] if isinstance(bandwidth, int | float) else [float(sigma) for sigma in bandwidth]
    if not sigmas or not all(0 < sigma < math.inf for sigma in sigmas):
        raise ValueError(f"bandwidth must be positive and finite, got {bandwidth!r}; leave it out to have it chosen")
    within = _kernel_sum(x, x, sigmas, True) / (n * (n - 1)) + _kernel_sum(y, y, sigmas, True) / (m * (m - 1))
    return within - 2 * _kernel_sum(x, y, sigmas) / (n * m)


def _bandwidths(y: Tensor) -> list[float]:
    """The bandwidths for a reference."""
    step = -(-len(y) // _MEDIAN_POINTS)
    median = float(torch.pdist(y[::step]).median())
    if median == 0:
        raise ValueError("half of the pairs of y or more are copies: their median distance is 0; give bandwidth=")
    return [factor * median for factor in _FACTORS]


def _kernel_sum(x: Tensor, y: Tensor, sigmas: Sequence[float], leave_one_out: bool = False) -> float:
    """The sum of the kernel over all pairs, without those of a point with itself if x and y are one set."""
    total = 0.0
    for part in distances(x, y, leave_one_out):
        squares = part.square_()
        total += sum(float((squares * (-0.5 / sigma**2)).exp_().sum()) for sigma in sigmas)
    return total
