"""What a layout is: one way in which others store pairs of permeability and pressure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from physflow.fields import SAMPLE
from physflow.grid import Centering, Grid
from physflow.pde import Darcy

__all__ = ["Layout", "pairs"]


class Layout(ABC):
    """One way of storing pairs.

    Attributes:
        name: What it is called.
        expected: What its files hold, in words that complete "expected ...".
    """

    name: ClassVar[str]
    expected: ClassVar[str]

    @abstractmethod
    def matches(self, path: Path) -> bool:
        """Whether a file or folder looks like this layout, by names alone."""

    @abstractmethod
    def read(self, path: Path) -> xr.Dataset:
        """The pairs.

        Arguments:
            path: A file or folder that `matches`.

        Returns:
            ``permeability`` and ``pressure`` over (sample, x, y), as stored: index i of an array is x, j is y. The
            attribute ``layout`` names the layout. Which equation they solve, which way round, is not known.

        Raises:
            ValueError: If the content is not that of the layout.
        """

    def wrong(self, path: Path, found: str) -> ValueError:
        """The error that says what was found and what is expected."""
        return ValueError(f"{path} looks like {self.name}, but {found}; expected {self.expected}")


def pairs(
    layout: Layout,
    path: Path,
    permeability: ArrayLike,
    pressure: ArrayLike,
    centering: Centering = "cells",
) -> xr.Dataset:
    """Pairs on the unit square from arrays of shape (sample, nx, ny), or with one more axis of length 1.

    Arguments:
        layout: The layout, which is named in errors and in the attributes.
        path: Where they come from.
        permeability: The permeability.
        pressure: The pressure, of the same shape.
        centering: Where the points lie.

    Raises:
        ValueError: If a shape or a type is not that of fields.
    """
    arrays = []
    for name, values in zip(Darcy.fields, (permeability, pressure), strict=True):
        array: NDArray[Any] = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise layout.wrong(path, f"its {name} is of type {array.dtype}")
        if array.ndim == 4 and 1 in (array.shape[1], array.shape[3]):
            array = array.squeeze(1 if array.shape[1] == 1 else 3)
        if array.ndim != 3 or min(array.shape[1:]) < 2:
            raise layout.wrong(path, f"its {name} has the shape {array.shape}")
        arrays.append(array if array.dtype.kind == "f" else array.astype(np.float32))
    if arrays[0].shape != arrays[1].shape:
        raise layout.wrong(path, f"permeability has the shape {arrays[0].shape} and pressure {arrays[1].shape}")
    grid = Grid(arrays[0].shape[1:], centering=centering)
    return xr.Dataset(
        {name: ((SAMPLE, *grid.axes), array) for name, array in zip(Darcy.fields, arrays, strict=True)},
        coords=dict(zip(grid.axes, grid.coordinates(), strict=True)),
        attrs={"centering": centering, "layout": layout.name},
    )
