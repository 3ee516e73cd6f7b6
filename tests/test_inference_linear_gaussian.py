"""The linear-Gaussian posterior: scipy's densities, rejection, limits, and the wording of errors."""

import pytest
import torch
from scipy.stats import multivariate_normal

from physflow.inference.linear_gaussian import linear_gaussian_posterior


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(n=4, m=2):
    root = draw(n, n)
    return draw(n, seed=1), root @ root.T, draw(m, n, seed=2), draw(m, seed=3)


@pytest.mark.parametrize("std", [0.4, torch.tensor([0.1, 2.0])])
def test_bayes_rule_holds_for_the_densities(std):
    mean, P, A, y = problem()
    m, S = linear_gaussian_posterior(mean, P, A, y, std)
    R = torch.as_tensor(std, dtype=torch.float64).square().expand(2).diag()
    evidence = multivariate_normal(A @ mean, A @ P @ A.T + R).logpdf(y)
    for u in draw(5, 4, seed=4):
        joint = multivariate_normal(mean, P).logpdf(u) + multivariate_normal(A @ u, R).logpdf(y)
        assert multivariate_normal(m, S).logpdf(u) == pytest.approx(joint - evidence, rel=1e-9, abs=1e-9)


def test_it_is_what_draws_near_the_observation_have():
    """Draws weighted by their likelihood; the errors are the standard ones of 200 000 of them, allowed fourfold."""
    mean, P, A, y = problem(3, 1)
    m, S = linear_gaussian_posterior(mean, P, A, y, 0.7)
    u = mean + draw(200_000, 3, seed=5) @ torch.linalg.cholesky(P).T
    weights = torch.softmax(-0.5 * ((y - u @ A.T) / 0.7).square().sum(1), dim=0)
    found = weights @ u
    errors = (weights.square() @ (u - found).square()).sqrt()
    assert ((found - m).abs() < 4 * errors).all()
    squares = (u - found).square()
    spread = weights @ squares
    assert ((spread - S.diagonal()).abs() < 4 * (weights.square() @ (squares - spread).square()).sqrt()).all()


def test_one_at_a_time_is_all_at_once():
    mean, P, A, y = problem()
    std = torch.tensor([0.3, 1.5])
    m, S = linear_gaussian_posterior(mean, P, A[:1], y[:1], std[:1])
    m, S = linear_gaussian_posterior(m, S, A[1:], y[1:], std[1:])
    together = linear_gaussian_posterior(mean, P, A, y, std)
    torch.testing.assert_close(m, together[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(S, together[1], rtol=1e-10, atol=1e-10)


def test_the_covariance_stays_positive_where_the_noise_is_tiny():
    mean, P, A, y = problem(6, 6)
    m, S = linear_gaussian_posterior(mean, P, A, y, 1e-7)
    torch.testing.assert_close(A @ m, y, rtol=1e-4, atol=1e-4)
    assert torch.linalg.eigvalsh((S + S.T) / 2).min() > 0


def test_useless_sensors_leave_the_prior():
    mean, P, A, y = problem()
    m, S = linear_gaussian_posterior(mean, P, A, y, 1e8)
    torch.testing.assert_close(m, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(S, P, rtol=1e-10, atol=1e-10)


def test_impossible_problems():
    mean, P, A, y = problem()
    message = r"A \(m, n\) and y \(m,\), got \(4,\), \(4, 4\), \(4, 2\) and \(2,\)"
    with pytest.raises(ValueError, match=message):
        linear_gaussian_posterior(mean, P, A.T, y, 1.0)
    for std in (0.0, torch.ones(3)):
        with pytest.raises(ValueError, match=r"positive noise_std, one number or of shape \(2,\), got"):
            linear_gaussian_posterior(mean, P, A, y, std)
