"""Score matching: its weights against flow matching, its minimum, what it samples, and what it refuses."""

import itertools

import pytest
import torch
from oracles import mixture

from physflow.config import TrainingConfig
from physflow.data.toys import two_modes
from physflow.generative import (
    MLP,
    VE,
    VP,
    Cosine,
    DrawnBatches,
    ErrorWeight,
    EulerMaruyama,
    ExactOT,
    FlowMatching,
    GaussianProcess,
    Heun,
    LinearPath,
    Preconditioned,
    ScoreMatching,
    Uniform,
    integrate,
    simulate,
    train,
)
from physflow.metrics import energy_test

PATHS = [VP(), VE(0.02, 10.0), Cosine(), LinearPath()]
QUANTITIES = ("velocity", "data", "noise", "score")
TIMES = Uniform(0.05, 0.95)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=7):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def crude(path, wanted):
    """A network that predicts anything, from one that predicts the data badly."""

    def network(x, t, z=None):
        return path.convert(torch.tanh(x), x, t, given="data", wanted=wanted)

    return network


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize(("given", "counts"), list(itertools.permutations(QUANTITIES, 2)))
def test_an_error_counts_as_that_of_another_prediction(path, given, counts):
    """The weighted loss of one prediction is the loss of the other, draw by draw."""
    x1 = draw(200, 2)
    weighted = FlowMatching(path, prediction=given, times=TIMES, weight=ErrorWeight(path, given, counts))
    plain = FlowMatching(path, prediction=counts, times=TIMES)
    losses = [objective.loss(crude(path, objective.prediction), x1, seeded(1)) for objective in (weighted, plain)]
    torch.testing.assert_close(*losses, rtol=1e-9, atol=0)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_the_named_weights(path):
    t = torch.linspace(0.05, 0.95, 9, dtype=torch.float64)
    sigma, alpha, squared = path.sigma(t), path.alpha(t), path.squared_diffusion(t)
    expected = {"noise": sigma**2, "likelihood": squared, "velocity": squared**2 / 4, "data": sigma**4 / alpha**2}
    for counts, weight in expected.items():
        torch.testing.assert_close(ErrorWeight(path, "score", counts)(t), weight, rtol=1e-9, atol=1e-12)
    assert ErrorWeight(path, "data", "data")(torch.tensor([0.0, 1.0])).tolist() == [1, 1]


@pytest.mark.parametrize("prediction", QUANTITIES)
@pytest.mark.parametrize("counts", ["noise", "likelihood"])
def test_the_exact_score_is_the_minimiser(prediction, counts):
    """The gradient vanishes there, within sampling error, along a constant and along a multiple of x."""
    flow, generator, gradients = mixture().target.flow(VP()), seeded(), []
    objective = ScoreMatching(prediction=prediction, counts=counts, times=TIMES)
    for _ in range(30):
        shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)

        def network(x, t, z=None, shift=shift):
            return getattr(flow, prediction)(x, t) + shift[0] + shift[1] * x

        objective.loss(network, flow.target.sample(1000, generator), generator).backward()
        gradients.append(shift.grad)
    gradients = torch.stack(gradients)
    assert (gradients.mean(0).abs() < 4 * gradients.std(0) / len(gradients) ** 0.5).all()


def test_one_network_samples_as_flow_and_as_diffusion():
    """Trained by flow matching or by score matching, sampled by the flow or by the equation with noise: one law."""
    target, n = two_modes(), 500
    data = target.sample(n, seeded(3))
    config = TrainingConfig(steps=600, batch_size=512, learning_rate=3e-3, warmup=50, ema=0.99)
    for objective in (FlowMatching(), ScoreMatching()):
        given = objective.prediction
        network = Preconditioned(MLP(1, width=64, blocks=2), objective.path, given)
        batches = DrawnBatches(lambda k, g: target.sample(k, g).float(), config.batch_size)
        network = train(network, objective, batches, config).double()
        model, x0 = objective.predictor(network), draw(n, 1, seed=11)
        with torch.no_grad():
            flow = integrate(objective.velocity(network), x0, Heun(), 50)
            diffusion = simulate(model, x0, EulerMaruyama(), 300, seeded(5))
            moved = simulate(model.along(Cosine()), x0, EulerMaruyama(), 300, seeded(6))
        for found in (flow, diffusion, moved):
            assert energy_test(found, data, permutations=200).p_value > 0.01, objective


def test_ve_starts_as_wide_as_it_is():
    objective = FlowMatching(VE(0.01, 30.0), prediction="data")
    x0 = objective.start.sample((4000, 2), seeded(), dtype=torch.float64)
    assert x0.std().item() == pytest.approx((1 + 30.0**2) ** 0.5, rel=0.03)
    assert FlowMatching(VP(), prediction="data").start is not None
    assert FlowMatching(Cosine()).start == FlowMatching(Cosine()).source
    model = objective.predictor(lambda x, t, z=None: mixture().target.flow(objective.path).data(x, t))
    x = integrate(objective.velocity(model.network), x0[:1500], Heun(), 100)
    assert (x.mean(0) - mixture().mean).abs().max() < 0.2


def test_bad_input():
    with pytest.raises(ValueError, match=r"N\(0, I\) and independent of the data.*ExactOT"):
        ScoreMatching(coupling=ExactOT())
    with pytest.raises(ValueError, match=r"N\(0, I\).*GaussianProcess"):
        ScoreMatching(source=GaussianProcess(lambda x: x))
    with pytest.raises(ValueError, match="unknown counts='likelyhood' of an error; did you mean 'likelihood'"):
        ScoreMatching(counts="likelyhood")
    with pytest.raises(ValueError, match="unknown given='epsilon'"):
        ErrorWeight(VP(), "epsilon", "noise")
    with pytest.raises(TypeError, match="weight"):
        ScoreMatching(weight=lambda t: t)
