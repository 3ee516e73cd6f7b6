"""Who makes which samples of a set, and where they go.

A set is made of blocks, runs of samples that are computed together, in any order and on any workers: block b holds the
same fields wherever and whenever it is made. An executor, any `concurrent.futures.Executor` (threads, processes, a
cluster through dask's ``Client.get_executor()``), makes them, with a bounded number of tasks under way.

* In memory, or into one file, a task is a block, which comes back to the caller.
* Into a folder of shards (`physflow.data.shards`) a task is a shard: the worker makes its blocks one after the other
  and writes the file. Memory holds one block a worker, and nothing but a number travels back.

A folder is its own record of what is done. The index is written first, shards appear whole, and the same call again
keeps the shards that are right and makes the others: a set that was interrupted at any moment, any number of times,
has the same files, byte for byte, as one that was not. While a shard is made it has a temporary name, which says which
caller it is made for. A task stops when that file is gone: a caller that gives up, or one that finds the files of a
dead one, removes it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from physflow.data import files
from physflow.data.claims import caller_name, claim, missing_shards, remove_parts_of
from physflow.data.files import FieldWriter
from physflow.data.recipes import Recipe
from physflow.data.shard_index import INDEX, ShardIndex

__all__ = ["produce"]

T = TypeVar("T")
R = TypeVar("R")

BLOCKS_UNDER_WAY = 4 * (os.cpu_count() or 1)
"""How many blocks may be under way: those that are done wait in memory."""

SHARDS_UNDER_WAY = 1024
"""How many shards may be under way: more than a large cluster has workers."""

PATIENCE = 10.0
"""For how many seconds a shard may be invisible after its worker is done: network file systems are late."""

_OTHER_FORMATS = (".h5", ".hdf5", ".npy", ".npz", ".pt", ".zarr")
_ELSEWHERE = "the folder must be one that this process and all workers see under the same path, on a shared disk"


def produce(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    shard: int | None = None,
    executor: Executor | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> xr.Dataset:
    """Make a set in memory, in a file or in a folder of shards.

    Arguments:
        recipe: How the set is made.
        out: None, a file name ending in ``.nc``, or the name of a folder, in which an interrupted set goes on.
        shard: The number of samples in a shard, rounded up to whole blocks; about 32 MiB of fields by default.
        executor: Who makes it; None uses one thread a core in this process.
        overwrite: Whether an existing file, or an existing set in a folder, is replaced.
        progress: Whether to show a progress bar.

    Returns:
        The Dataset, opened lazily if it is on disk.

    Raises:
        FileExistsError: If `out` exists, must not be overwritten, and is no set of shards.
        ValueError: If `out` has the name of another format, or the folder holds a set of other settings or of more
            samples.
        RuntimeError: If a worker process ends, or writes where this process cannot see it.
    """
    if out is not None and not os.fspath(out):
        raise ValueError("expected the name of a file or a folder for out, got an empty one")
    folder = None if out is None or os.fspath(out).endswith(".nc") else Path(os.path.abspath(out))
    if folder is not None and folder.suffix in _OTHER_FORMATS:
        raise ValueError(
            f"expected for out a file name ending in '.nc', or the name of a folder, got {str(out)!r}; "
            "`physflow merge` writes Zarr"
        )
    if folder is None and shard is not None:
        raise ValueError("shard= (--shard) is for a folder of shards; give as out a name that does not end in '.nc'")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_one_thread())
        if executor is None:
            executor = stack.enter_context(ThreadPoolExecutor(os.cpu_count() or 1))
        bar = partial(tqdm, total=recipe.samples, desc="generate", unit="sample", disable=not progress)
        if out is None:
            return _into_memory(recipe, executor, bar)
        if folder is not None:
            _into_folder(recipe, folder, shard, executor, overwrite, bar)
        else:
            _into_file(recipe, out, executor, overwrite, bar)
    return files.open(out)


def _into_memory(recipe: Recipe, executor: Executor, bar: Callable[..., tqdm[Any]]) -> xr.Dataset:
    fields = {
        name: (v.dims, np.empty((recipe.samples, *v.shape[1:]), v.dtype), v.attrs)
        for name, v in recipe.template.data_vars.items()
    }
    with bar() as progress:
        for first, block in _blocks(recipe, executor):
            for c, (_, values, _) in enumerate(fields.values()):
                values[first : first + len(block)] = block[:, c]
            progress.update(len(block))
    return xr.Dataset(fields, coords=recipe.template.coords, attrs=recipe.template.attrs)


def _into_file(
    recipe: Recipe, out: str | os.PathLike[str], executor: Executor, overwrite: bool, bar: Callable[..., tqdm[Any]]
) -> None:
    with FieldWriter(out, recipe.template, recipe.samples, overwrite) as writer, bar() as progress:
        for first, block in _blocks(recipe, executor):
            writer.put(first, block)
            progress.update(len(block))


def _blocks(recipe: Recipe, executor: Executor) -> Iterator[tuple[int, NDArray[Any]]]:
    """The first sample and the fields of every block, as they are done; the last is cut to the number of samples."""
    firsts = range(0, recipe.samples, recipe.block)
    for first, block in _results(executor, recipe.make, firsts, BLOCKS_UNDER_WAY):
        yield first, block[: recipe.samples - first]


def _into_folder(
    recipe: Recipe,
    folder: Path,
    shard: int | None,
    executor: Executor,
    overwrite: bool,
    bar: Callable[..., tqdm[Any]],
) -> None:
    caller = caller_name()
    index = claim(recipe, folder, shard, overwrite, caller)
    missing = list(missing_shards(recipe, folder, index))
    make = partial(_make_shard, recipe, index, folder, caller)
    done = index.samples - sum(index.count(k) for k in missing)
    results = _results(executor, make, missing, SHARDS_UNDER_WAY, partial(remove_parts_of, caller, folder))
    with contextlib.closing(results), bar(initial=done) as progress:
        for k, count in results:
            _await_file(folder / index.name(k))
            progress.update(count)


def _make_shard(recipe: Recipe, index: ShardIndex, folder: Path, caller: str, k: int) -> int:
    """Make and write shard k; returns the number of its samples."""
    if not (folder / INDEX).is_file():
        raise RuntimeError(f"a worker on {platform.node()} finds no {folder / INDEX}; {_ELSEWHERE}")
    first, count = k * index.shard, index.count(k)
    template = recipe.template.assign_attrs(fingerprint=index.shard_fingerprint, first=first)
    # A scheduler may give a task to a second worker while the first is still at it.
    writer = f"{caller}.{uuid.uuid4().hex[:8]}"
    with FieldWriter(folder / index.name(k), template, count, overwrite=True, writer=writer) as file:
        for start in range(0, count, recipe.block):
            block = recipe.make(first + start)
            if not file.part.exists():
                raise RuntimeError(f"{file.part} was removed while it was written; is another run in this folder?")
            file.put(start, block[: count - start])
    return count


def _await_file(path: Path) -> None:
    """Refuse a shard that its worker has made somewhere else."""
    give_up = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > give_up:
            raise RuntimeError(f"a worker has written {path}, but there is no such file here; {_ELSEWHERE}")
        time.sleep(0.1)


def _results(
    executor: Executor,
    function: Callable[[T], R],
    arguments: Iterable[T],
    most: int,
    stop: Callable[[], None] = lambda: None,
) -> Generator[tuple[T, R], None, None]:
    """The arguments and results of a function as they come, with at most `most` calls under way.

    On an error or an interruption, pending calls are cancelled, and those that run are waited for; `stop` is called
    meanwhile, to make them end.
    """
    rest = iter(arguments)
    under_way: dict[Future[R], T] = {}
    try:
        while True:
            for argument in islice(rest, most - len(under_way)):
                under_way[executor.submit(function, argument)] = argument
            if not under_way:
                return
            done = wait(under_way, return_when="FIRST_COMPLETED").done
            for future in [future for future in under_way if future in done]:
                yield under_way.pop(future), future.result()
    except BrokenExecutor as error:
        raise RuntimeError(
            "a worker process ended abruptly, often for want of memory: use fewer workers; a folder of shards goes on "
            f"where it stopped ({error})"
        ) from error
    finally:
        running = {future for future in under_way if not future.cancel()}
        while under_way:
            stop()
            running = wait(running, timeout=0.1).not_done
            if not running:
                break


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Workers are the parallelism: more threads inside each would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
