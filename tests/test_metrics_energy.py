"""Energy distance and its test: scipy on a line, closed forms, exact permutation, levels and power, errors."""

import itertools
import math

import numpy as np
import pytest
import torch
from geomloss import SamplesLoss
from scipy.spatial.distance import cdist
from scipy.stats import chisquare
from scipy.stats import energy_distance as energy_distance_root

from physflow.metrics import energy, energy_distance, energy_test, points


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(x, y):
    return 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()


@pytest.mark.parametrize("entries", [8, 2**22])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (20, 20), (13, 40)])
def test_on_a_line_it_is_the_square_of_scipys(monkeypatch, entries, n, m):
    monkeypatch.setattr(points, "_ENTRIES", entries)
    x, y = normal(n), 2 * normal(m, seed=1) + 0.5
    assert energy_distance(x, y) == pytest.approx(energy_distance_root(x, y) ** 2, rel=1e-10)


@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 3), (12, 7, 2), (40, 40, 5)])
def test_agrees_with_another_implementation(n, m, d):
    x, y = normal(n, d), normal(m, d, seed=1) + 0.3
    # It takes no distance, not even that of a point from itself, for less than 1e-4.
    expected = 2 * float(SamplesLoss("energy", backend="tensorized")(x, y)) + 1e-4 * (1 / n + 1 / m)
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert energy_distance(x, y) == pytest.approx(by_definition(x, y), rel=1e-10)


def mean_absolute(mu, sigma):
    """E |u| of u ~ N(mu, sigma^2)."""
    return sigma * math.sqrt(2 / math.pi) * math.exp(-(mu**2) / (2 * sigma**2)) + mu * math.erf(mu / (sigma * 2**0.5))


@pytest.mark.parametrize(("mu", "sigma"), [(1.0, 1.0), (0.0, 2.0), (0.5, 0.5)])
def test_the_distance_from_gaussians_has_its_closed_form(mu, sigma):
    """Over 100 sets of 100 points, within four standard errors; the pairs of a point with itself add E|x - x'| / n."""
    within = mean_absolute(0, 2**0.5), mean_absolute(0, sigma * 2**0.5)
    expected = 2 * mean_absolute(mu, math.hypot(1, sigma)) - sum(within) + sum(within) / 100
    found = np.array([energy_distance(normal(100, seed=i), sigma * normal(100, seed=500 + i) + mu) for i in range(100)])
    assert abs(found.mean() - expected) < 4 * found.std(ddof=1) / 10


def test_equal_sets_are_at_no_distance_in_any_order_and_one_point_shows_the_unit():
    x = normal(30, 3)
    assert 0 <= energy_distance(x, x.flip(0)) < 1e-12
    assert energy_distance(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])) == pytest.approx(10)
    y = normal(20, 3, seed=1)
    assert energy_distance(7 * x, 7 * y) == pytest.approx(7 * energy_distance(x, y))
    assert energy_distance(x.view(30, 3, 1), y.view(20, 3, 1)) == energy_distance(x, y) == energy_distance(y, x)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (2, 4), (1, 5)])
def test_the_p_value_goes_to_that_of_all_partitions(n, m):
    """With 4000 permutations, within four standard errors of the share of all partitions."""
    x, y = normal(n, 2), normal(m, 2, seed=1) + 1
    pooled = torch.cat([x, y])
    every = range(n + m)
    values = [
        by_definition(pooled[list(chosen)], pooled[[i for i in every if i not in chosen]])
        for chosen in itertools.combinations(every, n)
    ]
    exact = np.mean(np.array(values) >= by_definition(x, y) - 1e-12)
    found = energy_test(x, y, 4000)
    assert found.statistic == pytest.approx(n * m / (n + m) * by_definition(x, y), rel=1e-10)
    assert abs(found.p_value - exact) < 4 * math.sqrt(exact * (1 - exact) / 4000) + 1 / 4000
    assert 0 < exact < 1


def test_p_values_of_one_law_are_uniform():
    """400 tests with 19 permutations: each of the 20 values is as likely as any other, as no two statistics tie."""
    generator = torch.Generator().manual_seed(5)
    p = [
        energy_test(normal(8, 2, seed=2 * i), normal(12, 2, seed=2 * i + 1), 19, generator).p_value for i in range(400)
    ]
    counts = np.bincount(np.rint(20 * np.array(p)).astype(int), minlength=21)
    assert counts[0] == 0
    assert chisquare(counts[1:]).pvalue > 0.01


@pytest.mark.parametrize("moved", [lambda y: y + 1.0, lambda y: 3 * y])
def test_another_law_has_the_least_p_value(moved):
    found = energy_test(normal(60, 2), moved(normal(50, 2, seed=1)), 199)
    assert found.p_value == pytest.approx(1 / 200)


def test_no_permutation_of_equal_points_is_smaller():
    assert energy_test(torch.ones(4, 2), torch.ones(3, 2), 20) == energy.EnergyTest(0.0, 1.0)
    # A set against itself has the least statistic there is.
    x = normal(10, 2)
    assert energy_test(x, x, 50).p_value == 1


def test_permutations_come_from_the_generator_in_blocks_of_any_size(monkeypatch):
    x, y = normal(10, 2), normal(9, 2, seed=1) + 0.5
    first, second = (energy_test(x, y, 100, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert first == energy_test(x, y, 100)
    assert first.p_value != second.p_value
    monkeypatch.setattr(energy, "_ENTRIES", 19 * 7)
    assert energy_test(x, y, 100) == first


def test_a_test_without_permutations_is_refused():
    with pytest.raises(ValueError, match="expected at least one permutation, got permutations=0"):
        energy_test(normal(3, 2), normal(3, 2), 0)
