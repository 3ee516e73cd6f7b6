"""A set of fields in several files: a folder of shards, read as one.

A folder holds ``index.json`` and ``shard-00000.nc``, ``shard-00001.nc``, ... Shard k is a complete netCDF-4 file
(`physflow.data.files`) of the samples k s, k s + 1, ..., with s samples in every shard but the last, which has the
rest. Its attributes are those of one file with all samples, but for two: ``first`` is the number of its first sample,
and its ``fingerprint`` names the settings without the number of samples, so that a set can grow.

A shard is looked at when it is first read: a missing or truncated one, or one of another set, is an error and never
wrong data.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from xarray.core import indexing

from physflow.data.shard_index import ShardIndex, bytes_per_sample, layout_of, open_shard
from physflow.fields import SAMPLE

__all__ = ["Shards", "open_shards", "read_rows"]

OPEN_FILES = 128
"""How many shards a reader keeps open: a system often allows 1024 files or fewer to a process."""

_REPAIR = "run the same generate command again to complete the set"


def read_rows(dataset: h5py.Dataset, rows: NDArray[np.int64]) -> NDArray[Any]:
    """The given rows of an HDF5 dataset, in the order asked for and as often."""
    # HDF5 wants increasing rows without repeats, and reads a range of them best.
    increasing, inverse = np.unique(rows, return_inverse=True)
    if increasing.size and increasing[-1] - increasing[0] + 1 == increasing.size:
        values = dataset[increasing[0] : increasing[-1] + 1]
    else:
        values = dataset[increasing]
    return values if np.array_equal(increasing, rows) else values[inverse]


class Shards:
    """The fields of a folder of shards, read by rows; it may be pickled, and used by several threads.

    Reads at random from more than `OPEN_FILES` shards open files again and again: larger shards, or one file
    (`physflow.data.merge`), avoid it.

    Arguments:
        folder: The folder.

    Raises:
        ValueError: If it is no set of shards, or a shard is missing or too small for its fields.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        # Absolute: a reader may travel to a process that runs elsewhere.
        self.folder = Path(os.path.abspath(folder))
        self.index = ShardIndex.read(folder)
        self._forget()
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(self.folder)}
        missing = [name for k in range(len(self.index)) if (name := self.index.name(k)) not in sizes]
        if missing:
            more = f" and {len(missing) - 1} more are" if missing[1:] else " is"
            raise ValueError(f"{self.folder / missing[0]}{more} missing; {_REPAIR}")
        self.template = self._read_template(self.folder / self.index.name(0))
        self.layout = layout_of(self.template)
        row = bytes_per_sample(self.layout)
        for k in range(len(self.index)):
            name = self.index.name(k)
            if sizes[name] < row * self.index.count(k):
                raise ValueError(f"{self.folder / name} is truncated: it has {sizes[name]} bytes; {_REPAIR}")

    def __len__(self) -> int:
        return self.index.samples

    def __getstate__(self) -> dict[str, Any]:
        # Open files do not travel to another process; each opens its own.
        return {key: value for key, value in self.__dict__.items() if key not in ("_files", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        r"""The values of a field in the given samples, shape (len(rows), \*axes), in the order asked for.

        Raises:
            IndexError: If there is no such sample.
            ValueError: If a shard is missing, truncated or of another set.
        """
        dtype, shape = self.layout[name]
        values = np.empty((len(rows), *shape), dtype=dtype)
        if not len(rows):
            return values
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"samples are numbered 0 to {len(self) - 1}, got {rows.min()} to {rows.max()}")
        shards = rows // self.index.shard
        order = np.argsort(shards, kind="stable")
        for here in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
            k = int(shards[here[0]])
            with self._lock:
                values[here] = read_rows(self._file(k)[name], rows[here] - k * self.index.shard)
        return values

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        with self._lock:
            while self._files:
                self._files.popitem()[1].close()

    def _forget(self) -> None:
        self._files: OrderedDict[int, h5py.File] = OrderedDict()
        self._lock = threading.Lock()

    def _file(self, k: int) -> h5py.File:
        """Shard k; the ones read longest ago are closed."""
        if k not in self._files:
            try:
                self._files[k] = open_shard(self.folder / self.index.name(k), self.index, k, self.layout)
            except ValueError as error:
                raise ValueError(f"{error}; {_REPAIR}") from error
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(k)
        return self._files[k]

    def _read_template(self, path: Path) -> xr.Dataset:
        """The set without its samples: fields, coordinates and attributes."""
        try:
            open_shard(path, self.index, 0, {}).close()
        except ValueError as error:
            raise ValueError(f"{error}; {_REPAIR}") from error
        with xr.open_dataset(path, engine="h5netcdf") as ds:
            template = ds.isel({SAMPLE: slice(0)}).load().drop_encoding()
        template.attrs = {key: value for key, value in template.attrs.items() if key != "first"}
        template.attrs["fingerprint"] = self.index.fingerprint
        return template


class _Rows(xr.backends.BackendArray):
    """One field of a set of shards, read when it is indexed."""

    def __init__(self, shards: Shards, name: str) -> None:
        dtype, shape = shards.layout[name]
        self.shards, self.name, self.dtype = shards, name, dtype
        self.shape: tuple[int, ...] = (len(shards), *shape)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[int | slice | NDArray[np.int64], ...]) -> NDArray[Any]:
        """Outer indexing: an integer, a slice or an array of integers for each dimension by itself."""
        rows, *points = key
        values = self.shards.read(self.name, _numbers(rows, len(self.shards)))
        # From the last dimension on, so that an integer, which removes its own, leaves the others in place.
        for axis, chosen in reversed(list(enumerate(points, start=1))):
            values = values[(slice(None),) * axis + (chosen,)]
        return values if isinstance(rows, slice | np.ndarray) else values[0]


def _numbers(rows: int | slice | ArrayLike, length: int) -> NDArray[np.int64]:
    if isinstance(rows, slice):
        return np.arange(*rows.indices(length), dtype=np.int64)
    numbers = np.atleast_1d(np.asarray(rows, dtype=np.int64))
    return np.where(numbers < 0, numbers + length, numbers)


class _Backend(xr.backends.BackendEntrypoint):
    """How xarray opens a folder of shards."""

    def open_dataset(self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None) -> xr.Dataset:
        shards = Shards(filename_or_obj)
        fields = {
            name: (variable.dims, indexing.LazilyIndexedArray(_Rows(shards, str(name))), variable.attrs)
            for name, variable in shards.template.data_vars.items()
        }
        ds = xr.Dataset(fields, coords=shards.template.coords, attrs=shards.template.attrs)
        ds.set_close(shards.close)
        return ds


def open_shards(folder: str | os.PathLike[str]) -> xr.Dataset:
    """Open a folder of shards as one Dataset, read lazily; without dask, and with any number of shards.

    Raises:
        ValueError: If the folder is no set of shards, or a shard is missing or truncated. Reading says so of a shard
            that is found wrong only then.
    """
    return xr.open_dataset(folder, engine=_Backend)
