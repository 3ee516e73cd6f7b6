"""The problems of the posterior benchmark, and what draws of a posterior score beside those of Markov chains.

A problem is a permeability of the law, its pressure, and noisy readings of it at random points of the grid.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physflow.conditioning import posterior_of
from physflow.config import DataConfig
from physflow.data.laws import grid_of_config
from physflow.inference import Masked, Observations, Posterior
from physflow.input_priors import InputPrior, law_prior
from physflow.metrics import mmd, moment_errors, sliced_wasserstein
from physflow.pde import Darcy

__all__ = ["Problem", "compared", "fields_of", "pressure_std"]

FIELDS = ("log K", "p")


@functools.cache
def _law(resolution: int, modes: int) -> tuple[InputPrior, Darcy]:
    config = DataConfig(samples=1, resolution=resolution, modes=modes)
    return law_prior(config), Darcy(grid_of_config(config))


@functools.cache
def pressure_std(resolution: int, modes: int) -> float:
    """The standard deviation of the pressure over points and 1,000 samples of the law: what noise is measured in."""
    prior, equation = _law(resolution, modes)
    z = torch.randn(1000, modes, dtype=torch.float64, generator=torch.Generator().manual_seed(2**31 + 1))
    return float(equation.solve(prior.decode(z)[:, 0]).std())


@dataclass(frozen=True)
class Problem:
    """Readings of the pressure of one sample of the law.

    Attributes:
        number: The seed of the sample, the places and the noise.
        resolution: The points along an axis.
        modes: The modes of log K.
        sensors: The number of readings.
        noise: The standard deviation of their noise, over that of the pressure.
    """

    number: int
    resolution: int
    modes: int
    sensors: int
    noise: float

    @property
    def prior(self) -> InputPrior:
        """The law of K."""
        return _law(self.resolution, self.modes)[0]

    @property
    def equation(self) -> Darcy:
        """Darcy flow between Neumann walls."""
        return _law(self.resolution, self.modes)[1]

    @functools.cached_property
    def truth(self) -> Tensor:
        """The coefficients of the sample, shape (modes,)."""
        return torch.randn(self.modes, dtype=torch.float64, generator=self.generator("truth"))

    @functools.cached_property
    def observations(self) -> Observations:
        """The readings."""
        points = self.resolution**2
        mask = torch.zeros(points, dtype=torch.bool)
        mask[torch.randperm(points, generator=self.generator("places"))[: self.sensors]] = True
        operator = Masked(1, mask.view(self.resolution, self.resolution))
        std = self.noise * pressure_std(self.resolution, self.modes)
        exact = operator(self.pairs(self.truth[None]))[0]
        noise = torch.randn(self.sensors, dtype=torch.float64, generator=self.generator("noise"))
        return Observations(operator, exact + std * noise, torch.tensor(std))

    def posterior(self) -> Posterior:
        """The law of the coefficients given the readings, with its counts at zero."""
        return posterior_of(self.equation, self.prior, self.observations)

    def pairs(self, z: Tensor) -> Tensor:
        """The fields (K, p) of coefficients, shape (n, 2, nx, ny)."""
        pieces = [torch.stack(self.equation.complete(*self.prior.decode(part).unbind(1)), 1) for part in z.split(512)]
        return torch.cat(pieces)

    def seed(self, role: str) -> int:
        """The seed of what is drawn for this problem in a role, of which no other role or problem has the numbers."""
        return int(np.random.SeedSequence([self.number, *role.encode()]).generate_state(1)[0])

    def generator(self, role: str) -> torch.Generator:
        """The random numbers of a role."""
        return torch.Generator().manual_seed(self.seed(role))


def fields_of(pairs: Tensor) -> dict[str, Tensor]:
    """Log K and p of pairs (n, 2, nx, ny), each (n, nx, ny)."""
    return dict(zip(FIELDS, (pairs[:, 0].double().log(), pairs[:, 1].double()), strict=True))


def compared(pairs: Tensor, reference: Tensor, prior: Tensor) -> dict[str, Any]:
    """What draws score beside those of a reference, each field by itself.

    Arguments:
        pairs: Draws of (K, p), shape (n, 2, nx, ny).
        reference: Draws of the reference.
        prior: Draws of the prior: distances are in units of their standard deviation, root mean square over the points.
    """
    found: dict[str, Any] = {}
    scales = {name: float(u.var(0).mean().sqrt()) for name, u in fields_of(prior).items()}
    truth = fields_of(reference)
    for name, u in fields_of(pairs).items():
        errors, v = moment_errors(u, truth[name]), truth[name]
        n = min(len(u), len(v))
        # Spread over both sets: neighbours in a chain resemble each other.
        x, y = (w[torch.linspace(0, len(w) - 1, n).long()].flatten(1) / scales[name] for w in (u, v))
        short = {"log K": "log_k", "p": "p"}[name]
        found |= {
            f"mean_{short}": errors.mean,
            f"std_{short}": errors.std,
            f"spread_{short}": float(u.std(0).mean() / v.std(0).mean()),
            f"mmd_{short}": mmd(x, y),
            f"sliced_w2_{short}": sliced_wasserstein(x, y, generator=torch.Generator().manual_seed(0)),
        }
    return found
