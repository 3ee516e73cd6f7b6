r"""Darcy pairs made on the fly, as an endless stream of training batches: no sample is ever seen twice.

The pairs :math:`(K_i, p_i)`, :math:`i = 0, 1, \dots`, are those of `physflow.data.darcy.generate`: pair i depends on
(seed, i) alone. With batches of size B, batch k of a stream that starts at :math:`i_0` is

.. math:: (K_i, p_i), \qquad i = i_0 + k B, \dots, i_0 + (k + 1) B - 1,

whoever makes it and whenever, so that a training that was interrupted at step k goes on with batch k. Under R
processes, process r takes the rows :math:`\lfloor B r / R \rfloor, \dots, \lfloor B (r + 1) / R \rfloor - 1` of each.

Pairs are computed in whole blocks aligned to multiples of the block's size (128 pairs of 64 x 64 points), by threads
beside the one that trains. A block on the boundary of two batches is made once where one process takes both. Where
several take turns or shares, a block that two of them touch is made twice: nothing is wasted if :math:`i_0` and every
share are multiples of the block's size (`DarcyStream.block`).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count, groupby, islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from physflow.config import DataConfig
from physflow.config.checks import at_least
from physflow.data.darcy import equation_of, make_block
from physflow.data.laws import law_of
from physflow.pde import Symmetry, check_device, identity

__all__ = ["DarcyStream"]


class DarcyStream(IterableDataset[Tensor]):
    r"""Endless batches of fresh pairs (permeability, pressure), made by background threads.

    Iterating again starts again at `first`. Leaving the loop, by `break` or an error, ends the threads; while they run,
    torch has as many threads fewer for the caller, and at least one. In a
    `torch.utils.data.DataLoader` (with ``batch_size=None``: these are batches already) its workers take turns, so that
    the batches and their order are the same for any number of workers.

    Arguments:
        config: The law and the discretisation; `samples` plays no part, because a stream has no end.
        batch_size: The number B of samples in a batch.
        first: The number of the first sample. ``first=n`` leaves out the samples of a data set of n.
        workers: The number of threads; None takes one a core, shared with the other processes that stream here.
        transform: Maps fields to model space, shape (n, 2, nx, ny) to (n, ...), each sample for itself; for example a
            fitted `physflow.transforms.Transform`. It is called in the threads, on whole blocks.
        device: The device of the solve.
        prefetch: The number of blocks kept ready beyond the one that each worker is making.
        executor: Any `concurrent.futures.Executor` in place of the threads; `workers` is then how many blocks it makes
            at a time. Under a process pool the transform travels with every block.
        images: The maps (`physflow.pde.Equation.symmetries`) of which one, drawn at random, is applied to each sample.
        image_seed: The seed of that draw: the image of sample i depends on (image_seed, i) alone.

    Raises:
        ValueError: If a setting is out of range or unknown.

    Iterating raises a RuntimeError that names the samples if some could not be made.
    """

    def __init__(
        self,
        config: DataConfig,
        batch_size: int,
        *,
        first: int = 0,
        workers: int | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        device: str = "cpu",
        prefetch: int = 4,
        executor: Executor | None = None,
        images: Sequence[Symmetry] = (identity,),
        image_seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, prefetch=prefetch)
        at_least(0, first=first, image_seed=image_seed)
        if workers is not None:
            at_least(1, workers=workers)
        if not images:
            raise ValueError("expected at least one image of each sample, got none; the identity alone changes nothing")
        check_device(device)
        equation_of(config)
        # An impossible law fails here and not in a thread.
        self.block = law_of(config).block
        self.batch_size, self.first, self.workers = batch_size, first, workers
        self.prefetch, self.executor = prefetch, executor
        self._recipe = _Recipe(config, device, tuple(images), image_seed, transform)

    def __iter__(self) -> Iterator[Tensor]:
        """The batches from `first` on, float32, shape (batch_size, 2, nx, ny) or what the transform makes of it."""
        worker = get_worker_info()
        if worker is None:
            return self.batches(0)
        if self.executor is not None:
            raise ValueError(
                "an executor cannot be shared by the workers of a DataLoader; leave out executor, or use num_workers=0"
            )
        begin = self.first + worker.id * self.batch_size
        return self._slices(begin, self.batch_size, worker.num_workers * self.batch_size, worker.num_workers)

    def batches(self, step: int, rank: int = 0, world: int = 1) -> Iterator[Tensor]:
        """The batches from number `step` on; of each, the rows of one process.

        Arguments:
            step: The number k of the first batch.
            rank: The number r of the process.
            world: The number R of processes.

        Returns:
            An endless iterator over tensors of floor(B (r + 1) / R) - floor(B r / R) samples.

        Raises:
            ValueError: If there are fewer samples in a batch than processes, or the numbers are out of range.
        """
        at_least(0, step=step)
        if not 0 <= rank < world <= self.batch_size:
            raise ValueError(
                f"expected 0 <= rank < world <= batch_size, got rank={rank}, world={world} and "
                f"batch_size={self.batch_size}; give every process at least one sample of a batch"
            )
        begin, end = (self.batch_size * r // world for r in (rank, rank + 1))
        start = self.first + step * self.batch_size + begin
        return self._slices(start, end - begin, self.batch_size, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))

    def _slices(self, start: int, length: int, stride: int, sharing: int) -> Iterator[Tensor]:
        """Samples start + k stride .. start + k stride + length - 1 for k = 0, 1, ...

        `sharing` processes of this machine do the same.
        """

        def blocks_of(begin: int) -> range:
            return range(begin - begin % self.block, begin + length, self.block)

        needed = (b for begin in count(start, stride) for b in blocks_of(begin))
        # A block in which one slice ends and the next begins is made once.
        firsts = (b for b, _ in groupby(needed))
        workers = self.workers or max(1, (os.cpu_count() or 1) // sharing)
        with closing(self._blocks(firsts, workers)) as blocks:
            last, block = -1, torch.empty(0)
            for begin in count(start, stride):
                parts = []
                for b in blocks_of(begin):
                    if b != last:
                        last, block = b, next(blocks)
                    parts.append(block[max(0, begin - b) : begin + length - b])
                yield torch.cat(parts)

    def _blocks(self, firsts: Iterator[int], workers: int) -> Generator[Tensor]:
        """The blocks that begin at the samples `firsts`, in order, with a bounded number of them ahead."""
        under_way: deque[tuple[int, Future[Tensor]]] = deque()
        own = _threads(workers) if self.executor is None else nullcontext(self.executor)
        with own as executor:
            try:
                while True:
                    for first in islice(firsts, workers + self.prefetch - len(under_way)):
                        under_way.append((first, executor.submit(self._recipe, first)))
                    yield self._result(*under_way.popleft())
            finally:
                for _, future in under_way:
                    future.cancel()

    def _result(self, first: int, future: Future[Tensor]) -> Tensor:
        try:
            return future.result()
        except Exception as error:
            raise RuntimeError(
                f"making the samples {first} to {first + self.block - 1} of the stream failed (the error counts from "
                f"{first}): {error}"
            ) from error


@dataclass(frozen=True)
class _Recipe:
    """How a block is made: all that travels to a worker."""

    config: DataConfig
    device: str
    images: tuple[Symmetry, ...]
    image_seed: int
    transform: Callable[[Tensor], Tensor] | None

    def __call__(self, first: int) -> Tensor:
        fields = torch.from_numpy(make_block(self.config, first, self.device)).float()
        if len(self.images) > 1:
            # Seeded through a hash, so that the draw has nothing to do with that of the fields for the same seed.
            which = np.random.default_rng([self.image_seed, first]).integers(len(self.images), size=len(fields))
            for j, image in enumerate(self.images):
                chosen = torch.from_numpy(which == j)
                fields[chosen] = image(fields[chosen])
        if self.transform is not None:
            with torch.no_grad():
                fields = self.transform(fields).float()
        return fields


@contextmanager
def _threads(number: int) -> Iterator[Executor]:
    """Threads in each of which torch computes alone; meanwhile the caller has so many fewer of its own."""
    before, pool, all_here = torch.get_num_threads(), ThreadPoolExecutor(number, "stream"), threading.Barrier(number)

    def start() -> None:
        # In this order: a thread takes over the caller's number when torch first needs it.
        torch.get_num_threads()
        torch.set_num_threads(1)
        # Nobody goes on before all have come, so that each of these calls is in another thread.
        all_here.wait()

    try:
        for started in [pool.submit(start) for _ in range(number)]:
            started.result()
        # More threads than cores would wait for one another. Part of the setting is the whole process's: nobody changes
        # it from here on, so that training stays reproducible.
        torch.set_num_threads(max(1, before - number))
        yield pool
    finally:
        torch.set_num_threads(before)
        all_here.abort()
        # Without waiting: the threads end with the block that they are making.
        pool.shutdown(wait=False, cancel_futures=True)
