"""Images as fields, and fields as images.

An image has rows from the top and columns from the left; a field has its value at :math:`(x_i, y_j)`. So x is the
column and y counts rows from the bottom, in pixels of side 1: an image is drawn upright as a field. Values 0, ..., 255
become -1, ..., 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from physflow.fields import SAMPLE, field_names, to_dataset
from physflow.grid import Grid

__all__ = ["CHANNELS", "LABEL", "dequantise", "from_pixels", "grid_of_pixels", "labelled", "to_pixels"]

CHANNELS = {1: ("intensity",), 3: ("red", "green", "blue")}
"""The names of the channels of grey and of coloured images."""
LABEL = "label"
"""The variable of the classes."""


def grid_of_pixels(height: int, width: int) -> Grid:
    """The grid of images of these sizes."""
    return Grid((width, height), ((0.0, float(width)), (0.0, float(height))))


def from_pixels(
    images: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]] | None = None,
    attrs: Mapping[str, Any] | None = None,
    largest: int = 255,
) -> xr.Dataset:
    r"""Images as a Dataset of fields, :math:`u = 2 v / v_{\max} - 1` for the value v of a pixel.

    Arguments:
        images: Whole numbers from 0 to `largest`, shape (sample, channel, row, column), with 1 or 3 channels.
        labels: Their classes, whole numbers of shape (sample,).
        attrs: Attributes of the Dataset.
        largest: The value :math:`v_{\max}` of white.

    Returns:
        The fields ``intensity``, or ``red``, ``green`` and ``blue``, in float32 over (sample, x, y), and the classes as
        ``label`` over (sample).

    Raises:
        ValueError: If shape, type or values do not fit, or there is not one label for each image.
    """
    if images.ndim != 4 or images.shape[1] not in CHANNELS or 0 in images.shape[2:]:
        raise ValueError(
            f"expected images of shape (sample, channel, row, column) with 1 or 3 channels, got {images.shape}"
        )
    if images.dtype.kind not in "iu":
        raise ValueError(f"expected whole numbers from 0 to {largest}, got {images.dtype}; fields are not pixels")
    if images.size and not 0 <= images.min() <= images.max() <= largest:
        raise ValueError(f"expected values from 0 to {largest}, got {images.min()} to {images.max()}")
    fields = np.flip(images, axis=2).swapaxes(2, 3).astype(np.float32)
    fields *= np.float32(2 / largest)
    fields -= 1
    grid = grid_of_pixels(*images.shape[2:])
    ds = to_dataset(torch.from_numpy(fields), CHANNELS[images.shape[1]], grid, {"values": largest, **(attrs or {})})
    return ds if labels is None else labelled(ds, labels)


def dequantise(ds: xr.Dataset, seed: int = 0) -> xr.Dataset:
    r"""Images with uniform noise over the bins of their whole numbers, so that a density of them makes sense.

    A density of points that only take some values can be made as large as one likes; over bins of width w it bounds the
    probabilities of the values (`physflow.generative.bits_per_dimension`).

    Arguments:
        ds: Images as the loaders give them.
        seed: The seed of the noise.

    Returns:
        The images, their fields moved by up to half of the width, :math:`w = 2 / v_{\max}`, which is the attribute
        ``bin_width``.

    Raises:
        ValueError: If the attribute ``values`` does not tell the largest value.
    """
    if "values" not in ds.attrs:
        raise ValueError(
            "expected images of whole numbers, as the loaders give them, with the attribute values, their largest; "
            f"found the attributes {sorted(map(str, ds.attrs))}"
        )
    width, rng = 2 / float(ds.attrs["values"]), np.random.default_rng(seed)
    moved = {name: ds[name] + width * (rng.random(ds[name].shape, dtype=np.float32) - 0.5) for name in field_names(ds)}
    return ds.assign(moved).assign_attrs(bin_width=width)


def labelled(ds: xr.Dataset, labels: NDArray[Any]) -> xr.Dataset:
    """A Dataset with classes beside its fields; a ValueError if they do not belong to it."""
    n = ds.sizes[SAMPLE]
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"expected one label for each of {n} images, whole numbers of shape ({n},), "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    return ds.assign({LABEL: ((SAMPLE,), labels.astype(np.int64))})


def to_pixels(ds: xr.Dataset) -> NDArray[np.uint8]:
    """The images of a Dataset of fields from -1 to 1: the nearest whole numbers from 0 to 255.

    Values beyond -1 and 1, which samples of a model have, become black and white.

    Arguments:
        ds: Fields over (sample, x, y), named as by `from_pixels`.

    Returns:
        The images, shape (sample, channel, row, column).

    Raises:
        ValueError: If the Dataset holds no images.
    """
    found = field_names(ds)
    names = next((names for names in CHANNELS.values() if set(names) <= set(found)), None)
    if names is None or {*ds[names[0]].dims} != {SAMPLE, "x", "y"}:
        raise ValueError(
            f"expected the fields 'intensity', or 'red', 'green' and 'blue', over (sample, x, y), got {list(found)} "
            f"over {tuple(ds.sizes)}"
        )
    fields = np.stack([ds[name].transpose(SAMPLE, "y", "x").values for name in names], axis=1)
    # 0, ..., 255 come back as they were, for they lie within rounding of whole numbers.
    pixels = np.rint(np.clip((np.flip(fields, axis=2) + 1) * 127.5, 0, 255))
    return pixels.astype(np.uint8)
