"""Toy distributions: samples against density, moments, scores, closed forms, bad input."""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from physflow.data.toys import Checkerboard, GaussianMixture, Moons, four_gaussians, ring, triangle, two_modes


def tilted():
    """Three unequal components in the plane, none of them round."""
    roots = torch.tensor([[[0.6, 0.0], [0.3, 0.4]], [[0.5, 0.0], [-0.2, 0.7]], [[0.8, 0.0], [0.1, 0.3]]]).double()
    means = torch.tensor([[2.0, 0.5], [-1.5, 1.0], [0.0, -2.0]])
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), means, roots @ roots.mT)


# Each with the half width of a box around the origin that holds all but a millionth of it.
MIXTURES = {
    "tilted": (tilted(), 5.5),
    "triangle": (triangle(), 2.5),
    "four gaussians": (four_gaussians(), 2.0),
    "ring": (ring(), 1.5),
    "inner ring": (ring(radius=1 / 3), 0.7),
    "seven, wide": (ring(n=7, radius=2.0, std=0.7), 6.0),
    "two modes": (two_modes(), 2.0),
    "one on the line": (triangle(modes=1, dimension=1), 1.0),
    "three dimensions": (triangle(modes=2, dimension=3, std=0.5), 3.5),
}
OTHERS = {
    "checkerboard": (Checkerboard(), 2.0),
    "odd checkerboard": (Checkerboard(squares=3, side=0.5), 0.75),
    "one square": (Checkerboard(squares=1), 0.5),
    "moons": (Moons(), 3.0),
    "wide moons": (Moons(std=0.5), 5.0),
}
TOYS = {**MIXTURES, **OTHERS}


def cases(toys):
    return {"argvalues": toys.values(), "ids": toys.keys()}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def midpoints(dimension, half_width, n):
    """The centres (n^d, d) of the cells of a box, and the volume of a cell."""
    axis = (torch.arange(n, dtype=torch.float64) + 0.5) * (2 * half_width / n) - half_width
    return torch.cartesian_prod(*[axis] * dimension).reshape(-1, dimension), (2 * half_width / n) ** dimension


# Along an axis; the squares of every checkerboard here and the coarse cells of the chi-square test divide them.
CELLS = {1: 4000, 2: 168, 3: 48}


@pytest.mark.parametrize(("toy", "half_width"), **cases(TOYS))
class TestEveryToy:
    def test_the_density_integrates_to_one_and_to_its_moments(self, toy, half_width):
        points, volume = midpoints(toy.dimension, half_width, CELLS[toy.dimension])
        mass = toy.log_density(points).exp() * volume
        assert abs(mass.sum() - 1) < 2e-6
        torch.testing.assert_close(mass @ points, toy.mean, atol=1e-4, rtol=0)
        second = torch.einsum("n,ni,nj->ij", mass, points - toy.mean, points - toy.mean)
        torch.testing.assert_close(second, toy.covariance, atol=1e-3, rtol=0)

    def test_samples_follow_the_density(self, toy, half_width):
        """Chi-square over the coarse cells of the box, their expected numbers from the density on fine cells."""
        n, coarse, fine = 20_000, 8, CELLS[toy.dimension] // 8
        d = toy.dimension
        points, volume = midpoints(d, half_width, coarse * fine)
        mass = toy.log_density(points).exp() * volume
        expected = mass.reshape([coarse, fine] * d).sum(tuple(range(1, 2 * d, 2))).flatten() * n
        x = toy.sample(n, seeded(1))
        cells = torch.floor((x + half_width) * (coarse / (2 * half_width))).clamp(0, coarse - 1).long()
        index = sum(cells[:, i] * coarse ** (d - 1 - i) for i in range(d))
        counts = torch.bincount(index, minlength=coarse**d).double()
        often = expected > 5
        # What is rare goes into one cell of its own.
        counts = torch.cat((counts[often], counts[~often].sum(0, keepdim=True)))
        expected = torch.cat((expected[often], n - expected[often].sum(0, keepdim=True)))
        kept = expected > 1e-3
        assert counts[~kept].sum() == 0
        statistic = ((counts - expected)[kept] ** 2 / expected[kept]).sum().item()
        assert scipy.stats.chi2.sf(statistic, max(1, int(kept.sum()) - 1)) > 1e-3

    def test_moments_of_samples(self, toy, half_width):
        n = 20_000
        x = toy.sample(n, seeded(2))
        products = (x - toy.mean)[:, :, None] * (x - toy.mean)[:, None, :]
        assert ((x.mean(0) - toy.mean).abs() < 4.5 * x.std(0) / n**0.5).all()
        assert ((products.mean(0) - toy.covariance).abs() < 4.5 * products.std(0) / n**0.5).all()

    def test_samples_depend_on_the_generator_alone(self, toy, half_width):
        state = torch.get_rng_state()
        first, again, other = (toy.sample(9, seeded(s)) for s in (3, 3, 4))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(toy.sample(9, seeded(3), dtype=torch.float32), first.float())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("n", [0, 1, 3])
    def test_shapes_and_types(self, toy, half_width, n, dtype):
        x = toy.sample(n, seeded(), dtype=dtype)
        log_p = toy.log_density(x)
        assert x.shape == (n, toy.dimension)
        assert log_p.shape == (n,)
        assert x.dtype == log_p.dtype == dtype
        torch.testing.assert_close(log_p, toy.log_density(x.double()).to(dtype), rtol=0, atol=0)

    def test_bad_points_and_numbers(self, toy, half_width):
        d = toy.dimension
        with pytest.raises(ValueError, match=r"number of points that is not negative, got n = -1"):
            toy.sample(-1, seeded())
        with pytest.raises(ValueError, match=rf"points of shape \(batch, {d}\), got \(5, {d + 1}\)"):
            toy.log_density(torch.zeros(5, d + 1))
        with pytest.raises(ValueError, match=rf"points of shape \(batch, {d}\), got \({d},\)"):
            toy.log_density(torch.zeros(d))


