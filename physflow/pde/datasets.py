"""The equation that a Dataset says its fields satisfy.

An equation writes itself as plain attributes (`Equation.attributes`): the name of its class, and its arguments but for
the grid, by their names. Beside them the Dataset holds the grid (coordinates and the attribute ``centering``) and, for
a source that has no name, the variable ``source``. Any equation that has been imported is found, a user's own as well;
nothing is imported because a file names it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import xarray as xr

from physflow.config import nearest
from physflow.fields import grid_of
from physflow.pde.equation import Equation

__all__ = ["attributes_of", "from_dataset"]

_TAKEN = {
    *("samples", "dtype", "grid", "law", "fingerprint", "physflow_version", "format", "centering"),
    # What samples of a model say.
    *("seed", "trained_on", "solver", "steps", "evaluations", "correction", "latent", "mode", "prior"),
}
"""What attributes of an equation cannot be called."""


def attributes_of(equation: Equation) -> dict[str, str | float]:
    """The attributes of an equation, for those of the Datasets of its fields.

    Raises:
        ValueError: If one of them has a name that says another thing there.
    """
    attributes = equation.attributes()
    if taken := sorted(_TAKEN & attributes.keys()):
        raise ValueError(
            f"attributes() of {type(equation).__name__} has {taken}, which say other things in a file; rename "
            "(and the arguments of its class)"
        )
    return attributes


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
    name, known = str(ds.attrs.get("equation", "")), _known(Equation.__subclasses__())
    if name and name not in known:
        raise ValueError(
            f"unknown equation {name!r} in the dataset's attributes; {nearest(name, known)}; an equation of your own "
            "is known in Python once the module of its class is imported"
        )
    equation = known[name or "Darcy"]
    arguments = list(inspect.signature(equation).parameters)[1:]
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
    found: Equation = equation(grid, **settings)
    return found


def _known(kinds: Iterable[type[Equation]]) -> dict[str, Any]:
    """The equations among some classes and those below them, by name.

    Of two of one name it is physflow's, and else the one made last, as when a class is edited in a notebook.
    """
    found: dict[str, Any] = {}
    for kind in kinds:
        every = ({} if inspect.isabstract(kind) else {kind.__name__: kind}) | _known(kind.__subclasses__())
        ours = {name for name, known in found.items() if known.__module__.startswith("physflow.")}
        found |= {name: other for name, other in every.items() if name not in ours}
    return found


def _plain(value: Any) -> Any:
    """An attribute as it was before a file made it a number of numpy."""
    return value.item() if hasattr(value, "item") else value
