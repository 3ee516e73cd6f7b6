r"""All paths against one oracle: the exact flow from N(0, I), drawn independently, to a Gaussian mixture.

Given x1 every path here is Gaussian with mean a(t) x1 and one width b(t) in all directions, tube or bridge
included. So x_t / (a + b) is the point of the plain linear path at the time a / (a + b), whose velocity,
score and data prediction the oracle knows; only the change of scale and of time remains, and autograd
differentiates it. Nothing of the paths' own derivatives or conversions enters.
"""

import itertools

import pytest
import torch
from oracles import gaussian, mixture

from physflow.generative.bridges import BridgePath, BridgeWeight
from physflow.generative.integrators import RK4, Heun, integrate
from physflow.generative.paths import LinearPath
from physflow.generative.schedules import CondOT, Cosine

BRIDGES = [BridgePath(0.7, independent=True), BridgePath(1.5, independent=True)]
PATHS = [
    LinearPath(),
    LinearPath(0.3),
    CondOT(0.0),
    CondOT(0.2),
    Cosine(),
    *BRIDGES,
]
EXACT_ENDS = [LinearPath(), CondOT(0.2), Cosine(), *BRIDGES]
PAIRS = list(itertools.permutations(("velocity", "data", "noise", "score"), 2))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def full(n, time):
    return torch.full((n,), time, dtype=torch.float64)


def derivative(f, t):
    """f(t), whose item i depends on t[i] alone, and df/dt of the same shape."""
    t = t.detach().requires_grad_()
    value = f(t)
    # The gradient of sum(w f) is linear in w, and its coefficients are the derivatives.
    w = torch.zeros_like(value, requires_grad=True)
    (gradient,) = torch.autograd.grad((w * value).sum(), t, create_graph=True)
    return value.detach(), torch.autograd.grad(gradient.sum(), w)[0]


def shares(path, t):
    """The mean's factor a(t), the width b(t) of x_t given x1, and the source's factor in x_t."""
    match path:
        case LinearPath(width=0.0):
            return t, 1 - t, 1 - t
        case LinearPath():
            return t, ((1 - t) ** 2 + path.width**2) ** 0.5, 1 - t
        case CondOT():
            return t, 1 - (1 - path.width) * t, 1 - (1 - path.width) * t
        case Cosine():
            return torch.sin(torch.pi * t / 2), torch.cos(torch.pi * t / 2), torch.cos(torch.pi * t / 2)
        case BridgePath():
            return t, ((1 - t) ** 2 + path.diffusion**2 * t * (1 - t)) ** 0.5, 1 - t


class Exact:
    """The oracle of a path: each prediction as a function of x (batch, d) and t (batch,)."""

    def __init__(self, path, flow):
        self.path, self.flow = path, flow

    def linear(self, x, t):
        a, b, _ = shares(self.path, t)
        return x / (a + b)[:, None], a / (a + b), (a + b)[:, None]

    def velocity(self, x, t, z=None):
        def scale_and_time(t):
            a, b, _ = shares(self.path, t)
            return torch.stack([a + b, a / (a + b)], 1)

        y, tau, scale = self.linear(x, t)
        d_scale, d_tau = derivative(scale_and_time, t)[1].unsqueeze(2).unbind(1)
        return d_scale * y + scale * d_tau * self.flow.velocity(y, tau)

    def score(self, x, t):
        y, tau, scale = self.linear(x, t)
        return self.flow.score(y, tau) / scale

    def data(self, x, t):
        """E[x1 | x_t]; for the tube E[x1 + s eps | x_t], with s eps = x_t - t x1 - (1 - t) x0."""
        y, tau, _ = self.linear(x, t)
        return self.flow.data(y, tau) - self.tube * self.score(x, t)

    def noise(self, x, t):
        """E[x0 | x_t] by Tweedie's formula; for the tube E[x0 + s eps | x_t]."""
        return -(shares(self.path, t)[2][:, None] + self.tube) * self.score(x, t)

    @property
    def tube(self):
        return self.path.width**2 if isinstance(self.path, LinearPath) else 0.0


