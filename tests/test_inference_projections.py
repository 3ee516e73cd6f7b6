"""Projections: one law for all, against the pseudo-inverse; contradictions and shapes."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from physflow.inference.projections import Affine, Composed, FixedMean, FixedValues, ZeroMean

AXES = (3, 5)
N = 2 * math.prod(AXES)
"""The values of one sample: two channels."""


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def row(channel, values):
    """The row of a matrix that holds values (*axes) in one channel."""
    full = torch.zeros(2, *AXES, dtype=torch.float64)
    full[channel] = values
    return full.flatten()


POSITIVE = draw(*AXES, seed=1).abs() + 0.1
REGION = draw(*AXES, seed=2) > 0
MASK = draw(*AXES, seed=3) > 0.3
GIVEN = draw(*AXES, seed=4)
ROWS = torch.zeros(4, N, dtype=torch.float64)
ROWS[torch.arange(4).repeat_interleave(6), torch.randperm(N, generator=torch.Generator().manual_seed(5))[:24]] = draw(
    24
)
B = draw(4, seed=6)
ONES = torch.ones(*AXES, dtype=torch.float64)
POINTS = torch.stack([row(0, (torch.arange(15) == i).reshape(AXES).double()) for i in MASK.flatten().nonzero().ravel()])


def weighted(channel, weights):
    """Weights of all values: those of one channel, and ones."""
    full = torch.ones(2, *AXES, dtype=torch.float64)
    full[channel] = weights
    return full.flatten()


# The projection; the same conditions as a dense matrix and right sides; the weights of the distance.
CASES = {
    "zero mean": (ZeroMean(1), row(1, ONES / 15)[None], torch.zeros(1), torch.ones(N)),
    "zero weighted mean": (
        ZeroMean(-1, POSITIVE),
        row(1, POSITIVE / POSITIVE.sum())[None],
        torch.zeros(1),
        weighted(1, POSITIVE),
    ),
    "mean": (FixedMean(0, 0.75), row(0, ONES / 15)[None], torch.tensor([0.75]), torch.ones(N)),
    "mean of a region": (
        FixedMean(1, -2.0, POSITIVE, REGION),
        row(1, POSITIVE * REGION / (POSITIVE * REGION).sum())[None],
        torch.tensor([-2.0]),
        weighted(1, POSITIVE),
    ),
    "values": (FixedValues(0, MASK, GIVEN), POINTS, GIVEN[MASK], torch.ones(N)),
    "one value": (FixedValues(0, MASK, 0.25), POINTS, torch.full((len(POINTS),), 0.25), torch.ones(N)),
    "dense": (Affine(ROWS, B), ROWS, B, torch.ones(N)),
    "dense, weighted": (Affine(ROWS, B, weighted(0, POSITIVE)), ROWS, B, weighted(0, POSITIVE)),
    "sparse": (Affine(ROWS.to_sparse(), B), ROWS, B, torch.ones(N)),
    "sparse, weighted": (Affine(ROWS.to_sparse(), B, weighted(0, POSITIVE)), ROWS, B, weighted(0, POSITIVE)),
    "row repeated": (Affine(torch.cat((ROWS, -3 * ROWS[1:2])), torch.cat((B, -3 * B[1:2]))), ROWS, B, torch.ones(N)),
    "sums repeated": (
        Affine(torch.cat((ROWS.sum(0, True), ROWS)).to_sparse(), torch.cat((B.sum(0, True), B))),
        ROWS,
        B,
        torch.ones(N),
    ),
    "no rows": (Affine(ROWS[:0], B[:0]), ROWS[:0], B[:0], torch.ones(N)),
    "rows of zeros": (Affine(0 * ROWS[:2], 0 * B[:2]), ROWS[:0], B[:0], torch.ones(N)),
    "all unknowns": (Affine(torch.eye(N), draw(N)), torch.eye(N), draw(N), torch.ones(N)),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    projection, A, b, w = request.param
    return projection, A.double(), b.double(), w.double()


def test_nearest_point(case):
    """Against the pseudo-inverse of scaled values, by a singular value decomposition."""
    projection, A, b, w = case
    u = draw(4, 2, *AXES, seed=7)
    flat = u.flatten(1).numpy()
    root = w.sqrt().numpy()
    inverse = np.linalg.pinv(A.numpy() / root) if len(A) else np.zeros((N, 0))
    expected = flat + (b.numpy() - flat @ A.numpy().T) @ inverse.T / root
    np.testing.assert_allclose(projection(u).flatten(1).numpy(), expected, rtol=0, atol=1e-12)


def test_the_constraint_is_met_to_rounding_and_kept(case):
    projection, A, b, _ = case
    once = projection(draw(3, 2, *AXES, seed=8))
    torch.testing.assert_close(once.flatten(1) @ A.mT, b.expand(3, -1), rtol=0, atol=2e-15 * N)
    torch.testing.assert_close(projection(once), once, rtol=0, atol=2e-15 * N)


def test_the_way_is_orthogonal_to_the_feasible_directions(case):
    projection, A, _, w = case
    u = draw(3, 2, *AXES, seed=9)
    free = torch.from_numpy(scipy.linalg.null_space(A.numpy())) if len(A) else torch.eye(N, dtype=torch.float64)
    way = (projection(u) - u).flatten(1)
    assert (len(A) == 0) == bool((way == 0).all())
    assert ((w * way) @ free).abs().max() < 1e-13 if free.numel() else len(A) == N


def test_samples_do_not_depend_on_their_neighbours(case):
    projection = case[0]
    u = draw(5, 2, *AXES)
    torch.testing.assert_close(projection(u)[2:3], projection(u[2:3]), rtol=0, atol=1e-14)


def test_types_and_empty_batches(case):
    projection = case[0]
    u = draw(2, 2, *AXES, dtype=torch.float32)
    assert projection(u).dtype == torch.float32
    # Computed in float64 and rounded once, to the last bit.
    assert torch.equal(projection(u), projection(u.double()).float())
    assert projection(u[:0]).shape == u[:0].shape
    assert torch.equal(u, draw(2, 2, *AXES, dtype=torch.float32)), "the given fields were written over"


def test_right_sides_of_each_sample():
    u = draw(2, 2, *AXES)
    values, b = draw(2, *AXES, seed=11), draw(2, 4, seed=12)
    torch.testing.assert_close(FixedValues(1, MASK, values)(u)[:, 1][:, MASK], values[:, MASK])
    torch.testing.assert_close(Affine(ROWS, b)(u).flatten(1) @ ROWS.mT, b)
    means = FixedMean(0, torch.tensor([1.0, 2.0]))(u)[:, 0].flatten(1).mean(1)
    torch.testing.assert_close(means, torch.tensor([1.0, 2.0], dtype=torch.float64))


def test_what_the_mask_leaves_out_is_neither_read_nor_written():
    u = draw(2, 2, *AXES)
    fixed = FixedValues(0, MASK, torch.where(MASK, GIVEN, torch.nan))(u)
    assert torch.equal(fixed[:, 0][:, ~MASK], u[:, 0][:, ~MASK])
    assert torch.equal(fixed[:, 1], u[:, 1])


def test_gradients_pass_through():
    """The projection is linear: its derivative is itself without the right side."""
    u = draw(1, 2, *AXES).requires_grad_()
    direction, seen = draw(1, 2, *AXES, seed=1), draw(1, 2, *AXES, seed=2)
    for projection, homogeneous in ((Affine(ROWS, B), Affine(ROWS, 0 * B)), (FixedMean(0, 3.0), ZeroMean(0))):
        (gradient,) = torch.autograd.grad(projection(u), u, seen)
        torch.testing.assert_close((gradient * direction).sum(), (seen * homogeneous(direction)).sum())


def test_composition_applies_in_order():
    u = draw(2, 2, *AXES)
    values = FixedValues(0, MASK, 1.0)
    composed = Composed(ZeroMean(0), ZeroMean(1), values)(u)
    assert torch.equal(composed, values(ZeroMean(1)(ZeroMean(0)(u))))
    assert (composed[:, 0][:, MASK] == 1).all()
    assert composed[:, 1].flatten(1).mean(1).abs().max() < 1e-15
    assert torch.equal(Composed()(u), u)


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_rows_that_contradict_each_other(layout):
    def affine(matrix, b):
        return Affine(matrix if layout == "dense" else matrix.to_sparse(), b)

    with pytest.raises(ValueError, match=r"row [14] of the matrix is a combination .* average repeated observations"):
        affine(torch.cat((ROWS, 2 * ROWS[1:2])), torch.cat((B, B[1:2])))
    tall = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match="3 conditions on 2 values, more observations than unknowns: row"):
        affine(tall, torch.tensor([1.0, 1.0, 3.0]))
    with pytest.raises(ValueError, match="row 1 of the matrix is zero but its right side is not"):
        affine(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([1.0, 1.0]))
    # One sample of several is enough.
    with pytest.raises(ValueError, match="combination of other rows"):
        affine(tall, torch.tensor([[1.0, 1.0, 2.0], [1.0, 1.0, 2.1]]))


def test_more_conditions_than_unknowns_that_agree():
    tall, point = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([[[2.0], [3.0]]])
    assert torch.equal(Affine(tall, torch.tensor([2.0, 3.0, 5.0]))(torch.zeros(1, 2, 1)), point)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FixedMean(0, 1.0, -ONES), ValueError, "expected positive weights, the smallest is -1"),
        (lambda: FixedMean(0, 1.0, region=ONES), TypeError, "expected a boolean region, got torch.float64"),
        (lambda: FixedMean(0, 1.0, region=ONES < 0), ValueError, "region of at least one point, it is empty"),
        (lambda: FixedMean(0, torch.ones(2, 2)), ValueError, r"one mean, or one for each sample, got shape \(2, 2\)"),
        (lambda: FixedMean(0, torch.ones(3))(draw(2, 2, *AXES)), ValueError, "each of the 2 samples, got 3"),
        (
            lambda: ZeroMean(0, torch.ones(5, 3))(draw(1, 2, *AXES)),
            ValueError,
            r"weights of the shape \(3, 5\) of the axes, got \(5, 3\)",
        ),
        (lambda: FixedValues(0, ONES, 1.0), TypeError, "boolean mask, got torch.float64.*mask > 0"),
        (lambda: FixedValues(0, MASK, math.nan), ValueError, "expected finite values wherever the mask is true"),
        (lambda: FixedValues(0, MASK, torch.ones(5, 3)), ValueError, r"shape \(3, 5\) or .* got \(5, 3\)"),
        (lambda: FixedValues(0, MASK, 1.0)(draw(1, 2, 5, 3)), ValueError, r"mask of the shape \(5, 3\)"),
        (
            lambda: FixedValues(0, MASK, torch.ones(3, *AXES))(draw(2, 2, *AXES)),
            ValueError,
            "values for each of the 2 samples, got those of 3",
        ),
        (lambda: Affine(ROWS, B[:3]), ValueError, r"right sides \(conditions,\) or .* got \(4, 30\) and \(3,\)"),
        (lambda: Affine(ROWS * math.nan, B), ValueError, "found NaN or infinity"),
        (lambda: Affine(ROWS, B, torch.zeros(N)), ValueError, "expected 30 positive weights, one for each column"),
        (lambda: Affine(ROWS, draw(3, 4))(draw(2, 2, *AXES)), ValueError, "each of the 2 samples, got those of 3"),
        (lambda: Affine(ROWS, B)(draw(1, 2, 3, 4)), ValueError, r"30 columns, but .* \(2, 3, 4\) have 24 values"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
