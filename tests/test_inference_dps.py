"""DPS: what it gets wrong where everything else is exact, and what the widened noise mends."""

import functools

import pytest
import torch
from posterior_oracles import affine_law, errors, gaussian_problem

from physflow.generative import RK4
from physflow.inference.dps import DPS
from physflow.inference.mmps import MMPS


@functools.cache
def law_of(gamma):
    """Plain, the velocity is stiff: a hundred steps leave every bound."""
    problem = gaussian_problem()
    guided = DPS(problem.flow.velocity, problem.observations, gamma=gamma)
    return affine_law(guided, 6, 60 if gamma else 200, RK4())


@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0])
def test_it_is_biased_where_moment_matching_is_not(gamma):
    """The errors of the mean are 16 to 41 %, those of MMPS, with fewer steps, below 0.01 %."""
    problem = gaussian_problem()
    matched = errors(affine_law(MMPS(problem.flow.velocity, problem.observations), 6, 20), problem.posterior)
    off = errors(law_of(gamma), problem.posterior)
    assert off[0] > max(0.1, 20 * matched[0])
    assert off[2] > 10 * matched[2]


def test_plain_it_spreads_too_little_and_widened_too_much():
    exact = gaussian_problem().posterior.covariance.diagonal().sqrt()
    ratios = [float((law_of(gamma)[1].diagonal().sqrt() / exact).mean()) for gamma in (0.0, 1.0)]
    assert ratios[0] < 0.95
    assert ratios[1] > 1.05


def test_on_what_one_sensor_reads_of_white_data_widening_by_one_never_trusts_too_much():
    """The variance assumed, s^2 + (1 - t)^2 / t^2, is at least the true s^2 + (1 - t)^2 / (t^2 + (1 - t)^2)."""
    problem = gaussian_problem(white=True, m=1)
    axis = problem.A[0] / problem.A[0].norm()
    x = axis * torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    for t in (0.1, 0.5, 0.9):
        time = torch.full((5,), t, dtype=torch.float64)
        shifts = [
            (guided.data(x, time) - problem.flow.data(x, time)) @ axis
            for guided in (
                DPS(problem.flow.velocity, problem.observations),
                MMPS(problem.flow.velocity, problem.observations),
                DPS(problem.flow.velocity, problem.observations, gamma=0.0),
            )
        ]
        assert (shifts[0].abs() < shifts[1].abs()).all()
        assert (shifts[1].abs() < shifts[2].abs()).all()