def state_at(path, flow, time):
    """Mean and covariance of x_t."""
    a, b, _ = shares(path, torch.tensor(time, dtype=torch.float64))
    return a * flow.mean, a**2 * flow.covariance + b**2 * torch.eye(2, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_conversions_of_the_exact_predictions(path, given, wanted):
    exact = Exact(path, mixture())
    x, t = 2 * draw(50, 2), torch.linspace(0.02, 0.98, 50, dtype=torch.float64)
    values = {name: getattr(exact, name)(x, t) for name in (given, wanted)}
    found = path.convert(values[given], x, t, given=given, wanted=wanted)
    torch.testing.assert_close(found, values[wanted], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_the_target_regresses_to_the_exact_velocity(path):
    """E[(u_t - v(x_t, t)) h(x_t, t)] = 0 for any h; within 4 standard errors for six of them."""
    flow, n, generator = mixture(), 40_000, seeded(1)
    t = 0.02 + 0.96 * torch.rand(n, generator=generator, dtype=torch.float64)
    x0, x1 = torch.randn(n, 2, generator=generator, dtype=torch.float64), flow.sample(n, generator)
    x_t, u_t = path.interpolate(x0, x1, t, generator)
    error = u_t - Exact(path, flow).velocity(x_t, t)
    for h in (torch.ones(n, 1), x_t, x_t.flip(1), torch.cos(x_t), t[:, None], t[:, None] * x_t):
        products = error * h
        assert (products.mean(0).abs() < 4 * products.std(0) / n**0.5).all()


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("time", [0.01, 0.5, 0.9])
def test_the_points_have_the_mean_and_covariance_of_the_path(path, time):
    flow, n, generator = mixture(), 20_000, seeded(2)
    x0, x1 = torch.randn(n, 2, generator=generator, dtype=torch.float64), flow.sample(n, generator)
    x, _ = path.interpolate(x0, x1, full(n, time), generator)
    mean, covariance = state_at(path, flow, time)
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert ((x.mean(0) - mean).abs() < 4 * (covariance.diagonal() / n).sqrt()).all()
    assert ((products.mean(0) - covariance).abs() < 4 * products.std(0) / n**0.5).all()


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_the_exact_velocity_generates_a_gaussian(path):
    """Its flow is affine: three trajectories give the map, and so the mean and covariance without sampling.

    The bridge is stopped early, because its velocity grows like (1 - t)^(-1/2).
    """
    flow, end = gaussian(), 0.99 if isinstance(path, BridgePath) else 1.0
    start = torch.cat([torch.zeros(1, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)])
    start = start * shares(path, torch.zeros(1, dtype=torch.float64))[1][:, None]
    states = integrate(Exact(path, flow).velocity, start, RK4(), 150, t1=end)
    root = (states[1:] - states[0]).T
    mean, covariance = state_at(path, flow, end)
    torch.testing.assert_close(states[0], mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(root @ root.T, covariance, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_the_exact_velocity_generates_a_mixture(path):
    flow, n, end = mixture(), 2000, 0.99 if isinstance(path, BridgePath) else 1.0
    start = draw(n, 2) * shares(path, torch.zeros(1, dtype=torch.float64))[1]
    x = integrate(Exact(path, flow).velocity, start, Heun(), 40, t1=end)
    mean, covariance = state_at(path, flow, end)
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert ((x.mean(0) - mean).abs() < 4 * (covariance.diagonal() / n).sqrt()).all()
    assert ((products.mean(0) - covariance).abs() < 4 * products.std(0) / n**0.5).all()


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_derivatives_of_the_schedules(path):
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    for schedule, d_schedule in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma)):
        torch.testing.assert_close(d_schedule(t), derivative(schedule, t)[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("shape", [(4,), (0, 3), (1, 1, 3, 2)])
def test_the_target_is_the_derivative_of_the_point(path, shape):
    x0, x1 = draw(*shape, seed=1), draw(*shape, seed=2)
    t = torch.linspace(0.1, 0.9, shape[0], dtype=torch.float64)

    # One seed, so that the place in the tube or bridge is the same.
    _, u_t = path.interpolate(x0, x1, t, seeded(3))
    x_t, d_x = derivative(lambda t: path.interpolate(x0, x1, t, seeded(3))[0], t)
    assert x_t.shape == u_t.shape == shape
    torch.testing.assert_close(u_t, d_x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", BRIDGES, ids=str)
@pytest.mark.parametrize(("given", "wanted"), PAIRS)
@pytest.mark.parametrize("shape", [(5,), (5, 3), (1, 2, 4, 3), (0, 2, 3)])
def test_conversions_invert_each_other(path, given, wanted, shape):
    value, x = draw(*shape, seed=1), draw(*shape, seed=2)
    t = torch.linspace(0.1, 0.9, shape[0], dtype=torch.float64)
    there = path.convert(value, x, t, given=given, wanted=wanted)
    assert there.shape == x.shape
    torch.testing.assert_close(path.convert(there, x, t, given=wanted, wanted=given), value, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("path", EXACT_ENDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_exact(path, dtype):
    x0, x1 = draw(2, 3, seed=1, dtype=dtype), draw(2, 3, seed=2, dtype=dtype)
    x_t, u_t = path.interpolate(x0, x1, torch.tensor([0.0, 1.0], dtype=dtype), seeded())
    assert x_t.dtype == u_t.dtype == dtype
    assert torch.equal(x_t[0], x0[0])
    torch.testing.assert_close(x_t[1], x1[1] + (0.2 * x0[1] if isinstance(path, CondOT) else 0))


def test_condot_has_a_score_at_the_data():
    path, flow = CondOT(0.2), mixture()
    x, t = draw(4, 2), full(4, 1.0)
    for given in ("velocity", "data", "noise"):
        exact = Exact(path, flow)
        score = path.convert(getattr(exact, given)(x, t), x, t, given=given, wanted="score")
        torch.testing.assert_close(score, exact.score(x, t))


def test_condot_is_the_formula_of_its_paper():
    """u_t = (x1 - (1 - s) x_t) / (1 - (1 - s) t), Lipman et al., section 4.1."""
    path, x0, x1 = CondOT(0.1), draw(5, 2, seed=1), draw(5, 2, seed=2)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    x_t, u_t = path.interpolate(x0, x1, t)
    torch.testing.assert_close(u_t, (x1 - 0.9 * x_t) / (1 - 0.9 * t)[:, None])


def test_the_bridge_is_the_formula_of_its_paper():
    path, x0, x1 = BridgePath(0.7), draw(5, 2, seed=1), draw(5, 2, seed=2)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    x_t, u_t = path.interpolate(x0, x1, t, seeded())
    t = t[:, None]
    mean = (1 - t) * x0 + t * x1
    torch.testing.assert_close(u_t, (1 - 2 * t) / (2 * t * (1 - t)) * (x_t - mean) + x1 - x0)


def test_the_weight_bounds_the_loss_of_the_bridge():
    """For x0 = x1, E |u_t|^2 = sigma^2 (1 - 2t)^2 / (4 t (1 - t)); weighted, its mean over t is sigma^2 / 12."""
    n, generator = 100_000, seeded()
    zeros, t = torch.zeros(n, 1), torch.rand(n, generator=generator)
    t[:2] = torch.tensor([0.0, 1.0])
    _, u_t = BridgePath(2.0).interpolate(zeros, zeros, t, generator)
    assert torch.isfinite(u_t).all()
    losses = BridgeWeight()(t) * u_t[:, 0].square()
    assert losses[:2].tolist() == [0, 0]
    assert abs(losses.mean() - 4 / 12) < 4 * losses.std() / n**0.5
    assert u_t.square().max() > 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bridge_at_the_ends_takes_its_value_next_to_them(dtype):
    """The smallest positive number of torch.rand is half the resolution."""
    step = torch.finfo(dtype).eps / 2
    x, t = torch.zeros(4, 1, dtype=dtype), torch.tensor([0.0, step, 1 - step, 1.0], dtype=dtype)
    path = BridgePath(1.0)
    # One number for all four items.
    u_t = torch.stack([path.interpolate(x[i : i + 1], x[i : i + 1], t[i : i + 1], seeded())[1][0, 0] for i in range(4)])
    torch.testing.assert_close(u_t[0], u_t[1])
    torch.testing.assert_close(u_t[3], u_t[2])
    torch.testing.assert_close(u_t[0], -u_t[3])


def test_the_bridge_keeps_the_dtype_and_its_generator():
    path, x = BridgePath(0.5), draw(4, 3, dtype=torch.float32)
    t = torch.rand(4, generator=seeded(1), dtype=torch.float64)
    first, second, other = (path.interpolate(x, 2 * x, t, seeded(seed)) for seed in (7, 7, 8))
    assert first[0].dtype == first[1].dtype == torch.float32
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], other[0])


def test_the_bridge_converts_nothing_between_ends_that_may_depend_on_each_other():
    x, t = draw(3, 2), full(3, 0.5)
    for given, wanted in PAIRS:
        with pytest.raises(ValueError, match=rf"no conversion from {given} to {wanted}.*independent=True"):
            BridgePath(0.5).convert(x, x, t, given=given, wanted=wanted)
    assert BridgePath(0.5).convert(x, x, t, given="data", wanted="data") is x


@pytest.mark.parametrize(
    ("given", "wanted", "time", "reason"),
    [
        ("velocity", "data", 1.0, "velocity is infinite"),
        ("data", "velocity", 1.0, "velocity is infinite"),
        ("score", "velocity", 1.0, "velocity is infinite"),
        ("noise", "score", 1.0, "no noise"),
        ("noise", "data", 0.0, "no data"),
    ],
)
def test_singular_ends_of_the_bridge(given, wanted, time, reason):
    x, t = draw(2, 3), torch.tensor([0.5, time], dtype=torch.float64)
    with pytest.raises(ValueError, match=f"does not exist at t = {time:g}.*{reason}.*between 0 and 1"):
        BridgePath(0.5, independent=True).convert(x, x, t, given=given, wanted=wanted)


def test_cosine_keeps_the_variance():
    t = torch.linspace(0, 1, 33, dtype=torch.float64)
    torch.testing.assert_close(Cosine().alpha(t) ** 2 + Cosine().sigma(t) ** 2, torch.ones_like(t))


def test_bad_settings():
    for bad in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"sigma_min.*must lie in \[0, 1\), got {bad}"):
            CondOT(bad)
    for bad in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match=f"bridge's diffusion.*got {bad}; 0 is LinearPath"):
            BridgePath(bad)
    x = draw(3, 2)
    with pytest.raises(ValueError, match=r"BridgePath\(sigma=0.5.*pass a torch.Generator"):
        BridgePath(0.5).interpolate(x, x, full(3, 0.5))
    with pytest.raises(ValueError, match=r"one shape, got \(3, 2\) and \(3,\)"):
        BridgePath(0.5).interpolate(x, x[:, 0], full(3, 0.5), seeded())
