r"""Two chemicals that react, diffuse and make patterns.

.. math:: \partial_t u = D_u \Delta u - u v^2 + F (1 - u), \qquad \partial_t v = D_v \Delta v + u v^2 - (F + k) v,

periodic (`physflow.pde.GrayScott`). The first instant is at rest, u = 1 and v = 0, but for round spots in random
places, in whose middle u = 1/2 and v = 1/4.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, Unpack

import xarray as xr
from torch import Tensor

from physflow.config import GrayScottConfig
from physflow.data.solved import How, Problem, evolution_grid, generate_solved
from physflow.data.spots import Spots
from physflow.pde import GrayScott

__all__ = ["generate", "problem_of"]


def generate(
    samples: int,
    resolution: int | tuple[int, int] = 64,
    extent: tuple[float, float] = (1.25, 1.25),
    instants: int = 11,
    duration: float = 2000.0,
    feed: float = 0.04,
    kill: float = 0.06,
    diffusivity_u: float = 2e-5,
    diffusivity_v: float = 1e-5,
    substeps: int = 100,
    spots: int = 8,
    seed: int = 0,
    dtype: Literal["float32", "float64"] = "float32",
    **how: Unpack[How],
) -> xr.Dataset:
    r"""Generate concentrations over time.

    Arguments:
        samples: The number of trajectories.
        resolution: The number of points along each axis, or a pair (nx, ny).
        extent: The side lengths of the box.
        instants: The number of stored instants, of which the first is given.
        duration: The time from the first to the last.
        feed: The rate F.
        kill: The rate k.
        diffusivity_u: The number :math:`D_u`.
        diffusivity_v: The number :math:`D_v`.
        substeps: The steps of the scheme between stored instants.
        spots: The number of spots.
        seed: The seed: sample i depends on (seed, i) alone.
        dtype: The stored type, ``"float32"`` or ``"float64"``; computed in float64 always.
        how: The device, the workers and where the set goes (`physflow.data.solved.How`).

    Returns:
        A Dataset with ``substrate`` and ``activator`` over (sample, t, x, y), and attributes that rebuild the equation.

    Raises:
        ValueError: If a setting is unknown or out of range.
        FileExistsError: If `out` exists and `overwrite` is not set, or the folder holds another set.
        RuntimeError: If a worker process dies.
        FloatingPointError: If the scheme diverges: take more substeps.
    """
    config = GrayScottConfig(
        samples=samples,
        resolution=resolution,
        extent=extent,
        instants=instants,
        duration=duration,
        feed=feed,
        kill=kill,
        diffusivity_u=diffusivity_u,
        diffusivity_v=diffusivity_v,
        substeps=substeps,
        spots=spots,
        seed=seed,
        dtype=dtype,
    )
    return generate_solved(config, problem_of, **how)


@lru_cache(maxsize=4)
def problem_of(config: GrayScottConfig) -> Problem:
    """The equation and the law of settings."""
    names = ("feed", "kill", "diffusivity_u", "diffusivity_v", "substeps")
    equation = GrayScott(evolution_grid(config), **{name: getattr(config, name) for name in names})
    return Problem(equation, Spots(equation.grid.space, config.spots, config.instants), _at_rest_but_for)


def _at_rest_but_for(spots: Tensor) -> tuple[Tensor, ...]:
    """The two concentrations at the first instant."""
    return 1 - spots / 2, spots / 4
