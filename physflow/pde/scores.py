r"""Scores of fields under their own equation, and the anchors without which a score says little.

Let :math:`r(u, s)` be the residual of inputs :math:`u` and solutions :math:`s` on :math:`N` points,
:math:`S(u)` the discrete solution, and :math:`f = r(u, 0)` the residual of the zero solution: the source. For
equations of motion :math:`u` is the first instant, and :math:`f` the residual of a field that stays as it is there
(`Equation.trivial`). A sample scores

=================== ====================================================================================
residual_mse        :math:`|r|_2^2 / N`
strong_residual_mse :math:`|r_s|_2^2 / N`, :math:`r_s` the product-rule residual, one-sided at the walls
relative_residual   :math:`|r|_2 / |f|_2`, 1 for the trivial answer
solution_error      :math:`|s - S(u)|_2 / |S(u)|_2`, what a user of the field notices
mass_imbalance      :math:`|r|_1 / |f|_1`, mass made or lost as a share of the source
=================== ====================================================================================

Where a solution is known up to a constant (`Equation.up_to_a_constant`: between walls without flux, say),
`solution_error` compares fields less their means.
All is computed in float64 from the stored values.

The residual amplifies the noise of single points by :math:`h^{-2}`: noise that no eye sees can score worse
than :math:`s = 0`, and storage in float32 leaves some already. The *anchors* are fields whose quality is
known, scored for the same inputs:

* ``as given``: the fields of the dataset;
* ``data floor``: :math:`S(u)` rounded to the stored type, the best that a file can hold;
* ``p = 0``: the zero solution, or what else is the trivial answer to the equation;
* ``mismatched pair``: the solution of the next sample, a perfect field of the law that ignores :math:`u`;
* ``white noise 0.1 %``, ``white noise 1 %``: :math:`S(u)` plus independent noise at every point, in per cent
  of the standard deviation of :math:`S(u)` over the points;
* ``smooth noise 1 %``: likewise with a Gaussian field of covariance :math:`\exp(-d^2 / 2 l^2)`, :math:`l` a
  tenth of the domain, scaled to 1 % exactly.

The noise of a sample depends on the anchor and on the sample's number alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from physflow.fields import SAMPLE, to_tensor
from physflow.grid import Grid
from physflow.pde.datasets import from_dataset
from physflow.pde.equation import Equation

__all__ = ["SCORES", "score", "score_fields"]

SCORES = {
    "residual_mse": "mean square of the residual",
    "strong_residual_mse": "mean square of the product-rule residual",
    "relative_residual": "norm of the residual relative to the source",
    "solution_error": "distance to the solution of the same inputs, relative",
    "mass_imbalance": "absolute residual summed, relative to the source",
}
"""The scores and what each is."""

CHUNK = 64
"""The largest number of samples in memory at a time."""

CHUNK_POINTS = 2**22
"""The largest number of points of these samples together, so that fine grids take fewer of them."""

CORRELATION_LENGTH = 0.1
"""The correlation length of the smooth noise, in side lengths of the domain."""

Solutions: TypeAlias = tuple[Tensor, ...]
Scores: TypeAlias = dict[str, NDArray[np.float64]]


def score_fields(equation: Equation, *fields: Tensor, reference: Sequence[Tensor] | None = None) -> Scores:
    r"""Score fields under an equation.

    Arguments:
        equation: The equation.
        fields: All fields in the order of ``equation.fields``, each of shape (batch, \*axes).
        reference: The solution fields :math:`S(u)` of the same inputs if they are known; they are solved for
            otherwise.

    Returns:
        One array of shape (batch,) a score (see `SCORES`); ``strong_residual_mse`` only if the equation has a
        ``strong_residual``.

    Raises:
        ValueError: If a field does not fit the equation, is not finite or, for a permeability, not positive.
    """
    with torch.no_grad():
        fields = tuple(field.double() for field in fields)
        r = equation.residual(*fields).flatten(1)
        f = equation.residual(*equation.trivial(*fields)).flatten(1)
        exact = _flatten(equation, _solutions(equation, fields) if reference is None else reference)
        error = _flatten(equation, fields[len(equation.inputs) :]) - exact
        scores = {"residual_mse": r.square().mean(1)}
        if hasattr(equation, "strong_residual"):
            scores["strong_residual_mse"] = equation.strong_residual(*fields).flatten(1).square().mean(1)
        scores["relative_residual"] = r.norm(dim=1) / f.norm(dim=1)
        scores["solution_error"] = error.norm(dim=1) / exact.norm(dim=1)
        scores["mass_imbalance"] = r.abs().sum(1) / f.abs().sum(1)
        return {name: value.cpu().numpy() for name, value in scores.items()}


def score(ds: xr.Dataset, anchors: bool = False, *, progress: bool = False) -> xr.Dataset:
    """Score every sample of a dataset under its own equation.

    Arguments:
        ds: A Dataset of fields whose attributes name their equation (see `from_dataset`).
        anchors: Whether to score the anchors (see the module's docstring) beside the fields.
        progress: Whether to show a progress bar.

    Returns:
        A Dataset with one variable a score over ``sample``, or over ``anchor`` and ``sample`` with the names
        of the anchors as coordinate, and the attributes of `ds`. A single sample has no mismatched pair.

    Raises:
        ValueError: If the dataset names no equation, or a field does not fit it.
    """
    equation = from_dataset(ds)
    total = ds.sizes[SAMPLE]
    size = max(1, min(CHUNK, CHUNK_POINTS // math.prod(equation.grid.shape)))
    chunks = []
    # One round at least, so that a dataset without samples has all scores, each empty.
    for start in tqdm(range(0, max(total, 1), size), desc="score", unit="chunk", disable=not progress):
        samples = np.arange(start, min(start + size, total))
        try:
            chunks.append(_score_chunk(ds, equation, samples, anchors))
        except ValueError as error:
            if start == 0:
                raise
            raise ValueError(f"{error}, counted from sample {start} of the dataset") from None
    names = list(chunks[0])
    values = {
        key: np.stack([np.concatenate([chunk[name][key] for chunk in chunks]) for name in names])
        for key in chunks[0][names[0]]
    }
    dims: tuple[str, ...] = ("anchor", SAMPLE)
    coords: dict[str, Any] = {SAMPLE: ds.coords[SAMPLE]} if SAMPLE in ds.coords else {}
    if anchors:
        coords["anchor"] = ("anchor", names, {"long_name": "which fields are scored"})
    else:
        dims, values = (SAMPLE,), {key: value[0] for key, value in values.items()}
    return xr.Dataset(
        {key: (dims, value, {"long_name": SCORES[key], "units": "1"}) for key, value in values.items()},
        coords=coords,
        attrs=ds.attrs,
    )


def _score_chunk(ds: xr.Dataset, equation: Equation, samples: NDArray[np.int64], anchors: bool) -> dict[str, Scores]:
    """The scores of some samples of a dataset, by the name of the anchor."""
    fields = _load(ds, equation.fields, samples)
    if not anchors:
        return {"as given": score_fields(equation, *fields)}
    with torch.no_grad():
        exact, total = _solutions(equation, fields), ds.sizes[SAMPLE]
        # The solution of the sample after these completes the pairs; there is none after no samples.
        after = _solutions(equation, _load(ds, equation.fields, (samples[-1:] + 1) % max(total, 1)))
    following = [torch.cat((s[1:], t)) for s, t in zip(exact, after, strict=True)]
    rounded = (
        torch.from_numpy(s.numpy().astype(ds[name].dtype)).double()
        for name, s in zip(equation.solutions, exact, strict=True)
    )
    inputs = fields[: len(equation.inputs)]
    answers = {
        "data floor": tuple(rounded),
        "mismatched pair": following,
        "white noise 0.1 %": _perturb(exact, 0.001, _white_noise(equation.grid.shape, 1, samples)),
        "white noise 1 %": _perturb(exact, 0.01, _white_noise(equation.grid.shape, 2, samples)),
        "smooth noise 1 %": _perturb(exact, 0.01, _smooth_noise(equation.grid, 3, samples)),
    }
    spliced = {name: equation.spliced(fields, (*inputs, *answer)) for name, answer in answers.items()}
    candidates = {
        "as given": fields,
        "data floor": spliced.pop("data floor"),
        equation.trivial_answer: equation.trivial(*fields),
        **spliced,
    }
    if total == 1:
        del candidates["mismatched pair"]
    return {name: score_fields(equation, *candidate, reference=exact) for name, candidate in candidates.items()}


def _load(ds: xr.Dataset, names: Sequence[str], samples: NDArray[np.int64]) -> Solutions:
    # What is not finite is left to the equation, which says where it lies.
    return to_tensor(ds.isel({SAMPLE: samples}), names, dtype=torch.float64, finite=False).unbind(1)


def _solutions(equation: Equation, fields: Sequence[Tensor]) -> Solutions:
    """The solution fields, recomputed from what is given in all fields."""
    return equation.complete(*fields)[len(equation.inputs) :]


def _flatten(equation: Equation, solutions: Sequence[Tensor]) -> Tensor:
    """The solution fields as one vector a sample, less their means where the equation leaves them open."""
    vectors = [s.flatten(1) for s in solutions]
    if equation.up_to_a_constant:
        vectors = [v - v.mean(1, keepdim=True) for v in vectors]
    return torch.cat(vectors, dim=1)


def _perturb(solutions: Solutions, fraction: float, noise: NDArray[np.float64]) -> Solutions:
    """Add noise of unit variance times a fraction of each field's standard deviation over the points."""
    axes = tuple(range(1, noise.ndim))
    perturbed = []
    for s in solutions:
        std = (s - s.mean(axes, keepdim=True)).square().mean(axes, keepdim=True).sqrt()
        perturbed.append(s + fraction * std * torch.from_numpy(noise))
    return tuple(perturbed)


def _white_noise(shape: tuple[int, ...], stream: int, samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Independent N(0, 1) values, shape (batch, *shape), from a generator seeded by (stream, sample)."""
    noise = np.empty((samples.size, *shape))
    for row, sample in zip(noise, samples, strict=True):
        row[...] = np.random.default_rng([stream, sample]).standard_normal(shape)
    return noise


def _smooth_noise(grid: Grid, stream: int, samples: NDArray[np.int64]) -> NDArray[np.float64]:
    r"""Gaussian fields of covariance :math:`\exp(-d^2 / 2 l^2)`, standardised over each sample's points."""
    # Imported on first use: it takes half a second, and only the anchors need it.
    from scipy.ndimage import gaussian_filter

    # White noise smoothed by a Gaussian of width s has the covariance exp(-d^2 / 4 s^2): s = l / sqrt(2).
    width = [
        CORRELATION_LENGTH * (b - a) / h / math.sqrt(2) for (a, b), h in zip(grid.bounds, grid.spacing, strict=True)
    ]
    # Drawn on a larger domain and cut out, so that the field is stationary up to the walls.
    margin = [math.ceil(4 * s) for s in width]
    white = _white_noise(tuple(n + 2 * m for n, m in zip(grid.shape, margin, strict=True)), stream, samples)
    smooth = gaussian_filter(white, sigma=(0, *width))
    smooth = smooth[(slice(None), *(slice(m, m + n) for n, m in zip(grid.shape, margin, strict=True)))]
    axes = tuple(range(1, smooth.ndim))
    return (smooth - smooth.mean(axes, keepdims=True)) / smooth.std(axes, keepdims=True)
