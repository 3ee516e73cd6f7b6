"""Conservative finite volumes: closed forms, matrix, conservation, order of accuracy."""

import numpy as np
import pytest
import torch

from physflow.grid import Grid
from physflow.pde.finite_volumes import diagonal, divergence, matrix, solve_direct, transmissibilities
from physflow.pde.sources import source_term

FACES = ("harmonic", "arithmetic")
BOUNDARIES = ("neumann", "dirichlet")


def random_fields(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.exp(rng.standard_normal(shape))), torch.from_numpy(rng.standard_normal(shape))


def manufactured(n, boundary):
    """K, p on cell centres, and div(K grad p), on [0, 1] x [0, 2] with n x n cells."""
    x, y = (torch.from_numpy(c) for c in Grid((n, n), ((0, 1), (0, 2))).mesh())
    pi = np.pi
    K = torch.exp(torch.sin(2 * x + y) / 2)
    Kx, Ky = K * torch.cos(2 * x + y), K * torch.cos(2 * x + y) / 2
    if boundary == "neumann":
        p = torch.cos(pi * x) * torch.cos(pi * y)
        px, py = -pi * torch.sin(pi * x) * torch.cos(pi * y), -pi * torch.cos(pi * x) * torch.sin(pi * y)
    else:
        p = torch.sin(pi * x) * torch.sin(pi * y)
        px, py = pi * torch.cos(pi * x) * torch.sin(pi * y), pi * torch.sin(pi * x) * torch.cos(pi * y)
    return K, p, K * (-2 * pi**2 * p) + Kx * px + Ky * py


@pytest.mark.parametrize("faces", FACES)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_transmissibilities_of_three_cells(faces, boundary):
    K = torch.tensor([1.0, 3.0, 6.0], dtype=torch.float64).reshape(1, 3, 1)
    tx, ty = transmissibilities(K, (0.5, 2.0), faces, boundary)
    inner = {"harmonic": [1.5, 4.0], "arithmetic": [2.0, 4.5]}[faces]
    first, last = (2.0, 12.0) if boundary == "dirichlet" else (0.0, 0.0)
    expected = torch.tensor([first, *inner, last], dtype=torch.float64) / 0.25
    torch.testing.assert_close(tx[0, :, 0], expected)
    walls = 2 * K[0, :, 0] / 4.0 if boundary == "dirichlet" else torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(ty[0], torch.stack((walls, walls), 1))


@pytest.mark.parametrize("value", [1e-30, 1e30])
def test_harmonic_mean_neither_underflows_nor_overflows_in_float32(value):
    tx, _ = transmissibilities(torch.full((1, 3, 2), value), (1.0, 1.0))
    torch.testing.assert_close(tx[0, 1:-1], torch.full((2, 2), value), atol=0, rtol=1e-6)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(4, 7), (1, 5), (6, 1), (1, 1)])
def test_matrix_is_minus_the_divergence_and_symmetric(shape, boundary):
    K, p = random_fields(2, *shape)
    t = transmissibilities(K, (0.3, 0.2), boundary=boundary)
    expected = -divergence(t, p)
    for i in range(2):
        a = matrix([value[i] for value in t])
        assert abs(a - a.T).max() == 0
        np.testing.assert_allclose(a @ p[i].ravel().numpy(), expected[i].ravel().numpy(), rtol=1e-12, atol=1e-11)
        np.testing.assert_array_equal(a.diagonal(), diagonal(t)[i].ravel().numpy())
        if boundary == "neumann":
            np.testing.assert_allclose(a @ np.ones(a.shape[0]), 0, atol=1e-12 * a.diagonal().max())


@pytest.mark.parametrize("faces", FACES)
def test_mass_is_conserved_between_neumann_walls(faces):
    K, p = random_fields(3, 9, 14)
    div = divergence(transmissibilities(K**3, (0.1, 0.2), faces), p)
    assert (div.sum((1, 2)).abs() / div.abs().sum((1, 2))).max() < 1e-14


