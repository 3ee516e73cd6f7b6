"""Fréchet distance of features: scipy's root of a matrix, closed forms, singular covariances, blocks, files, errors."""

import zipfile

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from physflow.metrics import FeatureStatistics, feature_statistics, frechet, frechet_distance


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(d, seed=7):
    return torch.linalg.qr(normal(d, d, seed=seed)).Q


def of(mean, covariance):
    return FeatureStatistics(torch.as_tensor(mean).double(), torch.as_tensor(covariance).double())


def by_definition(a, b):
    root = sqrtm((a.covariance @ b.covariance).numpy())
    trace = float((a.covariance + b.covariance).trace()) - 2 * float(np.trace(root).real)
    return float((a.mean - b.mean).square().sum()) + trace


def random_statistics(d, seed):
    factor = normal(d, d, seed=seed)
    return of(normal(d, seed=seed + 100), factor @ factor.T)


@pytest.mark.parametrize("d", [1, 2, 5, 40])
def test_it_is_the_definition_with_scipys_root(d):
    a, b = random_statistics(d, 0), random_statistics(d, 1)
    assert frechet_distance(a, b) == pytest.approx(by_definition(a, b), rel=1e-8)


def test_commuting_covariances_have_a_closed_form():
    """The sum of the squared differences of the deviations, in any common basis of eigenvectors."""
    s, t = torch.tensor([[3.0, 1.0, 0.2, 0.0], [1.0, 1.0, 2.0, 0.5]], dtype=torch.float64)
    Q = rotation(4)
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5]).double()
    a, b = (of(m, Q @ torch.diag(x**2) @ Q.T) for m, x in ((shift, s), (0 * shift, t)))
    assert frechet_distance(a, b) == pytest.approx(float(shift.square().sum() + (s - t).square().sum()), rel=1e-12)


def test_one_feature_is_a_matter_of_mean_and_deviation():
    assert frechet_distance(of([3.0], [[4.0]]), of([1.0], [[25.0]])) == pytest.approx(4 + 9)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_singular_covariances_lose_nothing(rank):
    """Of covariances u u^T and v v^T the root has the trace |u . v|; none has the trace of the other."""
    d = 60
    U, b = normal(d, rank), random_statistics(d, 2)
    a = of(torch.zeros(d), U @ U.T)
    # The eigenvalues of a small matrix, which has no zero among them.
    cross = torch.linalg.eigvalsh(U.T @ b.covariance @ U).sqrt().sum()
    expected = float(b.mean.square().sum() + U.square().sum() + b.covariance.trace() - 2 * cross)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    v = normal(d, 1, seed=5)
    lines = of(torch.zeros(d), U[:, :1] @ U[:, :1].T), of(torch.zeros(d), v @ v.T)
    overlap = 2 * float((U[:, :1].T @ v).abs().sum())
    assert frechet_distance(*lines) == pytest.approx(
        float(U[:, :1].square().sum() + v.square().sum()) - overlap, rel=1e-12
    )


def test_equal_statistics_are_at_no_distance_and_the_order_is_indifferent():
    a, b = random_statistics(30, 0), random_statistics(30, 1)
    assert 0 <= frechet_distance(a, a) < 1e-12 * float(a.covariance.trace())
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    U = normal(500, 3)
    flat = of(torch.zeros(500), U @ U.T)
    # By roots of eigenvalues that are rounding it would be off by 1e-6.
    assert 0 <= frechet_distance(flat, flat) < 1e-11 * float(flat.covariance.trace())


def test_rotated_and_shifted_features_are_as_far_and_scaled_ones_by_the_square():
    x, y, Q = normal(50, 6), 2 * normal(80, 6, seed=1) + 0.3, rotation(6)
    d = frechet_distance(feature_statistics(x), feature_statistics(y))
    moved = (feature_statistics(z @ Q + 5) for z in (x, y))
    assert frechet_distance(*moved) == pytest.approx(d, rel=1e-10)
    assert frechet_distance(*(feature_statistics(3 * z) for z in (x, y))) == pytest.approx(9 * d, rel=1e-10)


@pytest.mark.parametrize("sizes", [[37], [1] * 37, [20, 0, 1, 16], [0, 37]])
@pytest.mark.parametrize("rows", [3, 8192])
def test_blocks_merge_into_the_statistics_of_all(monkeypatch, sizes, rows):
    monkeypatch.setattr(frechet, "_ROWS", rows)
    x = normal(37, 4)
    found = feature_statistics(iter(x.split(sizes)))
    assert found.count == 37
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), rtol=0, atol=1e-14)
    assert torch.equal(found.covariance, found.covariance.T)


def test_a_mean_far_from_zero_costs_no_digits():
    x = normal(1000, 3)
    found = feature_statistics((x + 1e8).split(10))
    # The numbers themselves are rounded to 1e-8.
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), atol=2e-8)


def test_features_in_single_precision_are_summed_in_double():
    x = normal(5000, 2).float() + 100
    found = feature_statistics(x)
    assert found.mean.dtype == found.covariance.dtype == torch.float64
    np.testing.assert_allclose(found.covariance, np.cov(x.double(), rowvar=False), rtol=1e-11)


