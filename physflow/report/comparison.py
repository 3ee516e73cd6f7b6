"""What a report compares: the fields that data and samples share, and the rows of a score.

Data and samples are Datasets of the same fields over ``sample`` and a grid. A field that is positive in the data is
compared by its logarithm. Beside a field ``name``, or a score, the samples may hold ``name_completed``: the same after
the solution fields were recomputed from the sampled inputs of the equation.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from physflow.config import nearest
from physflow.fields import SAMPLE, field_names, grid_of
from physflow.grid import TIME, Grid

__all__ = [
    "COMPLETED",
    "LABELS",
    "Field",
    "ScoreRow",
    "compare",
    "plain",
    "score_names",
    "score_rows",
    "spread",
]

Array = NDArray[np.float64]

COMPLETED = "_completed"
"""The suffix of a field, or of a score, after completion."""
LABELS = {
    "residual_mse": "mean squared residual",
    "strong_residual_mse": "mean squared residual, strong form",
    "relative_residual": "relative residual",
    "solution_error": "solution error",
    "mass_imbalance": "mass imbalance",
}
"""The headings of the known scores (`physflow.pde.score`), in their order."""
VALUES = 8_000_000
"""At most so many values of a field are compared: those of the first samples."""


@dataclass(frozen=True)
class Field:
    """One field of data and samples, as arrays of shape (sample, *axes)."""

    name: str
    label: str
    """The name in words."""
    positive: bool
    """Whether the data are positive everywhere: then logarithms are compared."""
    data: Array
    generated: Array
    completed: Array | None
    data_grid: Grid
    generated_grid: Grid

    @property
    def quantity(self) -> str:
        """What is compared, in words: the field or its logarithm."""
        return f"log {self.label}" if self.positive else self.label

    def compared(self, u: Array) -> Array:
        """The logarithm of values of a positive field, else the values; NaN where there is none."""
        if self.positive:
            return np.log(u, where=np.isfinite(u) & (u > 0), out=np.full_like(u, np.nan))
        return np.where(np.isfinite(u), u, np.nan)

    def panels(self) -> list[Field]:
        """The field as it can be drawn, over one or two axes: instants of three, and of a body the middle layer.

        Of a field over time and two axes these are the first instant, which is given and not solved for, and the last.
        """
        if self.data_grid.ndim < 3:
            return [self]
        if TIME not in self.data_grid.axes:
            middles = [grid.shape[-1] // 2 for grid in (self.data_grid, self.generated_grid)]
            return [self._cut(f"middle of {self.data_grid.axes[-1]}", -1, *middles)]
        first = self._cut(f"t = {self.data_grid.bounds[0][0]:g}", 1, 0, 0)
        return [dataclasses.replace(first, completed=None), self.last_instant()]

    def last_instant(self) -> Field:
        """The field over space alone, at the last instant if it has time."""
        if self.data_grid.axes[0] != TIME or self.data_grid.ndim == 1:
            return self
        return self._cut(f"t = {self.data_grid.bounds[0][1]:g}", 1, -1, -1)

    def _cut(self, words: str, axis: int, of_data: int, of_generated: int) -> Field:
        """The field at one place along an axis, which is counted with that of the samples."""

        def without(grid: Grid) -> Grid:
            keep = [k for k in range(grid.ndim) if k != (axis - 1 if axis > 0 else grid.ndim + axis)]
            shape, bounds = tuple(grid.shape[k] for k in keep), tuple(grid.bounds[k] for k in keep)
            return Grid(shape, bounds, grid.centering, tuple(grid.axes[k] for k in keep))

        def cut(u: Array, at: int) -> Array:
            found: Array = np.take(u, at, axis=axis)
            return found

        completed = self.completed
        return dataclasses.replace(
            self,
            label=f"{self.label}, {words}",
            data=cut(self.data, of_data),
            generated=cut(self.generated, of_generated),
            completed=None if completed is None else cut(completed, of_generated),
            data_grid=without(self.data_grid),
            generated_grid=without(self.generated_grid),
        )

    def series(self) -> list[tuple[str, Array, Grid]]:
        """The compared quantity as (name, values, grid): of the data, the samples, and the completed samples."""
        every = [("data", self.data, self.data_grid), ("generated", self.generated, self.generated_grid)]
        if self.completed is not None:
            every.append(("completed", self.completed, self.generated_grid))
        return [(name, self.compared(u), grid) for name, u, grid in every]


def compare(truth: xr.Dataset, samples: xr.Dataset, names: list[str] | None = None) -> list[Field]:
    """The fields of the data beside those of the samples.

    Arguments:
        truth: The data.
        samples: The generated fields; there may be none.
        names: The fields to compare; all those of the data by default.

    Raises:
        ValueError: If the data hold no sample or values that are not finite, data or samples lack a field, or the
            fields have more than three axes.
    """
    for name in names or ():
        if name not in truth.data_vars:
            raise ValueError(f"the data have no field {name!r}; {nearest(name, map(str, truth.data_vars))}")
    names = names or list(field_names(truth))
    for name in names:
        if name not in samples.data_vars:
            raise ValueError(
                f"the samples lack the field {name!r} of the data, they hold {[str(n) for n in samples.data_vars]}; "
                "if the model generates some fields only, compare with these: truth[[...]]"
            )
    grids = grid_of(truth, names), grid_of(samples, names)
    for grid in grids:
        if grid.ndim > 3:
            raise ValueError(f"a report shows fields over one to three axes, got {grid.axes}; take slices first")
    if truth.sizes[SAMPLE] == 0:
        raise ValueError("the data hold no samples, so there is nothing to compare with")
    return [_field(truth, samples, name, *grids) for name in names]


def _field(truth: xr.Dataset, samples: xr.Dataset, name: str, data_grid: Grid, generated_grid: Grid) -> Field:
    data = _values(truth, name, data_grid)
    if not np.isfinite(data).all():
        raise ValueError(
            f"field {name!r} of the data has {int((~np.isfinite(data)).sum())} values that are NaN or infinite; "
            "`physflow validate` says where"
        )
    completed = name + COMPLETED
    return Field(
        name=name,
        label=str(truth[name].attrs.get("long_name", name.replace("_", " "))),
        positive=bool(data.min() > 0),
        data=data,
        generated=_values(samples, name, generated_grid),
        completed=_values(samples, completed, generated_grid) if completed in samples.data_vars else None,
        data_grid=data_grid,
        generated_grid=generated_grid,
    )


def _values(ds: xr.Dataset, name: str, grid: Grid) -> Array:
    held = max(1, VALUES // math.prod(grid.shape))
    return ds[name].isel({SAMPLE: slice(held)}).transpose(SAMPLE, *grid.axes).values.astype(np.float64)


def spread(u: Array) -> Array:
    """The standard deviation over the samples at each point, NaN where fewer than two samples have a value."""
    count = np.isfinite(u).sum(axis=0)
    mean = np.nansum(u, axis=0) / np.maximum(count, 1)
    variance = np.nansum((u - mean) ** 2, axis=0) / np.maximum(count - 1, 1)
    return np.where(count > 1, np.sqrt(variance), np.nan)


@dataclass(frozen=True)
class ScoreRow:
    """The finite values of a score for one kind of fields, and how many values were not finite."""

    name: str
    kind: Literal["anchor", "generated", "completed"]
    values: Array
    missing: int

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median, upper quartile; NaN if there are no values."""
        if not self.values.size:
            return math.nan, math.nan, math.nan
        q1, median, q3 = np.quantile(self.values, [0.25, 0.5, 0.75])
        return float(q1), float(median), float(q3)


