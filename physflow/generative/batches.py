"""Training data in model space, as training asks for them: a finite set read by index, or an endless stream.

A set is read in epochs, each shuffled anew by the training. A stream has an order of its own: the training takes its
batches one after the other, and says at which step it begins, so that a training that goes on from a checkpoint sees
what it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from physflow.generative.seeds import item_generator

__all__ = ["BatchSource", "BatchStream", "DrawnBatches", "TensorBatches"]


class BatchSource(Protocol):
    """Data in model space, read by index."""

    def __len__(self) -> int:
        """The number of items."""
        ...

    def batch(self, indices: Tensor) -> Tensor:
        """The items at `indices` (int64, on the CPU), shape (len(indices), ...)."""
        ...


@runtime_checkable
class BatchStream(Protocol):
    """Data in model space without end, in batches of one size whose content depends on their number alone."""

    @property
    def batch_size(self) -> int:
        """The number B of items in a batch."""
        ...

    def batches(self, step: int, rank: int = 0, world: int = 1) -> Iterator[Tensor]:
        """The batches from number `step` on; of each, the share of process `rank` among `world`.

        The share holds the items floor(B rank / world) .. floor(B (rank + 1) / world) - 1, shape (items, ...).
        """
        ...


class TensorBatches:
    """A `BatchSource` in memory.

    Arguments:
        items: The items, shape (items, ...).
    """

    def __init__(self, items: Tensor) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, indices: Tensor) -> Tensor:
        """The items at `indices`."""
        return self.items[indices.to(self.items.device)]


class DrawnBatches:
    """A `BatchStream` of fresh draws from a law.

    Arguments:
        draw: Called as draw(n, generator); returns n independent draws, shape (n, ...).
        batch_size: The number of items in a batch.
        seed: The seed; batch k is drawn from a generator of its own.
    """

    def __init__(self, draw: Callable[[int, torch.Generator], Tensor], batch_size: int, seed: int = 0) -> None:
        if batch_size < 1 or seed < 0:
            raise ValueError(f"expected batch_size >= 1 and seed >= 0, got {batch_size} and {seed}")
        self.draw, self.batch_size, self.seed = draw, batch_size, seed

    def batches(self, step: int, rank: int = 0, world: int = 1) -> Iterator[Tensor]:
        """The batches from number `step` on; see `BatchStream.batches`. Every process draws the whole batch."""
        begin, end = (self.batch_size * r // world for r in (rank, rank + 1))
        for k in count(step):
            yield self.draw(self.batch_size, item_generator(self.seed, k))[begin:end]
