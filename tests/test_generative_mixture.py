"""Mixtures: densities, maximum likelihood against scikit-learn and closed forms, draws, and components that die."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from physflow.generative import mixture as module
from physflow.generative.mixture import DiagonalMixture


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def example(weights=(0.5, 0.3, 0.2), dimension=2, distance=6.0):
    """A mixture with given weights, its means on a line through space, its variances all different."""
    n = len(weights)
    result = DiagonalMixture(n, dimension).double()
    k, j = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(dimension, dtype=torch.float64)
    with torch.no_grad():
        result.logits.copy_(torch.tensor(weights, dtype=torch.float64).log())
        result.means.copy_(distance * k * (-1) ** j + 3)
        result.log_variances.copy_((0.5 + 0.3 * k + 0.4 * j).log())
    return result


def likelihood_of_scikit_learn(data, components):
    found = GaussianMixture(components, covariance_type="diag", n_init=3, tol=1e-7, max_iter=1000, random_state=0)
    return found.fit(data.numpy()).score(data.numpy())


@pytest.mark.parametrize("dimension", [1, 2, 5])
@pytest.mark.parametrize("batch", [0, 1, 7])
def test_density_and_responsibilities_are_those_of_scipy(dimension, batch):
    mixture = example(dimension=dimension)
    x = mixture.sample(batch, generator())
    parts = np.empty((batch, 3))
    for k, (w, m, s) in enumerate(zip((0.5, 0.3, 0.2), mixture.means, mixture.log_variances, strict=True)):
        law = multivariate_normal(m.detach().numpy(), np.diag(s.detach().exp().numpy()))
        parts[:, k] = w * law.pdf(x.numpy()).reshape(batch)
    expected = torch.from_numpy(parts)
    torch.testing.assert_close(mixture.log_prob(x), expected.sum(1).log())
    torch.testing.assert_close(mixture.responsibilities(x), expected / expected.sum(1, keepdim=True))
    assert torch.equal(mixture.ids(x), expected.argmax(1))


def test_density_is_differentiable():
    mixture = example()
    x = mixture.sample(4, generator()).requires_grad_()
    assert torch.autograd.gradcheck(mixture.log_prob, (x,))


def test_unfitted_mixture_is_the_standard_normal_law():
    x = torch.randn(5, 3, generator=generator())
    expected = -0.5 * x.square().sum(1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(DiagonalMixture(4, 3).log_prob(x), expected)


def test_draws_have_the_moments_and_weights_of_the_mixture():
    mixture, n = example(), 200_000
    x, ids = mixture.sample(n, generator()), mixture.sample_ids(n, generator(1))
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    shares = ids.bincount(minlength=3) / n
    assert ((shares - weights).abs() < 5 * (weights * (1 - weights) / n).sqrt()).all()
    mean = weights @ mixture.means
    variance = weights @ (mixture.log_variances.exp() + mixture.means.square()) - mean.square()
    assert ((x.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()
    torch.testing.assert_close(x.var(0), variance.detach(), rtol=0.01, atol=0)


def test_draws_follow_the_generator_and_the_precision():
    mixture = example().float()
    first = mixture.sample(5, generator())
    assert first.shape == (5, 2)
    assert first.dtype == torch.float32
    assert torch.equal(first, mixture.sample(5, generator()))
    assert not torch.equal(first, mixture.sample(5, generator(1)))
    assert mixture.sample(0, generator()).shape == (0, 2)
    assert mixture.sample_ids(0, generator()).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_component_is_the_normal_law_of_the_data(dtype):
    """Maximum likelihood: mean and variance of the data; the entropy follows in closed form."""
    scale, shift = torch.tensor([1e-3, 2.0, 500.0]), torch.tensor([0.1, -3.0, 0.0])
    data = (torch.randn(300, 3, generator=generator()) * scale + shift).to(dtype)
    mixture = DiagonalMixture(1, 3).to(dtype)
    entropy = mixture.fit(data, steps=100, batch_size=300)
    variance = data.var(0, correction=0)
    assert ((mixture.means[0] - data.mean(0)).abs() < 1e-3 * variance.sqrt()).all()
    torch.testing.assert_close(mixture.log_variances[0].exp(), variance, rtol=1e-3, atol=0)
    assert entropy == pytest.approx(0.5 * (2 * math.pi * math.e * variance.double()).log().sum().item(), abs=1e-4)
    assert entropy == pytest.approx(-mixture.log_prob(data).mean().item(), abs=1e-4)


def test_well_separated_mixture_is_recovered():
    truth, n = example(), 3000
    data = truth.sample(n, generator(3))
    mixture = DiagonalMixture(3, 2).double()
    entropy = mixture.fit(data, steps=300, batch_size=512)
    order = mixture.means[:, 0].argsort()
    items = n * truth.weights
    assert ((mixture.weights[order] - truth.weights).abs() < 5 * (truth.weights / n).sqrt()).all()
    variance = truth.log_variances.exp()
    assert ((mixture.means[order] - truth.means).abs() < 5 * (variance / items[:, None]).sqrt()).all()
    assert ((mixture.log_variances[order] - truth.log_variances).abs() < 5 * (2 / items[:, None]).sqrt()).all()
    assert -entropy == pytest.approx(likelihood_of_scikit_learn(data, 3), rel=1e-3)


@pytest.mark.parametrize(("dimension", "distance"), [(1, 2.0), (2, 1.5), (4, 1.0)])
def test_overlapping_mixture_is_as_likely_as_that_of_scikit_learn(dimension, distance):
    data = example(dimension=dimension, distance=distance).sample(2000, generator(4))
    mixture = DiagonalMixture(3, dimension).double()
    entropy = mixture.fit(data, steps=400, batch_size=512)
    assert -entropy == pytest.approx(likelihood_of_scikit_learn(data, 3), rel=1e-3)


def test_sixteen_modes_are_all_found():
    """One centre a mode from the start: a lost mode costs a good part of a nat."""
    corners = torch.cartesian_prod(*[torch.arange(4.0)] * 2)
    data = corners.repeat(100, 1) + 0.05 * torch.randn(1600, 2, generator=generator())
    mixture = DiagonalMixture(16, 2)
    entropy = mixture.fit(data, steps=200, batch_size=400)
    assert torch.cdist(corners, mixture.means).amin(1).max() < 0.05
    assert entropy == pytest.approx(math.log(16) + math.log(2 * math.pi * math.e * 0.05**2), abs=0.05)


def test_steps_are_in_units_of_the_components():
    """Adam's steps do not shrink near the optimum, where k-means starts: they must be short for a narrow component."""
    data = torch.cat([torch.randn(500, 1, generator=generator(s), dtype=torch.float64) for s in (0, 1)])
    data = 0.005 * data + torch.tensor([-1.0, 1.0]).double().repeat_interleave(500)[:, None]
    entropy = DiagonalMixture(2, 1).double().fit(data, steps=5, batch_size=100)
    variance = data.view(2, 500).var(1, correction=0)
    expected = math.log(2) + 0.5 * (2 * math.pi * math.e * variance).log().mean().item()
    assert entropy == pytest.approx(expected, abs=0.01)