def score_names(samples: xr.Dataset, anchors: xr.Dataset | None = None) -> list[str]:
    """The scores that the samples or the anchors hold, without the suffix of completion; the known ones first."""
    found = [
        str(name).removesuffix(COMPLETED)
        for name, variable in samples.data_vars.items()
        if variable.dims == (SAMPLE,) and variable.dtype.kind == "f"
    ]
    if anchors is not None:
        found += [str(name) for name, variable in anchors.data_vars.items() if set(variable.dims) == {"anchor", SAMPLE}]
    found = list(dict.fromkeys(found))
    return [name for name in LABELS if name in found] + [name for name in found if name not in LABELS]


def score_rows(samples: xr.Dataset, anchors: xr.Dataset | None, score: str) -> list[ScoreRow]:
    """The rows of a score: its anchors, then the samples as generated, then after completion."""
    rows: list[tuple[str, Literal["anchor", "generated", "completed"], NDArray]] = []
    if anchors is not None and score in anchors.data_vars:
        array = anchors[score].transpose("anchor", SAMPLE)
        rows += [(str(name), "anchor", row) for name, row in zip(array["anchor"].values, array.values, strict=True)]
    if score in samples.data_vars:
        rows.append(("generated", "generated", samples[score].values))
    if score + COMPLETED in samples.data_vars:
        rows.append(("generated, completed", "completed", samples[score + COMPLETED].values))
    return [
        ScoreRow(name, kind, u[np.isfinite(u)].astype(np.float64), int((~np.isfinite(u)).sum()))
        for name, kind, u in rows
    ]


def plain(words: str) -> str:
    """Words in which a dollar sign starts no formula when matplotlib draws them."""
    return words.replace("$", r"\$")
