"""Linear solves by products alone, against dense matrices."""

import pytest
import scipy.sparse.linalg
import torch

from physflow.grid import Grid
from physflow.inference.conjugate_gradients import inner
from physflow.inference.linear_solves import LinearSolve, linearised
from physflow.pde import Darcy


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
