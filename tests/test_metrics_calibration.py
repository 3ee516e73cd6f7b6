"""Calibration: the exact posterior of a conjugate model passes, wrong ones are seen, and the wording of errors.

The model: theta ~ N(0, 1) in each parameter, x = theta + N(0, 1), so that the posterior is N(x / 2, 1 / 2).
"""

import itertools
import math

import pytest
import torch
from scipy import stats

from physflow.metrics.calibration import TarpCoverage, simulation_ranks, tarp_coverage, tarp_error, uniformity

POSTERIORS = {
    "exact": lambda x, noise: x / 2 + math.sqrt(1 / 2) * noise,
    "narrow": lambda x, noise: x / 2 + math.sqrt(1 / 2) / 2 * noise,
    "wide": lambda x, noise: x / 2 + math.sqrt(1 / 2) * 2 * noise,
    "biased": lambda x, noise: x / 2 + math.sqrt(1 / 2) * (noise + 1),
    "prior": lambda x, noise: noise,
}
WRONG = ("narrow", "wide", "biased")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def simulated(posterior, cases, draws, *parameters, seed=0):
    """Draws of a posterior, the truths, and the observations."""
    generator = seeded(seed)
    theta, error = torch.randn(2, cases, *parameters, generator=generator, dtype=torch.float64)
    noise = torch.randn(cases, draws, *parameters, generator=generator, dtype=torch.float64)
    x = theta + error
    return POSTERIORS[posterior](x[:, None], noise), theta, x


@pytest.mark.parametrize("parameters", [(), (3,), (2, 3)])
def test_ranks_count_the_draws_below(parameters):
    draws, truths, _ = simulated("exact", 5, 7, *parameters)
    ranks = simulation_ranks(draws, truths)
    assert ranks.shape == truths.shape
    assert not ranks.is_floating_point()
    for case in range(5):
        assert torch.equal(ranks[case], sum((draw < truths[case]).long() for draw in draws[case]))


