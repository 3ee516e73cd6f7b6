r"""Whether samples are copies of the training data.

Let :math:`d(x, Y) = \min_{y \in Y} |x - y|` be the distance of a sample to its nearest neighbour in a set. With a
training set T and a held-out set H of the same law and of equal size, which the model has never seen, the ratio

.. math:: r(x) = \frac{d(x, T)}{d(x, H)}

is as often above as below 1 for a sample that owes nothing to the particular items of T, since T and H may then be
exchanged. Copies have r = 0, and a median clearly below 1 says that the model leaks training data. Sets of unequal size
are refused: the larger one has nearer neighbours by chance alone.

Quartiles are taken of the share :math:`s = d(x, T) / (d(x, T) + d(x, H))`, in [0, 1], and turned back by
:math:`r = s / (1 - s)`: copies of held-out items, with :math:`r = \infty`, then do no harm, and exchanging T and H
turns the quartiles into their reciprocals.

References:
    C. Meehan, K. Chaudhuri, S. Dasgupta, "A non-parametric test to detect data-copying in generative models", AISTATS
    2020 (a test of the same three sets).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["NearestRatio", "nearest_distance", "nearest_ratio"]


@dataclass(frozen=True)
class NearestRatio:
    """The distances of samples to the nearest training item over those to the nearest held-out item; without unit.

    Arguments:
        ratios: One ratio a sample, shape (batch,): 0 for a copy of a training item, infinite for one of a held-out
            item, 1 for one of both.
        quartiles: The lower quartile, the median and the upper quartile of the ratios.
    """

    ratios: Tensor
    quartiles: tuple[float, float, float]

    @property
    def median(self) -> float:
        """The median ratio: about 1 without a leak, 0 if more than half of the samples are copies."""
        return self.quartiles[1]


def nearest_ratio(samples: Tensor, training: Tensor, held_out: Tensor, block: int = 1024) -> NearestRatio:
    r"""The ratio :math:`d(x, T) / d(x, H)` of each sample, and its quartiles.

    Arguments:
        samples: Generated items x, shape (batch, ...), in any unit.
        training: The training items T, shape (n, ...).
        held_out: As many items H of the same law that took no part in training, shape (n, ...).
        block: How many samples are compared with how many items at a time: memory for block x block distances and
            for 2 block items in float64.

    Returns:
        The ratios, float64, and their quartiles.

    Raises:
        ValueError: If a set is empty or not finite, the two sets differ in size, or the shapes of the items differ.

    References:
        C. Meehan, K. Chaudhuri, S. Dasgupta, AISTATS 2020.
    """
    if len(training) != len(held_out):
        n, m = len(training), len(held_out)
        raise ValueError(
            "expected as many training as held-out items, as the larger set has nearer neighbours by chance; "
            f"got {n} and {m}: compare with {min(n, m)} random items of each"
        )
    near, far = nearest_distance(samples, training, block), nearest_distance(samples, held_out, block)
    total = near + far
    share = torch.where(total > 0, near / torch.where(total > 0, total, 1.0), 0.5)
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=share.dtype, device=share.device)
    s = torch.quantile(share, levels)
    q1, median, q3 = (s / (1 - s)).tolist()
    return NearestRatio(share / (1 - share), (q1, median, q3))


def nearest_distance(x: Tensor, items: Tensor, block: int = 1024) -> Tensor:
    r"""The Euclidean distance :math:`\min_y |x - y|` of each x to its nearest item.

    The nearest item is found by :math:`|x|^2 - 2 x \cdot y + |y|^2`, a matrix product; its distance is then computed
    from the difference, so that copies are at distance 0 and not at the rounding error of that sum.

    Arguments:
        x: Points, shape (batch, ...).
        items: The set, shape (n, ...).
        block: How many points are compared with how many items at a time.

    Returns:
        The distances, shape (batch,), float64, in the unit of x, on the device of x.

    Raises:
        ValueError: If there are no points or no items, their shapes differ, or values are not finite.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    if x.ndim < 2 or x.shape[1:] != items.shape[1:]:
        raise ValueError(
            f"expected points and items of shapes (batch, ...) and (n, ...) that agree beyond the first axis, got "
            f"{tuple(x.shape)} and {tuple(items.shape)}"
        )
    if x.numel() == 0 or items.numel() == 0:
        raise ValueError(f"expected points and items, got {len(x)} and {len(items)} of shape {tuple(x.shape[1:])}")
    for name, values in (("points", x), ("items", items)):
        if not torch.isfinite(values).all():
            raise ValueError(f"the {name} hold values that are NaN or infinite; leave those out")
    # Distances do not change with the origin, but the sum of squares cancels least about the middle of the set.
    middle = items.flatten(1).mean(0, dtype=torch.float64)
    return torch.cat([_nearest(part.flatten(1).double() - middle, items, middle, block) for part in x.split(block)])


def _nearest(x: Tensor, items: Tensor, middle: Tensor, block: int) -> Tensor:
    """The distance of each of a block of points (block, d) to its nearest item."""
    least = x.new_full((len(x),), torch.inf)
    distance = torch.empty_like(least)
    for part in items.split(block):
        y = part.flatten(1).double() - middle
        # |x|^2 is the same for all items and left out.
        value, index = (y.square().sum(1) - 2 * x @ y.T).min(1)
        nearer = value < least
        least = torch.where(nearer, value, least)
        distance = torch.where(nearer, torch.linalg.vector_norm(x - y[index], dim=1), distance)
    return distance
