"""Fields between Datasets and tensors: exact round trips, any order of dimensions, errors that help."""

import numpy as np
import pytest
import torch
import xarray as xr

from physflow.fields import content_fingerprint, field_names, grid_of, to_dataset, to_tensor
from physflow.grid import Grid

GRID = Grid((4, 3), ((0, 2), (0, 1)))
NAMES = ("permeability", "pressure")


def dataset(samples=5, grid=GRID):
    values = torch.arange(samples * 2 * 12, dtype=torch.float64).view(samples, 2, *grid.shape)
    return values, to_dataset(values, NAMES, grid, {"source": "wells"})


@pytest.mark.parametrize("samples", [0, 1, 5])
def test_round_trip(samples):
    values, ds = dataset(samples)
    assert torch.equal(to_tensor(ds, NAMES), values)
    assert grid_of(ds) == GRID
    assert ds.attrs == {"source": "wells", "centering": "cells"}
    assert field_names(ds) == NAMES


def test_channels_follow_the_names_asked_for():
    values, ds = dataset()
    assert torch.equal(to_tensor(ds, NAMES[::-1]), values.flip(1))
    assert torch.equal(to_tensor(ds, ["pressure"]), values[:, 1:])


def test_dimensions_are_matched_by_name():
    values, ds = dataset()
    assert torch.equal(to_tensor(ds.transpose("y", "sample", "x")), values)
    mixed = ds.assign(pressure=ds["pressure"].transpose("y", "x", "sample"))
    assert torch.equal(to_tensor(mixed), values)


def test_foreign_axes_keep_their_names():
    ds = xr.Dataset(
        {"t2m": (("sample", "lat", "lon"), np.zeros((2, 3, 4)))}, coords={"lat": [0, 1, 2], "lon": np.arange(4)}
    )
    grid = grid_of(ds)
    assert grid.axes == ("lat", "lon")
    assert to_dataset(to_tensor(ds), ["t2m"], grid)["t2m"].dims == ("sample", "lat", "lon")


def test_values_per_sample_are_no_fields():
    _, ds = dataset()
    assert (
        field_names(ds.assign(residual_mse=("sample", np.zeros(5)), name=(("sample", "x"), np.full((5, 4), "a"))))
        == NAMES
    )


def test_fingerprint_of_the_content():
    _, ds = dataset()
    assert content_fingerprint(ds) == content_fingerprint(ds.copy(deep=True))
    assert content_fingerprint(ds) != content_fingerprint(ds + 1)
    assert content_fingerprint(ds.isel(sample=slice(4))) != content_fingerprint(ds)
    assert content_fingerprint(ds.rename(pressure="p")) != content_fingerprint(ds)


def bad(change):
    return lambda: to_tensor(change(dataset()[1]), NAMES)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (bad(lambda ds: ds.drop_vars("pressure")), "no variable 'pressure'; .*valid: permeability"),
        (bad(lambda ds: ds.drop_vars("x")), r"no coordinate 'x'; add .* ds.assign_coords\(x="),
        (bad(lambda ds: ds.rename(sample="n")), "no dimension 'sample'; rename the one that counts"),
        (bad(lambda ds: ds.isel(sample=0)), r"ds.expand_dims\('sample'\)"),
        (bad(lambda ds: ds.assign_coords(x=[0, 1, 2, 4])), "coordinate 'x' is not uniform .* steps range from 1 to 2"),
        (
            bad(lambda ds: ds.assign_coords(x=[3, 2, 1, 0])),
            r"coordinate 'x' is not increasing but falls; sort the data, ds.sortby\('x'\)",
        ),
        (
            bad(lambda ds: ds.assign(pressure=ds["pressure"].isel(x=0))),
            r"on one grid: 'permeability' has axes \('x', 'y'\)",
        ),
        (
            bad(lambda ds: ds.where(ds["permeability"] != 3)),
            r"field 'permeability' has 1 values that are NaN or infinite, the first in sample 0 at point \(1, 0\)",
        ),
        (lambda: to_dataset(torch.zeros(1, 2, 3, 4), NAMES, GRID), r"shape \(sample, 2, 4, 3\) .* got \(1, 2, 3, 4\)"),
        (lambda: grid_of(xr.Dataset({"a": ("sample", [1.0])})), "holds no fields"),
    ],
)
def test_bad_input_says_what_was_expected(action, message):
    with pytest.raises(ValueError, match=message):
        action()
