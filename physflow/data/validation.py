"""Is a file of fields what it says it is?

`validate` opens a file and looks, in this order, at its format, its grid, its values and, where the file names its
equation, at whether the solution fields solve it: their residual must lie near the floor that storage in the file's
own type leaves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr

from physflow.data import files
from physflow.data.files import Metadata
from physflow.fields import SAMPLE, field_names, grid_of, to_tensor
from physflow.pde import Equation, from_dataset

__all__ = ["Finding", "validate"]

_LOOKED_AT = 64
_FAR_FROM_THE_FLOOR = 100.0
"""How far above the floor the mean squared residual of a solution may lie, for another solver or tolerance."""

_WRONG = 1e-2
"""The mean squared residual, relative to that of the source, at which a single sample counts as wrong."""


@dataclass(frozen=True)
class Finding:
    """One thing that `validate` found.

    Arguments:
        level: ``"error"`` (do not use the file), ``"warning"`` or ``"info"``.
        message: What was found, what was expected and the likely fix.
    """

    level: Literal["error", "warning", "info"]
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.message}"


def validate(path: str | os.PathLike[str]) -> list[Finding]:
    """Look a file of fields over.

    Arguments:
        path: A netCDF-4 file.

    Returns:
        The findings; a sound file has none of level ``"error"``.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    try:
        ds = files.open(path)
    except ValueError as error:
        return [Finding("error", str(error))]
    with ds:
        findings: list[Finding] = []
        for check in (_check_metadata, _check_fields, _check_values, _check_equation):
            try:
                findings += check(ds)
            except (ValueError, OSError) as error:
                findings.append(Finding("error", str(error)))
            if any(finding.level == "error" for finding in findings):
                break
        return findings


def _check_metadata(ds: xr.Dataset) -> Iterator[Finding]:
    if "format" not in ds.attrs:
        yield Finding("info", "no attribute 'format': the file was not made by a generator of physflow")
    elif ds.attrs["format"] != files.FORMAT:
        yield Finding("error", f"format {ds.attrs['format']!r}, this version reads {files.FORMAT!r}; update physflow")
    elif missing := [name for name in ("equation", "seed", "fingerprint") if name not in ds.attrs]:
        yield Finding("error", f"the file lacks the attributes {missing}, which every generator of physflow writes")
    elif ds.attrs["equation"] not in ("Darcy", "DarcyNodes"):
        said = from_dataset(ds).attributes()
        words = [f"{name} {value}" for name, value in said.items() if name != "equation"]
        identity = f"seed {ds.attrs['seed']}; fingerprint {ds.attrs['fingerprint']}"
        yield Finding("info", f"{', '.join([str(said['equation']), *words])}; {identity}")
    else:
        metadata = Metadata.from_attrs(ds.attrs)
        yield Finding(
            "info",
            f"{metadata.equation}, {metadata.boundary} walls, source {metadata.source}; {metadata.law()}; "
            f"seed {metadata.seed}; fingerprint {metadata.fingerprint}",
        )


def _check_fields(ds: xr.Dataset) -> Iterator[Finding]:
    names, grid = field_names(ds), grid_of(ds)
    shape = " x ".join(str(n) for n in grid.shape)
    yield Finding("info", f"{ds.sizes[SAMPLE]} samples of {', '.join(names)} on {shape} {grid.centering}")
    if ds.sizes[SAMPLE] == 0:
        yield Finding("warning", "the file holds no samples")


def _check_values(ds: xr.Dataset) -> Iterator[Finding]:
    for start in range(0, ds.sizes[SAMPLE], 256):
        piece = ds.isel({SAMPLE: slice(start, start + 256)})
        for name in field_names(ds):
            values = piece[name].values
            bad = ~np.isfinite(values)
            if bad.any():
                first = tuple(int(i) for i in np.argwhere(bad)[0])
                yield Finding(
                    "error",
                    f"field {name!r} is NaN or infinite, first in sample {start + first[0]} at point {first[1:]}",
                )
                return


