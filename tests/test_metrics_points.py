"""Sets of points: as matrices, and their distances in blocks."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from physflow.metrics import points as sets


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("entries", [1, 7, 20, 2**22])
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (5, 7, 3), (8, 3, 1)])
def test_distances_agree_with_scipy_in_blocks_of_any_size(monkeypatch, entries, n, m, d):
    monkeypatch.setattr(sets, "_ENTRIES", entries)
    x, y = normal(n, d) + 1e6, normal(m, d, seed=1) + 1e6
    parts = list(sets.distances(x, y))
    assert max(map(len, parts)) == min(n, max(1, entries // m))
    # The origin is a million away: differences keep ten digits, scalar products would keep three.
    np.testing.assert_allclose(torch.cat(parts), cdist(x, y), rtol=1e-12)


@pytest.mark.parametrize("entries", [1, 12, 2**22])
def test_a_point_that_is_left_out_is_infinitely_far_from_itself(monkeypatch, entries):
    monkeypatch.setattr(sets, "_ENTRIES", entries)
    x = normal(6, 2)
    expected = cdist(x, x)
    np.fill_diagonal(expected, math.inf)
    np.testing.assert_allclose(torch.cat(list(sets.distances(x, x, leave_one_out=True))), expected, rtol=1e-12)


def test_a_pair_is_two_matrices_of_double_precision():
    x, y = normal(4, 2, 3).float().requires_grad_(), normal(2, 2, 3)
    first, second = sets.pair(x, y, equal=False)
    assert first.shape == (4, 6)
    assert second.shape == (2, 6)
    assert first.dtype == second.dtype == torch.float64
    assert not first.requires_grad
    assert sets.pair(normal(4), normal(4))[0].shape == (4, 1)


@pytest.mark.parametrize(
    ("x", "y", "equal", "words"),
    [
        (normal(3, 2), normal(2, 2), True, r"expected two sets of points of one shape, got \(3, 2\) and \(2, 2\)"),
        (normal(3, 2), normal(3, 4), False, r"points of one dimension, got \(3, 2\) and \(3, 4\)"),
        (normal(), normal(), False, r"points of one dimension, got \(\) and \(\)"),
        (normal(0, 2), normal(3, 2), False, "expected points in both sets, got 0 and 3"),
        (normal(3, 2), normal(3, 2) / 0, True, "the data holds values that are NaN or infinite: leave those"),
    ],
)
def test_what_is_no_pair_of_sets_is_named(x, y, equal, words):
    with pytest.raises(ValueError, match=words):
        sets.pair(x, y, equal, names=("the samples", "the data"))
