r"""Power spectra of fields on uniform grids.

A field :math:`u` with :math:`n_a` points of spacing :math:`h_a` along axis :math:`a` spans the lengths
:math:`L_a = n_a h_a`. Fields of a boundary value problem are not periodic: a Fourier transform would see a
jump between opposite walls, whose power :math:`\propto \kappa^{-2}` buries the spectrum of a smooth field.
The type-II discrete cosine transform continues the field evenly about each wall, half a spacing beyond the
outer points, so that there is no jump. Its orthonormal coefficients :math:`\hat u_k` belong to

.. math:: \prod_a \cos\left(\kappa_a (x_a + h_a / 2)\right), \qquad \kappa_a = \pi k_a / L_a, \quad
          k_a = 0, \dots, n_a - 1,

with :math:`x_a` counted from the first point. The radial spectrum sums their power over the shells of
:math:`\kappa = |(\kappa_a)|` around multiples of :math:`\Delta = \pi / \max_a L_a`,

.. math:: P_m = \frac{1}{N} \sum_{k \ne 0,\; |\kappa_k / \Delta - m| \le 1/2} \hat u_k^2, \qquad
          \sum_m P_m = \frac{1}{N} \sum_i (u_i - \bar u)^2 \quad \text{(Parseval)},

where :math:`N = \prod_a n_a`. A grid has no modes of :math:`\kappa_a \ge \pi / h_a`: the shells that reach beyond the
lowest of these bounds, into the corners, are not whole. Two sets of fields are compared over the whole shells, by the
medians :math:`\tilde P_m` and :math:`\tilde Q_m` of the spectra of each set: means would be those of a few fields.

References:
    Denis, Cote and Laprise, "Spectral decomposition of two-dimensional atmospheric fields on limited-area
    domains using the discrete cosine transform (DCT)", Monthly Weather Review 130, 2002.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from scipy import fft
from torch import Tensor

__all__ = ["log_spectrum", "radial_spectrum", "spectrum_distance", "spectrum_ratio"]


def radial_spectrum(field: Tensor, spacing: float | Sequence[float]) -> tuple[Tensor, Tensor]:
    r"""The isotropic power spectrum of each field of a batch.

    Arguments:
        field: Fields :math:`u` of shape (batch, *axes), real, in any unit.
        spacing: The distance :math:`h` of neighbouring points, in the unit of length: one for all axes or
            one an axis.

    Returns:
        The wavenumbers :math:`m \Delta` of shape (bins,), in radians per unit of length (a wavelength is
        :math:`2\pi / \kappa`), and the power :math:`P_m` of shape (batch, bins), in the unit of the field
        squared. The mean is no part of it, and shells that hold no mode are left out. Both have the field's
        device and type (float64 for integers).

    Raises:
        ValueError: If the field has no axis of two points, or the spacings do not fit the axes.
    """
    shape = tuple(field.shape[1:])
    h = _spacings(spacing, len(shape))
    if field.is_complex():
        raise ValueError(f"expected real fields, got {field.dtype}; give the real and imaginary part one by one")
    if max(shape, default=0) < 2 or min(shape) < 1:
        raise ValueError(
            "expected fields of shape (batch, *axes) with two points along some axis, got "
            f"{tuple(field.shape)}; add the batch axis to a single field: field[None]"
        )
    if len(h) != len(shape) or not all(math.isfinite(s) and s > 0 for s in h):
        raise ValueError(f"expected one positive spacing for each of the {len(shape)} axes, got {spacing}")

    values = field.detach().to("cpu", torch.float64).numpy()
    u_hat = fft.dctn(values, type=2, norm="ortho", axes=range(1, values.ndim)) if len(values) else values
    power = torch.from_numpy(u_hat).square().flatten(1) / math.prod(shape)

    lengths = [n * s for n, s in zip(shape, h, strict=True)]
    # Along an axis of a single point there is no mode, so its length sets no scale.
    longest = max(length for n, length in zip(shape, lengths, strict=True) if n > 1)
    # (kappa / Delta)^2 is exact for the modes along the longest axis: none can slip into the next shell.
    squares = [(np.arange(n) * (longest / length)) ** 2 for n, length in zip(shape, lengths, strict=True)]
    shell = np.floor(np.sqrt(reduce(np.add.outer, squares)).ravel()[1:] + 0.5)
    m, index = np.unique(shell, return_inverse=True)

    dtype = field.dtype if field.is_floating_point() else torch.float64
    wavenumber = torch.from_numpy(m * (math.pi / longest))
    spectrum = power.new_zeros(len(values), len(m)).index_add_(1, torch.from_numpy(index), power[:, 1:])
    return wavenumber.to(field.device, dtype), spectrum.to(field.device, dtype)


def log_spectrum(fields: Tensor, spacing: float | Sequence[float]) -> tuple[Tensor, Tensor]:
    r"""The logarithm of the median spectrum of a set of fields, over the whole shells.

    Arguments:
        fields: Fields of shape (n, *axes), n at least 1, real.
        spacing: As of `radial_spectrum`.

    Returns:
        The wavenumbers of the whole shells, shape (bins,), and :math:`\log \tilde P_m`, same shape: -infinity where
        half of the fields or more have no power. Of an even number of fields the median is the lower of the middle two.

    Raises:
        ValueError: If there are no fields, or as of `radial_spectrum`.
    """
    wavenumber, power = _median_spectrum(fields, spacing)
    return wavenumber, power.log()


def spectrum_distance(x: Tensor, y: Tensor, spacing: float | Sequence[float]) -> float:
    r"""The root mean square difference of the logarithms of two median spectra.

    .. math:: \Big(\frac1M \sum_{m=1}^{M} (\log \tilde P_m - \log \tilde Q_m)^2\Big)^{1/2}

    over the M whole shells: 0.1 is about a tenth in power, at all wavelengths alike.

    Arguments:
        x: Fields of shape (n, *axes), real.
        y: Fields at the same points, shape (m, *axes).
        spacing: As of `radial_spectrum`.

    Returns:
        The distance, without unit.

    Raises:
        ValueError: If a set is empty, the axes differ, or as of `radial_spectrum`.
    """
    _check_axes(x, y)
    return float((log_spectrum(x, spacing)[1] - log_spectrum(y, spacing)[1]).square().mean().sqrt())


def spectrum_ratio(x: Tensor, y: Tensor, spacing: float | Sequence[float]) -> tuple[Tensor, Tensor]:
    r"""The power of one set of fields over that of another, shell by shell.

    Arguments:
        x: Fields of shape (n, *axes), real: samples.
        y: Fields at the same points, shape (m, *axes): data.
        spacing: As of `radial_spectrum`.

    Returns:
        The wavenumbers of the whole shells, shape (bins,), and :math:`\tilde P_m / \tilde Q_m`, same shape, without
        unit: below 1 where the samples are too smooth.

    Raises:
        ValueError: If a set is empty, the axes differ, or as of `radial_spectrum`.
    """
    _check_axes(x, y)
    wavenumber, power = _median_spectrum(x, spacing)
    return wavenumber, power / _median_spectrum(y, spacing)[1]


def _median_spectrum(fields: Tensor, spacing: float | Sequence[float]) -> tuple[Tensor, Tensor]:
    """The wavenumbers of the whole shells, and the median power in each."""
    if fields.shape[:1] == (0,):
        raise ValueError(f"expected at least one field, got none of shape {tuple(fields.shape)}")
    wavenumber, power = radial_spectrum(fields, spacing)
    shape = fields.shape[1:]
    axes = [(n, h) for n, h in zip(shape, _spacings(spacing, len(shape)), strict=True) if n > 1]
    half_shell = 0.5 * math.pi / max(n * h for n, h in axes)
    # A shell that ends at the first missing mode does not hold it; the tolerance is for single precision.
    whole = wavenumber + half_shell <= (1 + 1e-6) * min(math.pi / h for _, h in axes)
    return wavenumber[whole], power.median(0).values[whole]


def _spacings(spacing: float | Sequence[float], axes: int) -> tuple[float, ...]:
    """One spacing an axis."""
    return (float(spacing),) * axes if isinstance(spacing, int | float) else tuple(float(s) for s in spacing)


def _check_axes(x: Tensor, y: Tensor) -> None:
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"expected fields at the same points, got {tuple(x.shape)} and {tuple(y.shape)}")
