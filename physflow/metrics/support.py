r"""Where samples lie and where data lie: precision and recall, density and coverage.

The support of a law is estimated by balls about the points of a set, each as large as the distance :math:`r_k` of its
centre to the k-th nearest other point of the set. With data :math:`y_1, \dots, y_n` and samples
:math:`x_1, \dots, x_m`,

.. math::

    \text{precision} &= \tfrac1m \#\{j : |x_j - y_i| \le r_k(y_i) \text{ for some } i\} &
    &\text{(samples that lie where data are)} \\
    \text{recall} &= \tfrac1n \#\{i : |y_i - x_j| \le r_k(x_j) \text{ for some } j\} &
    &\text{(data that lie where samples are)} \\
    \text{density} &= \tfrac1{k m} \#\{(i, j) : |x_j - y_i| \le r_k(y_i)\} &
    &\text{(balls of data about a sample, over } k) \\
    \text{coverage} &= \tfrac1n \#\{i : |x_j - y_i| \le r_k(y_i) \text{ for some } j\} &
    &\text{(balls of data with a sample in them)}.

A single sample far out has a large ball, which raises the recall, as a single datum raises the precision; density and
coverage use the balls of the data alone and count or fill them, and suffer less. For samples of the law itself density
and coverage have means that do not depend on the law (`Support`), precision and recall do not. All four depend on n, m
and k: compare with values of other data, not with 1.

The balls mean little in as many dimensions as a field has points. Distances are therefore taken in the principal
components of the data, those of the directions in which the data vary most; whatever samples have beside these
directions is not seen. Components fitted to the very data that are compared follow their chance: the data then spread
wider in them than samples of their law do, the more so the fewer data there are. Precision, density and coverage come
out too high, the recall too low. For 500 random fields of an exponential covariance with a tenth of the domain as
length and k = 5, other fields of the law have a density of 1.2 in 10 components and of 2.3 in those of the default;
with components of further data (`basis`) both are 1 within 0.03.

References:
    T. Kynkäänniemi, T. Karras, S. Laine, J. Lehtinen, T. Aila, "Improved precision and recall metric for assessing
    generative models", NeurIPS 2019.
    M. F. Naeem, S. J. Oh, Y. Uh, Y. Choi, J. Yoo, "Reliable fidelity and diversity metrics for generative models", ICML
    2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physflow.metrics.points import distances, pair

__all__ = ["Support", "support"]

# The share of the variance of the data that the components hold by default.
_SHARE = 0.99


@dataclass(frozen=True)
class Support:
    r"""How the supports of samples and data overlap; without unit.

    Attributes:
        precision: The share of the samples within the support of the data.
        recall: The share of the data within the support of the samples.
        density: The number of balls of data that a sample lies in, over k, in the mean over samples: 1 for samples of
            the law itself in the mean over draws, but not at most: in many dimensions the middle lies in most balls.
        coverage: The share of the balls of data that hold a sample; for n data and m samples of one law

            .. math:: 1 - \binom{n - 1}{k} \Big/ \binom{n + m - 1}{k}

            in the mean over draws: a ball is empty if the k nearest of the n + m - 1 other points are all data.

    Both means are exact where the components are not fitted to the data: all of them, or those of further data.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def support(
    samples: Tensor, data: Tensor, neighbours: int = 5, components: int | None = None, basis: Tensor | None = None
) -> Support:
    """Precision, recall, density and coverage of samples against data.

    Time grows like the square of the number of points, memory does not.

    Arguments:
        samples: The samples x, shape (m, ...).
        data: The data y, shape (n, ...).
        neighbours: The number k of the neighbour that a ball reaches to.
        components: How many principal components distances are taken in; they are not scaled. None is the fewest that
            hold 99 % of the variance of the data they are fitted to.
        basis: Further data that the components are fitted to, shape (l, ...); None are the data themselves.

    Returns:
        The four numbers.

    Raises:
        ValueError: If a set is empty or not finite, the shapes of the points differ, a set has no k neighbours, or
            there are not so many components.

    References:
        T. Kynkäänniemi et al., 2019, section 2 (precision, recall); M. F. Naeem et al., 2020, section 3 (density,
        coverage).
    """
    x, y = pair(samples, data, equal=False, names=("samples", "data"))
    m, n = len(x), len(y)
    if not 1 <= neighbours < min(m, n):
        raise ValueError(
            f"expected neighbours of at least 1, and more points than that in both sets, got neighbours={neighbours} "
            f"for {m} samples and {n} data"
        )
    fitted, _ = pair(data if basis is None else basis, data, equal=False, names=("basis", "data"))
    mean, directions = _principal(fitted, components)
    x, y = (x - mean) @ directions, (y - mean) @ directions
    x_radii, y_radii = _radii(x, neighbours), _radii(y, neighbours)
    precise, pairs, start = 0, 0, 0
    recalled, covered = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    for part in distances(x, y):
        in_data = part <= y_radii
        precise += int(in_data.any(1).sum())
        pairs += int(in_data.sum())
        covered |= in_data.any(0)
        recalled |= (part <= x_radii[start : start + len(part), None]).any(0)
        start += len(part)
    return Support(precise / m, int(recalled.sum()) / n, pairs / (neighbours * m), int(covered.sum()) / n)


def _principal(y: Tensor, components: int | None) -> tuple[Tensor, Tensor]:
    """The mean of data and the directions of their principal components, as columns."""
    most = min(len(y) - 1, y.shape[1])
    if components is not None and not 1 <= components <= most:
        raise ValueError(
            f"expected components of 1 to {most}, as {len(y)} data of {y.shape[1]} numbers have, got {components}"
        )
    mean = y.mean(0)
    _, S, Vh = torch.linalg.svd(y - mean, full_matrices=False)
    variance = S.square().cumsum(0)
    kept = int((variance < _SHARE * variance[-1]).sum()) + 1 if components is None else components
    return mean, Vh[:kept].T


def _radii(points: Tensor, k: int) -> Tensor:
    """The distance of each point to its k-th nearest other point."""
    return torch.cat([part.kthvalue(k, dim=1).values for part in distances(points, points, leave_one_out=True)])
