"""The published scheme against a dense least-squares solver, and its derivatives against differences."""

import math

import numpy as np
import pytest
import torch

from physflow.grid import Grid
from physflow.pde.darcy_nodes import DarcyNodes
from physflow.pde.stencils import product_rule


def rough(grid, samples=2, std=0.7, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.exp(std * rng.standard_normal((samples, *grid.shape))))


def nodes(*shape, bounds=()):
    return Grid(shape, bounds, centering="nodes")


GRIDS = [
    nodes(8, 8),
    nodes(12, 12),
    nodes(9, 6),
    nodes(7, 10, bounds=((0, 2), (-1, 0.5))),
    nodes(3, 2),
    nodes(17),
    nodes(5, 4, 6),
]


def dense_matrix(darcy, K):
    """The matrix A of one permeability, found with unit pressures, and the trapezoid rule w."""
    N = K.numel()
    unit = torch.eye(N, dtype=K.dtype).reshape(N, *K.shape)
    A = (darcy.residual(K.expand_as(unit), unit) - darcy.source_term).reshape(N, N).T.numpy()
    w = np.ones(K.shape)
    for axis in range(K.ndim):
        np.moveaxis(w, axis, 0)[[0, -1]] /= 2
    return A, w.ravel() * darcy.grid.cell_volume


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: "x".join(map(str, grid.shape)))
def test_solve_equals_dense_least_squares(grid):
    darcy, K = DarcyNodes(grid), rough(grid)
    p = darcy.solve(K)
    for k, found in zip(K, p, strict=True):
        A, w = dense_matrix(darcy, k)
        right = np.append(-darcy.source_term.numpy().ravel(), 0)
        expected = np.linalg.lstsq(np.vstack([A, w]), right, rcond=None)[0]
        assert np.abs(found.numpy().ravel() - expected).max() <= 1e-9 * np.abs(expected).max()
        assert abs(w @ found.numpy().ravel()) < 1e-12 * np.abs(expected).max()


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: "x".join(map(str, grid.shape)))
def test_floor_is_the_projection_on_the_left_null_vector(grid):
    darcy, K = DarcyNodes(grid), rough(grid, samples=1)
    r = darcy.residual(K, darcy.solve(K))[0].numpy().ravel()
    A, _ = dense_matrix(darcy, K[0])
    f = darcy.source_term.numpy().ravel()
    u = np.linalg.svd(A)[0][:, -1]
    np.testing.assert_allclose(r, u * (u @ f), rtol=0, atol=1e-9 * np.abs(f).max())


def test_uniform_permeability_is_compatible():
    darcy = DarcyNodes(nodes(16, 16))
    K = torch.full((1, 16, 16), 2.0, dtype=torch.float64)
    assert darcy.residual(K, darcy.solve(K)).abs().max() < 1e-10


def test_operator_is_the_product_rule_inside_and_a_mirror_at_the_walls():
    grid = nodes(7, 9, bounds=((0, 1), (0, 3)))
    darcy, K = DarcyNodes(grid), rough(grid)
    p = torch.from_numpy(np.random.default_rng(1).standard_normal(K.shape))
    inside = (slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(darcy.residual(K, p)[inside], darcy.strong_residual(K, p)[inside])
    hx, hy = grid.spacing
    wall = K[:, 0, 0] * (2 * (p[:, 1, 0] - p[:, 0, 0]) / hx**2 + 2 * (p[:, 0, 1] - p[:, 0, 0]) / hy**2)
    torch.testing.assert_close(darcy.residual(K, p)[:, 0, 0], darcy.source_term[0, 0] + wall)
    expected = darcy.source_term + product_rule(K, p, grid.spacing, accuracy=4)
    torch.testing.assert_close(darcy.strong_residual(K, p, accuracy=4), expected)


def test_second_order_on_a_smooth_problem():
    def error(n):
        grid = nodes(n, n)
        x, y = map(torch.from_numpy, grid.mesh())
        K = torch.exp(0.5 * torch.cos(math.pi * x) * torch.cos(2 * math.pi * y))
        p = torch.cos(math.pi * x) * torch.cos(math.pi * y)
        gx = -0.5 * math.pi * torch.sin(math.pi * x) * torch.cos(2 * math.pi * y)
        gy = -math.pi * torch.cos(math.pi * x) * torch.sin(2 * math.pi * y)
        px = -math.pi * torch.sin(math.pi * x) * torch.cos(math.pi * y)
        py = -math.pi * torch.cos(math.pi * x) * torch.sin(math.pi * y)
        f = -K * (-2 * math.pi**2 * p + gx * px + gy * py)
        darcy = DarcyNodes(grid)
        darcy.source_term = f
        found = darcy.solve(K[None])[0]
        return (found - p).abs().max().item()

    assert math.log2(error(17) / error(33)) == pytest.approx(2, abs=0.2)


def test_gradients_of_solve_and_residual():
    grid = nodes(5, 4)
    darcy, K = DarcyNodes(grid), rough(grid).requires_grad_()
    p = torch.randn(K.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(darcy.solve, K)
    assert torch.autograd.gradcheck(darcy.residual, (K, p))
    assert torch.autograd.gradcheck(darcy.strong_residual, (K, p))


def test_precondition_takes_the_residual_away_but_the_floor():
    grid = nodes(10, 8)
    darcy, K = DarcyNodes(grid), rough(grid)
    p = torch.zeros_like(K)
    corrected = p + darcy.precondition(darcy.residual(K, p), K)
    torch.testing.assert_close(corrected, darcy.solve(K))


def test_keeps_type_and_batch():
    darcy = DarcyNodes(nodes(6, 6))
    K = rough(darcy.grid)
    assert darcy.solve(K.float()).dtype == torch.float32
    torch.testing.assert_close(darcy.solve(K.float()).double(), darcy.solve(K.float().double()), rtol=1e-6, atol=1e-7)
    assert darcy.solve(K[:0]).shape == (0, 6, 6)
    torch.testing.assert_close(darcy.solve(K)[1:], darcy.solve(K[1:]), rtol=0, atol=0)
    assert [field.shape for field in darcy.complete(K, torch.zeros_like(K))] == [K.shape, K.shape]
    with torch.inference_mode():
        assert darcy.solve(K).shape == K.shape


def test_attributes_rebuild_it():
    darcy = DarcyNodes(nodes(6, 6))
    assert darcy.attributes() == {
        "equation": "DarcyNodes", "source": "wells", "boundary": "neumann", "faces": "none",
    }  # fmt: skip
    assert DarcyNodes(nodes(6, 6), source=darcy.source_term.numpy()).attributes()["source"] == "custom"


def test_needs_nodes_and_a_compatible_source():
    with pytest.raises(ValueError, match="DarcyNodes needs a grid of nodes, got one of cells; use Grid"):
        DarcyNodes(Grid((8, 8)))
    with pytest.raises(ValueError, match="integral is zero, but its mean by the trapezoid rule is 1"):
        DarcyNodes(nodes(8, 8), source="constant")


def test_rejects_bad_permeabilities():
    darcy = DarcyNodes(nodes(6, 7))
    K = rough(darcy.grid)
    with pytest.raises(ValueError, match="axes look transposed"):
        darcy.solve(K.transpose(1, 2))
    for bad in (math.nan, 0.0, -1.0):
        broken = K.clone()
        broken[1, 2, 3] = bad
        for call in (darcy.solve, lambda k: darcy.residual(k, K), lambda k: darcy.precondition(K, k)):
            with pytest.raises(ValueError, match=r"permeability must be positive and finite.*\(1, 2, 3\)"):
                call(broken)
