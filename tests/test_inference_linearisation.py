"""Linearisations: products with the Jacobian, solvers that are differentiable once, and modes without autograd."""

import contextlib

import pytest
import torch

from physflow.inference.linearisation import Linearisation
from physflow.pde.adjoint import implicit_solve

MATRIX = torch.tensor([[2.0, -1.0, 0.3], [0.1, 1.0, 4.0]], dtype=torch.float64)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def smooth(x):
    return torch.sin(x @ MATRIX.to(x).T) * x.square().sum(1, keepdim=True)


def smooth_jacobian(x):
    return torch.stack([torch.autograd.functional.jacobian(lambda v: smooth(v[None])[0], item) for item in x])


def diffusion(x):
    """(diag(exp x) + L) p = 1 by a solver with an adjoint."""
    L = torch.tensor([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]], dtype=x.dtype)

    def matrix(x):
        return torch.diag_embed(x.exp()) + L

    def solve(x):
        return torch.linalg.solve(matrix(x), torch.ones_like(x))

    def adjoint(g, x):
        return torch.linalg.solve(matrix(x).mT, g)

    def residual(x, p):
        return 1 - (matrix(x) @ p[..., None])[..., 0]

    return implicit_solve(solve, adjoint, residual, x)


def diffusion_jacobian(x):
    L = torch.tensor([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]], dtype=torch.float64)
    inverse = torch.linalg.inv(torch.diag_embed(x.exp()) + L)
    return -inverse @ torch.diag_embed(x.exp() * inverse.sum(2))


@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("batch", [0, 1, 4])
def test_products_are_those_with_the_jacobian(mode, batch):
    x, J = draw(batch, 3), smooth_jacobian(draw(batch, 3)) if batch else torch.zeros(0, 2, 3, dtype=torch.float64)
    with mode():
        f = Linearisation(smooth, x * 1)
        w, delta = draw(batch, 2, seed=1) * 1, draw(batch, 3, seed=2) * 1
        assert not f.value.requires_grad
        for _ in range(2):
            pulled, pushed = f.pullback(w), f.pushforward(delta)
    torch.testing.assert_close(f.value, smooth(x))
    torch.testing.assert_close(pulled, torch.einsum("bij,bi->bj", J, w), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pushed, torch.einsum("bij,bj->bi", J, delta), rtol=1e-12, atol=1e-12)
    assert not pulled.requires_grad
    assert not pushed.requires_grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 2e-3)])
def test_a_solver_is_pushed_forward_by_differences(dtype, tolerance):
    x, delta = draw(4, 3), 1e-6 * draw(4, 3, seed=2)
    f = Linearisation(diffusion, x.to(dtype))
    J = diffusion_jacobian(x)
    pulled = f.pullback(draw(4, 3, dtype=dtype)).double()
    torch.testing.assert_close(pulled, torch.einsum("bij,bi->bj", J, x), rtol=1e-4, atol=1e-6)
    expected = torch.einsum("bij,bj->bi", J, delta)
    for _ in range(2):
        found = f.pushforward(delta.to(dtype)).double()
        assert (found - expected).norm() < tolerance * expected.norm()
    assert (f.pushforward(torch.zeros(4, 3, dtype=dtype)) == 0).all()


def test_a_solver_beside_other_operations_is_not_lost():
    x, delta = draw(4, 3), draw(4, 3, seed=2)
    f = Linearisation(lambda x: torch.cat((diffusion(x).sin(), x + diffusion(x)), dim=1), x)
    J, p = diffusion_jacobian(x), diffusion(x)
    along = torch.einsum("bij,bj->bi", J, delta)
    expected = torch.cat((p.cos() * along, delta + along), dim=1)
    torch.testing.assert_close(f.pushforward(delta), expected, rtol=1e-6, atol=1e-7)


def test_differences_start_at_zero_too():
    x, delta = torch.zeros(2, 3, dtype=torch.float64), draw(2, 3)
    expected = torch.einsum("bij,bj->bi", diffusion_jacobian(x), delta)
    torch.testing.assert_close(Linearisation(diffusion, x).pushforward(delta), expected, rtol=1e-6, atol=1e-9)


def test_other_errors_of_the_function_are_not_swallowed():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        Linearisation(Broken.apply, draw(1, 2)).pushforward(draw(1, 2))


@pytest.mark.parametrize("function", [lambda x: x.detach(), lambda x: torch.from_numpy(x.detach().numpy()) + 1])
def test_a_function_without_derivative_is_refused(function):
    with pytest.raises(
        ValueError, match=r"differentiable function, but its result does not depend .* was the result detached"
    ):
        Linearisation(function, draw(2, 3))
