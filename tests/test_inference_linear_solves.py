"""Linear solves by products alone, against dense matrices."""

import math

import pytest
import scipy.sparse.linalg
import torch

from physflow.grid import Grid
from physflow.inference.linear_solves import LinearSolve, flexible_conjugate_gradients, inner, linearised
from physflow.pde import Darcy


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(x):
    return x.flatten(1).norm(dim=1)


@pytest.mark.parametrize("boundary", ["neumann", "dirichlet"])
def test_linear_solve(boundary):
    """Against a sparse direct solver; under Neumann walls up to the constant that the preconditioner leaves out."""
    darcy = Darcy(Grid((9, 8)), boundary=boundary, source="wells")
    K, y = draw(2, 9, 8).exp(), draw(2, 9, 8, seed=1)
    if boundary == "neumann":
        y -= y.mean((1, 2), keepdim=True)
    solved = LinearSolve(darcy.residual, darcy.precondition, tolerance=1e-12)(y, K)
    for i in range(2):
        matrix = darcy.matrix(K[i]).toarray()
        expected = torch.from_numpy(scipy.linalg.pinvh(matrix) @ y[i].flatten().numpy()).reshape(9, 8)
        torch.testing.assert_close(solved[i], expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def test_conjugate_gradients_solve_each_sample_to_its_own_target():
    roots = draw(3, 12, 12)
    A = roots @ roots.mT + torch.eye(12, dtype=torch.float64)
    b, exact = draw(3, 12, seed=1), torch.linalg.solve(A, draw(3, 12, seed=1))
    target = torch.tensor([1e-10, 1e3, 1e-2], dtype=torch.float64)
    diagonal = A.diagonal(dim1=1, dim2=2)
    x = flexible_conjugate_gradients(lambda v: (A @ v[..., None])[..., 0], lambda q: q / diagonal, b, target, 100)
    errors = norm((A @ x[..., None])[..., 0] - b)
    assert errors[0] < 1e-9
    assert torch.equal(x[1], torch.zeros(12, dtype=torch.float64))
    assert 1e-6 < errors[2] < 1.1e-2
    torch.testing.assert_close(x[0], exact[0], rtol=0, atol=1e-9)
    alone = flexible_conjugate_gradients(
        lambda v: (A[2:] @ v[..., None])[..., 0], lambda q: q / diagonal[2:], b[2:], target[2:], 100
    )
    torch.testing.assert_close(alone, x[2:], rtol=0, atol=1e-13)


def test_conjugate_gradients_bear_a_preconditioner_that_is_linear_but_for_an_error():
    matrix = torch.linspace(1, 1e4, 60, dtype=torch.float64)
    b = draw(1, 60)

    def inexact(q):
        return (q / matrix) * (1 + 0.1 * torch.sin(1e3 * q / norm(q)[:, None]))

    x = flexible_conjugate_gradients(lambda v: matrix * v, inexact, b, 1e-8 * norm(b), 30)
    assert norm(matrix * x - b) < 1e-7 * norm(b)


def test_linearised_products_are_those_of_the_dense_jacobian():
    w, v, y = draw(2, 2, 3), draw(2, 2, 3, seed=1), draw(2, 3, seed=2)

    def residual(w):
        return w[:, 0] ** 2 * w[:, 1].sin()

    at = linearised(residual, w)
    for i in range(2):
        jacobian = torch.func.jacrev(lambda u: residual(u[None])[0])(w[i]).reshape(3, 6)
        torch.testing.assert_close(at.pushforward(v)[i], jacobian @ v[i].flatten())
        torch.testing.assert_close(at.pullback(y)[i].flatten(), jacobian.T @ y[i])
    torch.testing.assert_close(inner(at.pushforward(v), y), inner(v, at.pullback(y)))


def test_conjugate_gradients_do_not_mix_samples_of_which_one_is_no_number():
    A = torch.tensor([[2.0, 0.5], [3.0, 1.0]], dtype=torch.float64)
    b = torch.ones(2, 2, dtype=torch.float64)

    def solve(A, b):
        return flexible_conjugate_gradients(lambda v: A * v, lambda q: q, b, 1e-10 * norm(b), 20)

    broken = A.clone()
    broken[0] = math.nan
    found = solve(broken, b)
    assert (found[0] == 0).all()
    torch.testing.assert_close(found[1:], solve(A[1:], b[1:]))
