"""Sets of fields that solve an equation: a random field gives what is given, the equation's solver the rest.

What is given is rounded to the stored type before the solve, so that stored fields satisfy the stored equation.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from physflow import __version__
from physflow.config import SetConfig, fingerprint, to_dict
from physflow.data.files import FORMAT
from physflow.data.production import produce
from physflow.data.random_fields import RandomField
from physflow.data.recipes import Recipe
from physflow.fields import to_dataset
from physflow.grid import AXIS_NAMES, TIME, Grid
from physflow.pde import Equation, attributes_of, check_device

__all__ = ["How", "Problem", "as_given", "evolution_grid", "generate", "generate_solved"]


def as_given(field: Tensor) -> tuple[Tensor, ...]:
    """A random field that is itself what is given."""
    return (field,)


def evolution_grid(config: Any) -> Grid:
    """The grid of time and space of the settings of a set of fields over time."""
    axes = (TIME, *AXIS_NAMES[: len(config.shape)])
    return Grid((config.instants, *config.shape), ((0.0, config.duration), *config.bounds), axes=axes)


@dataclass(frozen=True)
class Problem:
    """What makes a set.

    Arguments:
        equation: The equation.
        law: The law of the random field, on the axes of space.
        given: What the equation is given, from random fields of shape (block, *space): its inputs, or the fields at the
            first instant.
    """

    equation: Equation
    law: RandomField
    given: Callable[[Tensor], tuple[Tensor, ...]] = as_given


class How(TypedDict, total=False):
    """How a set is made, and where it goes; the arguments of `physflow.data.darcy.generate` of these names.

    Attributes:
        device: The device of the solve.
        executor: Any `concurrent.futures.Executor`; None uses one thread a core in this process.
        out: A file, ending in ``.nc``, or a folder of shards; in memory by default.
        progress: Whether to show a progress bar.
        overwrite: Whether an existing file `out`, or the set in a folder `out`, is replaced.
        shard: The number of samples in a shard.
    """

    device: str
    executor: Executor | None
    out: str | os.PathLike[str] | None
    progress: bool
    overwrite: bool
    shard: int | None


def generate_solved(
    config: SetConfig,
    problem_of: Callable[[Any], Problem],
    *,
    device: str = "cpu",
    executor: Executor | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
    overwrite: bool = False,
    shard: int | None = None,
) -> xr.Dataset:
    """Generate a set; the arguments after the first two are those of `How`.

    Arguments:
        config: The settings.
        problem_of: The problem of settings, a function that workers can import.
        device: The device of the solve.
        executor: Who computes.
        out: Where the set goes.
        progress: Whether to show a progress bar.
        overwrite: Whether an existing set is replaced.
        shard: The number of samples in a shard of a folder.

    Returns:
        All fields over (sample, *axes), with attributes that rebuild the equation and name the law.
    """
    identity = {"seed": config.seed, "fingerprint": fingerprint(config)}
    how: How = {"device": device, "executor": executor, "out": out, "progress": progress}
    how |= {"overwrite": overwrite, "shard": shard}
    attrs = {**config.law(), **identity}
    return _produced(partial(problem_of, config), attrs, to_dict(config), **how)


def generate(
    problem: Problem, samples: int, seed: int = 0, dtype: Literal["float32", "float64"] = "float32", **how: Unpack[How]
) -> xr.Dataset:
    """Generate fields of an equation of your own, or of one of physflow's with another law.

    Arguments:
        problem: The equation, the law of the random field, and what the equation is given of it. With workers in other
            processes all three must be picklable.
        samples: The number of samples.
        seed: The seed: sample i depends on (seed, i) alone.
        dtype: The stored type; computed in float64 always.
        how: The device, the workers and where the set goes. A folder of shards goes on after an interruption if the
            law draws the same.

    Returns:
        All fields over (sample, *axes), with attributes that rebuild the equation once its class is imported.

    Raises:
        ValueError: If samples or seed are out of range.
        FileExistsError: If the target exists and ``overwrite`` is not set, or the folder holds another set.
    """
    config, equation = SetConfig(samples, seed, dtype), problem.equation
    # A law has no settings that are known here: it is told by what it draws.
    drawn = [_told(u) for u in problem.given(torch.from_numpy(problem.law.draw(seed, 0, 1)).double())]
    settings = {**to_dict(config), **attributes_of(equation), "grid": to_dict(equation.grid), "law": drawn}
    attrs = {"seed": seed, "fingerprint": fingerprint(settings)}
    return _produced(partial(_same, problem), attrs, settings, **how)


def _told(u: Tensor) -> str:
    """A name for a field, in three digits of its own size."""
    size = float(u.abs().max()) or 1.0
    digest = hashlib.sha256(torch.round(u / size, decimals=3).numpy().tobytes()).hexdigest()[:16]
    return f"{size:.3g} x {digest}"


def _same(problem: Problem) -> Problem:
    return problem


def _produced(
    make_problem: Callable[[], Problem],
    attrs: Mapping[str, Any],
    settings: Mapping[str, Any],
    device: str = "cpu",
    **how: Any,
) -> xr.Dataset:
    check_device(device)
    problem = make_problem()
    equation, dtype = problem.equation, settings["dtype"]
    about = {**equation.attributes(), **attrs, "physflow_version": __version__, "format": FORMAT}
    empty = torch.empty(0, len(equation.fields), *equation.grid.shape, dtype=getattr(torch, dtype))
    template = to_dataset(empty, equation.fields, equation.grid, about)
    make = partial(_make_block, make_problem, settings["seed"], dtype, device)
    return produce(Recipe(make, problem.law.block, template, settings), **how)


def _make_block(make_problem: Callable[[], Problem], seed: int, dtype: str, device: str, first: int) -> NDArray[Any]:
    """Samples first .. first + block - 1, shape (block, fields, *axes): always whole, as in `physflow.data.darcy`."""
    if torch.get_num_threads() != 1:  # In another process.
        torch.set_num_threads(1)
    problem, stored = make_problem(), getattr(torch, dtype)
    law, equation = problem.law, problem.equation
    field = torch.from_numpy(law.draw(seed, first, law.block)).double()
    given = tuple(u.to(stored).to(device, torch.float64) for u in problem.given(field))
    try:
        with torch.inference_mode():
            solved = equation.complete(*given) if equation.inputs else equation.solve(*given)
    except (RuntimeError, ValueError, FloatingPointError) as error:
        raise type(error)(f"in samples {first} to {first + law.block - 1} of the set: {error}") from error
    fields = solved if isinstance(solved, tuple) else (solved,)
    # Each field in one piece of memory, as it is written.
    return np.stack([u.cpu().to(stored).numpy() for u in fields]).swapaxes(0, 1)
