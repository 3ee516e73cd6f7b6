"""The faults of pairs, and what each is called.

================  ==========================================================================================
kind              what is wrong
================  ==========================================================================================
``pairing``       the solutions do not lie beside their inputs
``orientation``   one field is transposed, flipped or turned
``boundary``      the walls are of another kind than the file says
``equation``      another source, scheme or constant than the file says
``centering``     the points are nodes and not cells, or cells and not nodes
``spacing``       made with the distance of nodes on cells, or the other way round
``sign``          the solution has the opposite sign
``scale``         the solution, or an input, is multiplied by a constant
``offset``        a constant was added to the solution
``encoding``      an input is stored as its logarithm, or as labels of two materials
``shift``         one field lies half a cell off
``noise``         single points of a field are noisy
``scheme``        what is left over is smooth: another scheme, grid or tolerance
``samples``       some samples are wrong, while most are right
``unexplained``   the solutions have little or nothing to do with the inputs
``constants``     a standard deviation in use is not that of the data
================  ==========================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from physflow.config import nearest
from physflow.data.auditing.encodings import AS_IT_IS
from physflow.data.auditing.noise import input_noise, is_white
from physflow.data.auditing.orientations import AS_STORED
from physflow.data.auditing.pairing import NONE
from physflow.data.auditing.readings import EXACT, LOST, Reading
from physflow.fields import SAMPLE
from physflow.grid import Grid
from physflow.pde import Darcy, Equation

__all__ = ["Fault", "of_constants", "of_coordinates", "of_pairing", "of_reading", "of_the_rest"]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Arguments:
        kind: Which, see the module's docstring.
        message: What was found, and what to do about it.
    """

    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def of_pairing(reading: Reading, order: tuple[int, ...] | None, samples: NDArray[np.int64]) -> Iterator[Fault]:
    """Whether the solutions lie beside their inputs; `order` holds the numbers of those that fit."""
    if order is not None:
        wrong = [(int(i), j) for i, j in zip(samples, order, strict=True) if i != j]
        if wrong:
            i, j = wrong[0]
            where = "nowhere in the file" if j == NONE else f"stored in sample {j}"
            yield Fault(
                "pairing",
                f"{len(wrong)} of {len(samples)} inputs do not have their solution beside them: that of sample {i} is "
                f"{where}",
            )
    elif reading.error > LOST:
        yield Fault(
            "unexplained",
            f"no reading explains the solutions, the best leaves {reading.error:.0%}: another equation, constant or "
            "source than are known here, or inputs and solutions that do not belong together",
        )
    elif bool(reading.lost.any()):
        first = int(reading.lost.nonzero()[0])
        yield Fault(
            "samples",
            f"{int(reading.lost.sum())} of {len(samples)} solutions are not those of their inputs, nor of others, "
            f"while most are: first in sample {samples[first]}, with an error of {float(reading.errors[first]):.2g}",
        )


def of_reading(reading: Reading, grid: Grid, claimed: Equation | None) -> Iterator[Fault]:
    """What a reading says that the file does not."""
    if reading.error > LOST:
        return
    equation = reading.equation
    names = {kind: " and ".join(getattr(equation, kind)) for kind in ("inputs", "solutions")}
    for kind, way in (("inputs", reading.inputs), ("solutions", reading.solutions)):
        if way != AS_STORED:
            yield Fault("orientation", f"{names[kind]} is {way.inverse}, so that it does not lie on the other field")
    if claimed is not None:
        yield from _of_equation(equation, claimed)
    if reading.encoding != AS_IT_IS:
        yield Fault("encoding", f"{names['inputs']} is {reading.encoding}")
    if equation.grid.centering != grid.centering:
        if claimed is not None:
            yield Fault("centering", f"the points are {equation.grid.centering}, the file says {grid.centering}")
    elif equation.grid != grid:
        yield Fault("spacing", _WRONG_SPACING[grid.centering])
    if reading.scale < 0:
        yield Fault("sign", f"{names['solutions']} has the opposite sign, or the source has")
    if abs(reading.scale) != 1:
        yield _of_scale(abs(reading.scale), grid, names, max(2e-4, reading.error))
    if reading.offset and not equation.up_to_a_constant:
        yield Fault("offset", f"{names['solutions']} has {reading.offset:.6g} added to it")
    if reading.shift is not None:
        steps = " and ".join(f"{h:+g} along {axis}" for axis, h in zip(grid.axes, reading.half, strict=True) if h)
        yield Fault("shift", f"{names[reading.shift]} lies half a cell off: the values are those of {steps} cells on")


_WRONG_SPACING = {
    "cells": "made with 1 / (n - 1), the distance of nodes, where cells are 1 / n apart",
    "nodes": "made with 1 / n, the distance of cells, where nodes are 1 / (n - 1) apart",
}


