"""Fields given sensors as one HTML page that needs nothing else.

It shows the draws and their spread with the sensors on the map, and sets what the draws predict beside what sensors
read, those that were held out in particular. The words of the page are in the template ``conditioning.html`` beside
this module; it has the look of the report of an experiment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from physflow.fields import SAMPLE, field_names
from physflow.report.comparison import LABELS, score_names, score_rows
from physflow.report.html import html_file, image_of, pairs, write_page
from physflow.report.posterior_figures import plot_posterior, plot_readings
from physflow.report.predictions import Predictions, expected_inside, predictions_of
from physflow.results import number

__all__ = ["notices_of", "write_conditioning"]

_MADE = (
    *("mode", "prior", "start", "offset_std", "method", "steps", "model_error_counted", "solves", "chains"),
    *("acceptance", "sample_size", "r_hat", "held_out_share", "seed", "physflow_version"),
)
_HIDDEN = ("beside_the_prior",)
"""Attributes that the page does not list: what notices say."""
_MISFITS = 5
_HOPELESS = 25.0
"""A chi^2 per sensor, five standard deviations of the noise: with that no spread of the draws means anything."""
_FEW = 50
"""Independent draws: fewer leave errors of 10 % and more in a standard deviation."""


def write_conditioning(path: str | Path, ds: xr.Dataset, title: str = "Fields given sensors") -> Path:
    """Write the page of draws given sensors.

    Arguments:
        path: The HTML file; an existing one is replaced, in one step.
        ds: Draws of `physflow.conditioning.condition`, with their sensors (`physflow.sensors.with_sensors`).
        title: The title of the page.

    Returns:
        The path.

    Raises:
        ValueError: If the Dataset holds no sensors, too few draws, or fields that have not two axes.
        IsADirectoryError: If the path is a folder.
    """
    path = html_file(path)
    predictions = predictions_of(ds)
    used, held = (predictions.chosen(predictions.held_out == which) for which in (False, True))
    made = {name: ds.attrs[name] for name in _MADE if name in ds.attrs}
    others = {name: value for name, value in ds.attrs.items() if name not in (*made, *_HIDDEN)}
    return write_page(
        path,
        "conditioning.html",
        title=title,
        mode=ds.attrs.get("mode"),
        count=ds.sizes[SAMPLE],
        tiles=list(_tiles(ds, used, held)),
        notices=notices_of(ds),
        maps=[
            image_of(
                plot_posterior(ds, name), f"Maps of {name}: mean and standard deviation of the draws, and two draws."
            )
            for name in field_names(ds)
        ],
        readings=image_of(plot_readings(predictions), "Predicted against observed readings."),
        fit=[_fit(words, some) for words, some in _by_quantity(used)],
        test=[_test(words, some, used) for words, some in _by_quantity(held)],
        misfits=_misfits(predictions),
        hopeless=used.chi_squared > _HOPELESS,
        counted="model_error" in ds,
        offset=_offset(ds),
        scores=[
            {"name": name, "label": LABELS.get(name, name.replace("_", " ")), "row": score_rows(ds, None, name)[0]}
            for name in score_names(ds.drop_vars("offset", errors="ignore"))
        ],
        tables={"Draws": pairs({"samples": ds.sizes[SAMPLE], **made}, _plain), "Model": pairs(others)},
    )


def notices_of(ds: xr.Dataset) -> list[str]:
    """What a reader must know before trusting draws given sensors, as the page says it at its top.

    Arguments:
        ds: Draws with their sensors, as for `write_conditioning`.

    Raises:
        ValueError: If the Dataset holds no sensors, or too few draws.
    """
    predictions = predictions_of(ds)
    used, held = (predictions.chosen(predictions.held_out == which) for which in (False, True))
    return [*str(ds.attrs.get("beside_the_prior", "")).splitlines(), *_notices(ds, predictions, used, held)]


def _offset(ds: xr.Dataset) -> dict[str, float] | None:
    if "offset" not in ds:
        return None
    return {"mean": float(ds["offset"].mean()), "std": float(ds["offset"].std(ddof=1))}


def _misfits(predictions: Predictions) -> list[dict[str, Any]]:
    """The sensors with the largest misfits, the largest first."""
    misfits, (low, high) = predictions.misfits, predictions.interval()
    return [
        {
            "sensor": f"line {predictions.line[i]}" if predictions.line[i] else f"number {predictions.number[i]}",
            "place": ", ".join(f"{s:g}" for s in predictions.place[:, i]),
            "quantity": predictions.quantity[i],
            "held_out": bool(predictions.held_out[i]),
            "observed": float(predictions.observed[i]),
            "low": float(low[i]),
            "high": float(high[i]),
            "misfit": float(misfits[i]),
        }
        for i in np.argsort(-np.abs(misfits), kind="stable")[:_MISFITS]
    ]


def _plain(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _by_quantity(predictions: Predictions) -> Iterator[tuple[str, Predictions]]:
    """The sensors of each quantity, and all of them if there are several."""
    for quantity in predictions.quantities:
        yield quantity, predictions.chosen(predictions.quantity == quantity)
    if len(predictions.quantities) > 1:
        yield "all", predictions


def _fit(words: str, used: Predictions) -> dict[str, Any]:
    return {
        "words": words,
        "sensors": len(used),
        "chi_squared": used.chi_squared,
        "deviation": math.sqrt(2 / len(used)),
    }


def _test(words: str, held: Predictions, used: Predictions) -> dict[str, Any]:
    others = used.observed[used.quantity == words]
    one = len(held.quantities) == 1
    return {
        "words": words,
        "sensors": len(held),
        "inside": int(held.inside.sum()),
        "expected": expected_inside(len(held)),
        "error": held.standardised_error,
        # Scores of different units have no mean.
        "crps": held.crps if one else None,
        "trivial": held.crps_of(others) if one and len(others) > 1 else None,
    }


def _tiles(ds: xr.Dataset, used: Predictions, held: Predictions) -> Iterator[dict[str, str]]:
    """The numbers at the top of the page."""
    yield {"label": "draws", "value": str(ds.sizes[SAMPLE]), "note": f"mode {ds.attrs.get('mode', 'unknown')}"}
    aside = f"{len(held)} held out" if len(held) else "none held out"
    yield {"label": "sensors used", "value": str(len(used)), "note": f"of {' and '.join(used.quantities)}; {aside}"}
    yield {
        "label": "misfit of used sensors",
        "value": number(used.chi_squared),
        "note": "χ² per sensor; 1 is expected",
    }
    if len(held):
        low, high = expected_inside(len(held))
        yield {
            "label": "held-out readings in their 90 % interval",
            "value": f"{held.inside.sum()} of {len(held)}",
            "note": f"{low} to {high} are expected",
        }
    if "solution_error" in ds:
        median = float(ds["solution_error"].median())
        yield {"label": "median solution error", "value": f"{number(100 * median)} %", "note": "0 % is exact"}


def _notices(ds: xr.Dataset, predictions: Predictions, used: Predictions, held: Predictions) -> Iterator[str]:
    """What a reader must know before trusting the draws."""
    n = ds.sizes[SAMPLE]
    if left := n - len(predictions.draws):
        yield f"{left} of {n} draws say nothing finite of some sensor and are left out of all that concerns sensors."
    if (size := ds.attrs.get("sample_size", math.inf)) < _FEW:
        yield (
            f"Where they mix worst, the chains are worth {size:.0f} independent draws (R-hat {ds.attrs['r_hat']:.2f}): "
            "the spread may be wrong there. Take more moves (--moves, --burn_in), and compare two seeds."
        )
    if abs(used.chi_squared - 1) > 4 * math.sqrt(2 / len(used)):
        why = "the noise may be smaller than std says, or the draws too much alike: take more samples"
        if used.chi_squared > 1:
            why = (
                "the readings may have other units, another datum or be of a logarithm, the noise may be larger than "
                "std says, the prior may not hold such a field, or the draws may not have found it: take more samples, "
                "start at the prior"
            )
        yield f"χ² per used sensor is {number(used.chi_squared)}, far from 1: {why}."
    if not len(held):
        yield (
            "No sensor was held out: the draws were fitted to all that is known here, and nothing on this page tests "
            "them. The option --held_out 0.2 sets a fifth of the places aside."
        )
        return
    low, high = expected_inside(len(held))
    if not low <= (inside := held.inside.sum()) <= high:
        side = "too sure of themselves" if inside < low else "less sure than they could be"
        yield (
            f"{inside} of {len(held)} held-out readings lie in their intervals of 90 %, {low} to {high} are expected: "
            f"the draws are {side}."
        )
