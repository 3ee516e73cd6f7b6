r"""What pairs of log K and p score: physics, and the distance of their law from that of the data.

Every distance is one between two sets of as many pairs, the samples and fresh pairs of the law, so its floor is that of
two such sets of the law itself. Fields are standardised, log K and p each by its mean and its standard deviation over
all points of the training pairs.

=========================== ============================================================================================
w1_log_permeability         :math:`W_1` of the values of log K at all points
spectrum_log_permeability   :math:`(\frac{1}{M} \sum_m (\log P_m - \log Q_m)^2)^{1/2}`, P and Q the medians of the
                            radial spectra over the samples, over whole shells: 0.1 is a tenth in power
spectrum_pressure           the same of p
coefficients_w1             mean over the modes of the generator of :math:`W_1` of the coefficient
                            :math:`\xi_i = \phi_i^T \log K / \sqrt{\lambda_i}`, in its standard deviations
sliced_w2                   sliced :math:`W_2` of the pairs as vectors
std_ratio_*                 standard deviation over that of the training pairs
nearest_ratio               median ratio of the distances to the nearest training and the nearest held-out pair
=========================== ============================================================================================
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from physflow.data.darcy import FIELDS
from physflow.data.karhunen_loeve import UNIFORM_RANGE, KarhunenLoeve
from physflow.fields import SAMPLE, to_tensor
from physflow.judgement import judgeable
from physflow.metrics import nearest_ratio, radial_spectrum, sliced_wasserstein
from physflow.pde import from_dataset

__all__ = ["SCORED", "Judge", "coefficients_distance", "log_spectrum", "quartiles", "spectrum_distance", "w1"]

SCORED = ("residual_mse", "strong_residual_mse", "solution_error")
"""The scores that a row has, where the law has them."""


def w1(x: Tensor, y: Tensor) -> Tensor:
    r""":math:`W_1` of two sets of as many numbers, of each coordinate apart: the mean distance of sorted values.

    Arguments:
        x: Numbers, shape (n, ...).
        y: As many, same shape.

    Returns:
        The distances, shape (...).

    Raises:
        ValueError: If the shapes differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"expected two sets of one shape, got {tuple(x.shape)} and {tuple(y.shape)}: take as many")
    return (x.double().sort(0).values - y.double().sort(0).values).abs().mean(0)


def log_spectrum(fields: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    """Wavenumbers of the whole shells, and the logarithm of the median power of fields (n, nx, ny) in each."""
    wavenumber, power = radial_spectrum(fields, spacing)
    # The shell of the shortest wave along an axis, and all beyond it, lie partly outside the grid's wavenumbers.
    whole = wavenumber < (1 - 1e-6) * math.pi / spacing
    # A mean would be that of a few samples.
    return wavenumber[whole], power.median(0).values[whole].log()


def spectrum_distance(x: Tensor, y: Tensor, spacing: float) -> float:
    """The root mean square, over the shells, of the difference of the log spectra; see the module's docstring."""
    return float((log_spectrum(x, spacing)[1] - log_spectrum(y, spacing)[1]).square().mean().sqrt())


def coefficients_distance(x: Tensor, y: Tensor, field: KarhunenLoeve) -> float:
    r"""The mean over the modes of :math:`W_1` of the coefficient, in its standard deviations.

    Arguments:
        x: Values of log K, shape (n, nx, ny).
        y: As many of the law.
        field: The law of log K.
    """
    low, high = UNIFORM_RANGE
    std = (high - low) / math.sqrt(12) if field.coefficients == "uniform" else 1.0
    modes = torch.from_numpy(field.eigenvectors / (std * np.sqrt(field.eigenvalues)))
    return float(w1(x.flatten(1).double() @ modes, y.flatten(1).double() @ modes).mean())


def quartiles(name: str, values: xr.DataArray) -> dict[str, float]:
    """Median, quartiles and 95 % quantile of a score, over the samples that have one."""
    known = values.values[np.isfinite(values.values)]
    found = np.quantile(known, [0.5, 0.25, 0.75, 0.95]) if known.size else np.full(4, np.nan)
    return dict(zip((name, f"{name}_q1", f"{name}_q3", f"{name}_p95"), map(float, found), strict=True))


class Judge:
    """Scores sets of pairs beside one law.

    Arguments:
        field: The law of log K.
        training: The training pairs.
        held_out: As many fresh pairs of the law, which nothing has seen; samples are compared with the first ones.

    Attributes:
        spacing: The distance of neighbouring points.
    """

    def __init__(self, field: KarhunenLoeve, training: xr.Dataset, held_out: xr.Dataset) -> None:
        self.field, self.spacing = field, field.grid.spacing[0]
        # These sets are large: they stay in the precision of the files.
        x = _logarithmic(training, torch.float32)
        self.mean = x.mean((0, 2, 3), keepdim=True, dtype=torch.float64)
        self.std = x.std((0, 2, 3), correction=0, keepdim=True).double()
        self.training = self._standardised(x).float()
        self.held_out = self._standardised(_logarithmic(held_out, torch.float32)).float()

    def row(self, ds: xr.Dataset) -> dict[str, Any]:
        """All that pairs score.

        Arguments:
            ds: Pairs with their scores as variables. Those that are no fields are left out; the row says how many.
        """
        found: dict[str, Any] = {}
        for name in SCORED:
            if name in ds:
                found |= quartiles(name, ds[name])
        good = judgeable(from_dataset(ds), to_tensor(ds, FIELDS, finite=False)).numpy()
        found["missing"] = int((~good).sum())
        if not good.any():
            return found
        fields = _logarithmic(ds.isel({SAMPLE: np.flatnonzero(good)}))
        x, y = self._standardised(fields), self.held_out[: len(fields)].double()
        ratios = (fields.std((0, 2, 3), correction=0) / self.std.flatten()).tolist()
        law = (y * self.std + self.mean)[:, 0]
        return found | {
            "w1_log_permeability": float(w1(x[:, 0].flatten(), y[:, 0].flatten())),
            "spectrum_log_permeability": spectrum_distance(x[:, 0], y[:, 0], self.spacing),
            "spectrum_pressure": spectrum_distance(x[:, 1], y[:, 1], self.spacing),
            "coefficients_w1": coefficients_distance(fields[:, 0], law, self.field),
            "sliced_w2": sliced_wasserstein(x, y, generator=torch.Generator().manual_seed(0)),
            "std_ratio_log_permeability": ratios[0],
            "std_ratio_pressure": ratios[1],
            "nearest_ratio": nearest_ratio(x.flatten(1), self.training.flatten(1), self.held_out.flatten(1)).median,
        }

    def _standardised(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _logarithmic(ds: xr.Dataset, dtype: torch.dtype = torch.float64) -> Tensor:
    """(log K, p), shape (n, 2, nx, ny)."""
    K, p = to_tensor(ds, FIELDS, dtype).unbind(1)
    return torch.stack([K.log(), p], 1)