def _of_equation(equation: Equation, claimed: Equation) -> Iterator[Fault]:
    said, found = claimed.attributes(), equation.attributes()
    if type(equation) is type(claimed) or {type(equation), type(claimed)} & {Darcy}:
        for key in said.keys() & found.keys() - {"equation"}:
            if said[key] != found[key] and "none" not in (said[key], found[key]):
                kind = "boundary" if key == "boundary" else "equation"
                yield Fault(kind, f"the file says {key} {said[key]!r}, the fields solve {key} {found[key]!r}")


def _of_scale(scale: float, grid: Grid, names: Mapping[str, str], tolerance: float) -> Fault:
    n = math.prod(grid.shape) ** (1 / grid.ndim)
    wrong = (n / (n - 1)) ** 2
    for factor, points in ((wrong, "cells"), (1 / wrong, "nodes")):
        if abs(scale / factor - 1) < tolerance:
            # On coordinates that are wrong the same is found the other way round.
            words = _WRONG_SPACING[points] if points == grid.centering else "the coordinates have another spacing"
            return Fault("spacing", f"{names['solutions']} is {scale:.5g} times the solution: {words}")
    constants = {"n": n, "n^2": n * n, "sqrt(n)": math.sqrt(n), "2": 2.0, "10": 10.0}
    constants |= {f"1 / {name}": 1 / value for name, value in constants.items()}
    near = [name for name, value in constants.items() if abs(scale / value - 1) < tolerance]
    words = f", which is {near[0]}" if near else ""
    return Fault(
        "scale", f"{names['solutions']} is {scale:.6g} times the solution{words}; or {names['inputs']} is scaled"
    )


def of_coordinates(grid: Grid, spacing: bool) -> Iterator[Fault]:
    """Whether coordinates that begin at half a step from the origin should: not if a wrong spacing was found."""
    low = [a / h for (a, _), h in zip(grid.bounds, grid.spacing, strict=True)]
    half = 0.5 if grid.centering == "nodes" else -0.5
    if spacing or not all(abs(a - half) < 1e-2 for a in low):
        return
    if grid.centering == "nodes":
        yield Fault("centering", "the coordinates begin half a step from 0, as those of cells, the file says nodes")
    else:
        yield Fault("shift", "the coordinates begin at 0, where cells begin half a step from the wall")


def of_the_rest(reading: Reading, u: Tensor, q: Tensor) -> Iterator[Fault]:
    """What the best reading leaves unexplained of pairs as stored; those that do not belong together are left out."""
    if not reading.noticed / 10 < reading.error <= LOST or reading.shift is not None:
        return
    good = ~reading.lost
    equation, u, q = reading.equation, reading.inputs(reading.encoding(u[good])), reading.solutions(q[good])
    s = equation.solve(u)
    rest = (q - reading.offset * (not equation.up_to_a_constant)) / reading.scale - s
    if equation.up_to_a_constant:
        rest = rest - rest.mean((1, 2), keepdim=True)
    size = float((rest.square().mean((1, 2)).sqrt() / s.std((1, 2))).median())
    solution, given = equation.solutions[0], equation.inputs[0]
    if reading.error > reading.noticed and is_white(rest):
        yield Fault("noise", f"{solution} has noise of single points, {size:.2%} of its standard deviation")
        return
    level = input_noise(equation, u, s + rest) if isinstance(equation, Darcy) else None
    if level is not None and level > 10 * EXACT:
        yield Fault("noise", f"{given} has noise of single points, about {level:.2%} of its value")
    elif reading.error > reading.noticed:
        yield Fault(
            "scheme",
            f"{solution} differs from the solution on this grid by {reading.error:.2%}, smoothly: it comes from "
            "another scheme, a finer grid or an open tolerance",
        )


def of_constants(ds: xr.Dataset, names: tuple[str, ...], std: Mapping[str, float]) -> Iterator[Fault]:
    """Whether standard deviations in use are those of the data, and by which known mistake they are not."""
    for name, value in std.items():
        if name not in names:
            raise ValueError(f"std of an unknown field {name!r}; {nearest(name, names)}")
        if not 0 < value < math.inf:
            raise ValueError(f"the standard deviation of {name} must be positive and finite, got {value}")
        field = ds[name].transpose(SAMPLE, ...).values.astype(np.float64)
        true, n = float(field.std()), field.shape[1]
        if true == 0:
            raise ValueError(f"{name} is constant: its standard deviation cannot be compared with {value:g}")
        ratio = value / true
        if abs(ratio - 1) < 0.05:
            continue
        known = {f"sqrt({n}), the number of rows": math.sqrt(n), f"{n}, the number of rows": float(n)}
        known |= {"the standard deviation of the logarithm": _log_std(field) / true}
        near = [words for words, factor in known.items() if factor > 0 and abs(ratio / factor - 1) < 0.05]
        words = f": {ratio:.3g} times that, as by {near[0]}" if near else f", {ratio:.3g} times that"
        yield Fault("constants", f"{name} has a standard deviation of {true:.5g}, in use is {value:g}{words}")


def _log_std(field: NDArray[np.float64]) -> float:
    return float(np.log(field).std()) if (field > 0).all() else 0.0
