"""The folder into which a set of shards is made: whose it is, and what of the set is there already.

A shard under way has the name ``.shard-00003.nc.<host>-<process>-<call>.<task>.part``, in which host, process and call
say for which caller it is made. The files of callers that are no more are removed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from physflow import __version__
from physflow.data.files import atomic
from physflow.data.recipes import Recipe
from physflow.data.shard_index import INDEX, ShardIndex, open_shard

__all__ = ["caller_name", "claim", "missing_shards", "remove_parts_of"]

STALE = 3600.0
"""After how many seconds without a write a temporary file of another machine counts as left over."""

_OTHERWISE = "choose another folder, or replace the set (overwrite=True, --overwrite)"
_HOST = re.sub(r"[^\w.-]", "_", platform.node()) or "localhost"
_SHARD = re.compile(r"shard-\d+\.nc")
_PART = re.compile(r"\.(?:index\.json|shard-\d+\.nc)\.(?P<host>.+)-(?P<process>\d+)-[0-9a-f]{8}\.\w+\.part")


def caller_name() -> str:
    """A name for one call in this process, unlike that of any other."""
    return f"{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def claim(recipe: Recipe, folder: Path, shard: int | None, overwrite: bool, caller: str) -> ShardIndex:
    """Prepare a folder for a set: a new one, or one in which some of the set is there already.

    Arguments:
        recipe: How the set is made.
        folder: The folder, as an absolute path.
        shard: The number of samples in a shard; that of the set in the folder, or about 32 MiB, by default.
        overwrite: Whether a set in the folder is deleted first.
        caller: See `caller_name`.

    Returns:
        The index of the set, which is in the folder.

    Raises:
        FileExistsError: If the folder holds something else than a set.
        ValueError: If it holds a set of other settings, or of more samples.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; a name that does not end in '.nc' is a folder of shards")
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    old = _set_in(folder, overwrite)
    if shard is None and old is not None:
        shard = old.shard
    index = ShardIndex(recipe.settings, recipe.samples_per_shard(shard), __version__)
    if old is not None:
        _check_same(folder, old, index)
        if old.samples < index.samples and old.count(len(old) - 1) < old.shard:
            # Before the new index, under which it would be a damaged one.
            (folder / old.name(len(old) - 1)).unlink(missing_ok=True)
    if old != index:
        with atomic(folder / INDEX, writer=f"{caller}.index") as part:
            part.write_text(index.to_json())
    return index


def _set_in(folder: Path, overwrite: bool) -> ShardIndex | None:
    """The set in the folder, None if there is none, or none any more."""
    names = {path.name for path in folder.iterdir() if not _PART.fullmatch(path.name)}
    # An index alone, of a run that failed before its first shard, claims nothing.
    if names <= {INDEX}:
        return None
    ours = {name for name in names if _SHARD.fullmatch(name) or name == INDEX}
    if not overwrite:
        if INDEX not in names:
            what = "shards without their index" if names == ours else "other files and no set of shards"
            cure = ", or replace the shards (overwrite=True, --overwrite)" if names == ours else ""
            raise FileExistsError(f"{folder} holds {what}; choose another folder{cure}")
        return ShardIndex.read(folder)
    try:
        index = ShardIndex.read(folder)
        ours = {index.name(k) for k in range(len(index))} | {INDEX}
    except ValueError as error:
        # Without an index the names alone tell, if there are no others.
        if names != ours:
            raise FileExistsError(f"{folder} holds other files and no set of shards; choose another folder") from error
    # The index last: without it the rest could not be told from files of another kind.
    for name in sorted(ours, key=lambda name: name == INDEX):
        (folder / name).unlink(missing_ok=True)
    return None


def missing_shards(recipe: Recipe, folder: Path, index: ShardIndex) -> Iterator[int]:
    """The shards still to be made; a damaged one is removed, with a warning."""
    there = {entry.name for entry in os.scandir(folder)}
    for k in range(len(index)):
        path = folder / index.name(k)
        if path.name in there:
            try:
                open_shard(path, index, k, recipe.layout).close()
                continue
            except ValueError as error:
                warnings.warn(f"{error}; it is made again", UserWarning, stacklevel=2)
                path.unlink()
        yield k


def remove_parts_of(caller: str, folder: Path) -> None:
    """Remove the temporary files made for a caller; tasks that write them stop."""
    for path in folder.glob(".*.part"):
        if f".{caller}." in path.name:
            path.unlink(missing_ok=True)


def _check_same(folder: Path, old: ShardIndex, new: ShardIndex) -> None:
    """Refuse a folder whose set is not the beginning of the new one."""

    def described(index: ShardIndex) -> dict[str, Any]:
        beside = {"samples per shard": index.shard, "physflow_version": index.physflow_version}
        return {key: value for key, value in (*index.settings.items(), *beside.items()) if key != "samples"}

    before, now = described(old), described(new)
    differences = [
        f"{key} {before.get(key, 'unknown')!r} there, {now.get(key, 'unknown')!r} here"
        for key in {**before, **now}
        if before.get(key, "unknown") != now.get(key, "unknown")
    ]
    if differences:
        raise ValueError(f"{folder} holds a set of other settings: {'; '.join(differences)}; {_OTHERWISE}")
    if old.samples > new.samples:
        raise ValueError(
            f"{folder} holds {old.samples} samples, more than the {new.samples} asked for; take some of them, "
            f"ds.isel(sample=slice({new.samples})), {_OTHERWISE}"
        )


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of callers that are no more."""
    for path in folder.glob(".*.part"):
        if (found := _PART.fullmatch(path.name)) and not _is_alive(found["host"], int(found["process"]), path):
            path.unlink(missing_ok=True)


def _is_alive(host: str, process: int, path: Path) -> bool:
    if host != _HOST or os.name != "posix":
        with contextlib.suppress(FileNotFoundError):
            return time.time() - path.stat().st_mtime < STALE
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # Another user's.
        return True
    # After a restart in a container the numbers begin again: nothing of this process is in this folder yet.
    return process != os.getpid()
