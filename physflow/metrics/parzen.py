r"""Parzen windows: the likelihood of points under a kernel estimate of a law of which only samples are known.

.. math:: \hat p_h(x) = \frac{1}{n} \sum_{j=1}^{n} (2 \pi h^2)^{-d/2}\, e^{-|x - y_j|^2 / (2 h^2)}

for n samples :math:`y_j` in d dimensions and the bandwidth h. There are two directions, and they see different faults:

* data under the samples' estimate, ``parzen_log_density(data, samples, h)``: a place that the samples miss costs much,
  a sample where there are no data costs next to nothing. This is what is called Parzen-window likelihood;
* samples under the data's estimate, ``parzen_log_density(samples, data, h)``: the other way round.

The estimate is blurred by h, so that even samples of the law itself stay below its own mean log-density: compare values
of the same bandwidth and the same number of samples only, and take other data in place of samples as the mark to hit.
A value of the first direction may lie a little above the mark: samples narrower than the law by about h make up for the
blur. Samples :math:`N(0, s^2)` have the estimate :math:`N(0, s^2 + h^2)`, under which data :math:`N(0, 1)` are most
likely at :math:`s^2 = 1 - h^2`, not at 1. Far below the mark, a part of the data is missed.

References:
    E. Parzen, "On estimation of a probability density function and mode", Annals of Mathematical Statistics 33, 1962.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from physflow.metrics.points import distances

__all__ = ["parzen_bandwidth", "parzen_log_density"]


def parzen_log_density(points: Tensor, samples: Tensor, bandwidth: float | None = None) -> float:
    r"""The mean log-density :math:`\frac1m \sum_i \log \hat p_h(x_i)` of points under the kernel estimate of samples.

    Arguments:
        points: Data x held out of the training, shape (m, ...); or samples, for the other direction.
        samples: The generated samples y, shape (n, ...); or the data, for the other direction.
        bandwidth: The bandwidth h, in the unit of the points; None is `parzen_bandwidth` of the points. Methods that
            are compared need the same.

    Returns:
        The mean, in nats, per unit of d-dimensional volume.

    Raises:
        ValueError: If a set is empty or not finite, the shapes differ beyond the first axis, the bandwidth is not
            positive, or none can be chosen.

    References:
        E. Parzen, 1962.
    """
    x, y = _matrix("points", points), _matrix("samples", samples)
    if points.shape[1:] != samples.shape[1:]:
        raise ValueError(
            "expected points and samples of shapes (m, ...) and (n, ...) that agree beyond the first axis, got "
            f"{tuple(points.shape)} and {tuple(samples.shape)}"
        )
    h = parzen_bandwidth(points) if bandwidth is None else float(bandwidth)
    if not 0 < h < math.inf:
        raise ValueError(f"bandwidth must be positive and finite, got {bandwidth!r}; leave it out to have it chosen")
    return float(_log_density(x, y, h).mean())


def parzen_bandwidth(points: Tensor) -> float:
    r"""The bandwidth under which each point is most likely by the kernel estimate of all others.

    .. math:: \max_h L(h), \qquad L(h) = \frac1n \sum_i \log \frac{1}{n - 1} \sum_{j \ne i} N(x_i; x_j, h^2 I).

    With :math:`r_i` the distance of a point to its nearest neighbour and R the largest distance of two points, L rises
    below :math:`h^2 = \frac{1}{nd} \sum_i r_i^2` and falls above :math:`h^2 = R^2 / d`; it is searched in between.

    Arguments:
        points: Data, shape (n, ...), at least two; time grows like :math:`n^2`. A kernel estimate of fewer samples
            asks for a larger bandwidth: give as many points as there will be samples.

    Returns:
        The bandwidth, in the unit of the points, to about 0.1 %.

    Raises:
        ValueError: If there are fewer than two points, values are not finite, or every point has a copy among the
            others: L then grows without bound as h falls.

    References:
        M. C. Jones, J. S. Marron, S. J. Sheather, "A brief survey of bandwidth selection for density estimation",
        Journal of the American Statistical Association 91, 1996.
    """
    x = _matrix("points", points)
    if len(x) < 2:
        raise ValueError(f"a bandwidth is chosen from two points at least, got {len(x)}; give bandwidth=")
    d = x.shape[1]
    nearest = torch.cat([part.square().amin(1) for part in distances(x, x, leave_one_out=True)])
    low = (nearest.mean().item() / d) ** 0.5
    if low == 0:
        raise ValueError("every point has a copy among the others, which admits no best bandwidth; give bandwidth=")
    high = 2 * torch.linalg.vector_norm(x - x.mean(0), dim=1).max().item() / d**0.5

    def unlikely(log_h: float) -> float:
        return -float(_log_density(x, x, math.exp(log_h), leave_one_out=True).mean())

    # L may have several maxima: a grid finds the highest, a search within two of its steps the place.
    grid = np.linspace(math.log(low), math.log(high), 9)
    best = int(np.argmin([unlikely(log_h) for log_h in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return math.exp(minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-3}).x)


def _log_density(x: Tensor, y: Tensor, h: float, leave_one_out: bool = False) -> Tensor:
    """The log-density of each x, shape (m,); with `leave_one_out` x and y are one set, and no point counts itself."""
    n, d = y.shape
    constant = math.log(n - leave_one_out) + d * math.log(h) + 0.5 * d * math.log(2 * math.pi)
    exponents = (part.div_(h).square_().mul_(-0.5) for part in distances(x, y, leave_one_out))
    return torch.cat([part.logsumexp(1) for part in exponents]) - constant


def _matrix(name: str, values: Tensor) -> Tensor:
    """Points as a float64 matrix (n, d) on the CPU."""
    if values.ndim < 2 or values.numel() == 0:
        raise ValueError(f"expected {name} of shape (n, ...), at least one, got {tuple(values.shape)}")
    if not torch.isfinite(values).all():
        raise ValueError(f"{name} hold values that are NaN or infinite: leave those out and say how many")
    return values.detach().flatten(1).double().cpu()
