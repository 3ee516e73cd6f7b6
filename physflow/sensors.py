r"""Sensors in a file, as someone with ten wells has them.

A file of sensors is a table in text: a header, and a line for each reading :math:`y_i` with where it was read, of which
field, and the standard deviation :math:`\sigma_i` of its noise.

.. code-block:: text

    # pumping test of June
    x,    y,    field,            value, std
    0.21, 0.30, pressure,         0.041, 0.002
    0.21, 0.30, log permeability, 0.35,  0.1

The columns for the place are called as the axes of the grid, in the unit of its coordinates. A field is
called by its name, or by the symbol at the end of its long name (``K`` is the permeability, ``p`` the pressure);
``log permeability``, ``log_permeability``, ``log K``, ``log_K`` and ``log(permeability)`` are its natural logarithm,
and so are its value and its noise. Columns may stand in any
order, and others beside them are left alone. Blank lines and lines that begin with ``#`` are skipped, and so is a byte
order mark. A header with semicolons or tabs says that cells are separated by these; a decimal comma is understood then.

`observations_of` makes observations of the sensors, which come in groups of one quantity: `order_of` says which sensor
each reading is of. `with_sensors` keeps both together, in the order of the file, beside draws.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from physflow.config import nearest
from physflow.config.checks import fraction
from physflow.fields import SAMPLE, SENSOR, grid_of, to_dataset, to_tensor
from physflow.grid import Grid
from physflow.inference import Observation, assemble

__all__ = ["Sensor", "held_out", "observations_of", "order_of", "read_sensors", "with_sensors"]

# Keeps the choice apart from those of any other use of a seed.
_STREAM = 0x5E


@dataclass(frozen=True)
class Sensor:
    r"""One reading.

    Arguments:
        place: Where, one coordinate an axis, in the unit of the grid's coordinates.
        field: The name of the field.
        value: What was read, y, in the unit of the field (or of its logarithm).
        std: The standard deviation :math:`\sigma` of its noise, in the same unit.
        log: Whether the natural logarithm of the field was read.
        line: The line of the file that tells it, if there is one.

    Raises:
        ValueError: If a number is not finite, or the standard deviation not positive.
    """

    place: tuple[float, ...]
    field: str
    value: float
    std: float
    log: bool = False
    line: int | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, number in (("place", self.place), ("value", self.value), ("std", self.std)):
            if not np.isfinite(number).all():
                raise ValueError(f"{name} must be finite, got {number}; leave out sensors without a reading")
        if not self.std > 0:
            raise ValueError(
                f"std must be positive, got {self.std:g}: it is how far a reading may be off, and none is exact"
            )

    @property
    def quantity(self) -> str:
        """What was read: the field or its logarithm."""
        return f"log {self.field}" if self.log else self.field


def read_sensors(
    path: str | Path, axes: Sequence[str] = ("x", "y"), fields: Sequence[str] | None = None
) -> list[Sensor]:
    """Read a file of sensors; the module's docstring says what it looks like.

    Arguments:
        path: The file, in UTF-8.
        axes: The names of the grid's axes.
        fields: The names that a field may have; any by default.

    Returns:
        The sensors in the order of the file, at least one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, a cell is of no use or there is no sensor; file and line are named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8; save the table as CSV UTF-8 ({error})") from error
    # A spreadsheet may quote a comment, and writes separators into blank lines.
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip(" \t,;") and line.lstrip(' \t"')[:1] != "#"]
    columns = (*axes, "field", "value", "std")
    if not numbered:
        raise ValueError(f"{path} is empty; expected a header, {','.join(columns)}, and a line for each sensor")
    (first, header), *rows = numbered
    delimiter = next((mark for mark in ";\t" if mark in header), ",")
    found = [name.casefold() for name in _cells(header, delimiter)]
    if not {name.casefold() for name in columns} & set(found):
        raise ValueError(f"{path}, line {first}: expected a header, {', '.join(columns)}, found {header.strip()!r}")
    for name in columns:
        if found.count(name.casefold()) != 1:
            what = "two columns" if name.casefold() in found else "no column"
            raise ValueError(
                f"{path}, line {first}: {what} {name!r}, expected {', '.join(columns)}; "
                f"found: {', '.join(filter(None, found))}"
            )
    sensors, symbols = [], _symbols(fields or ())
    for number, line in rows:
        try:
            cells = _cells(line, delimiter)
            if len(cells) < len(found) or any(cells[len(found) :]):
                comma = "; numbers with a decimal comma need semicolons between cells" if delimiter == "," else ""
                raise ValueError(f"expected {len(found)} cells, one for each column, found {len(cells)}{comma}")
            row = {name: cells[found.index(name.casefold())] for name in columns}
            numbers = {name: _number(name, row[name], delimiter != ",") for name in columns if name != "field"}
            name, log = _field(row["field"], fields, symbols)
            place = tuple(numbers[axis] for axis in axes)
            sensors.append(Sensor(place, name, numbers["value"], numbers["std"], log, number))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not sensors:
        raise ValueError(f"{path} holds a header and no sensor; expected a line for each")
    return sensors


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]


