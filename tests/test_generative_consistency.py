"""Consistency flow matching: its minimisers in closed form, its times and targets, its gradient, few-step samples."""

import copy
from dataclasses import dataclass

import pytest
import torch
from oracles import gaussian, gaussian_flow_map, mixture
from torch import Tensor, nn

from physflow.config import TrainingConfig
from physflow.generative.batches import TensorBatches
from physflow.generative.consistency import ConsistencyFlowMatching
from physflow.generative.couplings import ExactOT
from physflow.generative.integrators import Euler, integrate
from physflow.generative.networks import MLP
from physflow.generative.objectives import FlowMatching, Objective
from physflow.generative.paths import LinearPath
from physflow.generative.sources import Source
from physflow.generative.training import train

BOUNDARIES = (0.0, 0.4, 0.9, 1.0)


@dataclass(frozen=True)
class Given(Source):
    """The source whose draw is known."""

    x0: Tensor

    def sample(self, shape, generator, dtype=torch.float32, device="cpu"):
        return self.x0.to(device, dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=100, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def end_of(t, segments):
    return ((segments * t).floor() + 1) / segments


def zero(x, t, z=None):
    return torch.zeros_like(x)


class Recorded:
    """A velocity that remembers what it was asked."""

    def __init__(self, velocity=zero):
        self.velocity, self.x, self.t = velocity, [], []

    def __call__(self, x, t, z=None):
        assert t.shape == x.shape[:1]
        self.x.append(x)
        self.t.append(t)
        return self.velocity(x, t)


def mean_velocity(flow, segments):
    """The velocity that takes the exact flow of a Gaussian from (x, t) to the end of the segment in one step."""

    mean = flow.target.means[0]
    values, vectors = torch.linalg.eigh(flow.target.covariances[0])

    def velocity(x, t, z=None):
        # The flow map of `gaussian_flow_map` from t to e, the roots of C(t) and C(e) being diagonal together.
        t, e = t[:, None], end_of(t, segments)[:, None]
        ratio = (((1 - e) ** 2 + e**2 * values) / ((1 - t) ** 2 + t**2 * values)).sqrt()
        x_e = e * mean + ((x - t * mean) @ vectors * ratio) @ vectors.T
        return (x_e - x) / (e - t)

    return velocity


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("segments", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1,), (7, 2), (5, 1, 3, 2)])
@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_a_translation_has_no_loss(boundary, segments, shape, sigma):
    x0 = draw(*shape)
    objective = ConsistencyFlowMatching(
        LinearPath(sigma), source=Given(x0), segments=segments, step=0.05, alpha=1.0, boundary=boundary
    )
    assert objective.loss(lambda x, t, z=None: torch.full_like(x, 1.5), x0 + 1.5, seeded()) < 1e-25


@pytest.mark.parametrize("segments", [1, 2, 3])
def test_the_known_ends_alone_are_weighted_flow_matching(segments):
    """f - x_e = (e - t) (v - u) on a straight path."""
    flow, x1 = mixture(), draw(20, 2)
    objective = ConsistencyFlowMatching(coupling=ExactOT(), segments=segments, alpha=3.0, boundary=0.0)
    weighted = FlowMatching(coupling=ExactOT(), weight=lambda t: (end_of(t, segments) - t) ** 2)
    average = Recorded()
    loss = objective.loss(flow.velocity, x1, seeded(), average)
    torch.testing.assert_close(loss, weighted.loss(flow.velocity, x1, seeded()))
    assert average.t == []


def gradients(objective, velocity, flow, batches, items):
    """Gradients along a constant and a multiple of x, the teacher being the velocity itself; one row a batch."""
    rows, generator = [], seeded()
    for _ in range(batches):
        shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        calls = []

        def network(x, t, z=None, shift=shift, calls=calls):
            calls.append(None)
            return velocity(x, t) + shift[0] + shift[1] * x

        objective.loss(network, flow.sample(items, generator), generator, velocity).backward()
        assert len(calls) == 1
        rows.append(shift.grad)
    return torch.stack(rows)


@pytest.mark.parametrize("segments", [1, 2])
def test_the_mean_velocity_is_the_minimiser_of_consistency(segments):
    """The gradient vanishes there, within sampling error, and not at the velocity of the flow."""
    flow = gaussian()
    objective = ConsistencyFlowMatching(segments=segments, step=1e-3, alpha=0.0, boundary=1.0)
    found = gradients(objective, mean_velocity(flow, segments), flow, 20, 4000) / objective.step
    other = gradients(objective, flow.velocity, flow, 20, 4000) / objective.step
    error = found.std(0) / len(found) ** 0.5
    assert (found.mean(0).abs() < 4 * error).all()
    # Along the constant it vanishes for both.
    assert other.mean(0)[1].abs() > 20 * error[1]


