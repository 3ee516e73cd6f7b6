r"""Mixtures by name: the small problems on which flow matching is usually shown.

The texts give the places of the modes but rarely their widths; what is a choice of this package is said where it is
made.
"""

from __future__ import annotations

import itertools
import math

import torch

from physflow.data.toys.gaussian_mixtures import GaussianMixture

__all__ = ["four_gaussians", "ring", "triangle", "two_modes"]


def triangle(modes: int = 4, dimension: int = 2, spacing: float = 1.0, std: float = 0.15) -> GaussianMixture:
    r"""A grid of modes of different weight: 4 x 4 = 16 of them in the plane by default.

    The law is the product over the d coordinates of one law on the line with c modes, at equal distances around the
    origin and with weights :math:`1, 2, \dots, c` over their sum, so that in the plane the rarest of 16 modes has a
    probability of 1/100 and the most frequent of 16/100.

    The product, its dimension and the number and inequality of the modes are the reference's. The places, the weights
    and the Gaussian shape are a choice of this package; the latter keeps every quantity of the flow exact.

    Arguments:
        modes: The number c of modes on the line.
        dimension: The number d of coordinates; there are :math:`c^d` modes.
        spacing: The distance between neighbouring modes.
        std: The standard deviation of a mode in each coordinate.

    Returns:
        The mixture.

    Raises:
        ValueError: If a number is not positive.

    References:
        A. Samaddar et al., "Efficient flow matching using latent variables", 2025, section 4.1 and appendix E.1.
        G. Pichler et al., "A differential entropy estimator for training neural networks", ICML 2022, figure 2.
    """
    _check_counts(modes=modes, dimension=dimension)
    _check_lengths(spacing=spacing, std=std)
    line = [(i - (modes - 1) / 2) * spacing for i in range(modes)]
    shares = [2 * (i + 1) / (modes * (modes + 1)) for i in range(modes)]
    weights = [math.prod(product) for product in itertools.product(shares, repeat=dimension)]
    return _round_mixture(weights, list(itertools.product(line, repeat=dimension)), std)


def four_gaussians(distance: float = 1.0, std: float = 0.1) -> GaussianMixture:
    r"""Four equal modes in the corners :math:`(\pm D, \pm D)` of a square.

    Arguments:
        distance: Half the side D of the square.
        std: The standard deviation of a mode in each coordinate.

    Returns:
        The mixture.

    Raises:
        ValueError: If a length is not positive.
    """
    _check_lengths(distance=distance, std=std)
    return _round_mixture([0.25] * 4, list(itertools.product((-distance, distance), repeat=2)), std)


def ring(n: int = 6, radius: float = 1.0, std: float = 0.05) -> GaussianMixture:
    r"""Equal modes at equal distances on a circle around the origin, the first one on the positive x axis.

    Six modes on the radius 1/3 as the source and six on the radius 1 as the target,
    ``ring().flow(path, source=ring(radius=1 / 3))``, are the two-dimensional problem of the reference, whose
    trajectories cross everywhere under the independent coupling. The width of the modes is a choice of this package.

    Arguments:
        n: The number of modes.
        radius: The radius of the circle.
        std: The standard deviation of a mode in each coordinate.

    Returns:
        The mixture.

    Raises:
        ValueError: If a number is not positive.

    References:
        P. Guo, A. Schwing, "Variational rectified flow matching", 2025, section 4.2.
    """
    _check_counts(n=n)
    _check_lengths(radius=radius, std=std)
    angles = [2 * math.pi * k / n for k in range(n)]
    return _round_mixture([1 / n] * n, [(radius * math.cos(a), radius * math.sin(a)) for a in angles], std)


def two_modes(distance: float = 1.0, std: float = 0.1) -> GaussianMixture:
    r"""Two equal modes on the line, at :math:`\pm D`.

    With the source :math:`N(0, 1)` it is the one-dimensional problem of the reference, the smallest with trajectories
    that cross. The places and the width of the modes are a choice of this package.

    Arguments:
        distance: The distance D of a mode from the origin.
        std: The standard deviation of a mode.

    Returns:
        The mixture.

    Raises:
        ValueError: If a length is not positive.

    References:
        P. Guo, A. Schwing, "Variational rectified flow matching", 2025, section 4.1.
    """
    _check_lengths(distance=distance, std=std)
    return _round_mixture([0.5, 0.5], [(-distance,), (distance,)], std)


def _round_mixture(weights: list[float], means: list[tuple[float, ...]], std: float) -> GaussianMixture:
    """The mixture whose components are round and equally wide."""
    k, d = len(means), len(means[0])
    covariances = (std**2 * torch.eye(d, dtype=torch.float64)).repeat(k, 1, 1)
    return GaussianMixture(
        torch.tensor(weights, dtype=torch.float64), torch.tensor(means, dtype=torch.float64), covariances
    )


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"expected {name} of at least one, got {value}")


def _check_lengths(**lengths: float) -> None:
    for name, value in lengths.items():
        if not 0 < value < math.inf:
            raise ValueError(f"expected a positive, finite {name}, got {value}")
