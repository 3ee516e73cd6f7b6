"""Rectified flow: exact pairs, the balance of transport costs, losses by hand, two rounds of training, bad input."""

import math

import pytest
import torch
from oracles import gaussian, gaussian_flow_map, mixture

from physflow.config import TrainingConfig
from physflow.generative import reflow
from physflow.generative.integrators import RK4, Adaptive, Euler, Heun, integrate
from physflow.generative.networks import MLP
from physflow.generative.objectives import FlowMatching
from physflow.generative.paths import LinearPath
from physflow.generative.reflow import Pairs, ReFlow, reflow_pairs
from physflow.generative.times import Uniform
from physflow.generative.training import train


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=100, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def zero(x, t, z=None):
    return torch.zeros_like(x)


def bent(velocity, x0, steps=50):
    """S of the module's docstring: how far the trajectories are from straight, by the midpoints of equal steps."""
    states = integrate(velocity, x0, RK4(), 2 * steps, trajectory=True)
    times = (torch.arange(steps, dtype=x0.dtype) + 0.5) / steps
    way = states[-1] - x0
    values = [(velocity(x, t.expand(len(x0))) - way).square().mean() for x, t in zip(states[1::2], times, strict=True)]
    return torch.stack(values).mean()


def one_step_error(velocity, x0):
    """The mean squared distance of one Euler step from the end of the trajectory."""
    return (integrate(velocity, x0, Euler(), 1) - integrate(velocity, x0, RK4(), 20)).square().mean()