def test_fit_starts_from_a_clustering_as_tight_as_that_of_scikit_learn():
    data = example((0.4, 0.3, 0.2, 0.1), distance=2.0).sample(1000, generator(5))
    data = (data - data.mean(0)) / data.std(0)
    mixture = DiagonalMixture(4, 2).double()
    mixture.fit(data, steps=1, learning_rate=1e-12)
    inertia = torch.cdist(data, mixture.means).amin(1).square().sum().item()
    assert inertia <= 1.01 * KMeans(4, n_init=10, random_state=0).fit(data.numpy()).inertia_


def test_fit_follows_the_seed_and_leaves_the_global_generator_alone():
    data = example().sample(200, generator()).float()
    before = torch.get_rng_state()
    first, second, other = (DiagonalMixture(3, 2) for _ in range(3))
    entropies = [m.fit(data, 20, 64, seed=s) for m, s in ((first, 0), (second, 0), (other, 1))]
    assert torch.equal(before, torch.get_rng_state())
    assert entropies[0] == entropies[1]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.means, other.means)


def test_fit_keeps_nothing_of_what_the_mixture_was():
    data = example().sample(200, generator())
    fresh, used = DiagonalMixture(3, 2).double(), example((0.1, 0.1, 0.8), distance=1.0)
    assert fresh.fit(data, 20) == used.fit(data, 20)