def _check_equation(ds: xr.Dataset) -> Iterator[Finding]:
    if "equation" not in ds.attrs:
        yield Finding("warning", "no attribute 'equation': whether the fields solve one cannot be told")
        return
    if ds.sizes[SAMPLE] == 0:
        return
    equation = from_dataset(ds)
    residuals = []
    for start in range(0, ds.sizes[SAMPLE], 256):
        piece = to_tensor(ds.isel({SAMPLE: slice(start, start + 256)}), equation.fields).unbind(1)
        for name, values in zip(equation.fields, piece, strict=True):
            if name in equation.positive and not (values > 0).all():
                at = tuple(int(i) for i in (values <= 0).nonzero()[0])
                value = f"{values[at]:.3g} in sample {start + at[0]} at point {at[1:]}"
                yield Finding("error", f"field {name!r} must be positive, but is {value}")
                return
        residuals.append(equation.residual(*piece).square().flatten(1).mean(1))
    all_residuals = torch.cat(residuals)
    residual, worst = float(all_residuals.median()), int(all_residuals.argmax())
    # What storage leaves is found by solving again, for some samples.
    some = ds.isel({SAMPLE: np.unique(np.linspace(0, ds.sizes[SAMPLE] - 1, _LOOKED_AT).astype(int))})
    fields = to_tensor(some, equation.fields).unbind(1)
    stored = some[equation.solutions[0]].dtype
    solved = equation.complete(*fields)
    rounded = [torch.from_numpy(field.numpy().astype(stored)).double() for field in solved]
    # The schemes that do not balance to rounding (DarcyNodes) have a floor of their own, which `rounded` includes.
    floor = max(_median_residual(equation, rounded), 1e-20)
    if residual <= _FAR_FROM_THE_FLOOR * floor:
        found = f"median residual_mse {residual:.3g}, at the floor of {stored} storage ({floor:.3g})"
        # The trivial answer's residual is the size of the source.
        trivial = _median_residual(equation, equation.trivial(*fields))
        wrong = int((all_residuals > _WRONG * trivial).sum())
        if wrong and "trained_on" not in ds.attrs:
            yield Finding(
                "error",
                f"{wrong} of {len(all_residuals)} samples do not solve their equation, while the others do ({found}); "
                f"the worst is sample {worst} with {float(all_residuals[worst]):.3g}: damaged or changed since",
            )
            return
        yield Finding("info", f"{found}; largest {float(all_residuals[worst]):.3g}, in sample {worst}")
        return
    if "trained_on" in ds.attrs:
        yield Finding(
            "info",
            f"samples of a model, which solve their equation nearly: median residual_mse {residual:.3g}, "
            f"solutions {floor:.3g}; `physflow score` says more",
        )
        return
    message = (
        f"the fields do not solve their equation: median residual_mse {residual:.3g}, while solutions stored as "
        f"{stored} reach {floor:.3g}"
    )
    for what, change in _repairs(equation):
        candidate = change(fields)
        if candidate is not None and _median_residual(equation, candidate) <= 0.01 * residual:
            yield Finding(
                "error", f"{message}; with the {what} they come near: {_median_residual(equation, candidate):.3g}"
            )
            return
    yield Finding(
        "error", f"{message}; other walls, source, spacing or faces than the attributes say, or shuffled pairs?"
    )


def _median_residual(equation: Equation, fields: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> float:
    return float(equation.residual(*fields).square().flatten(1).mean(1).median())


Fields = tuple[torch.Tensor, ...]


def _repairs(equation: Equation) -> Iterator[tuple[str, Callable[[Fields], Fields | None]]]:
    """Changes of the solution field that undo a common mistake, by name."""
    where = equation.fields.index(equation.solutions[0])

    def changed(fields: Fields, new: torch.Tensor) -> Fields | None:
        return (*fields[:where], new, *fields[where + 1 :]) if new.shape == fields[where].shape else None

    yield f"{equation.solutions[0]} transposed", lambda fields: changed(fields, fields[where].transpose(-1, -2))
    yield f"sign of the {equation.solutions[0]} changed", lambda fields: changed(fields, -fields[where])
