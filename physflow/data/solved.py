"""Sets of fields that solve an equation: a random field gives what is given, the equation's solver the rest.

What is given is rounded to the stored type before the solve, so that stored fields satisfy the stored equation.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

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
from physflow.pde import Equation, check_device

__all__ = ["How", "Problem", "as_given", "evolution_grid", "generate_solved"]


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
    check_device(device)
    problem = problem_of(config)
    equation, dtype = problem.equation, getattr(torch, config.dtype)
    attrs = {
        **equation.attributes(),
        **config.law(),
        "seed": config.seed,
        "fingerprint": fingerprint(config),
        "physflow_version": __version__,
        "format": FORMAT,
    }
    empty = torch.empty(0, len(equation.fields), *equation.grid.shape, dtype=dtype)
    template = to_dataset(empty, equation.fields, equation.grid, attrs)
    make = partial(_make_block, problem_of, config, device)
    recipe = Recipe(make, problem.law.block, template, to_dict(config))
    return produce(recipe, out, shard=shard, executor=executor, overwrite=overwrite, progress=progress)


def _make_block(problem_of: Callable[[Any], Problem], config: SetConfig, device: str, first: int) -> NDArray[Any]:
    """Samples first .. first + block - 1, shape (block, fields, *axes): always whole, as in `physflow.data.darcy`."""
    if torch.get_num_threads() != 1:  # In another process.
        torch.set_num_threads(1)
    problem, dtype = problem_of(config), getattr(torch, config.dtype)
    law, equation = problem.law, problem.equation
    field = torch.from_numpy(law.draw(config.seed, first, law.block)).double()
    given = tuple(u.to(dtype).to(device, torch.float64) for u in problem.given(field))
    try:
        with torch.inference_mode():
            solved = equation.complete(*given) if equation.inputs else equation.solve(*given)
    except (RuntimeError, ValueError, FloatingPointError) as error:
        raise type(error)(f"in samples {first} to {first + law.block - 1} of the set: {error}") from error
    fields = solved if isinstance(solved, tuple) else (solved,)
    # Each field in one piece of memory, as it is written.
    return np.stack([u.cpu().to(dtype).numpy() for u in fields]).swapaxes(0, 1)