def small(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLP(2, 32, 2)


@pytest.mark.parametrize(
    ("solver", "steps", "tolerance"), [(RK4(), 30, 1e-5), (Heun(), 50, 5e-3), (Adaptive(), 1, 1e-3)], ids=str
)
def test_the_pairs_of_a_gaussian_are_those_of_its_flow_map(solver, steps, tolerance):
    flow, x0 = gaussian(), draw(50, 2)
    x1 = reflow_pairs(flow.velocity, x0, solver, steps, batch_size=16)
    torch.testing.assert_close(x1, gaussian_flow_map(flow, x0, 1.0), rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(0, 2), (1, 2), (7,), (7, 1, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_pairs_are_made_in_blocks_and_in_order(shape, dtype, batch_size):
    sizes = []

    def decay(x, t, z=None):
        sizes.append(len(x))
        return -x

    x0 = draw(*shape, dtype=dtype)
    x1 = reflow_pairs(decay, x0, RK4(), 20, batch_size=batch_size)
    assert x1.dtype == dtype
    assert max(sizes) == min(batch_size, shape[0])
    torch.testing.assert_close(x1, x0 / math.e, rtol=1e-6, atol=1e-6)


def test_pairs_carry_no_gradient_and_leave_the_starts():
    layer = torch.nn.Linear(2, 2).double()
    x0 = draw(4, 2).requires_grad_()
    kept = x0.detach().clone()
    x1 = reflow_pairs(lambda x, t, z=None: layer(x), x0, steps=2)
    assert not x1.requires_grad
    assert torch.equal(x0, kept)


def test_the_starts_are_moved_to_the_device_and_the_ends_back(monkeypatch):
    """The meta device, which cannot compute, stands for any other."""
    seen = []

    def solved(velocity, x, solver, steps):
        seen.append(x.device.type)
        return torch.ones(x.shape, dtype=x.dtype)

    monkeypatch.setattr(reflow, "integrate", solved)
    x1 = reflow_pairs(zero, draw(5, 2), batch_size=3, device="meta")
    assert seen == ["meta", "meta"]
    assert torch.equal(x1, torch.ones(5, 2, dtype=torch.float64))


def test_progress_is_shown_when_asked_for(capsys):
    reflow_pairs(zero, draw(5, 2), steps=1)
    assert capsys.readouterr().err == ""
    reflow_pairs(zero, draw(5, 2), steps=1, progress=True)
    assert "pairs: 100%" in capsys.readouterr().err


def test_the_cost_of_transport_falls_by_the_minimum_and_the_bend():
    """The balance of the module's docstring, for the exact flow from independent pairs."""
    flow, n = mixture(), 8000
    x0 = draw(n, 2)
    minimum, error = flow.minimum("velocity", n, seeded(1))
    after = (reflow_pairs(flow.velocity, x0, RK4(), 20, batch_size=n) - x0).square().mean(1)
    # E|x1 - x0|^2 of independent pairs, from the moments.
    before = (flow.covariance.trace() + flow.mean.square().sum() + 2) / 2
    bound = 4 * (after.var() / n + error**2).sqrt()
    difference = before - after.mean() - minimum - bent(flow.velocity, x0[:2000], 25)
    assert abs(difference) < bound
    assert bound < 0.1 * minimum


@pytest.mark.parametrize("shape", [(1,), (5,), (5, 2), (5, 1, 3, 2)])
def test_a_batch_holds_starts_and_ends(shape):
    x0, x1 = draw(*shape, seed=1), draw(*shape, seed=2)
    pairs = Pairs(x0, x1)
    indices = torch.tensor([shape[0] - 1, 0])
    batch = pairs.batch(indices)
    assert len(pairs) == shape[0]
    assert batch.shape == (2, 2, *shape[1:])
    assert torch.equal(batch[:, 0], x0[indices])
    assert torch.equal(batch[:, 1], x1[indices])


def all_of(x0, x1):
    return Pairs(x0, x1).batch(torch.arange(len(x0)))


@pytest.mark.parametrize("shape", [(1,), (5, 2), (5, 1, 3, 2)])
def test_the_loss_of_the_zero_velocity_is_the_cost_of_transport(shape):
    x0, x1 = draw(*shape, seed=1), draw(*shape, seed=2)
    loss = ReFlow().loss(zero, all_of(x0, x1), seeded())
    torch.testing.assert_close(loss, (x1 - x0).square().mean())


@pytest.mark.parametrize("prediction", ["velocity", "data"])
@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_a_translation_has_no_loss(prediction, sigma):
    """Whatever the tube: it moves the data prediction's end by as much as the point."""
    shift = torch.tensor([2.0, -1.0], dtype=torch.float64)
    x0 = draw(64, 2)
    objective = ReFlow(LinearPath(sigma), prediction=prediction)

    def network(x, t, z=None):
        return shift.expand_as(x) if prediction == "velocity" else x + (1 - t)[:, None] * shift

    assert objective.loss(network, all_of(x0, x0 + shift), seeded()) < 1e-25
    t = torch.linspace(0, 0.99, 64, dtype=torch.float64)
    torch.testing.assert_close(objective.velocity(network)(x0, t), shift.expand_as(x0))


def test_the_pair_is_kept_together():
    """Starts -3 and 3 are never exchanged, as a draw of them would be."""
    seen = {}

    def network(x, t, z=None):
        seen.update(x=x, t=t)
        return zero(x, t)

    x0 = torch.tensor([[-3.0], [3.0]], dtype=torch.float64).repeat(100, 1)
    ReFlow().loss(network, all_of(x0, 2 * x0), seeded())
    torch.testing.assert_close(seen["x"], x0 * (1 + seen["t"][:, None]))


def test_the_weight_multiplies_the_loss_of_its_item():
    times = []

    def weight(t):
        times.append(t)
        return 1 + t

    x0, x1 = draw(5, 3, seed=1), draw(5, 3, seed=2)
    loss = ReFlow(weight=weight).loss(zero, all_of(x0, x1), seeded())
    torch.testing.assert_close(loss, ((1 + times[0]) * (x1 - x0).square().mean(1)).mean())


def test_the_times_follow_their_law():
    network_times = []

    def network(x, t, z=None):
        network_times.append(t)
        return zero(x, t)

    ReFlow(times=Uniform(0.25, 0.5)).loss(network, all_of(draw(500, 1, seed=1), draw(500, 1, seed=2)), seeded())
    t = network_times[0]
    assert 0.25 <= t.min() < 0.27
    assert 0.48 < t.max() <= 0.5


def test_the_loss_is_float32_or_finer_and_reproducible():
    pairs = all_of(draw(6, 2, seed=1), draw(6, 2, seed=2)).bfloat16()
    losses = [ReFlow().loss(lambda x, t, z=None: x, pairs, seeded(seed), average=zero) for seed in (0, 0, 1)]
    assert losses[0].dtype == torch.float32
    assert losses[0] == losses[1] != losses[2]


def test_two_rounds_straighten_the_flow_and_keep_its_ends():
    """From the exact velocity, whose bend is 0.7: what is left after two rounds is about the networks' error."""
    flow, objective = mixture(), ReFlow()
    config = TrainingConfig(steps=250, batch_size=256, learning_rate=6e-3, warmup=20, ema=0.98)
    fresh = draw(2000, 2, seed=7)
    bends, errors = [bent(flow.velocity, fresh[:500], 20)], [one_step_error(flow.velocity, fresh[:500])]
    network, velocity, fresh = small(), flow.velocity, fresh.float()
    for seed, dtype in enumerate((torch.float64, torch.float32)):
        x0 = draw(4000, 2, seed=seed, dtype=dtype)
        x1 = reflow_pairs(velocity, x0, Heun(), 20, batch_size=2000)
        network = train(network, objective, Pairs(x0, x1), config)
        velocity = objective.velocity(network)
        with torch.no_grad():
            bends.append(bent(velocity, fresh[:500], 20))
            errors.append(one_step_error(velocity, fresh[:500]))
    assert bends[0] > 50 * bends[1]
    assert errors[0] > 50 * errors[1]
    assert bends[1] > 1.2 * bends[2]
    assert errors[1] > 1.2 * errors[2]

    x = reflow_pairs(velocity, fresh, steps=10, batch_size=2000).double()
    products = (x - flow.mean)[:, :, None] * (x - flow.mean)[:, None, :]
    # Four standard errors and an allowance for the networks.
    assert ((x.mean(0) - flow.mean).abs() < 0.1 + 4 * (flow.covariance.diagonal() / len(x)).sqrt()).all()
    assert ((products.mean(0) - flow.covariance).abs() < 0.1 + 4 * products.std(0) / len(x) ** 0.5).all()


def test_bad_input():
    objective = ReFlow()
    with pytest.raises(ValueError, match=r"unknown prediction 'dta'.*did you mean 'data'"):
        ReFlow(prediction="dta")
    with pytest.raises(ValueError, match=r"one shape, got \(3, 2\) and \(4, 2\)"):
        Pairs(draw(3, 2), draw(4, 2))
    for shape in [(4,), (4, 3), (4, 1, 2)]:
        with pytest.raises(
            ValueError, match=r"pairs \(x0, x1\) of shape \(batch, 2, \.\.\.\).*make the data with Pairs"
        ):
            objective.loss(zero, draw(*shape), seeded())
    with pytest.raises(ValueError, match=r"empty batch.*\(0, 3\)"):
        objective.loss(zero, draw(0, 2, 3), seeded())
    with pytest.raises(TypeError, match=r"floating-point type, got torch.int64"):
        objective.loss(zero, torch.ones(3, 2, 2, dtype=torch.int64), seeded())
    with pytest.raises(ValueError, match=r"keep the shape \(4, 3\), got \(4, 1\)"):
        objective.loss(lambda x, t, z=None: x[:, :1], draw(4, 2, 3), seeded())
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        reflow_pairs(zero, draw(3, 2), batch_size=0)
    with pytest.raises(TypeError, match=r"starts of a floating-point type, got torch.int64"):
        reflow_pairs(zero, torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(FloatingPointError, match=r"not finite.* at t = 0.01"):
        reflow_pairs(lambda x, t, z=None: x / 0, draw(3, 2))


def test_one_pair_of_a_draw_is_flow_matching():
    """The same starts, ends and times give the loss of flow matching."""
    x1 = draw(8, 2)
    x0 = torch.randn(8, 2, generator=(generator := seeded()), dtype=torch.float64)
    expected = FlowMatching().loss(gaussian().velocity, x1, seeded())
    torch.testing.assert_close(ReFlow().loss(gaussian().velocity, all_of(x0, x1), generator), expected)
