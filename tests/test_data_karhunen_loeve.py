"""Karhunen-Loeve expansions: dense eigenpairs as oracle."""

import os
import subprocess
import sys

import numpy as np
import pytest
from random_field_oracles import dense, responses

from physflow.data import karhunen_loeve
from physflow.data.covariances import Exponential, Gaussian, Matern
from physflow.data.karhunen_loeve import KarhunenLoeve
from physflow.grid import Grid

GRIDS = [Grid((8, 8)), Grid((7, 5)), Grid((9, 6), centering="nodes"), Grid((6, 12), ((0, 1), (0, 3))), Grid((20,))]


def check_pairs(field, matrix):
    modes = field.modes
    np.testing.assert_allclose(field.eigenvalues, np.linalg.eigvalsh(matrix)[::-1][:modes], rtol=1e-9)
    np.testing.assert_allclose(matrix @ field.eigenvectors, field.eigenvectors * field.eigenvalues, atol=1e-9)
    np.testing.assert_allclose(field.eigenvectors.T @ field.eigenvectors, np.eye(modes), atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("modes", [1, 6, 13])
def test_eigenpairs_are_those_of_the_dense_covariance(grid, modes):
    covariance = Exponential(0.3, 1.5)
    check_pairs(KarhunenLoeve(grid, covariance, modes), dense(grid, covariance))


@pytest.mark.parametrize(
    "covariance", [Exponential((0.4, 0.1), 2.0, 30.0), Matern((0.1, 0.3), 1.0, -50.0), Gaussian(0.2), Matern(0.3)]
)
@pytest.mark.parametrize("grid", GRIDS[:-1], ids=str)
def test_eigenpairs_of_every_covariance(grid, covariance):
    check_pairs(KarhunenLoeve(grid, covariance, 9), dense(grid, covariance))


@pytest.mark.parametrize("covariance", [Exponential(0.1), Matern((0.3, 0.1), 1.0, 30.0)])
def test_lanczos_agrees_with_the_dense_solver(covariance):
    # 400 points and 14 pairs take the Lanczos branch.
    grid = Grid((20, 20))
    check_pairs(KarhunenLoeve(grid, covariance, 6), dense(grid, covariance))


@pytest.mark.parametrize(
    ("grid", "covariance"),
    [
        (Grid((5, 4)), Exponential(0.3)),
        (Grid((5, 4)), Gaussian((0.9, 0.4), 2.0, 30.0)),
        (Grid((3, 6), centering="nodes"), Matern(1.0)),
    ],
)
def test_all_modes_have_exactly_the_covariance(monkeypatch, grid, covariance):
    field = KarhunenLoeve(grid, covariance, int(np.prod(grid.shape)))
    (map_,) = responses(monkeypatch, karhunen_loeve, field, 1)
    np.testing.assert_allclose(map_ @ map_.T, dense(grid, covariance), atol=1e-12)


@pytest.mark.parametrize("covariance", [Gaussian(0.5), Exponential(0.1)])
def test_a_long_tail_of_small_eigenvalues_keeps_the_covariance(covariance):
    # Fixing the bases of equal eigenvalues must not mix those that are only close.
    grid, modes = Grid((20, 20)), 150
    field = KarhunenLoeve(grid, covariance, modes)
    values, vectors = np.linalg.eigh(dense(grid, covariance))
    best = (vectors[:, -modes:] * values[-modes:]) @ vectors[:, -modes:].T
    np.testing.assert_allclose((field.eigenvectors * field.eigenvalues) @ field.eigenvectors.T, best, atol=1e-9)


def test_degenerate_pairs_have_a_basis_that_does_not_depend_on_the_grid():
    coarse, fine = (KarhunenLoeve(Grid((n, n)), Exponential(0.1), 10) for n in (32, 64))
    # The same coefficients give nearly the same field at both resolutions, also where a truncation cuts a pair.
    a = coarse.draw(3, 0, 4)
    b = fine.draw(3, 0, 4).reshape(4, 32, 2, 32, 2).mean((2, 4))
    assert np.abs(a - b).max() < 0.08 * np.abs(a).max()


def test_coefficients_follow_their_law():
    normal = KarhunenLoeve(Grid((6, 6)), Exponential(), 4).draw_coefficients(0, 0, 5000)
    uniform = KarhunenLoeve(Grid((6, 6)), Exponential(), 4, "uniform").draw_coefficients(0, 0, 5000)
    assert abs(normal.mean()) < 0.03
    assert abs(normal.std() - 1) < 0.02
    assert 0 <= uniform.min() < 0.01
    assert 2.49 < uniform.max() <= 2.5
    assert abs(uniform.mean() - 1.25) < 0.03


@pytest.mark.parametrize("modes", [0, 26])
def test_impossible_number_of_modes(modes):
    with pytest.raises(ValueError, match=f"between 1 and 25 modes .* got {modes}"):
        KarhunenLoeve(Grid((5, 5)), Exponential(), modes)


def test_threads_of_a_linear_algebra_library_change_no_bit():
    """In fresh processes: eigenvectors are found once a process."""
    code = (
        "import hashlib; from physflow.data.covariances import Exponential; from physflow.grid import Grid; "
        "from physflow.data.karhunen_loeve import KarhunenLoeve; "
        "field = KarhunenLoeve(Grid((48, 48)), Exponential(0.1), 40); "
        "print(hashlib.sha256(field.eigenvectors.tobytes() + field.draw(0, 0, 4).tobytes()).hexdigest())"
    )
    found = {
        subprocess.check_output([sys.executable, "-c", code], env={**os.environ, "OPENBLAS_NUM_THREADS": threads})
        for threads in ("1", "2")
    }
    assert len(found) == 1
