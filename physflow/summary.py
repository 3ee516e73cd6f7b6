"""An experiment in numbers: medians and quartiles of the scores beside their anchors, and statistics of the fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml

from physflow.config import fingerprint, to_dict
from physflow.data import files
from physflow.data.files import atomic
from physflow.fields import SAMPLE
from physflow.model import Model, load
from physflow.pde import score

__all__ = ["COMPARED", "model_row", "moments", "summarize", "write_scores"]

COMPARED = 500
"""How many data fields the anchors are made of."""


def summarize(scores: xr.Dataset, suffix: str = "") -> dict[str, dict[str, float]]:
    """Median and quartiles over the samples of each score whose name ends in `suffix`, and how many have none."""
    summary = {}
    for name, values in scores.data_vars.items():
        key = str(name)
        if values.dims != (SAMPLE,) or not key.endswith(suffix) or (not suffix and key.endswith("_completed")):
            continue
        known = values.values[np.isfinite(values.values)]
        quartiles = np.quantile(known, [0.25, 0.5, 0.75]) if known.size else np.full(3, np.nan)
        summary[key.removesuffix(suffix)] = dict(zip(("q25", "median", "q75"), quartiles.tolist(), strict=True))
        if missing := values.size - known.size:
            summary[key.removesuffix(suffix)]["without_a_value"] = missing
    return summary


def model_row(name: str, model: Model, samples: xr.Dataset, data_std: Mapping[str, float]) -> dict[str, Any]:
    """What one model was told, what it costs and what its samples score: a row of a comparison.

    Arguments:
        name: Its name.
        model: The model.
        samples: Its samples with their scores.
        data_std: The standard deviation of each field of the data, or of its logarithm, over samples and points.
    """
    logged = model.config.log
    return {
        "name": name,
        "latent": model.config.latent.kind,
        "given": list(model.config.latent.fields),
        "drawn": samples.attrs.get("latent", ""),
        "objective": model.training.objective,
        "steps": model.training.steps,
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "solver": f"{samples.attrs['solver']}, {samples.attrs['steps']} steps",
        "evaluations": float(samples.attrs["evaluations"]),
        "scores": summarize(samples),
        "std_ratio": {field: moments(samples[field], field in logged)[1] / data_std[field] for field in model.fields},
    }


def write_scores(out: Path, baselines: Mapping[str, Path] | None = None) -> None:
    """Write ``scores.json`` of an experiment's folder: scores, anchors, statistics, and the conditions of each.

    Arguments:
        out: The folder.
        baselines: The folders of the baselines, by name.
    """
    with files.open(out / "data.nc") as data, files.open(out / "samples.nc") as samples:
        truth = data.isel({SAMPLE: slice(COMPARED)}).load()
        model = load(out / "model")
        model.check_data(data)
        content: dict[str, Any] = {
            "experiment": fingerprint(yaml.safe_load((out / "experiment.yaml").read_text())),
            "conditions": {
                "samples": {"count": samples.sizes[SAMPLE], **_plain(samples.attrs)},
                "data": {"count": data.sizes[SAMPLE], "grid": to_dict(model.grid), **_plain(data.attrs)},
                "anchors": f"made of the solutions for the first {truth.sizes[SAMPLE]} inputs of the data",
                "orientation": "field[i, j] at (x_i, y_j), no field transposed",
            },
            "samples": {"raw": summarize(samples), "completed": summarize(samples, "_completed")},
            "anchors": {},
            "statistics": {},
        }
        if "equation" in truth.attrs:
            anchors = score(truth, anchors=True)
            content["anchors"] = {str(name): summarize(anchors.sel(anchor=name)) for name in anchors["anchor"].values}
        data_std: dict[str, float] = {}
        for name in model.fields:
            logged = name in model.config.log
            # All of the data: the standard deviation over a few fields of long correlation is not known to a per cent.
            (a, s), (b, r) = (moments(ds[name], logged) for ds in (data, samples))
            data_std[name] = s
            content["statistics"][f"log {name}" if logged else name] = {
                "mean": {"data": a, "samples": b},
                "std": {"data": s, "samples": r, "ratio": r / s},
            }
        if baselines:
            content["models"] = [model_row("this experiment", model, samples, data_std)]
        for name, folder in (baselines or {}).items():
            with files.open(folder / "samples.nc") as other:
                content["models"].append(model_row(name, load(folder / "model"), other, data_std))
    with atomic(out / "scores.json") as part:
        part.write_text(json.dumps(content, indent=1))


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(key): value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        for key, value in attrs.items()
    }


def moments(field: xr.DataArray, logged: bool) -> tuple[float, float]:
    """Mean and standard deviation of a field, or of its logarithm, over all samples and points, read in pieces."""
    count, total, square = 0, 0.0, 0.0
    for start in range(0, field.sizes[SAMPLE], COMPARED):
        values = field.isel({SAMPLE: slice(start, start + COMPARED)}).values.astype(float)
        # A sample that overflowed has no score and no part in the statistics.
        values = values[np.isfinite(values)]
        values = np.log(values[values > 0]) if logged else values
        count, total, square = count + values.size, total + values.sum(), square + (values**2).sum()
    mean = total / max(count, 1)
    return float(mean), float(np.sqrt(max(square / max(count, 1) - mean**2, 0.0)))
