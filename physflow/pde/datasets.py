"""The equation that a Dataset says its fields satisfy.

An equation writes itself as plain attributes (`Equation.attributes`); beside them the Dataset holds the grid
(coordinates and the attribute ``centering``) and, for a source that has no name, the variable ``source``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import xarray as xr

from physflow.config import nearest
from physflow.fields import grid_of
from physflow.pde.burgers import Burgers
from physflow.pde.darcy import Darcy
from physflow.pde.darcy_nodes import DarcyNodes
from physflow.pde.equation import Equation
from physflow.pde.gray_scott import GrayScott
from physflow.pde.heat import Heat
from physflow.pde.navier_stokes import NavierStokes
from physflow.pde.poisson import Poisson

__all__ = ["from_dataset"]

_EQUATIONS: dict[str, tuple[Callable[..., Equation], tuple[str, ...]]] = {
    "Darcy": (Darcy, ("source", "boundary", "faces")),
    "DarcyNodes": (DarcyNodes, ("source",)),
    "Poisson": (Poisson, ("boundary", "screening")),
    "Heat": (Heat, ("diffusivity", "boundary")),
    "Burgers": (Burgers, ("viscosity", "steps")),
    "GrayScott": (GrayScott, ("feed", "kill", "diffusivity_u", "diffusivity_v", "steps")),
    "NavierStokes": (NavierStokes, ("viscosity", "forcing", "waves", "drag", "steps")),
}
"""The equations, and the attributes that are their arguments."""


def from_dataset(ds: xr.Dataset) -> Equation:
    """The equation of a Dataset, rebuilt from its attributes on the grid of its fields.

    Arguments:
        ds: A Dataset of fields with the attributes ``equation`` (its class, such as ``"Darcy"``) and those that this
            one writes (`Equation.attributes`): for Darcy ``source``, ``boundary`` and ``faces``; with
            ``source="custom"`` also the variable ``source`` over the grid's axes.

    Returns:
        The equation.

    Raises:
        ValueError: If an attribute or the custom source is missing, or the equation is unknown.
    """
    name = str(ds.attrs.get("equation", ""))
    if name and name not in _EQUATIONS:
        raise ValueError(f"unknown equation {name!r} in the dataset's attributes; {nearest(name, _EQUATIONS)}")
    equation, arguments = _EQUATIONS.get(name, _EQUATIONS["Darcy"])
    required = ("equation", *arguments)
    missing = [key for key in required if key not in ds.attrs]
    if missing:
        raise ValueError(
            f"the dataset does not say which equation its fields satisfy: it lacks the attributes {missing} "
            f"(it has {sorted(map(str, ds.attrs))}); build the equation by hand, for example equation = "
            "physflow.pde.Darcy(physflow.fields.grid_of(ds), source='wells', boundary='neumann', "
            "faces='harmonic'), and set ds.attrs.update(equation.attributes())"
        )
    grid = grid_of(ds)
    settings: dict[str, Any] = {key: _plain(ds.attrs[key]) for key in arguments}
    if settings.get("source") == "custom":
        if "source" not in ds.data_vars or set(ds["source"].dims) != set(grid.axes):
            raise ValueError(
                "the dataset's attribute source is 'custom', but it has no variable 'source' over "
                f"{grid.axes}; add the source term, ds['source'] = ({grid.axes}, values)"
            )
        settings["source"] = ds["source"].transpose(*grid.axes).values
    return equation(grid, **settings)


def _plain(value: Any) -> Any:
    """An attribute as it was before a file made it a number of numpy."""
    return value.item() if hasattr(value, "item") else value