@pytest.mark.parametrize("segments", [1, 2, 3])
def test_the_mean_velocity_generates_in_as_many_steps_as_segments(segments):
    flow, x0 = gaussian(), draw(20, 2)
    objective = ConsistencyFlowMatching(segments=segments)
    velocity = objective.velocity(mean_velocity(flow, segments))
    x1 = integrate(velocity, x0, Euler(), steps=objective.segments)
    torch.testing.assert_close(x1, gaussian_flow_map(flow, x0, 1.0))
    off = integrate(velocity, x0, Euler(), steps=4 * segments)
    assert (off - x1).abs().max() > 0.05


@pytest.mark.parametrize("segments", [1, 2, 5])
@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_the_times_are_neighbours_on_one_trajectory_in_one_segment(segments, sigma):
    student, teacher, x0, x1 = Recorded(), Recorded(), draw(4000, 1, seed=1), draw(4000, 1, seed=2)
    step = 0.15
    objective = ConsistencyFlowMatching(LinearPath(sigma), source=Given(x0), segments=segments, step=step)
    objective.loss(student, x1, seeded(), teacher)
    (t,), (r,) = student.t, teacher.t
    end = end_of(t, segments)
    torch.testing.assert_close(r, torch.minimum(t + step, end))
    assert (r <= end).all()
    assert 0.5 * step * segments < (r == end).double().mean() < 1.5 * step * segments
    torch.testing.assert_close(teacher.x[0] - student.x[0], (r - t)[:, None] * (x1 - x0))
    # Kolmogorov and Smirnov: the distance exceeds 1.95 / sqrt(n) with probability 0.001.
    uniform = torch.arange(1, 4001, dtype=torch.float64) / 4000
    assert (t.sort().values - uniform).abs().max() < 1.95 / 4000**0.5


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_targets_and_weights_by_hand(boundary):
    """With the student 0 and the teacher 3: f = x_t, y = x_r + 3 (e - r) where the teacher is followed, else x_e."""
    segments, step, alpha = 2, 0.1, 0.7
    student, teacher = Recorded(), Recorded(lambda x, t: torch.full_like(x, 3.0))
    x0, x1 = draw(200, 3, seed=1), draw(200, 3, seed=2)
    objective = ConsistencyFlowMatching(source=Given(x0), segments=segments, step=step, alpha=alpha, boundary=boundary)
    loss = objective.loss(student, x1, seeded(), teacher)
    terms = []
    for x_t, t, start, way in zip(student.x[0], student.t[0].tolist(), x0, x1 - x0, strict=True):
        end = 0.5 if t < 0.5 else 1.0
        r = t + step
        if r < end and r < boundary:
            terms.append((x_t - (start + r * way + 3 * (end - r))).square() + alpha * 9)
        else:
            terms.append((x_t - (start + end * way)).square())
    torch.testing.assert_close(loss, torch.stack(terms).mean())


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("own", [False, True])
def test_the_gradient_is_that_with_a_frozen_teacher(boundary, own):
    """Against central differences; without an average the network itself is the teacher, just as frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        other = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    teacher = network if own else other
    frozen = copy.deepcopy(teacher)
    objective = ConsistencyFlowMatching(step=0.1, alpha=0.5, boundary=boundary)

    def call(net):
        return lambda x, t, z=None: net(torch.cat([x, t[:, None]], 1))

    def value(average):
        return objective.loss(call(network), draw(16, 2), seeded(), average)

    value(None if own else call(teacher)).backward()
    assert own or all(p.grad is None for p in other.parameters())
    h = 1e-5
    with torch.no_grad():
        for p in network.parameters():
            expected = torch.empty_like(p)
            for i in range(p.numel()):
                values = []
                for sign in (1, -1):
                    p.view(-1)[i] += sign * h
                    values.append(value(call(frozen)))
                    p.view(-1)[i] -= sign * h
                expected.view(-1)[i] = (values[0] - values[1]) / (2 * h)
            torch.testing.assert_close(p.grad, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_the_loss_is_float32_or_finer(given, expected):
    network = Recorded()
    assert ConsistencyFlowMatching().loss(network, draw(4, 3).to(given), seeded()).dtype == expected
    assert {x.dtype for x in network.x + network.t} == {expected}


def test_autocast_leaves_the_network_its_gradient():
    """Its weights are cast once for both calls, which must not be the call without gradients."""
    layer, x1 = nn.Linear(3, 3), draw(64, 3, dtype=torch.float32)
    objective = ConsistencyFlowMatching(step=0.3)
    expected = objective.loss(lambda x, t, z=None: layer(x), x1, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective.loss(lambda x, t, z=None: layer(x), x1, seeded())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    loss.backward()
    assert all((p.grad != 0).all() for p in layer.parameters())


def test_the_loss_is_reproducible_and_touches_no_global_state():
    x1, state = draw(8, 3), torch.get_rng_state()
    objective = ConsistencyFlowMatching(LinearPath(0.1), ExactOT())
    first, second, other = (objective.loss(zero, x1, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_generator_moves_on():
    """Rewinding it for the three points of a trajectory must not repeat a batch, or the tube's noise, in the next."""
    generator, network, x1 = seeded(), Recorded(), torch.zeros(4, 2, dtype=torch.float64)
    objective = ConsistencyFlowMatching(LinearPath(0.5), source=Given(x1))
    for _ in range(2):
        objective.loss(network, x1, generator)
    assert not torch.isclose(network.x[0], network.x[2]).any()
    assert not torch.isclose(network.t[0], network.t[2]).any()


