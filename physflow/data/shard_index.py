"""What a folder of shards says about itself, and whether a file is one of its shards.

The index is plain JSON: the settings of the set, their fingerprint, the number of samples, of samples a shard, and the
names of the shards. Which sample lies where follows from two numbers, so nothing is searched for.

A shard carries two attributes that make it a shard of this set at this place: ``first``, the number of its first
sample, and ``fingerprint``, the name of the settings without the number of samples, so that a set can grow.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

import h5py
import numpy as np
import xarray as xr

from physflow.config import fingerprint

__all__ = ["INDEX", "SHARDS_FORMAT", "Layout", "ShardIndex", "bytes_per_sample", "layout_of", "open_shard"]

INDEX = "index.json"
"""The name of the index in its folder."""

SHARDS_FORMAT = "physflow-shards-1"
"""The format that an index names."""

Layout: TypeAlias = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""The type and the shape of one sample of each field."""


@dataclass(frozen=True)
class ShardIndex:
    """What the index of a folder of shards says.

    Arguments:
        settings: The settings that made the set, as plain data (`physflow.config.to_dict`), ``samples`` among them.
        shard: The number of samples in a shard.
        physflow_version: The version that made the set: another may draw other fields.
        fingerprint: The name of the settings.
        shard_fingerprint: The name of the settings without the number of samples, which every shard carries.

    Raises:
        ValueError: If a number is missing or out of range.
    """

    settings: Mapping[str, Any]
    shard: int
    physflow_version: str
    fingerprint: str = field(init=False)
    shard_fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        for name, value, least in (("samples", self.settings.get("samples"), 0), ("shard", self.shard, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        rest = {key: value for key, value in self.settings.items() if key != "samples"}
        object.__setattr__(self, "fingerprint", fingerprint(self.settings))
        object.__setattr__(self, "shard_fingerprint", fingerprint(rest))

    @property
    def samples(self) -> int:
        """The number of samples in the set."""
        return int(self.settings["samples"])

    def __len__(self) -> int:
        """The number of shards; a set of no samples has one, which is empty."""
        return max(1, -(-self.samples // self.shard))

    def name(self, k: int) -> str:
        """The name of shard k."""
        return f"shard-{k:05d}.nc"

    def count(self, k: int) -> int:
        """The number of samples in shard k."""
        return min(self.shard, self.samples - k * self.shard)

    def to_json(self) -> str:
        """The content of the file."""
        content = {
            "format": SHARDS_FORMAT,
            "physflow_version": self.physflow_version,
            "fingerprint": self.fingerprint,
            "samples": self.samples,
            "samples_per_shard": self.shard,
            "settings": dict(self.settings),
            "shards": [self.name(k) for k in range(len(self))],
        }
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Self:
        """Read the index of a folder.

        Raises:
            ValueError: If there is none, it is damaged or it is of another format.
        """
        path = Path(folder) / INDEX
        if not Path(folder).is_dir():
            raise ValueError(f"{folder} is no folder of shards" if Path(folder).exists() else f"no folder {folder}")
        if Path(folder).suffix == ".zarr":
            raise ValueError(f"{folder} is a Zarr store, which other programs read: open it with xarray.open_zarr")
        if not path.is_file():
            raise ValueError(
                f"{folder} is a folder without {INDEX}, not a set of shards; give a file, or the folder that "
                "`physflow generate --out FOLDER` wrote"
            )
        try:
            content = json.loads(path.read_text())
            if content["format"] != SHARDS_FORMAT:
                raise ValueError(f"format {content['format']!r}, this version reads {SHARDS_FORMAT!r}; update physflow")
            index = cls(content["settings"], content["samples_per_shard"], content["physflow_version"])
            if json.loads(index.to_json()) != content:
                raise ValueError("its entries contradict one another")
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"{path} is not the index of a set of shards that this version can read; it may be damaged or edited: "
                f"make the set again with overwrite=True, --overwrite ({error})"
            ) from error
        return index


def layout_of(template: xr.Dataset) -> Layout:
    """The type and the shape of one sample of each field of a Dataset."""
    return {str(name): (variable.dtype, variable.shape[1:]) for name, variable in template.data_vars.items()}


def bytes_per_sample(layout: Layout) -> int:
    """The size of all fields of one sample."""
    return sum(math.prod(shape) * dtype.itemsize for dtype, shape in layout.values())


def open_shard(path: Path, index: ShardIndex, k: int, layout: Layout) -> h5py.File:
    """Open shard k of a set after a look at what it is.

    Arguments:
        path: The file.
        index: The index of its set.
        k: Its number.
        layout: The type and the shape of one sample of each field.

    Returns:
        The open file.

    Raises:
        ValueError: If there is no such file, it is truncated, or it is no shard k of this set.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is truncated or no netCDF-4/HDF5 file ({error})") from error
    expected = {
        "fingerprint": index.shard_fingerprint,
        "first": k * index.shard,
        **{name: (dtype, (index.count(k), *shape)) for name, (dtype, shape) in layout.items()},
    }
    # netCDF-4 keeps a number as an array of one.
    attrs = {key: np.ravel(file.attrs.get(key)).tolist() for key in ("fingerprint", "first")}
    found: dict[str, Any] = {key: value[0] if len(value) == 1 else value for key, value in attrs.items()}
    found |= {name: (file[name].dtype, file[name].shape) for name in layout if name in file}
    for key, value in expected.items():
        if found.get(key) != value:
            file.close()
            raise ValueError(f"{path} is no shard {k} of this set: its {key} is {found.get(key)}, expected {value}")
    return file
