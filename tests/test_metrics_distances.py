"""What all distances of two sets have in common: a floor that samples of the law share, other laws above it, errors."""

import math

import pytest
import torch

from physflow.metrics import (
    Resampled,
    coefficients_distance,
    energy_distance,
    energy_test,
    mmd,
    sinkhorn_wasserstein,
    sliced_wasserstein,
    spectrum_distance,
    support,
    w1,
    wasserstein,
)

SHAPE = (3, 4)
MODES = torch.linalg.qr(torch.randn(12, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)).Q
DISTANCES = {
    "wasserstein": wasserstein,
    "sinkhorn_wasserstein": lambda x, y: sinkhorn_wasserstein(x, y, 0.2),
    "sliced_wasserstein": sliced_wasserstein,
    "mmd": mmd,
    "energy_distance": energy_distance,
    "energy_test": lambda x, y: energy_test(x, y, 1).statistic,
    "coverage": lambda x, y: 1 - support(x, y).coverage,
    "w1": lambda x, y: float(w1(x, y).mean()),
    "coefficients_distance": lambda x, y: coefficients_distance(x, y, MODES),
    "spectrum_distance": lambda x, y: spectrum_distance(x, y, (0.5, 0.2)),
}
SIZES_MAY_DIFFER = ("sinkhorn_wasserstein", "mmd", "energy_distance", "energy_test", "coverage")


def fields(n, generator):
    return torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64)


@pytest.fixture(params=DISTANCES)
def distance(request):
    return DISTANCES[request.param]


def test_samples_of_the_law_have_no_excess_and_others_much(distance):
    """The excess of 2000 samples is within four standard errors of 0, that of a law moved and widened beyond five."""
    resampled = Resampled(fields, 40, 20, distance)
    samples = fields(2000, torch.Generator().manual_seed(77))
    same, other = resampled.excess(samples), resampled.excess(1.6 * samples + 0.5)
    assert abs(same.mean) < 4 * same.standard_error
    assert other.mean > 5 * other.standard_error
    assert other.mean > 5 * abs(same.mean)


def test_a_distance_does_not_depend_on_the_order(distance):
    x, y = (fields(15, torch.Generator().manual_seed(seed)) for seed in range(2))
    assert distance(x.flip(0), y.roll(3, 0)) == pytest.approx(distance(x, y), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("name", SIZES_MAY_DIFFER)
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 4), r"points of one dimension, got \(3, 2\) and \(3, 4\)"),
        (torch.zeros(0, 2), torch.zeros(3, 2), "expected points in both sets, got 0 and 3"),
        (
            torch.ones(3, 2),
            torch.ones(4, 2) * math.nan,
            "holds values that are NaN or infinite: leave those samples out",
        ),
    ],
)
def test_sets_that_cannot_be_compared(name, x, y, words):
    with pytest.raises(ValueError, match=words):
        DISTANCES[name](x, y)
