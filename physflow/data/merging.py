"""A folder of shards as one file: netCDF-4, or a Zarr store.

Both are written piece by piece, with memory for one piece, and appear whole or not at all. The netCDF-4 file is, byte
for byte, the one that `physflow.data.darcy.generate` writes for the same settings.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from tqdm import tqdm

from physflow.data.files import FieldWriter
from physflow.data.recipes import SHARD_BYTES
from physflow.data.shard_index import ShardIndex, bytes_per_sample, layout_of
from physflow.data.shards import open_shards
from physflow.fields import SAMPLE

__all__ = ["merge"]


def merge(
    folder: str | os.PathLike[str], out: str | os.PathLike[str], overwrite: bool = False, progress: bool = False
) -> Path:
    """Write a folder of shards as one file.

    Arguments:
        folder: The folder, a complete set.
        out: The file, with a name ending in ``.nc``, or ``.zarr`` for a Zarr store (format 2, one chunk for each field
            of a shard), which needs the package zarr.
        overwrite: Whether an existing file or Zarr store is replaced.
        progress: Whether to show a progress bar.

    Returns:
        The path of the file.

    Raises:
        FileExistsError: If `out` exists and `overwrite` is not set, or `out` is a folder and no Zarr store.
        ValueError: If the set is not complete, the name of `out` ends otherwise, or zarr is not installed.
    """
    out = Path(out)
    if out.suffix not in (".nc", ".zarr"):
        raise ValueError(f"expected the name of a file ending in '.nc' or '.zarr', got {out.name!r}")
    if out.suffix == ".zarr" and importlib.util.find_spec("zarr") is None:
        raise ValueError("writing Zarr needs the package zarr; install it: pip install 'physflow[zarr]'")
    shard = ShardIndex.read(folder).shard
    with (
        open_shards(folder) as ds,
        tqdm(total=ds.sizes[SAMPLE], desc="merge", unit="pair", disable=not progress) as bar,
    ):
        write = _write_netcdf if out.suffix == ".nc" else _write_zarr
        for count in write(ds, out, shard, overwrite):
            bar.update(count)
    return out


def _write_netcdf(ds: xr.Dataset, out: Path, shard: int, overwrite: bool) -> Iterator[int]:
    size = max(1, SHARD_BYTES // bytes_per_sample(layout_of(ds)))  # A shard may be larger.
    with FieldWriter(out, ds, ds.sizes[SAMPLE], overwrite) as writer:
        for first in range(0, ds.sizes[SAMPLE], size):
            piece = ds.isel({SAMPLE: slice(first, first + size)})
            writer.put(first, np.stack([v.values for v in piece.data_vars.values()]).swapaxes(0, 1))
            yield piece.sizes[SAMPLE]


def _write_zarr(ds: xr.Dataset, out: Path, shard: int, overwrite: bool) -> Iterator[int]:
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; choose another name, or overwrite it (overwrite=True, --overwrite)")
    if out.exists() and not (out / ".zgroup").exists() and not (out / "zarr.json").exists():
        raise FileExistsError(f"{out} is no Zarr store and is not replaced; choose another name")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} does not exist; create it first")
    part, old = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    try:
        encoding = {name: {"chunks": (shard, *v.shape[1:])} for name, v in ds.data_vars.items()}
        ds.isel({SAMPLE: slice(0, shard)}).to_zarr(part, encoding=encoding, zarr_format=2)
        yield min(shard, ds.sizes[SAMPLE])
        for first in range(shard, ds.sizes[SAMPLE], shard):
            piece = ds.isel({SAMPLE: slice(first, first + shard)})
            piece.drop_vars(list(ds.coords)).to_zarr(part, append_dim=SAMPLE)
            yield piece.sizes[SAMPLE]
        if out.exists():
            out.rename(old)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)
