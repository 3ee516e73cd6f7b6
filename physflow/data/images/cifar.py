"""CIFAR-10 from its binary version: records of a label and 3 x 32 x 32 bytes, red before green before blue."""

from __future__ import annotations

import os
import tarfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from physflow.config.checks import one_of
from physflow.data.images.pixels import from_pixels
from physflow.data.images.published import check_published, missing

__all__ = ["cifar10"]

_FOLDER = "cifar-10-batches-bin"
_ARCHIVE = "cifar-10-binary.tar.gz"
_WHERE = "https://www.cs.toronto.edu/~kriz/cifar.html (the binary version)"
_SUMS = {_ARCHIVE: {"c32a1d4ab5d03f1284b67883e8d87530": "CIFAR-10"}}
_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_SHAPE, _RECORDS, _CLASSES = (3, 32, 32), 10_000, 10
_RECORD = 1 + 3 * 32 * 32


def cifar10(path: str | os.PathLike[str], split: Literal["train", "test"] = "train") -> xr.Dataset:
    """CIFAR-10, with its labels.

    Arguments:
        path: The archive ``cifar-10-binary.tar.gz``, which is read as it is; the folder ``cifar-10-batches-bin`` in
            it; or the folder in which either lies. The version for Python is a pickle, and not read.
        split: 50,000 images to train or 10,000 to test.

    Returns:
        The fields ``red``, ``green`` and ``blue`` over (sample, x, y), from -1 to 1, and ``label`` over (sample).

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file has another size, or labels that are none.
    """
    one_of("split", split, _FILES)
    contents = _contents(Path(path), _FILES[split])
    for name, content in contents.items():
        if len(content) != _RECORDS * _RECORD:
            raise ValueError(
                f"{name} of {path} has {len(content)} bytes, expected {_RECORDS} records of {_RECORD} bytes = "
                f"{_RECORDS * _RECORD}: cut short, or another version; get it from {_WHERE}"
            )
    records = np.frombuffer(b"".join(contents.values()), dtype=np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0]
    if labels.max() >= _CLASSES:
        raise ValueError(f"{path} has the label {labels.max()}, expected 0 to {_CLASSES - 1}: is this CIFAR-10?")
    return from_pixels(records[:, 1:].reshape(-1, *_SHAPE), labels, {"set": "CIFAR-10", "split": split})


def _contents(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """The files of these names."""
    candidates = [path, path / _FOLDER] if path.is_dir() else []
    for folder in candidates:
        if all((folder / name).is_file() for name in names):
            return {name: (folder / name).read_bytes() for name in names}
    archive = path / _ARCHIVE if path.is_dir() else path
    if archive.is_file():
        return _unpacked(archive, names)
    for folder in candidates:
        if any((folder / name.removesuffix(".bin")).is_file() for name in names):
            raise ValueError(f"{folder} holds the version for Python, a pickle, which is not read; get {_WHERE}")
    raise missing(path, f"{', '.join(names)} in {_FOLDER}, or {_ARCHIVE}", _WHERE)


def _unpacked(archive: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Members of the archive, in memory."""
    check_published(archive, _SUMS.get(archive.name, {}), _WHERE)
    contents = {}
    try:
        with tarfile.open(archive) as tar:
            for name in names:
                member = tar.extractfile(f"{_FOLDER}/{name}")
                contents[name] = b"" if member is None else member.read()
    except KeyError as error:
        raise ValueError(f"{archive} holds no {_FOLDER}/{name}; get it from {_WHERE}") from error
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{archive} cannot be read ({error}): cut short? get it again from {_WHERE}") from error
    return contents