def test_one_feature_and_a_single_tensor():
    found = feature_statistics(torch.tensor([[1.0], [3.0]], requires_grad=True))
    assert (found.mean.tolist(), found.covariance.tolist(), found.count) == ([2.0], [[2.0]], 2)
    assert not found.mean.requires_grad


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "at least 2 samples, got 0; are the batches used up already"),
        ([torch.zeros(0, 3)], "at least 2 samples, got 0"),
        ([torch.zeros(1, 3)], "at least 2 samples, got 1"),
        ([torch.zeros(2, 0)], r"expected features of shape \(batch, d\), got \(2, 0\) in batch 0"),
        ([torch.zeros(2, 3), torch.zeros(2, 3, 1, 1)], r"got \(2, 3, 1, 1\) in batch 1; .* pooled or flattened"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], "expected 3 features as in the batches before, got 4 in 1"),
        ([torch.tensor([[1.0], [float("nan")]])], "batch 0 holds features that are NaN or infinite"),
        ([torch.zeros(2, 1), torch.tensor([[float("inf")]])], "batch 1 holds features that are NaN or infinite"),
    ],
)
def test_features_of_which_there_are_no_statistics_are_refused(batches, message):
    with pytest.raises(ValueError, match=message):
        feature_statistics(batches)


@pytest.mark.parametrize(
    ("mean", "covariance", "count", "message"),
    [
        (torch.zeros(2), torch.zeros(3, 3), None, r"got \(2,\) and \(3, 3\)"),
        (torch.zeros(1, 2), torch.zeros(2, 2), None, r"got \(1, 2\) and \(2, 2\)"),
        (torch.zeros(0), torch.zeros(0, 0), None, "with d >= 1"),
        (torch.zeros(1), torch.tensor([[float("nan")]]), None, "NaN or infinite"),
        (torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), None, "expected a symmetric covariance, .* 0.5"),
        (torch.zeros(1), torch.ones(1, 1), 1, "at least 2 samples, got count=1"),
    ],
)
def test_what_is_no_mean_and_covariance_is_refused(mean, covariance, count, message):
    with pytest.raises(ValueError, match=message):
        FeatureStatistics(mean, covariance, count)


def test_other_numbers_of_features_and_negative_eigenvalues_are_refused():
    with pytest.raises(
        ValueError, match="expected as many features in both sets, got 2 and 3; are they of one network"
    ):
        frechet_distance(random_statistics(2, 0), random_statistics(3, 0))
    with pytest.raises(ValueError, match="no negative eigenvalues, got -1 beside a largest of 2"):
        frechet_distance(of([0.0, 0.0], [[2.0, 0.0], [0.0, -1.0]]), random_statistics(2, 0))


def test_no_more_samples_than_features_give_a_warning():
    few, many = feature_statistics(normal(4, 4)), feature_statistics(normal(5, 4))
    with pytest.warns(
        UserWarning, match="^4 samples of 4 features have a singular covariance, and the distance is bia"
    ):
        frechet_distance(few, many)
    with pytest.warns(UserWarning, match="^4 and 4 samples"):
        frechet_distance(few, few)
    frechet_distance(many, of(many.mean, many.covariance))


@pytest.mark.parametrize("count", [None, 50])
def test_statistics_come_back_from_their_file(tmp_path, count):
    a = random_statistics(3, 0)
    a = FeatureStatistics(a.mean, a.covariance, count)
    a.save(tmp_path / "statistics")
    b = FeatureStatistics.load(str(tmp_path / "statistics"))
    assert torch.equal(a.mean, b.mean)
    assert torch.equal(a.covariance, b.covariance)
    assert b.count == count


def test_published_statistics_are_read(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.ones(2, "float32"), sigma=np.eye(2), other=np.zeros(3))
    found = FeatureStatistics.load(tmp_path / "a.npz")
    assert (found.mean.tolist(), found.covariance.tolist(), found.count) == ([1, 1], [[1, 0], [0, 1]], None)


def test_files_that_hold_no_statistics_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError):
        FeatureStatistics.load(path)
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.npy is not an \.npz file"):
        FeatureStatistics.load(tmp_path / "a.npy")
    np.savez(path, feats=np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"a\.npz holds feats; expected the statistics mu and sigma"):
        FeatureStatistics.load(path)
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(ValueError, match=r"a\.npz holds nothing"):
        FeatureStatistics.load(path)
    np.savez(path, mu=np.array([{}]), sigma=np.eye(1))
    with pytest.raises(ValueError, match=r"does not hold the statistics of features: .*allow_pickle"):
        FeatureStatistics.load(path)
    np.savez(path, mu=np.zeros(2), sigma=np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"does not hold the statistics .* got \(2,\) and \(2, 3\)"):
        FeatureStatistics.load(path)


def test_what_is_no_statistics():
    known = feature_statistics(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    for pair in ((known, torch.zeros(3, 2)), (torch.zeros(3, 2), known)):
        with pytest.raises(
            TypeError, match="expected the statistics of features, got Tensor; feature_statistics makes"
        ):
            frechet_distance(*pair)
