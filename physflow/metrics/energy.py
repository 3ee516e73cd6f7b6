r"""The energy distance of two sets of points, and the test whether they are of one law.

.. math:: \mathcal E(X, Y) = 2\, E |x - y| - E |x - x'| - E |y - y'| \ge 0,

with all points independent, is zero for equal laws alone. It needs no bandwidth and no plan. In one dimension it is
:math:`2 \int (F - G)^2`, F and G being the distribution functions. It has the unit of the points; the literature also
calls its root a distance.

The means run over all pairs, those of a point with itself included: the energy distance of the two empirical laws. It
is zero for equal sets, and for two sets of n points of one law about :math:`2 E |x - x'| / n`. The test asks how often
sets of those sizes that are drawn from the pooled points have as large a statistic

.. math:: T = \frac{n m}{n + m} \mathcal E(X, Y), \qquad p = \frac{1 + \#\{T_\pi \ge T\}}{1 + \text{permutations}},

so that under one law P(p <= a) is at most a for every level a, whatever the law and the number of points.

References:
    G. Székely, M. Rizzo, "Testing for equal distributions in high dimension", InterStat, 2004.
    G. Székely, M. Rizzo, "Energy statistics: a class of statistics based on distances", Journal of Statistical Planning
    and Inference 143, 2013.
    B. Phipson, G. Smyth, "Permutation p-values should never be zero", Statistical Applications in Genetics and
    Molecular Biology 9, 2010.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physflow.metrics.points import distances, pair

__all__ = ["EnergyTest", "energy_distance", "energy_test"]

# Numbers held at a time for the permutations.
_ENTRIES = 2**22


def energy_distance(x: Tensor, y: Tensor) -> float:
    r"""The energy distance :math:`\mathcal E` of the empirical laws of two sets.

    Time grows like :math:`(n + m)^2`, memory does not.

    Arguments:
        x: Points X, shape (n, ...).
        y: Points Y, shape (m, ...).

    Returns:
        The distance, in the unit of the points: for a line, the square of what `scipy.stats.energy_distance` returns.

    Raises:
        ValueError: If a set is empty or not finite, or the shapes of the points differ.

    References:
        G. Székely, M. Rizzo, 2013.
    """
    x, y = pair(x, y, equal=False)
    # Rounding alone could make it negative.
    return max(2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y), 0.0)


@dataclass(frozen=True)
class EnergyTest:
    """The test of two sets for one law.

    Attributes:
        statistic: T, in the unit of the points.
        p_value: The share of permutations with as large a statistic, the given sets among them: at least
            1 / (1 + permutations). A small one speaks against one law.
    """

    statistic: float
    p_value: float


def energy_test(x: Tensor, y: Tensor, permutations: int = 999, generator: torch.Generator | None = None) -> EnergyTest:
    """Test whether two sets are of one law.

    The distances of the n + m pooled points are computed once, and held: memory grows like their square. A permutation
    only picks other rows and columns.

    Arguments:
        x: Points X, shape (n, ...), independent of one another.
        y: Points Y, shape (m, ...), likewise.
        permutations: How many permutations are drawn.
        generator: Draws the permutations; without one they are those of the seed 0.

    Returns:
        The statistic and its p-value.

    Raises:
        ValueError: If a set is empty or not finite, the shapes of the points differ, or there is no permutation.

    References:
        G. Székely, M. Rizzo, 2004; B. Phipson, G. Smyth, 2010 (the p-value).
    """
    if permutations < 1:
        raise ValueError(f"expected at least one permutation, got permutations={permutations}")
    x, y = pair(x, y, equal=False)
    n, m = len(x), len(y)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    pooled = torch.cat([x, y])
    D = torch.cat(list(distances(pooled, pooled)))
    rows = D.sum(1)
    total = rows.sum()

    def statistics(chosen: Tensor) -> Tensor:
        """T with those points (permutations, n) in place of X."""
        s = torch.zeros(len(chosen), n + m, dtype=D.dtype).scatter_(1, chosen, 1.0)
        xx = ((s @ D) * s).sum(1)
        xy = s @ rows - xx
        yy = total - 2 * xy - xx
        return n * m / (n + m) * (2 * xy / (n * m) - xx / n**2 - yy / m**2)

    statistic = float(statistics(torch.arange(n)[None]))
    # A permutation that keeps the sets ties with them, but sums in another order.
    bound = statistic - 1e-12 * float(total) / (n + m)
    count, block = 0, max(1, _ENTRIES // (n + m))
    for done in range(0, permutations, block):
        keys = torch.rand(min(block, permutations - done), n + m, generator=generator, dtype=torch.float64)
        count += int((statistics(keys.argsort(1)[:, :n]) >= bound).sum())
    return EnergyTest(max(statistic, 0.0), (1 + count) / (1 + permutations))


def _mean_distance(x: Tensor, y: Tensor) -> float:
    """The mean distance of all pairs."""
    return sum(float(part.sum()) for part in distances(x, y)) / (len(x) * len(y))
