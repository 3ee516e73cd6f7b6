r"""Pairs of permeability and pressure for steady Darcy flow.

.. math:: -\nabla \cdot (K \nabla p) = f \quad \text{on } (0, L_x) \times (0, L_y),

with :math:`K` of one of the laws in `physflow.data.laws`, :math:`\exp(G)` or a binary function of a random field
:math:`G`, and :math:`p` the discrete solution of the equation object that also scores it (`physflow.pde.Darcy`).
:math:`K` is rounded to the stored type before the solve: a stored pair satisfies the stored equation.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from physflow import __version__
from physflow.config import DataConfig, fingerprint, to_dict
from physflow.data.files import Metadata
from physflow.data.laws import grid_of_config, law_of
from physflow.data.production import produce
from physflow.data.recipes import Recipe
from physflow.fields import to_dataset
from physflow.pde import Darcy, DarcyNodes, check_device

__all__ = ["TOLERANCES", "equation_of", "generate", "make_block", "metadata_of"]

TOLERANCES = {"float32": 1e-7, "float64": 1e-8}
"""The relative residual at which the solver stops, by the stored type: storage in float32 leaves one of about 1e-5."""

FIELDS = Darcy.fields


def generate(
    samples: int,
    resolution: int | tuple[int, int] = 64,
    preset: str | None = None,
    modes: int | None = 64,
    covariance: Literal["exponential", "matern", "gaussian", "cosine", "bumps"] = "exponential",
    correlation_length: float | tuple[float, float] = 0.1,
    std: float = 1.0,
    coefficients: Literal["normal", "uniform"] = "normal",
    permeability: Literal["lognormal", "binary"] = "lognormal",
    boundary: Literal["neumann", "dirichlet"] = "neumann",
    source: Literal["wells", "constant"] = "wells",
    faces: Literal["harmonic", "arithmetic"] = "harmonic",
    seed: int = 0,
    dtype: Literal["float32", "float64"] = "float32",
    device: str = "cpu",
    executor: Executor | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
    *,
    extent: tuple[float, float] = (1.0, 1.0),
    angle: float = 0.0,
    smoothness: float = 1.5,
    alpha: float = 2.0,
    tau: float = 3.0,
    levels: tuple[float, float] = (3.0, 12.0),
    discretization: Literal["cells", "nodes"] = "cells",
    overwrite: bool = False,
    shard: int | None = None,
) -> xr.Dataset:
    r"""Generate pairs of permeability and pressure.

    Sample i depends on (seed, i) alone: more samples, other workers or another process give the same fields.

    Arguments:
        samples: The number of pairs.
        resolution: The number of points along each axis, or a pair (nx, ny).
        preset: A named law, which fixes the arguments below: ``"cocogen-16"`` (16 modes, coefficients uniform on
            [0, 2.5]), ``"pidm-64"`` (64 modes, normal), ``"rough"`` (the full field), ``"fno"`` (the sign of a cosine
            series) or ``"pdebench"`` (five bumps against their mean). It decides where it meets an argument left at,
            or equal to, its default; any other contradiction is an error. It is a law only: the discretisation stays
            that of the arguments, and the published scheme of ``"cocogen-16"`` is ``discretization="nodes"``.
        modes: The number s of terms kept: of the Karhunen-Loeve expansion, or the largest of the cosine series. None
            is the full field, by circulant embedding or with all cosines; ``"bumps"`` takes None only.
        covariance: The law of G. With r the lag in correlation lengths: ``"exponential"``,
            :math:`\sigma^2 e^{-r}`; ``"matern"`` (`physflow.data.covariances.Matern`); ``"gaussian"``,
            :math:`\sigma^2 e^{-r^2 / 2}`; or ``"cosine"`` (`physflow.data.cosine.CosineSeries`) or ``"bumps"``
            (`physflow.data.bumps.Bumps`).
        correlation_length: The length :math:`l`, in the unit of `extent`, or a pair :math:`(l_1, l_2)` along two
            principal axes; of the first three covariances.
        std: The standard deviation :math:`\sigma` of the untruncated G; for ``"cosine"``, a factor of the published
            amplitude. A binary permeability and the bumps take none.
        coefficients: The law of the Karhunen-Loeve coefficients, ``"normal"`` or ``"uniform"`` on [0, 2.5].
        permeability: ``"lognormal"``, K = exp(G), or ``"binary"``, one of `levels` by the sign of G.
        boundary: ``"neumann"`` (no flux, p of zero mean) or ``"dirichlet"`` (p = 0).
        source: ``"wells"`` (+10 and -10 in two corner squares of side 1/8) or ``"constant"`` (f = 1, Dirichlet only).
        faces: The mean of K at a face between cells: ``"harmonic"`` or ``"arithmetic"``.
        seed: The seed.
        dtype: The stored type, ``"float32"`` or ``"float64"``; the solve is in float64 always.
        device: The device of the solve.
        executor: Any `concurrent.futures.Executor`; None uses one thread a core in this process.
        out: Write there in pieces and return what is there opened lazily. A name ending in ``.nc`` is a file, any
            other a folder of shards (`physflow.data.shards`), which the workers write themselves; there the same call
            goes on with an interrupted set, and one that differs in `samples` alone extends it.
        progress: Whether to show a progress bar.
        extent: The side lengths :math:`(L_x, L_y)` of the rectangle, in the unit of length.
        angle: The direction of the first correlation length, in degrees from the x axis.
        smoothness: The parameter :math:`\nu` of ``"matern"``, in (0, 50].
        alpha: The exponent :math:`\alpha` of ``"cosine"``, greater than 1.
        tau: The inverse length :math:`\tau` of ``"cosine"``, in the inverse unit of `extent`.
        levels: The low and the high value of a binary permeability.
        discretization: ``"cells"`` (conservative finite volumes, `physflow.pde.Darcy`) or ``"nodes"`` (the published
            product-rule scheme, `physflow.pde.DarcyNodes`, for comparison).
        overwrite: Whether an existing file `out`, or the set in a folder `out`, is replaced.
        shard: The number of samples in a shard, rounded up to whole blocks of the law; about 32 MiB by default.

    Returns:
        A Dataset with ``permeability`` and ``pressure`` over (sample, x, y), both dimensionless, the coordinates x and
        y, and attributes that rebuild the equation (`physflow.pde.from_dataset`) and name the law
        (`physflow.data.files.Metadata`).

    Raises:
        ValueError: If a setting is unknown, out of range, contradicts another or says nothing about the law.
            Also if the folder `out` holds a set of other settings or of more samples.
        FileExistsError: If the file `out` exists and `overwrite` is not set, or the folder holds something else.
        RuntimeError: If a worker process dies, or the solver does not converge.

    References:
        Samaddar et al., Efficient flow matching using latent variables, 2025, appendix D (the equation and the law);
        Jacobsen et al., CoCoGen, 2023 (the set-up); Li et al., Fourier neural operator, 2021, and Takamoto et al.,
        PDEBench, 2022 (the binary laws).
    """
    config = DataConfig(
        samples=samples,
        resolution=resolution,
        extent=extent,
        preset=preset,
        modes=modes,
        covariance=covariance,
        correlation_length=correlation_length,
        angle=angle,
        smoothness=smoothness,
        alpha=alpha,
        tau=tau,
        std=std,
        coefficients=coefficients,
        permeability=permeability,
        levels=levels,
        boundary=boundary,
        source=source,
        faces=faces,
        discretization=discretization,
        seed=seed,
        dtype=dtype,
    )
    check_device(device)
    # An impossible law fails here, in the caller's process, before any work is handed out.
    equation, law = equation_of(config), law_of(config)
    template = to_dataset(
        torch.empty(0, len(FIELDS), *equation.grid.shape, dtype=getattr(torch, dtype)),
        FIELDS,
        equation.grid,
        metadata_of(config).to_attrs(),
    )
    recipe = Recipe(partial(make_block, config, device=device), law.block, template, to_dict(config))
    return produce(recipe, out, shard=shard, executor=executor, overwrite=overwrite, progress=progress)


def equation_of(config: DataConfig) -> Darcy | DarcyNodes:
    """The equation whose discrete solution is the pressure."""
    grid = grid_of_config(config)
    if config.discretization == "nodes":
        return DarcyNodes(grid, source=config.source)
    return Darcy(grid, source=config.source, boundary=config.boundary, faces=config.faces)


def metadata_of(config: DataConfig) -> Metadata:
    """What the file of this data set says about itself; of the law's settings, those that it has."""
    equation: dict[str, Any] = {key: str(value) for key, value in equation_of(config).attributes().items()}
    return Metadata(
        **equation,
        centering=config.discretization,
        permeability_law=config.permeability,
        seed=config.seed,
        tolerance=TOLERANCES[config.dtype],
        fingerprint=fingerprint(config),
        physflow_version=__version__,
        preset=config.preset,
        **config.law(),
    )


def make_block(config: DataConfig, first: int, device: str) -> NDArray[Any]:
    """Pairs first .. first + block - 1, shape (block, 2, nx, ny): always whole, so that no bit depends on `samples`."""
    if torch.get_num_threads() != 1:  # In another process.
        torch.set_num_threads(1)
    law = law_of(config)
    permeability = law.draw(config.seed, first, law.block, config.dtype)
    equation = equation_of(config)
    K = torch.from_numpy(permeability).to(device, torch.float64)
    try:
        with torch.inference_mode():
            pressure = equation.solve(K, tolerance=TOLERANCES[config.dtype])
    except (RuntimeError, ValueError) as error:
        # The solver counts from the first sample that it is given.
        where = f"in samples {first} to {first + law.block - 1} of the set, counted from the first of these"
        raise type(error)(f"{where}: {error}") from error
    # Each field in one piece of memory, as it is written.
    return np.stack([permeability, pressure.cpu().numpy().astype(config.dtype)]).swapaxes(0, 1)
