r"""Sources and potentials of the Poisson equation and its kin.

.. math:: f + \Delta u - \kappa u = 0,

with :math:`f` a Gaussian field and :math:`u` its discrete solution (`physflow.pde.Poisson`). Between walls without flux
and on a periodic box, unless screened, the mean of every source is taken off: others have no solution.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, Unpack

import xarray as xr
from torch import Tensor

from physflow.config import PoissonConfig
from physflow.data.fourier import FourierSeries
from physflow.data.solved import How, Problem, as_given, generate_solved
from physflow.grid import Grid
from physflow.pde import Poisson

__all__ = ["generate", "problem_of"]


def generate(
    samples: int,
    resolution: int | tuple[int, int] = 64,
    extent: tuple[float, float] = (1.0, 1.0),
    boundary: Literal["dirichlet", "neumann", "periodic"] = "dirichlet",
    screening: float = 0.0,
    std: float = 1.0,
    alpha: float = 2.0,
    tau: float = 10.0,
    seed: int = 0,
    dtype: Literal["float32", "float64"] = "float32",
    **how: Unpack[How],
) -> xr.Dataset:
    r"""Generate pairs of source and potential.

    Arguments:
        samples: The number of pairs.
        resolution: The number of points along each axis, or a pair (nx, ny).
        extent: The side lengths of the box.
        boundary: The condition on the walls.
        screening: The number :math:`\kappa`; :math:`-k^2` is Helmholtz.
        std: The standard deviation :math:`\sigma` of the source.
        alpha: The exponent :math:`\alpha` of its spectrum (`physflow.data.fourier.FourierSeries`).
        tau: The inverse length :math:`\tau` of its spectrum.
        seed: The seed: sample i depends on (seed, i) alone.
        dtype: The stored type, ``"float32"`` or ``"float64"``; computed in float64 always.
        how: The device, the workers and where the set goes (`physflow.data.solved.How`).

    Returns:
        A Dataset with ``source`` and ``potential`` over (sample, x, y), and attributes that rebuild the equation.

    Raises:
        ValueError: If a setting is unknown or out of range.
        FileExistsError: If `out` exists and `overwrite` is not set, or the folder holds another set.
        RuntimeError: If a worker process dies.
    """
    config = PoissonConfig(
        samples=samples,
        resolution=resolution,
        extent=extent,
        boundary=boundary,
        screening=screening,
        std=std,
        alpha=alpha,
        tau=tau,
        seed=seed,
        dtype=dtype,
    )
    return generate_solved(config, problem_of, **how)


@lru_cache(maxsize=4)
def problem_of(config: PoissonConfig) -> Problem:
    """The equation and the law of settings."""
    equation = Poisson(Grid(config.shape, config.bounds), config.boundary, config.screening)
    law = FourierSeries(equation.grid, config.std, config.alpha, config.tau, config.boundary == "periodic")
    return Problem(equation, law, _without_mean if equation.up_to_a_constant else as_given)


def _without_mean(field: Tensor) -> tuple[Tensor, ...]:
    """Sources of mean zero."""
    return (field - field.mean(tuple(range(1, field.ndim)), keepdim=True),)
