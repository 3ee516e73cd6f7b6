r"""What draws say that sensors would read, beside what they read.

A draw u says :math:`H_i(u)` of sensor i, and of its reading :math:`H_i(u) + \sigma_i \eta` with the noise
:math:`\eta \sim N(0, 1)`. If the draws are those of the posterior, and the prior, the fields and the noise are as they
were said to be, then a draw and the truth are exchangeable, and over many such problems

* at sensors that were used, :math:`\chi^2 / m`, the mean of :math:`((y_i - H_i(u)) / \sigma_i)^2` over the draws and
  the m sensors, is 1, with a standard deviation of :math:`\sqrt{2 / m}` or less;
* at sensors that were held out, a central interval of 90 % of the predicted readings holds 90 % of the readings, and
  their errors, each over its predicted standard deviation, have a root mean square of 1.

The first alone says little: a field of noise that passes through all readings has it, too.

References:
    A. Gelman, X.-L. Meng, H. Stern, "Posterior predictive assessment of model fitness via realized discrepancies",
    Statistica Sinica 6, 1996, section 2.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import binom

from physflow.fields import SAMPLE, SENSOR
from physflow.metrics import crps

__all__ = ["LEVEL", "Predictions", "expected_inside", "predictions_of"]

Array = NDArray[np.float64]

LEVEL = 0.9
"""The share of the readings that a predictive interval should hold."""
_MEMBERS = 4000
"""At least so many predicted readings a sensor: the draws, each with as many draws of the noise as this takes."""


@dataclass(frozen=True)
class Predictions:
    """Sensors, what they read and what draws say.

    Arguments:
        number: Their numbers in the Dataset, shape (m,).
        line: Their lines in the file, or 0, shape (m,).
        place: Where they are, shape (d, m).
        quantity: What was read, a field or its logarithm, shape (m,).
        observed: The readings y, shape (m,).
        std: The standard deviations of their noise, with the model's own error where that was counted, shape (m,).
        held_out: Which were not used, shape (m,).
        draws: What each draw says without noise, shape (n, m).
        noisy: Predicted readings, with noise, shape (members, m).
    """

    number: NDArray[np.int64]
    line: NDArray[np.int64]
    place: Array
    quantity: NDArray[np.str_]
    observed: Array
    std: Array
    held_out: NDArray[np.bool_]
    draws: Array
    noisy: Array

    def __len__(self) -> int:
        return len(self.observed)

    @property
    def quantities(self) -> list[str]:
        """The quantities in the order in which they first appear."""
        return list(dict.fromkeys(self.quantity.tolist()))

    def chosen(self, which: NDArray[np.bool_]) -> Predictions:
        """Some of the sensors.

        Arguments:
            which: True for those, shape (m,).
        """
        return Predictions(*(getattr(self, f.name)[..., which] for f in dataclasses.fields(self)))

    def interval(self, noise: bool = True) -> Array:
        """The ends of the central interval of 90 %, shape (2, m).

        Arguments:
            noise: Whether of the predicted readings, or of the draws alone.
        """
        ends = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
        return np.quantile(self.noisy if noise else self.draws, ends, axis=0, method="weibull")

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Which readings lie in the interval of the predicted ones, shape (m,)."""
        low, high = self.interval()
        return (low <= self.observed) & (self.observed <= high)

    @property
    def chi_squared(self) -> float:
        r"""The mean of :math:`((y_i - H_i(u)) / \sigma_i)^2` over draws and sensors."""
        return float((((self.observed - self.draws) / self.std) ** 2).mean())

    @property
    def misfits(self) -> Array:
        r"""The error at each sensor over its predicted standard deviation, shape (m,).

        .. math:: (y_i - \bar y_i) \Big/ \sqrt{\tfrac{n + 1}{n} s_i^2 + \sigma_i^2}

        with mean :math:`\bar y_i` and variance :math:`s_i^2` of the n draws; the factor is for the chance of the mean.
        """
        n = len(self.draws)
        variance = (n + 1) / n * self.draws.var(0, ddof=1) + self.std**2
        return np.asarray((self.observed - self.draws.mean(0)) / np.sqrt(variance))

    @property
    def standardised_error(self) -> float:
        """The root mean square of the misfits."""
        return float(np.sqrt((self.misfits**2).mean()))

    @property
    def crps(self) -> float:
        """The mean continuous ranked probability score of the predicted readings, in the unit of the quantity."""
        return float(crps(torch.from_numpy(self.noisy), torch.from_numpy(self.observed), fair=False).mean())

    def crps_of(self, others: Array) -> float:
        """The mean score of a prediction that knows no place: the readings of other sensors of the quantity.

        Arguments:
            others: Their readings, at least two.
        """
        ensemble = torch.from_numpy(others)[:, None].expand(-1, len(self))
        return float(crps(ensemble, torch.from_numpy(self.observed)).mean())


def predictions_of(ds: xr.Dataset) -> Predictions:
    """The sensors of a Dataset of draws.

    Arguments:
        ds: Draws with their sensors (`physflow.sensors.with_sensors`). Draws whose predictions are not finite are left
            out.

    Raises:
        ValueError: If the Dataset holds no sensors, or fewer than two draws.
    """
    needed = ("observed", "observed_std", "predicted", "held_out", "sensor_field", "sensor_log")
    if missing := [name for name in needed if name not in ds]:
        raise ValueError(f"the draws have no {', '.join(missing)}; add their sensors, physflow.sensors.with_sensors")
    draws = ds["predicted"].transpose(SAMPLE, SENSOR).values.astype(np.float64)
    draws = draws[np.isfinite(draws).all(1)]
    if len(draws) < 2:
        raise ValueError(f"expected two draws or more with finite predictions, got {len(draws)}")
    std = ds["observed_std"].values
    if "model_error" in ds:
        # What is not known of a sensor was not counted either.
        std = np.hypot(std, np.nan_to_num(ds["model_error"].values))
    places = [f"sensor_{axis}" for axis in ds.dims if f"sensor_{axis}" in ds]
    repeated = np.tile(draws, (-(-_MEMBERS // len(draws)), 1))
    log = ds["sensor_log"].values.astype(bool)
    return Predictions(
        number=np.arange(len(std)),
        line=ds["sensor_line"].values if "sensor_line" in ds else np.zeros(len(std), int),
        place=np.array([ds[name].values for name in places]).reshape(len(places), len(std)),
        quantity=np.where(log, "log ", "").astype(np.str_) + ds["sensor_field"].values.astype(np.str_),
        observed=ds["observed"].values,
        std=std,
        held_out=ds["held_out"].values.astype(bool),
        draws=draws,
        noisy=repeated + std * np.random.default_rng(0).standard_normal(repeated.shape),
    )


def expected_inside(m: int) -> tuple[int, int]:
    """How many of m independent readings lie in their intervals of 90 %, but for one time in twenty.

    Arguments:
        m: The number of readings.

    Returns:
        The least and the largest number, of the binomial law.
    """
    low, high = binom.interval(0.95, m, LEVEL)
    return int(low), int(high)