@pytest.mark.parametrize(("toy", "half_width"), **cases(MIXTURES))
class TestEveryMixture:
    def test_density_agrees_with_scipy(self, toy, half_width):
        x = toy.sample(50, seeded())
        parts = [
            w.item() * scipy.stats.multivariate_normal(m.numpy(), c.numpy()).pdf(x.numpy()).reshape(-1)
            for w, m, c in zip(toy.weights, toy.means, toy.covariances, strict=True)
        ]
        torch.testing.assert_close(toy.log_density(x).exp(), torch.from_numpy(sum(parts)), rtol=1e-11, atol=0)
        expected = torch.from_numpy(sum(parts))
        for k, part in enumerate(parts):
            share = torch.from_numpy(part) / expected
            torch.testing.assert_close(toy.responsibilities(x)[:, k], share, rtol=1e-9, atol=1e-12)

    def test_score_is_the_gradient_of_the_log_density(self, toy, half_width):
        x = (
            half_width * (2 * torch.rand(40, toy.dimension, generator=seeded(), dtype=torch.float64) - 1)
        ).requires_grad_()
        gradient = torch.autograd.grad(toy.log_density(x).sum(), x)[0]
        torch.testing.assert_close(toy.score(x), gradient, rtol=1e-9, atol=1e-9)
        assert toy.score(x.float()).dtype == torch.float32
        assert toy.score(x[:0]).shape == (0, toy.dimension)

    def test_components_occur_as_often_as_their_weights(self, toy, half_width):
        assert toy.weights.dtype == torch.float64
        assert abs(toy.weights.sum() - 1) < 1e-14
        assert toy.modes.shape == (len(toy.weights), toy.dimension)
        x = toy.sample(10_000, seeded(5))
        shares = toy.responsibilities(x)
        assert ((shares.mean(0) - toy.weights).abs() < 4 * shares.std(0) / 100 + 1e-12).all()


def test_the_line_agrees_with_kolmogorov_and_smirnov():
    x = two_modes().sample(5000, seeded())[:, 0]

    def distribution(y):
        return (scipy.stats.norm.cdf(y, -1, 0.1) + scipy.stats.norm.cdf(y, 1, 0.1)) / 2

    assert scipy.stats.kstest(x.numpy(), distribution).pvalue > 1e-3


