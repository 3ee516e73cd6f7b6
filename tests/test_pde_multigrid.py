"""Multigrid conjugate gradients: against a direct solver, and the laws a preconditioner must keep."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from physflow.pde import conjugate_gradients, multigrid
from physflow.pde.conjugate_gradients import precondition, solve
from physflow.pde.finite_volumes import diagonal, divergence, solve_direct, transmissibilities
from physflow.pde.multigrid import Multigrid

BOUNDARIES = ("neumann", "dirichlet")
SHAPES = [(1, 2), (1, 37), (40, 1), (2, 2), (3, 3), (5, 9), (7, 64), (17, 17), (33, 48), (64, 64)]


def lognormal(*shape, std=2.0, seed=0):
    """The exponential of a smoothed random field, shape (batch, nx, ny)."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal(shape), sigma=(0, 1.5, 1.5))
    return torch.from_numpy(np.exp(std * field / field.std()))


def system(*shape, boundary, spacing=(1.0, 1.0), std=2.0, seed=0):
    """Transmissibilities, right sides and the arguments of `solve`."""
    t = transmissibilities(lognormal(*shape, std=std, seed=seed), spacing, boundary=boundary)
    f = torch.from_numpy(np.random.default_rng(seed + 1).standard_normal(shape))
    singular = boundary == "neumann"
    if singular:
        f = f - f.mean((1, 2), keepdim=True)
    return t, f, {"spacing": spacing, "singular": singular}


@pytest.fixture
def cycles(monkeypatch):
    """The number of V-cycles done so far, in a list of one."""
    count, cycle = [0], Multigrid.__call__

    def counted(self, r):
        count[0] += 1
        return cycle(self, r)

    monkeypatch.setattr(Multigrid, "__call__", counted)
    return count


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_solve_agrees_with_a_direct_solver(shape, boundary):
    t, f, options = system(2, *shape, boundary=boundary)
    x = solve(t, f, tolerance=1e-11, **options)
    assert x.dtype == torch.float64
    assert x.is_contiguous()
    for i in range(2):
        expected, _ = solve_direct([value[i] for value in t], f[i], options["singular"])
        if options["singular"]:
            expected = expected - expected.mean()
            assert abs(x[i].mean()) <= 1e-13 * x[i].abs().max()
        assert (x[i] - expected).norm() <= 1e-8 * expected.norm()


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-8])
def test_each_sample_reaches_the_tolerance_and_stops(boundary, tolerance):
    t, f, options = system(5, 24, 31, boundary=boundary)
    r = f + divergence(t, solve(t, f, tolerance=tolerance, **options))
    relative = r.flatten(1).norm(dim=1) / f.flatten(1).norm(dim=1)
    assert relative.max() <= 1.001 * tolerance
    assert relative.min() > 1e-3 * tolerance


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_sample_does_not_depend_on_its_batch(boundary):
    """Bit for bit, at its place in a batch of the same size: beside easy, hard and empty systems."""
    t, f, options = system(5, 18, 25, boundary=boundary)
    x = solve(t, f, **options)
    hard, other, _ = system(5, 18, 25, boundary=boundary, std=5.0, seed=7)
    for kept in range(5):
        mixed, right = [value.clone() for value in hard], other.clone()
        for value, own in zip(mixed, t, strict=True):
            value[kept] = own[kept]
            value[(kept + 1) % 5] = 1.0
        right[kept] = f[kept]
        right[(kept + 1) % 5] = 0.0
        assert torch.equal(solve(mixed, right, **options)[kept], x[kept])


def test_blocks_give_what_the_whole_batch_gives(monkeypatch):
    t, f, options = system(7, 16, 16, boundary="neumann")
    x = solve(t, f, **options)
    monkeypatch.setattr(conjugate_gradients, "BLOCK_CELLS", 3 * 256)
    torch.testing.assert_close(solve(t, f, **options), x, atol=0, rtol=1e-7)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_iterations_do_not_grow_with_the_grid(boundary, cycles):
    """The same continuous field on grids of 16 to 128 cells a side."""
    fine = lognormal(2, 128, 128, std=1.0)
    iterations = []
    for n in (16, 32, 64, 128):
        K = fine.reshape(2, n, 128 // n, n, 128 // n).log().mean((2, 4)).exp()
        f = torch.zeros_like(K)
        f[:, : n // 8, : n // 8], f[:, -(n // 8) :, -(n // 8) :] = 10.0, -10.0
        cycles[0] = 0
        t = transmissibilities(K, (1 / n, 1 / n), boundary=boundary)
        solve(t, f, (1 / n, 1 / n), singular=boundary == "neumann")
        iterations.append(cycles[0])
    assert max(iterations) <= 12
    assert max(iterations) - min(iterations) <= 4


@pytest.mark.parametrize("spacing", [(1.0, 4.0), (30.0, 1.0)])
def test_cells_of_any_aspect_ratio(spacing, cycles):
    t, f, options = system(2, 48, 48, boundary="neumann", spacing=spacing, std=1.0)
    solve(t, f, **options)
    assert cycles[0] <= 20


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(13, 22), (3, 4)])
def test_vcycle_is_linear_symmetric_and_positive(shape, boundary):
    K = lognormal(1, *shape).expand(4, *shape)
    t = transmissibilities(K, (1.0, 1.0), boundary=boundary)
    options = {"spacing": (1.0, 1.0), "singular": boundary == "neumann"}
    rng = np.random.default_rng(3)
    u, v = (torch.from_numpy(rng.standard_normal((1, *shape))).expand(4, *shape) for _ in range(2))
    Mu, Mv = precondition(t, u, **options)[0], precondition(t, v, **options)[0]
    torch.testing.assert_close(precondition(t, 2 * u - 3 * v, **options)[0], 2 * Mu - 3 * Mv, atol=1e-5, rtol=1e-5)
    scale = ((u[0] * Mu).sum() * (v[0] * Mv).sum()).sqrt()
    assert abs((u[0] * Mv).sum() - (v[0] * Mu).sum()) < 1e-5 * scale
    assert (u[0] * Mu).sum() > 0
    if options["singular"]:
        assert abs(Mu.mean()) < 1e-12


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_vcycle_takes_most_of_an_error_away(boundary):
    t, _, options = system(3, 32, 32, boundary=boundary, std=1.0)
    error = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 32, 32)))
    error = error - error.mean((1, 2), keepdim=True)
    left = error - precondition(t, -divergence(t, error), **options)
    assert left.norm() < 0.3 * error.norm()


