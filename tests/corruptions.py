"""Good pairs of many kinds, and what goes wrong with pairs."""

import numpy as np
import torch

from physflow.data import darcy
from physflow.fields import to_dataset
from physflow.grid import Grid
from physflow.pde import Darcy, Poisson

__all__ = ["CORRUPTIONS", "GOOD", "good"]

SQUARE = {
    "wells": {"modes": 32},
    "arithmetic faces": {"modes": 16, "faces": "arithmetic"},
    "full field": {"modes": None, "dtype": "float64"},
    "CoCoGen's law": {"preset": "cocogen-16"},
    "CoCoGen's scheme": {"preset": "cocogen-16", "discretization": "nodes"},
    "no pressure at the walls": {"modes": 32, "boundary": "dirichlet"},
    "one source everywhere": {"modes": 32, "boundary": "dirichlet", "source": "constant"},
    "FNO's law": {"preset": "fno"},
}
OTHER = {
    "not square": {"modes": 32, "resolution": (16, 24), "extent": (1.0, 1.5)},
    "cells not square": {"modes": 32, "resolution": (24, 16)},
}
WALLS = ("dirichlet", "neumann", "periodic")
GOOD = (*SQUARE, *OTHER, *(f"Poisson, {walls}" for walls in WALLS))
"""The kinds of good pairs."""


def good(kind, seed, samples=24):
    """Good pairs."""
    if kind.startswith("Poisson"):
        return poisson(kind.split(", ")[1], seed, samples)
    settings = {**SQUARE, **OTHER}[kind]
    return darcy.generate(samples, seed=seed, **{"resolution": 20, **settings})


def poisson(walls, seed, samples):
    grid = Grid((20, 20))
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal((samples, 20, 20)))
    # Smooth enough to look like a source.
    f = Poisson(grid, "neumann", 100.0).solve(noise)
    f = f - f.mean((1, 2), keepdim=True) if walls != "dirichlet" else f + 1e-3
    equation = Poisson(grid, walls)
    pair = torch.stack(equation.complete(f.float().double()), 1).float()
    return to_dataset(pair, equation.fields, grid, equation.attributes())


def names(ds):
    return ("permeability", "pressure") if "pressure" in ds else ("source", "potential")


def transposed(ds, rng):
    name = names(ds)[rng.integers(2)]
    if ds.sizes["x"] != ds.sizes["y"]:
        return flipped(ds, rng)
    return changed(ds, name, ds[name].values.transpose(0, 2, 1)), "orientation"


def flipped(ds, rng):
    name, axis = names(ds)[rng.integers(2)], int(rng.integers(1, 3))
    return changed(ds, name, np.flip(ds[name].values, axis)), "orientation"


def spaced(ds, rng):
    """Made with the spacing of nodes on cells, or of cells on nodes."""
    n, name = ds.sizes["x"], names(ds)[1]
    if len({ds.sizes["x"], ds.sizes["y"]}) > 1:
        sides = [(ds.sizes[axis], ds.sizes[axis] * float(ds[axis][1] - ds[axis][0])) for axis in "xy"]
        grid = Grid((sides[0][0], sides[1][0]), tuple((0.0, length * n / (n - 1)) for n, length in sides))
        K = torch.from_numpy(ds["permeability"].values).double()
        return changed(ds, name, Darcy(grid).solve(K).numpy()), "spacing"
    factor = (n / (n - 1)) ** (2 if ds.attrs["centering"] == "cells" else -2)
    return changed(ds, name, ds[name].values * factor), "spacing"


def rescaled(ds, rng):
    name = names(ds)[rng.integers(2)]
    factor = float(rng.choice([0.5, 3.7, 10.0, ds.sizes["x"] ** 0.5]))
    return changed(ds, name, ds[name].values * factor), "scale"


def other_walls(ds, rng):
    """Labelled with other walls than those they were made with."""
    said = ds.attrs["boundary"]
    valid = [walls for walls in (WALLS if "potential" in ds else WALLS[:2]) if walls != said]
    if ds.attrs["equation"] == "DarcyNodes" or ds.attrs.get("source") == "constant":
        # There is no other kind of walls for these.
        return transposed(ds, rng)
    return ds.assign_attrs(boundary=str(rng.choice(valid))), "boundary"


def half_a_cell_off(ds, rng):
    name, axis, end = names(ds)[1], int(rng.integers(1, 3)), int(rng.integers(2))
    u = ds[name].values
    other = np.roll(u, 1 - 2 * end, axis)
    edge = [slice(None)] * 3
    edge[axis] = -end
    other[tuple(edge)] = u[tuple(edge)]
    return changed(ds, name, (u + other) / 2), "shift"


def noisy(ds, rng):
    name = names(ds)[1]
    u = ds[name].values
    return changed(ds, name, u + 0.01 * u.std() * rng.standard_normal(u.shape)), "noise"


def shuffled(ds, rng):
    order = rng.permutation(ds.sizes["sample"])
    name = names(ds)[1]
    return changed(ds, name, ds[name].values[order]), "pairing"


def changed(ds, name, values):
    return ds.assign({name: (ds[name].dims, values.astype(ds[name].dtype))})


CORRUPTIONS = {
    transposed: "orientation",
    flipped: "orientation",
    spaced: "spacing",
    rescaled: "scale",
    other_walls: "boundary",
    half_a_cell_off: "shift",
    noisy: "noise",
    shuffled: "pairing",
}
"""What goes wrong, and what the audit calls it; each takes pairs and a random generator and gives both.

Where a kind of pairs has no other walls, or its arrays cannot be transposed, another fault takes the place.
"""
