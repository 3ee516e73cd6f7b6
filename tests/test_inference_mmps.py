"""MMPS: exact for linear-Gaussian problems, at every time and at the end; mixtures, solvers, few iterations."""

import pytest
import torch
from posterior_oracles import affine_law, draw, errors, gaussian_problem, mixture_problem

from physflow.generative import RK4, BridgePath, CondOT, Cosine, LinearPath, integrate
from physflow.inference.linear_gaussian import linear_gaussian_posterior
from physflow.inference.mmps import MMPS
from physflow.inference.observations import Observations
from physflow.pde.adjoint import implicit_solve


def bridge(width):
    """A Brownian bridge, and the noise that it adds, for the exact flow."""
    gamma = (lambda t: width * (t * (1 - t)).sqrt(), lambda t: width * (1 - 2 * t) / (2 * (t * (1 - t)).sqrt()))
    return BridgePath(width, independent=True), gamma


@pytest.mark.parametrize(
    ("path", "blur"),
    [(LinearPath(), 0.0), (CondOT(0.05), 0.0), (Cosine(), 0.0), bridge(0.5)],
    ids=["linear", "cond-ot", "cosine", "bridge"],
)
@pytest.mark.parametrize("t", [0.05, 0.3, 0.9, 0.99])
def test_the_prediction_is_the_exact_one_at_every_time(path, blur, t):
    """E[x1 | x_t, y] is that of a Gaussian seen twice: through the noise of the path and by the sensors."""
    problem, time = gaussian_problem(path=path, blur=blur), torch.full((3,), t, dtype=torch.float64)
    law, x = problem.flow.target, draw(3, 6, seed=9)
    a, b, _, _ = (float(share[0]) for share in path.shares(time))
    # Given x1, the bridge's noise has the variance (1 - t)^2 + s^2 t (1 - t).
    std = (b * float(path.score_scale(time)[0])) ** 0.5
    seen = linear_gaussian_posterior
    expected = []
    for point in x:
        mean, covariance = seen(law.mean, law.covariance, a * torch.eye(6, dtype=torch.float64), point, std)
        expected.append(seen(mean, covariance, problem.A, problem.y, problem.std)[0])
    guided = MMPS(problem.flow.velocity, problem.observations, path=path, iterations=10)
    torch.testing.assert_close(guided.data(x, time), torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", [LinearPath(), Cosine()], ids=repr)
def test_the_flow_ends_in_the_posterior(path):
    problem = gaussian_problem(path=path)
    guided = MMPS(problem.flow.velocity, problem.observations, path=path)
    off = [torch.tensor(errors(affine_law(guided, 6, steps), problem.posterior)) for steps in (10, 40)]
    assert (off[0] < torch.tensor([0.02, 0.05, 0.05])).all(), off
    assert (off[1] < torch.tensor([1e-3, 3e-3, 3e-3])).all(), off


def test_samples_have_the_moments_of_the_posterior():
    """2000 samples in ten steps: the mean to 2 % and the spread to 5 %, each beside three standard errors."""
    problem, n = gaussian_problem(), 2000
    posterior = problem.posterior
    x = integrate(MMPS(problem.flow.velocity, problem.observations), draw(n, 6, seed=4), steps=10)
    std = posterior.covariance.diagonal().sqrt()
    assert (x.mean(0) - posterior.mean).norm() < 0.02 * posterior.mean.norm() + 3 * std.norm() / n**0.5
    assert ((x.std(0) / std - 1).abs() < 0.05 + 3 / (2 * n) ** 0.5).all()


def test_too_few_iterations_fall_short():
    """Three sensors take three iterations."""
    problem = gaussian_problem()
    off = [
        errors(affine_law(MMPS(problem.flow.velocity, problem.observations, iterations=k), 6, 20), problem.posterior)[0]
        for k in (1, 2, 3)
    ]
    assert off[0] > off[1] > off[2]
    assert off[0] > 0.05


@pytest.mark.parametrize(("t_min", "bound"), [(0.001, 2e-3), (0.02, 2e-3), (0.1, 2e-2)])
def test_the_time_before_which_nothing_is_asked_hardly_matters(t_min, bound):
    problem = gaussian_problem()
    guided = MMPS(problem.flow.velocity, problem.observations, t_min=t_min)
    assert max(errors(affine_law(guided, 6, 20, RK4()), problem.posterior)) < bound


def test_modes_keep_about_their_weights():
    """The standard error of a weight near 0.87 is 0.009 for 1500 samples; the method's own error is about 0.06."""
    problem = mixture_problem()
    posterior = problem.posterior
    x = integrate(MMPS(problem.flow.velocity, problem.observations), draw(1500, 2, seed=4), steps=20)
    shares = posterior.responsibilities(x)
    weight, exact, prior = (
        float(w) for w in (shares[:, 0].mean(), posterior.weights[0], problem.flow.target.weights[0])
    )
    assert prior + 0.1 < weight < exact + 0.03
    assert abs(weight - exact) < 0.1
    for k in range(2):
        own = x[shares.argmax(1) == k]
        std = posterior.covariances[k].diagonal().sqrt()
        assert ((own.mean(0) - posterior.means[k]).abs() < 0.25 * std + 4 * std / len(own) ** 0.5).all()


def test_a_solver_with_an_adjoint_observes_like_any_other_operator():
    L = 2 * torch.eye(6, dtype=torch.float64) - torch.ones(6, 6).triu(1).tril(1) - torch.ones(6, 6).tril(-1).triu(-1)

    def solve(x):
        return torch.linalg.solve(torch.diag_embed(x.exp()) + L, torch.ones_like(x))

    def residual(x, p):
        return 1 - x.exp() * p - p @ L

    def adjoint(g, x):
        return torch.linalg.solve(torch.diag_embed(x.exp()) + L, g)

    problem, x, t = gaussian_problem(), draw(3, 6), torch.full((3,), 0.5, dtype=torch.float64)
    found = [
        MMPS(problem.flow.velocity, Observations(operator, problem.y, 0.05)).data(x, t)
        for operator in (lambda u: solve(u)[:, 1:4], lambda u: implicit_solve(solve, adjoint, residual, u)[:, 1:4])
    ]
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
