"""The Darcy pairs of PDEBench: one HDF5 file a source strength, opened lazily.

References:
    M. Takamoto et al., "PDEBench: an extensive benchmark for scientific machine learning", 2022, appendix D.6.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import xarray as xr

from physflow.data.layouts.layout import Layout
from physflow.fields import SAMPLE
from physflow.pde import Darcy

__all__ = ["PDEBench"]


class PDEBench(Layout):
    """An HDF5 file with the permeability ``nu`` and the pressure ``tensor``."""

    name: ClassVar[str] = "a PDEBench Darcy file"
    expected: ClassVar[str] = (
        "nu (samples, nx, ny), tensor (samples, 1, nx, ny), x-coordinate (nx) and y-coordinate (ny)"
    )

    def matches(self, path: Path) -> bool:
        """See `Layout.matches`."""
        if not path.is_file() or path.suffix not in (".h5", ".hdf5"):
            return False
        if not h5py.is_hdf5(path):
            return True
        with h5py.File(path) as file:
            return "nu" in file or "tensor" in file

    def read(self, path: Path) -> xr.Dataset:
        """See `Layout.read`."""
        try:
            file = xr.open_dataset(path, engine="h5netcdf", phony_dims="sort", decode_cf=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise self.wrong(path, f"cannot be read, it may be truncated ({error})") from error
        needed = ("nu", "tensor", "x-coordinate", "y-coordinate")
        if missing := [name for name in needed if name not in file.variables]:
            found = sorted(map(str, file.variables))
            file.close()
            raise self.wrong(path, f"has no {', '.join(missing)} (it holds {found})")
        nu, p = file["nu"], file["tensor"]
        if p.ndim == 4 and p.shape[1] == 1:
            p = p.isel({p.dims[1]: 0})
        x, y = (np.asarray(file[f"{axis}-coordinate"].values) for axis in "xy")
        if nu.ndim != 3 or nu.shape != p.shape or nu.shape[1:] != (*x.shape, *y.shape):
            shapes = ", ".join(f"{name} {file[name].shape}" for name in needed)
            file.close()
            raise self.wrong(path, f"its shapes do not fit: {shapes}")
        dims = (SAMPLE, "x", "y")
        # The variables stay lazy: only their dimensions get other names.
        fields = {name: u.variable.copy(deep=False) for name, u in zip(Darcy.fields, (nu, p), strict=True)}
        for variable in fields.values():
            variable.dims = dims
        ds = xr.Dataset(fields, coords={"x": x, "y": y}, attrs={"centering": "cells", "layout": self.name})
        ds.set_close(file.close)
        return ds
