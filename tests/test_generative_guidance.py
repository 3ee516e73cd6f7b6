"""Guidance: the exact conditional law of a mixture, the posterior of a latent, items by themselves, errors."""

import math

import pytest
import torch
from oracles import mixture
from perturbed_networks import draw, perturbed
from torch import nn

from physflow.config import TrainingConfig
from physflow.data.toys import GaussianMixture
from physflow.generative import (
    MLP,
    RK4,
    ClassifierFree,
    ClassifierGuided,
    Conditioned,
    Cosine,
    Euler,
    FlowMatching,
    Heun,
    LinearPath,
    NormalLatent,
    Predictor,
    TensorBatches,
    integrate,
    posterior_log_probability,
    train,
)

TARGET = mixture().target


def component(k):
    """One component of the mixture."""
    return GaussianMixture([1.0], TARGET.means[k : k + 1], TARGET.covariances[k : k + 1])


def classifier(path, k):
    """The exact probability of the component given a noisy point."""
    whole, one = TARGET.flow(path), component(k).flow(path)
    return lambda x, t, z=None: one.log_density(x, t) - whole.log_density(x, t)


@pytest.mark.parametrize("path", [LinearPath(), Cosine()], ids=str)
@pytest.mark.parametrize("k", [0, 2])
def test_an_exact_classifier_gives_the_flow_to_its_class(path, k):
    t = torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)
    x = draw(4, 2)
    guided = ClassifierGuided(TARGET.flow(path).velocity, classifier(path, k), path=path)
    expected = component(k).flow(path).velocity(x, t)
    torch.testing.assert_close(guided(x, t), expected, rtol=1e-8, atol=1e-8)
    with torch.inference_mode():
        torch.testing.assert_close(guided(x.clone(), t.clone()), expected, rtol=1e-8, atol=1e-8)


def test_guided_samples_have_the_law_of_the_class():
    guided = ClassifierGuided(TARGET.flow(LinearPath()).velocity, classifier(LinearPath(), 1))
    x = integrate(guided, draw(4000, 2), Heun(), 50)
    torch.testing.assert_close(x.mean(0), TARGET.means[1], rtol=0, atol=0.05)
    torch.testing.assert_close(x.T.cov(), TARGET.covariances[1], rtol=0, atol=0.06)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_without_a_classifier(scale):
    whole, one = (law.flow(LinearPath()).velocity for law in (TARGET, component(0)))
    x, t = draw(3, 2), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    guided = ClassifierFree(one, lambda x, t: whole(x, t), scale)
    torch.testing.assert_close(guided(x, t), whole(x, t) + scale * (one(x, t) - whole(x, t)))
    by_classifier = ClassifierGuided(whole, classifier(LinearPath(), 0), scale)
    torch.testing.assert_close(guided(x, t), by_classifier(x, t), rtol=1e-8, atol=1e-8)


