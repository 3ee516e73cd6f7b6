"""Equations of motion: one set of laws over all of them, then exact solutions of each."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from physflow.grid import Grid
from physflow.pde import Burgers, GrayScott, Heat, NavierStokes


def grid(nt, *space, T=1.0, side=1.0):
    return Grid((nt, *space), ((0, T), *((0, side),) * len(space)), axes=("t", "x", "y", "z")[: 1 + len(space)])


EQUATIONS = {
    "heat 1d": Heat(grid(5, 9)),
    "heat 2d, walls": Heat(grid(4, 6, 5), boundary="neumann"),
    "heat 3d, cold": Heat(grid(3, 4, 3, 5), boundary="dirichlet"),
    "Burgers": Burgers(grid(6, 32), viscosity=0.05, substeps=4),
    "Burgers, odd": Burgers(grid(6, 31), viscosity=0.05, substeps=4),
    "Gray-Scott": GrayScott(grid(4, 16, 12, T=20.0), substeps=4),
    "Gray-Scott 1d": GrayScott(grid(3, 15, T=20.0), substeps=4),
    "Navier-Stokes": NavierStokes(grid(4, 16, 16, side=2 * math.pi), viscosity=0.05, waves=2, substeps=4),
    "Navier-Stokes, oblong": NavierStokes(grid(4, 12, 15, side=2 * math.pi), viscosity=0.05, waves=2, substeps=4),
}


@pytest.fixture(params=EQUATIONS.values(), ids=EQUATIONS)
def equation(request):
    return request.param


def smooth(equation, batch=2, seed=0):
    """Initial fields of few waves; concentrations between 0 and 1, vorticity of mean 0."""
    random, space = np.random.default_rng(seed), equation.grid.space
    found = []
    for _ in equation.fields:
        u = np.zeros((batch, *space.shape))
        for item in range(batch):
            for _ in range(3):
                phase = random.uniform(0, 2 * np.pi)
                for x, (low, high) in zip(space.mesh(), space.bounds, strict=True):
                    phase = phase + 2 * np.pi * random.integers(1, 3) * (x - low) / (high - low)
                u[item] += random.normal() * np.cos(phase)
        if isinstance(equation, GrayScott):
            u = 0.5 + 0.15 * u / np.abs(u).max()
        found.append(torch.from_numpy(u))
    return found


def solved(equation, *initial):
    return equation.complete(*(s.unsqueeze(1).expand(-1, equation.grid.shape[0], *s.shape[1:]) for s in initial))


class TestAllEquations:
    def test_solutions_have_no_residual(self, equation):
        fields = solved(equation, *smooth(equation))
        assert [f.shape for f in fields] == [(2, *equation.grid.shape)] * len(equation.fields)
        r = equation.residual(*fields)
        assert r.shape == ((2, *equation.grid.shape) if len(fields) == 1 else (2, 2, *equation.grid.shape))
        assert r.abs().max() < 1e-12

    def test_stored_in_single_precision_the_residual_is_small_beside_the_motion(self, equation):
        fields = [f.float().double() for f in solved(equation, *smooth(equation))]
        still = [f[:, :1].expand_as(f) for f in fields]
        relative = equation.residual(*fields).norm() / equation.residual(*still).norm()
        assert relative < 1e-6

    def test_the_first_instant_is_what_was_given(self, equation):
        initial = smooth(equation)
        for given, found in zip(initial, solved(equation, *initial), strict=True):
            assert torch.equal(found[:, 0], given)

    def test_an_error_shows_at_its_instant_and_the_next_alone(self, equation):
        fields = [f.clone() for f in solved(equation, *smooth(equation))]
        fields[0][:, 1] += 0.01 * torch.sin(torch.arange(fields[0][0, 1].numel())).reshape(fields[0][0, 1].shape)
        r = equation.residual(*fields)
        wrong = r.transpose(0, r.ndim - len(equation.grid.shape)).flatten(1).abs().amax(1)
        assert wrong[1] > 1e-4
        assert wrong[0] == 0
        assert (wrong[3:] < 1e-12).all()

    def test_samples_do_not_depend_on_each_other(self, equation):
        initial = smooth(equation, batch=3)
        together = solved(equation, *initial)
        alone = solved(equation, *(s[1:2] for s in initial))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[1:2], b, rtol=1e-12, atol=1e-13)

    def test_two_half_intervals_are_one(self, equation):
        """Of the same steps of the scheme: what is stored does not change the solution."""
        nt, *space = equation.grid.shape
        fine = Grid((2 * nt - 1, *space), equation.grid.bounds, axes=equation.grid.axes)
        settings = {k: v for k, v in equation.attributes().items() if k != "equation"}
        if "substeps" in settings:
            settings["substeps"] //= 2
        initial = smooth(equation)
        for a, b in zip(solved(equation, *initial), solved(type(equation)(fine, **settings), *initial), strict=True):
            torch.testing.assert_close(b[:, ::2], a, rtol=1e-10, atol=1e-12)

    def test_the_derivative_is_that_of_differences(self, equation):
        first, *others = smooth(equation, batch=1)
        step = torch.zeros_like(first)
        step.flatten()[3] = 1.0

        def end(a):
            return solved(equation, first + a * step, *others)[0][0, -1].square().sum()

        a = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(end(a), a)
        expected = (end(torch.tensor(1e-5)) - end(torch.tensor(-1e-5))) / 2e-5
        assert float(slope) == pytest.approx(float(expected), rel=1e-5, abs=1e-8)

    def test_an_empty_batch(self, equation):
        empty = [s[:0] for s in smooth(equation)]
        for field in solved(equation, *empty):
            assert field.shape == (0, *equation.grid.shape)

    def test_what_does_not_fit_is_named(self, equation):
        fields = solved(equation, *smooth(equation))
        name = equation.fields[0]
        with pytest.raises(ValueError, match=rf"{name}: expected shape \(batch, nt, nx"):
            equation.residual(fields[0][:, :-1], *fields[1:])
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            equation.complete(fields[0] * torch.nan, *fields[1:])
        with pytest.raises(TypeError, match=f"takes the fields {name}.*, got 0 tensors"):
            equation.residual()
        with pytest.raises(TypeError, match=f"solve takes {name}.* at the first instant, got 0 tensors"):
            equation.solve()

    def test_grids_that_do_not_fit_are_named(self, equation):
        kind, space = type(equation), equation.grid.space
        with pytest.raises(ValueError, match=f"{kind.__name__} needs a grid with time as its first axis"):
            kind(space)
        with pytest.raises(ValueError, match=f"{kind.__name__} needs a grid of cells, got one of nodes"):
            kind(Grid(equation.grid.shape, equation.grid.bounds, "nodes", equation.grid.axes))


def order(error, counts):
    errors = [error(n) for n in counts]
    return math.log2(errors[-2] / errors[-1]) / math.log2(counts[-1] / counts[-2]), errors


@pytest.mark.parametrize(
    ("walls", "wave"),
    [
        ("periodic", lambda x: np.sin(4 * np.pi * x + 1)),
        ("neumann", lambda x: np.cos(3 * np.pi * x)),
        ("dirichlet", lambda x: np.sin(3 * np.pi * x)),
    ],
)
def test_waves_of_heat_decay_at_their_rate(walls, wave):
    """Exact, whatever the step."""
    equation = Heat(grid(4, 12, 16), 0.02, walls)
    t, _, _ = equation.grid.coordinates()
    x, y = equation.grid.space.mesh()
    u = torch.from_numpy(wave(x) * wave(y))[None]
    k2 = 2 * (4 * np.pi if walls == "periodic" else 3 * np.pi) ** 2
    (found,) = solved(equation, u)
    expected = u[:, None] * torch.from_numpy(np.exp(-0.02 * k2 * t))[None, :, None, None]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def hopf(x, t, viscosity):
    """Cole and Hopf: u = -2 nu phi_x / phi, where phi is a solution of the heat equation."""
    k = 2 * np.pi
    a, b = np.exp(-viscosity * k**2 * t), 0.5 * np.exp(-4 * viscosity * k**2 * t)
    phi = 2 + a * np.cos(k * x) + b * np.sin(2 * k * x)
    return -2 * viscosity * k * (-a * np.sin(k * x) + 2 * b * np.cos(2 * k * x)) / phi


def test_burgers_is_of_fourth_order_to_the_solution_of_cole_and_hopf():
    def error(steps):
        equation = Burgers(grid(5, 128), viscosity=0.05, substeps=steps)
        t, x = equation.grid.coordinates()
        exact = torch.from_numpy(hopf(x, t[:, None], 0.05))[None]
        return float((solved(equation, exact[:, 0])[0] - exact).abs().max())

    slope, errors = order(error, (16, 32, 64))
    assert slope == pytest.approx(4, abs=0.1), errors
    assert errors[-1] < 1e-9


def test_burgers_keeps_its_mean_and_loses_energy():
    equation = EQUATIONS["Burgers"]
    (u,) = solved(equation, smooth(equation)[0] + 0.3)
    torch.testing.assert_close(u.mean(-1), u.mean(-1)[:, :1].expand(-1, u.shape[1]), rtol=1e-12, atol=1e-13)
    assert (u.square().mean(-1).diff(dim=1) < 0).all()


def test_a_uniform_mixture_reacts_as_its_ordinary_equation():
    equation = GrayScott(grid(3, 6, T=40.0), feed=0.03, kill=0.055, substeps=80)

    def rates(t, s):
        u, v = s
        return [-u * v**2 + 0.03 * (1 - u), u * v**2 - 0.085 * v]

    exact = solve_ivp(rates, (0, 40), [0.6, 0.3], rtol=1e-11, atol=1e-13).y[:, -1]
    u, v = solved(equation, torch.full((1, 6), 0.6).double(), torch.full((1, 6), 0.3).double())
    assert float(u[0, -1, 0]) == pytest.approx(exact[0], rel=1e-7)
    assert float(v[0, -1, 0]) == pytest.approx(exact[1], rel=1e-7)


@pytest.mark.parametrize(("name", "steps"), [("Gray-Scott", 100), ("Navier-Stokes", 20)])
def test_fourth_order(name, steps):
    """Against eight times as many steps."""
    if name == "Gray-Scott":
        make = lambda steps: GrayScott(grid(2, 32, T=60.0, side=0.5), substeps=steps)  # noqa: E731
    else:
        make = lambda steps: NavierStokes(grid(2, 32, 32, T=1.0, side=2 * math.pi), viscosity=0.02, substeps=steps)  # noqa: E731
    initial = smooth(make(1))
    exact = solved(make(8 * steps), *initial)[0][:, -1]
    slope, errors = order(
        lambda n: float((solved(make(n), *initial)[0][:, -1] - exact).abs().max()), (steps, 2 * steps)
    )
    assert slope == pytest.approx(4, abs=0.1), errors


def test_a_vortex_of_taylor_and_green_decays_at_its_rate():
    """Transport cancels: the vorticity of one pair of waves keeps its form."""
    equation = NavierStokes(grid(4, 16, 16, side=2 * math.pi), viscosity=0.1, forcing=0.0, drag=0.3, substeps=3)
    x, y = equation.grid.space.mesh()
    w = torch.from_numpy(2 * np.cos(x) * np.cos(y))[None]
    (found,) = solved(equation, w)
    t = torch.from_numpy(equation.grid.coordinates()[0])
    torch.testing.assert_close(found, w[:, None] * torch.exp(-0.5 * t)[None, :, None, None], rtol=1e-12, atol=1e-13)
    vx, vy = equation.velocity(w)
    torch.testing.assert_close(vx[0], torch.from_numpy(-np.cos(x) * np.sin(y)), rtol=0, atol=1e-14)
    torch.testing.assert_close(vy[0], torch.from_numpy(np.sin(x) * np.cos(y)), rtol=0, atol=1e-14)


def test_the_shear_flow_of_kolmogorov_is_at_rest_where_friction_balances_the_force():
    equation = NavierStokes(grid(4, 16, 24, T=3.0, side=2 * math.pi), viscosity=0.1, forcing=0.7, waves=3, drag=0.2)
    _, y = equation.grid.space.mesh()
    rest = torch.from_numpy(-0.7 * 3 * np.cos(3 * y) / (0.1 * 9 + 0.2))[None]
    (found,) = solved(equation, rest)
    torch.testing.assert_close(found[:, -1], rest, rtol=1e-10, atol=1e-12)


def test_the_flow_has_no_divergence_and_the_right_curl():
    equation = EQUATIONS["Navier-Stokes, oblong"]
    (w,) = smooth(equation)
    vx, vy = (equation.to_waves(v) for v in equation.velocity(w))
    divergence = equation.to_points(equation.derivative(vx, 0) + equation.derivative(vy, 1))
    curl = equation.to_points(equation.derivative(vy, 0) - equation.derivative(vx, 1))
    assert divergence.abs().max() < 1e-13
    torch.testing.assert_close(curl, w, rtol=0, atol=1e-12)


def test_transport_keeps_energy_and_enstrophy():
    """Without friction and force; the cut-off keeps both, up to the steps in time."""
    equation = NavierStokes(
        grid(2, 32, 32, T=0.5, side=2 * math.pi), viscosity=1e-12, forcing=0.0, drag=0.0, substeps=40
    )
    (w,) = smooth(equation, batch=1)
    (found,) = solved(equation, w)
    for measure in (lambda w: w.square().sum(), lambda w: sum(v.square().sum() for v in equation.velocity(w))):
        assert float(measure(found[:, -1])) == pytest.approx(float(measure(w)), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Heat(grid(3, 4), 0.0), "the diffusivity must be positive and finite, got 0.0"),
        (lambda: Heat(grid(3, 4), boundary="periodc"), "unknown boundary 'periodc'; did you mean 'periodic'"),
        (lambda: Burgers(grid(3, 4), -1.0), "the viscosity must be positive and finite, got -1.0"),
        (lambda: Burgers(grid(3, 4, 4)), r"needs a grid of time and one axis of space, got the axes \('t', 'x', 'y'\)"),
        (lambda: Burgers(grid(3, 4), substeps=0), "substeps must be a whole number of at least 1, got 0"),
        (lambda: GrayScott(grid(3, 4), kill=math.inf), "kill must be positive and finite, got inf"),
        (lambda: NavierStokes(grid(3, 8)), "needs a grid of time and two axes of space"),
        (lambda: NavierStokes(grid(3, 8, 8), drag=-1.0), "drag must be finite and not negative, got -1.0"),
        (lambda: NavierStokes(grid(3, 8, 9), waves=3), "3 waves of forcing are cut off on 9 points: take fewer than 3"),
    ],
)
def test_what_makes_no_equation(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_scheme_that_diverges_says_when():
    equation = Burgers(grid(6, 64), viscosity=1e-4, substeps=1)
    with pytest.raises(FloatingPointError, match=r"Burgers diverges before t = 0\.\d: take smaller steps"):
        equation.solve(1e3 * smooth(equation)[0])


def test_derivatives_after_a_solve_in_inference_mode():
    equation = Burgers(Grid((3, 16), axes=("t", "x")), 0.1, 2)
    u = torch.sin(2 * torch.pi * (torch.arange(16, dtype=torch.float64) + 0.5) / 16)[None]
    with torch.inference_mode():
        equation.solve(u)
    v = u.clone().requires_grad_()
    equation.solve(v).square().sum().backward()
    assert v.grad.isfinite().all()


def test_a_third_of_the_points_is_cut_off_whatever_the_unit_of_length():
    for n in (24, 39, 78, 156):
        kept = [Burgers(Grid((2, n), ((0, 1), (0, length)), axes=("t", "x"))).kept for length in (1, 2 * math.pi, 1.25)]
        assert all(int(mask.sum()) == -(-n // 3) for mask in kept)
