"""Recovering the source of a Poisson equation from its solution at a few points: the posterior has a closed form."""

import pytest
import torch

from physflow.data.covariances import Exponential
from physflow.data.karhunen_loeve import KarhunenLoeve
from physflow.grid import Grid
from physflow.inference import (
    Hamiltonian,
    Masked,
    Observations,
    Posterior,
    annealed,
    laplace,
    linear_gaussian_posterior,
    run_chains,
)
from physflow.pde import Darcy

GRID, MODES, SENSORS, STD = Grid((10, 8)), 6, 9, 2e-4


@pytest.fixture(scope="module")
def problem():
    """A source of six modes; K = 1 between Dirichlet walls; the solution is read at nine points."""
    field = KarhunenLoeve(GRID, Exponential(0.4), MODES)
    modes = torch.from_numpy(field.eigenvectors) * torch.from_numpy(field.eigenvalues).sqrt()
    equation = Darcy(GRID, source="constant", boundary="dirichlet")
    A = torch.from_numpy(equation.matrix(torch.ones(GRID.shape, dtype=torch.float64)).toarray())
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(80, dtype=torch.bool)
    mask[torch.randperm(80, generator=generator)[:SENSORS]] = True
    sensors = Masked(0, mask.view(GRID.shape))

    def operator(z):
        return sensors(torch.linalg.solve(A, (z @ modes.T).T).T.view(-1, 1, *GRID.shape))

    truth = torch.randn(1, MODES, dtype=torch.float64, generator=generator)
    y = operator(truth)[0] + STD * torch.randn(SENSORS, dtype=torch.float64, generator=generator)
    H = operator(torch.eye(MODES, dtype=torch.float64)).T
    prior = torch.zeros(MODES, dtype=torch.float64), torch.eye(MODES, dtype=torch.float64)
    mean, covariance = linear_gaussian_posterior(*prior, H, y, torch.full((SENSORS,), STD, dtype=torch.float64))
    return Observations(operator, y, torch.tensor(STD, dtype=torch.float64)), mean, covariance, truth[0]


def test_the_truth_is_where_the_closed_form_says(problem):
    _, mean, covariance, truth = problem
    # Chi-square of six degrees of freedom: below 25 but once in three thousand.
    assert (truth - mean) @ torch.linalg.solve(covariance, truth - mean) < 25
    assert covariance.diagonal().max() < 0.7


def test_laplace_is_the_closed_form(problem):
    observations, mean, covariance, _ = problem
    found = laplace(Posterior(observations, MODES), steps=100, tolerance=1e-12)
    torch.testing.assert_close(found.mean, mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.factor @ found.factor.T, covariance, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("sampler", ["annealed", "chains"])
def test_samplers_draw_from_the_closed_form(problem, sampler):
    observations, mean, covariance, _ = problem
    if sampler == "annealed":
        z = annealed(Posterior(observations, MODES), 1000, kernel=Hamiltonian(8), seed=1).z
    else:
        z = run_chains(Posterior(observations, MODES), 40, 50, burn_in=100, kernel=Hamiltonian(8), seed=1).z.flatten(
            0, 1
        )
    # In units of the posterior, for draws worth 200 independent ones: four standard errors.
    w = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (z - mean).T, upper=False).T
    assert w.mean(0).abs().max() < 4 / 200**0.5
    assert (w.T @ w / len(w) - torch.eye(MODES)).abs().max() < 4 * (2 / 200) ** 0.5