def latent_flow():
    """A network with a latent of one component, weights at random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return perturbed(Conditioned(MLP(2, 8, 1, latent=1), NormalLatent(nn.Linear(2, 8), 8, 1))).eval()


def test_guidance_by_the_posterior_raises_it():
    """Of an encoder that reads the first coordinate, and a velocity that does not know z: z becomes the coordinate."""
    model = Predictor(lambda x, t, z=None: TARGET.flow(LinearPath()).velocity(x, t), LinearPath())
    encoder = NormalLatent(nn.Identity(), 2, 1).double()
    with torch.no_grad():
        encoder.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        encoder.head.bias.copy_(torch.tensor([0.0, -2.0]))
    log_probability = posterior_log_probability(encoder, model)
    z = torch.full((400, 1), 1.5, dtype=torch.float64)
    x0, found = draw(400, 2), []
    for scale in (0.0, 1.0, 3.0):
        x = integrate(ClassifierGuided(model, log_probability, scale), x0, Heun(), 50, z)
        found.append(float((x[:, 0] - 1.5).square().mean()))
    assert found[0] > 2 * found[1] > 2 * found[2]
    value = log_probability(x0, torch.full((400,), 0.5, dtype=torch.float64), z)
    data = model.data(x0, torch.full((400,), 0.5, dtype=torch.float64))
    expected = torch.distributions.Normal(data[:, 0], math.exp(10 * math.tanh(-0.1))).log_prob(z[:, 0])
    torch.testing.assert_close(value, expected)


GUIDED = {
    "classifier": lambda network, z: ClassifierGuided(network, lambda x, t, z: -(x - z).square().sum(1), 2.0),
    "posterior": lambda network, z: ClassifierGuided(
        network, posterior_log_probability(network.latent, Predictor(network)), 2.0
    ),
    "free": lambda network, z: ClassifierFree(network, lambda x, t: network(x, t, torch.zeros_like(z[: len(x)])), 3.0),
}


@pytest.mark.parametrize("name", GUIDED)
@pytest.mark.parametrize("solver", [Euler(), Heun(), RK4()], ids=str)
def test_an_item_does_not_depend_on_the_others(name, solver):
    network, x0, z = latent_flow(), draw(6, 2), draw(6, 1, seed=3)
    guided = GUIDED[name](network, z)
    whole = integrate(guided, x0, solver, 8, z)
    moved = integrate(guided, torch.cat([x0[:3], 100 * x0[3:]]), solver, 8, torch.cat([z[:3], -z[3:]]))
    assert torch.equal(whole[:3], moved[:3])
    torch.testing.assert_close(integrate(guided, x0[:2], solver, 8, z[:2]), whole[:2], rtol=1e-12, atol=1e-12)


def test_training_leaves_out_z_for_a_share_of_the_items():
    """A network that returns z: told for about a share, and exactly as without for a share of zero."""
    seen = []

    class Echo(nn.Module):
        def forward(self, x, t, z):
            seen.append(z)
            return x * 0 + z.sum()

    latent = NormalLatent(nn.Identity(), 2, 1)
    x1 = draw(4000, 2).float()
    for share in (0.0, 0.25):
        FlowMatching(latent=latent, unconditional=share).loss(
            Conditioned(Echo(), latent), x1, torch.Generator().manual_seed(0)
        )
    zero = seen[1][:, 0] == 0
    assert float(zero.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(seen[1][~zero], seen[0][~zero])


def test_a_trained_network_serves_both():
    """Data at two places, told apart by z: without z it finds both, guided one of them."""
    x = torch.cat([torch.full((200, 1), -2.0), torch.full((200, 1), 2.0)]) + 0.1 * draw(400, 1).float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Conditioned(MLP(1, 32, 2, latent=1), NormalLatent(nn.Linear(1, 16), 16, 1))
    config = TrainingConfig(steps=600, batch_size=128, learning_rate=1e-2, ema=0.9)
    objective = FlowMatching(latent=network.latent, unconditional=0.3, beta=1e-2)
    network = train(network, objective, TensorBatches(x), config).eval()
    with torch.no_grad():
        x0, z = draw(300, 1).float(), network.latent.encode(torch.full((300, 1), 2.0))

        def plain(x, t):
            return network(x, t, torch.zeros_like(z))

        both, one = (integrate(ClassifierFree(network, plain, scale), x0, Heun(), 20, z) > 0 for scale in (0.0, 1.5))
    assert 0.2 < float(both.float().mean()) < 0.8
    assert one.float().mean() > 0.98


def test_bad_input():
    network = latent_flow()
    with pytest.raises(ValueError, match="scale must be a finite number, got inf"):
        ClassifierFree(network, network, float("inf"))
    with pytest.raises(ValueError, match="t_min, where guidance starts, must lie strictly between 0 and 1, got 0"):
        ClassifierGuided(network, lambda x, t, z: x, t_min=0)
    x, t = draw(2, 2), torch.full((2,), 0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"one log-probability for each of 2 items.*shape \(2, 2\)"):
        ClassifierGuided(network, lambda x, t, z: x)(x, t)
    with pytest.raises(ValueError, match=r"shape \(2,\) without a derivative: was it detached\?"):
        ClassifierGuided(network, lambda x, t, z: x.detach().sum(1))(x, t)
    with pytest.raises(ValueError, match="needs the z to guide to"):
        GUIDED["posterior"](network, None)(x, t)
    with pytest.raises(ValueError, match="posterior that reads x1 alone and draws, this one reads x0, x1"):
        posterior_log_probability(NormalLatent(nn.Linear(4, 8), 8, 1, ("x0", "x1")), Predictor(network))
    with pytest.raises(ValueError, match=r"unconditional=0\.1 leaves out z, but there is no latent"):
        FlowMatching(unconditional=0.1)
