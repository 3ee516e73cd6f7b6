"""Training data read from a file, in the space in which a model works.

POD coordinates are a few numbers per sample: they are computed once and kept in memory. Point values are read from the
file batch by batch, so that a data set may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from physflow.data.files import FieldReader
from physflow.transforms import Transform

__all__ = ["FileBatches", "encode", "rows"]

_PIECE = 256


def rows(reader: FieldReader, start: int, stop: int) -> Iterator[Tensor]:
    """The samples start .. stop - 1 of a file in pieces, shape (piece, channel, *axes)."""
    for first in range(start, stop, _PIECE):
        yield reader.read(slice(first, min(first + _PIECE, stop)))


def encode(reader: FieldReader, transform: Transform, start: int, stop: int) -> Tensor:
    """The samples start .. stop - 1 in model space, all in memory."""
    return torch.cat([transform(piece) for piece in rows(reader, start, stop)])


class FileBatches:
    """The samples start .. stop - 1 of a file, read and transformed batch by batch.

    Arguments:
        reader: The open file.
        transform: The fitted transform to model space.
        start: The first sample.
        stop: The one after the last.
    """

    def __init__(self, reader: FieldReader, transform: Transform, start: int, stop: int) -> None:
        self.reader, self.transform, self.start, self.stop = reader, transform, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def batch(self, indices: Tensor) -> Tensor:
        """The items at `indices`, in model space."""
        fields = self.reader.read((indices + self.start).tolist())
        result: Tensor = self.transform(fields)
        return result
