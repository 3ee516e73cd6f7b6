"""Handwritten digits of 8 x 8 pixels that come with scikit-learn: 1797 images that need no download."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.ndimage import zoom

from physflow.data.images.pixels import from_pixels

__all__ = ["digits"]

_WHITE = 16
_RESOLUTIONS = (8, 16)


def digits(resolution: int = 8) -> xr.Dataset:
    """The digits of scikit-learn (`sklearn.datasets.load_digits`), with their labels.

    Arguments:
        resolution: Pixels along each axis: 8, as published, in 17 shades; or 16, by linear interpolation between the
            centres of the pixels.

    Returns:
        The field ``intensity`` over (sample, x, y), from -1 to 1, and ``label`` over (sample).

    Raises:
        ModuleNotFoundError: Without scikit-learn.
        ValueError: If the resolution is another.

    References:
        E. Alpaydin, C. Kaynak (1998), Optical recognition of handwritten digits, UCI machine learning repository.
    """
    if resolution not in _RESOLUTIONS:
        raise ValueError(f"expected a resolution of 8 or 16 pixels, got {resolution!r}")
    try:
        # Optional, and slow to import.
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the digits come with scikit-learn: pip install 'physflow[metrics]'") from error
    found = load_digits()
    images, largest = found.images.astype(np.uint8), _WHITE
    if resolution == 16:
        # In 255 shades, for what lies between two of 17.
        fine = zoom(images * (255 / _WHITE), (1, 2, 2), order=1, mode="nearest", grid_mode=True)
        images, largest = np.rint(fine).astype(np.uint8), 255
    return from_pixels(images[:, None], found.target, {"set": "digits"}, largest)
