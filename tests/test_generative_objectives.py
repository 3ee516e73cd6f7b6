"""Objectives: the exact minimum of flow matching, exact losses by hand, precision, bad input."""

from dataclasses import dataclass

import pytest
import torch
from oracles import mixture
from torch import nn

from physflow.config import TrainingConfig
from physflow.data import toys
from physflow.generative import MLP, DrawnBatches, train
from physflow.generative.couplings import ExactOT, Independent
from physflow.generative.objectives import FlowMatching, LateWeight
from physflow.generative.paths import LinearPath
from physflow.generative.predictors import LAST_TIME
from physflow.generative.sources import Source

PREDICTIONS = ("velocity", "data")


@dataclass(frozen=True)
class Constant(Source):
    """The source that is one point, so that losses can be computed by hand."""

    value: float = 0.0

    def sample(self, shape, generator, dtype=torch.float32, device="cpu"):
        return torch.full(tuple(shape), self.value, dtype=dtype, device=device)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=100, dtype=torch.float64):
    """Data, from another seed than the source's: the same numbers would be the same points."""
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def zero(x, t, z=None):
    return torch.zeros_like(x)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_the_exact_prediction_has_the_exact_minimum(prediction, sigma):
    flow, generator = mixture(sigma), seeded()
    objective = FlowMatching(LinearPath(sigma), prediction=prediction)
    network = getattr(flow, prediction)
    losses = torch.stack([objective.loss(network, flow.sample(1000, generator), generator) for _ in range(30)])
    exact, error = flow.minimum(prediction, 30_000, generator)
    assert abs(losses.mean() - exact) < 4 * (losses.var() / len(losses) + error**2).sqrt()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_the_exact_prediction_is_the_minimiser(prediction, sigma):
    """The gradient vanishes there, within sampling error, along a constant and along a multiple of x."""
    flow, generator = mixture(sigma), seeded()
    objective = FlowMatching(LinearPath(sigma), prediction=prediction)
    gradients = []
    for _ in range(30):
        shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)

        def network(x, t, z=None, shift=shift):
            return getattr(flow, prediction)(x, t) + shift[0] + shift[1] * x

        objective.loss(network, flow.sample(1000, generator), generator).backward()
        gradients.append(shift.grad)
    gradients = torch.stack(gradients)
    assert (gradients.mean(0).abs() < 4 * gradients.std(0) / len(gradients) ** 0.5).all()


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_the_mean_over_elements(prediction):
    """From the source 0 the target is x1, whatever is predicted."""
    x1 = draw(5, 2, 3, 4)
    objective = FlowMatching(source=Constant(0.0), prediction=prediction)
    torch.testing.assert_close(objective.loss(zero, x1, seeded()), x1.square().mean())


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_weight_multiplies_the_loss_of_its_item(prediction):
    x1, times = draw(5, 2, 3), []

    def weight(t):
        times.append(t)
        return 1 / (1 - t)

    loss = FlowMatching(source=Constant(0.0), weight=weight, prediction=prediction).loss(zero, x1, seeded())
    torch.testing.assert_close(loss, (x1.square().mean((1, 2)) / (1 - times[0])).mean())


def test_the_velocity_target_is_the_difference_of_the_ends():
    x1 = draw(6, 2)
    objective = FlowMatching(source=Constant(3.0))
    torch.testing.assert_close(objective.loss(zero, x1, seeded()), (x1 - 3).square().mean())


