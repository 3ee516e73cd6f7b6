import math

import numpy as np
import pytest
import torch

from physflow.metrics import radial_spectrum

SHAPES = [(16,), (17,), (2,), (8, 8), (9, 7), (1, 6), (32, 4), (5, 1), (4, 5, 6)]


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(k, shape):
    axes = [
        torch.cos(math.pi * m * (torch.arange(n, dtype=torch.float64) + 0.5) / n) for m, n in zip(k, shape, strict=True)
    ]
    mode = axes[0]
    for axis in axes[1:]:
        mode = mode[..., None] * axis
    return mode[None]


@pytest.mark.parametrize("shape", SHAPES)
def test_power_sums_to_the_mean_square_of_the_mean_free_field(shape):
    u = noise(3, *shape) + 5.0
    _, power = radial_spectrum(u, 0.3)
    expected = u.flatten(1).var(dim=1, unbiased=False)
    torch.testing.assert_close(power.sum(1), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", [1, 2, 7, 14])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_cosine_along_an_axis_puts_all_power_in_its_own_bin(k, axis):
    shape = (15, 15)
    u = cosine([k, 0] if axis == 0 else [0, k], shape)
    wavenumber, power = radial_spectrum(u, 1 / 15)
    own = int((wavenumber - math.pi * k).abs().argmin())
    assert wavenumber[own].item() == pytest.approx(math.pi * k, rel=1e-14)
    assert power[0, own].item() == pytest.approx(0.5, rel=1e-12)
    assert (power[0].sum() - power[0, own]).abs() < 1e-25


@pytest.mark.parametrize(("shape", "spacing"), [((12, 6), (0.25, 0.1)), ((6, 20), (1.0, 0.05)), ((7, 9), (0.1, 0.1))])
@pytest.mark.parametrize("k", [(1, 0), (0, 1), (2, 3), (5, 4)])
def test_an_oblique_mode_on_a_non_square_grid_lies_within_half_a_shell_of_its_wavenumber(shape, spacing, k):
    wavenumber, power = radial_spectrum(cosine(k, shape), spacing)
    lengths = [n * h for n, h in zip(shape, spacing, strict=True)]
    kappa = math.pi * math.hypot(k[0] / lengths[0], k[1] / lengths[1])
    filled = power[0] > 1e-20
    assert filled.sum() == 1
    assert abs(wavenumber[filled].item() - kappa) <= 0.5 * math.pi / max(lengths) * (1 + 1e-12)
    assert power.sum().item() == pytest.approx(0.5 ** sum(m > 0 for m in k), rel=1e-12)


def test_a_linear_ramp_decays_as_its_even_extension_does():
    n = 64
    u = (torch.arange(n, dtype=torch.float64)[None] + 0.5) / n
    wavenumber, power = radial_spectrum(u, 1 / n)
    # x = 1/2 - sum over odd k of 4 / (pi k)^2 cos(pi k x): the series of the even extension, up to aliasing.
    low = wavenumber < 5 * math.pi
    expected = 8 / wavenumber[low] ** 4 * (torch.arange(1, int(low.sum()) + 1) % 2)
    torch.testing.assert_close(power[0, low], expected, rtol=2e-2, atol=1e-20)


def test_white_noise_has_equal_power_in_every_mode():
    shape = (16, 12)
    _, power = radial_spectrum(noise(4000, *shape), 0.1)
    modes = np.unique(
        np.floor(np.hypot(*np.meshgrid(np.arange(16), np.arange(12) * 16 / 12, indexing="ij")) + 0.5),
        return_counts=True,
    )[1]
    np.testing.assert_allclose(power.mean(0).numpy() * math.prod(shape) / modes[1:], 1.0, atol=0.1)


def test_bins_rise_and_none_is_empty():
    wavenumber, power = radial_spectrum(noise(1, 2, 64), (2.0, 1 / 64))
    assert (wavenumber.diff() > 0).all()
    assert (power > 0).all()


def test_the_axes_may_be_exchanged():
    u = noise(2, 6, 11)
    first, second = radial_spectrum(u, (0.1, 0.3)), radial_spectrum(u.mT, (0.3, 0.1))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.int64, torch.float64)],
)
def test_the_type_is_kept(given, expected):
    wavenumber, power = radial_spectrum((noise(2, 8, 8) * 10).to(given), 0.1)
    assert wavenumber.dtype == power.dtype == expected


def test_an_empty_batch_has_an_empty_spectrum():
    wavenumber, power = radial_spectrum(torch.zeros(0, 8, 8), 0.1)
    assert power.shape == (0, len(wavenumber))


@pytest.mark.parametrize(
    ("field", "spacing", "message"),
    [
        (torch.zeros(8), 0.1, r"two points along some axis, got \(8,\); add the batch axis"),
        (torch.zeros(2, 1, 1), 0.1, "two points along some axis"),
        (torch.zeros(2, 4, 0), 0.1, "two points along some axis"),
        (torch.zeros(2, 4, 4), (0.1,), "one positive spacing for each of the 2 axes"),
        (torch.zeros(2, 4, 4), 0.0, "one positive spacing"),
        (torch.zeros(2, 4, 4), (0.1, math.nan), "one positive spacing"),
        (torch.zeros(2, 4, dtype=torch.complex64), 0.1, "expected real fields"),
    ],
)
def test_bad_input_is_named(field, spacing, message):
    with pytest.raises(ValueError, match=message):
        radial_spectrum(field, spacing)