def test_triangle_is_the_product_of_one_law():
    line, plane = triangle(dimension=1), triangle()
    x = plane.sample(20, seeded())
    torch.testing.assert_close(plane.log_density(x), line.log_density(x[:, :1]) + line.log_density(x[:, 1:]))
    assert len(plane.weights) == 16
    torch.testing.assert_close(line.weights, torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))
    assert (plane.weights.min(), plane.weights.max()) == pytest.approx((0.01, 0.16))


def test_rings_have_their_radius_and_their_symmetry():
    for radius in (1 / 3, 1.0):
        toy = ring(radius=radius)
        torch.testing.assert_close(toy.modes.norm(dim=1), torch.full((6,), radius, dtype=torch.float64))
        turn = torch.tensor([[0.5, -(3**0.5) / 2], [3**0.5 / 2, 0.5]], dtype=torch.float64)
        x = toy.sample(20, seeded())
        torch.testing.assert_close(toy.log_density(x @ turn.T), toy.log_density(x))
        torch.testing.assert_close(toy.mean, torch.zeros(2, dtype=torch.float64), atol=1e-15, rtol=0)
        round_ = (radius**2 / 2 + 0.05**2) * torch.eye(2, dtype=torch.float64)
        torch.testing.assert_close(toy.covariance, round_)


def test_four_gaussians_stand_in_the_corners():
    expected = set(itertools.product((-2.0, 2.0), repeat=2))
    assert {tuple(m) for m in four_gaussians(distance=2.0).modes.tolist()} == expected


