"""A folder of PNG files of one size; its sub-folders, if there are any, are the classes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from physflow.data.images.pixels import from_pixels

__all__ = ["folder"]


def folder(path: str | os.PathLike[str]) -> xr.Dataset:
    """The PNG files of a folder, in the order of their names.

    Arguments:
        path: The folder. Files in it are images without classes; files in sub-folders alone have the sub-folder as
            class, numbered in the order of the names, which the attribute ``classes`` keeps.

    Returns:
        The fields ``intensity``, or ``red``, ``green`` and ``blue``, over (sample, x, y), from -1 to 1; with classes
        also ``label`` over (sample).

    Raises:
        FileNotFoundError: If there is no such folder, or no PNG file in it.
        ValueError: If the images differ in size or channels, have an alpha channel or 16 bits, or lie in the folder and
            its sub-folders both.
    """
    top = Path(path)
    if not top.is_dir():
        raise FileNotFoundError(f"there is no folder {top}; expected one of PNG files")
    own, below = (sorted(file for file in top.glob(where) if file.suffix.lower() == ".png") for where in ("*", "*/*"))
    if not own and not below:
        found = sorted({file.suffix or file.name for file in top.iterdir()})
        raise FileNotFoundError(
            f"expected PNG files in {top} or its sub-folders, found {', '.join(found) or 'nothing'}"
        )
    if own and below:
        raise ValueError(
            f"{top} holds {len(own)} images itself and {len(below)} in sub-folders, such as {below[0].parent.name}: "
            "images with and without a class; move them all into sub-folders, or none"
        )
    files = own or below
    images = [_read(file) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"expected images of one size, but {files[0].relative_to(top)} has (channels, rows, columns) = "
                f"{images[0].shape} and {file.relative_to(top)} {image.shape}; scale them to one size"
            )
    if own:
        return from_pixels(np.stack(images))
    classes = sorted({file.parent.name for file in below})
    labels = np.array([classes.index(file.parent.name) for file in below])
    return from_pixels(np.stack(images), labels, {"classes": ", ".join(classes)})


def _read(file: Path) -> NDArray[np.uint8]:
    """An image, (channel, row, column)."""
    # Slow to import, and this alone needs it.
    from matplotlib.image import imread

    with file.open("rb") as head:
        # Signature (8 bytes), length, name, width and height (4 each), then the depth of a channel.
        start = head.read(25)
    # Values of other depths would be scaled to another range, or lose digits, without a word.
    if start[12:16] == b"IHDR" and start[24:] not in (b"", b"\x08"):
        raise ValueError(f"{file} has {start[24]} bits a channel; save it with 8")
    try:
        values = imread(file, format="png")
    except (SyntaxError, ValueError, OSError) as error:
        raise ValueError(f"{file} cannot be read as PNG ({error}); is it damaged, or of another kind?") from error
    if values.ndim == 3 and values.shape[2] == 4:
        raise ValueError(f"{file} has an alpha channel, which has no place in a field; save it without, as RGB or grey")
    # Values of 8 bits come as v / 255.
    pixels = np.rint(np.asarray(values, dtype=np.float64) * 255)
    return np.atleast_3d(pixels).transpose(2, 0, 1).astype(np.uint8)
