"""Ensembles: closed forms, exact identities of exchangeable values, direct sums, and the wording of errors."""

import math

import pytest
import torch
from scipy import stats

from physflow.metrics.ensembles import (
    coverage,
    crps,
    moment_errors,
    moment_floor,
    rank_counts,
    spread_skill,
    truth_ranks,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def rotated(values):
    """Each value in turn as the truth beside all others: exactly exchangeable, so that means over it are exact."""
    n = len(values)
    others = torch.stack([torch.cat([values[:i], values[i + 1 :]]) for i in range(n)], 1)
    return others, values


def crps_of_normal(mean, std, y):
    """Gneiting and Raftery, 2007, equation 21, with the sign of a score to be lowered."""
    z = (y - mean) / std
    return std * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))


@pytest.mark.parametrize("y", [-2.0, 0.0, 0.7, 5.0])
def test_crps_of_many_quantiles_is_that_of_the_normal_law(y):
    """The midpoint quantiles of a law stand for it better than draws: the tolerance is no matter of chance."""
    x = 1 + 2 * torch.from_numpy(stats.norm.ppf((torch.arange(20_000).double().numpy() + 0.5) / 20_000))
    score = crps(x[:, None], torch.tensor([y]), fair=False)
    assert score.item() == pytest.approx(crps_of_normal(1, 2, y), abs=1e-4)


@pytest.mark.parametrize("members", [2, 3, 10])
def test_the_fair_crps_of_small_ensembles_is_that_of_their_law_in_the_mean(members):
    """Within 4 standard errors; the plain one is too high by E|x - x'| / (2 M) = 1 / (M sqrt pi)."""
    n, y = 20_000, 0.4
    x, truth = normal(members, n), torch.full((n,), y)
    for score, expected in (
        (crps(x, truth), crps_of_normal(0, 1, y)),
        (crps(x, truth, fair=False), crps_of_normal(0, 1, y) + 1 / (members * math.sqrt(math.pi))),
    ):
        assert abs(float(score.mean()) - expected) < 4 * float(score.std()) / n**0.5


@pytest.mark.parametrize("members", [2, 3, 8])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_crps_is_the_double_sum(members, shift):
    x, y = normal(members, 3, 4, 5) + shift, normal(3, 4, 5, seed=1) + shift
    near = (x - y).abs().mean(0)
    pairs = (x[:, None] - x[None]).abs().sum((0, 1)) / (2 * members)
    assert crps(x, y) == pytest.approx(near - pairs / (members - 1), rel=1e-9, abs=1e-9)
    assert crps(x, y, fair=False) == pytest.approx(near - pairs / members, rel=1e-9, abs=1e-9)


def test_the_plain_crps_of_one_number_is_its_distance():
    x, y = normal(1, 6), normal(6, seed=1)
    assert torch.equal(crps(x, y, fair=False), (x[0] - y).abs())


def test_crps_is_the_integral_of_its_definition():
    x, y = torch.tensor([0.0, 1.0, 3.0])[:, None], torch.tensor([2.0])
    # F is 1/3 on [0, 1) and 2/3 on [1, 3); the truth steps at 2.
    assert crps(x, y, fair=False).item() == pytest.approx(1 / 9 + 4 / 9 + 1 / 9, rel=1e-14)


@pytest.mark.parametrize("members", [2, 3, 6, 25])
def test_spread_is_skill_for_exchangeable_values(members):
    """Over the rotations of any values the ratio is exactly 1, by the algebra of the factor (M + 1) / M."""
    found = spread_skill(*rotated(normal(members + 1, 4).exp()))
    assert found.ratio == pytest.approx(1, rel=1e-12)
    assert found.spread == pytest.approx(found.error * found.ratio, rel=1e-12)


def test_spread_and_error_of_a_hand_made_ensemble():
    x, y = torch.tensor([[0.0, 4.0], [2.0, 4.0]]), torch.tensor([4.0, 4.0])
    found = spread_skill(x, y)
    # The errors are 3 and 0, the variances 2 and 0, and the factor is 3 / 2.
    assert found.error == pytest.approx(math.sqrt(9 / 2))
    assert found.spread == pytest.approx(math.sqrt(3 / 2))
    assert found.ratio == pytest.approx(math.sqrt(1 / 3))


