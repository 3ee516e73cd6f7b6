"""Random fields: exact covariance, dense eigenpairs as oracle, reproducibility bit for bit."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from physflow.data.random_fields import CirculantEmbedding, Covariance, Exponential, KarhunenLoeve, sample_generator
from physflow.grid import Grid

GRIDS = [Grid((8, 8)), Grid((7, 5)), Grid((9, 6), centering="nodes"), Grid((6, 12), ((0, 1), (0, 3))), Grid((20,))]


def dense(grid, covariance):
    points = np.stack([x.ravel() for x in grid.mesh()], axis=1)
    return covariance(cdist(points, points))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("modes", [1, 6, 13])
def test_eigenpairs_are_those_of_the_dense_covariance(grid, modes):
    covariance = Exponential(0.3, 1.5)
    matrix = dense(grid, covariance)
    field = KarhunenLoeve(grid, covariance, modes)
    np.testing.assert_allclose(field.eigenvalues, np.linalg.eigvalsh(matrix)[::-1][:modes], rtol=1e-9)
    np.testing.assert_allclose(matrix @ field.eigenvectors, field.eigenvectors * field.eigenvalues, atol=1e-9)
    np.testing.assert_allclose(field.eigenvectors.T @ field.eigenvectors, np.eye(modes), atol=1e-12)


def test_lanczos_agrees_with_the_dense_solver():
    # 400 points and 14 pairs take the Lanczos branch.
    grid, covariance = Grid((20, 20)), Exponential(0.1)
    field = KarhunenLoeve(grid, covariance, 6)
    np.testing.assert_allclose(field.eigenvalues, np.linalg.eigvalsh(dense(grid, covariance))[::-1][:6], rtol=1e-10)


def test_degenerate_pairs_have_a_basis_that_does_not_depend_on_the_grid():
    coarse, fine = (KarhunenLoeve(Grid((n, n)), Exponential(0.1), 10) for n in (32, 64))
    # The same coefficients give nearly the same field at both resolutions, also where a truncation cuts a pair.
    a = coarse.draw(3, 0, 4)
    b = fine.draw(3, 0, 4).reshape(4, 32, 2, 32, 2).mean((2, 4))
    assert np.abs(a - b).max() < 0.08 * np.abs(a).max()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_circulant_embedding_has_the_exact_covariance(grid):
    covariance = Exponential(0.2, 2.0)
    fields = CirculantEmbedding(grid, covariance).draw(0, 0, 20000).reshape(20000, -1)
    exact = dense(grid, covariance)
    estimate = fields.T @ fields / len(fields)
    # Var of a sample covariance is (C_ij^2 + C_ii C_jj) / n: six standard errors at most.
    error = np.sqrt((exact**2 + 16.0) / len(fields))
    assert (np.abs(estimate - exact) / error).max() < 6
    assert np.abs(fields.mean(0)).max() < 6 * 2.0 / np.sqrt(len(fields))


def test_all_modes_have_the_exact_covariance():
    grid, covariance = Grid((5, 4)), Exponential(0.3)
    field = KarhunenLoeve(grid, covariance, 20)
    np.testing.assert_allclose(
        (field.eigenvectors * field.eigenvalues) @ field.eigenvectors.T, dense(grid, covariance), atol=1e-12
    )


LAWS = {
    "kl": lambda: KarhunenLoeve(Grid((9, 7)), Exponential(), 5),
    "uniform": lambda: KarhunenLoeve(Grid((9, 7)), Exponential(), 5, "uniform"),
    "full": lambda: CirculantEmbedding(Grid((9, 7)), Exponential()),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
class TestEveryLaw:
    def test_a_sample_depends_on_seed_and_index_alone(self, law):
        whole = law().draw(5, 0, 200)
        for first, count in ((0, 1), (31, 2), (33, 140), (199, 1)):
            assert np.array_equal(law().draw(5, first, count), whole[first : first + count])

    def test_another_seed_gives_other_fields(self, law):
        assert not np.allclose(law().draw(5, 0, 3), law().draw(6, 0, 3))

    def test_empty(self, law):
        assert law().draw(0, 7, 0).shape == (0, 9, 7)

    def test_negative_indices_are_refused(self, law):
        with pytest.raises(ValueError, match="not negative, got first=-1"):
            law().draw(0, -1, 3)


def test_coefficients_follow_their_law():
    normal = KarhunenLoeve(Grid((6, 6)), Exponential(), 4).draw_coefficients(0, 0, 5000)
    uniform = KarhunenLoeve(Grid((6, 6)), Exponential(), 4, "uniform").draw_coefficients(0, 0, 5000)
    assert abs(normal.mean()) < 0.03
    assert abs(normal.std() - 1) < 0.02
    assert 0 <= uniform.min() < 0.01
    assert 2.49 < uniform.max() <= 2.5
    assert abs(uniform.mean() - 1.25) < 0.03


def test_streams_of_samples_differ():
    assert sample_generator(0, 1).random() != sample_generator(1, 0).random()


class Wide(Covariance):
    def __call__(self, distance):
        return np.exp(-((distance / 2) ** 2))


def test_an_embedding_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"not positive .* correlation length is too long"):
        CirculantEmbedding(Grid((16, 16)), Wide())


@pytest.mark.parametrize("modes", [0, 26])
def test_impossible_number_of_modes(modes):
    with pytest.raises(ValueError, match=f"between 1 and 25 modes .* got {modes}"):
        KarhunenLoeve(Grid((5, 5)), Exponential(), modes)
