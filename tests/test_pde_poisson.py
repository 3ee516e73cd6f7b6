"""Poisson, screened Poisson and Helmholtz: exact solutions, orders, and the Darcy equation of constant permeability."""

import itertools
import math

import numpy as np
import pytest
import torch
from findiff import Diff

from physflow.grid import Grid
from physflow.pde import Darcy, Poisson
from physflow.pde.fast_poisson import laplacian

WALLS = ("dirichlet", "neumann", "periodic")
SCREENINGS = (0.0, 3.0, -7.3)
SHAPES = ((9,), (8, 7), (1, 6), (5, 6, 4))


def grid_of(shape):
    return Grid(shape, tuple((0.1 * i, 1.0 + 0.3 * i) for i in range(len(shape))))


def sources(grid, walls, screening, batch=3):
    f = torch.randn(batch, *grid.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if screening == 0 and walls != "dirichlet":
        f = f - f.mean(tuple(range(1, f.ndim)), keepdim=True)
    return f


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("screening", SCREENINGS)
@pytest.mark.parametrize("walls", WALLS)
class TestAllEquations:
    def test_solutions_have_no_residual(self, shape, walls, screening):
        equation = Poisson(grid_of(shape), walls, screening)
        f = sources(equation.grid, walls, screening)
        u = equation.solve(f)
        # Rounding of u over the square of the spacing.
        rounding = 1e-15 * (1 + float(u.abs().max())) * sum(4 / h**2 for h in equation.grid.spacing)
        assert equation.residual(f, u).abs().max() <= 100 * rounding
        if screening == 0 and walls != "dirichlet":
            assert u.flatten(1).mean(1).abs().max() < 1e-14

    def test_the_correction_is_exact(self, shape, walls, screening):
        equation = Poisson(grid_of(shape), walls, screening)
        f = sources(equation.grid, walls, screening)
        wrong = sources(equation.grid, "neumann", 0.0)
        corrected = wrong + equation.precondition(equation.residual(f, wrong), f)
        torch.testing.assert_close(corrected, equation.solve(f), rtol=0, atol=1e-11)

    def test_the_derivative_is_the_solution_itself(self, shape, walls, screening):
        """The solution is linear in f by a symmetric matrix."""
        equation = Poisson(grid_of(shape), walls, screening)
        f, g = sources(equation.grid, walls, screening), sources(equation.grid, walls, screening).flip(1)
        (gradient,) = torch.autograd.grad((equation.solve(f.requires_grad_()) * g).sum(), f)
        torch.testing.assert_close(gradient, equation.solve(g), rtol=0, atol=1e-12)


@pytest.mark.parametrize("screening", SCREENINGS)
@pytest.mark.parametrize(
    ("walls", "wave"),
    [
        ("dirichlet", lambda x: torch.sin(math.pi * x)),
        ("neumann", lambda x: torch.cos(math.pi * x)),
        ("periodic", lambda x: torch.sin(2 * math.pi * x + 0.4)),
    ],
)
@pytest.mark.parametrize("ndim", [1, 2])
def test_second_order(walls, wave, screening, ndim):
    """u = w(x) w(y) with a nonlinear deformation, f from its second derivatives by autograd."""
    errors = []
    for n in (16, 32, 64):
        grid = Grid((n,) * ndim)
        x = [torch.from_numpy(c).requires_grad_() for c in grid.mesh()]
        u = math.prod(wave(c) + 0.3 * wave(3 * c if walls != "periodic" else 2 * c) for c in x)
        if screening == 0 and walls != "dirichlet":
            u = u - u.mean().detach()
        minus = torch.zeros_like(u)
        for c in x:
            (first,) = torch.autograd.grad(u.sum(), c, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), c, retain_graph=True)
            minus = minus - second
        f = (minus + screening * u).detach()[None]
        errors.append(float((Poisson(grid, walls, screening).solve(f)[0] - u.detach()).abs().max()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(2, abs=0.1), errors


@pytest.mark.parametrize("walls", ["dirichlet", "neumann"])
def test_it_is_darcy_flow_through_a_uniform_medium(walls):
    grid = Grid((9, 8), ((0, 1), (0, 2)))
    f = sources(grid, walls, 0.0, batch=1)
    darcy = Darcy(grid, source=f[0].numpy(), boundary=walls)
    expected = darcy.solve(torch.ones_like(f), tolerance=1e-12)
    torch.testing.assert_close(Poisson(grid, walls).solve(f), expected, rtol=0, atol=1e-10)


def test_the_laplacian_is_that_of_findiff_away_from_the_walls():
    grid = Grid((10, 12), ((0, 1), (0, 3)))
    u = sources(grid, "dirichlet", 1.0, batch=1)[0].numpy()
    (hx, hy), inside = grid.spacing, (slice(1, -1), slice(1, -1))
    expected = ((Diff(0, hx) ** 2)(u) + (Diff(1, hy) ** 2)(u))[inside]
    for walls in WALLS:
        found = laplacian(torch.from_numpy(u)[None], grid.spacing, walls)[0].numpy()[inside]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-10)


def test_a_source_with_a_mean_has_a_residual_where_nothing_balances_it():
    equation = Poisson(Grid((8, 8)), "neumann")
    f = sources(equation.grid, "neumann", 0.0) + 0.5
    torch.testing.assert_close(equation.residual(f, equation.solve(f)), torch.full_like(f, 0.5))


def test_screening_keeps_a_source_local():
    """The exact potential of a sheet of sources is exp(-d sqrt(kappa)) / (2 sqrt(kappa))."""
    grid, screening = Grid((2001,)), 900.0
    f = torch.zeros(1, 2001, dtype=torch.float64)
    f[0, 1000] = 2001.0
    u = Poisson(grid, "dirichlet", screening).solve(f)[0]
    d = torch.from_numpy(np.abs(grid.coordinates()[0] - 0.5))
    torch.testing.assert_close(u, (-d * 30).exp() / 60, rtol=2e-2, atol=1e-7)


def test_a_single_precision_batch_of_none():
    equation = Poisson(Grid((4, 4)))
    assert equation.solve(torch.empty(0, 4, 4)).shape == (0, 4, 4)
    f = sources(equation.grid, "dirichlet", 0.0).float()
    assert equation.solve(f).dtype == torch.float32
    torch.testing.assert_close(equation.solve(f).double(), equation.solve(f.double()), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": Grid((4, 4), centering="nodes")}, "Poisson needs a grid of cells, got one of nodes"),
        ({"boundary": "dirichelt"}, "unknown boundary 'dirichelt'; did you mean 'dirichlet'"),
        ({"screening": math.nan}, "the screening must be finite, got nan"),
        (
            {"boundary": "neumann", "screening": -((8 * math.sin(math.pi / 8)) ** 2)},
            "at a resonance there is no solution",
        ),
    ],
)
def test_what_makes_no_equation(arguments, message):
    with pytest.raises(ValueError, match=message):
        Poisson(**{"grid": Grid((4, 4)), **arguments})


def test_fields_that_do_not_fit():
    equation = Poisson(Grid((4, 5)))
    with pytest.raises(
        ValueError, match=r"source: expected shape \(batch, nx, ny\) = \(batch, 4, 5\), got \(1, 5, 4\)"
    ):
        equation.solve(torch.zeros(1, 5, 4))
    with pytest.raises(ValueError, match="potential must be finite"):
        equation.residual(torch.zeros(1, 4, 5), torch.full((1, 4, 5), torch.nan))
