r"""Flows with closed forms, to test paths, objectives, integrators and networks against.

The target is a mixture sum_k w_k N(m_k, S_k), the source N(0, I), the coupling independent, the path linear
with a tube of width s: x_t = (1 - t) x0 + t x1 + s eps. Given component k everything is jointly Gaussian:
x_t ~ N(t m_k, C_k(t)) with C_k(t) = ((1 - t)^2 + s^2) I + t^2 S_k, and any L = a x1 + b x0 + c s eps has
E[L | x_t, k] = a m_k + A C_k^-1 (x_t - t m_k), Cov[L | x_t, k] = a^2 S_k + (b^2 + c^2 s^2) I - A C_k^-1 A^T
with A = a t S_k + (b (1 - t) + c s^2) I. The mixture weighs them by the responsibilities of x_t. In the
eigenvectors of S_k all these matrices are diagonal, which is how they are computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class MixtureFlow:
    """The exact flow from N(0, I) to a Gaussian mixture; all tensors in float64.

    weights: (K,); means: (K, d); covariances: (K, d, d); sigma: the tube's width s.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    sigma: float = 0.0

    @property
    def mean(self) -> Tensor:
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """The covariance of the target, without the tube."""
        centred = self.means - self.mean
        spread = self.covariances + centred[:, :, None] * centred[:, None, :]
        return torch.einsum("k,kij->ij", self.weights, spread)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Data (n, d), without the tube."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        roots = torch.linalg.cholesky(self.covariances)
        return self.means[k] + torch.einsum("nij,nj->ni", roots[k], noise)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x), shape (batch,), for x (batch, d) and t (batch,)."""
        return torch.logsumexp(self._log_joint(*self._moments(x, t)), dim=1)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        y, c = self._moments(x, t)
        return self._mixed(y, c, torch.zeros_like(self.means), -1 / c)[1]

    def velocity(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """E[x1 - x0 | x_t = x]."""
        return self._posterior(x, t, 1.0, -1.0, 0.0)[0]

    def data(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """E[x1 + s eps | x_t = x]."""
        return self._posterior(x, t, 1.0, 0.0, 1.0)[0]

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x0 + s eps | x_t = x]."""
        return self._posterior(x, t, 0.0, 1.0, 1.0)[0]

    def minimum(self, prediction: str, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The exact minimum of the flow-matching loss, E tr Cov[target | x_t] / d, and its standard error.

        Monte Carlo over n points (t, x_t); given a point, the variance is exact.
        """
        x1 = self.sample(n, generator)
        x0, eps = torch.randn(2, *x1.shape, generator=generator, dtype=x1.dtype)
        t = torch.rand(n, generator=generator, dtype=x1.dtype)
        x_t = (1 - t[:, None]) * x0 + t[:, None] * x1 + self.sigma * eps
        coefficients = {"velocity": (1.0, -1.0, 0.0), "data": (1.0, 0.0, 1.0)}[prediction]
        variance = self._posterior(x_t, t, *coefficients)[1] / x1.shape[1]
        return variance.mean(), variance.std() / math.sqrt(n)

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (K, d) and eigenvectors (K, d, d) of the covariances."""
        return torch.linalg.eigh(self.covariances)

    def _moments(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets x - t m_k in the eigenvectors of S_k, eigenvalues of C_k(t): both (batch, K, d)."""
        values, vectors = self._eigen
        t = t[:, None, None]
        y = torch.einsum("kij,nki->nkj", vectors, x[:, None, :] - t * self.means)
        return y, (1 - t) ** 2 + self.sigma**2 + t**2 * values

    def _log_joint(self, y: Tensor, c: Tensor) -> Tensor:
        return self.weights.log() - 0.5 * (y.square() / c + c.log() + math.log(2 * math.pi)).sum(-1)

    def _mixed(self, y: Tensor, c: Tensor, constant: Tensor, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Responsibilities r_k, sum_k r_k (constant_k + gain_k y_k), and the trace of its spread over k."""
        r = torch.softmax(self._log_joint(y, c), dim=1)
        means = constant + torch.einsum("kij,nkj->nki", self._eigen[1], gain * y)
        mean = torch.einsum("nk,nki->ni", r, means)
        return r, mean, torch.einsum("nk,nki->n", r, (means - mean[:, None]).square())

    def _posterior(self, x: Tensor, t: Tensor, a: float, b: float, c: float) -> tuple[Tensor, Tensor]:
        """Mean (batch, d) and trace of the covariance (batch,) of a x1 + b x0 + c s eps given x_t = x."""
        values = self._eigen[0]
        y, total = self._moments(x, t)
        cross = a * t[:, None, None] * values + (b * (1 - t) + c * self.sigma**2)[:, None, None]
        r, mean, between = self._mixed(y, total, a * self.means, cross / total)
        within = a**2 * values + b**2 + (c * self.sigma) ** 2 - cross**2 / total
        return mean, torch.einsum("nk,nki->n", r, within) + between


def mixture(sigma: float = 0.0) -> MixtureFlow:
    """Three unequal, tilted components in the plane."""
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    means = torch.tensor([[2.0, 0.5], [-1.5, 1.0], [0.0, -2.0]], dtype=torch.float64)
    roots = torch.tensor(
        [[[0.6, 0.0], [0.3, 0.4]], [[0.5, 0.0], [-0.2, 0.7]], [[0.8, 0.0], [0.1, 0.3]]], dtype=torch.float64
    )
    return MixtureFlow(weights, means, roots @ roots.mT, sigma)


def gaussian() -> MixtureFlow:
    """One tilted component in the plane: its flow map is known too (`gaussian_flow_map`)."""
    root = torch.tensor([[[1.3, 0.0], [0.4, 0.6]]], dtype=torch.float64)
    mean = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    return MixtureFlow(torch.ones(1, dtype=torch.float64), mean, root @ root.mT)


def gaussian_flow_map(flow: MixtureFlow, x0: Tensor, t: float) -> Tensor:
    """The state at t of the exact flow (one component, no tube) from x0 (batch, d): t m + C(t)^(1/2) x0.

    It solves the flow's equation because C(t) commutes with its derivative.
    """
    values, vectors = torch.linalg.eigh(flow.covariances[0])
    root = (vectors * ((1 - t) ** 2 + t**2 * values).sqrt()) @ vectors.T
    return t * flow.means[0] + x0 @ root
