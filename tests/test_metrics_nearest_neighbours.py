import math

import pytest
import torch
from scipy.spatial import cKDTree

from physflow.metrics import nearest_distance, nearest_ratio


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (7, 1, 2), (1, 9, 3), (40, 33, 5)])
@pytest.mark.parametrize("block", [1, 8, 1024])
def test_distances_are_those_of_a_tree(n, m, d, block):
    x, items = noise(n, d), noise(m, d, seed=1)
    expected, _ = cKDTree(items.numpy()).query(x.numpy())
    torch.testing.assert_close(nearest_distance(x, items, block), torch.from_numpy(expected), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_are_at_distance_zero_far_from_the_origin(dtype):
    items = (1e4 + noise(50, 2, 3, 4)).to(dtype)
    assert nearest_distance(items[10:20], items, 7).tolist() == [0.0] * 10


def test_a_near_copy_keeps_its_distance():
    items = 100 * noise(20, 8)
    x = items.clone()
    x[:, 0] += 1e-7
    torch.testing.assert_close(nearest_distance(x, items), torch.full((20,), 1e-7, dtype=x.dtype), rtol=1e-5, atol=0)


def test_copies_of_the_training_set_have_ratio_zero_and_of_the_held_out_set_infinity():
    training, held_out = noise(30, 4), noise(30, 4, seed=1)
    assert nearest_ratio(training[:9], training, held_out).quartiles == (0, 0, 0)
    other = nearest_ratio(held_out[:9], training, held_out)
    assert other.ratios.tolist() == [math.inf] * 9
    assert other.median == math.inf


def test_an_item_of_both_sets_has_ratio_one():
    items = noise(5, 2)
    assert nearest_ratio(items, items, items.flip(0)).ratios.tolist() == [1.0] * 5


def test_the_ratios_are_those_by_hand():
    samples = torch.tensor([[0.0], [10.0], [3.0]])
    found = nearest_ratio(samples, torch.tensor([[1.0], [8.0]]), torch.tensor([[2.0], [14.0]]))
    assert found.ratios.tolist() == pytest.approx([1 / 2, 2 / 4, 2 / 1])
    assert found.median == pytest.approx(0.5)


def test_independent_draws_are_as_often_nearer_to_either_set():
    samples, training, held_out = noise(3, 1500, 2)
    found = nearest_ratio(samples, training, held_out)
    assert (found.ratios < 1).double().mean().item() == pytest.approx(0.5, abs=0.06)
    assert found.median == pytest.approx(1, abs=0.15)
    q1, median, q3 = found.quartiles
    assert q1 < median < q3
    assert q1 * q3 == pytest.approx(1, abs=0.25)


def test_blurred_copies_lie_below_one():
    training, held_out = noise(2, 400, 6)
    copies = training + 0.05 * noise(400, 6, seed=2)
    assert nearest_ratio(copies, training, held_out).median < 0.2


def test_exchanging_the_sets_inverts_the_quartiles():
    samples, training, held_out = noise(3, 51, 3)
    samples[0], samples[1] = training[0], held_out[0]
    there = nearest_ratio(samples, training, held_out)
    back = nearest_ratio(samples, held_out, training)
    assert [1 / q for q in reversed(back.quartiles)] == pytest.approx(there.quartiles, rel=1e-12)
    torch.testing.assert_close(back.ratios, 1 / there.ratios)


@pytest.mark.parametrize(
    ("shapes", "block", "message"),
    [
        (((3, 2), (5, 2), (4, 2)), 8, "as many training as held-out items.*got 5 and 4: compare with 4 random"),
        (((3, 2), (5, 3), (5, 3)), 8, r"agree beyond the first axis, got \(3, 2\) and \(5, 3\)"),
        (((3,), (5,), (5,)), 8, "agree beyond the first axis"),
        (((0, 2), (5, 2), (5, 2)), 8, "expected points and items, got 0 and 5"),
        (((3, 2), (0, 2), (0, 2)), 8, "expected points and items, got 3 and 0"),
        (((3, 2), (5, 2), (5, 2)), 0, "block must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(shapes, block, message):
    with pytest.raises(ValueError, match=message):
        nearest_ratio(*(torch.zeros(shape) for shape in shapes), block=block)


@pytest.mark.parametrize("which", ["points", "items"])
def test_values_that_are_not_finite_are_named(which):
    given = {"points": noise(3, 2), "items": noise(4, 2)}
    given[which][0, 0] = math.nan
    with pytest.raises(ValueError, match=f"the {which} hold values that are NaN"):
        nearest_distance(*given.values())
