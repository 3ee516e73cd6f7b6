"""Pairs as tables: the CSV files of PIDM and PBFM, with a row for each sample.

References:
    J.-H. Bastek, W. Sun, D. Kochmann, "Physics-informed diffusion models", 2025, appendix F.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from physflow.data.layouts.layout import Layout, pairs

__all__ = ["CSVPairs"]


class CSVPairs(Layout):
    """A folder with ``K_data.csv`` and ``p_data.csv``: a row a sample, its square field row by row.

    A first line of column numbers or names, as some programs write it, is no sample.
    """

    name: ClassVar[str] = "a folder of CSV pairs"
    expected: ClassVar[str] = "K_data.csv and p_data.csv, each with a row of n x n numbers for each sample"

    def matches(self, path: Path) -> bool:
        """See `Layout.matches`."""
        return path.is_dir() and any((path / f"{name}_data.csv").exists() for name in "Kp")

    def read(self, path: Path) -> xr.Dataset:
        """See `Layout.read`."""
        files = [path / f"{name}_data.csv" for name in "Kp"]
        if missing := [file.name for file in files if not file.exists()]:
            raise self.wrong(path, f"it has no {missing[0]}")
        K, p = (self._fields(file) for file in files)
        return pairs(self, path, K, p)

    def _fields(self, path: Path) -> NDArray[np.float64]:
        with path.open() as file:
            first = file.readline().strip().split(",")
        header = first == [str(i) for i in range(len(first))] or not all(_is_number(cell) for cell in first)
        try:
            rows = np.loadtxt(path, delimiter=",", skiprows=int(header), ndmin=2)
        except ValueError as error:
            raise self.wrong(path, f"a cell is no number or a row is of another length ({error})") from error
        n = math.isqrt(rows.shape[1])
        if n * n != rows.shape[1] or not rows.size:
            raise self.wrong(path, f"it has {len(rows)} rows of {rows.shape[1]} numbers")
        return rows.reshape(-1, n, n)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
