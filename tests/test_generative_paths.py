"""Paths: interpolation, conversions against exact posteriors, and their singular ends."""

import itertools

import pytest
import torch
from oracles import mixture

from physflow.generative.paths import LinearPath
from physflow.generative.schedules import CondOT, Cosine

QUANTITIES = ("velocity", "data", "noise", "score")
PAIRS = list(itertools.permutations(QUANTITIES, 2))


class SquarePath(LinearPath):
    """alpha = t^2: at t = 0 its velocity says nothing of the data."""

    def alpha(self, t):
        return t**2

    def d_alpha(self, t):
        return 2 * t


PATHS = [LinearPath(), LinearPath(sigma=0.3), CondOT(0.05), Cosine(), SquarePath()]
ids = ["linear", "tube", "condot", "cosine", "square"]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_the_oracle_is_right(sigma):
    """Score = gradient of log-density, the continuity equation holds, and the density sums to one."""
    flow = mixture(sigma)
    x = (2 * draw(7, 2)).requires_grad_()
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64).requires_grad_()
    log_p = flow.log_density(x, t)
    score, d_t = torch.autograd.grad(log_p.sum(), (x, t), create_graph=True)
    torch.testing.assert_close(flow.score(x, t), score)
    v = flow.velocity(x, t)
    divergence = sum(torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
    # d_t p + div(p v) = 0, divided by p. The tube blurs the source too, so it holds from t = 0 on.
    torch.testing.assert_close(d_t + divergence + (v * score).sum(1), torch.zeros_like(d_t), atol=1e-10, rtol=0)

    axis = torch.linspace(-9, 9, 181, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    for time in (0.0, 0.6, 1.0):
        total = flow.log_density(points, torch.full((len(points),), time, dtype=torch.float64)).exp().sum()
        assert abs(total * 0.1**2 - 1) < 1e-6


@pytest.mark.parametrize("sigma", [0.0, 0.4])
@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_conversions_of_the_exact_predictions(sigma, given, wanted):
    flow, path = mixture(sigma), LinearPath(sigma)
    x, t = 2 * draw(50, 2), torch.linspace(0.02, 0.98, 50, dtype=torch.float64)
    exact = {name: getattr(flow, name)(x, t) for name in QUANTITIES}
    converted = path.convert(exact[given], x, t, given=given, wanted=wanted)
    assert converted.dtype == torch.float64
    torch.testing.assert_close(converted, exact[wanted], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS, ids=ids)
@pytest.mark.parametrize(("given", "wanted"), PAIRS)
@pytest.mark.parametrize("shape", [(5,), (5, 3), (1, 2, 4, 3), (0, 2, 3)])
def test_conversions_invert_each_other(path, given, wanted, shape):
    value, x = draw(*shape, seed=1), draw(*shape, seed=2)
    t = torch.linspace(0.1, 0.9, shape[0], dtype=torch.float64)
    there = path.convert(value, x, t, given=given, wanted=wanted)
    back = path.convert(there, x, t, given=wanted, wanted=given)
    assert there.shape == x.shape
    torch.testing.assert_close(back, value, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_the_conditional_velocity_is_the_derivative_of_the_path(path):
    x0, x1 = draw(6, 2, 3, seed=1), draw(6, 2, 3, seed=2)
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    h = 1e-5
    # One seed, so that the place in the tube is the same.
    points = [path.interpolate(x0, x1, t + e, torch.Generator().manual_seed(3)) for e in (-h, 0, h)]
    torch.testing.assert_close((points[2][0] - points[0][0]) / (2 * h), points[1][1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_the_target_converts_to_the_ends_of_the_trajectory(path):
    """Without a tube, the conditional velocity holds x0 and x1 themselves."""
    x0, x1 = draw(6, 2, seed=1), draw(6, 2, seed=2)
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    x_t, u_t = path.interpolate(x0, x1, t, torch.Generator().manual_seed(3))
    shift = x_t - LinearPath().interpolate(x0, x1, t)[0] if path is PATHS[1] else 0
    torch.testing.assert_close(path.convert(u_t, x_t, t, given="velocity", wanted="data"), x1 + shift)
    torch.testing.assert_close(path.convert(u_t, x_t, t, given="velocity", wanted="noise"), x0 + shift)


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_schedules_run_from_noise_to_data(path):
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert path.alpha(t).tolist() == [0.0, 1.0]
    end = path.width if isinstance(path, CondOT) else 0.0
    assert path.sigma(t).tolist() == [1.0, end]


def test_linear_path_formulas():
    x0, x1 = draw(3, 2, seed=1), draw(3, 2, seed=2)
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    x_t, u_t = LinearPath().interpolate(x0, x1, t)
    assert torch.equal(x_t[0], x0[0])
    assert torch.equal(x_t[2], x1[2])
    torch.testing.assert_close(x_t[1], 0.75 * x0[1] + 0.25 * x1[1])
    torch.testing.assert_close(u_t, x1 - x0)


def test_tube_has_its_width_everywhere():
    zeros = torch.zeros(20_000, 2, dtype=torch.float64)
    for time in (0.0, 0.5, 1.0):
        t = torch.full((len(zeros),), time, dtype=torch.float64)
        x_t, u_t = LinearPath(0.3).interpolate(zeros, zeros, t, torch.Generator().manual_seed(0))
        # The standard error of a standard deviation from n numbers is s / sqrt(2 n).
        assert abs(x_t.std() - 0.3) < 4 * 0.3 / (2 * zeros.numel()) ** 0.5
        assert torch.equal(u_t, zeros)


def test_interpolation_is_reproducible_and_keeps_the_dtype():
    path, x = LinearPath(0.1), draw(4, 3, dtype=torch.float32)
    t = torch.rand(4, generator=torch.Generator().manual_seed(1))
    first, second = (path.interpolate(x, 2 * x, t, torch.Generator().manual_seed(7))[0] for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.float32
    # Finer times must not turn float32 data into float64.
    assert path.interpolate(x, x, t.double(), torch.Generator())[0].dtype == torch.float32


@pytest.mark.parametrize("shape", [(0, 2), (1, 1, 5, 4)])
def test_edge_shapes(shape):
    x_t, u_t = LinearPath(0.1).interpolate(draw(*shape), draw(*shape), draw(shape[0]), torch.Generator())
    assert x_t.shape == u_t.shape == shape


@pytest.mark.parametrize(
    ("given", "wanted", "time", "reason"),
    [
        ("data", "noise", 1.0, "no noise"),
        ("data", "velocity", 1.0, "no noise"),
        ("data", "score", 1.0, "no noise"),
        ("velocity", "score", 1.0, "no noise"),
        ("noise", "score", 1.0, "no noise"),
        ("noise", "data", 0.0, "no data"),
        ("noise", "velocity", 0.0, "no data"),
        ("score", "data", 0.0, "no data"),
        ("score", "velocity", 0.0, "no data"),
    ],
)
def test_singular_ends_raise_with_the_reason(given, wanted, time, reason):
    x, t = draw(2, 3), torch.tensor([0.5, time], dtype=torch.float64)
    with pytest.raises(ValueError, match=f"does not exist at t = {time:g}.*{reason}.*between 0 and 1"):
        LinearPath().convert(x, x, t, given=given, wanted=wanted)


@pytest.mark.parametrize(
    ("given", "wanted", "time"),
    [
        ("velocity", "data", 0.0),
        ("velocity", "data", 1.0),
        ("velocity", "noise", 0.0),
        ("velocity", "noise", 1.0),
        ("velocity", "score", 0.0),
        ("data", "velocity", 0.0),
        ("data", "noise", 0.0),
        ("data", "score", 0.0),
        ("noise", "score", 0.0),
        ("noise", "data", 1.0),
        ("noise", "velocity", 1.0),
        ("score", "noise", 0.0),
        ("score", "noise", 1.0),
        ("score", "data", 1.0),
    ],
)
def test_the_other_conversions_hold_at_the_ends(given, wanted, time):
    flow = mixture()
    x, t = draw(4, 2), torch.full((4,), time, dtype=torch.float64)
    value, exact = getattr(flow, given)(x, t), getattr(flow, wanted)(x, t)
    torch.testing.assert_close(LinearPath().convert(value, x, t, given=given, wanted=wanted), exact)


def test_a_tube_makes_the_score_finite_at_the_data():
    flow = mixture(0.4)
    x, t = draw(4, 2), torch.ones(4, dtype=torch.float64)
    score = LinearPath(0.4).convert(flow.velocity(x, t), x, t, given="velocity", wanted="score")
    torch.testing.assert_close(score, flow.score(x, t))


def test_a_velocity_that_says_nothing_raises():
    x, t = draw(2, 3), torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="alpha / sigma stands still"):
        SquarePath().convert(x, x, t, given="velocity", wanted="data")


def test_gradients_pass_through_conversions():
    value = draw(3, 2).requires_grad_()
    LinearPath().convert(value, draw(3, 2), torch.full((3,), 0.5), given="data", wanted="velocity").sum().backward()
    torch.testing.assert_close(value.grad, torch.full((3, 2), 2.0, dtype=torch.float64))


def test_bad_input():
    path, x, t = LinearPath(), draw(3, 2), torch.full((3,), 0.5)
    with pytest.raises(ValueError, match=r"one shape, got \(3, 2\) and \(3,\)"):
        path.interpolate(x, x[:, 0], t)
    with pytest.raises(ValueError, match=r"one time per item, shape \(3,\), got \(\)"):
        path.interpolate(x, x, torch.tensor(0.5))
    with pytest.raises(ValueError, match="one time per item"):
        path.convert(x, x, t[:2], given="data", wanted="noise")
    with pytest.raises(ValueError, match=r"shape \(3, 2\) of x, got \(3,\)"):
        path.convert(x[:, 0], x, t, given="data", wanted="noise")
    with pytest.raises(ValueError, match="unknown prediction 'scores'; did you mean 'score'"):
        path.convert(x, x, t, given="scores", wanted="noise")
    with pytest.raises(ValueError, match=r"width of the tube.*got -1"):
        LinearPath(sigma=-1)
    with pytest.raises(ValueError, match=r"LinearPath\(sigma=0.1\).*torch.Generator"):
        LinearPath(sigma=0.1).interpolate(x, x, t)
