"""The stencils against findiff, against polynomials and against their own order of accuracy."""

import math

import numpy as np
import pytest
import torch
from findiff import Diff

from physflow.pde.stencils import derivative, product_rule

# The weights of findiff.Diff come from a floating-point Vandermonde solve; ours are the exact rational ones.
TOLERANCE = {2: 1e-12, 4: 1e-12, 6: 1e-10, 8: 1e-8}


@pytest.mark.parametrize("accuracy", TOLERANCE)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_equals_findiff(axis, order, accuracy):
    u = np.random.default_rng(0).standard_normal((14, 15, 17))
    h = 0.3
    operator = Diff(axis % 3, h, acc=accuracy) ** order
    expected = operator(u)
    found = derivative(torch.from_numpy(u), axis, order, h, accuracy).numpy()
    assert np.abs(found - expected).max() <= TOLERANCE[accuracy] * np.abs(expected).max()


@pytest.mark.parametrize("accuracy", [2, 4, 6, 8])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_exact_on_polynomials_up_to_the_degree_of_the_stencil(order, accuracy):
    degree = accuracy + order - 1
    n = 3 * accuracy + 4
    x = torch.linspace(-1, 1, n, dtype=torch.float64)
    h = 2 / (n - 1)
    expected = math.factorial(degree) / math.factorial(degree - order) * x ** (degree - order)
    torch.testing.assert_close(derivative(x**degree, 0, order, h, accuracy), expected, rtol=0, atol=1e-9 / h**order)
    assert derivative(torch.ones_like(x), 0, order, h, accuracy).abs().max() < 1e-12 / h**order


@pytest.mark.parametrize("accuracy", [2, 4, 6, 8])
@pytest.mark.parametrize("order", [1, 2])
def test_converges_at_its_order_up_to_the_ends(order, accuracy):
    def error(n):
        x = torch.linspace(0, 1, n, dtype=torch.float64)
        u = torch.sin(3 * x + 0.4)
        exact = 3 * torch.cos(3 * x + 0.4) if order == 1 else -9 * u
        return (derivative(u, 0, order, 1 / (n - 1), accuracy) - exact).abs().max().item()

    assert math.log2(error(17) / error(33)) == pytest.approx(accuracy, abs=0.4)


def test_second_order_end_stencils_are_the_published_ones():
    h = 0.5
    unit = torch.eye(8, dtype=torch.float64)
    first = derivative(unit, 0, 1, h)
    second = derivative(unit, 0, 2, h)
    torch.testing.assert_close(first[0, :4], torch.tensor([-3.0, 4, -1, 0], dtype=torch.float64) / (2 * h))
    torch.testing.assert_close(first[-1, -3:], torch.tensor([1.0, -4, 3], dtype=torch.float64) / (2 * h))
    torch.testing.assert_close(second[0, :5], torch.tensor([2.0, -5, 4, -1, 0], dtype=torch.float64) / h**2)
    torch.testing.assert_close(second[-1, -4:], torch.tensor([-1.0, 4, -5, 2], dtype=torch.float64) / h**2)


@pytest.mark.parametrize(("order", "accuracy", "least"), [(1, 2, 3), (2, 2, 4), (1, 4, 6), (2, 4, 7), (2, 8, 13)])
def test_needs_enough_points_and_says_how_many(order, accuracy, least):
    assert derivative(torch.zeros(least), 0, order, 1.0, accuracy).shape == (least,)
    with pytest.raises(ValueError, match=f"needs at least {least} points along an axis, got {least - 1} along axis 1"):
        derivative(torch.zeros(2, least - 1), 1, order, 1.0, accuracy)


@pytest.mark.parametrize("accuracy", [0, 1, 3, -2, 2.5])
def test_rejects_an_accuracy_without_stencil(accuracy):
    with pytest.raises(ValueError, match=f"accuracy must be an even whole number of at least 2, got {accuracy}"):
        derivative(torch.zeros(9), 0, 1, 1.0, accuracy)


def test_rejects_a_wrong_order_and_integers():
    with pytest.raises(ValueError, match="order of a derivative must be a whole number of at least 1, got 0"):
        derivative(torch.zeros(9), 0, 0, 1.0)
    with pytest.raises(TypeError, match=r"expected a field of real floating-point numbers, got torch\.int64"):
        derivative(torch.arange(9), 0, 1, 1.0)


def test_empty_batch_and_single_precision():
    assert derivative(torch.zeros(0, 5, 6), -1, 2, 1.0).shape == (0, 5, 6)
    assert derivative(torch.zeros(1, 5, 6, dtype=torch.float32), -2, 1, 1.0).dtype == torch.float32


def test_gradients():
    u = torch.randn(2, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: derivative(v, 1, 2, 0.5, 4), u)


def test_product_rule_is_the_divergence_of_the_flux():
    def error(n):
        x = torch.linspace(0, 1, n, dtype=torch.float64)[:, None]
        y = torch.linspace(0, 2, n + 6, dtype=torch.float64)[None, :]
        K = torch.exp(x - 0.5 * y)
        p = torch.sin(2 * x) * torch.cos(y)
        # div(K grad p) = K (lap p + grad(log K) . grad p)
        exact = K * (-5 * p + 2 * torch.cos(2 * x) * torch.cos(y) + 0.5 * torch.sin(2 * x) * torch.sin(y))
        return (product_rule(K, p, (1 / (n - 1), 2 / (n + 5))) - exact).abs().max().item()

    assert math.log2(error(33) / error(65)) == pytest.approx(2, abs=0.3)


def test_product_rule_equals_findiff_and_works_in_any_dimension():
    rng = np.random.default_rng(1)
    for shape in [(9,), (7, 9), (6, 7, 8)]:
        h = tuple(0.1 * (i + 1) for i in range(len(shape)))
        K, p = rng.uniform(1, 2, (3, *shape)), rng.standard_normal((3, *shape))
        expected = np.zeros_like(p)
        for i, step in enumerate(h, start=1):
            d = Diff(i, step)
            expected += K * (d**2)(p) + d(K) * d(p)
        found = product_rule(torch.from_numpy(K), torch.from_numpy(p), h)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
