"""Fields on disk: netCDF-4 files, which xarray, h5py, MATLAB and Panoply open.

A file holds one variable per field over ``(sample, *axes)``, one coordinate per axis, and attributes that rebuild the
equation and name the law (`Metadata`). One HDF5 chunk is one field of one sample, so that training reads any batch
without the rest. Files appear whole or not at all: they are written beside their final name and renamed. They hold no
time, host or path, so the same settings give the same content.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5netcdf
import h5py
import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from physflow.fields import SAMPLE, grid_of, to_dataset
from physflow.grid import Grid

__all__ = ["FORMAT", "FieldReader", "FieldWriter", "Metadata", "atomic", "open", "write"]

FORMAT = "physflow-1"


@dataclass(frozen=True)
class Metadata:
    """What a file of generated fields says about itself, as attributes of the Dataset.

    The first five rebuild the equation (`physflow.pde.from_dataset`), the others name the law and the run. A value of
    None is an attribute left out: ``modes=None`` is the full field.
    """

    equation: str
    source: str
    boundary: str
    faces: str
    centering: str
    covariance: str
    correlation_length: float
    std: float
    coefficients: str
    permeability_law: str
    seed: int
    tolerance: float
    fingerprint: str
    physflow_version: str
    modes: int | None = None
    preset: str | None = None
    format: str = FORMAT

    def to_attrs(self) -> dict[str, Any]:
        """The attributes of the Dataset."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> Self:
        """Read the metadata back; other attributes are ignored.

        Raises:
            ValueError: If an attribute is missing.
        """
        fields = dataclasses.fields(cls)
        missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in attrs]
        if missing:
            raise ValueError(f"the dataset lacks the attributes {missing}; physflow.data.darcy.generate writes them")
        known = {f.name: attrs[f.name] for f in fields if f.name in attrs}
        return cls(**{key: value.item() if isinstance(value, np.generic) else value for key, value in known.items()})


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str], overwrite: bool = True) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` on success, remove it on any failure.

    Raises:
        FileExistsError: If `path` exists and must not be overwritten.
        FileNotFoundError: If its folder does not exist.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name, or overwrite it (overwrite=True, --overwrite)")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist; create it first")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise type(error)(f"writing {path} failed, nothing was kept under that name: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def write(ds: xr.Dataset, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write a Dataset of fields to a netCDF-4 file, whole or not at all.

    Arguments:
        ds: The Dataset.
        path: The name of the file.
        overwrite: Whether an existing file is replaced.

    Returns:
        The path.
    """
    path = Path(path)
    encoding = {
        name: {"chunksizes": (1, *variable.shape[1:])}
        for name, variable in ds.data_vars.items()
        if variable.dims[:1] == (SAMPLE,) and variable.ndim > 1 and variable.size
    }
    # What an earlier file said about its own storage must not decide about this one's.
    with atomic(path, overwrite) as part:
        ds.drop_encoding().to_netcdf(part, engine="h5netcdf", encoding=encoding)
    return path


def open(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a file of fields lazily.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no readable netCDF-4/HDF5 file, for example a truncated one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        return xr.open_dataset(path, engine="h5netcdf")
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is not a readable netCDF-4/HDF5 file; it may be truncated or of another format: copy or make it "
            f"again "
            f"({error})"
        ) from error


class FieldWriter:
    """Write fields to a file in pieces, in any order, with memory for one piece only; a context manager.

    The file gets its name when the block ends without error; otherwise nothing remains.

    Arguments:
        path: The name of the file.
        names: The fields.
        grid: Their grid.
        samples: How many there will be.
        dtype: The stored type.
        attrs: Attributes of the Dataset.
        overwrite: Whether an existing file is replaced.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        names: Sequence[str],
        grid: Grid,
        samples: int,
        dtype: str = "float32",
        attrs: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.names, self.samples, self.dtype, self.grid = tuple(names), samples, dtype, grid
        # An empty Dataset made by `to_dataset` gives the same coordinates and attributes as one held in memory.
        self._template = to_dataset(torch.empty(0, len(self.names), *grid.shape), self.names, grid, attrs)
        self._stack = contextlib.ExitStack()
        self._path, self._overwrite = path, overwrite

    def __enter__(self) -> Self:
        part = self._stack.enter_context(atomic(self._path, self._overwrite))
        self._file = self._stack.enter_context(h5netcdf.File(part, "w"))
        self._file.dimensions = {SAMPLE: self.samples, **dict(zip(self.grid.axes, self.grid.shape, strict=True))}
        for axis in self.grid.axes:
            self._file.create_variable(axis, (axis,), data=self._template[axis].values)
        for name in self.names:
            chunks = (1, *self.grid.shape) if self.samples else None
            variable = self._file.create_variable(name, (SAMPLE, *self.grid.axes), dtype=self.dtype, chunks=chunks)
            variable.attrs.update(self._template[name].attrs)
        self._file.attrs.update(self._template.attrs)
        return self

    def put(self, first: int, fields: NDArray[Any]) -> None:
        """Store fields of shape (count, channel, *axes) as samples first, first + 1, ..."""
        for c, name in enumerate(self.names):
            self._file.variables[name][first : first + len(fields)] = fields[:, c]

    def __exit__(self, *exception: Any) -> bool | None:
        return self._stack.__exit__(*exception)


class FieldReader:
    """Read batches of fields from a file by h5py, never all of it in memory.

    Arguments:
        path: A file of fields.
        names: The fields, in channel order.
        dtype: The type of the result.
    """

    def __init__(self, path: str | os.PathLike[str], names: Sequence[str], dtype: torch.dtype = torch.float32) -> None:
        self.path, self.names, self.dtype = Path(path), tuple(names), dtype
        with open(path) as ds:
            # Validates names and grid once; the axes' order in the file decides about a transposition of what is read.
            self.grid = grid_of(ds, self.names)
            self._order = {name: [ds[name].dims.index(dim) for dim in (SAMPLE, *self.grid.axes)] for name in self.names}
            self._length = ds.sizes[SAMPLE]
        if any(order[0] != 0 for order in self._order.values()):
            raise ValueError(f"{self.path}: {SAMPLE!r} must be the first dimension of the fields to read them by batch")
        self._file: h5py.File | None = None

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        # An open file does not travel to another process; each opens its own.
        return {**self.__dict__, "_file": None}

    def read(self, indices: Sequence[int] | slice) -> torch.Tensor:
        """The fields of the given samples, shape (len(indices), channel, *axes), in the order asked for."""
        if self._file is None:
            self._file = h5py.File(self.path, "r")
        if isinstance(indices, slice):
            rows: Any = indices
            inverse: Any = slice(None)
        else:
            # HDF5 wants increasing indices without repeats.
            rows, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        channels = [self._file[name][rows].transpose(self._order[name])[inverse] for name in self.names]
        return torch.from_numpy(np.stack(channels, axis=1)).to(self.dtype)

    def batches(self, size: int = 256) -> Iterator[torch.Tensor]:
        """All fields in order, in pieces."""
        for start in range(0, len(self), size):
            yield self.read(slice(start, start + size))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