def _number(column: str, cell: str, decimal_comma: bool) -> float:
    try:
        return float(cell.replace(",", ".") if decimal_comma else cell)
    except ValueError:
        raise ValueError(
            f"expected a number as {column}, found {cell!r}; leave out sensors without a reading"
        ) from None


def _symbols(fields: Sequence[str]) -> dict[str, str]:
    """The fields by the symbols at the end of their long names, ``"permeability K"`` say."""
    ds = to_dataset(torch.empty(0, len(fields), 1), fields, Grid((1,), axes=("point",)))
    words = {name: str(ds[name].attrs.get("long_name", "")).split() for name in fields}
    return {each[-1]: name for name, each in words.items() if len(each) > 1}


def _field(name: str, fields: Sequence[str] | None, symbols: Mapping[str, str]) -> tuple[str, bool]:
    """The name of a field, and whether its logarithm is meant."""
    if not name:
        raise ValueError("expected the name of a field, found an empty cell")
    of = None if name in (fields or ()) else re.fullmatch(r"log(?:[ _]+([^()]+)|\s*\((.+)\))", name, re.IGNORECASE)
    plain = (of[1] or of[2]).strip() if of else name
    found = plain if fields is None or plain in fields else symbols.get(plain)
    if found is None:
        valid = [*(fields or ()), *(f"log {each}" for each in fields or ())]
        raise ValueError(f"unknown field {name!r}; {nearest(name, valid)}")
    return found, of is not None


def order_of(sensors: Sequence[Sensor]) -> list[int]:
    """Which sensor each reading is of: reading k of `observations_of` is that of ``sensors[order_of(sensors)[k]]``.

    Quantities come as they first appear, and within each its sensors in their order.

    Arguments:
        sensors: The sensors.
    """
    quantities = list(dict.fromkeys(sensor.quantity for sensor in sensors))
    return sorted(range(len(sensors)), key=lambda i: quantities.index(sensors[i].quantity))


def observations_of(sensors: Sequence[Sensor]) -> list[Observation]:
    """The sensors as observations, one of each quantity: a field, or its logarithm.

    Arguments:
        sensors: The sensors, in any order.

    Returns:
        The observations. Their readings, one after the other, are in the order of `order_of`.

    Raises:
        ValueError: If there is no sensor.
    """
    if not sensors:
        raise ValueError("expected at least one sensor, got none")
    groups: dict[tuple[str, bool], list[tuple[str, Sensor]]] = {}
    for i, sensor in enumerate(sensors):
        label = f"sensor {i}" if sensor.line is None else f"line {sensor.line}"
        groups.setdefault((sensor.field, sensor.log), []).append((label, sensor))
    return [
        Observation(
            name,
            np.array([sensor.value for _, sensor in group]),
            np.array([sensor.std for _, sensor in group]),
            locations=np.array([sensor.place for _, sensor in group]),
            log=log,
            labels=[label for label, _ in group],
        )
        for (name, log), group in groups.items()
    ]


def held_out(sensors: Sequence[Sensor], share: float, seed: int = 0) -> tuple[list[Sensor], list[Sensor]]:
    """Set some sensors aside, to see how well the others predict them.

    Whole places are set aside: a second reading at the place of a first one would be no test.

    Arguments:
        sensors: The sensors.
        share: The share of the places, in [0, 1); 0 keeps all, any other sets at least one aside and keeps one.
        seed: The seed of the choice.

    Returns:
        The sensors to use and those set aside, each in their order.

    Raises:
        ValueError: If the share lies elsewhere, or there are fewer than two places to choose from.
    """
    fraction(share=share)
    places = list(dict.fromkeys(sensor.place for sensor in sensors))
    if share == 0:
        return list(sensors), []
    if len(places) < 2:
        raise ValueError(f"expected sensors at two places or more, to hold some out, got {len(places)}")
    count = min(max(round(share * len(places)), 1), len(places) - 1)
    chosen = {places[i] for i in np.random.default_rng([_STREAM, seed]).permutation(len(places))[:count]}
    return [s for s in sensors if s.place not in chosen], [s for s in sensors if s.place in chosen]


