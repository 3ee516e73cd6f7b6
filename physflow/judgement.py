"""What an equation says of samples that may be no fields at all: scores, completion, and which samples have them.

A sampler can overflow, or make a permeability of zero. Such a sample loses its scores (NaN), not the run.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from physflow.fields import SAMPLE, content_fingerprint, to_tensor
from physflow.inference import Completion
from physflow.pde import Equation, score_fields

__all__ = ["add_scores", "completed", "judgeable", "warn_if_other"]

_PIECE = 256
"""Samples that are scored together, for the memory."""


def judgeable(equation: Equation, fields: Tensor) -> Tensor:
    """Which samples are finite, and positive where the equation needs it.

    Arguments:
        equation: The equation.
        fields: Fields of shape (batch, channel, *axes), in the order of the equation's; the inputs may stand alone.

    Returns:
        One truth value a sample, shape (batch,).
    """
    good = torch.isfinite(fields).flatten(1).all(1)
    for name in equation.positive:
        good &= (fields[:, equation.fields.index(name)] > 0).flatten(1).all(1)
    return good


def add_scores(ds: xr.Dataset, equation: Equation, suffix: str = "", **replace: str) -> xr.Dataset:
    """Add the scores of a Dataset's fields to it, one variable a score; NaN where there is none.

    Arguments:
        ds: Fields on the equation's grid.
        equation: The equation.
        suffix: Added to the name of each score.
        replace: ``pressure="pressure_completed"`` scores that variable in place of the field.

    Returns:
        The Dataset with the scores added.
    """
    fields = to_tensor(ds, [replace.get(name, name) for name in equation.fields], finite=False)
    valid = judgeable(equation, fields)
    pieces = [score_fields(equation, *piece.unbind(1)) for piece in fields[valid].split(_PIECE)]
    scores = {}
    for name in pieces[0]:
        scores[name + suffix] = np.full(len(valid), np.nan)
        scores[name + suffix][valid.numpy()] = np.concatenate([piece[name] for piece in pieces])
    return ds.assign({name: (SAMPLE, values, {"units": "1"}) for name, values in scores.items()})


def completed(equation: Equation, fields: Tensor) -> Tensor:
    """Replace the solution fields by the solution for the inputs, p = S(K); NaN where these are not valid.

    Arguments:
        equation: The equation.
        fields: Fields of shape (batch, channel, *axes) in physical units, in the order of the equation's.

    Returns:
        Completed fields of the same shape and type.
    """
    inputs = [equation.fields.index(name) for name in equation.inputs]
    good = judgeable(equation, fields[:, inputs])
    result = torch.full_like(fields, torch.nan)
    result[:, inputs] = fields[:, inputs]
    result[good] = Completion(equation.complete)(fields[good])
    return result


def warn_if_other(ds: xr.Dataset, fingerprint: str) -> None:
    """Warn if a Dataset is not the one of a fingerprint, that on which a model was trained."""
    found = content_fingerprint(ds)
    if fingerprint and found != fingerprint:
        warnings.warn(
            f"these data (fingerprint {found}) are not those that the model was trained on ({fingerprint}); "
            "comparisons with them judge the difference of the data as well",
            UserWarning,
            stacklevel=3,
        )
