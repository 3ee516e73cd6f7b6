r"""Vorticities of plane flows with Kolmogorov's forcing.

.. math:: \partial_t \omega + v \cdot \nabla \omega = \nu \Delta \omega - \alpha\, \omega + f,

periodic, with :math:`\omega(0)` a Gaussian field (`physflow.pde.NavierStokes`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, Unpack

import xarray as xr

from physflow.config import NavierStokesConfig
from physflow.data.fourier import FourierSeries
from physflow.data.solved import How, Problem, evolution_grid, generate_solved
from physflow.pde import NavierStokes

__all__ = ["generate", "problem_of"]


def generate(
    samples: int,
    resolution: int | tuple[int, int] = 64,
    extent: tuple[float, float] = (2 * math.pi, 2 * math.pi),
    instants: int = 11,
    duration: float = 5.0,
    viscosity: float = 0.01,
    forcing: float = 1.0,
    waves: int = 4,
    drag: float = 0.1,
    substeps: int = 20,
    std: float = 2.0,
    alpha: float = 3.0,
    tau: float = 3.0,
    seed: int = 0,
    dtype: Literal["float32", "float64"] = "float32",
    **how: Unpack[How],
) -> xr.Dataset:
    r"""Generate vorticities over time.

    Arguments:
        samples: The number of trajectories.
        resolution: The number of points along each axis, or a pair (nx, ny).
        extent: The side lengths of the box.
        instants: The number of stored instants, of which the first is given.
        duration: The time from the first to the last.
        viscosity: The viscosity :math:`\nu`.
        forcing: The amplitude of the forcing; 0 is none.
        waves: Its waves in the height of the box.
        drag: The drag :math:`\alpha` on all eddies.
        substeps: The steps of the scheme between stored instants.
        std: The standard deviation :math:`\sigma` of the vorticity at the first instant.
        alpha: The exponent :math:`\alpha` of its spectrum (`physflow.data.fourier.FourierSeries`).
        tau: The inverse length :math:`\tau` of its spectrum.
        seed: The seed: sample i depends on (seed, i) alone.
        dtype: The stored type, ``"float32"`` or ``"float64"``; computed in float64 always.
        how: The device, the workers and where the set goes (`physflow.data.solved.How`).

    Returns:
        A Dataset with ``vorticity`` over (sample, t, x, y), and attributes that rebuild the equation.

    Raises:
        ValueError: If a setting is unknown or out of range.
        FileExistsError: If `out` exists and `overwrite` is not set, or the folder holds another set.
        RuntimeError: If a worker process dies.
        FloatingPointError: If the scheme diverges: take more substeps.
    """
    config = NavierStokesConfig(
        samples=samples,
        resolution=resolution,
        extent=extent,
        instants=instants,
        duration=duration,
        viscosity=viscosity,
        forcing=forcing,
        waves=waves,
        drag=drag,
        substeps=substeps,
        std=std,
        alpha=alpha,
        tau=tau,
        seed=seed,
        dtype=dtype,
    )
    return generate_solved(config, problem_of, **how)


@lru_cache(maxsize=4)
def problem_of(config: NavierStokesConfig) -> Problem:
    """The equation and the law of settings."""
    names = ("viscosity", "forcing", "waves", "drag", "substeps")
    equation = NavierStokes(evolution_grid(config), **{name: getattr(config, name) for name in names})
    law = FourierSeries(equation.grid.space, config.std, config.alpha, config.tau, instants=config.instants)
    return Problem(equation, law)
