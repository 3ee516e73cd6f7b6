r"""Waves that steepen to fronts.

.. math:: \partial_t u + u\, \partial_x u = \nu\, \partial_x^2 u,

periodic, with :math:`u(0)` a Gaussian field (`physflow.pde.Burgers`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, Unpack

import xarray as xr

from physflow.config import BurgersConfig
from physflow.data.fourier import FourierSeries
from physflow.data.solved import How, Problem, evolution_grid, generate_solved
from physflow.pde import Burgers

__all__ = ["generate", "problem_of"]


def generate(
    samples: int,
    resolution: int = 128,
    length: float = 1.0,
    instants: int = 65,
    duration: float = 1.0,
    viscosity: float = 0.01,
    substeps: int = 10,
    std: float = 0.5,
    alpha: float = 2.0,
    tau: float = 5.0,
    seed: int = 0,
    dtype: Literal["float32", "float64"] = "float32",
    **how: Unpack[How],
) -> xr.Dataset:
    r"""Generate velocities over time and one axis.

    Arguments:
        samples: The number of trajectories.
        resolution: The number of points along the axis.
        length: The length of the axis.
        instants: The number of stored instants, of which the first is given.
        duration: The time from the first to the last.
        viscosity: The viscosity :math:`\nu`.
        substeps: The steps of the scheme between stored instants.
        std: The standard deviation :math:`\sigma` of the velocity at the first instant.
        alpha: The exponent :math:`\alpha` of its spectrum (`physflow.data.fourier.FourierSeries`).
        tau: The inverse length :math:`\tau` of its spectrum.
        seed: The seed: sample i depends on (seed, i) alone.
        dtype: The stored type, ``"float32"`` or ``"float64"``; computed in float64 always.
        how: The device, the workers and where the set goes (`physflow.data.solved.How`).

    Returns:
        A Dataset with ``velocity`` over (sample, t, x), and attributes that rebuild the equation.

    Raises:
        ValueError: If a setting is unknown or out of range.
        FileExistsError: If `out` exists and `overwrite` is not set, or the folder holds another set.
        RuntimeError: If a worker process dies.
        FloatingPointError: If the scheme diverges: take more substeps.
    """
    config = BurgersConfig(
        samples=samples,
        resolution=resolution,
        length=length,
        instants=instants,
        duration=duration,
        viscosity=viscosity,
        substeps=substeps,
        std=std,
        alpha=alpha,
        tau=tau,
        seed=seed,
        dtype=dtype,
    )
    return generate_solved(config, problem_of, **how)


@lru_cache(maxsize=4)
def problem_of(config: BurgersConfig) -> Problem:
    """The equation and the law of settings."""
    equation = Burgers(evolution_grid(config), config.viscosity, config.substeps)
    law = FourierSeries(equation.grid.space, config.std, config.alpha, config.tau, instants=config.instants)
    return Problem(equation, law)
