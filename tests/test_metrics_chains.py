"""Chains: autoregressions of known correlation, definitions by loops, chains that did not mix, wording of errors."""

import math

import numpy as np
import pytest
import torch
from scipy import signal, stats

from physflow.metrics.chains import effective_sample_size, split_r_hat


def autoregression(phi, chains, draws, parameters, seed=0):
    """Stationary chains x_t = phi x_{t-1} + e_t of variance 1, shape (chains, draws, parameters)."""
    noise = np.random.default_rng(seed).standard_normal((chains, draws, parameters))
    noise[:, 1:] *= math.sqrt(1 - phi**2)
    return torch.from_numpy(signal.lfilter([1], [1, -phi], noise, axis=1))


def halves(draws):
    """The halves of the chains of one parameter as a list of arrays."""
    n = draws.shape[1] // 2
    return [part for chain in draws.numpy() for part in (chain[:n], chain[len(chain) - n :])]


def scores(chains):
    """Rank-normalised chains."""
    joined = np.concatenate(chains)
    ranks = [(joined < v).sum() + ((joined == v).sum() + 1) / 2 for v in joined]
    z = [stats.norm.ppf((r - 3 / 8) / (len(joined) + 1 / 4)) for r in ranks]
    return np.split(np.array(z), len(chains))


def r_hat_by_definition(chains):
    n = len(chains[0])
    w = np.mean([np.var(chain, ddof=1) for chain in chains])
    b = n * np.var([np.mean(chain) for chain in chains], ddof=1)
    return math.sqrt(((n - 1) / n * w + b / n) / w)


def ess_by_definition(chains):
    m, n = len(chains), len(chains[0])
    w = np.mean([np.var(chain, ddof=1) for chain in chains])
    var_plus = (n - 1) / n * w + np.var([np.mean(chain) for chain in chains], ddof=1)
    rho = [1.0]
    for t in range(1, n):
        gamma = [np.sum((c[: n - t] - c.mean()) * (c[t:] - c.mean())) / n for c in chains]
        rho.append(1 - (w - np.mean(gamma)) / var_plus)
    tau, least = -1.0, math.inf
    for k in range(n // 2):
        pair = rho[2 * k] + rho[2 * k + 1]
        if pair <= 0:
            break
        least = min(least, pair)
        tau += 2 * least
    return m * n / max(tau, 1 / math.log10(m * n))


CHAINS = [(1, 4), (2, 5), (3, 30), (4, 41)]


@pytest.mark.parametrize(("chains", "draws"), CHAINS)
@pytest.mark.parametrize("phi", [0.0, 0.8, -0.6])
@pytest.mark.parametrize("step", [0.0, 0.5], ids=["distinct", "ties"])
def test_both_diagnostics_by_their_definitions(chains, draws, phi, step):
    x = autoregression(phi, chains, draws, 2)
    if step:
        x = (x / step).round()
    for parameter in range(2):
        parts = halves(x[..., parameter])
        folded = [np.abs(part - np.median(np.concatenate(parts))) for part in parts]
        largest = max(r_hat_by_definition(scores(parts)), r_hat_by_definition(scores(folded)))
        assert split_r_hat(x)[parameter].item() == pytest.approx(largest, rel=1e-12)
        assert split_r_hat(x, rank=False)[parameter].item() == pytest.approx(r_hat_by_definition(parts), rel=1e-12)
        assert effective_sample_size(x)[parameter].item() == pytest.approx(ess_by_definition(scores(parts)), rel=1e-9)
        plain = effective_sample_size(x, rank=False)[parameter].item()
        assert plain == pytest.approx(ess_by_definition(parts), rel=1e-9)


@pytest.mark.parametrize("phi", [0.9, 0.5, 0.0, -0.4])
@pytest.mark.parametrize("rank", [True, False])
def test_the_effective_sample_size_of_an_autoregression(phi, rank):
    """n (1 - phi) / (1 + phi), as a mean over 60 parameters: within 4 standard errors, and 3 % for the cut sum."""
    x = autoregression(phi, 4, 2000, 60)
    ess, expected = effective_sample_size(x, rank), 8000 * (1 - phi) / (1 + phi)
    assert abs(float(ess.mean()) - expected) < 4 * float(ess.std()) / 60**0.5 + 0.03 * expected
    # Each of them is off by chance too, by some per cent.
    assert (ess / expected - 1).abs().max() < 0.5


@pytest.mark.parametrize("phi", [0.7, -0.4])
def test_the_mean_has_the_variance_of_the_law_over_the_effective_sample_size(phi):
    """The variance of 2000 means has a relative standard error of sqrt(2 / 2000): 4 of them, and 3 % for the sum."""
    x = autoregression(phi, 2, 500, 2000)
    ess = 1 / float((1 / effective_sample_size(x, rank=False)).mean())
    assert float(x.mean((0, 1)).var()) * ess == pytest.approx(1, rel=4 * math.sqrt(2 / 2000) + 0.03)


def test_chains_that_mixed_have_a_small_r_hat():
    r_hat = split_r_hat(autoregression(0.5, 4, 2000, 50))
    assert r_hat.max() < 1.01
    assert r_hat.min() > 0.999


@pytest.mark.parametrize("rank", [True, False])
def test_chains_in_different_places(rank):
    """For long chains R-hat is sqrt(1 + variance of the means over that within); ranks move it, not out of sight."""
    x = autoregression(0.0, 4, 4000, 1) + torch.tensor([-1.0, 0.0, 0.0, 1.0])[:, None, None]
    # Eight halves with means -1, -1, 0, 0, 0, 0, 1, 1.
    expected = math.sqrt(1 + 4 / 7)
    r_hat = split_r_hat(x, rank).item()
    assert r_hat > 1.2
    if not rank:
        assert r_hat == pytest.approx(expected, rel=0.02)
    assert effective_sample_size(x, rank).item() < 50


def test_a_drift_within_chains_is_seen():
    x = autoregression(0.0, 4, 1000, 1) + torch.linspace(-2, 2, 1000, dtype=torch.float64)[:, None]
    assert split_r_hat(x).item() > 1.2


def test_chains_of_different_widths_are_seen_by_folding_only():
    x = autoregression(0.0, 4, 1000, 1) * torch.tensor([1.0, 1.0, 1.0, 5.0])[:, None, None]
    assert split_r_hat(x, rank=False).item() < 1.01
    assert split_r_hat(x).item() > 1.1


def test_ranks_judge_a_law_without_a_mean():
    x = torch.from_numpy(np.random.default_rng(0).standard_cauchy((4, 1000, 20)))
    assert split_r_hat(x).max() < 1.01
    ess = effective_sample_size(x)
    # Independent draws: within 4 standard errors of their number.
    assert abs(float(ess.mean()) - 4000) < 4 * float(ess.std()) / 20**0.5 + 0.03 * 4000
    x[1] += 5
    assert split_r_hat(x).min() > 1.1


def test_the_bulk_does_not_depend_on_the_scale_of_the_parameter():
    x = autoregression(0.6, 3, 101, 4)
    assert torch.equal(effective_sample_size(x), effective_sample_size(x.exp()))
    assert not torch.equal(effective_sample_size(x, rank=False), effective_sample_size(x.exp(), rank=False))


def test_draws_that_balance_each_other_are_worth_more_and_not_without_end():
    x = autoregression(-0.99, 2, 500, 3)
    assert effective_sample_size(x).tolist() == pytest.approx([1000 * 3.0] * 3)


@pytest.mark.parametrize("rank", [True, False])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e9])
def test_chains_that_are_stuck(rank, value):
    """Values whose sums round are no exception: equal is equal."""
    together = torch.full((3, 41, 2), value, dtype=torch.float64)
    assert split_r_hat(together, rank).isnan().all()
    assert effective_sample_size(together, rank).isnan().all()
    apart = together + 0.3 * (1 + abs(value)) * torch.arange(3)[:, None, None]
    assert (split_r_hat(apart, rank) == math.inf).all()
    assert effective_sample_size(apart, rank).isnan().all()