def test_coarsening_a_uniform_medium_gives_the_same_medium():
    for boundary in BOUNDARIES:
        t = transmissibilities(torch.ones(1, 8, 12), (1.0, 1.0), boundary=boundary)
        tx, ty = multigrid._coarsen(*(value.permute(1, 2, 0) for value in t), 2, 2)
        expected = transmissibilities(torch.ones(1, 4, 6), (1.0, 1.0), boundary=boundary)
        torch.testing.assert_close((tx.permute(2, 0, 1), ty.permute(2, 0, 1)), expected)


@pytest.mark.parametrize("cells", [1, 2, 5, 6])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_coarse_faces_are_resistors_in_series(cells, boundary):
    tx, _ = transmissibilities(lognormal(1, cells, 2), (1.0, 1.0), boundary=boundary)
    R = 1 / tx[0]
    found = multigrid._coarsen(tx.permute(1, 2, 0), torch.ones(cells, 3, 1).double(), 2, 2)[0][:, 0, 0]
    edges = [*range(0, cells + 1, 2)] + ([cells] if cells % 2 else [])
    for i, edge in enumerate(edges):
        series = R[edge].clone()
        if i > 0 and edge - edges[i - 1] == 2:
            series += R[edge - 1] / 2
        if i < len(edges) - 1 and edges[i + 1] - edge == 2:
            series += R[edge + 1] / 2
        torch.testing.assert_close(found[i], (1 / series).sum())
    assert len(found) == len(edges)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40, 2.0**-600])
def test_scaling_the_permeability_scales_the_solution_exactly(boundary, factor):
    t, f, options = system(2, 20, 20, boundary=boundary)
    scaled = solve([value * factor for value in t], f, **options)
    assert torch.equal(scaled, solve(t, f, **options) / factor)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_zero_right_side_has_zero_solution(boundary):
    t, f, options = system(3, 12, 12, boundary=boundary)
    f[1] = 0.0
    x = solve(t, f, **options)
    assert torch.equal(x[1], torch.zeros(12, 12, dtype=x.dtype))
    assert (x[[0, 2]].flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_empty_batch(boundary):
    t, f, options = system(1, 12, 9, boundary=boundary)
    t = [value[:0] for value in t]
    assert solve(t, f[:0], **options).shape == (0, 12, 9)
    assert precondition(t, f[:0], **options).shape == (0, 12, 9)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_sample_that_does_not_converge_goes_to_the_direct_solver(boundary):
    t, f, options = system(3, 20, 20, boundary=boundary)
    x = solve(t, f, max_iterations=2, tolerance=1e-10, **options)
    torch.testing.assert_close(x, solve(t, f, tolerance=1e-12, **options), atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("orders", [4, 8, 12])
def test_independent_cells_of_any_contrast_are_solved_to_rounding(orders):
    K = 10 ** (orders * torch.from_numpy(np.random.default_rng(0).random((2, 16, 16))))
    t = transmissibilities(K, (1.0, 1.0))
    f = torch.zeros_like(K)
    f[:, 0, 0], f[:, -1, -1] = 1.0, -1.0
    x = solve(t, f, (1.0, 1.0), singular=True)
    r = (f + divergence(t, x)).flatten(1).norm(dim=1)
    assert (r <= 1e-8 * 2**0.5 + 1e-15 * diagonal(t).flatten(1).norm(dim=1) * x.abs().amax((1, 2))).all()


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_one_cell(boundary):
    t, f, options = system(2, 1, 1, boundary=boundary)
    x = solve(t, f, **options)
    torch.testing.assert_close(x, torch.zeros_like(f) if options["singular"] else f / diagonal(t))


def test_not_reaching_the_tolerance_is_an_error(monkeypatch):
    t, f, options = system(4, 20, 20, boundary="dirichlet", std=1.0)
    f[:2] = 0.0
    monkeypatch.setattr(conjugate_gradients, "DIRECT_CELLS", 0)
    monkeypatch.setattr(conjugate_gradients, "BLOCK_CELLS", 400)
    with pytest.raises(RuntimeError, match=r"sample 2 was not solved in 2 iterations: its .* spans \d+ orders"):
        solve(t, f, max_iterations=2, **options)


def test_what_is_not_a_number_never_passes():
    t, f, options = system(3, 20, 20, boundary="neumann", std=1.0)
    t[0][1, 5, 5] = torch.nan
    with pytest.raises(
        RuntimeError, match=r"sample 1 was not solved in 100 .*: its relative residual is nan, .* not finite"
    ):
        solve(t, f, **options)


@pytest.mark.parametrize("tolerance", [0.0, -1e-8, 1.0, float("nan")])
def test_tolerance_must_be_a_relative_residual(tolerance):
    t, f, options = system(1, 4, 4, boundary="neumann")
    with pytest.raises(ValueError, match=r"expected in \(0, 1\)"):
        solve(t, f, tolerance=tolerance, **options)