def test_a_spread_without_error_is_infinitely_wide():
    y = torch.tensor([1.0, 2.0])
    assert spread_skill(torch.stack([y - 1, y + 1]), y).ratio == math.inf
    assert math.isnan(spread_skill(torch.stack([y, y]), y).ratio)


@pytest.mark.parametrize("shape", [(3,), (4, 5), (2, 3, 5)])
def test_ranks_count_the_members_below(shape):
    x, y = normal(7, *shape), normal(*shape, seed=1)
    expected = torch.tensor([sum(v < t for v in column) for column, t in zip(x.flatten(1).T, y.flatten(), strict=True)])
    assert torch.equal(truth_ranks(x, y), expected.reshape(shape))
    assert torch.equal(rank_counts(x, y), torch.bincount(expected, minlength=8))


@pytest.mark.parametrize("members", [1, 2, 5])
def test_the_rank_histogram_of_exchangeable_values_is_flat(members):
    others, truth = rotated(normal(members + 1, 3))
    assert rank_counts(others, truth).tolist() == [3] * (members + 1)


def test_equal_values_are_ranked_at_random():
    """Uniform over the ranks left open, within 4 standard errors of a count; the generator decides."""
    n = 30_000
    x = torch.tensor([-1.0, 0.0, 0.0, 2.0])[:, None].expand(4, n)
    counts = rank_counts(x, torch.zeros(n), seeded(3))
    assert counts[0] == counts[4] == 0
    assert (counts[1:4] - n / 3).abs().max() < 4 * math.sqrt(n * 2 / 9)
    assert torch.equal(counts, rank_counts(x, torch.zeros(n), seeded(3)))
    assert not torch.equal(truth_ranks(x, torch.zeros(n)), truth_ranks(x, torch.zeros(n), seeded(3)))


def test_the_order_of_equal_values_knows_nothing_of_the_values():
    """Coins thrown with the seed 0, in either order of the members, within 4.5 standard errors of a count."""
    n, members = 20_000, 3
    coins = torch.rand(members + 1, n, generator=seeded(), dtype=torch.float64).round()
    for values in (coins, coins.flip(0)):
        counts = rank_counts(values[1:], values[0])
        assert (counts - n / 4).abs().max() < 4.5 * math.sqrt(n * 3 / 16)