@pytest.mark.parametrize("draws", [1, 10, 63])
def test_the_ranks_of_the_exact_posterior_have_uniform_p_values(draws):
    """200 parameters are as many tests; their p-values against the uniform law, which chi-square only nears."""
    ranks = simulation_ranks(*simulated("exact", 300, draws, 200)[:2])
    p_values = uniformity(ranks, draws)
    assert p_values.shape == (200,)
    if draws == 1:
        # Two bins: the statistic takes few values, and only its level can be checked, within 4 standard errors.
        assert abs(float((p_values < 0.05).double().mean()) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 200)
    else:
        assert stats.kstest(p_values.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("posterior", WRONG)
def test_the_ranks_of_a_wrong_posterior_are_not_uniform(posterior):
    ranks = simulation_ranks(*simulated(posterior, 300, 50, 2)[:2])
    assert uniformity(ranks, 50).max() < 1e-6


def test_equal_draws_and_truths_are_ranked_uniformly():
    """A model that knows only the sign, from draws that do too: without chance between equals no rank were uniform."""
    draws, truths, _ = simulated("prior", 2000, 9)
    ranks = simulation_ranks(draws.sign(), truths.sign(), seeded(1))
    assert uniformity(ranks, 9) > 1e-3
    assert uniformity((draws.sign() < truths.sign()[:, None]).sum(1), 9) < 1e-6


@pytest.mark.parametrize(("draws", "bins"), [(9, 5), (9, 4), (6, 3), (4, 5), (100, 20)])
def test_uniformity_is_the_chi_square_test_of_the_bins(draws, bins):
    ranks = torch.randint(draws + 1, (200, 2), generator=seeded())
    edges = [math.ceil(b * (draws + 1) / bins) for b in range(bins + 1)]
    for parameter, p_value in enumerate(uniformity(ranks, draws, bins)):
        column = ranks[:, parameter]
        observed = [int(((column >= low) & (column < high)).sum()) for low, high in itertools.pairwise(edges)]
        expected = [200 * (high - low) / (draws + 1) for low, high in itertools.pairwise(edges)]
        assert sum(observed) == 200
        assert p_value.item() == pytest.approx(stats.chisquare(observed, expected).pvalue, rel=1e-12)


@pytest.mark.parametrize(
    ("cases", "draws", "bins"), [(1000, 99, 20), (50, 99, 10), (12, 99, 2), (500, 6, 7), (35, 6, 7)]
)
def test_the_default_bins_expect_five_cases(cases, draws, bins):
    ranks = torch.randint(draws + 1, (cases,), generator=seeded())
    assert uniformity(ranks, draws) == uniformity(ranks, draws, bins)
    assert uniformity(ranks, draws).shape == ()


@pytest.mark.parametrize("parameters", [(), (1,), (2,), (2, 3)])
def test_tarp_of_the_exact_posterior_stays_within_chance(parameters):
    """The p-values of 100 runs against a level of 10 %, within 4 standard errors; they err on the safe side."""
    found = [
        tarp_coverage(*simulated("exact", 100, 49, *parameters, seed=s)[:2], generator=seeded(10**6 + s))
        for s in range(100)
    ]
    p_values = torch.tensor([tarp_error(run)[1] for run in found])
    assert (p_values < 0.1).double().mean() < 0.1 + 4 * math.sqrt(0.09 / 100)
    # Not so safe as to see nothing: the mean is 1/2 but for the steps between the levels.
    assert abs(p_values.mean() - 0.5) < 0.1 + 4 * math.sqrt(1 / 12 / 100)


def test_the_expected_coverage_is_the_level_at_every_level():
    """Over 20000 cases within 4.5 standard errors at each of the few levels, from none to all.

    The truths are those of the seed 0: points drawn from that seed too would know them, and fail by far.
    """
    n, draws = 20_000, 4
    found = tarp_coverage(*simulated("exact", n, draws, 2)[:2])
    assert found.levels.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    deviation = (found.coverage - found.levels).abs()
    assert (deviation <= 4.5 * (found.levels * (1 - found.levels) / n).sqrt() + 1e-12).all()
    assert found.cases == n


@pytest.mark.parametrize("posterior", WRONG)
@pytest.mark.parametrize("parameters", [(1,), (3,)])
def test_tarp_sees_a_wrong_posterior(posterior, parameters):
    found = tarp_coverage(*simulated(posterior, 500, 99, *parameters)[:2])
    error, p_value = tarp_error(found)
    assert error == float((found.coverage - found.levels).abs().max()) > 0.05
    assert p_value < 0.01


def test_a_narrow_posterior_has_a_coverage_nearer_to_one_half():
    for posterior, sign in (("narrow", 1), ("wide", -1)):
        found = tarp_coverage(*simulated(posterior, 2000, 99, 1)[:2])
        low, high = (float((found.coverage - found.levels)[k]) for k in (10, 90))
        assert sign * low > 0.02
        assert sign * high < -0.02


def test_the_prior_is_calibrated_and_seen_by_points_that_know_the_observation():
    draws, truths, x = simulated("prior", 1000, 99, 2)
    assert uniformity(simulation_ranks(draws, truths), 99).min() > 1e-3
    assert tarp_error(tarp_coverage(draws, truths))[1] > 1e-3
    assert tarp_error(tarp_coverage(draws, truths, references=x))[1] < 1e-6
    # The exact posterior passes with the same points.
    draws, truths, x = simulated("exact", 1000, 99, 2)
    assert tarp_error(tarp_coverage(draws, truths, references=x))[1] > 1e-3


@pytest.mark.parametrize("side", [-1, 1])
def test_about_a_point_beyond_all_tarp_counts_ranks(side):
    draws, truths, _ = simulated("narrow", 40, 8)
    ranks = simulation_ranks(side * draws, side * truths)
    found = tarp_coverage(draws, truths, references=torch.full((40,), -100.0 * side))
    assert found.coverage.tolist() == [float((ranks < k).double().mean()) for k in range(10)]
    assert found.levels.tolist() == pytest.approx([k / 9 for k in range(10)])


def test_tarp_does_not_depend_on_units_and_survives_parameters_that_never_vary():
    draws, truths, x = simulated("biased", 60, 20, 3)
    found = tarp_coverage(draws, truths)
    unit, origin = torch.tensor([1e-3, 1.0, 1e6]), torch.tensor([0.1, 0.0, -1e5])
    assert torch.equal(found.coverage, tarp_coverage(draws * unit + origin, truths * unit + origin).coverage)
    draws[..., 1], truths[..., 1], x[..., 1] = 0.1, 0.1, 0.1
    rest = tarp_coverage(draws[..., ::2], truths[..., ::2], x[..., ::2])
    assert torch.equal(tarp_coverage(draws, truths, x).coverage, rest.coverage)


def test_the_generator_decides():
    draws, truths, _ = simulated("exact", 30, 10, 2)
    first, second = (tarp_coverage(draws, truths, generator=seeded(s)).coverage for s in (0, 1))
    assert torch.equal(first, tarp_coverage(draws, truths, generator=seeded()).coverage)
    assert not torch.equal(first, second)
    assert torch.equal(tarp_coverage(draws, truths).coverage, tarp_coverage(draws, truths).coverage)


def test_draws_that_copy_the_truth_are_calibrated():
    """All distances are equal, and their order is drawn."""
    truths = simulated("exact", 2000, 1, 2)[1]
    found = tarp_coverage(truths[:, None].expand(2000, 9, 2), truths)
    assert tarp_error(found)[1] > 1e-3


def test_the_error_and_its_p_value():
    levels = torch.tensor([0, 0.5, 1.0], dtype=torch.float64)
    error, p_value = tarp_error(TarpCoverage(levels, torch.tensor([0, 0.75, 1.0], dtype=torch.float64), 20))
    assert error == 0.25
    # Twenty points of which the largest deviation from the uniform law is 1/4.
    values = torch.cat([torch.linspace(0, 0.5, 16)[1:], torch.linspace(0.5, 1, 6)[1:]]).double().numpy()
    found = stats.kstest(values, "uniform")
    assert found.statistic == pytest.approx(0.25, abs=1e-6)
    assert p_value == pytest.approx(found.pvalue, rel=1e-3)
    assert tarp_error(TarpCoverage(levels, levels, 20)) == (0.0, 1.0)


@pytest.mark.parametrize("judge", [simulation_ranks, tarp_coverage])
@pytest.mark.parametrize(
    ("draws", "truths", "words"),
    [
        ((4, 5, 2), (5, 2), r"got \(4, 5, 2\) and \(5, 2\); the draws of a case are the second axis"),
        ((4,), (4,), r"expected draws of shape \(cases, draws, \*parameters\)"),
        ((0, 5, 2), (0, 2), r"expected draws and truths, got none: draws of shape \(0, 5, 2\)"),
        ((3, 0), (3,), r"expected draws and truths, got none: draws of shape \(3, 0\)"),
    ],
)
def test_impossible_shapes(judge, draws, truths, words):
    with pytest.raises(ValueError, match=words):
        judge(torch.zeros(draws), torch.zeros(truths))


def test_impossible_values():
    for judge in (simulation_ranks, tarp_coverage):
        with pytest.raises(ValueError, match="hold values that are NaN or infinite: leave those out"):
            judge(torch.full((3, 2), math.nan), torch.zeros(3))
    with pytest.raises(ValueError, match=r"one reference for each truth, of shape \(3,\), got \(2,\)"):
        tarp_coverage(torch.zeros(3, 2), torch.zeros(3), torch.zeros(2))


def test_impossible_ranks():
    ranks = torch.arange(40) % 10
    with pytest.raises(TypeError, match=r"expected ranks as whole numbers, got torch.float32; see simulation_ranks"):
        uniformity(ranks.float(), 9)
    with pytest.raises(ValueError, match=r"at least one, got \(0, 2\)"):
        uniformity(torch.zeros(0, 2, dtype=torch.long), 9)
    with pytest.raises(ValueError, match="ranks among 8 draws lie in 0 to 8, got some between 0 and 9; draws is L"):
        uniformity(ranks, 8)
    with pytest.raises(ValueError, match="ranks among one draw or more, got draws=0"):
        uniformity(ranks, 0)
    for bins in (1, 11):
        with pytest.raises(ValueError, match=f"expected 2 to 10 bins for 9 draws, got {bins}"):
            uniformity(ranks, 9, bins)
    with pytest.raises(ValueError, match="5 cases or more in each of 10 bins, but 40 cases leave 4 in one; take fewer"):
        uniformity(ranks, 9, 10)
    with pytest.raises(ValueError, match="5 cases or more in each of 2 bins, but 8 cases leave 4 in one"):
        uniformity(ranks[:8], 9)
    # Of seven ranks the second bin has three: half of the cases would be enough.
    with pytest.raises(ValueError, match=r"5 cases or more in each of 2 bins, but 11 cases leave 4\.71429 in one"):
        uniformity(ranks[:11] % 7, 6, 2)
