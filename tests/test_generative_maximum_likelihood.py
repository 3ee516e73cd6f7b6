"""Maximum likelihood: its value and gradient against closed forms, that it finds a law, errors."""

import pytest
import torch
from oracles import mixture
from perturbed_networks import draw, perturbed
from torch import nn

from physflow.config import TrainingConfig
from physflow.generative import (
    MLP,
    Adaptive,
    Drawn,
    Exact,
    Gaussian,
    Heun,
    Hutchinson,
    MaximumLikelihood,
    TensorBatches,
    integrate,
    log_likelihood,
    train,
)


class Scaling(nn.Module):
    """v = a x + b: the data are N(b (e^a - 1) / a, e^(2a))."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (a, b))

    def forward(self, x, t, z=None):
        return self.a * x + self.b


class Smooth(nn.Module):
    """A small network without fast sinusoids of the time, which would cost the solver many steps."""

    def __init__(self):
        super().__init__()
        layers = [nn.Linear(3, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x, t, z=None):
        return self.layers(torch.cat([x, t[:, None]], dim=1))


@pytest.mark.parametrize("divergence", [Exact(), Hutchinson()], ids=str)
def test_value_and_gradient_are_those_of_the_closed_form(divergence):
    network, x = Scaling(0.7, -0.4), draw(30, 3)
    objective = MaximumLikelihood(divergence=divergence, rtol=1e-9, atol=1e-9)
    loss = objective.loss(network, x, torch.Generator().manual_seed(0))
    found = torch.autograd.grad(loss, (network.a, network.b))
    law = torch.distributions.Normal(network.b * (network.a.exp() - 1) / network.a, network.a.exp())
    expected = -law.log_prob(x).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)
    for one, other in zip(found, torch.autograd.grad(expected, (network.a, network.b)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_the_loss_is_that_of_the_likelihood():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = perturbed(MLP(2, 8, 1))
    x = draw(10, 2)
    loss = MaximumLikelihood(divergence=Exact(), rtol=1e-8, atol=1e-8).loss(network, x, torch.Generator())
    expected = -log_likelihood(network, x, Adaptive(rtol=1e-8, atol=1e-8)).log_density.mean() / 2
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=1e-6)


def test_it_finds_the_law_of_a_toy():
    """Within 0.1 nats of the entropy, from 0.6 above it."""
    target = mixture().target
    data, held = (target.sample(n, torch.Generator().manual_seed(n)).float() for n in (2000, 1000))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Smooth()
    objective = MaximumLikelihood(rtol=1e-3, atol=1e-3)
    config = TrainingConfig(steps=150, batch_size=256, learning_rate=1e-2, ema=0.9, warmup=10)

    def gap(network):
        return float((target.log_density(held) - log_likelihood(network.eval(), held).log_density).mean())

    before = gap(network)
    trained = train(network, objective, TensorBatches(data), config)
    assert gap(trained) < 0.1 < 0.6 < before
    assert objective.velocity(trained) is trained
    x = integrate(trained, draw(500, 2).float(), Heun(), 20)
    assert x.isfinite().all()


def test_bad_input():
    x = draw(2, 2)
    with pytest.raises(TypeError, match=r"needs the weights of a torch\.nn.Module, got function"):
        MaximumLikelihood().loss(lambda x, t: x, x, torch.Generator())
    with pytest.raises(ValueError, match="rtol must be positive"):
        MaximumLikelihood(rtol=0.0)
    with pytest.raises(ValueError, match="source of type Drawn is not known"):
        MaximumLikelihood(Drawn(lambda n, g: x)).loss(Scaling(0.1, 0.1), x, torch.Generator())
    assert MaximumLikelihood().start == Gaussian()
    assert MaximumLikelihood().loss(Scaling(0.1, 0.1), x, torch.Generator()).isfinite()