@pytest.mark.parametrize("members", [1, 2, 3, 9])
@pytest.mark.parametrize("level", [0.1, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("step", [0.0, 1.0], ids=["distinct", "ties"])
def test_the_expected_coverage_is_the_level(members, level, step):
    """Exactly so over the rotations of any values, equal ones included, for every number of members."""
    values = normal(members + 1, 6)
    if step:
        values = (values / step).round()
    assert coverage(*rotated(values), level) == pytest.approx(level, rel=1e-12)


def test_coverage_shares_the_gap_that_an_end_of_the_interval_falls_in():
    x = torch.arange(4.0)[:, None].expand(4, 6)
    y = torch.tensor([-1.0, 0.5, 1.5, 2.5, 9.0, 1.5])
    # The members are the quantiles at 1/5, ..., 4/5: [0.2, 0.8] ends at the outer two, [0.3, 0.7] halves their gaps.
    assert coverage(x, y, 0.6) == pytest.approx(4 / 6)
    assert coverage(x, y, 0.4) == pytest.approx((0.5 + 1 + 0.5 + 1) / 6)
    assert coverage(x, y, 0.9) == pytest.approx((4 + 2 * 0.75) / 6)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_coverage_of_a_normal_ensemble_of_another_width(scale):
    """The closed form 2 Phi(scale q) - 1, within 4 standard errors and 0.01 for the finite ensemble."""
    n, level = 4000, 0.8
    q = stats.norm.ppf((1 + level) / 2)
    expected = 2 * stats.norm.cdf(scale * q) - 1
    found = coverage(scale * normal(199, n), normal(n, seed=1), level)
    assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / n) + 0.01


def test_moment_errors_of_a_known_change():
    x = normal(50, 3, 4) + 2
    m, s = x.mean(0), x.std(0)
    found = moment_errors(3 * x, x)
    assert (found.mean, found.std) == pytest.approx((2, 2), rel=1e-12)
    assert moment_errors(x, (m, s)) == moment_errors(x, x)
    assert moment_errors(x, x).mean == moment_errors(x, x).std == 0
    shifted = moment_errors(x, (m + 1, s))
    assert shifted.mean == pytest.approx(math.sqrt(12) / float((m + 1).norm()), rel=1e-12)
    assert shifted.std == 0


def test_moment_errors_beside_a_mean_of_zero():
    x = torch.tensor([[1.0], [-1.0]])
    zero, one = torch.zeros(1), torch.ones(1)
    assert moment_errors(x + 1, (zero, one)).mean == math.inf
    found = moment_errors(x, (zero, one))
    assert math.isnan(found.mean)
    assert found.std == pytest.approx(math.sqrt(2) - 1)


@pytest.mark.parametrize("n", [200, 201])
def test_the_floor_is_what_samples_of_the_law_have(n):
    """The closed form of independent normal points: errors of 2 / sqrt(n) of the mean, sqrt(2 / n) of the std.

    Over 4000 points the ratio of the norms has a relative standard error of 1 / sqrt(8000); 5 % also covers the
    curvature of the square root in the standard deviations, of relative order 1 / n.
    """
    reference = normal(n, 4000) + 1
    floor = moment_floor(reference)
    assert floor.mean == pytest.approx(2 / math.sqrt(n), rel=0.05)
    assert floor.std == pytest.approx(math.sqrt(2 / n), rel=0.05)
    others = moment_errors(normal(n, 4000, seed=1) + 1, reference)
    assert others.mean == pytest.approx(floor.mean / math.sqrt(2), rel=0.05)
    exact = moment_errors(reference, (torch.ones(4000), torch.ones(4000)))
    assert exact.mean == pytest.approx(floor.mean / 2, rel=0.05)
    assert moment_floor(reference, seeded(1)) != floor == moment_floor(reference)


def test_any_precision_and_no_gradient():
    x, y = normal(5, 4).float().requires_grad_(), normal(4, seed=1).float()
    assert torch.equal(crps(x, y), crps(x.double(), y.double()))
    assert crps(x, y).dtype == torch.float64
    assert not crps(x, y).requires_grad
    assert coverage(x, y, 0.5) == coverage(x.double(), y.double(), 0.5)
    assert moment_errors(x, x.double()).mean == 0


JUDGES = {
    "crps": crps,
    "spread_skill": spread_skill,
    "truth_ranks": truth_ranks,
    "rank_counts": rank_counts,
    "coverage": lambda x, y: coverage(x, y, 0.5),
}


@pytest.mark.parametrize("judge", JUDGES.values(), ids=JUDGES)
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (normal(3, 4), normal(3), r"got \(3, 4\) and \(3,\); members come first, and truth\[None\] is one case"),
        (normal(3), normal(1)[0], r"expected an ensemble of shape \(members, cases, \*points\)"),
        (normal(3, 0), normal(0), "more members and at least one truth, got 3 and 0"),
        (normal(0, 2), normal(2), "more members and at least one truth, got 0 and 2"),
        (normal(3, 2), normal(2) / 0, "ensemble or truth hold values that are NaN or infinite: leave those out"),
    ],
)
def test_impossible_ensembles(judge, x, y, words):
    with pytest.raises(ValueError, match=words):
        judge(x, y)


def test_impossible_settings():
    x, y = normal(1, 3), normal(3)
    for judge in (crps, spread_skill):
        with pytest.raises(ValueError, match="expected 2 or more members and at least one truth, got 1 and 3"):
            judge(x, y)
    for level in (0, 1, 90, math.nan):
        with pytest.raises(ValueError, match=f"level must lie between 0 and 1, got {level}; 90 % is 0.9"):
            coverage(x, y, level)
    with pytest.raises(ValueError, match=r"two or more samples of shape \(n, \*points\), got \(1, 3\)"):
        moment_errors(x, normal(4, 3))
    with pytest.raises(ValueError, match=r"two or more reference samples of shape \(n, \*points\), got \(4, 0\)"):
        moment_errors(normal(4, 3), normal(4, 0))
    with pytest.raises(ValueError, match=r"points of one shape, got \(3,\) and \(3,\) \(mean\), \(2,\) \(std\)"):
        moment_errors(normal(4, 3), (normal(3), normal(2)))
    with pytest.raises(ValueError, match="the reference's moments hold values that are NaN or infinite"):
        moment_errors(normal(4, 3), (normal(3), normal(3) / 0))
    with pytest.raises(ValueError, match=r"four samples or more, for two halves with a spread, got shape \(3, 2\)"):
        moment_floor(normal(3, 2))
