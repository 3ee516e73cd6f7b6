"""Integrators: orders, exact flows, agreement with torchdiffeq, intervals, hooks, failures."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from oracles import gaussian, gaussian_flow_map, mixture
from torchdiffeq import odeint

from physflow.generative.integrators import RK4, Adaptive, Euler, Heun, Midpoint, RungeKutta, integrate

FIXED = [Euler(), Midpoint(), Heun(), RK4()]
ADAPTIVE = [Adaptive(method) for method in ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")]
name = str


@dataclass(frozen=True)
class ThreeEighths(RungeKutta):
    """Kutta's 3/8 rule, which torchdiffeq calls rk4."""

    order = 4
    a = ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0))
    b = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def decay(x, t, z=None):
    return -x


class Recorded:
    """A velocity that remembers its times."""

    def __init__(self, velocity):
        self.velocity, self.times = velocity, []

    def __call__(self, x, t, z=None):
        assert t.shape == x.shape[:1]
        self.times.extend(t.tolist())
        return self.velocity(x, t)


@pytest.mark.parametrize("solver", [*FIXED, ThreeEighths()], ids=name)
def test_order_conditions(solver):
    """The trees of Hairer, Norsett and Wanner, section II.2: to each up to the order belongs one equation."""
    s = len(solver.b)
    a = torch.zeros(s, s, dtype=torch.float64)
    for i, row in enumerate(solver.a):
        a[i, :i] = torch.tensor(row)
    b, c = torch.tensor(solver.b, dtype=torch.float64), a.sum(1)
    one = torch.ones_like(c)
    conditions = {
        1: [(one, 1)],
        2: [(c, 2)],
        3: [(c**2, 3), (a @ c, 6)],
        4: [(c**3, 4), (c * (a @ c), 8), (a @ c**2, 12), (a @ a @ c, 24)],
    }
    for order, equations in conditions.items():
        satisfied = all(abs(b @ value - 1 / density) < 1e-7 for value, density in equations)
        assert satisfied == (order <= solver.order)


def swing(x, t, z=None):
    """dx/dt = (1 + cos 2t) sin x, solved by tan(x / 2) = tan(x(0) / 2) exp(t + sin(2t) / 2)."""
    return (1 + torch.cos(2 * t))[:, None] * torch.sin(x)


def swing_at(x0, t):
    return 2 * torch.atan(torch.tan(x0 / 2) * math.exp(t + math.sin(2 * t) / 2))


@pytest.mark.parametrize("solver", [*FIXED, ThreeEighths()], ids=name)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (0.1, 0.8), (1.0, 0.0)])
def test_order_of_convergence(solver, t0, t1):
    """Heun keeps order 2 up to t = 1: its one Euler step there has an error of order h^2.

    The equation is not linear: on flows between Gaussians the midpoint method happens to have order 3.
    """
    x0 = torch.linspace(0.1, 2.9, 8, dtype=torch.float64)[:, None]
    start, end = swing_at(x0, t0), swing_at(x0, t1)
    errors = torch.stack([(integrate(swing, start, solver, n, t0=t0, t1=t1) - end).norm() for n in (32, 64, 128)])
    slopes = -errors.log2().diff()
    assert (slopes - solver.order).abs().max() < 0.2, slopes


@pytest.mark.parametrize(
    ("solver", "steps"),
    [(Euler(), 150), (Midpoint(), 30), (Heun(), 30), (RK4(), 15), *((a, 1) for a in ADAPTIVE)],
    ids=name,
)
def test_the_exact_velocity_generates_the_mixture(solver, steps):
    flow, n = mixture(), 2000
    if isinstance(solver, Adaptive):
        solver = Adaptive(solver.method, rtol=1e-3, atol=1e-3)
    x = integrate(flow.velocity, draw(n, 2), solver, steps)
    products = (x - flow.mean)[:, :, None] * (x - flow.mean)[:, None, :]
    assert ((x.mean(0) - flow.mean).abs() < 4 * (flow.covariance.diagonal() / n).sqrt()).all()
    assert ((products.mean(0) - flow.covariance).abs() < 4 * products.std(0) / n**0.5).all()


