"""The equations that pairs may solve, beside the one that their file names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr

from physflow.data.auditing.encodings import AS_IT_IS, Encoding
from physflow.data.auditing.readings import Reading
from physflow.grid import Centering, Grid
from physflow.pde import Darcy, DarcyNodes, Equation, Poisson, from_dataset

__all__ = ["FAMILIES", "candidates", "family_of"]

FAMILIES: tuple[type[Equation], ...] = (Darcy, Poisson)
"""The equations of one input and one solution that are audited, by the names of their fields."""

_WALLS: tuple[dict[str, Any], ...] = (
    {"source": "wells", "boundary": "neumann"},
    {"source": "wells", "boundary": "dirichlet"},
    {"source": "constant", "boundary": "dirichlet"},
)


def family_of(ds: xr.Dataset) -> type[Equation]:
    """Which kind of pairs a Dataset holds, by the names of its fields.

    Raises:
        ValueError: If they are not those of a kind that is known.
    """
    for family in FAMILIES:
        if all(name in ds.data_vars for name in family.fields):
            return family
    if str(ds.attrs.get("equation", "Darcy")) not in ("Darcy", "DarcyNodes", "Poisson"):
        raise ValueError(f"only pairs of Darcy and Poisson are audited, and the file says {ds.attrs['equation']}")
    known = " or ".join(" and ".join(family.fields) for family in FAMILIES)
    found = ", ".join(map(str, ds.data_vars))
    raise ValueError(
        f"expected pairs of {known}, found {found}; name them by physflow.data.open(path, fields={{'permeability': "
        "'K', 'pressure': 'p'}), or on the command line by --fields permeability=K,pressure=p"
    )


def candidates(ds: xr.Dataset, grid: Grid, encodings: Sequence[Encoding] = (AS_IT_IS,)) -> list[Reading]:
    """Readings by each of the equations, not yet compared; that of the one which the Dataset names, if any, first.

    Arguments:
        ds: The Dataset.
        grid: The grid of its fields.
        encodings: How the inputs may be stored.
    """
    claimed = from_dataset(ds) if "equation" in ds.attrs else None
    found = [Reading(claimed)] if claimed is not None else []
    rounding = float(np.finfo(ds[family_of(ds).solutions[0]].dtype).eps) if _is_float(ds) else 0.0
    # Without a word on cells or nodes the points are where the coordinates say, whichever they are.
    grids = [grid, _other(grid)] if "centering" in ds.attrs else [grid, _same_points(grid), _other(grid)]
    if len(set(grid.shape)) > 1:
        # With cells of another shape a wrong spacing is more than a factor.
        grids.append(_stretched(grid))
    for k, points in enumerate(grids):
        for equation in _on(points, family_of(ds), claimed):
            if claimed is None or k or equation.attributes() != claimed.attributes():
                distance = 1.2 * k * (claimed is not None) + _differences(equation, claimed)
                found.append(Reading(equation, distance))
    return [
        dataclasses.replace(reading, encoding=encoding, rounding=rounding)
        for reading in found
        for encoding in encodings
    ]


def _is_float(ds: xr.Dataset) -> bool:
    return bool(ds[family_of(ds).solutions[0]].dtype.kind == "f")


def _same_points(grid: Grid) -> Grid:
    """The same points, of the other kind."""
    return Grid.from_coordinates(*grid.coordinates(), centering=_other(grid).centering, axes=grid.axes)


def _on(grid: Grid, family: type[Equation], claimed: Equation | None) -> Iterator[Equation]:
    if family is Poisson:
        for screening in dict.fromkeys((getattr(claimed, "screening", 0.0), 0.0)):
            if grid.centering == "cells":
                yield from (Poisson(grid, walls, screening) for walls in ("dirichlet", "neumann", "periodic"))
    elif grid.centering == "nodes":
        yield DarcyNodes(grid, "wells")
    else:
        for faces in ("harmonic", "arithmetic"):
            yield from (Darcy(grid, **walls, faces=faces) for walls in _WALLS)


def _differences(equation: Equation, claimed: Equation | None) -> float:
    if claimed is None:
        # Of two that explain as much, what a file of ours would say first.
        return 0.05 * (getattr(equation, "faces", "harmonic") != "harmonic")
    said = claimed.attributes()
    return float(sum(said.get(key) != value for key, value in equation.attributes().items()))


def _other(grid: Grid) -> Grid:
    """The same box with as many points, of the other kind."""
    other: Centering = "nodes" if grid.centering == "cells" else "cells"
    return dataclasses.replace(grid, centering=other)


def _stretched(grid: Grid) -> Grid:
    """The same points with the spacing that nodes have where these are cells, and the other way round."""
    change = 1 if grid.centering == "cells" else -1
    bounds = tuple(
        (a, a + (b - a) * (n / (n - 1)) ** change) for (a, b), n in zip(grid.bounds, grid.shape, strict=True)
    )
    return dataclasses.replace(grid, bounds=bounds)
