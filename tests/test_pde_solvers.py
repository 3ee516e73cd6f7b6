"""Both solvers, compiled and batched, by the same tests: against a direct one, and the laws a solution must keep."""

import numpy as np
import pytest
import torch
from numba import njit
from scipy.ndimage import gaussian_filter

from physflow.grid import Grid
from physflow.pde import Darcy, compiled_multigrid, compiled_solver, conjugate_gradients, multigrid, solvers
from physflow.pde.finite_volumes import diagonal, divergence, solve_direct, transmissibilities
from physflow.pde.lanes import LANES, store
from physflow.pde.multigrid import Multigrid

BACKENDS = ("compiled", "torch")
BOUNDARIES = ("neumann", "dirichlet")
FACES = ("harmonic", "arithmetic")
SHAPES = [(1, 2), (1, 37), (40, 1), (2, 2), (3, 3), (5, 9), (7, 64), (17, 17), (33, 48), (64, 64)]
both = pytest.mark.parametrize("backend", BACKENDS)
walls = pytest.mark.parametrize("boundary", BOUNDARIES)


def lognormal(*shape, std=2.0, seed=0):
    """The exponential of a smoothed random field, shape (batch, nx, ny)."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal(shape), sigma=(0, 1.5, 1.5))
    return torch.from_numpy(np.exp(std * field / max(field.std(), 1e-12)))


def problem(*shape, boundary, spacing=(1.0, 1.0), std=2.0, seed=0, backend=None):
    """Permeabilities, right sides and the other arguments of `solve`."""
    f = torch.from_numpy(np.random.default_rng(seed + 1).standard_normal(shape))
    if boundary == "neumann":
        f = f - f.mean((1, 2), keepdim=True)
    options = {"spacing": spacing, "boundary": boundary, "backend": backend}
    return lognormal(*shape, std=std, seed=seed), f, options


def residual_of(K, f, p, spacing=(1.0, 1.0), boundary="neumann", faces="harmonic"):
    r = f + divergence(transmissibilities(K, spacing, faces, boundary), p)
    return r.flatten(1).norm(dim=1) / f.expand_as(r).flatten(1).norm(dim=1)


@pytest.fixture
def count_iterations(monkeypatch):
    """A function that solves and gives the largest number of iterations."""
    cycles, cycle = [0], Multigrid.__call__

    def counted(self, r):
        cycles[0] += 1
        return cycle(self, r)

    monkeypatch.setattr(Multigrid, "__call__", counted)

    def count(K, f, backend, **options):
        if backend == "compiled":
            return int(compiled_solver.solve(K, f, **options)[2].max())
        cycles[0] = 0
        solvers.solve(K, f, backend="torch", **options)
        return cycles[0]

    return count


@both
@walls
@pytest.mark.parametrize("faces", FACES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_solve_agrees_with_a_direct_solver(shape, faces, boundary, backend):
    K, f, options = problem(2, *shape, boundary=boundary, spacing=(1.0, 0.7), backend=backend)
    p = solvers.solve(K, f, faces=faces, tolerance=1e-11, **options)
    assert p.dtype == torch.float64
    assert p.is_contiguous()
    t = transmissibilities(K, (1.0, 0.7), faces, boundary)
    for i in range(2):
        expected, _ = solve_direct([value[i] for value in t], f[i], boundary == "neumann")
        if boundary == "neumann":
            expected = expected - expected.mean()
            assert abs(p[i].mean()) <= 1e-13 * p[i].abs().max()
        assert (p[i] - expected).norm() <= 1e-8 * expected.norm()


@walls
@pytest.mark.parametrize("faces", FACES)
def test_both_agree(faces, boundary):
    K, f, options = problem(LANES + 3, 31, 20, boundary=boundary, std=1.0)
    one, other = (solvers.solve(K, f, faces=faces, **{**options, "backend": backend}) for backend in BACKENDS)
    assert (one - other).norm() <= 1e-8 * other.norm()


@both
@walls
@pytest.mark.parametrize("tolerance", [1e-3, 1e-8])
def test_each_sample_reaches_the_tolerance_and_stops(boundary, tolerance, backend):
    K, f, options = problem(5, 24, 31, boundary=boundary, backend=backend)
    relative = residual_of(K, f, solvers.solve(K, f, tolerance=tolerance, **options), boundary=boundary)
    assert relative.max() <= 1.001 * tolerance
    assert relative.min() > 1e-3 * tolerance


@both
@walls
def test_a_sample_does_not_depend_on_its_batch(boundary, backend):
    """Bit for bit: beside easy, hard and empty systems, whatever their number and its own place."""
    K, f, options = problem(LANES + 1, 18, 25, boundary=boundary, backend=backend)
    p = solvers.solve(K, f, **options)
    hard, other, _ = problem(5, 18, 25, boundary=boundary, std=5.0, seed=7)
    for kept in range(LANES + 1):
        mixed, right = hard.clone(), other.clone()
        mixed[kept % 5], right[kept % 5] = K[kept], f[kept]
        mixed[(kept + 1) % 5], right[(kept + 1) % 5] = 1.0, 0.0
        assert torch.equal(solvers.solve(mixed, right, **options)[kept % 5], p[kept])


@both
@walls
def test_one_right_side_serves_all_samples(boundary, backend):
    K, f, options = problem(3, 9, 14, boundary=boundary, backend=backend)
    p = solvers.solve(K, f[0], **options)
    assert torch.equal(p, solvers.solve(K, f[:1].expand(3, -1, -1), **options))
    assert torch.equal(p, solvers.solve(K.transpose(1, 2).contiguous().transpose(1, 2), f[0], **options))


def test_threads_do_not_change_a_bit():
    K, f, options = problem(5 * LANES + 3, 17, 20, boundary="neumann", backend="compiled")
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            found.append(solvers.solve(K, f, **options))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@both
@walls
def test_iterations_do_not_grow_with_the_grid(boundary, backend, count_iterations):
    """The same continuous field on grids of 16 to 128 cells a side."""
    fine = lognormal(2, 128, 128, std=1.0)
    iterations = []
    for n in (16, 32, 64, 128):
        K = fine.reshape(2, n, 128 // n, n, 128 // n).log().mean((2, 4)).exp()
        f = torch.zeros(n, n, dtype=torch.float64)
        f[: n // 8, : n // 8], f[-(n // 8) :, -(n // 8) :] = 10.0, -10.0
        iterations.append(count_iterations(K, f, backend, spacing=(1 / n, 1 / n), boundary=boundary))
    assert max(iterations) <= 12
    assert max(iterations) - min(iterations) <= 4


@both
@pytest.mark.parametrize("size", [61, 67, 127, 129, 150])
def test_sizes_that_do_not_halve_take_no_more_iterations(size, backend, count_iterations):
    K, f, _ = problem(2, size, size, boundary="neumann", std=1.0)
    options = {"spacing": (1.0, 1.0), "boundary": "neumann"}
    assert count_iterations(K, f, backend, **options) <= 14


@both
@pytest.mark.parametrize("spacing", [(1.0, 4.0), (30.0, 1.0)])
def test_cells_of_any_aspect_ratio(spacing, backend, count_iterations):
    K, f, _ = problem(2, 48, 48, boundary="neumann", std=1.0)
    assert count_iterations(K, f, backend, spacing=spacing, boundary="neumann") <= 20


@both
@walls
@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40, 2.0**-600])
def test_scaling_the_permeability_scales_the_solution_exactly(boundary, factor, backend):
    K, f, options = problem(2, 20, 20, boundary=boundary, backend=backend)
    assert torch.equal(solvers.solve(K * factor, f, **options), solvers.solve(K, f, **options) / factor)


@both
@walls
def test_zero_right_side_has_zero_solution(boundary, backend):
    K, f, options = problem(3, 12, 12, boundary=boundary, backend=backend)
    f[1] = 0.0
    p = solvers.solve(K, f, **options)
    assert torch.equal(p[1], torch.zeros(12, 12, dtype=p.dtype))
    assert (p[[0, 2]].flatten(1).norm(dim=1) > 0).all()


@both
@walls
def test_empty_batch(boundary, backend):
    K, f, options = problem(1, 12, 9, boundary=boundary, backend=backend)
    assert solvers.solve(K[:0], f[:0], **options).shape == (0, 12, 9)
    assert solvers.solve(K[:0], f[0], **options).shape == (0, 12, 9)


@both
@walls
def test_a_sample_that_does_not_converge_goes_to_the_direct_solver(boundary, backend):
    K, f, options = problem(3, 20, 20, boundary=boundary, backend=backend)
    with pytest.warns(RuntimeWarning, match="a sparse direct solver, many times slower"):
        p = solvers.solve(K, f, max_iterations=2, tolerance=1e-10, **options)
    torch.testing.assert_close(p, solvers.solve(K, f, tolerance=1e-12, **options), atol=1e-9, rtol=1e-7)


@both
@pytest.mark.filterwarnings("ignore:a sparse direct solver:RuntimeWarning")
@pytest.mark.parametrize("orders", [4, 8, 12])
def test_independent_cells_of_any_contrast_are_solved_to_rounding(orders, backend):
    K = 10 ** (orders * torch.from_numpy(np.random.default_rng(0).random((2, 16, 16))))
    f = torch.zeros(16, 16, dtype=torch.float64)
    f[0, 0], f[-1, -1] = 1.0, -1.0
    p, t = solvers.solve(K, f, (1.0, 1.0), backend=backend), transmissibilities(K, (1.0, 1.0))
    r = (f + divergence(t, p)).flatten(1).norm(dim=1)
    assert (r <= 1e-8 * 2**0.5 + 1e-15 * diagonal(t).flatten(1).norm(dim=1) * p.abs().amax((1, 2))).all()


@both
@walls
def test_one_cell(boundary, backend):
    K, f, options = problem(2, 1, 1, boundary=boundary, backend=backend)
    t = transmissibilities(K, (1.0, 1.0), boundary=boundary)
    p = solvers.solve(K, f, **options)
    torch.testing.assert_close(p, torch.zeros_like(f) if boundary == "neumann" else f / diagonal(t))


@both
@pytest.mark.parametrize("size", [12, 13, 17, 24, 31])
def test_a_constant_right_side_between_neumann_walls_is_none(size, backend):
    """Its mean is taken out; what rounding leaves of it must not be taken for a source."""
    K, f = lognormal(2, size, size), torch.full((size, size), 1 / size**2, dtype=torch.float64)
    assert not solvers.solve(K, f, (1.0, 1.0), backend=backend).any()
    K.requires_grad_()
    Darcy(Grid((size, size))).solve(K).mean().backward()
    assert K.grad.abs().max() < 1e-12


@both
@walls
@pytest.mark.parametrize("factor", [2.0**600, 2.0**-600])
def test_scaling_the_right_side_scales_the_solution_exactly(boundary, factor, backend):
    K, f, options = problem(2, 20, 20, boundary=boundary, backend=backend)
    assert torch.equal(solvers.solve(K, f * factor, **options), solvers.solve(K, f, **options) * factor)


@both
@pytest.mark.parametrize("shape", [(2, 12, 9), (9, 12), (3, 9, 12)])
def test_right_sides_must_fit(shape, backend):
    with pytest.raises(ValueError, match=r"expected right sides of shape \(12, 9\) or \(3, 12, 9\), .*, got"):
        solvers.solve(lognormal(3, 12, 9), torch.ones(shape), (1.0, 1.0), backend=backend)


@both
@pytest.mark.filterwarnings("ignore:a sparse direct solver:RuntimeWarning")
def test_a_solution_that_double_precision_does_not_hold_is_an_error(backend):
    """A barrier through which hardly anything flows: its two sides differ by more than rounding allows."""
    K = torch.ones(1, 32, 32, dtype=torch.float64)
    K[:, 16] = 1e-15
    f = torch.zeros(32, 32, dtype=torch.float64)
    f[0, 0], f[-1, -1] = 1.0, -1.0
    with pytest.raises(RuntimeError, match="spans 15 orders"):
        solvers.solve(K, f, (1 / 32, 1 / 32), backend=backend)


@both
def test_not_reaching_the_tolerance_is_an_error(monkeypatch, backend):
    K, f, options = problem(4, 20, 20, boundary="dirichlet", std=1.0, backend=backend)
    f[:2] = 0.0
    monkeypatch.setattr(conjugate_gradients, "DIRECT_CELLS", 0)
    monkeypatch.setattr(conjugate_gradients, "BLOCK_CELLS", 400)
    with pytest.raises(RuntimeError, match=r"sample 2 was not solved in 2 iterations: its .* spans \d+ orders"):
        solvers.solve(K, f, max_iterations=2, **options)


@both
@pytest.mark.filterwarnings("ignore:a sparse direct solver:RuntimeWarning")
def test_what_is_not_a_number_never_passes(backend):
    K, f, options = problem(3, 20, 20, boundary="neumann", std=1.0, backend=backend)
    K[1, 5, 5] = torch.nan
    with pytest.raises(RuntimeError, match=r"sample 1 was not solved in 100 .*: its relative residual is nan, .* not"):
        solvers.solve(K, f, **options)


@both
@pytest.mark.parametrize("tolerance", [0.0, -1e-8, 1.0, float("nan")])
def test_tolerance_must_be_a_relative_residual(tolerance, backend):
    K, f, options = problem(1, 4, 4, boundary="neumann", backend=backend)
    with pytest.raises(ValueError, match=r"expected in \(0, 1\)"):
        solvers.solve(K, f, tolerance=tolerance, **options)


def rimmed(fields, shape):
    """Fields (batch, n, m) of LANES samples as a level holds them, in arrays of the given size."""
    out = np.zeros((shape[0], shape[1], LANES), np.float32)
    out[1 : 1 + fields.shape[1], 1 : 1 + fields.shape[2]] = fields.permute(1, 2, 0)
    return out.reshape(shape[0], -1)


def prepared(K, spacing, boundary):
    """The compiled hierarchy of LANES samples."""
    levels = compiled_multigrid.plan(K.shape[1:], spacing)
    cycle = compiled_multigrid.arrange(levels, np.zeros(5 * compiled_multigrid.size(levels), np.float32))
    for target, t in zip((cycle.tx, cycle.ty), transmissibilities(K, spacing, boundary=boundary), strict=True):
        target[0][:] = rimmed(t, (K.shape[1] + 2, K.shape[2] + 2))
    compiled_multigrid.prepare(cycle, boundary == "neumann")
    return cycle


@walls
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 3.0)])
@pytest.mark.parametrize("shape", [(5, 9), (12, 7), (16, 16), (1, 37)])
def test_both_coarsen_alike(shape, spacing, boundary):
    K = lognormal(LANES, *shape)
    cycle = prepared(K, spacing, boundary)
    tx, ty = (t.permute(1, 2, 0).float() for t in transmissibilities(K, spacing, boundary=boundary))
    for k, (n, m, cx, cy) in enumerate(cycle.levels.tolist()):
        for found, expected in ((cycle.tx[k], tx), (cycle.ty[k], ty)):
            inside = torch.from_numpy(found.reshape(n + 2, m + 2, LANES))[1:, 1:]
            torch.testing.assert_close(inside[: expected.shape[0], : expected.shape[1]], expected)
        assert (tx.shape[0], ty.shape[1]) == (n + 1, m + 1)
        tx, ty = multigrid._coarsen(tx, ty, cx, cy)


@njit
def run_cycle(cycle, out):
    store(out, 0, compiled_multigrid.v_cycle(cycle, 4))


@walls
@pytest.mark.parametrize("shape", [(13, 22), (3, 4)])
def test_the_compiled_cycle_is_linear_symmetric_and_positive(shape, boundary):
    cycle = prepared(lognormal(1, *shape).expand(LANES, *shape), (1.0, 1.0), boundary)
    rng, product = np.random.default_rng(3), np.zeros(LANES)

    def apply(r):
        cycle.b[0][:] = rimmed(torch.from_numpy(r), (shape[0] + 2, shape[1] + 2))
        run_cycle(cycle, product)
        x = cycle.x[0].reshape(shape[0] + 2, shape[1] + 2, LANES)[1:-1, 1:-1].transpose(2, 0, 1).astype(float)
        np.testing.assert_allclose(product, (x * r).sum((1, 2)), rtol=1e-5, atol=1e-5 * np.abs(product).max())
        return x

    u, v = rng.standard_normal((2, LANES, *shape))
    if boundary == "neumann":
        u, v = (value - value.mean((1, 2), keepdims=True) for value in (u, v))
    Mu, Mv = apply(u), apply(v)
    scale = np.sqrt((u * Mu).sum() * (v * Mv).sum())
    np.testing.assert_allclose(apply(2 * u - 3 * v), 2 * Mu - 3 * Mv, atol=2e-5 * np.abs(Mu).max())
    assert np.abs((u * Mv).sum((1, 2)) - (v * Mu).sum((1, 2))).max() < 1e-5 * scale
    assert ((u * Mu).sum((1, 2)) > 0).all()
