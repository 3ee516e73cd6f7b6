"""Corrections inside of sampling: exact Gaussian flows, constraints, what no correction leaves."""

import math

import pytest
import torch
from oracles import gaussian, mixture

from physflow.generative import (
    RK4,
    CondOT,
    Cosine,
    Counted,
    Drawn,
    Euler,
    Gaussian,
    Heun,
    LinearPath,
    Midpoint,
    integrate,
)
from physflow.grid import Grid
from physflow.inference.corrections import Completion
from physflow.inference.in_loop import Corrected, CorrectedSolver, InModelSpace, Reinterpolated
from physflow.inference.projections import Affine
from physflow.pde import Darcy

FIXED = [Euler(), Midpoint(), Heun(), RK4()]
PATHS = [LinearPath(), CondOT(0.1), Cosine()]
LINE = Affine(torch.tensor([[1.0, 2.0]]), torch.tensor([0.5]))
"""The states with x + 2 y = 1/2."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def same(x):
    return x


def miss(x):
    return (x[:, 0] + 2 * x[:, 1] - 0.5).abs().max()


@pytest.mark.parametrize("solver", FIXED, ids=str)
@pytest.mark.parametrize("path", PATHS, ids=str)
def test_corrected_by_nothing_is_the_velocity(solver, path):
    flow, x0 = mixture(), draw(6, 2)
    # RK4 asks at the end of its interval.
    plain, corrected = (
        integrate(velocity, x0, solver, 8, t1=0.95)
        for velocity in (flow.velocity, Corrected(flow.velocity, same, path))
    )
    torch.testing.assert_close(corrected, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", [Euler(), Heun()], ids=str)
@pytest.mark.parametrize("start", [0.0, 0.6, 1.0])
def test_corrected_ends_in_the_constraint(solver, start):
    x = integrate(Corrected(mixture().velocity, LINE, start=start), draw(50, 2), solver, 10)
    assert (miss(x) < 1e-13) == (start < 1)
    assert (miss(x) > 0.1) == (start == 1)


@pytest.mark.parametrize("solver", [Euler(), Midpoint(), Heun()], ids=str)
def test_a_curved_constraint_is_exact_by_euler_and_heun(solver):
    """To a corrected estimate on a plane the midpoint rule gets by luck, to one on the circle it does not."""
    corrected = Corrected(mixture().velocity, lambda d: d / d.norm(dim=1, keepdim=True))
    x = integrate(corrected, draw(50, 2), solver, 10)
    error = (x.norm(dim=1) - 1).abs().max()
    assert (1e-9 < error < 0.1) if isinstance(solver, Midpoint) else error < 1e-14


def test_corrected_velocity_points_to_the_corrected_data():
    """On the linear path v = (D - x) / (1 - t) for the data D to which a straight way leads."""
    flow, x, t = gaussian(), draw(5, 2), torch.linspace(0, 0.8, 5, dtype=torch.float64)
    v = Corrected(flow.velocity, LINE)(x, t)
    torch.testing.assert_close(x + (1 - t)[:, None] * v, LINE(flow.data(x, t)), rtol=1e-13, atol=1e-13)


def test_corrected_leaves_early_items_alone():
    flow, x, t = gaussian(), draw(4, 2), torch.tensor([0.1, 0.6, 0.49, 0.5]).double()
    v, plain = Corrected(flow.velocity, LINE, start=0.5)(x, t), flow.velocity(x, t)
    assert torch.equal(v[[0, 2]], plain[[0, 2]])
    assert ((v - plain)[[1, 3]].abs().amax(1) > 1e-3).all()
    seen = []
    Corrected(flow.velocity, lambda d: seen.append(len(d)) or d, start=0.5)(x, t)
    Corrected(flow.velocity, lambda d: seen.append(len(d)) or d, start=0.7)(x, t)
    assert seen == [2]


def test_corrected_at_the_end_is_an_error():
    with pytest.raises(ValueError, match=r"does not exist at t = 1: x_t holds no noise.*strictly between 0 and 1"):
        integrate(Corrected(gaussian().velocity, LINE), draw(3, 2), RK4(), 4)


@pytest.mark.parametrize("solver", [Euler(), Midpoint(), Heun()], ids=repr)
@pytest.mark.parametrize("start", [0.0, 0.67, 1.0])
def test_a_corrected_solver_is_the_solver_along_the_corrected_velocity(solver, start):
    flow, x0 = mixture(), draw(20, 2)
    x = integrate(flow.velocity, x0, CorrectedSolver(LINE, solver, start=start), 10)
    expected = integrate(Corrected(flow.velocity, LINE, start=start), x0, solver, 10)
    torch.testing.assert_close(x, expected, rtol=1e-13, atol=1e-13)
    if not isinstance(solver, Midpoint):
        assert ((x[:, 0] + 2 * x[:, 1] - 0.5).abs().max() < 1e-13) == (start < 1)


@pytest.mark.parametrize("mixing", [1, 3])
@pytest.mark.parametrize("steps", [1, 7])
def test_reinterpolated_by_nothing_is_euler(mixing, steps):
    """Going back to the same time with the same noise changes nothing."""
    flow, x0 = mixture(), draw(6, 2)
    states = integrate(flow.velocity, x0, Reinterpolated(same, mixing=mixing), steps, trajectory=True)
    euler = integrate(flow.velocity, x0, Euler(), steps, trajectory=True)
    torch.testing.assert_close(states, euler, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("mixing", [1, 3])
@pytest.mark.parametrize("path", PATHS, ids=str)
def test_reinterpolated_ends_exactly_in_the_corrected_set(path, fresh, mixing):
    solver = Reinterpolated(LINE, path, mixing, seeded() if fresh else None)
    velocity = Counted(mixture().velocity)
    x = integrate(velocity, draw(50, 2), solver, 10)
    assert velocity.calls == 10 * mixing
    assert miss(x) < 2e-15


def test_reinterpolated_states_lie_between_corrected_data_and_noise():
    flow, x0, seen = mixture(), draw(6, 2), []

    def recorded(d):
        seen.append(LINE(d))
        return seen[-1]

    states = integrate(flow.velocity, x0, Reinterpolated(recorded, generator=seeded(3)), 4, trajectory=True)
    generator = seeded(3)
    for t, data, state in zip((0.25, 0.5, 0.75), seen[:3], states[1:4], strict=True):
        noise = torch.randn(6, 2, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(state, t * data + (1 - t) * noise)
    assert torch.equal(states[4], seen[3])


def test_a_coordinate_that_is_independent_of_the_constraint_keeps_its_law():
    """One coordinate is fixed, the other is independent of it: its law N(m, s^2) is not to change.

    1500 samples, four standard errors of the mean and of the deviation; of the steps 1 % more.
    """
    n, m, s = 1500, 2.0, 0.5

    def velocity(x, t, z=None):
        # x = t x1 + (1 - t) x0 with x1 of the law N((m, 0), diag(s^2, 1)): v = (D - x) / (1 - t).
        mean, variance = x.new_tensor([m, 0.0]), x.new_tensor([s**2, 1.0])
        t = t[:, None]
        data = mean + t * variance / (t**2 * variance + (1 - t) ** 2) * (x - t * mean)
        return (data - x) / (1 - t)

    fixed = Affine(torch.tensor([[0.0, 1.0]]), torch.tensor([3.0]))
    x = integrate(velocity, draw(n, 2), Reinterpolated(fixed), 50)
    assert (x[:, 1] == 3).all()
    assert abs(x[:, 0].mean() - m) < 4 * s / math.sqrt(n) + 0.01 * m
    assert abs(x[:, 0].std() - s) < 4 * s / math.sqrt(2 * n) + 0.01 * s


def test_fresh_noise_narrows_the_law():
    """Data N(0, 1): the prediction at t is g x with g = t / (t^2 + (1 - t)^2), so its variance d follows
    d' = g^2 (t^2 d + (1 - t)^2), to 1 / 2 for many steps. 4000 samples, four standard errors of the variance.
    """
    n, steps, d = 4000, 20, 0.0

    def velocity(x, t, z=None):
        t = t[:, None]
        return (t / (t**2 + (1 - t) ** 2) * x - x) / (1 - t)

    for i in range(steps):
        t = i / steps
        d = (t / (t**2 + (1 - t) ** 2)) ** 2 * (t**2 * d + (1 - t) ** 2)
    assert 0.4 < d < 0.5
    x = integrate(velocity, draw(n, 1), Reinterpolated(same, generator=seeded(1)), steps)
    assert abs(x.var() - d) < 4 * d * math.sqrt(2 / n)


def test_the_noise_may_have_another_law():
    constant = Drawn(lambda n, generator: torch.full((n, 2), 7.0))
    solver = Reinterpolated(lambda d: 0 * d, generator=seeded(), source=constant)
    states = integrate(gaussian().velocity, draw(3, 2), solver, 2, trajectory=True)
    assert torch.equal(states[1], torch.full((3, 2), 3.5, dtype=torch.float64))
    assert isinstance(Reinterpolated(same).source, Gaussian)


def test_latents_and_callbacks_are_handed_on():
    flow, x0, z, seen = gaussian(), draw(3, 2), draw(3, 4), []

    def velocity(x, t, *latent):
        seen.extend(latent)
        return flow.velocity(x, t)

    integrate(Corrected(velocity, LINE), x0, Euler(), 2, z=z)
    integrate(velocity, x0, Reinterpolated(LINE), 2, z=z)
    integrate(Corrected(velocity, LINE), x0, Euler(), 2)
    assert len(seen) == 4
    assert all(latent is z for latent in seen)
    calls = []
    integrate(flow.velocity, x0, Reinterpolated(LINE), 3, callback=lambda step, t, x: calls.append((step, t)))
    assert calls == [(1, 1 / 3), (2, 2 / 3), (3, 1.0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [0, 1, 4])
def test_types_and_empty_batches(samples, dtype):
    def velocity(x, t, z=None):
        assert x.dtype == t.dtype == dtype
        return -x

    def wide(d):
        return LINE(d.double())

    x0 = draw(samples, 2, dtype=dtype)
    for x in (
        integrate(Corrected(velocity, wide), x0, Heun(), 3),
        integrate(velocity, x0, Reinterpolated(wide, mixing=2), 3),
        integrate(velocity, x0, Reinterpolated(wide, generator=seeded()), 3),
    ):
        assert x.dtype == dtype
        assert x.shape == x0.shape
        assert samples == 0 or miss(x) < 1e-5


@pytest.mark.parametrize(
    "make", [lambda c: (Corrected(mixture().velocity, c), Heun()), lambda c: (mixture().velocity, Reinterpolated(c))]
)
def test_items_do_not_depend_on_their_neighbours(make):
    velocity, solver = make(LINE)
    x0 = draw(6, 2)
    alone, together = integrate(velocity, x0[2:3], solver, 5), integrate(velocity, x0, solver, 5)
    torch.testing.assert_close(alone, together[2:3], rtol=1e-13, atol=1e-13)


def test_a_correction_of_fields_in_model_space():
    """The model works with (log K, p) in other units; sampling ends with pressures that solve."""
    darcy = Darcy(Grid((6, 5)))

    def encode(fields):
        return torch.stack((fields[:, 0].log() / 2, fields[:, 1] / 0.1), 1)

    def decode(y):
        return torch.stack(((2 * y[:, 0]).exp(), 0.1 * y[:, 1]), 1)

    lifted = InModelSpace(Completion(darcy.complete), decode, encode)
    y = draw(3, 2, 6, 5)
    corrected = lifted(y)
    torch.testing.assert_close(corrected[:, 0], y[:, 0])
    torch.testing.assert_close(0.1 * corrected[:, 1], darcy.solve((2 * y[:, 0]).exp()))
    assert lifted(y.float()).dtype == torch.float32

    for velocity, solver in (
        (Corrected(lambda x, t: -x, lifted, start=0.5), Heun()),
        (lambda x, t: -x, Reinterpolated(lifted)),
    ):
        fields = decode(integrate(velocity, y, solver, 4))
        assert (darcy.residual(*fields.unbind(1)).flatten(1).norm(dim=1) < 1e-6 * darcy.source_term.norm()).all()


def test_bad_arguments():
    for start in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"start is a time in \[0, 1\], got"):
            Corrected(mixture().velocity, LINE, start=start)
    with pytest.raises(ValueError, match="mixing of at least 1, a prediction a step, got 0"):
        Reinterpolated(LINE, mixing=0)
    with pytest.raises(ValueError, match=r"goes from noise to data, got one from t = 1 to 0\.5"):
        integrate(mixture().velocity, draw(2, 2), Reinterpolated(LINE), 2, t0=1, t1=0)
    message = r"correction to keep the shape \(2, 2\) of the state, got \(2, 1\); lift .* with InModelSpace"
    with pytest.raises(ValueError, match=message):
        integrate(mixture().velocity, draw(2, 2), Reinterpolated(lambda d: d[:, :1]), 2)
    with pytest.raises(ValueError, match=message):
        integrate(Corrected(mixture().velocity, lambda d: d[:, :1]), draw(2, 2), Euler(), 2)
