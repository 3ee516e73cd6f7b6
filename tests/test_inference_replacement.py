"""Replacement: observed numbers exact, the others biased, noise kept or fresh, steps undone, and errors."""

import pytest
import torch
from posterior_oracles import Problem, affine_law, draw, errors, gaussian_problem

from physflow.data.toys import GaussianMixture
from physflow.generative import RK4, Cosine, Euler, Heun, LinearPath, integrate
from physflow.inference.mmps import MMPS
from physflow.inference.replacement import Replacement

MASK = torch.tensor([True, False, True, False, False, False])
Y = torch.tensor([0.7, -1.2], dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def masked_problem(path=None, covariance=None):
    flow = gaussian_problem(path=path).flow
    if covariance is not None:
        flow = GaussianMixture(flow.target.weights, flow.target.means, covariance[None]).flow(flow.path)
    return Problem(flow, torch.eye(6, dtype=torch.float64)[MASK], Y, torch.full((2,), 1e-4, dtype=torch.float64))


@pytest.mark.parametrize("solver", [Euler(), Heun(), RK4()], ids=repr)
@pytest.mark.parametrize("path", [LinearPath(), Cosine()], ids=repr)
@pytest.mark.parametrize("settings", [{}, {"generator": 1}, {"generator": 1, "resample": 2}], ids=str)
def test_at_the_end_the_observed_numbers_are_the_values(solver, path, settings):
    settings = {k: seeded(v) if k == "generator" else v for k, v in settings.items()}
    replacement = Replacement(MASK, Y, path=path, solver=solver, **settings)
    x = integrate(masked_problem(path).flow.velocity, draw(5, 6), replacement, 4)
    torch.testing.assert_close(x[:, MASK], Y.expand(5, 2), rtol=0, atol=1e-15)


def test_a_sample_keeps_its_noise_on_the_way():
    x0, flow = draw(4, 6), masked_problem().flow
    states = integrate(flow.velocity, x0, Replacement(MASK, Y), 5, trajectory=True)
    for state, t in zip(states, torch.linspace(0, 1, 6, dtype=torch.float64), strict=True):
        torch.testing.assert_close(state[:, MASK], t * Y + (1 - t) * x0[:, MASK], rtol=1e-12, atol=1e-12)
    half = integrate(flow.velocity, x0, Replacement(MASK, Y), 2, t1=0.4)
    torch.testing.assert_close(integrate(flow.velocity, half, Replacement(MASK, Y), 3, t0=0.4), states[-1])


def test_fresh_noise_has_its_law_and_comes_from_the_generator():
    x0, flow, n = torch.zeros(4000, 6, dtype=torch.float64), masked_problem().flow, 4000
    for resample in (0, 1):
        make = [Replacement(MASK, Y, generator=seeded(3), resample=resample, solver=Euler()) for _ in range(2)]
        first, again = (integrate(flow.velocity, x0, r, 2, t1=0.6)[:, MASK] for r in make)
        assert torch.equal(first, again)
        # Standard errors of a mean and of a standard deviation, allowed fourfold.
        assert ((first.mean(0) - 0.6 * Y).abs() < 4 * 0.4 / n**0.5).all()
        assert ((first.std(0) / 0.4 - 1).abs() < 4 / (2 * n) ** 0.5).all()


def test_independent_coordinates_end_in_the_posterior():
    problem = masked_problem(covariance=torch.linspace(0.2, 2, 6, dtype=torch.float64).diag())
    law = affine_law(problem.flow.velocity, 6, 40, Replacement(MASK, Y))
    assert max(errors(law, problem.posterior)) < 3e-3


def test_dependent_ones_are_biased_and_undoing_steps_lessens_it():
    """The mean is off by 34 %; ten repetitions take a third off it at least, beyond four standard errors."""
    problem, n = masked_problem(), 4000
    posterior = problem.posterior
    off = errors(affine_law(problem.flow.velocity, 6, 20, Replacement(MASK, Y)), posterior)
    matched = errors(affine_law(MMPS(problem.flow.velocity, problem.observations), 6, 20), posterior)
    assert off[0] > 0.1
    assert off[0] > 20 * matched[0]
    replacement = Replacement(MASK, Y, resample=10, generator=seeded(2))
    x = integrate(problem.flow.velocity, draw(n, 6, seed=5), replacement, 10)
    noise = 4 * (posterior.covariance.trace() / n).sqrt()
    assert (x.mean(0) - posterior.mean).norm() + noise < 2 / 3 * off[0] * posterior.mean.norm()


@pytest.mark.parametrize("path", [LinearPath(), Cosine()], ids=repr)
def test_a_step_that_is_undone_keeps_the_law_of_the_path(path):
    """White data are white at t = 1; undone to t they have the variance alpha^2 + sigma^2, within 4 standard errors."""
    replacement, x = Replacement(MASK, Y, path=path, resample=1, generator=seeded(1)), draw(40_000, 6)
    seen = []

    def velocity(x, t, z=None):
        seen.append((float(t[0]), x))
        return torch.zeros_like(x)

    integrate(velocity, x, Replacement(**{**vars(replacement), "solver": Euler()}), 1, t0=0.5)
    (_, before), (t, undone) = seen
    assert torch.equal(before, x)
    alpha, sigma = path.alpha(torch.tensor(t)), path.sigma(torch.tensor(t))
    free = undone[:, ~MASK]
    assert ((free.var(0) / (alpha**2 + sigma**2) - 1).abs() < 4 * (2 / 40_000) ** 0.5).all()
    torch.testing.assert_close(undone[:, MASK].mean(0), alpha * Y, rtol=0, atol=4 * float(sigma) / 200)


def test_items_of_any_shape_and_precision():
    mask = torch.zeros(2, 3, 1, dtype=torch.bool)
    mask[0, 1] = mask[1, 0] = True
    x = integrate(lambda x, t: -x, draw(4, 2, 3, 1).float(), Replacement(mask, Y), 3)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[:, mask], Y.float().expand(4, 2))
    assert integrate(lambda x, t: -x, draw(0, 2, 3, 1), Replacement(mask, Y), 3).shape == (0, 2, 3, 1)


def test_impossible_replacements():
    with pytest.raises(ValueError, match=r"mask of torch.bool with 2 points and values of shape \(3,\)"):
        Replacement(MASK, draw(3))
    with pytest.raises(ValueError, match=r"a mask of torch.float64"):
        Replacement(MASK.double(), Y)
    with pytest.raises(
        ValueError, match="expected finite values, some are NaN or infinite; leave them out of the mask"
    ):
        Replacement(MASK, Y * torch.nan)
    with pytest.raises(ValueError, match=r"undoing steps draws random numbers; pass a torch.Generator"):
        Replacement(MASK, Y, resample=1)
    with pytest.raises(ValueError, match="resample must be a whole number of at least 0, got -1"):
        Replacement(MASK, Y, resample=-1)
    with pytest.raises(ValueError, match=r"from noise to data, but a step leads from t = 1 to 0.5"):
        integrate(lambda x, t: -x, draw(2, 6), Replacement(MASK, Y), 2, t0=1, t1=0)
    with pytest.raises(ValueError, match=r"items of the mask's shape \(6,\), got \(5,\)"):
        integrate(lambda x, t: -x, draw(2, 5), Replacement(MASK, Y), 2)
