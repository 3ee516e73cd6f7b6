"""The exact flow between mixtures: equations it must solve, brute force, generation, bad input."""

import dataclasses
import math

import pytest
import torch

from physflow.data.toys import GaussianMixture, four_gaussians, ring, triangle, two_modes
from physflow.generative import RK4, FlowMatching, integrate
from physflow.generative.bridges import BridgePath
from physflow.generative.paths import LinearPath
from physflow.generative.schedules import CondOT, Cosine

PREDICTIONS = ("velocity", "data", "noise")


def tilted(seed=0, components=3):
    """Unequal components in the plane, no two covariances of which commute."""
    draw = torch.Generator().manual_seed(seed)
    weights = torch.rand(components, generator=draw, dtype=torch.float64) + 0.2
    roots = 0.5 * torch.randn(components, 2, 2, generator=draw, dtype=torch.float64)
    means = 1.5 * torch.randn(components, 2, generator=draw, dtype=torch.float64)
    covariances = roots @ roots.mT + 0.1 * torch.eye(2, dtype=torch.float64)
    return GaussianMixture(weights / weights.sum(), means, covariances)


def bridge(diffusion):
    """The noise of a Brownian bridge and its derivative."""
    return (
        lambda t: diffusion * (t * (1 - t)).sqrt(),
        lambda t: diffusion * (1 - 2 * t) / (2 * (t * (1 - t)).sqrt()),
    )


