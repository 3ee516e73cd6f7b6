"""How a set of fields is made, apart from who makes it and where it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr
from numpy.typing import NDArray

from physflow.config.checks import at_least
from physflow.data.shard_index import Layout, bytes_per_sample, layout_of

__all__ = ["Recipe"]

SHARD_BYTES = 32 * 2**20
"""The size of a shard, about: large enough for fast writing, small enough to lose."""


@dataclass(frozen=True)
class Recipe:
    """How a set is made, block by block; it travels to the workers.

    Arguments:
        make: Makes the block that begins at a sample: shape (block, channel, *axes), always whole.
        block: The number of samples in a block.
        template: The set without samples: names and types of the fields, coordinates and attributes.
        settings: The settings as plain data, ``samples`` among them; equal settings make equal sets.
    """

    make: Callable[[int], NDArray[Any]]
    block: int
    template: xr.Dataset
    settings: Mapping[str, Any]

    @property
    def samples(self) -> int:
        """The number of samples."""
        return int(self.settings["samples"])

    @property
    def layout(self) -> Layout:
        """The type and the shape of one sample of each field."""
        return layout_of(self.template)

    def samples_per_shard(self, shard: int | None = None) -> int:
        """The number of samples in a shard, whole blocks: at least `shard`, or those of about `SHARD_BYTES`."""
        if shard is None:
            shard = max(1, SHARD_BYTES // bytes_per_sample(self.layout))
        at_least(1, shard=shard)
        return -(-int(shard) // self.block) * self.block
