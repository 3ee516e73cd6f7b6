"""The Darcy pairs of the Fourier neural operator: ``.pt`` files of neuraloperator, ``.mat`` files of the paper.

K is 3 or 12 by the sign of a Gaussian field, or a mask of its two values; p solves the equation between walls at
p = 0 with a source of 1, on a finer grid. The pressure of the ``.pt`` files is scaled by a factor that nobody states.

References:
    Z. Li et al., "Fourier neural operator for parametric partial differential equations", 2021, appendix A.3.2.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import scipy.io
import torch
import xarray as xr

from physflow.data.layouts.layout import Layout, pairs

__all__ = ["FNOMatlab", "NeuralOperator"]


class NeuralOperator(Layout):
    """A ``.pt`` file of neuraloperator: a dictionary of two tensors. Nothing in it is executed."""

    name: ClassVar[str] = "a neuraloperator .pt file"
    expected: ClassVar[str] = "a dictionary of tensors x and y, (samples, nx, ny) each"

    def matches(self, path: Path) -> bool:
        """See `Layout.matches`."""
        return path.is_file() and path.suffix in (".pt", ".pth")

    def read(self, path: Path) -> xr.Dataset:
        """See `Layout.read`."""
        try:
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
            why = str(error).strip().split("\n")[0]
            raise self.wrong(path, f"cannot be read as tensors ({why})") from error
        if not isinstance(content, dict) or not all(isinstance(content.get(key), torch.Tensor) for key in "xy"):
            found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise self.wrong(path, f"holds {found}")
        return pairs(self, path, content["x"].numpy(), content["y"].numpy())


class FNOMatlab(Layout):
    """A ``.mat`` file of the paper's Darcy sets, of MATLAB's old format or of version 7.3 (HDF5)."""

    name: ClassVar[str] = "an FNO .mat file"
    expected: ClassVar[str] = "the arrays coeff and sol, (samples, nx, ny) each"

    def matches(self, path: Path) -> bool:
        """See `Layout.matches`."""
        return path.is_file() and path.suffix == ".mat"

    def read(self, path: Path) -> xr.Dataset:
        """See `Layout.read`."""
        try:
            if h5py.is_hdf5(path):
                with h5py.File(path) as file:
                    # MATLAB counts from the other end.
                    content = {key: np.asarray(file[key]).T for key in ("coeff", "sol") if key in file}
                    keys = list(file)
            else:
                keys = [name for name, *_ in scipy.io.whosmat(path)]
                content = scipy.io.loadmat(path, variable_names=["coeff", "sol"])
        except (OSError, ValueError, TypeError, NotImplementedError) as error:
            raise self.wrong(path, f"cannot be read ({error})") from error
        if not {"coeff", "sol"} <= set(content):
            raise self.wrong(path, f"holds {sorted(keys)}")
        return pairs(self, path, content["coeff"], content["sol"])
