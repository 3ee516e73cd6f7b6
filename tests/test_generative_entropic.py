"""Entropic couplings: plans against POT, marginals, both limits, what is drawn, and failures."""

import numpy as np
import ot
import pytest
import torch

from physflow.generative.couplings import ExactOT
from physflow.generative.entropic import SchroedingerBridge, Sinkhorn

COUPLINGS = [Sinkhorn(0.5), SchroedingerBridge(0.5)]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def squared_distances(x0, x1):
    return torch.cdist(x0.flatten(1), x1.flatten(1)).square().numpy()


def indices(chosen, x):
    """Where in x the chosen items are."""
    return (chosen.flatten(1)[:, None] == x.flatten(1)).all(2).nonzero()[:, 1]


@pytest.mark.parametrize("regularisation", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("shape", [(5, 2), (31, 2, 3)])
def test_the_plan_is_that_of_pot(regularisation, shape):
    x0, x1 = draw(*shape, seed=1), 0.5 * draw(*shape, seed=2) + 1
    weights = np.full(shape[0], 1 / shape[0])
    expected = ot.sinkhorn(
        weights, weights, squared_distances(x0, x1), regularisation, "sinkhorn_log", 100_000, stopThr=1e-12
    )
    found = Sinkhorn(regularisation, tolerance=1e-11, max_iterations=100_000).plan(x0, x1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("regularisation", [0.05, 1.0, 1e6])
@pytest.mark.parametrize("n", [1, 2, 17])
def test_marginals(n, regularisation, dtype):
    plan = Sinkhorn(regularisation).plan(draw(n, 3, seed=1, dtype=dtype), draw(n, 3, seed=2, dtype=dtype))
    assert plan.dtype == torch.float64
    assert plan.min() >= 0
    torch.testing.assert_close(plan.sum(0), torch.full((n,), 1 / n, dtype=torch.float64), rtol=1e-12, atol=0)
    assert (plan.sum(1) - 1 / n).abs().sum() <= 1e-4


def test_a_large_regularisation_is_the_independent_coupling():
    plan = Sinkhorn(1e8).plan(draw(9, 2, seed=1), draw(9, 2, seed=2))
    torch.testing.assert_close(plan, torch.full((9, 9), 1 / 81, dtype=torch.float64), rtol=1e-6, atol=0)


def test_a_small_regularisation_is_the_optimal_permutation():
    """Without the logarithms exp(-C / epsilon) would underflow everywhere: C / epsilon is about 5000."""
    x0, x1 = draw(9, 2, seed=1), draw(9, 2, seed=2)
    plan = Sinkhorn(1e-3, max_iterations=100_000).plan(x0, x1)
    order = indices(ExactOT()(x0, x1)[0], x0)
    assert (plan[order, range(9)] * 9 > 0.99).all()


def test_an_offset_changes_nothing():
    x0, x1, offset = draw(9, 2, seed=1), draw(9, 2, seed=2), 2.0**20
    first, second = Sinkhorn(0.5).plan(x0, x1), Sinkhorn(0.5).plan(x0 + offset, x1 + offset)
    torch.testing.assert_close(second, first, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_source_items_are_drawn_from_the_columns(coupling):
    """2 sigma^2 = 0.5 for the bridge too: both couplings have one plan."""
    x0, x1, draws, generator = draw(6, 2, seed=1), draw(6, 2, seed=2), 400, seeded()
    conditionals = 6 * Sinkhorn(0.5).plan(x0, x1)
    counts = torch.zeros(6, 6, dtype=torch.float64)
    for _ in range(draws):
        paired, data = coupling(x0, x1, generator)
        assert data is x1
        counts[indices(paired, x0), range(6)] += 1
    frequencies = counts / draws
    assert ((frequencies - conditionals).abs() < 4.5 * (conditionals / draws).sqrt() + 1 / draws).all()


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("shape", [(1, 3), (7,), (5, 2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(coupling, shape, dtype):
    x0, x1 = draw(*shape, seed=1, dtype=dtype), draw(*shape, seed=2, dtype=dtype)
    paired, data = coupling(x0, x1, seeded())
    assert data is x1
    assert paired.shape == shape
    assert paired.dtype == dtype
    assert {str(item) for item in paired.tolist()} <= {str(item) for item in x0.tolist()}


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_draws_come_from_the_generator_alone(coupling):
    x0, x1, state = draw(20, 2, seed=1), draw(20, 2, seed=2), torch.get_rng_state()
    first, again, other = (coupling(x0, x1, seeded(seed))[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_autocast_changes_nothing_and_gradients_reach_the_source():
    x0, x1 = draw(20, 8, seed=1, dtype=torch.float32).requires_grad_(), draw(20, 8, seed=2, dtype=torch.float32)
    expected, _ = Sinkhorn(2.0)(x0, x1, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        paired, _ = Sinkhorn(2.0)(x0, x1, seeded())
    assert torch.equal(paired, expected)
    paired.sum().backward()
    assert x0.grad.sum() == 20 * 8


@pytest.mark.parametrize("count", [1, 5])
def test_no_convergence_raises_with_the_state(count):
    with pytest.raises(RuntimeError, match=rf"did not converge: after {count} iterations.*mean cost.*or use ExactOT"):
        Sinkhorn(1e-6, max_iterations=count).plan(draw(30, 2, seed=1), draw(30, 2, seed=2))


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_bad_batches(coupling):
    with pytest.raises(ValueError, match=r"one shape, got \(3, 2\) and \(4, 2\)"):
        coupling(draw(3, 2), draw(4, 2), seeded())
    with pytest.raises(ValueError, match="empty minibatch"):
        coupling(draw(0, 2), draw(0, 2), seeded())
    with pytest.raises(ValueError, match="NaN or infinite"):
        coupling(draw(3, 2) / 0, draw(3, 2), seeded())
    with pytest.raises(ValueError, match=r"Sinkhorn\(.*draws random numbers; pass a torch.Generator"):
        coupling(draw(3, 2), draw(3, 2))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_settings(bad):
    with pytest.raises(ValueError, match=f"regularisation must be positive and finite, got {bad}"):
        Sinkhorn(bad)
    with pytest.raises(ValueError, match=f"tolerance must be positive and finite, got {bad}"):
        Sinkhorn(1.0, tolerance=bad)
    with pytest.raises(ValueError, match=f"diffusion, must be positive and finite, got {bad}"):
        SchroedingerBridge(bad)


@pytest.mark.parametrize("bad", [0, 1.5, True])
def test_bad_number_of_iterations(bad):
    for kind in (Sinkhorn, SchroedingerBridge):
        with pytest.raises(ValueError, match=f"max_iterations must be a whole number of at least 1, got {bad}"):
            kind(1.0, max_iterations=bad)