FLOWS = {
    "linear": tilted().flow(LinearPath()),
    "tube": tilted().flow(LinearPath(0.4), blur=0.4),
    "condot": tilted().flow(CondOT(0.1)),
    "cosine": tilted().flow(Cosine()),
    "linear, mixtures": tilted().flow(LinearPath(), source=tilted(1, 2)),
    "tube, mixtures": tilted().flow(LinearPath(0.4), source=tilted(1, 2), blur=0.4),
    "cosine, mixtures": tilted().flow(Cosine(), source=tilted(1, 2)),
    "bridge": tilted().flow(BridgePath(0.7), blur=bridge(0.7)),
    "bridge, mixtures": tilted().flow(BridgePath(0.7), source=tilted(1, 2), blur=bridge(0.7)),
    "rings": ring().flow(LinearPath(), source=ring(radius=1 / 3)),
    "line": two_modes().flow(LinearPath()),
    "triangle": triangle().flow(CondOT(0.05)),
    "three dimensions": triangle(modes=2, dimension=3).flow(Cosine()),
}
every = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
SHARP = {name: flow for name, flow in FLOWS.items() if flow.blur != 0.4 and not isinstance(flow.path, CondOT)}
UNBRIDGED = {name: flow for name, flow in FLOWS.items() if not isinstance(flow.blur, tuple)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def path_points(flow, n=30, seed=0):
    t = torch.linspace(0.05, 0.95, n, dtype=torch.float64)
    return flow.sample(t, seeded(seed)), t


@every
def test_score_and_continuity_equation(flow):
    """The score is the gradient of the log-density, and d_t p + div(p v) = 0, divided by p."""
    x, t = (a.requires_grad_() for a in path_points(flow))
    score, d_t = torch.autograd.grad(flow.log_density(x, t).sum(), (x, t))
    torch.testing.assert_close(flow.score(x, t), score, rtol=1e-9, atol=1e-9)
    v = flow.velocity(x, t)
    divergence = sum(torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(x.shape[1]))
    size = d_t.abs() + divergence.abs() + 1
    assert ((d_t + divergence + (v * score).sum(1)).abs() < 1e-9 * size).all()


@pytest.mark.parametrize("flow", SHARP.values(), ids=SHARP)
def test_the_density_ends_in_source_and_target(flow):
    x = flow.target.sample(20, seeded())
    zero, one = torch.zeros(20, dtype=torch.float64), torch.ones(20, dtype=torch.float64)
    torch.testing.assert_close(flow.log_density(x, zero), flow.source.log_density(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow.log_density(x, one), flow.target.log_density(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow.score(x, one), flow.target.score(x), rtol=1e-8, atol=1e-8)


def test_a_tube_blurs_both_ends():
    flow, x = FLOWS["tube, mixtures"], tilted().sample(20, seeded())
    extra = 0.4**2 * torch.eye(2, dtype=torch.float64)
    for time, law in ((0.0, flow.source), (1.0, flow.target)):
        blurred = dataclasses.replace(law, covariances=law.covariances + extra)
        t = torch.full((20,), time, dtype=torch.float64)
        torch.testing.assert_close(flow.log_density(x, t), blurred.log_density(x))


@every
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predictions_are_conditional_means(flow, prediction):
    """By brute force: E[L - f(x_t)] = 0, and the same times x_t and times t; and E|L - f|^2 / d is the variance.

    The points are the path's own, from x0 and x1, as training draws them.
    """
    n, generator = 6000, seeded(7)
    d = flow.target.dimension
    x1, x0 = flow.target.sample(n, generator), flow.source.sample(n, generator)
    t = 0.05 + 0.9 * torch.rand(n, generator=generator, dtype=torch.float64)
    x, u = flow.path.interpolate(x0, x1, t, generator)
    moved = x - flow.path.alpha(t)[:, None] * x1 - flow.path.sigma(t)[:, None] * x0 if flow.blur == 0.4 else 0
    target = {"velocity": u, "data": x1 + moved, "noise": x0 + moved}[prediction]
    error = target - getattr(flow, prediction)(x, t)
    for factor in (torch.ones_like(t), t, x[:, 0], x[:, 0] * x[:, -1], torch.sin(3 * x[:, -1])):
        moments = error * factor[:, None]
        assert (moments.mean(0).abs() < 4.5 * moments.std(0) / n**0.5).all()
    variance = flow.variance(prediction, x, t)
    assert (variance > -1e-12).all()
    difference = error.square().sum(1) / d - variance
    for factor in (torch.ones_like(t), t, x[:, 0]):
        moments = difference * factor
        assert moments.mean().abs() < 4.5 * moments.std() / n**0.5


@pytest.mark.parametrize("flow", UNBRIDGED.values(), ids=UNBRIDGED)
def test_predictions_hang_together(flow):
    """x = alpha D + sigma N and v = d_alpha D + d_sigma N, where x holds no third unknown but a tube."""
    x, t = path_points(flow)
    path = flow.path
    data, noise = flow.data(x, t), flow.noise(x, t)
    alpha, sigma, d_alpha, d_sigma = (f(t)[:, None] for f in (path.alpha, path.sigma, path.d_alpha, path.d_sigma))
    torch.testing.assert_close(alpha * data + sigma * noise, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(d_alpha * data + d_sigma * noise, flow.velocity(x, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", [LinearPath(), LinearPath(0.4), CondOT(0.1), Cosine()], ids=repr)
def test_noise_and_score_of_a_normal_source(path):
    flow = tilted().flow(path, blur=0.4 if path.score_scale(torch.ones(1)) == 0.4**2 else 0.0)
    x, t = path_points(flow)
    torch.testing.assert_close(flow.score(x, t), -flow.noise(x, t) / path.score_scale(t)[:, None])


@pytest.mark.parametrize(
    "name", ["linear", "cosine", "linear, mixtures", "cosine, mixtures", "rings", "line", "three dimensions"]
)
def test_the_exact_velocity_generates_the_target(name):
    flow, n = FLOWS[name], 800
    target = flow.target
    x = integrate(flow.velocity, flow.source.sample(n, seeded(3)), RK4(), 20)
    products = (x - target.mean)[:, :, None] * (x - target.mean)[:, None, :]
    assert ((x.mean(0) - target.mean).abs() < 4.5 * (target.covariance.diagonal() / n).sqrt()).all()
    assert ((products.mean(0) - target.covariance).abs() < 4.5 * products.std(0) / n**0.5).all()
    shares = target.responsibilities(x)
    assert ((shares.mean(0) - target.weights).abs() < 4.5 * shares.std(0) / n**0.5).all()


@pytest.mark.parametrize("name", ["linear", "tube", "condot", "cosine", "bridge", "rings"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_minimum_is_that_of_brute_force(name, prediction):
    """With the bridge's weight, without which its minimum is infinite."""
    flow, n = FLOWS[name], 6000

    def weight(t):
        return t * (1 - t)

    minimum, error = flow.minimum(prediction, n, seeded(1), weight)
    generator = seeded(2)
    t = torch.rand(n, generator=generator, dtype=torch.float64)
    x1, x0 = flow.target.sample(n, generator), flow.source.sample(n, generator)
    x, u = flow.path.interpolate(x0, x1, t, generator)
    moved = x - flow.path.alpha(t)[:, None] * x1 - flow.path.sigma(t)[:, None] * x0 if flow.blur == 0.4 else 0
    target = {"velocity": u, "data": x1 + moved, "noise": x0 + moved}[prediction]
    losses = weight(t) * (target - getattr(flow, prediction)(x, t)).square().mean(1)
    assert abs(losses.mean() - minimum) < 4.5 * (losses.var() / n + error**2).sqrt()
    assert 0 < error < 0.1 * minimum


@pytest.mark.parametrize("path", [LinearPath(), CondOT(0.1), Cosine()], ids=repr)
def test_flow_matching_reaches_the_minimum_and_no_less(path):
    flow, generator = tilted().flow(path), seeded()
    x1 = flow.target.sample(20_000, generator)
    loss = FlowMatching(path).loss(flow.velocity, x1, generator)
    minimum, error = flow.minimum("velocity", 20_000, generator)
    assert abs(loss - minimum) < 0.05 * minimum
    worse = FlowMatching(path).loss(lambda x, t, z=None: 1.5 * flow.velocity(x, t), x1, generator)
    assert worse > loss + 10 * error


def test_the_minimum_between_unit_gaussians():
    """Cov[x1 - x0 | x_t] = 1 / (t^2 + (1 - t)^2) in each coordinate, whose mean over t is pi / 2."""
    unit = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    flow = unit.flow(LinearPath())
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    x = torch.randn(11, 2, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(flow.variance("velocity", x, t), 1 / (t**2 + (1 - t) ** 2))
    torch.testing.assert_close(flow.velocity(x, t), x * ((2 * t - 1) / (t**2 + (1 - t) ** 2))[:, None])
    minimum, error = flow.minimum("velocity", 20_000, seeded())
    assert abs(minimum - math.pi / 2) < 4 * error


@pytest.mark.parametrize("path", [LinearPath(), Cosine(), CondOT(0.1)], ids=repr)
def test_the_flow_map_is_the_flow(path):
    target = tilted(components=1)
    commuting = dataclasses.replace(
        target, means=torch.tensor([[1.0, 0.0]]), covariances=target.covariances @ target.covariances
    )
    x = torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    for source in (None, commuting):
        flow = target.flow(path, source=source)
        torch.testing.assert_close(flow.flow_map(x, 0.0), x)
        for t in (0.3, 1.0):
            torch.testing.assert_close(
                flow.flow_map(x, t), integrate(flow.velocity, x, RK4(), 40, t1=t), atol=1e-5, rtol=0
            )


def test_no_closed_flow_map():
    with pytest.raises(ValueError, match="between two Gaussians only, got a mixture of several"):
        two_modes().flow(LinearPath()).flow_map(torch.zeros(1, 1), 0.5)
    flow = tilted(components=1).flow(LinearPath(), source=tilted(1, components=1))
    with pytest.raises(ValueError, match="target and source have covariances that commute"):
        flow.flow_map(torch.zeros(1, 2), 0.5)


@every
@pytest.mark.parametrize("n", [0, 1, 3])
def test_float32_and_few_points(flow, n):
    t = torch.linspace(0.2, 0.8, n, dtype=torch.float64)
    x = flow.sample(t, seeded())
    assert x.shape == (n, flow.target.dimension)
    assert flow.sample(t.float(), seeded()).dtype == torch.float32
    for name in (*PREDICTIONS, "score", "log_density"):
        fine, coarse = getattr(flow, name)(x, t), getattr(flow, name)(x.float(), t.float())
        assert (fine.dtype, coarse.dtype) == (torch.float64, torch.float32)
        assert fine.shape == (x[:, 0] if name == "log_density" else x).shape
        torch.testing.assert_close(coarse.double(), fine, rtol=1e-3, atol=1e-3)


def test_the_minimum_does_not_depend_on_the_blocks(monkeypatch):
    flow = FLOWS["rings"]
    whole = flow.minimum("data", 50, seeded())
    monkeypatch.setattr("physflow.data.toys.flows._BLOCK", 7)
    torch.testing.assert_close(flow.minimum("data", 50, seeded()), whole)


def test_schedules_are_all_a_path_needs():
    class Square:
        """alpha = t^2, sigma = 1 - t: nothing but four schedules."""

        alpha, d_alpha = staticmethod(torch.square), staticmethod(lambda t: 2 * t)
        sigma, d_sigma = staticmethod(lambda t: 1 - t), staticmethod(lambda t: -torch.ones_like(t))

    flow = two_modes().flow(Square())
    x = integrate(flow.velocity, torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None], RK4(), 200)
    # A map of the line keeps the order, so that quantiles go to quantiles.
    cdf = torch.special.ndtr((x - 1) / 0.1) / 2 + torch.special.ndtr((x + 1) / 0.1) / 2
    torch.testing.assert_close(cdf[:, 0], torch.special.ndtr(torch.linspace(-2, 2, 41).double()), atol=1e-3, rtol=0)


def test_forgotten_noise_is_noticed():
    with pytest.raises(
        ValueError, match=r"LinearPath\(sigma=0.4\) adds noise of .* 0\.\d+ at t = 0.5, but blur states 0;"
    ):
        two_modes().flow(LinearPath(0.4))
    with pytest.raises(ValueError, match=r"but blur states 0.3; pass its noise as blur"):
        two_modes().flow(LinearPath(0.4), blur=0.3)
    with pytest.raises(ValueError, match=r"BridgePath.* adds noise"):
        two_modes().flow(BridgePath(0.4))
    with pytest.raises(ValueError, match=r"adds noise of standard deviation 0 at .* blur states 0.4"):
        two_modes().flow(CondOT(0.4), blur=0.4)


def test_bad_input():
    flow = four_gaussians().flow(LinearPath())
    x, t = torch.zeros(3, 2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"source of the target's dimension 2, got 1"):
        four_gaussians().flow(LinearPath(), source=two_modes())
    with pytest.raises(ValueError, match=r"blur that is finite and not negative, got -1"):
        four_gaussians().flow(LinearPath(), blur=-1)
    with pytest.raises(ValueError, match=r"points of shape \(batch, 2\), got \(3, 1\)"):
        flow.velocity(x[:, :1], t)
    with pytest.raises(ValueError, match=r"one time per item, shape \(3,\), got \(\)"):
        flow.score(x, t[0])
    with pytest.raises(ValueError, match=r"unknown prediction 'nois'.*did you mean 'noise'"):
        flow.variance("nois", x, t)
    with pytest.raises(ValueError, match=r"at least two points .* got n = 1"):
        flow.minimum("data", 1, seeded())