@pytest.mark.slow
def test_two_steps_beat_flow_matching_of_as_many_training_steps():
    flow = mixture()
    data, held_out = TensorBatches(flow.sample(10_000, seeded(1)).float()), flow.sample(1500, seeded(2))
    x0 = draw(1500, 2, dtype=torch.float32)

    def build():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return MLP(2, 64, 2)

    def config(steps):
        return TrainingConfig(steps=steps, batch_size=256, learning_rate=3e-3, warmup=20, ema=0.99)

    def distance(network, steps):
        """The energy distance, twice E|X - Y| less E|X - X'| and E|Y - Y'|."""
        with torch.no_grad():
            x = integrate(network, x0, Euler(), steps).double()
        between, within = torch.cdist(x, held_out).mean(), [torch.cdist(y, y).mean() for y in (x, held_out)]
        return (2 * between - sum(within)).item()

    matched = train(build(), FlowMatching(), data, config(600))
    consistent = ConsistencyFlowMatching(step=0.02, known=0.5)
    network = train(build(), consistent, data, config(600))
    velocity = consistent.velocity(network)
    assert distance(velocity, 2) < 0.25 * distance(matched, 2)
    assert distance(velocity, 1) < 0.5 * distance(matched, 1)
    # What consistency pays: its velocity is no longer the slope of the trajectories.
    assert distance(velocity, 20) > distance(velocity, 2)


@pytest.mark.parametrize("known", [0.0, 0.5, 1.0])
def test_the_first_stage_has_known_ends(known):
    objective, boundaries = ConsistencyFlowMatching(known=known), []

    class Watched(Objective):
        def at(self, share):
            boundaries.append(objective.at(share).boundary)
            return self

        def loss(self, network, x1, generator, average=None):
            return objective.loss(network, x1, generator, average)

    network = MLP(2, 8, 1)
    train(network, Watched(), TensorBatches(torch.zeros(4, 2)), TrainingConfig(steps=8, batch_size=4))
    assert boundaries == [0.0] * int(8 * known) + [0.9] * int(8 * (1 - known))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segments": 0}, "segments must be a whole number of at least 1, got 0"),
        ({"segments": 1.5}, "segments must be a whole number of at least 1, got 1.5"),
        ({"segments": True}, "segments must be a whole number of at least 1, got True"),
        ({"segments": 4, "step": 0.25}, "step must be positive and shorter than a segment, 1 / 4 .*got 0.25"),
        ({"step": 0.0}, "step must be positive and shorter than a segment, 1 / 2 .*got 0.0"),
        ({"alpha": -1e-5}, "alpha must be finite and not negative, got -1e-05"),
        ({"alpha": float("nan")}, "alpha must be finite and not negative, got nan"),
        ({"boundary": 1.1}, r"boundary is a time and must lie in \[0, 1\], got 1.1; 0 trains on the known ends"),
        ({"boundary": -0.1}, r"boundary is a time and must lie in \[0, 1\], got -0.1"),
        ({"known": 1.5}, r"known is a share of the training and must lie in \[0, 1\], got 1.5"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ConsistencyFlowMatching(**settings)


def test_bad_input():
    objective = ConsistencyFlowMatching()
    with pytest.raises(ValueError, match=r"empty batch.*\(0, 3\)"):
        objective.loss(zero, draw(0, 3), seeded())
    with pytest.raises(TypeError, match=r"floating-point type, got torch.int64"):
        objective.loss(zero, torch.ones(2, 3, dtype=torch.int64), seeded())
    with pytest.raises(ValueError, match=r"keep the shape \(4, 3\), got \(4, 1\)"):
        objective.loss(lambda x, t, z=None: x[:, :1], draw(4, 3), seeded())
    with pytest.raises(ValueError, match=r"keep the shape \(4, 3\), got \(4, 1\)"):
        objective.loss(zero, draw(4, 3), seeded(), lambda x, t, z=None: x[:, :1])
