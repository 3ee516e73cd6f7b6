"""Darcy flow: its own residual, direct solvers, manufactured solutions, derivatives, wording of errors."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.sparse.linalg import spsolve

from physflow.grid import Grid
from physflow.pde.adjoint import implicit_solve
from physflow.pde.darcy import Darcy
from physflow.pde.stencils import product_rule

FACES = ("harmonic", "arithmetic")
BOUNDARIES = ("neumann", "dirichlet")
GRIDS = [
    Grid((5, 9)),
    Grid((33, 48), ((0, 1), (-1, 0.5))),
    Grid((64, 64)),
    Grid((1, 12)),
    Grid((20, 20), ((0, 5), (0, 1))),
]


def lognormal(grid, samples=2, std=2.0, seed=0):
    """The exponential of a smoothed random field of standard deviation std."""
    white = np.random.default_rng(seed).standard_normal((samples, *grid.shape))
    field = gaussian_filter(white, sigma=(0, 1.5, 1.5))
    return torch.from_numpy(np.exp(std * field / field.std()))


def random_source(grid, boundary, seed=5):
    f = np.random.default_rng(seed).standard_normal(grid.shape)
    return f - f.mean() if boundary == "neumann" else f


def name(grid):
    return "x".join(map(str, grid.shape))


@pytest.mark.parametrize("faces", FACES)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("grid", GRIDS, ids=name)
def test_solve_agrees_with_a_sparse_direct_solver(grid, boundary, faces):
    darcy = Darcy(grid, random_source(grid, boundary), boundary, faces)
    K = lognormal(grid)
    for k, p in zip(K, darcy.solve(K, tolerance=1e-11), strict=True):
        a = darcy.matrix(k).tolil()
        if boundary == "neumann":
            # One equation follows from the others: the first cell is set to zero instead.
            a[0] = 0
            a[0, 0] = 1
        f = darcy.source_term.numpy().ravel().copy()
        f[0] = 0 if boundary == "neumann" else f[0]
        expected = spsolve(a.tocsc(), f)
        if boundary == "neumann":
            expected -= expected.mean()
            assert abs(p.mean()) < 1e-13 * p.abs().max()
        assert np.linalg.norm(p.numpy().ravel() - expected) <= 1e-8 * np.linalg.norm(expected)


@pytest.mark.parametrize("faces", FACES)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("std", [1.0, 2.0])
def test_the_solution_has_a_residual_of_rounding(boundary, faces, std):
    grid = Grid((64, 64))
    darcy = Darcy(grid, "wells" if boundary == "neumann" else "constant", boundary, faces)
    K = lognormal(grid, std=std)
    r = darcy.residual(K, darcy.solve(K, tolerance=1e-14))
    assert r.square().mean((1, 2)).max() < 1e-18 * darcy.source_term.square().mean()
    # Stored in float32, as in a file.
    p = darcy.solve(K.float())
    assert p.dtype == torch.float32
    r = darcy.residual(K.float(), p)
    assert r.dtype == torch.float32
    assert r.square().mean() < 1e-5 * darcy.source_term.square().mean()


@pytest.mark.parametrize("faces", FACES)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_solution_of_a_manufactured_problem_is_second_order(boundary, faces):
    """K = exp(sin(2 x + y) / 2); p a product of cosines (no flux) or sines (zero) on [0, 1] x [0, 2]."""
    errors = []
    for n in (16, 32, 64):
        grid = Grid((n, n + n // 2), ((0, 1), (0, 2)))
        x, y = (torch.from_numpy(c).requires_grad_() for c in grid.mesh())
        K = torch.exp(torch.sin(2 * x + y) / 2)
        wave = torch.cos if boundary == "neumann" else torch.sin
        p = wave(np.pi * x) * wave(np.pi * y)
        flow = 0
        for coordinate in (x, y):
            (slope,) = torch.autograd.grad(p.sum(), coordinate, create_graph=True)
            flow = flow + torch.autograd.grad((K * slope).sum(), coordinate, retain_graph=True)[0]
        f = -flow
        if boundary == "neumann":
            f = f - f.mean()
        error = Darcy(grid, f, boundary, faces).solve(K.detach()[None])[0] - p.detach()
        if boundary == "neumann":
            error = error - error.mean()
        errors.append(error.square().mean().sqrt().item())
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all((slopes > 1.9) & (slopes < 2.1)), slopes


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("faces", FACES)
def test_gradients(boundary, faces):
    grid = Grid((4, 5), ((0, 1), (0, 2)))
    darcy = Darcy(grid, random_source(grid, boundary), boundary, faces)
    K, p = lognormal(grid, std=1.0).requires_grad_(), lognormal(grid, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(darcy.residual, (K, p))
    assert torch.autograd.gradcheck(darcy.strong_residual, (K, p))
    assert torch.autograd.gradcheck(lambda K: darcy.solve(K, tolerance=1e-13), K)


def test_gradient_on_a_grid_that_needs_multigrid():
    """Against a central difference along one direction, on a grid of several levels."""
    grid = Grid((19, 24))
    darcy = Darcy(grid, "wells")
    K = lognormal(grid, std=1.0).requires_grad_()
    weight, direction = lognormal(grid, seed=1), K.detach() * lognormal(grid, seed=2).log()
    (gradient,) = torch.autograd.grad((weight * darcy.solve(K, tolerance=1e-12)).sum(), K)
    loss = [(weight * darcy.solve(K.detach() + h * direction, tolerance=1e-13)).sum() for h in (1e-4, -1e-4)]
    torch.testing.assert_close((gradient * direction).sum(), (loss[0] - loss[1]) / 2e-4, rtol=1e-6, atol=0)


def test_gradient_keeps_the_type_and_is_taken_once():
    grid = Grid((8, 8))
    K = lognormal(grid, std=1.0).float().requires_grad_()
    p = Darcy(grid).solve(K)
    (gradient,) = torch.autograd.grad(p.square().sum(), K, create_graph=True)
    assert gradient.dtype == torch.float32
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_implicit_solve_of_a_non_symmetric_system():
    """p = A^-1 f for a dense matrix: the derivative that autograd takes of the inverse."""
    rng = np.random.default_rng(0)
    A, f = torch.from_numpy(rng.standard_normal((4, 4)) + 4 * np.eye(4)), torch.from_numpy(rng.standard_normal(4))
    g = torch.from_numpy(rng.standard_normal(4))
    for needed in ((True, True), (True, False), (False, True)):
        leaves = [value.clone().requires_grad_(need) for value, need in zip((A, f), needed, strict=True)]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        p = implicit_solve(
            torch.linalg.solve,
            lambda g, A, f: torch.linalg.solve(A.T, g),
            lambda A, f, p: f - A @ p,
            *leaves,
        )
        expected = torch.autograd.grad(g @ torch.linalg.solve(*leaves), wanted)
        torch.testing.assert_close(torch.autograd.grad(g @ p, wanted), expected)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_sample_does_not_depend_on_its_batch(boundary):
    grid = Grid((21, 16))
    darcy = Darcy(grid, boundary=boundary)
    K, others = lognormal(grid, 4), lognormal(grid, 4, std=6.0, seed=1)
    p = darcy.solve(K)
    for i in range(4):
        mixed = others.clone()
        mixed[i] = K[i]
        assert torch.equal(darcy.solve(mixed)[i], p[i])


def test_threads_do_not_disturb_each_other():
    grid = Grid((24, 24))
    darcy = Darcy(grid)
    fields = [lognormal(grid, 8, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as executor:
        for p, K in zip(executor.map(darcy.solve, fields), fields, strict=True):
            assert torch.equal(p, darcy.solve(K))


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40])
def test_pressure_is_inverse_to_the_permeability(boundary, factor):
    grid = Grid((16, 16))
    darcy, K = Darcy(grid, boundary=boundary), lognormal(grid)
    assert torch.equal(darcy.solve(K * factor), darcy.solve(K) / factor)


@pytest.mark.parametrize("faces", FACES)
def test_any_pressure_conserves_mass_between_neumann_walls(faces):
    grid = Grid((12, 17))
    r = Darcy(grid, faces=faces).residual(lognormal(grid), lognormal(grid, seed=1))
    assert (r.sum((1, 2)).abs() < 1e-12 * r.abs().sum((1, 2))).all()


def test_uniform_medium_between_dirichlet_walls():
    """f = 1, K = 1 on the unit square: the pressure of the centre is 0.0736713..., by the Fourier series."""
    k = np.arange(1, 400, 2)
    m, n = np.meshgrid(k, k)
    sign = (-1.0) ** ((m + n - 2) // 2)
    centre = (16 / np.pi**4 * sign / (m * n * (m**2 + n**2))).sum()
    p = Darcy(Grid((65, 65)), "constant", "dirichlet").solve(torch.ones(1, 65, 65, dtype=torch.float64))
    assert p[0, 32, 32].item() == pytest.approx(centre, rel=5e-4)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_strong_residual_is_the_product_rule(boundary):
    grid = Grid((16, 20), ((0, 1), (0, 2)))
    darcy = Darcy(grid, boundary=boundary)
    K, p = lognormal(grid), lognormal(grid, seed=1)
    for accuracy in (2, 4):
        expected = darcy.source_term + product_rule(K, p, grid.spacing, accuracy)
        torch.testing.assert_close(darcy.strong_residual(K, p, accuracy), expected)


def test_strong_and_conservative_residuals_agree_on_smooth_fields():
    differences = []
    for n in (32, 64, 128):
        grid = Grid((n, n))
        x, y = (torch.from_numpy(c)[None] for c in grid.mesh())
        K, p = torch.exp(torch.sin(3 * x + y)), torch.cos(np.pi * x) * torch.cos(2 * np.pi * y)
        darcy = Darcy(grid)
        difference = darcy.residual(K, p) - darcy.strong_residual(K, p)
        differences.append(difference[:, n // 8 : -n // 8, n // 8 : -n // 8].abs().max().item())
    slopes = np.log2(np.divide(differences[:-1], differences[1:]))
    assert np.all((slopes > 1.8) & (slopes < 2.2)), slopes


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_complete_recomputes_the_pressure(boundary):
    grid = Grid((9, 9))
    darcy, K = Darcy(grid, boundary=boundary), lognormal(grid)
    for fields in (darcy.complete(K, torch.ones_like(K)), darcy.complete(K)):
        assert fields[0] is K
        assert torch.equal(fields[1], darcy.solve(K))
    with pytest.raises(TypeError, match="takes the fields permeability, pressure or the inputs permeability alone"):
        darcy.complete()


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_precondition_takes_most_of_a_residual_away(boundary):
    grid = Grid((32, 24))
    darcy, K = Darcy(grid, boundary=boundary), lognormal(grid, std=1.0)
    exact = darcy.solve(K, tolerance=1e-12)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(K.shape))
    p = exact + noise - noise.mean((1, 2), keepdim=True)
    for _ in range(3):
        delta = darcy.precondition(darcy.residual(K, p), K)
        p = p + delta
    assert delta.dtype == torch.float64
    if boundary == "neumann":
        assert delta.mean((1, 2)).abs().max() < 1e-12 * delta.abs().max()
    assert (p - exact).norm() < 0.05 * noise.norm()
    assert darcy.precondition(noise.float(), K.float()).dtype == torch.float32


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_batch(boundary, dtype):
    darcy = Darcy(Grid((7, 6)), boundary=boundary)
    K = torch.ones(0, 7, 6, dtype=dtype, requires_grad=True)
    p = darcy.solve(K)
    assert p.shape == (0, 7, 6)
    assert p.dtype == dtype
    p.sum().backward()
    for result in (darcy.residual(K, p), darcy.strong_residual(K, p), darcy.precondition(p, K)):
        assert result.shape == (0, 7, 6)


def test_attributes_rebuild_the_equation():
    darcy = Darcy(Grid((4, 4)), "constant", "dirichlet", "arithmetic")
    expected = {"equation": "Darcy", "source": "constant", "boundary": "dirichlet", "faces": "arithmetic"}
    assert darcy.attributes() == expected
    assert Darcy(Grid((4, 4)), np.zeros((4, 4))).attributes()["source"] == "custom"
    assert darcy.fields == darcy.inputs + darcy.solutions == ("permeability", "pressure")


def test_matrix_is_symmetric():
    grid = Grid((6, 5))
    for boundary in BOUNDARIES:
        darcy, K, p = Darcy(grid, boundary=boundary), lognormal(grid), lognormal(grid, seed=1)
        a = darcy.matrix(K[0])
        assert abs(a - a.T).max() == 0
        expected = (darcy.source_term - darcy.residual(K, p)[0]).numpy().ravel()
        np.testing.assert_allclose(a @ p[0].numpy().ravel(), expected, atol=1e-11 * np.abs(expected).max())


def test_source_of_non_zero_mean_is_refused_between_neumann_walls():
    with pytest.raises(ValueError, match=r"zero mean, but its mean is 1; subtract that .* boundary='dirichlet'"):
        Darcy(Grid((4, 4)), "constant")
    f = np.random.default_rng(0).standard_normal((4, 4))
    f -= f.mean() - 0.01
    with pytest.raises(ValueError, match=r"its mean is 0\.01"):
        Darcy(Grid((4, 4)), f)
    # What float32 leaves of the mean is taken out.
    assert abs(Darcy(Grid((4, 4)), (f - f.mean()).astype(np.float32)).source_term.mean()) < 1e-16


def test_equations_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"needs a grid of cells, got one of nodes; .*equation DarcyNodes"):
        Darcy(Grid((4, 4), centering="nodes"))
    with pytest.raises(ValueError, match=r"two axes, got shape \(4,\)"):
        Darcy(Grid((4,)))
    with pytest.raises(ValueError, match="unknown boundary 'neuman'; did you mean 'neumann'"):
        Darcy(Grid((4, 4)), boundary="neuman")
    with pytest.raises(ValueError, match=r"unknown faces 'geometric'; .*arithmetic, harmonic"):
        Darcy(Grid((4, 4)), faces="geometric")


@pytest.mark.parametrize("value", [0.0, -2.0, float("nan"), float("inf")])
def test_permeability_must_be_positive_and_finite(value):
    darcy, K = Darcy(Grid((4, 5))), torch.ones(3, 4, 5)
    K[1, 2, 3] = K[2, 0, 0] = value
    message = (
        rf"permeability must be positive and finite, but 2 of its 60 .*\(sample, i, j\) = \(1, 2, 3\), is {value:g}"
    )
    for call in (darcy.solve, lambda K: darcy.residual(K, K), lambda K: darcy.strong_residual(K, K)):
        with pytest.raises(ValueError, match=message):
            call(K)
    with pytest.raises(ValueError, match=message):
        darcy.precondition(torch.ones(3, 4, 5), K)
    if not np.isfinite(value):
        with pytest.raises(ValueError, match="pressure must be finite, but 2 of its 60 values"):
            darcy.residual(torch.ones(3, 4, 5), K)


def test_fields_must_fit_the_grid():
    darcy = Darcy(Grid((4, 5)))
    for shape, hint in (
        ((4, 5), r"field\[None\]"),
        ((2, 1, 4, 5), r"drop the channel axis"),
        ((2, 5, 4), "transposed"),
        ((2, 8, 8), "is this the grid"),
    ):
        with pytest.raises(ValueError, match=rf"expected shape \(batch, nx, ny\) = \(batch, 4, 5\), got .*{hint}"):
            darcy.solve(torch.ones(shape))
    with pytest.raises(ValueError, match="pressure has 3 samples but permeability has 2"):
        darcy.residual(torch.ones(2, 4, 5), torch.ones(3, 4, 5))
    with pytest.raises(TypeError, match="must be a tensor, got ndarray"):
        darcy.solve(np.ones((2, 4, 5)))
    with pytest.raises(TypeError, match=r"must be float32 or float64, got torch.int64; convert with \.double\(\)"):
        darcy.solve(torch.ones(2, 4, 5, dtype=torch.int64))
