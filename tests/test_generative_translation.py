"""Translation: exact flows between mixtures, data as a source, pairs whose lines cross, errors."""

import pytest
import torch
from perturbed_networks import draw
from torch import nn

from physflow.config import TrainingConfig
from physflow.data.toys import GaussianMixture
from physflow.generative import (
    MLP,
    Conditioned,
    ExactOT,
    FlowMatching,
    Heun,
    Items,
    LinearPath,
    NormalLatent,
    Pairs,
    ReFlow,
    TensorBatches,
    integrate,
    item_generator,
    train,
    translate,
)
from physflow.metrics import energy_distance, energy_test

FAST = TrainingConfig(steps=500, batch_size=256, learning_rate=5e-3, ema=0.95, warmup=20)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def two(first, second):
    """Two components in the plane."""
    return GaussianMixture([0.5, 0.5], torch.tensor([first, second]), 0.05 * torch.eye(2).repeat(2, 1, 1))


def test_the_exact_flow_carries_one_mixture_to_another_and_back():
    source, target = two([-2.0, 0.0], [2.0, 0.0]), two([0.0, -1.0], [0.0, 1.5])
    velocity = target.flow(LinearPath(), source).velocity
    x0 = source.sample(1500, seeded())
    x1 = translate(velocity, x0, steps=100)
    assert energy_test(x1, target.sample(1500, seeded(1)), permutations=200).p_value > 0.01
    torch.testing.assert_close(integrate(velocity, x1, Heun(), 100, t0=1.0, t1=0.0), x0, rtol=0, atol=1e-2)


def test_items_are_those_of_the_data():
    data = draw(7, 3)
    found = Items(TensorBatches(data)).sample((500, 3), seeded(), torch.float64)
    which = (found[:, None] == data).all(2)
    assert which.any(1).all()
    assert (which.sum(0) > 30).all()
    assert Items(TensorBatches(data)).sample((2, 3), seeded()).dtype == torch.float32


def test_a_flow_trained_from_data_to_data():
    source, target = two([-2.0, 0.0], [2.0, 0.0]), two([-2.0, 1.5], [2.0, 1.5])
    x0, x1 = (law.sample(2000, seeded(k)).float() for k, law in enumerate((source, target)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLP(2, 64, 2)
    objective = FlowMatching(source=Items(TensorBatches(x0)), coupling=ExactOT())
    network = train(network, objective, TensorBatches(x1), FAST)
    fresh = source.sample(1000, seeded(5)).float()
    found = translate(objective.velocity(network), fresh)
    assert energy_distance(found, target.sample(1000, seeded(6)).float()) < 0.02
    # By optimal transport every sample goes straight up.
    assert (found - fresh)[:, 0].abs().mean() < 0.25
    assert (found - fresh)[:, 1].mean() == pytest.approx(1.5, abs=0.1)


def crossing(latent):
    """Trained on pairs that change sides; without a latent they cannot."""
    x0 = draw(3000, 1).float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLP(1, 64, 2, latent=2 if latent else 0)
        if latent:
            network = Conditioned(network, NormalLatent(nn.Linear(1, 16), 16, 2, ("x0",)))
    objective = ReFlow(latent=network.latent if latent else None, beta=1e-4)
    network = train(network, objective, Pairs(x0, -x0), FAST)
    fresh = draw(400, 1, seed=9).float()
    found = translate(objective.velocity(network), fresh, latent=network.latent if latent else None)
    return float((found + fresh).square().mean())


def test_a_latent_of_the_start_tells_crossing_pairs_apart():
    """The error of going nowhere is 4; that of the middle, 1."""
    assert crossing(latent=True) < 0.1
    assert crossing(latent=False) > 0.8


def test_z_is_drawn_for_each_item_by_itself():
    latent = NormalLatent(nn.Identity(), 1, 1, ("x0",)).double()
    x0 = draw(5, 1)

    def velocity(x, t, z):
        return z

    whole = translate(velocity, x0, latent=latent, generator=[item_generator(0, i) for i in range(5)])
    alone = translate(velocity, x0[2:3], latent=latent, generator=[item_generator(0, 2)])
    torch.testing.assert_close(alone, whole[2:3])
    mean = translate(velocity, x0, latent=latent)
    assert not torch.allclose(mean, whole)
    torch.testing.assert_close(mean, x0 + latent.posterior(x0=x0).mean.detach())


def test_bad_input():
    with pytest.raises(ValueError, match="at least one item to start from"):
        Items(TensorBatches(draw(0, 2)))
    with pytest.raises(
        ValueError, match=r"items of the shape \(3,\) of the target, got \(2,\): bring both to one grid"
    ):
        Items(TensorBatches(draw(4, 2))).sample((5, 3), seeded())
    with pytest.raises(ValueError, match="a translation knows its start alone, but the posterior of z reads x1"):
        translate(lambda x, t, z: x, draw(2, 1), latent=NormalLatent(nn.Identity(), 1, 1))
    with pytest.raises(ValueError, match="the density of a source of type Items is not known"):
        Items(TensorBatches(draw(4, 2))).log_density(draw(1, 2))
    with pytest.raises(ValueError, match="beta, the weight"):
        ReFlow(beta=-1.0)
