"""A set of fields that is cheap to make and whose every value says where it belongs."""

from functools import partial

import numpy as np
import torch

from physflow import __version__
from physflow.config import fingerprint
from physflow.data.recipes import Recipe
from physflow.fields import to_dataset
from physflow.grid import Grid

GRID = Grid((3, 4))
NAMES = ("permeability", "pressure")
BLOCK = 4


def values(samples, dtype="float32"):
    """Field c of sample i at point j is 100 i + 50 c + j."""
    i, c, j = np.ogrid[: len(samples), :2, :12]
    return (100 * np.asarray(samples)[i] + 50 * c + j).reshape(-1, 2, *GRID.shape).astype(dtype)


def make(first, dtype="float32"):
    return values(np.arange(first, first + BLOCK), dtype)


def recipe(samples, make=make, dtype="float32", **settings):
    settings = {"samples": samples, "law": "counting", "dtype": dtype, **settings}
    attrs = {"seed": 3, "physflow_version": __version__, "fingerprint": fingerprint(settings)}
    template = to_dataset(torch.empty(0, 2, *GRID.shape, dtype=getattr(torch, dtype)), NAMES, GRID, attrs)
    return Recipe(make if dtype == "float32" else partial(make, dtype=dtype), BLOCK, template, settings)


def contents(folder):
    """The bytes of every file in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
