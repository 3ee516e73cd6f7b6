"""Sources: shapes, reproducibility, moments."""

import pytest
import torch

from physflow.generative.sources import Drawn, Gaussian, GaussianProcess


def smooth(white):
    """A periodic moving average over three points of the last axis, of unit variance."""
    return (white + white.roll(1, -1) + white.roll(-1, -1)) / 3**0.5


SOURCES = [Gaussian(), GaussianProcess(smooth)]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("shape", [(0, 2, 3), (1, 1, 5), (4, 2, 3, 6), torch.Size([3, 4])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype(source, shape, dtype):
    x0 = source.sample(shape, torch.Generator().manual_seed(0), dtype=dtype)
    assert x0.shape == tuple(shape)
    assert x0.dtype == dtype


@pytest.mark.parametrize("source", SOURCES)
def test_one_seed_one_draw(source):
    def draw(seed):
        torch.manual_seed(seed + 1)
        return source.sample((4, 1, 6), torch.Generator().manual_seed(seed))

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


@pytest.mark.parametrize("source", SOURCES)
def test_the_global_generator_is_untouched(source):
    state = torch.get_rng_state()
    source.sample((4, 3), torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("source", SOURCES)
def test_device(source):
    """The generator may live elsewhere: the meta device stands for any other."""
    if isinstance(source, Gaussian):
        assert source.sample((2, 3), torch.Generator(), device="meta").device.type == "meta"
    assert source.sample((2, 3), torch.Generator()).device.type == "cpu"


@pytest.mark.parametrize(("source", "root"), [(SOURCES[0], torch.eye(5)), (SOURCES[1], smooth(torch.eye(5)))])
def test_moments(source, root):
    n = 40_000
    x0 = source.sample((n, 1, 5), torch.Generator().manual_seed(0), dtype=torch.float64).squeeze(1)
    assert (x0.mean(0).abs() < 4 / n**0.5).all()
    # The variance of a product of two unit normals is at most 2.
    assert ((x0.T @ x0 / n - root.double().T @ root.double()).abs() < 4 * (2 / n) ** 0.5).all()


def test_correlate_must_keep_the_shape():
    source = GaussianProcess(lambda white: white[..., :-1])
    with pytest.raises(ValueError, match=r"keep the shape \(2, 1, 4\), got \(2, 1, 3\).*another grid"):
        source.sample((2, 1, 4), torch.Generator())


def test_correlate_in_another_precision():
    source = GaussianProcess(lambda white: white.double())
    assert source.sample((2, 1, 4), torch.Generator()).dtype == torch.float32


def test_drawn_samples_are_those_of_the_law():
    source = Drawn(lambda n, generator: 3 + torch.randn(n, 2, generator=generator))
    x0 = source.sample((5, 2), torch.Generator().manual_seed(1), dtype=torch.float64)
    assert x0.dtype == torch.float64
    expected = 3 + torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(x0, expected.double())
    with pytest.raises(ValueError, match=r"expected draws of the shape \(5, 3\) of the data, got \(5, 2\)"):
        source.sample((5, 3), torch.Generator())
