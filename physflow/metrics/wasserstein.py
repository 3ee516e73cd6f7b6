r"""Wasserstein-2 distances between two sets of points.

.. math:: W_2^2(X, Y) = \min_{\pi} \frac{1}{n} \sum_{i=1}^{n} |x_i - y_{\pi(i)}|^2

over the permutations :math:`\pi` of n points in d dimensions: the exact distance of the two empirical laws. The
entropic plan of a blur gives Sinkhorn's divergence, debiased so that equal sets have none; it is smoother. The sliced
distance is a mean over directions :math:`\theta` of the distance of the projections, each a matter of sorting:

.. math:: SW_2^2(X, Y) = E_{\theta \sim U(S^{d - 1})}\; W_2^2(\theta \cdot X, \theta \cdot Y).

Two sets drawn from one law are not at distance zero but at about :math:`n^{-1/d}`, the floor. `Resampled` measures a
distance beside it. The excess over the floor ranks samples; it is not their distance from the law: a distance well
below the floor adds to it in the second order only, so that samples of a law at a third of the floor are hardly told
from the data. More points lower the floor.

References:
    G. Peyré, M. Cuturi, "Computational optimal transport", 2019, sections 2.3, 4.2 and 8.
    J. Feydy et al., "Interpolating between optimal transport and MMD using Sinkhorn divergences", AISTATS 2019.
    N. Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from physflow.metrics.points import pair

__all__ = ["Excess", "Resampled", "sinkhorn_wasserstein", "sliced_wasserstein", "wasserstein"]

# Keeps the numbers of the resamples apart from those of any other use of a seed.
_STREAM = 0x57


def wasserstein(x: Tensor, y: Tensor) -> float:
    r"""The exact distance :math:`W_2` of two sets of as many points; time grows like :math:`n^3`.

    Arguments:
        x: Points X, shape (n, ...).
        y: Points Y of the same shape.

    Returns:
        The distance, in the unit of the points.

    Raises:
        ValueError: If a set is empty or not finite, or their shapes differ.
    """
    x, y = pair(x, y)
    if x.shape[1] == 1:
        # On a line the order of the points is the plan; the general method is at its slowest there.
        return float((x.sort(0).values - y.sort(0).values).square().mean().sqrt())
    # Differences rather than scalar products: points far from the origin lose no digits.
    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    return float(cost[linear_sum_assignment(cost)].mean() ** 0.5)


def sinkhorn_wasserstein(x: Tensor, y: Tensor, blur: float = 0.05) -> float:
    """The square root of twice Sinkhorn's divergence, which is W_2 in the limit of no blur.

    Arguments:
        x: Points X, shape (n, ...).
        y: Points Y, shape (m, ...).
        blur: The blur, in the unit of the points.

    Returns:
        The distance, in the unit of the points.

    Raises:
        ImportError: If geomloss, which computes it, is not installed.
        ValueError: If a set is empty or not finite, the shapes of the points differ, or the blur is not positive.
    """
    if not blur > 0:
        raise ValueError(f"blur must be positive, got {blur!r}; for no blur use wasserstein")
    x, y = pair(x, y, equal=False)
    try:
        from geomloss import SamplesLoss
    except ImportError as error:
        raise ImportError(
            "sinkhorn_wasserstein needs geomloss: pip install 'physflow[metrics]' -c constraints.txt"
        ) from error
    # The library's cost is |x - y|^2 / 2. Its default scaling, 0.5, stops short of the minimum: 23 % too low for 500
    # points of the plane's normal law, with 0.9 one per cent.
    divergence = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=0.9, backend="tensorized")(x, y)
    return float((2 * divergence).clamp_min(0).sqrt())


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 128, generator: torch.Generator | None = None) -> float:
    """The sliced distance over random directions.

    Arguments:
        x: Points X, shape (n, ...).
        y: As many points Y of the same shape.
        directions: The number of directions.
        generator: Draws the directions; without one they are those of the seed 0.

    Returns:
        The distance, in the unit of the points.

    Raises:
        ValueError: If a set is empty or not finite, their shapes differ, or there is no direction.
    """
    if directions < 1:
        raise ValueError(f"expected at least one direction, got directions={directions}")
    x, y = pair(x, y)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    theta = torch.randn(x.shape[1], directions, dtype=x.dtype, generator=generator)
    theta /= theta.norm(dim=0)
    return float(((x @ theta).sort(0).values - (y @ theta).sort(0).values).square().mean().sqrt())


@dataclass(frozen=True)
class Excess:
    """A distance of samples from data, minus that of other data from the same data, in several resamples.

    Attributes:
        distances: The distance of the samples, one a resample.
        floors: That of other data.
    """

    distances: tuple[float, ...]
    floors: tuple[float, ...]

    @property
    def values(self) -> Tensor:
        """The differences, shape (resamples,)."""
        return torch.tensor(self.distances, dtype=torch.float64) - torch.tensor(self.floors, dtype=torch.float64)

    @property
    def mean(self) -> float:
        """The mean excess: about 0 for samples of the law itself; negative by chance, or if they resemble the sets."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean over the resamples.

        It is that of the sets of data. The chance of the samples themselves is in it only as far as each resample has
        others: where there are many more samples than points in all resamples.
        """
        return float(self.values.std() / len(self.distances) ** 0.5)


class Resampled:
    """A distance from a law, measured in several resamples beside its floor.

    In each resample some samples and as many draws of the law are compared with one and the same set of other draws,
    so that the chance of that set cancels in the excess. The sets of the law are the same for all that is measured.

    Arguments:
        data: Draws of the law: called as data(n, generator).
        points: Points in each set.
        resamples: How often.
        distance: The distance of two sets.
        seed: Seed of the resamples, which share nothing with those of another seed.

    Raises:
        ValueError: If a set would be empty, or there are fewer than two resamples.
    """

    def __init__(
        self,
        data: Callable[[int, torch.Generator], Tensor],
        points: int,
        resamples: int = 10,
        distance: Callable[[Tensor, Tensor], float] = wasserstein,
        seed: int = 0,
    ) -> None:
        if points < 1:
            raise ValueError(f"expected at least one point in a set, got points={points}")
        if resamples < 2:
            raise ValueError(f"expected at least two resamples, for their spread, got {resamples}")
        self.data, self.points, self.resamples = data, points, resamples
        self.distance, self.seed = distance, seed

    @cached_property
    def floors(self) -> tuple[float, ...]:
        """The distance between two sets of the law, one a resample."""
        sets = [[self.data(self.points, generator) for _ in range(2)] for generator in self._generators()]
        return tuple(self.distance(other, reference) for reference, other in sets)

    def excess(self, samples: Tensor) -> Excess:
        """How much farther samples are from the law than its own draws.

        Arguments:
            samples: The samples, shape (n, ...), at least as many as the points of a set.

        Raises:
            ValueError: If there are fewer.
        """
        if len(samples) < self.points:
            raise ValueError(f"expected {self.points} samples or more, one for each point of a set, got {len(samples)}")
        distances = []
        for generator in self._generators():
            reference = self.data(self.points, generator)
            chosen = torch.randperm(len(samples), generator=generator)[: self.points]
            distances.append(self.distance(samples[chosen], reference))
        return Excess(tuple(distances), self.floors)

    def _generators(self) -> Iterator[torch.Generator]:
        """One for each resample, which draws the reference set first; of no seed that a user would take for samples."""
        seeds = np.random.SeedSequence([_STREAM, self.seed]).generate_state(self.resamples, np.uint64)
        return (torch.Generator().manual_seed(int(seed) >> 1) for seed in seeds)
