"""Latents: posteriors against closed forms, contracts over all kinds, and the errors that say what to do."""

import math

import pytest
import torch
from torch import nn

from physflow.generative import MLP, ExactOT, FlowMatching, SchroedingerBridge, TensorBatches, train
from physflow.generative.latents import (
    ComponentIds,
    Components,
    Conditioned,
    Coordinates,
    Encoded,
    Encodings,
    NormalLatent,
    Posterior,
    StandardNormal,
    encodings_of,
)
from physflow.generative.mixture import DiagonalMixture
from physflow.generative.regression import Origin, Regression


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Joined(nn.Module):
    """An encoder that remembers what it was given."""

    def __init__(self, width_in, width):
        super().__init__()
        self.layer = nn.Linear(width_in, width).double()
        self.given = []

    def forward(self, x, t=None):
        self.given.append((x, t))
        return self.layer(x if t is None else torch.cat([x, t[:, None]], 1))


def normal_latent(inputs=("x1",), dimension=3, size=2, **settings):
    samples = sum(name != "t" for name in inputs)
    encoder = Joined(size * samples + ("t" in inputs) + (samples == 0), 5)
    return NormalLatent(encoder, 5, dimension, inputs, **settings).double()


def fitted_mixture(size=2):
    mixture = DiagonalMixture(2, size)
    data = torch.cat([draw(200, size) - 5, draw(200, size, seed=1) + 5]).float()
    mixture.fit(data, steps=50)
    return mixture.double()


LATENTS = {
    "normal": normal_latent,
    "frozen": lambda: normal_latent(frozen=True),
    "coordinates": lambda: Coordinates([1], 2),
    "encoded": lambda: Encoded(lambda x: x.sum(1, keepdim=True), 1),
    "components": lambda: Components(fitted_mixture()),
}


@pytest.mark.parametrize("shape", [(1, 1), (4, 3), (2, 7)])
def test_divergence_is_that_of_torch_summed_over_the_latent(shape):
    posterior = Posterior(draw(*shape), draw(*shape, seed=1))
    normal = torch.distributions.Normal(posterior.mean, (0.5 * posterior.log_variance).exp())
    standard = torch.distributions.Normal(torch.zeros(shape).double(), torch.ones(shape).double())
    expected = torch.distributions.kl_divergence(normal, standard).sum(1)
    torch.testing.assert_close(posterior.kl(), expected, rtol=1e-12, atol=1e-12)
    assert posterior.kl().shape == shape[:1]


def test_draws_have_the_moments_of_the_posterior():
    posterior = Posterior(torch.tensor([[1.0, -2.0]]).double(), torch.tensor([[0.0, math.log(9.0)]]).double())
    z = torch.cat([posterior.sample(epsilon[None]) for epsilon in draw(20000, 2)])
    torch.testing.assert_close(z.mean(0), posterior.mean[0], rtol=0, atol=0.1)
    torch.testing.assert_close(z.std(0), torch.tensor([1.0, 3.0]).double(), rtol=0.02, atol=0)
    assert torch.equal(posterior.sample(None), posterior.mean)


@pytest.mark.parametrize("build", LATENTS.values(), ids=LATENTS)
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_every_latent_encodes_items_and_splits_them(build, batch):
    latent, x1 = build(), draw(batch, 2)
    z = latent.encode(x1)
    assert z.shape == (batch, latent.dimension)
    assert latent.posterior(x1=x1).kl().shape == (batch,)
    torch.testing.assert_close(latent.join(z, latent.rest(x1)), x1)
    # One item at a time gives the same.
    for i in range(batch):
        torch.testing.assert_close(latent.encode(x1[i : i + 1]), z[i : i + 1])