@pytest.mark.parametrize("rank", [True, False])
def test_one_stuck_chain_among_others_is_seen(rank):
    x = autoregression(0.0, 4, 500, 2)
    x[0, :, 0] = 2.5
    r_hat, ess = split_r_hat(x, rank), effective_sample_size(x, rank)
    assert r_hat[0] > 1.1 > 1.02 > r_hat[1]
    assert ess[0] < 20 < 1000 < ess[1]


def test_two_values_have_no_folded_r_hat_and_the_other_counts():
    x = torch.tensor([0.0, 1.0]).repeat(3, 50)
    assert split_r_hat(x).item() == pytest.approx(math.sqrt(49 / 50))


@pytest.mark.parametrize("parameters", [(), (1,), (2, 3)])
@pytest.mark.parametrize("diagnostic", [split_r_hat, effective_sample_size])
def test_parameters_of_any_shape_and_precision(diagnostic, parameters):
    x = autoregression(0.3, 3, 21, 6).reshape(3, 21, 2, 3).float()
    chosen = {(): x[..., 0, 0], (1,): x[..., 0, :1], (2, 3): x}[parameters].requires_grad_()
    found = diagnostic(chosen)
    assert found.shape == parameters
    assert found.dtype == torch.float64
    assert found.flatten()[0] == diagnostic(x.double())[0, 0]


@pytest.mark.parametrize("diagnostic", [split_r_hat, effective_sample_size])
@pytest.mark.parametrize(
    ("draws", "words"),
    [
        (torch.zeros(9), r"four draws or more in a chain, got \(9,\); draws\[None\] is a single chain"),
        (torch.zeros(2, 3), r"expected draws of shape \(chains, draws, \*parameters\) with four draws or more"),
        (torch.zeros(0, 8, 2), r"got \(0, 8, 2\)"),
        (torch.zeros(2, 8, 0), r"got \(2, 8, 0\)"),
        (torch.zeros(2, 8) / 0, "draws hold values that are NaN or infinite; find the steps that made them"),
    ],
)
def test_impossible_draws(diagnostic, draws, words):
    with pytest.raises(ValueError, match=words):
        diagnostic(draws)
