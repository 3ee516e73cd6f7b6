r"""Temperatures that even out.

.. math:: \partial_t u = \kappa \Delta u,

with :math:`u(0)` a Gaussian field, solved exactly (`physflow.pde.Heat`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, Unpack

import xarray as xr

from physflow.config import HeatConfig
from physflow.data.fourier import FourierSeries
from physflow.data.solved import How, Problem, evolution_grid, generate_solved
from physflow.pde import Heat

__all__ = ["generate", "problem_of"]


def generate(
    samples: int,
    resolution: int | tuple[int, int] = 64,
    extent: tuple[float, float] = (1.0, 1.0),
    instants: int = 11,
    duration: float = 1.0,
    boundary: Literal["dirichlet", "neumann", "periodic"] = "periodic",
    diffusivity: float = 0.005,
    std: float = 1.0,
    alpha: float = 2.0,
    tau: float = 10.0,
    seed: int = 0,
    dtype: Literal["float32", "float64"] = "float32",
    **how: Unpack[How],
) -> xr.Dataset:
    r"""Generate temperatures over time.

    Arguments:
        samples: The number of trajectories.
        resolution: The number of points along each axis, or a pair (nx, ny).
        extent: The side lengths of the box.
        instants: The number of stored instants, of which the first is given.
        duration: The time from the first to the last.
        boundary: The condition on the walls.
        diffusivity: The diffusivity :math:`\kappa`.
        std: The standard deviation :math:`\sigma` of the temperature at the first instant.
        alpha: The exponent :math:`\alpha` of its spectrum (`physflow.data.fourier.FourierSeries`).
        tau: The inverse length :math:`\tau` of its spectrum.
        seed: The seed: sample i depends on (seed, i) alone.
        dtype: The stored type, ``"float32"`` or ``"float64"``; computed in float64 always.
        how: The device, the workers and where the set goes (`physflow.data.solved.How`).

    Returns:
        A Dataset with ``temperature`` over (sample, t, x, y), and attributes that rebuild the equation.

    Raises:
        ValueError: If a setting is unknown or out of range.
        FileExistsError: If `out` exists and `overwrite` is not set, or the folder holds another set.
        RuntimeError: If a worker process dies.
    """
    config = HeatConfig(
        samples=samples,
        resolution=resolution,
        extent=extent,
        instants=instants,
        duration=duration,
        boundary=boundary,
        diffusivity=diffusivity,
        std=std,
        alpha=alpha,
        tau=tau,
        seed=seed,
        dtype=dtype,
    )
    return generate_solved(config, problem_of, **how)


@lru_cache(maxsize=4)
def problem_of(config: HeatConfig) -> Problem:
    """The equation and the law of settings."""
    equation = Heat(evolution_grid(config), config.diffusivity, config.boundary)
    periodic = config.boundary == "periodic"
    law = FourierSeries(equation.grid.space, config.std, config.alpha, config.tau, periodic, config.instants)
    return Problem(equation, law)
