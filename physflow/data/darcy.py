r"""Pairs of permeability and pressure for steady Darcy flow.

.. math:: -\nabla \cdot (K \nabla p) = f \quad \text{on } (0, 1)^2, \qquad K = \exp(G),

with :math:`G` a Gaussian random field (`physflow.data.random_fields`), and :math:`p` the discrete solution of the
equation object that also scores it (`physflow.pde.Darcy`). :math:`K` is rounded to the stored type before the solve: a
stored pair satisfies the stored equation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from physflow import __version__
from physflow.config import DataConfig, fingerprint
from physflow.data import files
from physflow.data.files import FieldWriter, Metadata
from physflow.data.random_fields import CirculantEmbedding, Exponential, KarhunenLoeve, RandomField
from physflow.fields import to_dataset
from physflow.grid import Grid
from physflow.pde import Darcy, DarcyNodes, check_device

__all__ = ["TOLERANCES", "equation_of", "generate", "metadata_of", "random_field_of"]

TOLERANCES = {"float32": 1e-6, "float64": 1e-8}
"""The relative residual at which the solver stops, by the stored type: storage in float32 leaves one of about 1e-5."""

FIELDS = ("permeability", "pressure")


def generate(
    samples: int,
    resolution: int = 64,
    preset: str | None = None,
    modes: int | None = 64,
    covariance: str = "exponential",
    correlation_length: float = 0.1,
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
    discretization: Literal["cells", "nodes"] = "cells",
    overwrite: bool = False,
) -> xr.Dataset:
    r"""Generate pairs of permeability and pressure.

    Sample i depends on (seed, i) alone: more samples, other workers or another process give the same fields.

    Arguments:
        samples: The number of pairs.
        resolution: The number n of points along each axis of the unit square.
        preset: A named law, which fixes the arguments below: ``"cocogen-16"`` (16 modes, coefficients uniform on
            [0, 2.5]), ``"pidm-64"`` (64 modes, normal) or ``"rough"`` (the full field). It decides where it meets an
            argument left at, or equal to, its default; any other contradiction is an error. It is a law only: the
            published scheme is ``discretization="nodes"``.
        modes: The number s of Karhunen-Loeve modes; None draws the full field by circulant embedding.
        covariance: The covariance of G = log K: ``"exponential"``, :math:`\sigma^2 e^{-r / l}`.
        correlation_length: The length :math:`l`, in units of the side of the square.
        std: The standard deviation :math:`\sigma` of the untruncated G.
        coefficients: The law of the expansion's coefficients, ``"normal"`` or ``"uniform"`` on [0, 2.5].
        permeability: ``"lognormal"``, K = exp(G).
        boundary: ``"neumann"`` (no flux, p of zero mean) or ``"dirichlet"`` (p = 0).
        source: ``"wells"`` (+10 and -10 in two corner squares of side 1/8) or ``"constant"`` (f = 1, Dirichlet only).
        faces: The mean of K at a face between cells: ``"harmonic"`` or ``"arithmetic"``.
        seed: The seed.
        dtype: The stored type, ``"float32"`` or ``"float64"``; the solve is in float64 always.
        device: The device of the solve.
        executor: Any `concurrent.futures.Executor`; None uses one thread a core in this process.
        out: A file name ending in ``.nc``: write there in pieces and return the file opened lazily.
        progress: Whether to show a progress bar.
        discretization: ``"cells"`` (conservative finite volumes, `physflow.pde.Darcy`) or ``"nodes"`` (the published
            product-rule scheme, `physflow.pde.DarcyNodes`, for comparison).
        overwrite: Whether an existing file `out` is replaced.

    Returns:
        A Dataset with ``permeability`` and ``pressure`` over (sample, x, y), both dimensionless, the coordinates x and
        y, and attributes that rebuild the equation (`physflow.pde.from_dataset`) and name the law
        (`physflow.data.files.Metadata`).

    Raises:
        ValueError: If a setting is unknown, out of range or contradicts another.
        FileExistsError: If `out` exists and `overwrite` is not set.

    References:
        Samaddar et al., Efficient flow matching using latent variables, 2025, appendix D (the equation and the law);
        Jacobsen et al., CoCoGen, 2023 (the set-up).
    """
    config = DataConfig(
        samples=samples,
        resolution=resolution,
        preset=preset,
        modes=modes,
        covariance=covariance,
        correlation_length=correlation_length,
        std=std,
        coefficients=coefficients,
        permeability=permeability,
        boundary=boundary,
        source=source,
        faces=faces,
        discretization=discretization,
        seed=seed,
        dtype=dtype,
    )
    if out is not None and not str(out).endswith(".nc"):
        raise ValueError(
            f"expected a file name ending in '.nc' for out, got {os.fspath(out)!r}; folders of shards: not yet"
        )
    check_device(device)
    equation, attrs = equation_of(config), metadata_of(config).to_attrs()
    random_field_of(config)  # An impossible law fails here, in the caller's process, before any work is handed out.
    with ExitStack() as stack:
        if executor is None:
            executor = stack.enter_context(ThreadPoolExecutor(os.cpu_count() or 1))
        writer = None
        if out is not None:
            writer = stack.enter_context(FieldWriter(out, FIELDS, equation.grid, samples, dtype, attrs, overwrite))
        fields = np.empty((0 if writer else samples, 2, *equation.grid.shape), dtype=dtype)
        bar = stack.enter_context(tqdm(total=samples, desc="generate", unit="pair", disable=not progress))
        for first, block in _blocks(config, device, executor):
            block = block[: samples - first]
            if writer is None:
                fields[first : first + len(block)] = block
            else:
                writer.put(first, block)
            bar.update(len(block))
    if out is not None:
        return files.open(out)
    return to_dataset(torch.from_numpy(fields), FIELDS, equation.grid, attrs)


def equation_of(config: DataConfig) -> Darcy | DarcyNodes:
    """The equation whose discrete solution is the pressure."""
    grid = Grid((config.resolution, config.resolution), centering=config.discretization)
    if config.discretization == "nodes":
        return DarcyNodes(grid, source=config.source)
    return Darcy(grid, source=config.source, boundary=config.boundary, faces=config.faces)


def random_field_of(config: DataConfig) -> RandomField:
    """The law of G = log K."""
    if config.covariance != "exponential":
        raise ValueError(f"covariance {config.covariance!r}: not yet; valid: exponential")
    if config.permeability != "lognormal":
        raise ValueError(f"permeability {config.permeability!r}: not yet; valid: lognormal")
    return _random_field(
        Grid((config.resolution, config.resolution), centering=config.discretization),
        Exponential(config.correlation_length, config.std),
        config.modes,
        config.coefficients,
    )


@lru_cache(maxsize=4)
def _random_field(
    grid: Grid, covariance: Exponential, modes: int | None, coefficients: Literal["normal", "uniform"]
) -> RandomField:
    if modes is None:
        return CirculantEmbedding(grid, covariance)
    return KarhunenLoeve(grid, covariance, modes, coefficients)


def metadata_of(config: DataConfig) -> Metadata:
    """What the file of this data set says about itself."""
    return Metadata(
        **{key: str(value) for key, value in equation_of(config).attributes().items()},
        centering=config.discretization,
        covariance=config.covariance,
        correlation_length=config.correlation_length,
        std=config.std,
        coefficients=config.coefficients,
        permeability_law=config.permeability,
        seed=config.seed,
        tolerance=TOLERANCES[config.dtype],
        fingerprint=fingerprint(config),
        physflow_version=__version__,
        modes=config.modes,
        preset=config.preset,
    )


def _blocks(config: DataConfig, device: str, executor: Executor) -> Iterator[tuple[int, NDArray[Any]]]:
    """Blocks of pairs in order, with a bounded number of them under way."""
    firsts = iter(range(0, config.samples, random_field_of(config).block))
    under_way: list[tuple[int, Future[NDArray[Any]]]] = []
    threads = torch.get_num_threads()
    # Workers are the parallelism: more threads inside each would only wait for one another.
    torch.set_num_threads(1)
    try:
        while True:
            for first in islice(firsts, 4 * (os.cpu_count() or 1) - len(under_way)):
                under_way.append((first, executor.submit(_make_block, config, first, device)))
            if not under_way:
                return
            first, future = under_way.pop(0)
            yield first, future.result()
    finally:
        for _, future in under_way:
            future.cancel()
        torch.set_num_threads(threads)


def _make_block(config: DataConfig, first: int, device: str) -> NDArray[Any]:
    """Pairs first .. first + block - 1, shape (block, 2, n, n): always whole, so that no bit depends on `samples`."""
    if torch.get_num_threads() != 1:  # In another process.
        torch.set_num_threads(1)
    law = random_field_of(config)
    permeability = np.exp(law.draw(config.seed, first, law.block)).astype(config.dtype)
    equation = equation_of(config)
    with torch.inference_mode():
        pressure = equation.solve(
            torch.from_numpy(permeability).to(device, torch.float64), tolerance=TOLERANCES[config.dtype]
        )
    return np.stack([permeability, pressure.cpu().numpy().astype(config.dtype)], axis=1)