@pytest.mark.parametrize("solver", ADAPTIVE, ids=name)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (0.1, 0.8), (1.0, 0.0)])
def test_adaptive_meets_its_tolerance_inside_the_interval(solver, t0, t1):
    flow, noise = gaussian(), draw(8, 2)
    velocity = Recorded(flow.velocity)
    start, end = gaussian_flow_map(flow, noise, t0), gaussian_flow_map(flow, noise, t1)
    x = integrate(velocity, start, solver, t0=t0, t1=t1)
    assert (x - end).abs().max() < 1e-3
    assert min(t0, t1) <= min(velocity.times)
    assert max(velocity.times) <= max(t0, t1)


@pytest.mark.parametrize("solver", ADAPTIVE, ids=name)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (0.6, 0.5)])
def test_a_slow_flow_does_not_tempt_adaptive_outside(solver, t0, t1):
    """A small velocity makes the guess of the first step many times longer than the interval."""
    velocity = Recorded(lambda x, t, z=None: torch.full_like(x, 1e-3))
    x0 = 100 + draw(3, 2)
    x = integrate(velocity, x0, solver, t0=t0, t1=t1)
    torch.testing.assert_close(x, x0 + 1e-3 * (t1 - t0))
    assert min(t0, t1) <= min(velocity.times)
    assert max(velocity.times) <= max(t0, t1)


