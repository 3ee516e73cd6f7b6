"""The Darcy pairs of CoCoGen: a folder with one ``.npy`` file for each field and sample.

Its known faults are not mended here: the pressure lies transposed beside the permeability.

References:
    C. Jacobsen, Y. Zhuang, K. Duraisamy, "CoCoGen: physically-consistent and conditioned score-based generative
    models for forward and inverse problems", 2023, and its public code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from physflow.data.layouts.layout import Layout, pairs

__all__ = ["CoCoGen"]

_FILE = re.compile(r"(?P<field>[KP])_(?P<number>\d+)\.npy")


class CoCoGen(Layout):
    """A folder of ``K_0.npy, P_0.npy, K_1.npy, P_1.npy, ...``, on nodes of the unit square."""

    name: ClassVar[str] = "a CoCoGen folder"
    expected: ClassVar[str] = "K_<number>.npy and P_<number>.npy for each sample, (nx, ny) each"

    def matches(self, path: Path) -> bool:
        """See `Layout.matches`."""
        return path.is_dir() and any(_FILE.fullmatch(file.name) for file in path.glob("*.npy"))

    def read(self, path: Path) -> xr.Dataset:
        """See `Layout.read`."""
        numbers: dict[str, set[int]] = {"K": set(), "P": set()}
        for file in path.glob("*.npy"):
            if name := _FILE.fullmatch(file.name):
                numbers[name["field"]].add(int(name["number"]))
        if alone := numbers["K"] ^ numbers["P"]:
            number = min(alone)
            there, missing = ("K", "P") if number in numbers["K"] else ("P", "K")
            found = f"it has {there}_{number}.npy and no {missing}_{number}.npy"
            raise self.wrong(path, f"{found}, and {len(alone)} like this in all")
        every = sorted(numbers["K"])
        K, P = ([self._field(path / f"{name}_{i}.npy") for i in every] for name in "KP")
        for field, fields in (("K", K), ("P", P)):
            for i, u in zip(every, fields, strict=True):
                if u.shape != K[0].shape:
                    raise self.wrong(path, f"{field}_{i}.npy has the shape {u.shape} and K_{every[0]}.npy {K[0].shape}")
        return pairs(self, path, np.stack(K), np.stack(P), "nodes")

    def _field(self, path: Path) -> NDArray[np.float64]:
        try:
            u: NDArray[np.float64] = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise self.wrong(path, f"cannot be read as an array ({error})") from error
        return u
