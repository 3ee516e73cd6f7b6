"""Posteriors with closed forms, against which guided samplers are judged."""

from dataclasses import dataclass

import torch

from physflow.data.toys import GaussianMixture, MixtureFlow
from physflow.generative import Heun, LinearPath, integrate
from physflow.inference.linear_gaussian import linear_gaussian_posterior
from physflow.inference.observations import Observations
from physflow.inference.operators import Linear


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Problem:
    """Data of a Gaussian mixture, with its exact flow, observed through a matrix."""

    flow: MixtureFlow
    A: torch.Tensor
    y: torch.Tensor
    std: torch.Tensor

    @property
    def observations(self):
        return Observations(Linear(self.A), self.y, self.std)

    @property
    def posterior(self):
        """A mixture too: of the components' posteriors, weighted by what each makes of the observations."""
        law, weights, parts = self.flow.target, [], []
        for weight, mean, covariance in zip(law.weights, law.means, law.covariances, strict=True):
            spread = self.A @ covariance @ self.A.T + self.std.square().diag()
            evidence = torch.distributions.MultivariateNormal(self.A @ mean, spread).log_prob(self.y)
            weights.append(weight.log() + evidence)
            parts.append(linear_gaussian_posterior(mean, covariance, self.A, self.y, self.std))
        means, covariances = (torch.stack(each) for each in zip(*parts, strict=True))
        return GaussianMixture(torch.stack(weights).softmax(0), means, (covariances + covariances.mT) / 2)


def gaussian_problem(white=False, path=None, blur=0.0, d=6, m=3):
    """One component, three sensors that each read a combination of all coordinates, of unequal precision."""
    root = draw(d, d)
    covariance = torch.eye(d, dtype=torch.float64)
    if not white:
        covariance = root @ root.T / d + 0.05 * covariance
    law = GaussianMixture(torch.ones(1), draw(1, d, seed=1), covariance[None])
    A, std = draw(m, d, seed=2) / d**0.5, torch.linspace(0.05, 0.3, m, dtype=torch.float64)
    return Problem(law.flow(path or LinearPath(), blur=blur), A, draw(m, seed=3), std)


def mixture_problem():
    """Two separate components in the plane, which one sensor tells apart a little."""
    means, root = [[2.0, 0.5], [-2.0, -0.5]], torch.tensor([[[0.6, 0.0], [0.3, 0.4]], [[0.5, 0.0], [-0.2, 0.7]]])
    law = GaussianMixture(torch.tensor([0.6, 0.4]), torch.tensor(means), root @ root.mT)
    A, y, std = (torch.tensor(a, dtype=torch.float64) for a in ([[0.3, 1.0]], [0.4], [0.3]))
    return Problem(law.flow(LinearPath()), A, y, std)


def affine_law(velocity, d, steps, solver=None):
    """The law of the samples without any chance: mean and covariance of the image of N(0, I) under an affine flow map.

    The velocities of guided flows to linear-Gaussian posteriors are affine, and so is every step of a solver.
    """
    x0 = torch.cat((torch.zeros(1, d), torch.eye(d))).double()
    x1 = integrate(velocity, x0, solver or Heun(), steps)
    columns = (x1[1:] - x1[0]).T
    return x1[0], columns @ columns.T


def errors(law, posterior):
    """The relative errors, in the Euclidean norm, of the mean, the standard deviations and the covariance."""
    (mean, covariance), std = law, posterior.covariance.diagonal().sqrt()
    return (
        float((mean - posterior.mean).norm() / posterior.mean.norm()),
        float((covariance.diagonal().sqrt() - std).norm() / std.norm()),
        float((covariance - posterior.covariance).norm() / posterior.covariance.norm()),
    )
