"""The bound for flows with a latent: where it is exact, that it lies below and rises, densities of priors, errors."""

import itertools
import math

import pytest
import torch
from perturbed_networks import draw, perturbed
from torch import nn

from physflow.generative import (
    MLP,
    ComponentIds,
    Coordinates,
    DiagonalMixture,
    Encodings,
    FlowPrior,
    Gaussian,
    Heun,
    MixturePrior,
    NormalLatent,
    StandardNormal,
    item_generator,
    latent_log_likelihood,
)


def shift(x, t, z):
    """x1 = x0 + z: with z of N(0, I) the data are N(0, 2 I), and z given x1 is N(x1 / 2, I / 2)."""
    return z + 0 * x


def encoder(scale=0.5, variance=0.5):
    """The posterior N(scale x1, variance I) in the plane."""
    latent = NormalLatent(nn.Identity(), 2, 2).double()
    with torch.no_grad():
        latent.head.weight.copy_(torch.cat([scale * torch.eye(2), torch.zeros(2, 2)]))
        # Log variances are bounded by a tanh.
        log_variance = 20 * math.atanh(math.log(variance) / 20)
        latent.head.bias.copy_(torch.tensor([0.0, 0.0, log_variance, log_variance]))
    return latent


TRUTH = torch.distributions.Normal(0.0, math.sqrt(2))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("draws", [1, 3])
def test_with_the_true_posterior_the_bound_is_the_density(draws):
    x = draw(6, 2)
    found = latent_log_likelihood(
        shift, x, encoder(), StandardNormal(2), draws, generator=seeded(), solver=Heun(), steps=2
    )
    torch.testing.assert_close(found.log_density, TRUTH.log_prob(x).sum(1), rtol=1e-6, atol=1e-6)
    if draws > 1:
        assert (found.standard_error < 1e-6).all()
    else:
        assert found.standard_error.isnan().all()
    assert found.noise.shape == x.shape


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_with_other_proposals_the_bound_rises_to_the_density(proposal):
    latent = encoder(0.3, 0.9)
    if proposal == "prior":
        latent = NormalLatent(nn.Linear(4, 8), 8, 2, ("x0", "x1")).double()
    x, truth = draw(300, 2), TRUTH.log_prob(draw(300, 2)).sum(1)
    gaps = []
    for draws in (1, 4, 32, 256):
        found = latent_log_likelihood(shift, x, latent, StandardNormal(2), draws, generator=seeded(draws), steps=1)
        gaps.append(float((truth - found.log_density).mean()))
    assert all(after < before + 0.01 for before, after in itertools.pairwise(gaps))
    assert gaps[0] > 0.1 > 0.02 > gaps[-1] > -0.01
    misses = (found.log_density - truth).abs() / found.standard_error
    assert (misses < 3).float().mean() > 0.95


def test_an_item_does_not_depend_on_the_others():
    x = draw(4, 2)
    settings = {"latent": encoder(0.3), "prior": StandardNormal(2), "draws": 3, "steps": 2}
    whole = latent_log_likelihood(shift, x, generator=[item_generator(1, i) for i in range(4)], **settings)
    alone = latent_log_likelihood(shift, x[2:3], generator=[item_generator(1, 2)], **settings)
    torch.testing.assert_close(alone.log_density, whole.log_density[2:3])


def priors():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mixture = DiagonalMixture(3, 2)
        mixture.fit(torch.randn(200, 2, generator=seeded()), steps=20)
        flow = FlowPrior(perturbed(MLP(2, 8, 1)).float(), 2, *torch.ones(2, 2) * 2)
    return [
        StandardNormal(2),
        Encodings(draw(5, 2).float(), draw(5, 2, seed=4).float() - 1),
        MixturePrior(mixture),
        flow,
    ]


@pytest.mark.parametrize("prior", priors(), ids=lambda p: type(p).__name__)
def test_densities_of_priors_integrate_to_one_and_are_those_of_their_draws(prior):
    axis = torch.linspace(-12, 16, 281)
    grid = torch.cartesian_prod(axis, axis)
    density = prior.log_density(grid).exp()
    assert float(density.sum() * 0.01) == pytest.approx(1, abs=2e-2)
    mean = (density[:, None] * grid).sum(0) * 0.01
    torch.testing.assert_close(prior.draw(20000, seeded()).mean(0), mean, rtol=0, atol=0.1)
    assert prior.log_density(grid[:0]).shape == (0,)


def test_probabilities_of_components():
    prior = ComponentIds(torch.tensor([0.2, 0.8]))
    torch.testing.assert_close(prior.log_density(torch.eye(2)).exp(), torch.tensor([0.2, 0.8]))


def test_bad_input():
    x = draw(3, 2)
    points = Encodings(draw(5, 2).float())
    with pytest.raises(ValueError, match="z is drawn from the encodings of the training data, a law without a density"):
        latent_log_likelihood(shift, x, encoder(), points, generator=seeded())
    with pytest.raises(ValueError, match="z of this latent is a part of the sample itself"):
        latent_log_likelihood(shift, x, Coordinates([0], 2), StandardNormal(1), generator=seeded())
    with pytest.raises(ValueError, match="draws must be a whole number of at least 1, got 0"):
        latent_log_likelihood(shift, x, encoder(), StandardNormal(2), 0, generator=seeded())
    with pytest.raises(ValueError, match="one for each of the 3 items, got 2"):
        latent_log_likelihood(shift, x, encoder(), StandardNormal(2), generator=[seeded(), seeded()])
    found = latent_log_likelihood(shift, x[:0], encoder(), StandardNormal(2), 2, generator=seeded(), steps=1)
    assert found.log_density.shape == (0,)
    assert Gaussian().log_density(x[:0]).shape == (0,)
