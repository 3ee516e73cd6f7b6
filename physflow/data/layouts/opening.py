"""Opening fields from anywhere: our own, of a known layout, or any gridded netCDF or Zarr by naming its variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import xarray as xr

from physflow.config import nearest
from physflow.data import files
from physflow.data.layouts.cocogen import CoCoGen
from physflow.data.layouts.fno import FNOMatlab, NeuralOperator
from physflow.data.layouts.layout import Layout
from physflow.data.layouts.pdebench import PDEBench
from physflow.data.layouts.tables import CSVPairs
from physflow.fields import SAMPLE, grid_of

__all__ = ["LAYOUTS", "open"]

LAYOUTS: tuple[Layout, ...] = (NeuralOperator(), FNOMatlab(), PDEBench(), CSVPairs(), CoCoGen())
"""The layouts of others that are known."""


def open(
    path: str | os.PathLike[str], fields: Mapping[str, str] | None = None, sample: str | None = None
) -> xr.Dataset:
    """Open fields: our own files, the layouts of others, or any gridded netCDF or Zarr.

    ==================================  ========================================================
    path                                what it is
    ==================================  ========================================================
    ``pairs.nc``, a folder of shards    fields of physflow
    ``darcy.pt``                        Darcy pairs of neuraloperator
    ``darcy.mat``                       Darcy pairs of the Fourier neural operator's paper
    ``darcy.hdf5``                      Darcy pairs of PDEBench
    a folder with ``K_data.csv``        Darcy pairs of PIDM and PBFM
    a folder with ``K_0.npy``           Darcy pairs of CoCoGen
    any ``.nc`` or ``.zarr``            what `fields` names
    ==================================  ========================================================

    Arguments:
        path: The file or folder.
        fields: The variables of a netCDF or Zarr to take, by the names that they get: ``{"pressure": "p"}``. All by
            default, under their own names.
        sample: The dimension of a netCDF or Zarr that counts the fields, if it is not called ``sample``.

    Returns:
        Fields over (sample, axes), lazily where the file allows it.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If it is of no known layout or does not hold what its layout asks for, or names do not fit.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    for layout in LAYOUTS:
        if layout.matches(path):
            if fields or sample:
                raise ValueError(f"{path} is {layout.name}, whose names are known: leave out fields and sample")
            return layout.read(path)
    if path.suffix == ".zarr" or (path / "zarr.json").exists() or (path / ".zgroup").exists():
        ds = _zarr(path)
    elif path.is_dir() or path.suffix in (".nc", ".nc4", ".cdf", ".h5", ".hdf5"):
        ds = files.open(path)
    else:
        known = "; ".join(f"{layout.name}: {layout.expected}" for layout in LAYOUTS)
        raise ValueError(f"{path} is of no known layout; known are netCDF, Zarr, folders of shards, and {known}")
    return _named(ds, path, fields, sample) if fields or sample else ds


def _named(ds: xr.Dataset, path: Path, fields: Mapping[str, str] | None, sample: str | None) -> xr.Dataset:
    """The variables that a user named, under the names that they get."""
    for name in (fields or {}).values():
        if name not in ds.data_vars:
            raise ValueError(f"{path} has no variable {name!r}; {nearest(name, map(str, ds.data_vars))}")
    if fields:
        ds = ds[list(fields.values())].rename({old: new for new, old in fields.items()})
    if sample and sample != SAMPLE:
        if sample not in ds.dims:
            raise ValueError(f"{path} has no dimension {sample!r}; {nearest(sample, map(str, ds.dims))}")
        ds = ds.rename({sample: SAMPLE})
    # What cannot be used is told here and not later.
    grid_of(ds, list(fields) if fields else None)
    return ds


def _zarr(path: Path) -> xr.Dataset:
    try:
        return xr.open_zarr(path)
    except ImportError as error:
        raise ValueError(f"{path} needs the package zarr; pip install 'physflow[zarr]'") from error
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no readable Zarr store ({error})") from error
