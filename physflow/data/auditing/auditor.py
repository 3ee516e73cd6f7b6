"""What is wrong with pairs of fields, whoever made them?

`audit` looks for the reading of some pairs that explains them best (`physflow.data.auditing.readings`) among those of
all equations that they may solve, all ways round, and shifts by half a cell, and compares it with what their file
says. What differs is a fault, and so is what the best reading leaves unexplained: shuffled pairs, noise, another
scheme. `physflow.data.repair` undoes what can be undone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from physflow.data.auditing import faults
from physflow.data.auditing.candidates import candidates, family_of
from physflow.data.auditing.encodings import AS_IT_IS, encodings_of, other_encodings
from physflow.data.auditing.faults import Fault
from physflow.data.auditing.orientations import AS_STORED, orientations
from physflow.data.auditing.pairing import NONE, belong, partners, sines
from physflow.data.auditing.readings import (
    EXACT,
    LOST,
    Reading,
    again,
    better,
    explanations,
    shifts,
    with_contrast,
)
from physflow.fields import SAMPLE, grid_of, to_tensor
from physflow.pde import from_dataset

__all__ = ["Audit", "audit"]

_FEW, _KEPT = 4, 8
"""Samples by which all readings are compared, and how many of these readings go on to be compared by all samples."""

_FAR = 0.6
"""The error up to which a shift is looked for: half a cell can be much where a field has few cells."""

_SEARCHED = 2**24
"""Points of the stored solutions, all together, among which partners are looked for."""


@dataclass(frozen=True)
class Audit:
    """What was found out about pairs.

    Attributes:
        reading: The way to understand the pairs that explains them best.
        runner_up: The best one that explains them less.
        faults: What is wrong, the gravest first; empty for good pairs.
        residual: The relative residual of the pairs, read this way; the median over the samples looked at.
        floor: That of the solution for the same inputs, stored in the same type.
        samples: The numbers of the samples looked at.
        order: For shuffled pairs, the solution that belongs to each of the samples looked at; -1 is none.
    """

    reading: Reading
    runner_up: Reading
    faults: tuple[Fault, ...]
    residual: float
    floor: float
    samples: tuple[int, ...]
    order: tuple[int, ...] | None = None

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.faults

    def __str__(self) -> str:
        best, other = self.reading, self.runner_up
        lines = [
            f"best reading: {best}",
            f"  error of the solution {best.error:.2g}, relative residual {self.residual:.2g}, floor {self.floor:.2g}; "
            f"{len(self.samples)} samples",
            f"runner-up:    {other}",
            f"  error of the solution {other.error:.2g}",
        ]
        return "\n".join([*lines, *(f"fault: {fault}" for fault in self.faults)] + ["no fault found"] * self.clean)


def audit(
    ds: xr.Dataset, samples: int = 16, std: Mapping[str, float] | None = None, *, progress: bool = False
) -> Audit:
    """Find out what is wrong with pairs of Darcy or Poisson.

    The pairs are ``permeability`` and ``pressure``, or ``source`` and ``potential``, over (sample, x, y); which
    equation they solve may be said by attributes (`physflow.pde.from_dataset`) or not. Without, the equation that they
    solve is no fault, whatever it is.

    Arguments:
        ds: The pairs, as `physflow.data.open` gives them.
        samples: How many of them to look at, evenly spread.
        std: Standard deviations of fields that are in use elsewhere, such as published ones, to be compared with those
            of the data.
        progress: Whether to show a progress bar.

    Returns:
        The best reading, the runner-up and the faults.

    Raises:
        ValueError: If the fields are not such pairs, are not finite, or there are none.
    """
    family, total, claims = family_of(ds), ds.sizes[SAMPLE], []
    if "equation" in ds.attrs:
        try:
            from_dataset(ds)
        except ValueError as error:
            claims = [Fault("equation", f"what the file says of its equation cannot be: {error}")]
            ds = ds.drop_attrs(deep=False).assign_attrs({k: v for k, v in ds.attrs.items() if k != "equation"})
    if total == 0:
        raise ValueError("there are no samples to audit")
    if samples < 1:
        raise ValueError(f"expected a number of samples of at least 1, got {samples}")
    grid = grid_of(ds, family.fields)
    if grid.ndim != 2:
        raise ValueError(f"expected pairs over two axes, got axes {grid.axes}")
    numbers = np.unique(np.linspace(0, total - 1, min(samples, total)).round().astype(int))
    u, q = to_tensor(ds.isel({SAMPLE: numbers}), family.fields).unbind(1)
    with tqdm(desc="audit", unit="equation", disable=not progress) as bar:
        first = candidates(ds, grid, encodings_of(u, family.inputs[0]) if family.positive else (AS_IT_IS,))
        found = _found(first, u, q, bar)
        best, order = found[0], None
        if best.error > best.noticed or bool(best.lost.any()):
            shuffled = _shuffled(ds, first, best, numbers, u, q)
            if shuffled is not None:
                best, order, q = shuffled
            elif best.error > best.noticed and family.positive and (others := other_encodings(u)):
                found = better([*found, *_found(candidates(ds, grid, others), u, q, bar)])
                best = found[0] if found[0].error < best.error / 2 else best
    runner_up = next((reading for reading in found if not _alike(reading, best)), found[1])
    residual, floor = _residuals(best, u, q, ds[family.solutions[0]].dtype)
    claimed = first[0].equation if "equation" in ds.attrs else None
    every = [*claims, *faults.of_pairing(best, order, numbers), *faults.of_reading(best, grid, claimed)]
    if "centering" in ds.attrs and getattr(best.equation, "boundary", "") != "periodic":
        every += faults.of_coordinates(grid, any(fault.kind == "spacing" for fault in every))
    every += [*faults.of_the_rest(best, u, q), *faults.of_constants(ds, family.fields, std or {})]
    return Audit(best, runner_up, tuple(every), residual, floor, tuple(map(int, numbers)), order)


def _found(first: list[Reading], u: Tensor, q: Tensor, bar: tqdm[Any]) -> list[Reading]:
    """All readings from the best to the worst: of few samples for most, and of all for the best of them."""
    few = torch.linspace(0, len(u) - 1, min(_FEW, len(u))).long()
    rough: list[Reading] = []
    for one in first:
        rough += explanations(one, u[few], q[few])
        bar.update()
    ordered = better(rough)
    plain = next(r for r in ordered if r.equation is first[0].equation and r.inputs == r.solutions == AS_STORED)
    kept = list({id(reading): reading for reading in (*ordered[:_KEPT], plain)}.values())
    fine = better(with_contrast(again(reading, u, q), u, q) for reading in kept)
    if 10 * EXACT < fine[0].error < _FAR:
        near = [fine[0], *(reading for reading in fine[1:] if reading.departures == 0)]
        shifted = [with_contrast(again(reading, u, q), u, q) for one in near for reading in shifts(one)]
        # A shift takes most of the error away, or it is none.
        fine = better([*fine, *(reading for reading in shifted if reading.error < fine[0].error / 2)])
    return fine + [reading for reading in ordered if all(reading is not one for one in kept)]


def _alike(a: Reading, b: Reading) -> bool:
    """Whether a reading is as good as another, or differs from it in a shift alone."""
    ways = [(id(r.equation), r.inputs, r.solutions) for r in (a, b)]
    return a.error <= max(1.15 * b.error, EXACT) or ways[0] == ways[1]


def _shuffled(
    ds: xr.Dataset, first: list[Reading], best: Reading, numbers: NDArray[np.int64], u: Tensor, q: Tensor
) -> tuple[Reading, tuple[int, ...], Tensor] | None:
    """The reading of the inputs with the solutions that fit them best, wherever these are stored.

    Returns:
        The reading, the number of the solution of each input and these solutions; None if that explains no more.
    """
    name = best.equation.solutions[0]
    most = max(1, _SEARCHED // (ds[name].size // ds.sizes[SAMPLE]))
    stored = to_tensor(ds.isel({SAMPLE: slice(most)}), name)[:, 0]
    # By the equation that is said to hold, where one is.
    readings = [*(first[:1] if "equation" in ds.attrs else first), dataclasses.replace(best, shift=None)]
    found = []
    for reading in readings:
        s = reading.equation.solve(reading.inputs(reading.encoding(u)))
        for way in orientations(u.shape):
            where, angles = partners(s, way(stored).split(256))
            own = sines(s, way(q))
            # Its own solution is one that is as good: copies of a sample are no fault.
            keeps = (own <= 2 * angles + 1e-6) | (angles > LOST)
            where, angles = torch.where(keeps, torch.from_numpy(numbers), where), torch.where(keeps, own, angles)
            found.append((angles, where, dataclasses.replace(reading, solutions=way, shift=None)))
    # Below that angles are rounding: of readings that say the same, the simplest.
    angles, where, reading = min(found, key=lambda item: (max(float(item[0].median()), 1e-6), item[2].departures))
    changed = where != torch.from_numpy(numbers)
    if not changed.any() or angles.median() > LOST:
        return None
    moved = torch.stack([stored[i] if change else one for i, change, one in zip(where, changed, q, strict=True)])
    again_found = again(reading, u, moved)
    if again_found.errors[changed].median() > best.errors[changed].median() / 2:
        return None
    return again_found, tuple(map(int, torch.where(belong(angles), where, NONE))), moved


def _residuals(reading: Reading, u: Tensor, q: Tensor, dtype: np.dtype) -> tuple[float, float]:
    """The relative residual of pairs as they are read, and of solutions stored in the same type."""
    equation, u = reading.equation, reading.inputs(reading.encoding(u))
    s = equation.solve(u)
    stored = torch.from_numpy(s.numpy().astype(dtype if dtype.kind == "f" else np.float64)).double()
    size = equation.residual(*equation.trivial(u, s)).flatten(1).norm(dim=1)
    read = (reading.solutions(q) - reading.offset * (not equation.up_to_a_constant)) / reading.scale
    each = [(equation.residual(u, field).flatten(1).norm(dim=1) / size).median() for field in (read, stored)]
    return float(each[0]), float(each[1])
