"""Pseudoinverse guidance: exact for white data, biased for others, one iteration for masks."""

import pytest
import torch
from posterior_oracles import affine_law, draw, errors, gaussian_problem

from physflow.generative import Cosine, LinearPath
from physflow.inference.mmps import MMPS
from physflow.inference.observations import Observations
from physflow.inference.pseudoinverse import PseudoinverseGuidance


@pytest.mark.parametrize("path", [LinearPath(), Cosine()], ids=repr)
def test_white_data_end_in_the_posterior(path):
    problem = gaussian_problem(white=True, path=path)
    guided = PseudoinverseGuidance(problem.flow.velocity, problem.observations, path=path)
    off = torch.tensor(errors(affine_law(guided, 6, 40), problem.posterior))
    assert (off < torch.tensor([1e-3, 3e-3, 3e-3])).all(), off
    x, t = draw(3, 6), torch.full((3,), 0.4, dtype=torch.float64)
    matched = MMPS(problem.flow.velocity, problem.observations, path=path, iterations=10)
    torch.testing.assert_close(guided.data(x, t), matched.data(x, t), rtol=1e-5, atol=1e-5)


def test_other_data_are_biased_where_moment_matching_is_not():
    problem = gaussian_problem()
    found = [
        errors(affine_law(make(problem.flow.velocity, problem.observations), 6, 20), problem.posterior)
        for make in (PseudoinverseGuidance, MMPS)
    ]
    assert found[0][0] > max(0.05, 20 * found[1][0])
    assert found[0][2] > 10 * found[1][2]


def test_one_iteration_is_exact_for_a_mask():
    """Sensors that share no coordinate and have one noise: the system is a multiple of the identity."""
    problem, x, t = gaussian_problem(), draw(3, 6), torch.full((3,), 0.4, dtype=torch.float64)
    observations = Observations(lambda x: x[:, [0, 3, 4]], draw(3), 0.2)
    one, many = (
        PseudoinverseGuidance(problem.flow.velocity, observations, iterations=k, tolerance=0.0).data(x, t)
        for k in (1, 50)
    )
    torch.testing.assert_close(one, many, rtol=1e-12, atol=1e-12)