def test_progress_is_shown_when_asked(capsys):
    data = example().sample(50, generator())
    example().fit(data, 2, progress=True)
    assert "mixture: 100%" in capsys.readouterr().err
    example().fit(data, 2)
    assert capsys.readouterr().err == ""


def with_outliers():
    """Two items of two thousand far away: a component would have to be theirs."""
    data = torch.randn(2000, 1, generator=generator())
    data[:2, 0] = torch.tensor([100.0, 101.0])
    return data


def with_atom():
    """Half of the items are one and the same."""
    return torch.cat([torch.randn(200, 1, generator=generator()), torch.full((200, 1), 5.0)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            with_outliers(),
            r"component \d of 2 died: its weight is below 0.005, .* \(weight 0.001\d*, 2 of 2000 items\)",
        ),
        (with_atom(), r"component \d of 2 died: its variance along a coordinate fell to 1e-06 .*\(weight 0.5"),
    ],
    ids=["weight", "variance"],
)
def test_component_that_dies_is_named(data, message):
    mixture = DiagonalMixture(2, 1)
    with pytest.raises(ValueError, match=message + ".*; give fewer components, another seed or more data"):
        mixture.fit(data, steps=400, batch_size=len(data), learning_rate=0.05)
    # The mixture is what it was.
    assert not any(p.any() for p in mixture.parameters())


def test_component_without_items_is_named(monkeypatch):
    """Two equal components of different weight: every item belongs to the heavier one."""

    @torch.no_grad()
    def start(self, items, generator):
        self.logits.copy_(torch.tensor([0.7, 0.3]).log())

    monkeypatch.setattr(module.DiagonalMixture, "_start", start)
    with pytest.raises(
        ValueError, match=r"component 1 of 2 died: no item belongs to it .*weight 0.29\d*, 0 of 50 items"
    ):
        DiagonalMixture(2, 1).fit(torch.randn(50, 1, generator=generator()), steps=1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(9, 3), r"expected data of shape \(items, 2\), got \(9, 3\)"),
        (torch.zeros(9), r"expected data of shape \(items, 2\), got \(9,\)"),
        (torch.zeros(0, 2), "more data than the 3 components, got 0 items"),
        (torch.zeros(3, 2), "more data than the 3 components, got 3 items; give more data or fewer components"),
        (torch.tensor([[0.0, 1.0]] * 8 + [[math.nan, 2.0]]), "NaN or infinite"),
        (torch.stack([torch.arange(9.0), torch.ones(9)], 1), r"coordinate 1 is the same in all items \(1 such of 2\)"),
        (torch.tensor([[0.0, 0.0], [1.0, 1.0]] * 5), "hold 2 different items, too few for 3 components"),
    ],
)
def test_fit_refuses_data_that_have_no_mixture(data, message):
    with pytest.raises(ValueError, match=message):
        DiagonalMixture(3, 2).fit(data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0.0"),
    ],
)
def test_fit_refuses_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DiagonalMixture(1, 1).fit(torch.randn(9, 1, generator=generator()), **settings)


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0)])
def test_mixture_needs_positive_sizes(sizes):
    with pytest.raises(ValueError, match=r"(components|dimension) must be a whole number of at least 1, got 0"):
        DiagonalMixture(*sizes)


@pytest.mark.parametrize("method", ["log_prob", "responsibilities", "ids"])
def test_points_of_another_shape_are_refused(method):
    with pytest.raises(ValueError, match=r"expected points of shape \(batch, 2\), got \(4, 3\)"):
        getattr(DiagonalMixture(3, 2), method)(torch.zeros(4, 3))
