r"""Readings of pairs: ways to understand what is stored, and how well each explains it.

A reading is an equation :math:`s = S(u)`, the way round of the inputs u and of the solutions, and a shift of one of
them by half a cell. What is stored should then be :math:`q = c\,s + b`: the least squares of each sample give c and b,
and their medians over the samples those of the reading, so that a few wrong samples do not move them. Its error is

.. math:: e = \operatorname{median}_i \frac{|q_i - c\, s_i - b|}{|q_i - b|},

the sine of an angle: 0 for a solution, 1 for fields that have nothing to do with the inputs. Where nothing says which
constant belongs to a solution, the means are taken off first. Comparing solutions tells more than residuals do, which
the least noise makes large.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import scipy.optimize
import torch
from torch import Tensor

from physflow.data.auditing.encodings import AS_IT_IS, Encoding, Labels
from physflow.data.auditing.orientations import AS_STORED, Orientation, orientations
from physflow.data.auditing.shifts import HALVES, shifted
from physflow.pde import Equation

__all__ = ["EXACT", "LOST", "NOTICED", "Reading", "again", "better", "explanations", "shifts", "with_contrast"]

EXACT = 1e-5
"""The error up to which stored fields are a solution: what rounding to float32 and a solver's tolerance leave."""

LOST = 0.2
"""The error from which on a reading explains nothing."""

NOTICED = 1e-4
"""The error from which on what is left over is a fault, unless rounding is coarser."""

_LIKE = 1.15
"""Errors within this factor are alike; of such readings the simplest is preferred."""
_LITTLE = 1e-6
_SAME = 2e-4
"""A factor this near to one is none."""


@dataclass(frozen=True)
class Reading:
    """A way to understand pairs, and how well it does.

    Attributes:
        equation: The equation.
        distance: How far the equation is from what the file says.
        inputs: The way round of the inputs that makes them those of the equation.
        solutions: The same of the solutions.
        shift: Which field lies half a cell off, along x and y, ``"inputs"`` or ``"solutions"``; None for neither.
        half: By how many cells, along x and y.
        encoding: How the inputs are stored.
        scale: The factor c.
        offset: The constant b, in the stored unit.
        error: The error e.
        errors: That of each sample, shape (sample,).
        rounding: The relative rounding of the stored type.
    """

    equation: Equation
    distance: float = 0.0
    inputs: Orientation = AS_STORED
    solutions: Orientation = AS_STORED
    shift: str | None = None
    half: tuple[float, float] = (0.0, 0.0)
    encoding: Encoding = AS_IT_IS
    scale: float = 1.0
    offset: float = 0.0
    error: float = 1.0
    errors: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0), compare=False)
    rounding: float = 0.0

    @property
    def noticed(self) -> float:
        """The error from which on what is left over is a fault."""
        return max(NOTICED, 2 * self.rounding)

    @property
    def lost(self) -> Tensor:
        """Which samples it does not explain, shape (sample,): those that are far worse than most."""
        return self.errors > (LOST if self.error > LOST else max(self.noticed, 10 * self.error))

    @property
    def departures(self) -> float:
        """How far the reading is from what the file says, to prefer the simpler of two."""
        turns = sum(0.5 * way.turns + 0.6 * (way != AS_STORED) for way in (self.inputs, self.solutions))
        # Of two ways to say the same, the solutions are turned, as in the published data.
        turns += 0.1 * (self.inputs != AS_STORED)
        constants = 1.5 * (self.scale < 0) + (abs(self.scale) != 1) + (self.offset != 0)
        return self.distance + turns + constants + 1.5 * (self.shift is not None)

    def __str__(self) -> str:
        attributes = self.equation.attributes()
        words = [str(attributes.pop("equation"))]
        words += [f"{name} {value}" for name, value in attributes.items()]
        for kind, way in (("inputs", self.inputs), ("solutions", self.solutions)):
            names = " and ".join(getattr(self.equation, kind))
            words += [f"{names} {way}"] * (way != AS_STORED)
            words += [f"{names} shifted by {self.half[0]:g} and {self.half[1]:g} cells"] * (self.shift == kind)
        words += [f"{' and '.join(self.equation.inputs)} {self.encoding}"] * (self.encoding != AS_IT_IS)
        if self.scale != 1:
            words.append(f"{' and '.join(self.equation.solutions)} times {self.scale:.5g}")
        if self.offset:
            words.append(f"plus {self.offset:.4g}")
        return ", ".join(words)


def explanations(first: Reading, u: Tensor, q: Tensor) -> list[Reading]:
    """The readings of pairs that are like one, but in all ways round.

    Arguments:
        first: The reading, of an equation of one input and one solution.
        u: The inputs as stored, shape (sample, nx, ny), float64.
        q: The solutions as stored, same shape.
    """
    found, ways, u = [], orientations(first.equation.grid.shape), first.encoding(u)
    for inputs in _distinct(first.equation, ways):
        s = first.equation.solve(inputs(u))
        for solutions in ways:
            found.append(_explained(dataclasses.replace(first, inputs=inputs, solutions=solutions), s, solutions(q)))
    return found


