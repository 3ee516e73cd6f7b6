"""Flows with closed forms, to test paths, objectives, integrators and networks against: see physflow.data.toys."""

from dataclasses import dataclass

import torch

from physflow.data.toys import GaussianMixture, MixtureFlow
from physflow.generative.paths import LinearPath


@dataclass(frozen=True, eq=False)
class LinearFlow(MixtureFlow):
    """The flow from N(0, I) along straight lines, which also answers for its target."""

    @property
    def mean(self):
        return self.target.mean

    @property
    def covariance(self):
        return self.target.covariance

    def sample(self, n, generator):
        """Data (n, d), without the tube; for times (n,), points of the path."""
        return super().sample(n, generator) if torch.is_tensor(n) else self.target.sample(n, generator)


def linear_flow(weights, means, roots, sigma=0.0):
    weights, means, roots = (torch.tensor(a, dtype=torch.float64) for a in (weights, means, roots))
    flow = GaussianMixture(weights, means, roots @ roots.mT).flow(LinearPath(sigma), blur=sigma)
    return LinearFlow(flow.target, flow.path, flow.source, flow.blur)


def mixture(sigma=0.0):
    """Three unequal, tilted components in the plane."""
    means = [[2.0, 0.5], [-1.5, 1.0], [0.0, -2.0]]
    roots = [[[0.6, 0.0], [0.3, 0.4]], [[0.5, 0.0], [-0.2, 0.7]], [[0.8, 0.0], [0.1, 0.3]]]
    return linear_flow([0.5, 0.3, 0.2], means, roots, sigma)


def gaussian():
    """One tilted component in the plane: its flow map is known too (`gaussian_flow_map`)."""
    return linear_flow([1.0], [[1.0, -2.0]], [[[1.3, 0.0], [0.4, 0.6]]])


def gaussian_flow_map(flow, x0, t):
    """The state at t of the exact flow (one component, no tube) from x0 (batch, d)."""
    return flow.flow_map(x0, t)