def with_sensors(ds: xr.Dataset, sensors: Sequence[Sensor], held: Sequence[Sensor] = ()) -> xr.Dataset:
    r"""Add sensors to draws, and what each draw says that they would read.

    Arguments:
        ds: Draws over (sample, \*axes), such as `physflow.conditioning.condition` makes. What they hold over ``sensor``
            is replaced; a ``model_error`` of these sensors is kept. An ``offset`` of each draw is in what is predicted.
        sensors: All sensors, used or not.
        held: Those of them that were not used.

    Returns:
        The Dataset with, over ``sensor`` and in the order of the sensors, ``observed``, ``observed_std``, ``held_out``
        and, for each draw, ``predicted`` without noise; their places, one variable an axis (``sensor_x``, say),
        ``sensor_field``, ``sensor_log``, whether the logarithm is meant, and ``sensor_line``, in the file, or 0.

    Raises:
        ValueError: If there is no sensor, or one is of an unknown field, outside the domain, or contradicts another.
    """
    observations = observations_of(sensors)
    names = list(dict.fromkeys(sensor.field for sensor in sensors))
    fields, grid = to_tensor(ds, names, finite=False), grid_of(ds, names)
    if "offset" in ds:
        moved = [name in str(ds["offset"].attrs.get("fields", "")).split() for name in names]
        fields[:, moved] += torch.from_numpy(ds["offset"].values).reshape(-1, *[1] * (fields.ndim - 1)).to(fields)
    with torch.no_grad():
        readings = assemble(observations, names, grid.coordinates(), cells=grid.centering == "cells").operator(fields)
    predicted = torch.empty_like(readings)
    predicted[:, order_of(sensors)] = readings
    places = np.array([sensor.place for sensor in sensors])
    unused = set(held)
    units = {str(ds[name].attrs.get("units", "")) for name in names}
    unit = {"units": units.pop()} if len(units) == 1 and not any(sensor.log for sensor in sensors) else {}
    columns: dict[str, Any] = {
        **{f"sensor_{axis}": place for axis, place in zip(grid.axes, places.T, strict=True)},
        "sensor_field": [sensor.field for sensor in sensors],
        "sensor_log": [sensor.log for sensor in sensors],
        "sensor_line": [sensor.line or 0 for sensor in sensors],
        "held_out": [sensor in unused for sensor in sensors],
        "observed": [sensor.value for sensor in sensors],
        "observed_std": [sensor.std for sensor in sensors],
    }
    about = {
        **{f"sensor_{axis}": {"long_name": f"{axis} of the sensor"} | _unit(ds[axis]) for axis in grid.axes},
        "sensor_field": {"long_name": "field that was read"},
        "sensor_log": {"long_name": "whether its natural logarithm was read"},
        "sensor_line": {"long_name": "line of the file, or 0"},
        "held_out": {"long_name": "whether the reading was not used"},
        "observed": {"long_name": "reading", **unit},
        "observed_std": {"long_name": "standard deviation of its noise", **unit},
    }
    variables: dict[str, Any] = {name: (SENSOR, np.array(column), about[name]) for name, column in columns.items()}
    variables["predicted"] = ((SAMPLE, SENSOR), predicted.numpy(), {"long_name": "reading of a draw, no noise", **unit})
    if (error := _model_error(ds, sensors, unused)) is not None:
        long_name = "root mean square error of the model's reading, counted as noise"
        variables["model_error"] = (SENSOR, error, {"long_name": long_name, **unit})
    return ds.drop_dims(SENSOR, errors="ignore").assign(variables)


def _unit(axis: xr.DataArray) -> dict[str, str]:
    return {"units": str(axis.attrs["units"])} if "units" in axis.attrs else {}


def _model_error(ds: xr.Dataset, sensors: Sequence[Sensor], unused: Set[Sensor]) -> NDArray[np.float64] | None:
    """The error of the model that draws were made with, in the order of the sensors; NaN where it is not known."""
    if "model_error" not in ds:
        return None
    groups = ([i for i, s in enumerate(sensors) if (s in unused) == which] for which in (False, True))
    used, others = ([group[k] for k in order_of([sensors[i] for i in group])] for group in groups)
    read = np.array([sensor.value for sensor in sensors])
    # As `condition` leaves them, with or without those beside, or as they are here already.
    for order in ([*used, *others], used, list(range(len(sensors)))):
        if np.array_equal(read[order], ds["observed"]):
            error = np.full(len(sensors), np.nan)
            error[order] = ds["model_error"]
            return error
    return None