@pytest.mark.parametrize(
    ("solver", "method", "t1"),
    [
        (Euler(), "euler", 1.0),
        (Midpoint(), "midpoint", 1.0),
        (ThreeEighths(), "rk4", 1.0),
        (Heun(), "heun2", 0.9),
        (Heun(), "heun2", -1.0),
    ],
    ids=name,
)
def test_agrees_with_torchdiffeq(solver, method, t1):
    flow, x0, t0 = mixture(), draw(5, 2), 0.0
    if t1 < 0:
        t0, t1 = 1.0, 0.0
    times = torch.linspace(t0, t1, 13, dtype=torch.float64)
    expected = odeint(lambda t, x: flow.velocity(x, t.expand(len(x))), x0, times, method=method)
    states = integrate(flow.velocity, x0, solver, 12, t0=t0, t1=t1, trajectory=True)
    torch.testing.assert_close(states, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", FIXED, ids=name)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (0.15, 0.45), (0.25, 0.05), (1.0, 0.0)])
@pytest.mark.parametrize("steps", [1, 3, 7, 49])
def test_times_stay_inside_the_interval(solver, t0, t1, steps):
    """In floating point 0.15 + (0.45 - 0.15) > 0.45 and 0.25 + (0.05 - 0.25) < 0.05."""
    velocity = Recorded(decay)
    integrate(velocity, draw(1, 2), solver, steps, t0=t0, t1=t1)
    assert min(t0, t1) <= min(velocity.times)
    assert max(velocity.times) <= max(t0, t1)
    if t1 == 1:
        assert (1.0 in velocity.times) == isinstance(solver, RK4)
    euler_steps = int(isinstance(solver, Heun) and t1 == 1)
    assert len(velocity.times) == len(solver.b) * steps - euler_steps


def test_the_last_step_of_heun_is_euler():
    flow, x0 = mixture(), draw(5, 2)
    middle = integrate(flow.velocity, x0, Heun(), 3, t1=0.75)
    end = integrate(flow.velocity, middle, Euler(), 1, t0=0.75)
    torch.testing.assert_close(integrate(flow.velocity, x0, Heun(), 4), end, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("solver", FIXED, ids=name)
def test_two_halves_make_a_whole(solver):
    flow, x0 = mixture(), draw(5, 2)
    half = integrate(flow.velocity, x0, solver, 4, t1=0.5)
    whole = integrate(flow.velocity, half, solver, 4, t0=0.5)
    torch.testing.assert_close(integrate(flow.velocity, x0, solver, 8), whole, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("solver", [RK4(), Adaptive(rtol=1e-7, atol=1e-7)], ids=name)
def test_inversion_undoes_generation(solver):
    flow, x0 = mixture(), draw(20, 2)
    x1 = integrate(flow.velocity, x0, solver, 100)
    back = integrate(flow.velocity, x1, solver, 100, t0=1, t1=0)
    torch.testing.assert_close(back, x0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", [*FIXED, *ADAPTIVE], ids=name)
@pytest.mark.parametrize("shape", [(0, 3), (1,), (1, 1, 3, 2), (4, 2, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(solver, shape, dtype):
    def velocity(x, t, z=None):
        assert x.dtype == t.dtype == dtype
        return -x

    x0 = draw(*shape, dtype=dtype)
    x = integrate(velocity, x0, solver, 4)
    states = integrate(velocity, x0, solver, 4, trajectory=True)
    assert x.shape == shape
    assert x.dtype == states.dtype == dtype
    assert states.shape == (5, *shape)
    assert torch.equal(states[0], x0)
    torch.testing.assert_close(states[-1], x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x, x0 / math.e, rtol=0.2, atol=1e-6)


def test_half_precision_states_get_times_in_float32():
    kinds = []

    def velocity(x, t, z=None):
        kinds.append(t.dtype)
        return -x.float()

    assert integrate(velocity, draw(2, 3).bfloat16()).dtype == torch.bfloat16
    assert set(kinds) == {torch.float32}


@pytest.mark.parametrize("solver", [*FIXED, *ADAPTIVE], ids=name)
def test_trajectories_pass_the_exact_states(solver):
    flow, noise = gaussian(), draw(4, 2)
    states = integrate(flow.velocity, noise, solver, 40, trajectory=True)
    exact = torch.stack([gaussian_flow_map(flow, noise, t) for t in torch.linspace(0, 1, 41).tolist()])
    assert (states - exact).abs().max() < (0.1 if isinstance(solver, Euler) else 1e-3)


@pytest.mark.parametrize("solver", FIXED, ids=name)
def test_items_do_not_depend_on_their_neighbours(solver):
    def velocity(x, t, z=None):
        return torch.sin(3 * x) + t[:, None]

    x0 = draw(6, 3)
    assert torch.equal(integrate(velocity, x0, solver)[2:3], integrate(velocity, x0[2:3], solver))


@pytest.mark.parametrize("solver", [*FIXED, *ADAPTIVE], ids=name)
def test_gradients_pass_through(solver):
    """x(1) = e^a x(0), so dx(1)/da = x(1) and dx(1)/dx(0) = e^a."""
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x0 = draw(3, 2).requires_grad_()
    integrate(lambda x, t, z=None: a * x, x0, solver, 100).sum().backward()
    torch.testing.assert_close(a.grad, (x0.sum() * a.exp()).detach(), rtol=1e-2, atol=0)
    torch.testing.assert_close(x0.grad, a.exp().detach().expand(3, 2), rtol=1e-2, atol=0)


def test_the_latent_is_handed_on():
    seen, z = [], draw(2, 5)

    def velocity(x, t, *latent):
        seen.append(latent)
        return x

    integrate(velocity, draw(2, 3), Euler(), 1, z=z)
    integrate(velocity, draw(2, 3), Euler(), 1)
    assert seen[0][0] is z
    assert seen[1] == ()


@pytest.mark.parametrize("solver", FIXED, ids=name)
def test_the_callback_sees_every_step(solver):
    calls = []

    def callback(step, t, x):
        calls.append((step, t, x))

    states = integrate(decay, draw(2, 3), solver, 4, t0=0.2, t1=1, callback=callback, trajectory=True)
    assert [step for step, _, _ in calls] == [1, 2, 3, 4]
    assert [t for _, t, _ in calls] == pytest.approx([0.4, 0.6, 0.8, 1.0])
    assert calls[-1][1] == 1
    assert all(torch.equal(x, state) for (_, _, x), state in zip(calls, states[1:], strict=True))


@pytest.mark.parametrize("solver", FIXED, ids=name)
def test_the_callback_may_replace_the_state(solver):
    def project(step, t, x):
        return x / x.norm(dim=1, keepdim=True) if step % 2 == 0 else None

    states = integrate(decay, 5 * draw(2, 3), solver, 4, callback=project, trajectory=True)
    norms = states.norm(dim=2)
    torch.testing.assert_close(norms[[2, 4]], torch.ones_like(norms[:2]))
    assert (norms[3] < 1).all()
    with pytest.raises(ValueError, match=r"callback to keep the shape \(2, 3\) of x, got \(3,\)"):
        integrate(decay, draw(2, 3), solver, callback=lambda step, t, x: x[0])
    with pytest.raises(FloatingPointError, match=r"returned by the callback is not finite.*t = 0.1"):
        integrate(decay, draw(2, 3), solver, callback=lambda step, t, x: x / 0)


def test_adaptive_takes_no_callback():
    with pytest.raises(ValueError, match=r"callback needs a solver with fixed steps.*Adaptive\(method='dopri5'"):
        integrate(decay, draw(2, 3), Adaptive(), callback=lambda step, t, x: None)


@pytest.mark.parametrize("solver", FIXED, ids=name)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_state_that_is_not_finite_names_the_time(solver, bad):
    def velocity(x, t, z=None):
        return torch.where((t > 0.45)[:, None] & (x > 0), bad, -x)

    x0 = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    # The stages of all but Euler and Midpoint reach the end of the step from 0.4 to 0.5.
    reached = 0.5 if not isinstance(solver, Euler | Midpoint) else 0.6
    with pytest.raises(FloatingPointError, match=f"state is not finite .* t = {reached} in 2 of 3 items"):
        integrate(velocity, x0, solver)


@pytest.mark.parametrize("solver", [*FIXED, *ADAPTIVE], ids=name)
def test_overflow_names_the_time(solver):
    x0 = torch.full((2, 1), 3e38)
    message = r"(state is not finite .*|cannot go on near )t = (1|0\.[4-9]\d*) "
    with pytest.raises(FloatingPointError, match=message):
        integrate(lambda x, t, z=None: torch.full_like(x, 1e38), x0, solver, 1)


@pytest.mark.parametrize("solver", [*FIXED, *ADAPTIVE], ids=name)
def test_a_start_that_is_not_finite_names_the_time(solver):
    with pytest.raises(FloatingPointError, match=r"t = 0.25 in 1 of 2 items"):
        integrate(decay, torch.tensor([[1.0], [math.nan]]), solver, t0=0.25)


@pytest.mark.parametrize("solver", ADAPTIVE, ids=name)
def test_adaptive_names_the_time_of_a_bad_velocity(solver):
    def velocity(x, t, z=None):
        return torch.where((t > 0.5)[:, None], math.nan, -x)

    with pytest.raises(FloatingPointError, match=r"velocity is not finite .* t = 0\.[5-9]\d* in 3 of 3 items"):
        integrate(velocity, draw(3, 2), solver)


def test_adaptive_names_the_time_of_a_blow_up():
    """dx/dt = x^2 from 2 leaves every bound at t = 1/2."""
    with pytest.raises(FloatingPointError, match=r"near t = 0\.5\d* \(underflow.*raise rtol and atol"):
        integrate(lambda x, t, z=None: x**2, torch.full((1, 1), 2.0, dtype=torch.float64), Adaptive())


def test_an_assertion_of_the_velocity_is_not_swallowed():
    def velocity(x, t, z=None):
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        integrate(velocity, draw(1, 1), Adaptive())


@pytest.mark.parametrize("solver", [*FIXED, *ADAPTIVE], ids=name)
def test_wrong_shape_of_the_velocity(solver):
    with pytest.raises(ValueError, match=r"velocity to have the shape \(4, 2\) of x, got \(4, 1\)"):
        integrate(lambda x, t, z=None: x[:, :1], draw(4, 2), solver)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"t0": 0.5, "t1": 0.5}, ValueError, "t0 and t1 must differ, both are 0.5"),
        ({"t1": 1.1}, ValueError, r"must lie in \[0, 1\].*t1 = 1.1"),
        ({"t0": -0.1}, ValueError, r"must lie in \[0, 1\].*t0 = -0.1"),
        ({"t1": math.nan}, ValueError, r"must lie in \[0, 1\].*t1 = nan"),
        ({"steps": 0}, ValueError, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.5}, ValueError, "steps must be a whole number of at least 1, got 2.5"),
        ({"steps": True}, ValueError, "steps must be a whole number of at least 1, got True"),
        ({"x0": torch.tensor(1.0)}, ValueError, "got a scalar"),
        ({"x0": torch.ones(2, dtype=torch.int64)}, TypeError, "floating-point type, got torch.int64"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        integrate(decay, **{"x0": torch.ones(2, 3), **arguments})


def test_bad_settings_of_adaptive():
    with pytest.raises(ValueError, match=r"unknown adaptive method 'dopri'; did you mean 'dopri[58]'"):
        Adaptive("dopri")
    for rtol, atol in itertools.product((0.0, 1e-3), (-1.0, math.inf)):
        with pytest.raises(ValueError, match=r"[ra]tol must be positive and finite"):
            Adaptive(rtol=rtol, atol=atol)
