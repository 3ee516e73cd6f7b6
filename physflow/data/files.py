"""Fields on disk: netCDF-4 files, which xarray, h5py, MATLAB and Panoply open.

A file holds one variable per field over ``(sample, *axes)``, one coordinate per axis, and attributes that rebuild the
equation and name the law (`Metadata`). A field lies in the file as one contiguous array, so that training reads any
batch without the rest. Files appear whole or not at all: they are written beside their final name and renamed. They
hold no time, host or path, so the same settings give the same content. A set may also be a folder of such files
(`physflow.data.shards`), which is read like one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from physflow.data.shards import Shards, open_shards, read_rows
from physflow.fields import SAMPLE, grid_of

__all__ = ["FORMAT", "FieldReader", "FieldWriter", "Metadata", "atomic", "open", "write"]

FORMAT = "physflow-1"


@dataclass(frozen=True)
class Metadata:
    """What a file of generated fields says about itself, as attributes of the Dataset.

    The first five rebuild the equation (`physflow.pde.from_dataset`), the others name the law and the run. A value of
    None is an attribute left out: it says nothing about this law, and ``modes=None`` is the full field. A pair is an
    attribute that is an array of two numbers.
    """

    equation: str
    source: str
    boundary: str
    faces: str
    centering: str
    covariance: str
    permeability_law: str
    seed: int
    tolerance: float
    fingerprint: str
    physflow_version: str
    correlation_length: float | tuple[float, float] | None = None
    angle: float | None = None
    smoothness: float | None = None
    alpha: float | None = None
    tau: float | None = None
    std: float | None = None
    coefficients: str | None = None
    modes: int | None = None
    levels: tuple[float, float] | None = None
    preset: str | None = None
    format: str = FORMAT

    def to_attrs(self) -> dict[str, Any]:
        """The attributes of the Dataset."""
        attrs = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        return {key: np.array(value) if isinstance(value, tuple) else value for key, value in attrs.items()}

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
        plain = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in known.items()}
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
        return cls(**values)

    def law(self) -> str:
        """The law of the permeability in words."""
        words = [f"{self.covariance} covariance" if self.correlation_length is not None else self.covariance]
        words += [f"preset {self.preset}"] * (self.preset is not None)
        words.append("the full field" if self.modes is None else f"{self.modes} modes")
        for name in ("correlation_length", "angle", "smoothness", "alpha", "tau", "std"):
            value = getattr(self, name)
            if value is not None:
                numbers = value if isinstance(value, tuple) else (value,)
                words.append(f"{name.replace('_', ' ')} {' and '.join(f'{number:g}' for number in numbers)}")
        words += ["uniform coefficients"] * (self.coefficients == "uniform")
        of = "log K" if self.levels is None else f"K {self.levels[0]:g} or {self.levels[1]:g} by the sign of G"
        return f"{of}: {', '.join(words)}"


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str], overwrite: bool = True, *, writer: str | None = None) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` on success, remove it on any failure.

    Arguments:
        path: The final name.
        overwrite: Whether an existing file is replaced.
        writer: What makes the temporary name ``.<name>.<writer>.part`` unlike those of other writers; the number of
            this process by default.

    Raises:
        FileExistsError: If `path` exists and must not be overwritten.
        FileNotFoundError: If its folder does not exist.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name, or overwrite it (overwrite=True, --overwrite)")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist; create it first")
    part = path.with_name(f".{path.name}.{writer or os.getpid()}.part")
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
    # What an earlier file said about its own storage must not decide about this one's.
    with atomic(path, overwrite) as part:
        ds.drop_encoding().to_netcdf(part, engine="h5netcdf")
    return path


def open(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a file of fields, or a folder of shards (`physflow.data.shards`), lazily.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no readable netCDF-4/HDF5 file, for example a truncated one, or no complete set of shards.
    """
    path = Path(path)
    if path.is_dir():
        return open_shards(path)
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
        template: A Dataset of fields over (sample, *axes), with one coordinate an axis: the file takes all of it but
            the samples.
        samples: How many there will be.
        overwrite: Whether an existing file is replaced.
        writer: See `atomic`.

    Attributes:
        part: The temporary name, while the file is written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        template: xr.Dataset,
        samples: int,
        overwrite: bool = False,
        *,
        writer: str | None = None,
    ) -> None:
        self.template, self.samples = template.isel({SAMPLE: slice(0)}), samples
        self._stack = contextlib.ExitStack()
        self._path, self._overwrite, self._writer = path, overwrite, writer

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.part = stack.enter_context(atomic(self._path, self._overwrite, writer=self._writer))
            self._file = stack.enter_context(h5py.File(self.part, "w", track_order=True))
            self._lay_out(self._file)
            self._stack = stack.pop_all()
        return self

    def _lay_out(self, file: h5py.File) -> None:
        """Dimensions, coordinates and fields without values, as netCDF-4 stores them in HDF5.

        Not through h5netcdf: it makes a dimension first and replaces it by its coordinate, and where HDF5 puts things
        then depends on when what was replaced is freed: one file in thousands had other bytes.
        """
        scales: dict[Hashable, h5py.Dataset] = {
            SAMPLE: file.create_dataset(SAMPLE, (self.samples,), ">f4", track_order=True)
        }
        scales[SAMPLE].make_scale(f"This is a netCDF dimension but not a netCDF variable.{self.samples:10}")
        for axis, points in self.template.coords.items():
            scales[axis] = file.create_dataset(axis, data=points.values, track_order=True)
            scales[axis].make_scale(axis)
            _set_attributes(scales[axis], points.attrs)
        for number, scale in enumerate(scales.values()):
            scale.attrs["_Netcdf4Dimid"] = np.int32(number)
        for name, variable in self.template.data_vars.items():
            field = file.create_dataset(name, (self.samples, *variable.shape[1:]), variable.dtype, track_order=True)
            for number, axis in enumerate(variable.dims):
                field.dims[number].attach_scale(scales[axis])
            _set_attributes(field, variable.attrs)
        _set_attributes(file, self.template.attrs)

    def put(self, first: int, fields: NDArray[Any]) -> None:
        """Store fields of shape (count, channel, *axes) as samples first, first + 1, ..."""
        for c, name in enumerate(self.template.data_vars):
            self._file[name][first : first + len(fields)] = fields[:, c]

    def __exit__(self, *exception: Any) -> bool | None:
        return self._stack.__exit__(*exception)


def _set_attributes(target: h5py.File | h5py.Dataset, attrs: Mapping[Any, Any]) -> None:
    for key, value in attrs.items():
        # In netCDF a number is an array of one.
        target.attrs[key] = value if isinstance(value, str) else np.atleast_1d(value)


class FieldReader:
    """Read batches of fields from a file, or from a folder of shards, by h5py, never all of it in memory.

    Arguments:
        path: A file of fields, or a folder of shards.
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
        self._file: h5py.File | Shards | None = None

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        # An open file does not travel to another process; each opens its own.
        return {**self.__dict__, "_file": None}

    def read(self, indices: Sequence[int] | slice) -> torch.Tensor:
        """The fields of the given samples, shape (len(indices), channel, *axes), in the order asked for."""
        if self._file is None:
            self._file = Shards(self.path) if self.path.is_dir() else h5py.File(self.path, "r")
        rows = np.arange(*indices.indices(len(self))) if isinstance(indices, slice) else np.asarray(indices, np.int64)
        file = self._file
        channels = [
            file.read(name, rows) if isinstance(file, Shards) else read_rows(file[name], rows) for name in self.names
        ]
        channels = [values.transpose(self._order[name]) for name, values in zip(self.names, channels, strict=True)]
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