@pytest.mark.parametrize("build", LATENTS.values(), ids=LATENTS)
def test_an_objective_trains_what_a_latent_leaves_to_train(build):
    latent = build()
    flow_size = latent.rest(draw(1, 2)).shape[1]
    network = Conditioned(MLP(flow_size, 8, 1, latent=latent.dimension).double(), latent)
    nn.init.normal_(network.network.output.weight, generator=seeded())
    loss = FlowMatching(latent=latent, beta=0.1).loss(network, draw(6, 2), seeded())
    loss.backward()
    trained = {name for name, p in latent.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    everything = {name for name, _ in latent.named_parameters()}
    expected = everything if latent.stochastic else set()
    if isinstance(latent, NormalLatent) and latent.frozen:
        expected = {name for name in everything if name.startswith("head.")}
    assert trained == expected


SUBSETS = [tuple(name for i, name in enumerate(("x0", "x1", "xt", "t")) if number >> i & 1) for number in range(1, 16)]


@pytest.mark.parametrize("inputs", SUBSETS, ids="-".join)
def test_a_posterior_reads_what_it_declares_and_nothing_else(inputs):
    latent = normal_latent(inputs)
    given = {"x0": draw(4, 2), "x1": draw(4, 2, seed=1), "xt": draw(4, 2, seed=2), "t": draw(4, seed=3).sigmoid()}
    z = latent.posterior(**given).mean
    for name, value in given.items():
        changed = latent.posterior(**{**given, name: value + 1}).mean
        assert torch.equal(changed, z) == (name not in inputs)
    x, t = latent.encoder.given[0]
    assert torch.equal(x, torch.cat([given[name] for name in inputs if name != "t"] or [torch.zeros(4, 1)], 1))
    assert (t is None) == ("t" not in inputs)
    for name in inputs:
        with pytest.raises(ValueError, match=rf"reads {', '.join(inputs)}, but got no {name}; give all that it reads"):
            latent.posterior(**{**given, name: None})


def test_loss_is_the_error_plus_beta_times_the_rate():
    latent, x1 = normal_latent(), draw(6, 2)
    network = Conditioned(MLP(2, 8, 1, latent=3).double(), latent)
    error, rate = FlowMatching(latent=latent).terms(network, x1, seeded())
    for beta in (0.0, 0.5, 2.0):
        loss = FlowMatching(latent=latent, beta=beta).loss(network, x1, seeded())
        torch.testing.assert_close(loss, error + beta * rate)
    torch.testing.assert_close(rate, latent.posterior(x1=x1).kl().mean())


def test_the_network_gets_the_latent_of_its_own_item():
    """With an encoder that copies x1, the prediction can be checked item by item."""
    seen = {}

    class Network(nn.Module):
        def forward(self, x, t, z):
            seen.update(x=x, t=t, z=z)
            return x

    x1 = draw(32, 2)
    latent = Encoded(lambda x: x, 2)
    FlowMatching(latent=latent).loss(Conditioned(Network(), latent), x1, seeded())
    x0 = (seen["x"] - seen["t"][:, None] * x1) / (1 - seen["t"][:, None])
    assert torch.equal(seen["z"], x1)
    torch.testing.assert_close(x0, torch.randn(32, 2, generator=seeded(), dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_coordinates_run_the_flow_over_the_rest():
    latent, x1 = Coordinates([2, 0], 5), draw(3, 5)
    assert torch.equal(latent.encode(x1), x1[:, [2, 0]])
    assert torch.equal(latent.rest(x1), x1[:, [1, 3, 4]])
    network = Conditioned(MLP(3, 8, 1, latent=2).double(), latent)
    error, rate = FlowMatching(latent=latent).terms(network, x1, seeded())
    assert rate == 0
    # The untrained network predicts zero, so the error is the mean square of x1 - x0 over the rest.
    x0 = torch.randn(3, 3, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(error, (latent.rest(x1) - x0).square().mean())


def test_conditional_training_finds_the_conditional_law():
    """y = 2 z + 0.5 noise: given z the samples have this mean and spread."""
    z = torch.randn(4000, 1, generator=seeded(1))
    items = torch.cat([z, 2 * z + 0.5 * torch.randn(4000, 1, generator=seeded(2))], 1)
    latent = Coordinates([0], 2)
    from physflow.config import TrainingConfig
    from physflow.generative import Heun, integrate

    torch.manual_seed(0)
    objective = FlowMatching(latent=latent)
    config = TrainingConfig(steps=400, batch_size=256, learning_rate=3e-3)
    network = train(Conditioned(MLP(1, 32, 2, latent=1), latent), objective, TensorBatches(items), config)
    for value in (-1.0, 0.5):
        noise = torch.randn(2000, 1, generator=seeded(3))
        with torch.no_grad():
            y = integrate(objective.velocity(network), noise, Heun(), 20, torch.full((2000, 1), value))
        assert abs(y.mean() - 2 * value) < 0.1
        assert abs(y.std() - 0.5) < 0.07


def test_regression_is_least_squares_and_one_step_of_any_solver():
    from physflow.config import TrainingConfig
    from physflow.generative import RK4, Euler, Heun, integrate

    z = torch.randn(500, 2, generator=seeded(1))
    items = torch.cat([z, z @ torch.tensor([[1.0], [-2.0]])], 1)
    latent = Coordinates([0, 1], 3)
    torch.manual_seed(0)
    objective = Regression(latent)
    network = Conditioned(MLP(1, 32, 1, latent=2), latent)
    config = TrainingConfig(steps=300, batch_size=128, learning_rate=3e-3)
    network = train(network, objective, TensorBatches(items), config)
    start = objective.source.sample((500, 1), seeded())
    assert not start.any()
    with torch.no_grad():
        for solver, steps in ((Euler(), 1), (Euler(), 7), (Heun(), 3), (RK4(), 2)):
            y = integrate(objective.velocity(network), start, solver, steps, z)
            assert (y - items[:, 2:]).square().mean() < 2e-2
            torch.testing.assert_close(y, network(torch.zeros(500, 1), torch.zeros(500), z), rtol=1e-5, atol=1e-5)
    loss = objective.loss(network, items, seeded())
    torch.testing.assert_close(loss, (y - items[:, 2:]).square().mean(), rtol=1e-4, atol=1e-6)


def test_encodings_draw_from_the_posteriors_of_the_training_data():
    mean, log_variance = torch.tensor([[0.0, 10.0], [4.0, -10.0]]), torch.tensor([[0.0, -9.0], [2 * math.log(2.0), -9]])
    prior = Encodings(mean, log_variance)
    z = prior.draw(8000, seeded())
    first = z[:, 1] > 0
    assert abs(first.double().mean() - 0.5) < 0.02
    assert abs(z[first, 0].std() - 1) < 0.05
    assert abs(z[~first, 0].std() - 2) < 0.1
    assert abs(z[~first, 0].mean() - 4) < 0.1
    each = prior.draw_each(seeded())
    assert each.shape == (2, 2)
    assert each[0, 1] > 9
    assert each[1, 1] < -9


def test_encodings_of_points_are_the_points():
    latent = Coordinates([0], 2)
    x = draw(5, 2).float()
    prior = encodings_of(latent, x.split(2))
    assert torch.equal(prior.mean, x[:, :1])
    assert prior.log_variance is None
    assert set(prior.draw(50, seeded())[:, 0].tolist()) <= set(x[:, 0].tolist())


def test_component_ids_are_drawn_with_the_weights_given():
    prior = ComponentIds(torch.tensor([0.5, 0.0, 0.2, 0.3]))
    ids = prior.draw(20_000, seeded())
    assert ids.shape == (20_000, 4)
    assert torch.equal(ids.sum(1), torch.ones(20_000))
    torch.testing.assert_close(ids.mean(0), prior.weights, rtol=0, atol=0.015)
    assert not ids[:, 1].any()
    assert prior.draw(0, seeded()).shape == (0, 4)
    with pytest.raises(ValueError, match="weights that are not negative and sum to one"):
        ComponentIds(torch.tensor([0.5, 0.6]))


def test_shares_and_weights_of_overlapping_components_differ():
    """A narrow component takes points of a wide one around it: the shares are the law of training."""
    mixture = DiagonalMixture(2, 1).double()
    mixture.logits.data.zero_()
    mixture.means.data[:] = torch.tensor([[0.0], [0.5]])
    mixture.log_variances.data[:] = torch.tensor([[0.0], [-3.0]])
    latent = Components(mixture)
    shares = encodings_of(latent, [mixture.sample(50_000, seeded())]).mean.mean(0)
    assert abs(shares[0] - 0.39) < 0.01
    torch.testing.assert_close(mixture.weights, torch.tensor([0.5, 0.5]).double())


def test_a_given_encoder_stays_in_evaluation_mode():
    encoder = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    network = Conditioned(MLP(2, 8, 1, latent=3), Encoded(encoder, 3)).train()
    x = torch.randn(6, 2, generator=seeded())
    assert torch.equal(network.latent.encode(x), network.latent.encode(x))
    assert not encoder[1].running_mean.any()


def test_the_divergence_near_the_prior_is_exact():
    log_variance = torch.full((1, 8), 1e-4)
    exact = Posterior(torch.zeros(1, 8).double(), log_variance.double()).kl()
    torch.testing.assert_close(Posterior(torch.zeros(1, 8), log_variance).kl().double(), exact, rtol=0.2, atol=0)
    assert (Posterior(torch.zeros(500, 1), torch.linspace(-1e-3, 1e-3, 500)[:, None]).kl() >= 0).all()


def test_an_extreme_variance_is_pulled_back():
    latent = normal_latent()
    latent.head.bias.data[3:] = torch.tensor([25.0, -25.0, 0.0])
    posterior = latent.posterior(x1=torch.zeros(1, 2).double())
    assert posterior.log_variance.abs().max() < 20
    posterior.kl().sum().backward()
    assert latent.head.bias.grad[3] > 0 > latent.head.bias.grad[4]


def test_prior_draws_depend_on_the_generator_alone():
    prior = StandardNormal(3)
    assert torch.equal(prior.draw(4, seeded(1)), prior.draw(4, seeded(1)))
    assert not torch.equal(prior.draw(4, seeded(1)), prior.draw(4, seeded(2)))
    assert prior.draw(0, seeded()).shape == (0, 3)


def test_a_frozen_encoder_stays_in_evaluation_mode_and_as_it_is():
    encoder = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5))
    latent = NormalLatent(encoder, 4, 2, frozen=True).train()
    assert not encoder[1].training
    assert latent.head.training
    x = torch.ones(3, 2)
    assert torch.equal(latent.posterior(x1=x).mean, latent.posterior(x1=x).mean)


def test_errors_say_what_to_do():
    encoder = nn.Linear(2, 4)
    with pytest.raises(ValueError, match="must read something: choose inputs among x0, x1, xt, t, got none"):
        NormalLatent(encoder, 4, 2, ())
    with pytest.raises(ValueError, match="unknown input 'x2' of a posterior"):
        NormalLatent(encoder, 4, 2, ("x2",))
    with pytest.raises(ValueError, match="each input of a posterior once, got x1, x1"):
        NormalLatent(encoder, 4, 2, ("x1", "x1"))
    with pytest.raises(ValueError, match="width and dimension of at least 1, got 4 and 0"):
        NormalLatent(encoder, 4, 0)
    with pytest.raises(ValueError, match="takes latents of 3 components, but the latent has 2: build the network with"):
        Conditioned(MLP(2, 8, 1, latent=3), NormalLatent(encoder, 4, 2))
    with pytest.raises(
        ValueError, match="beta, the weight of the latent's divergence, must be finite and not negative"
    ):
        FlowMatching(beta=-1.0)
    with pytest.raises(ValueError, match="between 1 and 2 of the 3 coordinates as latent, got 3"):
        Coordinates(range(3), 3)
    with pytest.raises(ValueError, match=r"different coordinates between 0 and 2, got \[0, 0\]"):
        Coordinates([0, 0], 3)
    with pytest.raises(ValueError, match=r"expected items of shape \(batch, 3\), got \(4, 2\)"):
        Coordinates([0], 3).encode(torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"encoder to return latents of shape \(4, 3\), got \(4, 2\)"):
        Encoded(lambda x: x, 3).encode(torch.ones(4, 2))
    with pytest.raises(ValueError, match="this posterior reads x0, x1: draw z from N"):
        encodings_of(normal_latent(("x0", "x1")), [draw(2, 2)])
    with pytest.raises(ValueError, match="no training samples to encode"):
        encodings_of(Coordinates([0], 2), [])
    latent = normal_latent()
    with pytest.raises(TypeError, match=r"a network that encodes, got MLP: train Conditioned\(network, latent\)"):
        FlowMatching(latent=latent).loss(MLP(2, 8, 1, latent=3).double(), draw(2, 2), seeded())
    with pytest.raises(ValueError, match="a latent that is given, not a posterior that is told the answer"):
        Regression(latent)
    with pytest.raises(ValueError, match=r"a latent z of shape \(4, 3\), got \(5, 3\)"):
        Conditioned(MLP(2, 8, 1, latent=3).double(), latent)(draw(4, 2), draw(4), draw(5, 3))
    for coupling in (ExactOT(), ExactOT(plan="sample"), SchroedingerBridge(0.1)):
        with pytest.raises(ValueError, match="ties the source to the data, and so to the latent, but generation"):
            FlowMatching(coupling=coupling, latent=latent)
    assert Origin().sample((2, 3), seeded()).shape == (2, 3)
