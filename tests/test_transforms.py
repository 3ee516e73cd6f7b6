"""Transforms: exact inverses, statistics of what they make, POD against a dense SVD, saving and loading."""

import pytest
import torch

from physflow.transforms import POD, Chain, Log, PerChannel, Scale, Standardize, from_spec


def low_rank(count=200, shape=(1, 6, 5), rank=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    size = shape[0] * shape[1] * shape[2]
    modes = torch.linalg.qr(torch.randn(size, rank, generator=g, dtype=torch.float64))[0]
    scales = torch.tensor([5.0, 3.0, 1.0, 0.3], dtype=torch.float64)[:rank]
    coordinates = torch.randn(count, rank, generator=g, dtype=torch.float64) * scales
    return (2.0 + coordinates @ modes.T).view(count, *shape)


def positive_pair(count=50):
    x = low_rank(count, (2, 6, 5))
    return torch.cat([x[:, :1].exp(), x[:, 1:]], dim=1)


TRANSFORMS = [
    pytest.param(lambda: Log(), lambda: low_rank().exp(), id="log"),
    pytest.param(lambda: Standardize(), lambda: low_rank(shape=(3, 4, 5)), id="standardize"),
    pytest.param(lambda: Scale(0.3), lambda: low_rank(shape=(3, 4, 5)), id="scale"),
    pytest.param(lambda: POD(rank=4), low_rank, id="pod"),
    pytest.param(lambda: POD(energy=1.0), low_rank, id="pod-energy"),
    pytest.param(lambda: Chain(Log(), Standardize()), lambda: low_rank().exp(), id="chain"),
    pytest.param(lambda: Chain(Log(), POD(rank=4)), lambda: low_rank().exp(), id="log-pod"),
    pytest.param(lambda: PerChannel(Chain(Log(), POD(rank=4)), POD(rank=4)), positive_pair, id="pod-pair"),
    pytest.param(lambda: PerChannel(Chain(Log(), Standardize()), Standardize()), positive_pair, id="pixel-pair"),
]


@pytest.mark.parametrize(("make", "data"), TRANSFORMS)
class TestEveryTransform:
    def test_inverse(self, make, data):
        x = data()
        transform = make().fit(x)
        torch.testing.assert_close(transform.inverse(transform(x)), x, rtol=2e-5, atol=2e-5)

    def test_channels_is_the_size_of_dimension_one(self, make, data):
        x = data()
        transform = make().fit(x)
        assert transform(x).shape[1] == transform.channels(x.shape[1])

    def test_saved_and_loaded_it_is_the_same(self, make, data):
        x = data()
        transform = make().fit(x)
        again = from_spec(transform.spec())
        again.load_state_dict(transform.state_dict())
        assert torch.equal(again(x), transform(x))
        assert again.spec() == transform.spec()

    def test_fit_in_pieces_equals_fit_at_once(self, make, data):
        x = data()
        whole, pieces = make().fit(x), make().fit(lambda: iter(x.split(17)))
        torch.testing.assert_close(pieces(x), whole(x), rtol=1e-4, atol=1e-4)

    def test_empty_batch(self, make, data):
        x = data()
        transform = make().fit(x)
        assert transform.inverse(transform(x[:0])).shape == x[:0].shape


def test_standardize_gives_zero_mean_and_unit_variance_far_from_zero():
    x = torch.randn(100, 2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * torch.tensor([1e-3, 5.0])[:, None].double() + torch.tensor([1e4, -1.0])[:, None].double()
    y = Standardize().fit(x)(x)
    torch.testing.assert_close(y.mean((0, 2)), torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(y.var((0, 2), unbiased=False), torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_pod_coordinates_are_white_and_modes_orthonormal():
    x = low_rank(500)
    pod = POD(rank=4).fit(x)
    y = pod(x)
    torch.testing.assert_close(y.T @ y / len(y), torch.eye(4, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(pod.modes.T @ pod.modes, torch.eye(4), atol=1e-6, rtol=0)


def test_pod_equals_a_dense_svd():
    g = torch.Generator().manual_seed(1)
    decay = torch.linspace(0, -6, 40, dtype=torch.float64).exp()
    x = (torch.randn(300, 40, generator=g, dtype=torch.float64) * decay).view(300, 1, 8, 5)
    pod = POD(rank=6).fit(x)
    centred = x.flatten(1) - x.flatten(1).mean(0)
    _, s, vh = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(pod.std.double(), s[:6] / 300**0.5, rtol=1e-5, atol=0)
    overlap = (vh[:6] @ pod.modes.double()).abs()
    torch.testing.assert_close(overlap, torch.eye(6, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("energy", "rank"), [(0.7, 1), (0.96, 2), (0.9999, 4)])
def test_pod_keeps_the_energy_asked_for(energy, rank):
    x = low_rank(4000)
    pod = POD(energy=energy).fit(x)
    assert pod.rank == rank
    centred = x - x.mean(0)
    lost = (pod.inverse(pod(x)) - x).square().sum() / centred.square().sum()
    assert float(lost) <= 1 - energy + 1e-9


def test_pod_finds_more_modes_than_its_first_guess():
    x = torch.randn(400, 1, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert POD(energy=0.99).fit(x).rank > 128


def test_pod_cuts_a_rank_that_the_data_do_not_hold():
    assert POD(rank=20).fit(low_rank()).rank == 4


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: POD(rank=0), "rank of a POD must be at least 1, got 0"),
        (lambda: POD(energy=1.5), r"energy of a POD must lie in \(0, 1\], got 1.5"),
        (lambda: POD(rank=2).fit(low_rank(1)), "at least two samples, got 1"),
        (lambda: POD(rank=2).fit(torch.ones(5, 1, 4)), "data that vary"),
        (lambda: POD(rank=2).fit(low_rank())(torch.zeros(1, 1, 5, 5)), r"fitted to fields of shape \(1, 6, 5\)"),
        (lambda: POD(rank=2).fit(low_rank()).inverse(torch.zeros(1, 3)), r"coordinates of shape \(batch, 2\)"),
        (lambda: POD().channels(1), "known once it is fitted"),
        (lambda: Log()(torch.tensor([[1.0, -2.0]])), "positive values, the field's smallest is -2"),
        (lambda: Standardize().fit(torch.ones(4, 2, 3)), r"channels \[0, 1\]: they are constant"),
        (lambda: Standardize().fit(torch.ones(0, 2, 3)), "empty data set"),
        (lambda: PerChannel(Log())(torch.ones(1, 2, 3)), "expected 1 channels"),
        (lambda: from_spec({"name": "Sqrt"}), "unknown transform 'Sqrt'; valid: Log"),
    ],
)
def test_bad_input_says_what_was_expected(action, message):
    with pytest.raises(ValueError, match=message):
        action()


FULL = [
    pytest.param(lambda: Log(), 1, id="log"),
    pytest.param(lambda: Standardize(), 2, id="standardize"),
    pytest.param(lambda: Scale(0.3), 2, id="scale"),
    pytest.param(lambda: POD(rank=6), 1, id="pod"),
    pytest.param(lambda: Chain(Log(), Standardize()), 1, id="chain"),
    pytest.param(lambda: Chain(Log(), POD(rank=6)), 1, id="log-pod"),
    pytest.param(lambda: PerChannel(Chain(Log(), POD(rank=6)), POD(rank=6)), 2, id="pair"),
]


@pytest.mark.parametrize(("make", "channels"), FULL)
def test_the_volume_is_that_of_the_derivative(make, channels):
    """log_det against the determinant of the Jacobian by autograd, on fields of 3 x 2 points."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, channels, 3, 2, generator=generator, dtype=torch.float64).exp() * 3
    transform = make().fit(x)
    found = transform.log_det(x[:3])
    for item, volume in zip(x[:3], found, strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda flat: transform(flat.view(1, channels, 3, 2)), item.flatten()
        )
        _, expected = torch.linalg.slogdet(jacobian.reshape(6 * channels, 6 * channels))
        torch.testing.assert_close(volume, expected, rtol=1e-5, atol=1e-5)
    assert transform.log_det(x[:0]).shape == (0,)


def test_a_truncated_pod_has_no_density():
    transform = POD(rank=4).fit(low_rank())
    with pytest.raises(ValueError, match=r"4 modes is no bijection of fields of 30 values.*space='pixel'"):
        transform.log_det(low_rank())
