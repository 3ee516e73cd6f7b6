"""Time laws: draws against densities, ranges, and what a density does to a loss."""

import math

import pytest
import torch
from scipy import stats

from physflow.generative.times import LogitNormal, Uniform

LAWS = [Uniform(), Uniform(0.1, 0.6), LogitNormal(), LogitNormal(-0.8, 0.5), LogitNormal(0.5, 2.0)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def grid(n=200_001):
    """Midpoints of n cells of [0, 1]."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_draws_have_the_density(law):
    """Kolmogorov and Smirnov, against the integral of the density."""
    points = grid()
    cumulative = law.density(points).cumsum(0) / len(points)
    assert cumulative[-1] == pytest.approx(1, abs=1e-5)

    def distribution(t):
        return cumulative[(torch.as_tensor(t) * len(points)).long().clamp(max=len(points) - 1)].numpy()

    t = law.sample(20_000, seeded(), torch.float64)
    assert stats.kstest(t.numpy(), distribution).pvalue > 1e-3


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 0.5)])
def test_logit_normal_is_a_normal_seen_through_the_logit(mean, std):
    t = grid(999)
    logit = torch.log(t / (1 - t))
    expected = stats.norm.pdf(logit.numpy(), mean, std) / (t * (1 - t)).numpy()
    torch.testing.assert_close(LogitNormal(mean, std).density(t), torch.as_tensor(expected), rtol=1e-10, atol=0)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_a_law_is_a_weight_by_its_density(law):
    def integrand(t):
        return torch.cos(3 * t) + t**2

    values = integrand(law.sample(100_000, seeded(), torch.float64))
    uniform = (law.density(grid()) * integrand(grid())).mean()
    assert abs(values.mean() - uniform) < 4 * values.std() / len(values) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_times_are_the_numbers_of_the_generator(dtype):
    expected = torch.rand(1001, generator=seeded(5), dtype=dtype)
    assert torch.equal(Uniform().sample(1001, seeded(5), dtype), expected)


@pytest.mark.parametrize("law", [*LAWS, Uniform(0.3, 0.3 + 1e-7), LogitNormal(50.0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 1001])
def test_range_shape_and_dtype(law, dtype, n):
    t = law.sample(n, seeded(), dtype)
    assert t.shape == (n,)
    assert t.dtype == dtype
    first, last = (law.first, law.last) if isinstance(law, Uniform) else (0.0, 1.0)
    assert (t >= torch.tensor(first, dtype=dtype)).all()
    assert (t <= torch.tensor(last, dtype=dtype)).all()


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_draws_come_from_the_generator_alone(law):
    state = torch.get_rng_state()
    first, again, other = (law.sample(9, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_density_outside(law, dtype):
    t = torch.tensor([[-1.0, -1e-6], [1 + 1e-6, 2.0]], dtype=dtype)
    assert torch.equal(law.density(t), torch.zeros_like(t))


def test_density_at_the_ends():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert LogitNormal().density(ends).tolist() == [0, 0]
    assert Uniform().density(ends).tolist() == [1, 1]
    assert Uniform(0.0, 0.5).density(ends).tolist() == [2, 0]


def test_bad_settings():
    for first, last in [(-0.1, 1), (0, 1.1), (0.5, 0.5), (0.6, 0.4), (math.nan, 1)]:
        with pytest.raises(ValueError, match=rf"0 <= first < last <= 1, got first = {first} and last = {last}"):
            Uniform(first, last)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"std must be positive and finite, got {bad}"):
            LogitNormal(std=bad)
    with pytest.raises(ValueError, match="mean must be finite, got inf"):
        LogitNormal(mean=math.inf)
