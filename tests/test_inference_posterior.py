"""Posteriors over normal coordinates, and what draws from them: closed forms and quadrature."""

import math

import numpy as np
import pytest
import torch

from physflow.inference import (
    Annealed,
    Gaussian,
    Hamiltonian,
    Observations,
    Posterior,
    PreconditionedCrankNicolson,
    annealed,
    laplace,
    run_chains,
    sample_posterior,
)
from physflow.inference.chains import Chains

KERNELS = (PreconditionedCrankNicolson(), Hamiltonian(), Hamiltonian(4))
A = torch.tensor([[1.0, 0.5, 0.0], [0.0, -1.0, 2.0]], dtype=torch.float64)
Y, STD = torch.tensor([1.0, -0.5], dtype=torch.float64), torch.tensor([0.3, 0.5], dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def seen(forward, values, noise_std, dimension, block=1024):
    return Posterior(Observations(forward, values, torch.as_tensor(noise_std)), dimension, block)


def linear():
    return seen(lambda z: z @ A.T, Y, STD, 3)


def exact():
    """Mean, covariance and log evidence of the linear problem, in closed form."""
    scaled = A / STD[:, None]
    covariance = torch.linalg.inv(scaled.T @ scaled + torch.eye(3, dtype=torch.float64))
    mean = covariance @ scaled.T @ (Y / STD)
    S = A @ A.T + torch.diag(STD**2)
    evidence = -0.5 * Y @ torch.linalg.solve(S, Y) - 0.5 * S.logdet() + STD.log().sum()
    return mean, covariance, float(evidence)


def two_wells():
    """One coordinate of which the square is seen: two modes of equal weight, with moments by quadrature."""
    return seen(lambda z: z**2, torch.tensor([1.0], dtype=torch.float64), 0.3, 1)


def two_wells_moments():
    z = np.linspace(-6, 6, 20001)
    density = np.exp(-0.5 * ((1 - z**2) / 0.3) ** 2 - 0.5 * z**2) / math.sqrt(2 * math.pi)
    total = np.trapezoid(density, z)
    return np.trapezoid(z**2 * density, z) / total, np.trapezoid(z**4 * density, z) / total, math.log(total)


def assert_law(z, mean, covariance, worth):
    """Moments of draws within four standard errors, for draws worth `worth` independent ones."""
    std = covariance.diagonal().sqrt()
    assert ((z.mean(0) - mean).abs() < 4 * std / worth**0.5).all()
    found = (z - mean).T @ (z - mean) / len(z)
    error = (std[:, None].square() * std.square() + covariance.square()).sqrt() / worth**0.5
    assert ((found - covariance).abs() < 4 * error).all()


def test_the_gradient_of_the_potential_is_its_derivative():
    posterior = seen(lambda z: torch.stack([z.sin().sum(1), z.prod(1)], 1), Y, STD, 3, block=2)
    z = torch.randn(5, 3, dtype=torch.float64, generator=generator())
    potential, gradient = posterior.potential_and_gradient(z)
    assert torch.equal(potential, posterior.potential(z))
    h = 1e-6
    for k in range(3):
        step = h * torch.eye(3, dtype=torch.float64)[k]
        slope = (posterior.potential(z + step) - posterior.potential(z - step)) / (2 * h)
        torch.testing.assert_close(gradient[:, k], slope, rtol=1e-6, atol=1e-6)


def test_evaluations_are_counted_for_every_item():
    posterior = linear()
    posterior.potential(torch.zeros(5, 3, dtype=torch.float64))
    posterior.potential_and_gradient(torch.zeros(4, 3, dtype=torch.float64))
    assert (posterior.forwards, posterior.adjoints) == (9, 4)
    posterior.linearised(torch.zeros(3, dtype=torch.float64))
    assert (posterior.forwards, posterior.adjoints) == (11, 6)


def test_no_items_have_no_potentials():
    empty = torch.zeros(0, 3, dtype=torch.float64)
    assert linear().potential(empty).shape == (0,)
    assert [part.shape for part in linear().potential_and_gradient(empty)] == [(0,), (0, 3)]


def test_an_item_without_a_solution_is_impossible_and_does_not_touch_the_others():
    def forward(z):
        return torch.where(z[:, :1] > 1, torch.nan, z @ A.T)

    posterior = seen(forward, Y, STD, 3)
    z = torch.tensor([[0.2, 0.1, 0.3], [2.0, 0.0, 0.0]], dtype=torch.float64)
    potential, gradient = posterior.potential_and_gradient(z)
    alone, slope = linear().potential_and_gradient(z[:1])
    assert potential[1] == torch.inf
    assert (gradient[1] == 0).all()
    torch.testing.assert_close(potential[:1], alone)
    torch.testing.assert_close(gradient[:1], slope)


def test_the_jacobian_is_that_of_the_map_at_any_block():
    z = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    for block in (1, 2, 8):
        posterior = seen(lambda z: (z**2) @ A.T, Y, STD, 3, block)
        r, J = posterior.linearised(z)
        torch.testing.assert_close(r, (Y - z**2 @ A.T) / STD)
        torch.testing.assert_close(J, A * (2 * z) / STD[:, None])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected coordinates of shape \(batch, 3\) in float64"):
        linear().potential(torch.zeros(2, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="in float64, got"):
        linear().potential(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="expected the operator to return shape"):
        seen(lambda z: z, Y, STD, 3).potential(torch.zeros(2, 3, dtype=torch.float64))


def test_laplace_is_exact_for_a_linear_map():
    mean, covariance, _ = exact()
    found = laplace(linear(), steps=60, tolerance=1e-14)
    torch.testing.assert_close(found.mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.factor @ found.factor.T, covariance)


def test_laplace_finds_a_mode_of_a_curved_one():
    found = laplace(two_wells(), torch.tensor([0.4], dtype=torch.float64), tolerance=1e-12)
    # Phi' + z = 0: -2 z (1 - z^2) / 0.09 + z = 0.
    torch.testing.assert_close(found.mean, torch.tensor([math.sqrt(1 - 0.045)], dtype=torch.float64), rtol=1e-5, atol=0)


def test_laplace_says_when_it_found_no_mode():
    with pytest.warns(RuntimeWarning, match="nats above a mode.*allow more than 1 steps"):
        laplace(two_wells(), torch.tensor([5.0], dtype=torch.float64), steps=1)


def test_laplace_needs_a_start():
    posterior = seen(lambda z: z.log(), Y[:1], 1.0, 1)
    with pytest.raises(ValueError, match="start elsewhere"):
        laplace(posterior)


def test_whitening_is_the_inverse_of_the_coordinates():
    gaussian = Gaussian(torch.tensor([1.0, -1.0]).double(), torch.tensor([[2.0, 0.0], [0.7, 0.5]]).double())
    w = torch.randn(4, 2, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(gaussian.whitened(gaussian.coordinates(w)), w)
    assert_law(gaussian.draw(4000, generator(1)), gaussian.mean, gaussian.factor @ gaussian.factor.T, 4000)
    wide = gaussian.widened(3.0)
    torch.testing.assert_close(wide.factor @ wide.factor.T, 9 * gaussian.factor @ gaussian.factor.T)


def test_a_refitted_gaussian_is_that_of_many_draws_and_regular_for_few():
    law = Gaussian(torch.tensor([1.0, -1.0]).double(), torch.tensor([[2.0, 0.0], [0.007, 0.01]]).double())
    base = Gaussian(torch.zeros(2).double(), torch.diag(torch.tensor([1.0, 0.02])).double())
    many = base.refitted(law.draw(20_000, generator()))
    torch.testing.assert_close(many.factor @ many.factor.T, law.factor @ law.factor.T, rtol=0.05, atol=0)
    few = Gaussian.prior(5).refitted(torch.randn(3, 5, dtype=torch.float64, generator=generator()))
    assert torch.linalg.eigvalsh(few.factor @ few.factor.T).min() > 0.05


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_annealed_slope_is_the_derivative_of_the_energy(beta):
    start = Gaussian(torch.ones(3).double(), torch.tensor([[1.0, 0, 0], [0.5, 2, 0], [0, 1, 0.3]]).double())
    law = Annealed(linear(), start, beta)
    z = torch.randn(4, 3, dtype=torch.float64, generator=generator())
    slope, h = law.slope(law.state(z, gradient=True)), 1e-5
    for k in range(3):
        step = h * torch.eye(3, dtype=torch.float64)[k]
        up, down = (law.energy(law.state(z + sign * step, gradient=False)) for sign in (1, -1))
        torch.testing.assert_close(slope[:, k], (up - down) / (2 * h), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="expected a state with its gradient"):
        law.slope(law.state(z, gradient=False))


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize("seen_from", ["prior", "elsewhere"])
def test_every_kernel_keeps_the_law(kernel, seen_from):
    """Draws of the posterior are still draws of it after large moves, a good part of them rejected."""
    mean, covariance, _ = exact()
    law = Annealed(linear(), Gaussian.prior(3))
    reference = Gaussian.prior(3) if seen_from == "prior" else Gaussian(mean + 0.3, torch.linalg.cholesky(covariance))
    draw, n = generator(3), 20_000
    state = law.state(Gaussian(mean, torch.linalg.cholesky(covariance)).draw(n, draw), kernel.gradient)
    before, rates = state.z, []
    for _ in range(3):
        state, probability = kernel.move(law, reference, state, 0.3 if seen_from == "prior" else 0.8, draw)
        rates.append(float(probability.mean()))
    assert min(rates) > 0.05
    assert max(rates) < 0.999
    assert ((state.z - before).abs().sum(1) > 0).double().mean() > 0.1
    assert_law(state.z, mean, covariance, n)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_without_observations_that_say_anything_every_move_is_accepted(kernel):
    posterior = seen(lambda z: 0 * z, torch.zeros(2).double(), 1.0, 2)
    law = Annealed(posterior, Gaussian.prior(2))
    state = law.state(torch.randn(50, 2, dtype=torch.float64, generator=generator()), kernel.gradient)
    _, probability = kernel.move(law, Gaussian.prior(2), state, 1.0, generator(1))
    torch.testing.assert_close(probability, torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_chains_draw_from_the_posterior(kernel):
    mean, covariance, _ = exact()
    chains = run_chains(linear(), chains=50, draws=200, burn_in=200, kernel=kernel, seed=1)
    assert chains.z.shape == (50, 200, 3)
    # The reference fits this law: steps are as long as they can be, and yet accepted.
    assert chains.acceptance > 0.9
    assert chains.step > 1
    assert_law(chains.z.flatten(0, 1), mean, covariance, 50 * 200 / 10)


def test_chains_are_repeatable_thinned_and_start_where_they_are_told():
    start = torch.zeros(4, 3, dtype=torch.float64)
    every = run_chains(linear(), 4, 6, burn_in=8, start=start, seed=2)
    second = run_chains(linear(), 4, 3, burn_in=8, thin=2, start=start, seed=2)
    assert torch.equal(every.z[:, 1::2], second.z)
    assert not torch.equal(every.z, run_chains(linear(), 4, 6, burn_in=8, start=start, seed=3).z)


def test_chains_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="expected one chain, draw and move or more"):
        run_chains(linear(), draws=0)
    with pytest.raises(ValueError, match=r"expected starts of shape \(4, 3\), got \(4, 2\)"):
        run_chains(linear(), 4, start=torch.zeros(4, 2))
    posterior = seen(lambda z: z.log(), Y[:1], 1.0, 1)
    with pytest.raises(ValueError, match="4 of 4 chains start where the potential is not finite"):
        run_chains(posterior, 4, start=-torch.ones(4, 1))
    with pytest.raises(ValueError, match="expected at least one leap"):
        Hamiltonian(0)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize("seen_from", ["prior", "laplace"])
def test_annealing_draws_from_a_linear_posterior_and_finds_its_evidence(kernel, seen_from):
    mean, covariance, evidence = exact()
    reference = None if seen_from == "prior" else laplace(linear()).widened(1.5)
    found = annealed(linear(), 4000, reference, kernel, moves=6, seed=1)
    assert found.betas[-1] == 1
    assert sorted(found.betas) == list(found.betas)
    assert_law(found.z, mean, covariance, 4000 / 10)
    assert abs(found.log_evidence - evidence) < 0.15
    assert 10 < found.ancestors <= 4000


def test_annealing_keeps_both_modes():
    second, fourth, evidence = two_wells_moments()
    found = annealed(two_wells(), 4000, moves=6, seed=1)
    assert abs(float((found.z > 0).double().mean()) - 0.5) < 0.05
    # Standard errors of moments of at least 400 independent draws: z^2 has a standard deviation of about 0.3.
    assert abs(float(found.z.square().mean()) - second) < 4 * (fourth - second**2) ** 0.5 / 20
    assert abs(found.log_evidence - evidence) < 0.1


def test_annealing_forgets_particles_without_a_solution():
    posterior = seen(lambda z: torch.where(z > 0.5, torch.nan, z), Y[:1], 1.0, 1)
    found = annealed(posterior, 500, seed=0)
    assert found.z.max() <= 0.5


def test_all_of_it_runs_where_gradients_are_switched_off():
    with torch.inference_mode():
        found = annealed(linear(), 20, laplace(linear()), seed=1)
        chains = run_chains(linear(), 4, 2, burn_in=2)
    assert found.z.isfinite().all()
    assert chains.z.isfinite().all()


def test_the_windows_of_a_burn_in_are_no_shorter_than_a_quarter(monkeypatch):
    fitted = []
    monkeypatch.setattr("physflow.inference.kernels.Tuned.refit", lambda self, z: fitted.append(self.adapted))
    for burn_in, expected in ((100, [25, 50, 75]), (101, [26, 52, 78]), (7, [2, 4, 6])):
        fitted.clear()
        run_chains(linear(), 4, 1, burn_in=burn_in)
        assert fitted == expected


def test_annealing_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="expected two particles and one move"):
        annealed(linear(), 1)
    with pytest.raises(ValueError, match="must lie between 0 and 1, got 1"):
        annealed(linear(), 10, share=1)
    with pytest.raises(ValueError, match="no particle of the reference has a finite potential"):
        annealed(seen(lambda z: z * torch.nan, Y[:1], 1.0, 1), 10)


def test_the_step_of_chains_finds_the_acceptance_where_the_law_is_no_gaussian():
    posterior = seen(lambda z: z.square().sum(1, keepdim=True), torch.tensor([9.0]).double(), 0.2, 3)
    for kernel in KERNELS:
        start = 3 * torch.nn.functional.normalize(torch.randn(50, 3, generator=generator()))
        chains = run_chains(posterior, 50, 100, burn_in=200, kernel=kernel, start=start)
        assert abs(chains.acceptance - kernel.acceptance) < 0.1


@pytest.mark.parametrize("start", ["laplace", "prior"])
def test_short_chains_draw_from_a_linear_posterior(start):
    mean, covariance, _ = exact()
    found = sample_posterior(linear(), start, seed=1)
    assert found.z.shape == (64, 20, 3)
    assert_law(found.z.flatten(0, 1), mean, covariance, 64 * 20 / 4)


def test_short_chains_of_a_curved_posterior_have_its_spread():
    """A shell of which the Laplace approximation knows one point: quadrature over its radius is exact."""
    posterior = seen(lambda z: z.square().sum(1, keepdim=True), torch.tensor([4.0]).double(), 1.0, 3)
    r = torch.linspace(0, 6, 20001, dtype=torch.float64)
    density = r**2 * torch.exp(-0.5 * (r**2 - 4) ** 2 - 0.5 * r**2)
    variance = float((density * r**2).sum() / density.sum()) / 3
    found = sample_posterior(posterior, chains=200, burn_in=20, draws=20, seed=2).z.flatten(0, 1)
    # The squares of 200 chains, each worth one draw at least, of standard deviation about 1.
    assert found.square().mean(0).sub(variance).abs().max() < 4 / 200**0.5
    assert found.mean(0).abs().max() < 4 * variance**0.5 / 200**0.5


def test_short_chains_from_the_prior_find_both_modes():
    second, fourth, _ = two_wells_moments()
    found = sample_posterior(two_wells(), "prior", chains=500, seed=1).z
    assert abs(float((found > 0).double().mean()) - 0.5) < 4 * 0.5 / 500**0.5
    assert abs(float(found.square().mean()) - second) < 4 * (fourth - second**2) ** 0.5 / 500**0.5


def test_short_chains_do_not_begin_where_there_is_no_solution():
    posterior = seen(lambda z: torch.where(z > 0.8, torch.nan, z), Y[:1] / 2, 1.0, 1)
    found = sample_posterior(posterior, chains=100, burn_in=0, draws=1, seed=0)
    assert found.z.max() <= 0.8
    assert found.z.unique().numel() > 50


def test_short_chains_are_repeatable():
    settings = {"chains": 8, "burn_in": 4, "draws": 2}
    first, again, other = (sample_posterior(linear(), **settings, seed=seed).z for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_short_chains_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="unknown start 'laplac'; did you mean 'laplace'"):
        sample_posterior(linear(), "laplac")
    for name in ("chains", "draws"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got 0"):
            sample_posterior(linear(), **{name: 0})
    with pytest.raises(ValueError, match="burn_in=-1"):
        sample_posterior(linear(), burn_in=-1)
    with pytest.raises(ValueError, match="not finite at the start of the descent"):
        sample_posterior(seen(lambda z: z * torch.nan, Y[:1], 1.0, 1))


@pytest.mark.parametrize(
    ("n", "draws"), [(1, {4}), (3, {4}), (4, {4, 2}), (6, {4, 2}), (7, {4, 3, 1}), (15, {*range(5)})]
)
def test_draws_are_taken_from_all_chains_alike(n, draws):
    """Three chains of five draws, which say where they are from."""
    z = torch.stack(torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij"), -1)
    taken = Chains(z, 1.0, 1.0).spread_out(n)
    assert len(taken.unique(dim=0)) == n
    counts = torch.bincount(taken[:, 0].long(), minlength=3)
    assert counts.max() - counts.min() <= 1
    assert set(taken[:, 1].tolist()) == draws
    for wrong in (0, 16):
        with pytest.raises(ValueError, match=f"expected one to 15 draws, of 3 chains with 5 each, got {wrong}"):
            Chains(z, 1.0, 1.0).spread_out(wrong)
