"""The batched multigrid: the laws a preconditioner must keep. The solutions are tested in test_pde_solvers."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from physflow.pde import conjugate_gradients, multigrid
from physflow.pde.conjugate_gradients import precondition, solve
from physflow.pde.finite_volumes import divergence, transmissibilities

BOUNDARIES = ("neumann", "dirichlet")


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
def test_empty_batch(boundary):
    t, f, options = system(1, 12, 9, boundary=boundary)
    t = [value[:0] for value in t]
    assert solve(t, f[:0], **options).shape == (0, 12, 9)
    assert precondition(t, f[:0], **options).shape == (0, 12, 9)
