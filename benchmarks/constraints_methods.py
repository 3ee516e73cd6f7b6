"""The ways of the benchmark of constraints: what is done to a trained model's samples, and what its time is.

A way acts on fields at the end of sampling, on the data that the flow predicts at each late time, or selects from more
samples. What runs in the loop and is to end in solutions runs at the end as well: the POD of p, in which the flow
lives, holds no exact solution.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from torch import Tensor

from physflow.corrected import corrected_solver
from physflow.fields import SAMPLE, to_tensor
from physflow.generative import Heun, Solver
from physflow.inference import (
    CoCoGen,
    Completion,
    Correction,
    NewtonProjection,
    ResidualDescent,
    ZeroMean,
)
from physflow.model import Model
from physflow.pde import Equation

__all__ = ["ANCHOR", "END", "LOOP", "RAW", "SELECTION", "TRAINING", "Way", "costs", "sampled", "ways"]

ANCHOR, RAW, END, LOOP, SELECTION, TRAINING = (
    "anchor",
    "as sampled",
    "at the end",
    "in the loop",
    "selection",
    "in training",
)
"""The kinds of rows."""
START = 0.67
"""The time from which a correction in the loop acts."""
SHARE = 0.1
"""The share of the samples that a selection keeps."""


@dataclass(frozen=True)
class Way:
    """One way to bring samples nearer to the equation; without any of them, the samples as they are.

    Attributes:
        name: Its name in tables and figures.
        kind: Its kind.
        end: The correction of sampled fields.
        loop: The correction of predicted data, of fields as well.
        score: The score of which the least `SHARE` of the samples is kept.
    """

    name: str
    kind: str
    end: Correction | None = None
    loop: Correction | None = None
    score: str | None = None


def ways(equation: Equation, scale: Sequence[float]) -> dict[str, Way]:
    """All ways, by the names of their files.

    Arguments:
        equation: The equation, of (K, p).
        scale: The standard deviations of log K and p, in which the projection measures distances.
    """
    r, M = equation.residual, equation.precondition
    completion, newton = Completion(equation.complete), NewtonProjection.of(equation, scale)
    descent = ResidualDescent(r, M)
    # A prediction goes back to the POD, which leaves more than that.
    rough = NewtonProjection.of(equation, scale, tolerance=1e-2)
    return {
        "raw": Way("as sampled", RAW),
        "mean": Way("mean of p = 0", END, ZeroMean(1)),
        **{
            f"cocogen-{n}-{step}": Way(f"CoCoGen, {n} × {step}", END, CoCoGen(r, float(step), n))
            for step in ("2e-3", "2e-4")
            for n in (10, 100)
        },
        "descent-1": Way("descent, 1 step", END, descent),
        "descent-5": Way("descent, 5 steps", END, ResidualDescent(r, M, steps=5)),
        "newton": Way("Gauss-Newton", END, newton),
        "completion": Way("completion", END, completion),
        "descent-loop": Way("descent in the loop", LOOP, loop=descent),
        "newton-loop": Way("Gauss-Newton in the loop", LOOP, newton, rough),
        "completion-loop-alone": Way("completion in the loop alone", LOOP, loop=completion),
        "completion-loop": Way("completion in the loop", LOOP, completion, completion),
        "best-error": Way("best 10 % by error of p", SELECTION, score="solution_error"),
        "best-residual": Way("best 10 % by residual", SELECTION, score="residual_mse"),
    }


def solver(way: Way, model: Model) -> Solver:
    """How a way integrates."""
    if way.loop is None:
        return Heun()
    return corrected_solver(model, way.loop, START)


def sampled(way: Way, model: Model, samples: int, seed: int) -> xr.Dataset:
    """So many samples of a model, with their scores; all ways start from the same noise.

    Arguments:
        way: The way.
        model: The trained model.
        samples: How many; a selection draws `1 / SHARE` times as many.
        seed: The seed of the samples.
    """
    if way.score is None:
        return model.sample(samples, seed, solver(way, model), model.sampling.steps, way.end)
    ds = model.sample(round(samples / SHARE), seed, solver(way, model), model.sampling.steps)
    # What has no score comes last.
    return ds.isel({SAMPLE: np.sort(np.argsort(ds[way.score].values)[:samples])})


def costs(model: Model, every: Mapping[str, Way], samples: int, rounds: int) -> list[dict[str, str | float]]:
    """The time that each way adds to a sample, and its share of the time of sampling, all timed in turns.

    A time at the end is that of the correction itself; one in the loop is that of sampling with it less that of
    sampling without in the same round. The results are medians over the rounds.

    Arguments:
        model: The trained model.
        every: The ways; that of the kind `RAW` gets the time of sampling itself.
        samples: How many are drawn each time.
        rounds: How many rounds.
    """
    assert model.equation is not None
    asked = {"solution_error": model.equation.complete, "residual_mse": model.equation.residual}

    def drawn(way: Way) -> tuple[float, Tensor]:
        start = time.perf_counter()
        ds = model.sample(samples, 0, solver(way, model), model.sampling.steps, score=False)
        return time.perf_counter() - start, to_tensor(ds, model.fields)

    def timed(f: Callable[..., object], *arguments: Tensor) -> float:
        start = time.perf_counter()
        f(*arguments)
        return time.perf_counter() - start

    def added(way: Way, plain: float, fields: Tensor) -> float:
        if way.score is not None:
            return (plain + timed(asked[way.score], *fields.unbind(1))) / SHARE - plain
        more = 0.0
        if way.loop is not None:
            seconds, fields = drawn(way)
            more = seconds - plain
        return more + (timed(way.end, fields) if way.end is not None else 0.0)

    # What is done first in a process is slower than ever after.
    _, fields = drawn(Way("", RAW))
    for way in every.values():
        if way.end is not None:
            way.end(fields)
    found: dict[str, list[tuple[float, float]]] = {key: [] for key in every}
    for _ in range(rounds):
        plain, fields = drawn(Way("", RAW))
        for key, way in every.items():
            seconds = plain if way.kind == RAW else added(way, plain, fields)
            found[key].append((seconds, seconds / plain))
    return [
        {
            "kind": way.kind,
            "method": way.name,
            "milliseconds": 1e3 / samples * statistics.median(seconds for seconds, _ in found[key]),
            "share": statistics.median(share for _, share in found[key]),
        }
        for key, way in every.items()
    ]
