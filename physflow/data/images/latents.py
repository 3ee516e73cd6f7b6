"""Latents of images under an autoencoder, from HDF5: what transformers for ImageNet are trained on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from physflow.config import nearest
from physflow.data.images.pixels import grid_of_pixels, labelled
from physflow.fields import SAMPLE

__all__ = ["latents", "to_latents"]

_AXES = (SAMPLE, "channel", "row", "column")


def latents(path: str | os.PathLike[str], name: str | None = None, labels: str | None = None) -> xr.Dataset:
    """Latents of an HDF5 file, read when they are used.

    Arguments:
        path: The file, of numbers (sample, channel, row, column) in float16, float32 or float64, and perhaps of labels,
            whole numbers (sample).
        name: The dataset of the latents; the only one of four axes by default.
        labels: That of the labels; the only one of whole numbers and one axis by default, if there is one.

    Returns:
        The fields ``latent_0``, ``latent_1`` and so on over (sample, x, y), as they are stored, and ``label`` over
        (sample) if there are labels. Close it, or use it in a ``with`` statement.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no HDF5 file, or does not hold what was asked for.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}; expected an HDF5 file of latents")
    try:
        ds = xr.open_dataset(path, engine="h5netcdf", phony_dims="access")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as HDF5 ({error}); is it damaged, or of another kind?") from error
    try:
        return _fields(ds, path, name, labels)
    except ValueError:
        ds.close()
        raise


def to_latents(ds: xr.Dataset) -> NDArray[np.floating[Any]]:
    """The latents of a Dataset of fields, as a decoder wants them: the inverse of `latents`.

    Arguments:
        ds: The fields ``latent_0``, ``latent_1`` and so on over (sample, x, y).

    Returns:
        The latents, shape (sample, channel, row, column).

    Raises:
        ValueError: If the Dataset holds no latents.
    """
    names = [f"latent_{c}" for c in range(sum(str(name).startswith("latent_") for name in ds))]
    if not names or set(names) - set(ds) or {*ds[names[0]].dims} != {SAMPLE, "x", "y"}:
        raise ValueError(
            f"expected the fields 'latent_0', 'latent_1' and so on over (sample, x, y), got "
            f"{[str(name) for name in ds]} over {tuple(ds.sizes)}"
        )
    stacked = np.stack([ds[name].transpose(SAMPLE, "y", "x").values for name in names], axis=1)
    return np.ascontiguousarray(np.flip(stacked, axis=2))


def _fields(ds: xr.Dataset, path: str | os.PathLike[str], name: str | None, labels: str | None) -> xr.Dataset:
    shapes = {str(key): variable.shape for key, variable in ds.variables.items()}
    fits = [key for key in shapes if ds[key].ndim == 4 and ds[key].dtype.kind == "f"]
    for asked in (name, labels):
        if asked is not None and asked not in shapes:
            raise ValueError(f"{path} holds no dataset {asked!r}; {nearest(asked, shapes)}")
    if name is None and len(fits) != 1:
        raise ValueError(
            f"expected one dataset (sample, channel, row, column) of real numbers in {path}, found {fits or 'none'} "
            f"among {shapes}; {'name it (name=)' if fits else 'is this a file of latents?'}"
        )
    stored = ds.variables[name or fits[0]]
    if stored.ndim != 4 or stored.dtype.kind != "f":
        raise ValueError(
            f"expected {name!r} in {path} to have the axes (sample, channel, row, column) and real numbers, got "
            f"{stored.dtype} of shape {stored.shape}"
        )
    sizes = dict(zip(_AXES, stored.shape, strict=True))
    grid = grid_of_pixels(sizes["row"], sizes["column"])
    values = xr.DataArray(stored).rename(dict(zip(stored.dims, _AXES, strict=True)))
    fields = {
        f"latent_{c}": values.isel(channel=c, row=slice(None, None, -1))
        .rename({"row": "y", "column": "x"})
        .transpose(SAMPLE, "x", "y")
        .variable
        for c in range(sizes["channel"])
    }
    coords = dict(zip(grid.axes, grid.coordinates(), strict=True))
    found = xr.Dataset(fields, coords, {"centering": grid.centering, "set": "latents"})
    found.set_close(ds.close)
    whole = [key for key in shapes if ds[key].ndim == 1 and ds[key].dtype.kind in "iu"]
    if labels is None and len(whole) > 1:
        raise ValueError(f"{path} holds several datasets that may be labels, {whole}; name one (labels=)")
    if labels is None and not whole:
        return found
    return labelled(found, np.asarray(ds.variables[labels or whole[0]].values))
