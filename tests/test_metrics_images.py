"""Images for the networks that judge them: TensorFlow 1's formula in numpy, quantisation, errors."""

import numpy as np
import pytest
import torch
from torch.nn.functional import affine_grid, grid_sample, interpolate

from physflow.metrics import grey_to_colour, inception_input, quantise, resize_as_tensorflow1


def uniform(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 255


def by_formula(images, size):
    """Pixel by pixel."""
    n, channels, height, width = images.shape
    out = np.empty((n, channels, size, size))
    for i in range(size):
        y = i * height / size
        top = int(np.floor(y))
        bottom = min(top + 1, height - 1)
        for j in range(size):
            x = j * width / size
            left = int(np.floor(x))
            right = min(left + 1, width - 1)
            upper = images[..., top, left] * (left + 1 - x) + images[..., top, right] * (x - left)
            lower = images[..., bottom, left] * (left + 1 - x) + images[..., bottom, right] * (x - left)
            out[..., i, j] = upper * (top + 1 - y) + lower * (y - top)
    return out


SHAPES = [(2, 3, 32, 32, 70), (1, 1, 7, 12, 9), (2, 1, 1, 1, 4), (1, 2, 40, 3, 5), (1, 1, 6, 6, 1), (1, 3, 13, 26, 23)]


@pytest.mark.parametrize(("n", "channels", "height", "width", "size"), SHAPES)
def test_resizing_is_the_formula_of_tensorflow_1(n, channels, height, width, size):
    images = uniform(n, channels, height, width)
    np.testing.assert_allclose(resize_as_tensorflow1(images, size), by_formula(images.numpy(), size), atol=1e-10)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48), (400, 310)])
def test_resizing_is_that_of_an_affine_grid_from_corner_to_corner(height, width):
    """Which is how the published TorchScript network resizes: pixel i of the result lies at i h / 299."""
    images = uniform(2, 3, height, width)
    theta = torch.tensor([[1, 0, 1 / width - 1 / 299], [0, 1, 1 / height - 1 / 299]], dtype=torch.float64)
    grid = affine_grid(theta.expand(2, 2, 3), [2, 3, 299, 299], align_corners=False)
    expected = grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    torch.testing.assert_close(resize_as_tensorflow1(images), expected, rtol=0, atol=1e-9)


def test_resizing_is_not_that_of_torch():
    images = uniform(1, 1, 8, 8)
    other = interpolate(images, (299, 299), mode="bilinear", align_corners=False)
    assert float((resize_as_tensorflow1(images) - other).abs().max()) > 10


def test_images_of_the_size_stay_and_integers_become_single_precision():
    images = uniform(2, 3, 5, 5).to(torch.uint8)
    assert torch.equal(resize_as_tensorflow1(images, 5), images.float())
    assert torch.equal(inception_input(images, 5), (images.float() - 128) / 128)
    assert inception_input(images).shape == (2, 3, 299, 299)
    assert inception_input(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)).unique().tolist() == [127 / 128]
    assert resize_as_tensorflow1(images[:0], 7).shape == (0, 3, 7, 7)


@pytest.mark.parametrize(("shape", "size"), [((3, 8, 8), 4), ((1, 3, 0, 8), 4), ((1, 3, 8, 0), 4), ((1, 3, 8, 8), 0)])
def test_what_cannot_be_resized_is_refused(shape, size):
    with pytest.raises(ValueError, match=r"expected images of shape \(n, channels, height, width\)"):
        resize_as_tensorflow1(torch.zeros(shape), size)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_quantising_returns_the_numbers_that_images_were(dtype):
    p = torch.arange(256, dtype=torch.uint8)
    for x in (p.to(dtype) / 127.5 - 1, (p.to(dtype) / 255 - 0.5) / 0.5):
        assert torch.equal(quantise(x), p)


def test_quantising_is_rounding_but_for_halves():
    x = torch.linspace(-1, 1, 10001, dtype=torch.float64)
    v = 127.5 * (x + 1)
    halves = (v - v.floor() - 0.5).abs() < 1e-9
    assert torch.equal(quantise(x)[~halves], v[~halves].round().to(torch.uint8))
    x = torch.tensor([0.5, 1.5, 2.5, 3.5], dtype=torch.float64) / 127.5 - 1
    assert quantise(x + 1e-12).tolist() == [1, 2, 3, 4]
    assert torch.tensor([0.5, 1.5, 2.5, 3.5]).round().tolist() == [0, 2, 2, 4]
    # A plain cast of v has one less there.
    assert (127.5 * (x + 1)).to(torch.uint8).tolist() == [0, 1, 2, 3]
    assert quantise(torch.zeros(1)).tolist() == [128]


def test_quantising_takes_what_lies_outside_for_the_ends():
    found = quantise(torch.tensor([[-3.0, -1.0], [1.0, float("inf")]]))
    assert found.tolist() == [[0, 0], [255, 255]]
    assert found.dtype == torch.uint8
    assert quantise(torch.zeros(0, 3)).shape == (0, 3)


def test_quantising_half_precision_is_done_in_single():
    x = torch.linspace(-1, 1, 500).bfloat16()
    assert torch.equal(quantise(x), quantise(x.double()))


def test_what_cannot_be_quantised_is_refused():
    with pytest.raises(ValueError, match=r"floating dtype, got torch.uint8; uint8 needs no quantising"):
        quantise(torch.zeros(2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="images hold NaN"):
        quantise(torch.tensor([0.0, float("nan")]))


def test_grey_images_get_three_equal_channels():
    images = uniform(2, 1, 4, 5)
    found = grey_to_colour(images)
    assert found.shape == (2, 3, 4, 5)
    assert all(torch.equal(found[:, [c]], images) for c in range(3))
    with pytest.raises(ValueError, match=r"expected grey images .* got \(2, 3, 4, 5\)"):
        grey_to_colour(found)
