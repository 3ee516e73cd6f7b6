"""The generators of sets by the name of their equation: for the command line and for experiments."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import xarray as xr

from physflow.config import SETS, FieldsConfig
from physflow.data import burgers, darcy, gray_scott, heat, navier_stokes, poisson

__all__ = ["GENERATORS", "generate"]

GENERATORS: dict[str, ModuleType] = {
    "darcy": darcy,
    "poisson": poisson,
    "heat": heat,
    "burgers": burgers,
    "gray-scott": gray_scott,
    "navier-stokes": navier_stokes,
}
"""The modules, each with its function ``generate``."""


def generate(config: FieldsConfig, **how: Any) -> xr.Dataset:
    """Generate the set of some settings.

    Arguments:
        config: The settings; their class says which equation.
        how: The arguments of `physflow.data.darcy.generate` that are no settings: executor, out, progress and so on.
    """
    name = next(name for name, kind in SETS.items() if type(config) is kind)
    settings = {key: value for key, value in vars(config).items() if key != "equation"}
    ds: xr.Dataset = GENERATORS[name].generate(**settings, **how)
    return ds