def test_harmonic_faces_are_exact_across_layers():
    """In one dimension a unit flux through layers drops the pressure by h / K a cell, half of it at each wall."""
    K = torch.tensor([1.0, 1e-4, 50.0, 2.0], dtype=torch.float64)
    h = 0.25
    p = torch.cumsum(h / K, 0) - h / K / 2
    t = transmissibilities(K.reshape(1, 4, 1), (h, 1.0), "harmonic", "dirichlet")[0]
    flux = t[0, :, 0] * torch.diff(p, prepend=torch.zeros(1, dtype=p.dtype), append=p.new_zeros(1)) * h
    torch.testing.assert_close(flux[:-1], torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("faces", FACES)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_inner_truncation_error_is_second_order(faces, boundary):
    errors = []
    for n in (32, 64, 128):
        K, p, expected = manufactured(n, boundary)
        error = divergence(transmissibilities(K[None], (1 / n, 2 / n), faces, boundary), p[None])[0] - expected
        errors.append(error[n // 4 : -n // 4, n // 4 : -n // 4].abs().max().item())
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all((slopes > 1.9) & (slopes < 2.1)), slopes


@pytest.mark.parametrize("faces", FACES)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_solution_is_second_order(faces, boundary):
    errors = []
    for n in (16, 32, 64):
        K, p, flow = manufactured(n, boundary)
        t = transmissibilities(K[None], (1 / n, 2 / n), faces, boundary)
        singular = boundary == "neumann"
        f = -flow + flow.mean() if singular else -flow
        x, residual = solve_direct([value[0] for value in t], f, singular)
        assert residual < 1e-9
        error = x - p
        errors.append((error - error.mean() if singular else error).square().mean().sqrt().item())
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all((slopes > 1.9) & (slopes < 2.1)), slopes


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_divergence_passes_gradcheck(boundary):
    K, p = random_fields(2, 3, 4)
    for faces in FACES:
        assert torch.autograd.gradcheck(
            lambda K, p, faces=faces: divergence(transmissibilities(K, (0.5, 0.3), faces, boundary), p),
            (K.requires_grad_(), p.requires_grad_()),
        )


def test_direct_solve_of_a_singular_matrix_reports_not_a_number():
    t = [torch.zeros(3, 2, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)]
    x, residual = solve_direct(t, torch.ones(2, 2, dtype=torch.float64), singular=False)
    assert np.isnan(residual)
    assert x.isnan().all()
    t[0] = torch.full_like(t[0], torch.inf)
    assert np.isnan(solve_direct(t, torch.ones(2, 2, dtype=torch.float64), singular=False)[1])


def test_wells_on_cells_hold_exact_averages():
    f = source_term(Grid((64, 64)), "wells")
    assert (f == 10).sum() == (f == -10).sum() == 64
    assert f[:8, :8].min() == 10
    assert f[-8:, -8:].max() == -10
    assert (f**2).mean() == 3.125
    # Twelve cells: the wells reach through one and a half of them each way.
    f = source_term(Grid((12, 12)), "wells")
    np.testing.assert_allclose(f[:3, :3], [[10, 5, 0], [5, 2.5, 0], [0, 0, 0]])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 5), (7, 7), (12, 8), (64, 64), (33, 48)])
def test_wells_on_cells_have_the_exact_mass_at_any_resolution(shape):
    grid = Grid(shape, ((0, 2), (0, 3)))
    f = source_term(grid, "wells")
    assert f.sum() == pytest.approx(0, abs=1e-12)
    np.testing.assert_array_equal(f, -f[::-1, ::-1])
    if min(shape) > 1:
        assert f.clip(0).sum() * grid.cell_volume == pytest.approx(10 * 6 / 64, rel=1e-12)


def test_wells_on_nodes_are_point_values():
    f = source_term(Grid((64, 64), centering="nodes"), "wells")
    assert (f > 0).sum() == (f < 0).sum() == 64
    assert (f**2).mean() == 3.125
    # A node on the rim belongs to the well: x = 1/8 is node 2 of 17.
    assert source_term(Grid((17, 17), centering="nodes"), "wells")[2, 2] == 10


def test_other_sources():
    grid = Grid((3, 4))
    np.testing.assert_array_equal(source_term(grid, "constant"), np.ones((3, 4)))
    given = np.arange(12).reshape(3, 4)
    f = source_term(grid, given)
    assert f.dtype == np.float64
    np.testing.assert_array_equal(f, given)
    with pytest.raises(ValueError, match=r"unknown source 'well'; did you mean 'wells'\?"):
        source_term(grid, "well")
    with pytest.raises(ValueError, match=r"grid's shape \(3, 4\), got \(4, 3\)"):
        source_term(grid, given.T)
    with pytest.raises(ValueError, match="finite, but 1 of its values"):
        source_term(grid, np.where(given == 5, np.nan, given))
