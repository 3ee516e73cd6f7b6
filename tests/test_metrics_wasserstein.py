"""Wasserstein distances: closed forms, POT, invariances, the floor, and the wording of errors."""

import builtins
import math

import ot
import pytest
import torch

from physflow.metrics import Resampled, sinkhorn_wasserstein, sliced_wasserstein, wasserstein

DISTANCES = (wasserstein, sinkhorn_wasserstein, sliced_wasserstein)


def points(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("distance", DISTANCES)
def test_equal_sets_are_at_distance_zero_in_any_order(distance):
    x = points(40, 3)
    assert distance(x, x.flip(0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("distance", [wasserstein, sinkhorn_wasserstein])
def test_a_shifted_set_is_as_far_as_the_shift(distance):
    x = points(50, 2)
    assert distance(x, x + torch.tensor([0.3, -0.4])) == pytest.approx(0.5, rel=1e-3)


def test_the_sliced_distance_of_a_shift_is_the_shift_over_the_root_of_the_dimension():
    x = points(20, 4)
    shift = torch.tensor([1.0, -2.0, 2.0, 4.0])
    assert sliced_wasserstein(x, x + shift, directions=40_000) == pytest.approx(5 / 2, rel=0.02)


def test_on_a_line_the_sliced_distance_is_the_exact_one():
    x, y = points(30, 1), points(30, 1, seed=1)
    assert sliced_wasserstein(x, y, directions=1) == pytest.approx(wasserstein(x, y), rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(1, 1), (7, 2), (64, 5)])
def test_the_exact_distance_agrees_with_linear_programming(n, d):
    x, y = points(n, d) + 100, points(n, d, seed=1) + 100
    assert wasserstein(x, y) == pytest.approx(ot.emd2([], [], ot.dist(x.numpy(), y.numpy())) ** 0.5, rel=1e-6)


def test_sinkhorn_goes_to_the_exact_distance_without_blur():
    x, y = points(30, 2), points(30, 2, seed=1) + 1
    errors = [abs(sinkhorn_wasserstein(x, y, blur) - wasserstein(x, y)) for blur in (0.5, 0.05, 0.01)]
    assert errors[2] < errors[0]
    assert errors[2] < 0.01 * wasserstein(x, y)


def test_sinkhorn_agrees_with_another_implementation():
    x, y, blur = points(25, 2), points(25, 2, seed=1) + 0.5, 0.4
    settings = {"reg": 2 * blur**2, "numItermax": 20_000, "stopThr": 1e-9}
    uniform = torch.full((25,), 1 / 25, dtype=torch.float64).numpy()

    def entropic(a, b):
        cost = ot.dist(a.numpy(), b.numpy())
        plan = ot.sinkhorn(uniform, uniform, cost, **settings)
        return (plan * cost).sum() + settings["reg"] * (plan * (torch.from_numpy(plan * 25**2).log().numpy())).sum()

    divergence = entropic(x, y) - (entropic(x, x) + entropic(y, y)) / 2
    assert sinkhorn_wasserstein(x, y, blur) == pytest.approx(divergence**0.5, rel=0.01)


@pytest.mark.parametrize("distance", DISTANCES)
def test_items_of_any_shape_and_precision(distance):
    x, y = points(12, 2, 3).float(), points(12, 2, 3, seed=1).float().requires_grad_()
    assert distance(x, y) == pytest.approx(distance(x.flatten(1).double(), y.flatten(1).double()), rel=1e-12)


def test_sliced_directions_come_from_the_generator():
    x, y = points(12, 3), points(12, 3, seed=1)
    first, second = (sliced_wasserstein(x, y, 4, torch.Generator().manual_seed(s)) for s in (0, 1))
    assert first == sliced_wasserstein(x, y, 4) != second


def test_the_distance_from_gaussians_has_its_closed_form():
    x, y = points(3000, 1), 2 * points(3000, 1, seed=1) + 3
    assert wasserstein(x, y) == pytest.approx(math.sqrt(9 + 1), rel=0.03)


def normal(n, generator):
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def test_the_law_itself_has_no_excess():
    resampled = Resampled(normal, 100, 30)
    found = resampled.excess(points(5000, 2, seed=77))
    assert abs(found.mean) < 4 * found.standard_error
    assert min(resampled.floors) > 0.1


def test_the_excess_of_another_law_is_seen_and_paired():
    resampled = Resampled(normal, 100, 10)
    found = resampled.excess(points(400, 2, seed=77) + 1)
    assert found.mean == pytest.approx(sum(found.distances) / 10 - sum(found.floors) / 10)
    assert found.mean > 10 * found.standard_error
    assert found.standard_error == pytest.approx(float(found.values.std()) / 10**0.5)
    # The reference set of a resample is one and the same for floor and distance, whatever is measured.
    again = resampled.excess(points(400, 2, seed=77) + 1)
    assert again == found


def test_resamples_share_their_numbers_with_no_other_use_of_a_seed():
    """Samples drawn from the generator of a small seed are no copy of a reference set, nor two seeds of one another."""
    sets = [[] for _ in range(3)]
    for seed, drawn in enumerate(sets):

        def data(n, generator, drawn=drawn):
            drawn.append(float(normal(n, generator)[0, 0]))
            return normal(n, generator)

        assert min(Resampled(data, 20, 5, seed=seed).floors) > 0
    plain = {float(normal(1, torch.Generator().manual_seed(seed))[0, 0]) for seed in range(100)}
    assert len({*sets[0], *sets[1], *sets[2], *plain}) == 3 * 10 + 100


def test_a_set_that_copies_the_reference_scores_below_the_floor():
    reference = []

    def data(n, generator):
        reference.append(normal(n, generator))
        return reference[-1]

    resampled = Resampled(data, 50, 2)
    assert min(resampled.floors) > 0
    assert resampled.excess(reference[0]).distances[0] == 0


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (points(3, 2), points(3, 4), r"got \(3, 2\) and \(3, 4\)"),
        (points(0, 2), points(0, 2), "expected points in both sets, got 0 and 0"),
        (points(2, 2), points(2, 2) * math.nan, "y holds values that are NaN or infinite"),
    ],
)
def test_impossible_sets(distance, x, y, words):
    with pytest.raises(ValueError, match=words):
        distance(x, y)


def test_impossible_settings():
    x = points(4, 2)
    with pytest.raises(ValueError, match=r"of one shape, got \(4, 2\) and \(3, 2\)"):
        wasserstein(x, x[:3])
    with pytest.raises(ValueError, match="blur must be positive, got 0; for no blur use wasserstein"):
        sinkhorn_wasserstein(x, x, 0)
    with pytest.raises(ValueError, match="at least one direction, got directions=0"):
        sliced_wasserstein(x, x, 0)
    with pytest.raises(ValueError, match="at least one point in a set, got points=0"):
        Resampled(normal, 0)
    with pytest.raises(ValueError, match="at least two resamples, for their spread, got 1"):
        Resampled(normal, 5, 1)
    with pytest.raises(ValueError, match="expected 5 samples or more, one for each point of a set, got 4"):
        Resampled(normal, 5).excess(x)


def test_without_geomloss_it_says_what_to_install(monkeypatch):
    original = builtins.__import__

    def absent(name, *rest):
        if name == "geomloss":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"needs geomloss: pip install 'physflow\[metrics\]'"):
        sinkhorn_wasserstein(points(3, 2), points(3, 2))