def again(reading: Reading, u: Tensor, q: Tensor) -> Reading:
    """A reading, compared with pairs as stored."""
    u = reading.inputs(reading.encoding(u))
    s = reading.equation.solve(shifted(u, (-reading.half[0], -reading.half[1])) if reading.shift == "inputs" else u)
    return _explained(reading, shifted(s, reading.half) if reading.shift == "solutions" else s, reading.solutions(q))


def shifts(reading: Reading) -> list[Reading]:
    """The readings that are like one, but for a shift of inputs or solutions by half a cell."""
    fields = ("solutions", "inputs")
    return [dataclasses.replace(reading, shift=field, half=half) for half in HALVES for field in fields]


def with_contrast(reading: Reading, u: Tensor, q: Tensor) -> Reading:
    """A reading with the contrast of two materials that explains pairs as stored best, where they are labels.

    Of two that explain as much it takes the one with fewer digits.
    """
    encoding = reading.encoding
    if not isinstance(encoding, Labels):
        return reading

    def read(logarithm: float) -> Reading:
        changed = dataclasses.replace(encoding, contrast=math.exp(logarithm))
        return again(dataclasses.replace(reading, encoding=changed), u, q)

    bounds = (0.1, 7.0) if encoding.contrast > 1 else (-7.0, -0.1)
    found = scipy.optimize.minimize_scalar(
        lambda x: read(x).error, bounds=bounds, method="bounded", options={"xatol": 1e-7}
    )
    best = read(float(found.x))
    rounded = (read(math.log(float(f"{math.exp(found.x):.{digits}g}"))) for digits in (1, 2, 3))
    return next((reading for reading in rounded if reading.error <= max(1.02 * best.error, EXACT)), best)


def better(readings: Iterable[Reading]) -> list[Reading]:
    """Readings from the best to the worst: by error, and of errors that are alike the simplest first."""
    left, ordered = sorted(readings, key=lambda reading: reading.error), []
    while left:
        alike = max(_LIKE * left[0].error, _LITTLE)
        best = min((r for r in left if r.error <= alike), key=lambda r: (r.departures, r.error))
        ordered.append(best)
        left.remove(best)
    return ordered


def _explained(reading: Reading, s: Tensor, q: Tensor) -> Reading:
    """A reading with factor, offset and errors: of solutions s and of what is stored, turned to lie as they do."""
    s, q = s.flatten(1), q.flatten(1)
    mean_s, mean_q = s.mean(1, keepdim=True), q.mean(1, keepdim=True)
    # A constant field, or none, must not divide by zero.
    c = ((q - mean_q) * (s - mean_s)).sum(1) / (s - mean_s).square().sum(1).clamp_min(1e-300)
    scale, offset = c.median(), torch.zeros((), dtype=q.dtype)
    spread = (q - mean_q).square().mean(1).sqrt().median()
    if reading.equation.up_to_a_constant:
        s, q = s - mean_s, q - mean_q
        shown = mean_q.median()
    else:
        shown = (mean_q[:, 0] - c * mean_s[:, 0]).median()
        if shown.abs() < 2e-3 * spread:
            # A constant that is hardly there takes a part of the factor with it.
            shown, scale = offset, ((q * s).sum(1) / s.square().sum(1).clamp_min(1e-300)).median()
        offset = shown
    size = (q - offset).norm(dim=1)
    # A constant is explained by any factor that is small enough, and that is no explanation.
    errors = torch.where(size > 0, (q - scale * s - offset).norm(dim=1) / size.clamp_min(1e-300), 1.0)
    error, factor = float(errors.median()), float(scale) or 1.0
    factor = math.copysign(1.0, factor) if abs(abs(factor) - 1) < max(_SAME, error, reading.rounding) else factor
    constant = float(shown) if shown.abs() > max(2e-3, error) * spread else 0.0
    return dataclasses.replace(reading, scale=factor, offset=constant, error=error, errors=errors)


def _distinct(equation: Equation, ways: tuple[Orientation, ...]) -> tuple[Orientation, ...]:
    """The ways round of the inputs that are not those of inputs and solutions together."""
    source, (hx, hy) = getattr(equation, "source_term", None), equation.grid.spacing
    if source is not None and not all(torch.equal(way(source), source) for way in ways):
        return ways
    # Turning both fields changes nothing, but on cells that are not square.
    return (AS_STORED,) if math.isclose(hx, hy, rel_tol=1e-6) else tuple(w for w in ways if not w.along_x | w.along_y)
