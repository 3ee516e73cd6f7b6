"""MNIST and the sets in its format: IDX files, plain or packed by gzip.

An IDX file begins with two zero bytes, the type of its numbers (8 for unsigned bytes), the number of its axes, and the
length of each as a big-endian number of four bytes; the numbers follow, the last axis running fastest.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from physflow.config.checks import one_of
from physflow.data.images.pixels import from_pixels
from physflow.data.images.published import check_published, missing

__all__ = ["idx", "mnist"]

_BYTES = 8
_MOST = 2**33
"""A length beyond this, 8 GiB, is a damaged header and no image set."""
_NAMES = {"train": "train", "test": "t10k"}
_WHERE = "https://github.com/zalandoresearch/fashion-mnist (Fashion-MNIST) or a mirror of yann.lecun.com/exdb/mnist"
_SUMS = {
    "train-images": {"f68b3c2dcbeaaa9fbdd348bbdeb94873": "MNIST", "8d4fb7e6c68d591d4c3dfef9ec88bf0d": "Fashion-MNIST"},
    "train-labels": {"d53e105ee54ea40749a09fcbcd1e9432": "MNIST", "25c81989df183df01b3e8a0aad5dffbe": "Fashion-MNIST"},
    "t10k-images": {"9fb629c4189551a2d022fa330f9573f3": "MNIST", "bef4ecab320f06d8554ea6380940ec79": "Fashion-MNIST"},
    "t10k-labels": {"ec29112dd5afa0611ce80d1b7f02629c": "MNIST", "bb300cfdad3c16e7a12a480ee83cd310": "Fashion-MNIST"},
}


def mnist(folder: str | os.PathLike[str], split: Literal["train", "test"] = "train") -> xr.Dataset:
    """MNIST or Fashion-MNIST from a folder of its IDX files, with the labels if they lie there.

    Arguments:
        folder: The folder of ``train-images-idx3-ubyte`` (or with ``.gz``) and so on.
        split: 60,000 images to train or 10,000 to test.

    Returns:
        The field ``intensity`` over (sample, x, y), from -1 to 1, and ``label`` over (sample).

    Raises:
        FileNotFoundError: If the images are not there.
        ValueError: If a file is damaged, or holds something else.
    """
    one_of("split", split, _NAMES)
    if Path(folder).is_file():
        raise ValueError(
            f"expected the folder of the IDX files, got the file {folder}; physflow.data.images.idx reads one"
        )
    images, labels = (_find(Path(folder), f"{_NAMES[split]}-{kind}") for kind in ("images-idx3", "labels-idx1"))
    if images is None:
        raise missing(Path(folder) / "x", f"{_NAMES[split]}-images-idx3-ubyte, plain or with .gz, in {folder}", _WHERE)
    for file in (images, labels):
        # Sums are known of what is published, and that is packed.
        if file is not None and file.suffix == ".gz":
            check_published(file, _SUMS[file.name.replace(".idx", "-idx").split("-idx")[0]], _WHERE)
    return idx(images, labels).assign_attrs(split=split)


def idx(images: str | os.PathLike[str], labels: str | os.PathLike[str] | None = None) -> xr.Dataset:
    """Grey images of an IDX file, and their labels of another.

    Arguments:
        images: The file of images: unsigned bytes over three axes, (sample, row, column).
        labels: The file of labels: unsigned bytes over one axis.

    Returns:
        The field ``intensity`` over (sample, x, y), from -1 to 1, and ``label`` over (sample) if there are labels.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is damaged, or holds something else.
    """
    pixels = _read(Path(images), 3, "images")
    named = None if labels is None else _read(Path(labels), 1, "labels")
    if named is not None and len(named) != len(pixels):
        raise ValueError(f"{labels} holds {len(named)} labels, but {images} {len(pixels)} images: files of two sets?")
    return from_pixels(pixels[:, None], named)


def _find(folder: Path, stem: str) -> Path | None:
    # Some tools unpack with a dot before idx.
    stems = (f"{stem}-ubyte", f"{stem.replace('-idx', '.idx')}-ubyte")
    found = (folder / (name + ending) for name in stems for ending in ("", ".gz"))
    return next((file for file in found if file.is_file()), None)


def _read(path: Path, axes: int, what: str) -> NDArray[np.uint8]:
    """The numbers of a file that should have so many axes."""
    if not path.is_file():
        raise missing(path, f"a file of {what}, {path}", _WHERE)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0":
                raise ValueError(f"{path} is no IDX file: it begins with {head!r}, not with two zero bytes")
            if head[2] != _BYTES or head[3] != axes:
                other = {1: ": labels?", 3: ": images?"}.get(head[3], "")
                raise ValueError(
                    f"{path} holds numbers of type {head[2]} over {head[3]} axes{other}; expected {what}, unsigned "
                    f"bytes (type {_BYTES}) over {axes}"
                )
            lengths = file.read(4 * axes)
            shape = struct.unpack(f">{axes}I", lengths) if len(lengths) == 4 * axes else (0,)
            size = math.prod(shape)
            # One byte more shows a file that is too long.
            content = file.read(size + 1) if 0 < size < _MOST else b""
    except (EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): the download may be cut short; get it again") from error
    if len(content) != size or not size:
        more = "more than " if len(content) > size else ""
        raise ValueError(
            f"{path} should hold {' x '.join(map(str, shape))} = {size} bytes of {what} by its header, and holds "
            f"{more}{min(len(content), size)}: the download may be cut short; get it again"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