def test_the_network_sees_the_path_at_uniform_times():
    seen = {}

    def network(x, t, z=None):
        seen.update(x=x, t=t)
        return x

    x1 = torch.full((5000, 1), 2.0, dtype=torch.float64)
    FlowMatching(source=Constant(1.0)).loss(network, x1, seeded())
    torch.testing.assert_close(seen["x"][:, 0], 1 + seen["t"])
    t = seen["t"].sort().values
    uniform = torch.arange(1, 5001, dtype=torch.float64) / 5000
    # Kolmogorov and Smirnov: the distance exceeds 1.95 / sqrt(n) with probability 0.001.
    assert (t - uniform).abs().max() < 1.95 / 5000**0.5
    assert t[0] >= 0
    assert t[-1] < 1


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_reproducible_and_touches_no_global_state(prediction):
    x1, state = draw(8, 3), torch.get_rng_state()
    objective = FlowMatching(LinearPath(0.1), ExactOT(), prediction=prediction)
    first, second, other = (objective.loss(zero, x1, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_optimal_transport_shortens_the_way():
    x1 = draw(64, 2)
    independent, optimal = (FlowMatching(coupling=c).loss(zero, x1, seeded()) for c in (Independent(), ExactOT()))
    assert optimal < 0.5 * independent


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("batch", [1, 6])
def test_the_gradient_reaches_the_network(prediction, batch):
    layer = nn.Linear(3, 3).double()
    loss = FlowMatching(prediction=prediction).loss(lambda x, t, z=None: layer(x), draw(batch, 3), seeded())
    assert loss.shape == ()
    loss.backward()
    assert all((p.grad != 0).all() for p in layer.parameters())


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_the_loss_is_float32_or_finer(given, expected):
    seen = []

    def network(x, t, z=None):
        seen.extend((x.dtype, t.dtype))
        return x

    assert FlowMatching().loss(network, draw(4, 3).to(given), seeded()).dtype == expected
    assert seen == [expected, expected]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_autocast_reaches_the_network_only(prediction):
    layer, kinds = nn.Linear(3, 3), []

    def network(x, t, z=None):
        y = layer(x)
        kinds.append(y.dtype)
        return y

    x1 = draw(64, 3, dtype=torch.float32)
    objective = FlowMatching(coupling=ExactOT(), prediction=prediction)
    expected = objective.loss(network, x1, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective.loss(network, x1, seeded())
    assert kinds == [torch.float32, torch.bfloat16]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_the_velocity_of_an_exact_network_is_exact(prediction, sigma):
    flow = mixture(sigma)
    velocity = FlowMatching(LinearPath(sigma), prediction=prediction).velocity(getattr(flow, prediction))
    x, t = draw(20, 2), torch.linspace(0, 0.998, 20, dtype=torch.float64)
    torch.testing.assert_close(velocity(x, t), flow.velocity(x, t), rtol=1e-10, atol=1e-10)


def test_the_velocity_of_a_data_network_is_finite_at_the_data():
    flow = mixture()
    velocity = FlowMatching(prediction="data").velocity(flow.data)
    x, t = draw(4, 2), torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(velocity(x, t), flow.velocity(x, t * LAST_TIME))


def test_the_velocity_hands_on_the_latent():
    seen = []

    def network(x, t, z=None):
        seen.append(z)
        return x

    x, t, z = draw(4, 2), torch.zeros(4), draw(4, 7)
    for prediction in PREDICTIONS:
        velocity = FlowMatching(prediction=prediction).velocity(network)
        velocity(x, t)
        velocity(x, t, z)
    assert seen[0] is seen[2] is None
    assert seen[1] is seen[3] is z


def test_bad_input():
    objective = FlowMatching()
    with pytest.raises(ValueError, match=r"unknown prediction 'veloctiy'.*did you mean 'velocity'"):
        FlowMatching(prediction="veloctiy")
    with pytest.raises(ValueError, match=r"empty batch.*\(0, 3\)"):
        objective.loss(zero, draw(0, 3), seeded())
    with pytest.raises(TypeError, match=r"floating-point type, got torch.int64"):
        objective.loss(zero, torch.ones(2, 3, dtype=torch.int64), seeded())
    with pytest.raises(ValueError, match=r"keep the shape \(4, 3\), got \(4, 1\)"):
        objective.loss(lambda x, t, z=None: x[:, :1], draw(4, 3), seeded())
    with pytest.raises(ValueError, match=r"one weight per item, shape \(4,\), got \(4, 1\)"):
        FlowMatching(weight=lambda t: t[:, None]).loss(zero, draw(4, 3), seeded())


def test_late_weight_is_the_inverse_of_the_time_left_and_bounded():
    t = torch.tensor([0.0, 0.5, 0.9, 0.95, 1.0], dtype=torch.float64)
    expected = torch.tensor([1.0, 2.0, 10.0, 20.0, 20.0], dtype=torch.float64)
    torch.testing.assert_close(LateWeight()(t), expected)
    for floor in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"time left must lie in \(0, 1\], got {floor}"):
            LateWeight(floor)


@pytest.mark.slow
@pytest.mark.parametrize("toy", [toys.four_gaussians, toys.two_modes, toys.triangle, toys.ring])
def test_a_trained_network_comes_within_a_per_cent_of_the_minimum(toy):
    """And not below it: within the sampling error of both."""
    target = toy()
    data = DrawnBatches(lambda n, generator: target.sample(n, generator, dtype=torch.float32), 1024)
    config = TrainingConfig(steps=2500, batch_size=1024, learning_rate=2e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = train(MLP(target.dimension, 64, 3), FlowMatching(), data, config)
    generator = seeded()
    with torch.no_grad():
        losses = torch.stack(
            [FlowMatching().loss(network, target.sample(20_000, generator).float(), generator) for _ in range(100)]
        ).double()
    minimum, error = target.flow(LinearPath()).minimum("velocity", 400_000, generator)
    error = (losses.var() / len(losses) + error**2).sqrt()
    excess = (losses.mean() - minimum) / minimum
    print(f"{toy.__name__}: loss {losses.mean():.5f}, least {minimum:.5f} +- {error:.5f}, excess {100 * excess:.2f} %")
    assert error < 2e-3 * minimum
    assert -3 * error / minimum < excess < 0.01
