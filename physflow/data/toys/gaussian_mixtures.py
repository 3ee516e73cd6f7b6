r"""Gaussian mixtures, the toys of which even the flow is known.

.. math:: p(x) = \sum_{k=1}^{K} w_k\, N(x; m_k, S_k), \qquad w_k > 0, \quad \sum_k w_k = 1,

with means :math:`m_k` and positive definite covariances :math:`S_k`. The responsibility
:math:`r_k(x) = w_k N(x; m_k, S_k) / p(x)` is the probability that x came from component k. The mixture's mean is
:math:`m = \sum_k w_k m_k`, its covariance :math:`\sum_k w_k (S_k + (m_k - m)(m_k - m)^T)`, its score
:math:`\nabla \log p(x) = -\sum_k r_k(x) S_k^{-1} (x - m_k)`.

References:
    C. Bishop, "Pattern recognition and machine learning", 2006, sections 2.3.9 and 9.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from physflow.data.toys.base import Toy
from physflow.data.toys.flows import Blur, MixtureFlow, Schedules

__all__ = ["GaussianMixture"]

# Numbers that came through float32 are right within this.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class GaussianMixture(Toy):
    r"""A mixture of K Gaussians in d dimensions.

    Arguments:
        weights: The weights :math:`w_k`, shape (K,), positive, of sum one up to 1e-6, which is divided out.
        means: The means :math:`m_k`, shape (K, d).
        covariances: The covariances :math:`S_k`, shape (K, d, d), symmetric and positive definite.

    Raises:
        ValueError: If a shape, a weight or a covariance is wrong.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __post_init__(self) -> None:
        for name in ("weights", "means", "covariances"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name), dtype=torch.float64))
        _check_shapes(self.weights, self.means, self.covariances)
        _check_weights(self.weights)
        _check_covariances(self.covariances)
        if not self.means.isfinite().all():
            raise ValueError("expected finite means, got nan or infinity among them")
        object.__setattr__(self, "weights", self.weights / self.weights.sum())

    @property
    def dimension(self) -> int:
        """The number d of coordinates of a point."""
        return self.means.shape[1]

    @property
    def modes(self) -> Tensor:
        """The places of the modes, shape (K, d): the means, from which well separated peaks hardly differ."""
        return self.means

    @property
    def mean(self) -> Tensor:
        """The mean m, shape (d,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """The covariance, shape (d, d): that within the components and that of their means."""
        centred = self.means - self.mean
        return torch.einsum("k,kij->ij", self.weights, self.covariances + centred[:, :, None] * centred[:, None, :])

    def responsibilities(self, x: Tensor) -> Tensor:
        """The probabilities :math:`r_k(x)` that points came from each component.

        Arguments:
            x: Points, shape (batch, d).

        Returns:
            The probabilities, shape (batch, K), of sum one in each row.

        Raises:
            ValueError: If the points have another dimension.
        """
        return torch.softmax(self._log_joint(self._points(x))[0], dim=1).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        r"""The score :math:`\nabla \log p(x)`.

        Arguments:
            x: Points, shape (batch, d).

        Returns:
            The gradients, shape (batch, d).

        Raises:
            ValueError: If the points have another dimension.
        """
        log_joint, whitened = self._log_joint(self._points(x))
        pulls = torch.linalg.solve_triangular(self._roots.mT.to(x.device), -whitened, upper=True)
        return torch.einsum("nk,kdn->nd", torch.softmax(log_joint, dim=1), pulls).to(x.dtype)

    def flow(self, path: Schedules, source: GaussianMixture | None = None, blur: Blur = 0.0) -> MixtureFlow:
        r"""The exact flow from a source to this mixture.

        Arguments:
            path: The schedules :math:`\alpha, \sigma` and their derivatives, such as a `physflow.generative.Path`.
            source: The law of :math:`x_0`, drawn independently of the data; None is :math:`N(0, I)`.
            blur: The noise that the path adds: the width s of a tube, which is ``blur=s`` with ``LinearPath(s)``, or
                its scale :math:`\gamma` and the derivative :math:`\dot\gamma` as two maps of times (batch,) to values
                (batch,).

        Returns:
            The flow, with velocity, score, density and the other predictions at every time.

        Raises:
            ValueError: If the source has another dimension, or the path can be seen to add another noise.
        """
        if source is None:
            d = self.dimension
            unit = torch.eye(d, dtype=torch.float64)
            source = GaussianMixture(torch.ones(1, dtype=torch.float64), torch.zeros(1, d), unit[None])
        return MixtureFlow(self, path, source, blur)

    @cached_property
    def _roots(self) -> Tensor:
        """Lower triangular roots of the covariances, shape (K, d, d)."""
        return torch.linalg.cholesky(self.covariances)

    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        device = generator.device
        k = torch.multinomial(self.weights.to(device), n, replacement=True, generator=generator)
        normal = torch.randn(n, self.dimension, generator=generator, dtype=torch.float64, device=device)
        return self.means.to(device)[k] + torch.einsum("nij,nj->ni", self._roots.to(device)[k], normal)

    def _log_density(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self._log_joint(x)[0], dim=1)

    def _log_joint(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithms of w_k N(x; m_k, S_k), shape (batch, K), and the whitened offsets, shape (K, d, batch)."""
        weights, means, roots = (a.to(x.device) for a in (self.weights, self.means, self._roots))
        whitened = torch.linalg.solve_triangular(roots, (x - means[:, None]).mT, upper=False)
        log_volume = roots.diagonal(dim1=1, dim2=2).log().sum(1) + self.dimension / 2 * math.log(2 * math.pi)
        return weights.log() - log_volume - 0.5 * whitened.square().sum(1).T, whitened


def _check_shapes(weights: Tensor, means: Tensor, covariances: Tensor) -> None:
    if means.ndim != 2 or 0 in means.shape:
        raise ValueError(f"expected means of shape (K, d), K and d at least one, got {tuple(means.shape)}")
    k, d = means.shape
    if weights.shape != (k,):
        raise ValueError(f"expected one weight for each of {k} means, shape ({k},), got {tuple(weights.shape)}")
    if covariances.shape != (k, d, d):
        raise ValueError(
            f"expected one covariance for each of {k} means in {d} dimensions, shape ({k}, {d}, {d}), "
            f"got {tuple(covariances.shape)}"
        )


def _check_weights(weights: Tensor) -> None:
    if not (weights > 0).all():
        raise ValueError(f"expected positive weights, got {weights.tolist()}; leave out components that never occur")
    total = weights.sum().item()
    if not abs(total - 1) <= _ROUNDING:
        raise ValueError(f"expected weights of sum one, got a sum of {total:g}; divide them by it")


def _check_covariances(covariances: Tensor) -> None:
    scale = covariances.diagonal(dim1=1, dim2=2).abs().amax(1)
    for k, matrix in enumerate(covariances):
        if not matrix.isfinite().all():
            raise ValueError(f"expected finite covariances, but that of component {k} holds nan or infinity")
        if (matrix - matrix.mT).abs().max() > _ROUNDING * scale[k]:
            raise ValueError(f"expected symmetric covariances, but that of component {k} is {matrix.tolist()}")
        if not (smallest := torch.linalg.eigvalsh(matrix)[0].item()) > 0:
            raise ValueError(
                f"expected positive definite covariances, but the smallest eigenvalue of component {k} is "
                f"{smallest:g}; were standard deviations meant?"
            )
