"""Observation operators: their matrices, derivatives, items, shapes, and the wording of errors."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
import torch

from physflow.inference.operators import Coarse, Function, Linear, Masked, Stacked
from physflow.inference.points import Points

SHAPE = (6, 4)
AXES = (np.linspace(0, 1, 6), np.array([0.0, 0.1, 0.5, 2.0]))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask():
    return draw(*SHAPE, seed=5) > 0.3


LINEAR = {
    "points": Points(1, AXES, [[0.03, 0.3], [1.0, 2.0], [0.5, 0.0]]),
    "masked": Masked(0, mask()),
    "dense": Linear(draw(3, 48)),
    "array": Linear(draw(3, 48).numpy()),
    "scipy": Linear(scipy.sparse.random_array((5, 48), density=0.2, rng=np.random.default_rng(0), format="csr")),
    "sparse": Linear(torch.eye(48, dtype=torch.float64)[::5].to_sparse()),
    "coarse": Coarse(1, (3, 2)),
    "stacked": Stacked(Masked(0, mask()), Coarse(1, 2), Linear(draw(2, 48))),
}
LOG = {
    "points": Points(1, AXES, [[0.03, 0.3], [1.0, 2.0]], log=True),
    "masked": Masked(1, mask(), log=True),
    "coarse": Coarse(1, 2, log=True),
}
NONLINEAR = {**LOG, "function": Function(lambda u: u.square().sum((2, 3)))}


def matrix_of(operator):
    basis = torch.eye(48, dtype=torch.float64).reshape(48, 2, *SHAPE)
    return operator(basis).T


@pytest.mark.parametrize("operator", LINEAR.values(), ids=LINEAR)
def test_linear_operators_are_their_matrix(operator):
    u = draw(3, 2, *SHAPE)
    torch.testing.assert_close(operator(u), u.flatten(1) @ matrix_of(operator).T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", [*LINEAR.values(), *NONLINEAR.values()], ids=[*LINEAR, *NONLINEAR])
def test_derivatives_are_those_of_differences_twice_over(operator):
    u = draw(2, 2, *SHAPE).abs().add(0.5).requires_grad_()
    assert torch.autograd.gradcheck(operator, (u,))
    assert torch.autograd.gradgradcheck(operator, (u,))


@pytest.mark.parametrize("operator", [*LINEAR.values(), *NONLINEAR.values()], ids=[*LINEAR, *NONLINEAR])
def test_items_sizes_and_precision(operator):
    u = draw(4, 2, *SHAPE).abs() + 0.5
    read = operator(u)
    assert read.shape == (4, operator.size or read.shape[1])
    torch.testing.assert_close(operator(u[2:3]), read[2:3], rtol=1e-14, atol=1e-14)
    assert operator(u.float()).dtype == torch.float32
    torch.testing.assert_close(operator(u.float()).double(), read, rtol=1e-5, atol=1e-5)
    assert operator(u[:0]).shape == (0, read.shape[1])


@pytest.mark.parametrize("name", LOG)
def test_the_logarithm_is_that_of_the_field(name):
    u = draw(3, 2, *SHAPE).abs() + 0.5
    plain = {"points": Points(1, AXES, [[0.03, 0.3], [1.0, 2.0]]), "masked": Masked(1, mask()), "coarse": Coarse(1, 2)}
    torch.testing.assert_close(LOG[name](u), plain[name](u.log()), rtol=1e-14, atol=0)
    u[1, 1, 0, 0] = -0.25
    with pytest.raises(ValueError, match=r"logarithm of channel 1 is observed.* smallest value is -0.25; map samples"):
        LOG[name](u)


def test_a_mask_reads_in_the_order_of_indexing():
    u = draw(2, 2, *SHAPE)
    assert torch.equal(Masked(1, mask())(u), torch.stack([item[mask()] for item in u[:, 1]]))


@pytest.mark.parametrize(("shape", "factor"), [((6, 4), (3, 2)), ((9,), 3), ((2, 4, 6), 2), ((5, 7), 1)])
def test_block_means_agree_with_scipy(shape, factor):
    u = draw(2, 1, *shape)
    factors = factor if isinstance(factor, tuple) else (factor,) * len(shape)
    places = np.indices(shape)
    coarse = [n // k for n, k in zip(shape, factors, strict=True)]
    blocks = np.ravel_multi_index([i // k for i, k in zip(places, factors, strict=True)], coarse)
    expected = [scipy.ndimage.mean(item[0].numpy(), blocks, np.arange(np.prod(coarse))) for item in u]
    np.testing.assert_allclose(Coarse(0, factor)(u), expected, rtol=1e-12)


def test_stacked_operators_come_one_after_another():
    u = draw(2, 2, *SHAPE)
    operator = Stacked(LINEAR["masked"], LINEAR["dense"])
    assert operator.size == LINEAR["masked"].size + 3
    assert torch.equal(operator(u), torch.cat((LINEAR["masked"](u), LINEAR["dense"](u)), dim=1))
    assert Stacked(Coarse(0, 2), LINEAR["dense"]).size is None
    assert repr(Stacked(LINEAR["dense"], LINEAR["points"])) == "Stacked(Linear(3 x 48), Points(channel=1, 3 sensors))"


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (Masked(2, mask()), r"\(batch, channel, \*axes\) with a channel 2, got \(1, 2, 6, 4\)"),
        (Masked(0, mask().T), r"on the mask's grid of \(4, 6\), got \(6, 4\)"),
        (Linear(draw(3, 47)), r"expected 47 numbers an item.* \(1, 2, 6, 4\) with 48"),
        (Coarse(0, 4), r"blocks of \(4, 4\) points do not divide a grid of \(6, 4\)"),
        (
            Coarse(0, (2,)),
            r"blocks of \(2,\) points do not divide a grid of \(6, 4\); expected one factor for each axis",
        ),
        (
            Points(0, AXES[::-1], [[0.1, 0.1]]),
            r"on the grid of \(4, 6\) points of the sensors' coordinates, got \(6, 4\)",
        ),
        (Function(lambda u: u), r"return shape \(1, m\), one row for each item, got \(1, 2, 6, 4\)"),
        (Function(lambda u: u.flatten(1), 5), r"return shape \(1, 5\), one row for each item, got \(1, 48\)"),
    ],
)
def test_fields_that_do_not_fit(operator, message):
    with pytest.raises(ValueError, match=message):
        operator(draw(1, 2, *SHAPE))


def test_impossible_operators():
    with pytest.raises(ValueError, match=r"mask of booleans, true at the observed points, got one of torch.float64"):
        Masked(0, mask().double())
    with pytest.raises(ValueError, match=r"mask of shape \(3,\) chooses no point"):
        Masked(0, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"shape \(m, n\), one row a sensor, got \(3,\)"):
        Linear(draw(3))
    with pytest.raises(ValueError, match="matrix of finite numbers, some are NaN or infinite"):
        Linear(torch.full((1, 2), torch.nan))
    for factor in (0, (2, 1.5)):
        with pytest.raises(ValueError, match="factor of a block must be a whole number of at least 1"):
            Coarse(0, factor)
    with pytest.raises(ValueError, match="at least one operator to stack, got none"):
        Stacked()
