"""Precision, recall, density, coverage: scikit-learn, exact means of equal laws, laws that fail in one way, errors."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from physflow.metrics import Support, points, support

NAMES = ("precision", "recall", "density", "coverage")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def values(found):
    return [getattr(found, name) for name in NAMES]


def balls(centres, others, k):
    """Which of the others (columns) lie in the ball of which centre (rows)."""
    distances, _ = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(centres).kneighbors(centres)
    inside = np.zeros((len(centres), len(others)), dtype=bool)
    search = NearestNeighbors(algorithm="brute").fit(others)
    for i, radius in enumerate(distances[:, k]):
        inside[i, search.radius_neighbors(centres[i : i + 1], radius, return_distance=False)[0]] = True
    return inside


@pytest.mark.parametrize("entries", [60, 2**22])
@pytest.mark.parametrize(("m", "n", "d", "k", "components"), [(20, 30, 3, 5, 2), (40, 12, 6, 1, 6), (7, 9, 20, 3, 4)])
def test_agrees_with_a_search_by_scikit_learn(monkeypatch, entries, m, n, d, k, components):
    monkeypatch.setattr(points, "_ENTRIES", entries)
    scale = torch.arange(1, d + 1, dtype=torch.float64)
    x, y = 0.8 * scale * normal(m, d) + 0.5, scale * normal(n, d, seed=1)
    pca = PCA(components).fit(y.numpy())
    u, v = pca.transform(x.numpy()), pca.transform(y.numpy())
    of_data, of_samples = balls(v, u, k), balls(u, v, k)
    expected = [of_data.any(0).mean(), of_samples.any(0).mean(), of_data.sum(0).mean() / k, of_data.any(1).mean()]
    assert values(support(x, y, k, components)) == pytest.approx(expected)
    assert min(expected) > 0


@pytest.mark.parametrize(("m", "n", "k"), [(60, 60, 5), (30, 80, 3), (90, 40, 1)])
def test_samples_of_the_law_have_the_means_that_no_law_changes(m, n, k):
    """Over 200 draws, within four standard errors; for as many of both, precision and recall are alike.

    Both components are kept, so that distances are those of the points.
    """
    found = np.array(
        [values(support(normal(m, 2, seed=2 * i).exp(), normal(n, 2, seed=2 * i + 1).exp(), k, 2)) for i in range(200)]
    )
    mean, error = found.mean(0), found.std(0, ddof=1) / 200**0.5
    assert abs(mean[2] - 1) < 4 * error[2]
    assert abs(mean[3] - (1 - math.comb(n - 1, k) / math.comb(n + m - 1, k))) < 4 * error[3]
    if m == n:
        assert abs(mean[0] - mean[1]) < 4 * math.hypot(error[0], error[1])


def test_components_of_further_data_have_no_bias_and_those_of_the_data_have():
    """In 8 of 20 dimensions, over 200 draws, within four standard errors."""
    n, k = 40, 3
    sets = [[normal(n, 20, seed=3 * i + j) for j in range(3)] for i in range(200)]
    further = np.array([values(support(x, y, k, 8, basis=z)) for x, y, z in sets])
    mean, error = further.mean(0), further.std(0, ddof=1) / 200**0.5
    assert abs(mean[2] - 1) < 4 * error[2]
    assert abs(mean[3] - (1 - math.comb(n - 1, k) / math.comb(2 * n - 1, k))) < 4 * error[3]
    own = np.mean([values(support(x, y, k, 8)) for x, y, _ in sets], axis=0)
    assert own[2] > 1.5
    assert own[1] < mean[1] - 0.2
    assert support(*sets[0][:2], k, 8, basis=sets[0][1]) == support(*sets[0][:2], k, 8)


def test_a_collapsed_law_is_precise_and_covers_nothing():
    y = normal(400, 2)
    found = support(1e-3 * normal(400, 2, seed=1), y)
    assert found.precision == 1
    assert found.recall < 0.01
    assert found.coverage < 0.05


def test_density_has_no_upper_bound():
    """In many dimensions the middle of the data lies in more balls than any datum."""
    assert support(1e-3 * normal(100, 10, seed=1), normal(400, 10)).density > 3


def test_a_law_that_misses_a_mode_recalls_and_covers_half():
    y = normal(400, 2) + 20 * (torch.arange(400) % 2)[:, None]
    found = support(normal(400, 2, seed=1), y)
    assert found.precision > 0.9
    assert 0.4 < found.recall <= 0.5
    assert 0.4 < found.coverage <= 0.5


def test_a_law_too_wide_is_not_precise():
    found = support(10 * normal(400, 2, seed=1), normal(400, 2))
    assert found.precision < 0.15
    assert found.density < 0.15
    # Its large balls hold all data, which the coverage sees through.
    assert found.recall > 0.9
    assert found.coverage < 0.2


def test_laws_apart_have_nothing_in_common_and_copies_everything():
    y = normal(50, 3)
    assert support(y + 1e4, y) == Support(0.0, 0.0, 0.0, 0.0)
    copied = support(y.flip(0), y)
    assert (copied.precision, copied.recall, copied.coverage) == (1, 1, 1)
    # Each sample is one of the k nearest of about k data, and the centre of one ball.
    assert copied.density == pytest.approx(6 / 5)


def test_the_components_are_the_fewest_with_99_percent_of_the_variance_of_the_data():
    # Variances 98.5, 1 and 0.5 shares of 100 exactly, along rotated axes.
    rotation = torch.linalg.qr(normal(3, 3)).Q
    columns = torch.linalg.qr(normal(60, 3, seed=1) - normal(60, 3, seed=1).mean(0)).Q
    y = columns @ torch.diag(torch.tensor([98.5, 1.0, 0.5]).double().sqrt()) @ rotation + 7
    x = y.flip(0) + 0.05 * normal(60, 3, seed=2)
    assert support(x, y) == support(x, y, components=2) != support(x, y, components=3)
    # What lies beside the components of the data is not seen.
    assert support(x + 1e3 * rotation[2], y) == support(x, y)
    assert support(x + 1e3 * rotation[2], y, components=3).precision == 0


def test_data_that_do_not_vary_have_balls_without_extent():
    y = torch.ones(8, 2)
    assert support(torch.ones(7, 2), y, 2).coverage == 1
    assert support(normal(7, 2), y, 2).coverage == 0


def test_items_of_any_shape_and_precision():
    x, y = normal(20, 2, 3).float(), normal(30, 2, 3, seed=1).float().requires_grad_()
    assert support(x, y) == support(x.flatten(1).double(), y.flatten(1).double())
    assert support(x[:, 0, 0], y[:, 0, 0], 1, 1) == support(x[:, 0, :1], y[:, 0, :1], 1)


def test_what_cannot_be_compared_is_named():
    x, y = normal(6, 9), normal(8, 9, seed=1)
    for k in (0, 6):
        with pytest.raises(
            ValueError, match=f"more points than that in both sets, got neighbours={k} for 6 samples and 8"
        ):
            support(x, y, k)
    for components in (0, 8):
        with pytest.raises(ValueError, match=f"components of 1 to 7, as 8 data of 9 numbers have, got {components}"):
            support(x, y, 2, components)
    with pytest.raises(ValueError, match="samples holds values that are NaN or infinite"):
        support(x * math.nan, y)
    with pytest.raises(ValueError, match=r"points of one dimension, got \(8, 3\) and \(8, 9\)"):
        support(x, y, basis=y[:, :3])
    with pytest.raises(ValueError, match="components of 1 to 2, as 3 data of 9 numbers have, got 3"):
        support(x, y, 2, 3, basis=y[:3])
