"""Couplings: optimality against brute force and POT, exact marginals, and what they must leave alone."""

import itertools

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from physflow.generative.couplings import ExactOT, Independent

COUPLINGS = [Independent(), ExactOT()]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def squared_distances(x0, x1):
    return torch.cdist(x0.flatten(1), x1.flatten(1)).square().numpy()


def uniform(n):
    return np.full(n, 1 / n)


def cost(x0, x1):
    return (x0 - x1).square().sum().item()


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("shape", [(1, 3), (7,), (7, 3), (5, 2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_permutes_the_source_and_leaves_the_data(coupling, shape, dtype):
    x0, x1 = draw(*shape, seed=1, dtype=dtype), draw(*shape, seed=2, dtype=dtype)
    paired, same = coupling(x0, x1)
    assert same is x1
    assert paired.shape == x0.shape
    assert paired.dtype == dtype
    assert sorted(map(str, paired.tolist())) == sorted(map(str, x0.tolist()))


def test_independent_keeps_the_order():
    x0, x1 = draw(5, 2, seed=1), draw(5, 2, seed=2)
    assert Independent()(x0, x1)[0] is x0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(6, 2), (6, 1, 3, 2)])
def test_optimal_against_brute_force(seed, shape):
    x0, x1 = draw(*shape, seed=seed), draw(*shape, seed=seed + 100)
    best = min(cost(x0[list(order)], x1) for order in itertools.permutations(range(6)))
    assert cost(*ExactOT()(x0, x1)) == pytest.approx(best, rel=1e-12)


def test_optimal_in_one_dimension_is_sorting():
    x0, x1 = draw(50, seed=1), draw(50, seed=2)
    paired, _ = ExactOT()(x0, x1)
    assert torch.equal(paired[x1.argsort()], x0.sort().values)


def test_an_offset_costs_no_digits():
    """The offset rounds the points themselves, hence a comparison of costs and not of permutations."""
    x0, x1 = draw(64, 2, seed=1, dtype=torch.float32), draw(64, 2, seed=2, dtype=torch.float32)
    offset = torch.tensor([3000.0, -2000.0])
    best = cost(*ExactOT()(x0.double(), x1.double()))
    paired, _ = ExactOT()(x0 + offset, x1 + offset)
    assert cost(paired.double() - offset, x1.double()) == pytest.approx(best, rel=1e-2)


def test_autocast_changes_nothing():
    x0, x1 = draw(64, 8, seed=1, dtype=torch.float32), draw(64, 8, seed=2, dtype=torch.float32)
    expected, _ = ExactOT()(x0, x1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        paired, _ = ExactOT()(x0, x1)
    assert torch.equal(paired, expected)


def test_gradients_reach_the_source():
    x0 = draw(6, 2, seed=1).requires_grad_()
    ExactOT()(x0, draw(6, 2, seed=2))[0].sum().backward()
    assert torch.equal(x0.grad, torch.ones_like(x0))


@pytest.mark.parametrize("shape", [(31, 2), (64, 30)])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_plan_is_that_of_pot(shape, k):
    """A data item's k source items, each of weight 1 / (k n), are the nonzero entries of its column."""
    x0, x1 = draw(k * shape[0], shape[1], seed=1), 0.5 * draw(*shape, seed=2) + 1
    expected = ot.emd(uniform(len(x0)), uniform(len(x1)), squared_distances(x0, x1))
    found, generator = np.zeros_like(expected), seeded()
    for _ in range(40):
        paired, same = ExactOT(source_factor=k)(x0, x1, generator)
        assert same is x1
        rows = (paired[:, None] == x0).all(2).nonzero()[:, 1]
        found[rows, range(len(x1))] = 1 / len(x0)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_source_factor_keeps_the_law_of_the_source():
    """The mean over the draws is the mean over all source items, whatever the data."""
    k, n, draws, generator = 4, 16, 500, seeded()
    x0, x1 = draw(k * n, 2, seed=1), 0.5 * draw(n, 2, seed=2)
    coupling = ExactOT(source_factor=k)
    moments = torch.stack([coupling(x0, x1, generator)[0].square().mean() for _ in range(draws)])
    assert abs(moments.mean() - x0.square().mean()) < 4 * moments.std() / draws**0.5


def test_the_best_of_the_source_is_no_sample_of_its_law():
    """What the docstring says of the rectangular assignment, which is why it is not what ExactOT does."""
    x0, x1 = draw(400, 2, seed=1), 0.5 * draw(100, 2, seed=2)
    _, chosen = linear_sum_assignment(squared_distances(x0, x1).T)
    assert x0[chosen].square().mean() < 0.5 * x0.square().mean()
    paired, _ = ExactOT(source_factor=4)(x0, x1, seeded())
    assert abs(paired.square().mean() - 1) < 4 * (2 / paired.numel()) ** 0.5


def test_a_source_factor_brings_the_ends_nearer():
    x1 = draw(64, 2, seed=2)
    costs = [cost(*ExactOT(source_factor=k)(draw(64 * k, 2, seed=1), x1, seeded())) for k in (1, 8)]
    assert costs[1] < 0.9 * costs[0]


@pytest.mark.parametrize("k", [1, 3])
def test_a_sampled_plan_draws_its_pairs(k):
    """Each pair is one of the plan, all pairs come up, and equally often."""
    n, generator = 8, seeded()
    x0, x1 = draw(k * n, 3, seed=1), draw(n, 3, seed=2)
    plan = ot.emd(uniform(k * n), uniform(n), squared_distances(x0, x1))
    counts = np.zeros_like(plan)
    for _ in range(500):
        paired, data = ExactOT(plan="sample", source_factor=k)(x0, x1, generator)
        rows = (paired[:, None] == x0).all(2).nonzero()[:, 1]
        columns = (data[:, None] == x1).all(2).nonzero()[:, 1]
        np.add.at(counts, (rows, columns), 1)
    assert counts.sum() == 500 * n
    assert (counts[plan < 1e-9] == 0).all()
    expected = 500 / k
    assert (abs(counts[plan > 1e-9] - expected) < 4.5 * expected**0.5).all()


@pytest.mark.parametrize("coupling", [ExactOT(plan="sample"), ExactOT(source_factor=2)])
def test_draws_come_from_the_generator_alone(coupling):
    x0, x1 = draw(coupling.source_factor * 20, 2, seed=1), draw(20, 2, seed=2)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first, again, other = (coupling(x0, x1, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(state, torch.get_rng_state())
    assert numpy_state == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_the_factor_of_a_coupling():
    assert [c.source_factor for c in (Independent(), ExactOT(), ExactOT(source_factor=3))] == [1, 1, 3]


def test_bad_input():
    with pytest.raises(ValueError, match=r"one shape, got \(3, 2\) and \(4, 2\)"):
        ExactOT()(draw(3, 2), draw(4, 2))
    with pytest.raises(ValueError, match=r"2 source items for each data item, shape \(6, 2\), got \(5, 2\)"):
        ExactOT(source_factor=2)(draw(5, 2), draw(3, 2), seeded())
    with pytest.raises(ValueError, match=r"empty minibatch.*\(0, 2\)"):
        ExactOT()(draw(0, 2), draw(0, 2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        ExactOT()(draw(3, 2), draw(3, 2) / 0)
    for coupling in (ExactOT(plan="sample"), ExactOT(source_factor=2)):
        with pytest.raises(ValueError, match=r"ExactOT\(.*draws random numbers; pass a torch.Generator"):
            coupling(draw(3 * coupling.source_factor, 2), draw(3, 2))
    with pytest.raises(ValueError, match="unknown use 'samples' of the plan; did you mean 'sample'"):
        ExactOT(plan="samples")
    for bad in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"whole number of at least 1, got {bad}"):
            ExactOT(source_factor=bad)
