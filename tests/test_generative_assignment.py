"""The assignment: its cost against scipy alone and POT, for costs of every kind; what it returns; bad input."""

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from physflow.generative.assignment import assignment


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distances(n, columns, d=2):
    return torch.cdist(draw(n, d, seed=1), 3 * draw(columns, d, seed=2)).square()


def outlier(n, columns):
    cost = draw(n, columns)
    cost[0, 0] = 1e9
    return cost


COSTS = {
    "random": draw,
    "plane": distances,
    "many dimensions": lambda n, columns: distances(n, columns, 300),
    "equal": torch.ones,
    "ties": lambda n, columns: (draw(n, columns) * 2).round(),
    "clusters": lambda n, columns: distances(n, columns) * 1e-6 + (torch.arange(n) % 2)[:, None],
    "outlier": outlier,
    "offset": lambda n, columns: draw(n, columns) + 1e6,
    "huge": lambda n, columns: draw(n, columns) * 1e200,
    "tiny": lambda n, columns: draw(n, columns) * 1e-200,
    "product": lambda n, columns: draw(n, 1, seed=1) * draw(1, columns, seed=2),
    "skewed": lambda n, columns: draw(n, columns).mul(5).exp(),
}


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 4), (2, 1), (37, 1), (100, 1), (20, 3)])
def test_no_assignment_is_cheaper(kind, n, k):
    cost = COSTS[kind](n, k * n).double()
    order = assignment(cost)
    assert order.shape == (n, k)
    assert order.flatten().sort().values.tolist() == list(range(k * n))
    repeated = cost.repeat_interleave(k, 0).numpy()
    best = repeated[linear_sum_assignment(repeated)].sum()
    found = cost.gather(1, order).sum().item()
    assert found == pytest.approx(best, rel=1e-9, abs=1e-12 * abs(repeated).sum())


@pytest.mark.parametrize(("n", "k"), [(50, 1), (25, 4)])
def test_the_cost_is_that_of_the_transport_plan(n, k):
    cost = distances(n, k * n)
    expected = ot.emd2(np.full(n, 1 / n), np.full(k * n, 1 / (k * n)), cost.numpy())
    assert cost.gather(1, assignment(cost)).mean().item() == pytest.approx(expected, rel=1e-10)


def test_the_argument_is_left_as_it_is():
    cost = draw(5, 5)
    before = cost.clone()
    assignment(cost)
    assert torch.equal(cost, before)


def test_bad_input():
    for shape in [(0, 0), (3, 0), (3, 4), (4, 3)]:
        with pytest.raises(ValueError, match=rf"shape \(n, k n\).*got \({shape[0]}, {shape[1]}\)"):
            assignment(torch.zeros(shape))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a cost is NaN or infinite"):
            assignment(torch.full((2, 2), bad))
