r"""Selection of samples by a score, and what it does to their law.

Of many samples those of the least score are kept. A score that grows with the field, as a raw residual does with the
contrast of the permeability, then prefers dull fields: the law of what is kept is another one. The error of the
solution, relative and after the fields' own scale is taken out, does so least, and is the default. Either way the shift
of the fields' statistics is stated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from physflow.config import nearest
from physflow.fields import SAMPLE

__all__ = ["Shift", "candidates", "selected", "shift_of"]


_ROUNDING = 1e-6
"""More than the error of solutions that are stored in single precision."""


@dataclass(frozen=True)
class Shift:
    """How the statistics of a field change from all samples to those that are kept.

    Arguments:
        field: The field; the logarithm of one that is positive.
        mean: The difference of the means over points and samples, over the standard deviation of all.
        std: The ratio of the standard deviations over points and samples.
        spread: The ratio of the standard deviations over samples, root mean square over points: about 1 where no
            variety is lost. NaN, as the others, for fewer than two samples.
    """

    field: str
    mean: float
    std: float
    spread: float

    def __str__(self) -> str:
        return (
            f"{self.field}: mean moved by {self.mean:+.3f} standard deviations, standard deviation times "
            f"{self.std:.3f}, spread over the samples times {self.spread:.3f}"
        )


def candidates(n: int, share: float) -> int:
    """How many samples to draw so that n are the given share of them.

    Raises:
        ValueError: If the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of the samples to keep must lie in (0, 1], got {share}")
    return math.ceil(n / share - 1e-9)


def selected(ds: xr.Dataset, n: int, by: str, fields: Sequence[str], show: bool = False) -> xr.Dataset:
    """The n samples of the least score, in their order.

    Arguments:
        ds: Samples with their scores.
        n: How many to keep.
        by: The score.
        fields: The fields whose shift is stated.
        show: Whether to print the shift as well.

    Returns:
        The samples, with attributes that say of how many they are, by which score, and the shift of each field.

    Raises:
        ValueError: If there is no such score, or fewer samples than wanted have one.
    """
    scores = [str(name) for name, variable in ds.data_vars.items() if variable.dims == (SAMPLE,)]
    if by not in scores:
        raise ValueError(f"cannot select by {by!r}; {nearest(by, scores) if scores else 'the samples have no scores'}")
    values = ds[by].values
    known = int(np.isfinite(values).sum())
    if known < n:
        raise ValueError(f"{n} samples are wanted, but only {known} of {len(values)} have a finite {by}: draw more")
    if by == "solution_error" and known and np.nanmax(values) < _ROUNDING:
        raise ValueError(
            f"every solution_error is below {_ROUNDING:g}, which is rounding, as after completion: to select by it "
            "would be to draw lots; select without completing, or by another score"
        )
    kept = ds.isel({SAMPLE: np.sort(np.argsort(values, kind="stable")[:n])})
    shifts = "; ".join(map(str, shift_of(ds, kept, fields)))
    if show:
        print(f"{n} of {len(values)} samples by {by}; {shifts}")
    return kept.assign_attrs(selected_from=len(values), selected_by=by, selection_shift=shifts)


def shift_of(before: xr.Dataset, after: xr.Dataset, fields: Sequence[str]) -> tuple[Shift, ...]:
    """The shift of each field from all samples to those kept."""
    return tuple(_shift(name, before[name].values, after[name].values) for name in fields)


def _shift(name: str, before: np.ndarray, after: np.ndarray) -> Shift:
    before, after = (u[np.isfinite(u).reshape(len(u), -1).all(1)].astype(np.float64) for u in (before, after))
    if len(before) and before.min() > 0:
        name, before, after = f"log {name}", np.log(before), np.log(after)
    if len(before) < 2 or len(after) < 2 or (std := before.std()) == 0:
        return Shift(name, math.nan, math.nan, math.nan)
    # Unbiased variances: few samples of the same law must not look narrower than many.
    spread = before.var(0, ddof=1).mean()
    ratio = float((after.var(0, ddof=1).mean() / spread) ** 0.5) if spread else math.nan
    return Shift(name, float((after.mean() - before.mean()) / std), float(after.std() / std), ratio)
