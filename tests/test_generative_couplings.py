"""Couplings: optimality against brute force, and what they must leave alone."""

import itertools

import pytest
import torch

from physflow.generative.couplings import ExactOT, Independent

COUPLINGS = [Independent(), ExactOT()]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cost(x0, x1):
    return (x0 - x1).square().sum().item()


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (7,), (7, 3), (5, 2, 3, 4)])
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


def test_bad_input():
    with pytest.raises(ValueError, match=r"one shape, got \(3, 2\) and \(4, 2\)"):
        ExactOT()(draw(3, 2), draw(4, 2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        ExactOT()(draw(3, 2), draw(3, 2) / 0)
