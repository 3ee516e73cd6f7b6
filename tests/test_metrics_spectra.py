import math

import numpy as np
import pytest
import torch

from physflow.metrics import log_spectrum, radial_spectrum, spectrum_distance, spectrum_ratio

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


def square_log_spectrum(fields, spacing):
    """The definition for square grids, by which committed results were computed."""
    wavenumber, power = radial_spectrum(fields, spacing)
    whole = wavenumber < (1 - 1e-6) * math.pi / spacing
    return wavenumber[whole], power.median(0).values[whole].log()


@pytest.mark.parametrize("n", [2, 7, 16, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_square_grids_log_spectra_are_those_of_committed_results_to_the_last_bit(n, dtype):
    spacing = 1 / (n - 1)
    x, y = noise(6, n, n).to(dtype), noise(9, n, n, seed=1).to(dtype).exp()
    for found, expected in zip(log_spectrum(x, spacing), square_log_spectrum(x, spacing), strict=True):
        assert torch.equal(found, expected)
        assert len(found) == n - 1
    difference = square_log_spectrum(x, spacing)[1] - square_log_spectrum(y, spacing)[1]
    assert spectrum_distance(x, y, spacing) == float(difference.square().mean().sqrt())


@pytest.mark.parametrize("n", [8, 32, 65])
@pytest.mark.parametrize("spacing", [1 / 3, 1e-3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_whole_shells_of_a_square_end_before_the_first_missing_mode(n, spacing, dtype):
    wavenumber, _ = log_spectrum(noise(1, n, n).to(dtype), spacing)
    np.testing.assert_allclose(wavenumber, math.pi * np.arange(1, n) / (n * spacing), rtol=1e-6)


WHOLE = [
    ((9,), 0.3),
    ((12, 6), (0.25, 0.1)),
    ((6, 20), (1.0, 0.05)),
    ((7, 1, 5), (0.1, 9.0, 0.2)),
    ((2, 9), (1.0, 0.4)),
    ((2, 9), (1.0, 0.5)),
]


@pytest.mark.parametrize(("shape", "spacing"), WHOLE)
def test_whole_shells_have_all_modes_that_an_infinitely_fine_grid_has_there(shape, spacing):
    wavenumber, _ = log_spectrum(noise(1, *shape), spacing)
    spacings = (spacing,) * len(shape) if isinstance(spacing, float) else spacing
    lengths = [n * h for n, h in zip(shape, spacings, strict=True) if n > 1]
    delta = math.pi / max(lengths)
    # Wavenumbers, in shells, of the modes of a grid with four times the points in the same lengths.
    fine = [4 * n for n in shape if n > 1]
    kept = (np.array(shape)[np.array(shape) > 1] > np.indices(fine).T).all(-1)
    kappa = np.sqrt((np.square(np.indices(fine).T * (math.pi / delta / np.array(lengths)))).sum(-1))
    shell = np.floor(kappa + 0.5)
    missing = set(shell[~kept])
    whole = {m for m in set(shell[kept]) - {0} if m not in missing and m < min(missing)}
    np.testing.assert_allclose(wavenumber, delta * np.array(sorted(whole)))


@pytest.mark.parametrize(("shape", "spacing"), [*WHOLE, ((16, 16), 0.1)])
def test_a_factor_and_a_mean_are_what_the_distance_and_the_ratio_say(shape, spacing):
    u = noise(8, *shape)
    assert spectrum_distance(u, u.flip(0), spacing) == 0
    assert spectrum_distance(3 * u + 1, u, spacing) == pytest.approx(2 * math.log(3))
    wavenumber, ratio = spectrum_ratio(3 * u + 1, u, spacing)
    torch.testing.assert_close(ratio, torch.full_like(wavenumber, 9.0))
    torch.testing.assert_close(wavenumber, log_spectrum(u, spacing)[0])


def test_the_ratio_shows_which_wavelengths_are_missing():
    n = 12
    u = sum(cosine((k, 0), (n, n)) for k in range(1, n)).expand(3, -1, -1)
    smooth = sum(cosine((k, 0), (n, n)) / (1 if k < 5 else 2) for k in range(1, n))
    _, ratio = spectrum_ratio(smooth, u, 0.1)
    torch.testing.assert_close(ratio, torch.tensor([1.0] * 4 + [0.25] * 7, dtype=torch.float64))


def test_the_median_is_not_that_of_a_few_fields():
    u = noise(9, 8, 8)
    outlier = u.clone()
    outlier[0] *= 1e3
    assert spectrum_distance(outlier, u, 0.1) < 0.5


def test_fields_without_power_have_no_logarithm():
    flat = torch.ones(3, 4, 4)
    assert log_spectrum(flat, 0.1)[1].tolist() == [-math.inf] * 3
    assert spectrum_distance(flat, noise(3, 4, 4), 0.1) == math.inf


@pytest.mark.parametrize("compare", [spectrum_distance, spectrum_ratio])
def test_sets_that_cannot_be_compared_are_named(compare):
    with pytest.raises(ValueError, match=r"fields at the same points, got \(2, 4, 4\) and \(2, 4, 5\)"):
        compare(noise(2, 4, 4), noise(2, 4, 5), 0.1)
    with pytest.raises(ValueError, match=r"at least one field, got none of shape \(0, 4, 4\)"):
        compare(noise(2, 4, 4), noise(0, 4, 4), 0.1)
    with pytest.raises(ValueError, match="one positive spacing for each of the 2 axes"):
        compare(noise(2, 4, 4), noise(2, 4, 4), (0.1,))