def test_weights_given_in_float32_become_exact():
    toy = GaussianMixture(torch.full((10,), 0.1), torch.zeros(10, 1), torch.ones(10, 1, 1))
    assert toy.weights.sum().item() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": [0.5, 0.6]}, r"weights of sum one, got a sum of 1.1; divide"),
        ({"weights": [1.5, -0.5]}, r"positive weights, got \[1.5, -0.5\]; leave out"),
        ({"weights": [1.0, 0.0]}, r"positive weights, got \[1.0, 0.0\]; leave out"),
        ({"weights": [math.nan, 1.0]}, "positive weights, got"),
        ({"weights": [1.0]}, r"one weight for each of 2 means, shape \(2,\), got \(1,\)"),
        ({"means": [[0.0], [1.0]]}, r"in 1 dimensions, shape \(2, 1, 1\), got \(2, 2, 2\)"),
        ({"means": [0.0, 1.0]}, r"means of shape \(K, d\), K and d at least one, got \(2,\)"),
        ({"means": [[math.inf, 0.0], [1.0, 0.0]]}, "expected finite means"),
        ({"covariances": [[[1.0, 0.0], [0.0, 1.0]]] * 3}, r"shape \(2, 2, 2\), got \(3, 2, 2\)"),
        (
            {"covariances": [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]]},
            "positive definite covariances, but the smallest eigenvalue of component 1 is -1",
        ),
        ({"covariances": [[[0.0, 0.0], [0.0, 0.0]]] * 2}, "smallest eigenvalue of component 0 is 0"),
        ({"covariances": [[[1.0, 0.5], [0.0, 1.0]]] * 2}, "symmetric covariances, but that of component 0 is"),
        ({"covariances": [[[math.nan, 0.0], [0.0, 1.0]]] * 2}, "component 0 holds nan or infinity"),
    ],
)
def test_bad_mixtures(changed, message):
    given = {"weights": [0.5, 0.5], "means": [[0.0, 0.0], [1.0, 0.0]], "covariances": [[[1.0, 0.0], [0.0, 1.0]]] * 2}
    tensors = {name: torch.tensor(value) for name, value in (given | changed).items()}
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**tensors)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ring(n=0), "n of at least one, got 0"),
        (lambda: ring(radius=0.0), "positive, finite radius, got 0.0"),
        (lambda: triangle(dimension=0), "dimension of at least one, got 0"),
        (lambda: triangle(std=-1.0), "positive, finite std, got -1.0"),
        (lambda: four_gaussians(distance=math.inf), "positive, finite distance, got inf"),
        (lambda: two_modes(std=math.nan), "positive, finite std, got nan"),
        (lambda: Checkerboard(squares=0), "at least one square .* squares = 0"),
        (lambda: Checkerboard(side=0.0), "positive side of the squares, got side = 0.0"),
        (lambda: Moons(std=0.0), "positive std, without which there is no density, got std = 0.0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("squares", [1, 2, 3, 4, 5])
def test_checkerboard_fills_every_other_square(squares):
    board = Checkerboard(squares, side=0.5)
    filled = -(-(squares**2) // 2)
    assert len(board.modes) == len(board.weights) == filled
    points, _ = midpoints(2, squares / 4, squares)
    density = board.log_density(points).exp().reshape(squares, squares)
    corner = torch.arange(squares)
    even = (corner[:, None] + corner) % 2 == 0
    expected = torch.where(even, 1 / (filled * 0.25), 0.0).double()
    torch.testing.assert_close(density, expected)
    assert (board.log_density(board.sample(500, seeded())) > -math.inf).all()
    outside = torch.tensor([[squares / 4 + 0.1, 0.1], [0.1, -squares / 4 - 0.1]], dtype=torch.float64)
    assert board.log_density(outside).tolist() == [-math.inf] * 2


def moons_log_density(x, y, std):
    """By adaptive quadrature over the angle, piece by piece around the nearest point of each arc."""
    arcs = (lambda a: (np.cos(a), np.sin(a)), lambda a: (1 - np.cos(a), 0.5 - np.sin(a)))
    angles = np.linspace(0, np.pi, 2001)
    squares = [(x - arc(angles)[0]) ** 2 + (y - arc(angles)[1]) ** 2 for arc in arcs]
    least, total = min(map(np.min, squares)), 0.0

    def integrand(a, arc):
        return math.exp(-((x - arc(a)[0]) ** 2 + (y - arc(a)[1]) ** 2 - least) / (2 * std**2))

    for arc, distances in zip(arcs, squares, strict=True):
        # Both ends may be as near as each other.
        marks = {0.0, math.pi} | {
            a + k * std / 2 for a in (angles[distances.argmin()], 0, np.pi) for k in range(-16, 17)
        }
        for low, high in itertools.pairwise(sorted(a for a in marks if 0 <= a <= math.pi)):
            total += scipy.integrate.quad(integrand, low, high, args=(arc,), epsabs=1e-15, epsrel=1e-12)[0]
    return math.log(total / (2 * math.pi)) - math.log(2 * math.pi * std**2) - least / (2 * std**2)


@pytest.mark.parametrize("std", [0.01, 0.1, 0.5, 3.0])
def test_the_density_of_moons_is_as_accurate_as_documented(std):
    anywhere = 4.2 * torch.rand(12, 2, generator=seeded(), dtype=torch.float64) - 2.1
    special = torch.tensor([[3.0, 0.0], [0.0, -3.0], [0.0, 0.0], [1.0, 0.5], [0.0, -0.3], [-1.0, 0.0]])
    points = torch.cat((anywhere, Moons(std).sample(6, seeded()), special))
    expected = torch.tensor([moons_log_density(x, y, std) for x, y in points.tolist()], dtype=torch.float64)
    torch.testing.assert_close(Moons(std).log_density(points), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("std", [0.05, 0.5])
def test_the_density_of_moons_has_a_gradient(std):
    x = torch.cat((Moons(std).sample(20, seeded()), torch.tensor([[0.5, -2.0], [2.0, 2.0]]))).requires_grad_()
    toy, h = Moons(std), 1e-5
    gradient = torch.autograd.grad(toy.log_density(x).sum(), x)[0]
    for i in range(2):
        e = h * torch.eye(2, dtype=torch.float64)[i]
        difference = (toy.log_density(x + e) - toy.log_density(x - e)) / (2 * h)
        torch.testing.assert_close(gradient[:, i], difference, rtol=1e-5, atol=1e-5)


def test_the_density_of_moons_does_not_depend_on_the_blocks(monkeypatch):
    toy = Moons(std=0.3)
    x = toy.sample(11, seeded())
    whole = toy.log_density(x)
    monkeypatch.setattr("physflow.data.toys.moons._BLOCK", 3)
    torch.testing.assert_close(toy.log_density(x), whole, rtol=1e-14, atol=1e-14)
