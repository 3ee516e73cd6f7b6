"""Named fields between `xarray.Dataset` and tensors.

A Dataset of fields has one variable per field, each over the dimension ``sample`` and the same grid axes, with one
coordinate per axis. A tensor of the same fields has the layout ``(sample, channel, *axes)``: channel c is the c-th
name, ``tensor[s, c, i, j]`` the value at :math:`(x_i, y_j)`. Dimensions are matched by name, so a Dataset may hold
them in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from physflow.config import nearest
from physflow.grid import AXIS_NAMES, TIME, Grid

__all__ = [
    "SAMPLE",
    "SENSOR",
    "check_finite",
    "content_fingerprint",
    "field_names",
    "grid_of",
    "to_dataset",
    "to_tensor",
]

SAMPLE = "sample"
SENSOR = "sensor"
"""The dimension of readings, which are no fields."""
_DESCRIPTIONS = {
    "permeability": {"long_name": "permeability K", "units": "1"},
    "pressure": {"long_name": "pressure p", "units": "1"},
}


def field_names(ds: xr.Dataset) -> tuple[str, ...]:
    """The fields of a Dataset: its numeric variables over ``sample`` and other dimensions, but for ``sensor``."""
    return tuple(
        str(name)
        for name, variable in ds.data_vars.items()
        if SAMPLE in variable.dims
        and SENSOR not in variable.dims
        and variable.ndim > 1
        and variable.dtype.kind in "fiub"
    )


def _variable(ds: xr.Dataset, name: str) -> xr.DataArray:
    if name not in ds.data_vars:
        raise ValueError(f"the dataset has no variable {name!r}; {nearest(name, map(str, ds.data_vars))}")
    variable = ds[name]
    if SAMPLE not in variable.dims:
        raise ValueError(
            f"variable {name!r} has dimensions {variable.dims} and no dimension {SAMPLE!r}; rename the one that counts "
            f"the fields, ds.rename(...={SAMPLE!r}), or add it to a single field, ds.expand_dims({SAMPLE!r})"
        )
    return variable


def grid_of(ds: xr.Dataset, names: Sequence[str] | None = None) -> Grid:
    """The grid of the fields in a Dataset, from their coordinates and the attribute ``centering`` (default ``cells``).

    Arguments:
        ds: A Dataset of fields.
        names: The fields to look at; all by default.

    Raises:
        ValueError: If a variable or a coordinate is missing, the fields' axes differ, or an axis is not uniform.
    """
    names = tuple(names if names is not None else field_names(ds))
    if not names:
        raise ValueError(
            f"the dataset holds no fields over {SAMPLE!r} and a grid; it has variables {list(ds.data_vars)}"
        )
    axes: tuple[str, ...] = ()
    for name in names:
        dims = [str(dim) for dim in _variable(ds, name).dims if dim != SAMPLE]
        # Our own axes come in their order t, x, y, z; foreign ones as the first field has them.
        ours = (TIME, *AXIS_NAMES)
        found = tuple(sorted(dims, key=ours.index) if set(dims) <= set(ours) else dims)
        axes = axes or found
        if set(found) != set(axes):
            raise ValueError(
                f"all fields must lie on one grid: {names[0]!r} has axes {axes}, {name!r} has {found}; name the fields "
                "that you mean (fields=, --fields)"
            )
    for axis in axes:
        if axis not in ds.coords:
            raise ValueError(
                f"the dataset has no coordinate {axis!r}; add the positions of the points, for example "
                f"ds.assign_coords({axis}=(numpy.arange(n) + 0.5) / n)"
            )
    return Grid.from_coordinates(
        *(ds[axis].values for axis in axes), centering=ds.attrs.get("centering", "cells"), axes=axes
    )


def check_finite(name: str, values: torch.Tensor, start: int = 0) -> None:
    """Raise a ValueError that names the first sample of a field in which a value is NaN or infinite.

    Arguments:
        name: The field.
        values: Its values, shape (sample, *axes).
        start: The number of the first of these samples.
    """
    bad = ~torch.isfinite(values)
    if bad.any():
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise ValueError(
            f"field {name!r} has {int(bad.sum())} values that are NaN or infinite, the first in sample "
            f"{start + first[0]} at point {first[1:]}; remove or repair these samples"
        )


def to_tensor(
    ds: xr.Dataset, names: str | Sequence[str] | None = None, dtype: torch.dtype = torch.float64, finite: bool = True
) -> torch.Tensor:
    """The named fields of a Dataset as one tensor of shape (sample, channel, *axes).

    Arguments:
        ds: A Dataset of fields on one uniform grid.
        names: The fields, in channel order; all by default.
        dtype: The type of the result.
        finite: Whether NaN and infinite values are refused.

    Raises:
        ValueError: If a variable, a dimension or a coordinate is missing, the grid is not uniform, or a value is not
            finite.
    """
    names = (names,) if isinstance(names, str) else tuple(names if names is not None else field_names(ds))
    axes = grid_of(ds, names).axes
    channels = [torch.from_numpy(np.array(ds[name].transpose(SAMPLE, *axes).values)).to(dtype) for name in names]
    if finite:
        for name, channel in zip(names, channels, strict=True):
            check_finite(name, channel)
    return torch.stack(channels, dim=1)


def to_dataset(
    tensor: torch.Tensor, names: Sequence[str], grid: Grid, attrs: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """A tensor of fields as a Dataset with one variable a channel, and the grid's coordinates.

    Arguments:
        tensor: Fields of shape (sample, channel, *axes).
        names: One name a channel.
        grid: The grid of the fields.
        attrs: Attributes of the Dataset; ``centering`` is added.

    Raises:
        ValueError: If the tensor's shape does not agree with the names and the grid.
    """
    if tuple(tensor.shape[1:]) != (len(names), *grid.shape):
        raise ValueError(
            f"expected fields of shape (sample, {len(names)}, {', '.join(map(str, grid.shape))}) for {list(names)} on "
            f"this grid, got {tuple(tensor.shape)}"
        )
    values = tensor.detach().cpu().numpy()
    ds = xr.Dataset(
        {name: ((SAMPLE, *grid.axes), values[:, c], _DESCRIPTIONS.get(name, {})) for c, name in enumerate(names)},
        coords={axis: ((axis,), x) for axis, x in zip(grid.axes, grid.coordinates(), strict=True)},
        attrs={**(attrs or {}), "centering": grid.centering},
    )
    return ds


def content_fingerprint(ds: xr.Dataset) -> str:
    """A name for the content of a Dataset: a hash of its fields' names, shapes and types, and of some of its samples.

    Up to 64 samples, evenly spread, are read; other values of the rest alone are not noticed.
    """
    digest = hashlib.sha256()
    for name in field_names(ds):
        field = ds[name].transpose(SAMPLE, ...)
        digest.update(f"{name}{field.dims}{field.shape}{field.dtype}".encode())
        some = np.unique(np.linspace(0, max(0, field.sizes[SAMPLE] - 1), 64).astype(int))[: field.sizes[SAMPLE]]
        digest.update(np.ascontiguousarray(field.isel({SAMPLE: some}).values).tobytes())
    return digest.hexdigest()[:16]
