"""Training data read from a file, in the space in which a model works.

POD coordinates are a few numbers per sample: they are computed once and kept in memory. Point values are read from the
file batch by batch, so that a data set may be larger than memory.

With m images (the symmetries of an equation, see `physflow.pde.Equation.symmetries`), n samples make m n items: item
j n + i is image j of sample i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from physflow.data.files import FieldReader
from physflow.fields import check_finite
from physflow.pde import Symmetry, identity
from physflow.transforms import Transform

__all__ = ["FileBatches", "encode", "rows"]

_PIECE = 256


def rows(reader: FieldReader, start: int, stop: int) -> Iterator[Tensor]:
    """The samples start .. stop - 1 of a file in pieces, shape (piece, channel, *axes); a NaN is a ValueError."""
    for first in range(start, stop, _PIECE):
        piece = reader.read(slice(first, min(first + _PIECE, stop)))
        for c, name in enumerate(reader.names):
            check_finite(name, piece[:, c], first)
        yield piece


def encode(
    reader: FieldReader, transform: Transform, start: int, stop: int, images: Sequence[Symmetry] = (identity,)
) -> Tensor:
    """All images of the samples start .. stop - 1 in model space, in memory."""
    pieces = [[transform(image(piece)) for image in images] for piece in rows(reader, start, stop)]
    return torch.cat([torch.cat(parts) for parts in zip(*pieces, strict=True)])


class FileBatches:
    """All images of the samples start .. stop - 1 of a file, read and transformed batch by batch.

    Arguments:
        reader: The open file.
        transform: The fitted transform to model space.
        start: The first sample.
        stop: The one after the last.
        images: The maps whose images of each sample count as data.
    """

    def __init__(
        self,
        reader: FieldReader,
        transform: Transform,
        start: int,
        stop: int,
        images: Sequence[Symmetry] = (identity,),
    ) -> None:
        self.reader, self.transform, self.images = reader, transform, tuple(images)
        self.start, self.samples = start, stop - start

    def __len__(self) -> int:
        return len(self.images) * self.samples

    def batch(self, indices: Tensor) -> Tensor:
        """The items at `indices`, in model space."""
        fields = self.reader.read((indices % self.samples + self.start).tolist())
        which = indices // self.samples
        for j, image in enumerate(self.images):
            fields[which == j] = image(fields[which == j])
        result: Tensor = self.transform(fields)
        return result
