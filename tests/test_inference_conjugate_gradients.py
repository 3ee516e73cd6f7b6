"""Conjugate gradients in batches: exact solutions, the best of a Krylov space, and items that stop by themselves."""

import pytest
import torch

from physflow.inference.conjugate_gradients import conjugate_gradients


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def systems(batch, m):
    roots = draw(batch, m, m)
    return roots @ roots.mT / m + torch.eye(m, dtype=torch.float64), draw(batch, m, seed=1)


def product(A):
    return lambda p: (A @ p[..., None])[..., 0]


@pytest.mark.parametrize(("batch", "m"), [(5, 6), (1, 1), (3, 2), (0, 4)])
def test_as_many_iterations_as_unknowns_solve(batch, m):
    A, b = systems(batch, m)
    torch.testing.assert_close(conjugate_gradients(product(A), b, m), torch.linalg.solve(A, b), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_it_is_the_best_of_the_krylov_space_in_the_energy_norm(iterations):
    A, b = systems(4, 6)
    w = conjugate_gradients(product(A), b, iterations)
    space = torch.stack([torch.linalg.matrix_power(A, k) @ b[..., None] for k in range(iterations)], dim=-1)[..., 0, :]
    best = space @ torch.linalg.solve(space.mT @ A @ space, space.mT @ b[..., None])
    torch.testing.assert_close(w, best[..., 0], rtol=1e-8, atol=1e-10)


def test_an_item_stops_at_the_tolerance_whatever_its_neighbours_need():
    A, b = systems(3, 20)
    A[0], b[1] = torch.eye(20), 0
    calls = []

    def apply(p):
        calls.append(p.clone())
        return product(A)(p)

    w = conjugate_gradients(apply, b, 100, tolerance=1e-3)
    residual = (b - product(A)(w)).norm(dim=1) / b.norm(dim=1).clamp_min(1e-300)
    assert (residual <= 1e-3 * (1 + 1e-6)).all()
    assert residual[2] > 1e-5
    assert 2 < len(calls) < 20
    torch.testing.assert_close(w[0], b[0], rtol=1e-15, atol=0)
    assert (w[1] == 0).all()
    for i in range(3):
        torch.testing.assert_close(conjugate_gradients(product(A[i : i + 1]), b[i : i + 1], 100, 1e-3)[0], w[i])


def test_an_indefinite_item_stops_where_it_is():
    A, b = systems(2, 4)
    A[0] = -A[0]
    w = conjugate_gradients(product(A), b, 10)
    assert (w[0] == 0).all()
    torch.testing.assert_close(w[1], torch.linalg.solve(A[1], b[1]), rtol=1e-8, atol=1e-8)


def test_an_item_that_is_not_a_number_spoils_no_other():
    A, b = systems(2, 4)
    A[0] = torch.nan
    w = conjugate_gradients(product(A), b, 10)
    assert (w[0] == 0).all()
    torch.testing.assert_close(w[1], torch.linalg.solve(A[1], b[1]), rtol=1e-8, atol=1e-8)


def test_each_item_is_solved_to_its_own_tolerance_by_a_preconditioner():
    A, b = systems(3, 12)
    tolerance = torch.tensor([1e-12, 1.0, 1e-3], dtype=torch.float64)
    diagonal = A.diagonal(dim1=1, dim2=2)
    w = conjugate_gradients(product(A), b, 100, tolerance, lambda r: r / diagonal)
    errors = (product(A)(w) - b).norm(dim=1) / b.norm(dim=1)
    assert errors[0] < 1e-11
    assert torch.equal(w[1], torch.zeros(12, dtype=torch.float64))
    assert 1e-6 < errors[2] <= 1e-3 * (1 + 1e-6)
    torch.testing.assert_close(w[0], torch.linalg.solve(A[0], b[0]), rtol=0, atol=1e-9)
    alone = conjugate_gradients(product(A[2:]), b[2:], 100, tolerance[2:], lambda r: r / diagonal[2:])
    torch.testing.assert_close(alone, w[2:], rtol=0, atol=1e-13)


def test_a_preconditioner_may_be_linear_but_for_an_error():
    matrix, b = torch.linspace(1, 1e4, 60, dtype=torch.float64), draw(1, 60)

    def inexact(r):
        return (r / matrix) * (1 + 0.1 * torch.sin(1e3 * r / r.norm(dim=1, keepdim=True)))

    w = conjugate_gradients(lambda p: matrix * p, b, 30, 1e-8, inexact)
    assert (matrix * w - b).norm() < 1e-7 * b.norm()


def test_items_are_tensors_of_any_shape():
    A, b = systems(2, 6)
    w = conjugate_gradients(lambda p: product(A)(p.flatten(1)).reshape(p.shape), b.reshape(2, 2, 3), 6)
    torch.testing.assert_close(w.flatten(1), torch.linalg.solve(A, b), rtol=1e-8, atol=1e-8)
