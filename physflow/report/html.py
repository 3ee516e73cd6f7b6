"""The report of an experiment: one HTML file that needs nothing else, and what every such file is written with.

The figures are in the file, there is no script, and nothing is fetched. The words of the report are in the template
``template.html`` beside this module, its look in ``style.css``; every value that enters a template is escaped.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from physflow.fields import SAMPLE
from physflow.report import figures
from physflow.report.comparison import LABELS, Field, ScoreRow, compare, score_names, score_rows, spread
from physflow.results import number

__all__ = ["Image", "as_yaml", "html_file", "image_of", "pairs", "write_page", "write_report"]

_DPI = 144
_TRIVIAL = re.compile(r"(zero.*|nothing moves|.*=\s*0(\.0*)?)", re.IGNORECASE)


def write_report(
    path: str | Path,
    *,
    title: str,
    truth: xr.Dataset,
    samples: xr.Dataset,
    anchors: xr.Dataset | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    config: Mapping[str, Any] | None = None,
    versions: Mapping[str, Any] | None = None,
    machine: Mapping[str, Any] | None = None,
    timings: Mapping[str, Any] | None = None,
    models: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write the report of an experiment.

    Arguments:
        path: The HTML file; an existing one is replaced, in one step.
        title: The title of the report.
        truth: The data: fields over (sample, *axes).
        samples: The same fields as generated, none if there are none; perhaps ``<field>_completed``, and scores over
            (sample,), ``<score>`` as generated and ``<score>_completed``.
        anchors: The scores of the anchors, dimensions (anchor, sample).
        metrics: One mapping a record of the training: ``step``, ``loss``, perhaps ``validation_loss``.
        config: The settings of the experiment, nested plain data.
        versions: Names of packages and their versions.
        machine: What the experiment ran on.
        timings: The wall-clock time of each stage, in seconds.
        models: This model and those to compare it with, as `physflow.summary.model_row` describes each.

    Returns:
        The path.

    Raises:
        ValueError: If the data hold no sample, or the samples lack a field of the data.
        IsADirectoryError: If the path is a folder.
    """
    path = html_file(path)
    fields = compare(truth, samples)
    scores = {name: score_rows(samples, anchors, name) for name in score_names(samples, anchors)}
    return write_page(
        path,
        "template.html",
        title=title,
        count=samples.sizes[SAMPLE],
        tiles=_tiles(fields, scores, samples.sizes[SAMPLE], truth.sizes[SAMPLE]),
        notices=_notices(fields, samples.sizes[SAMPLE], truth.sizes[SAMPLE]),
        completed=[field for field in fields if field.completed is not None],
        gallery=image_of(figures.gallery(truth, samples), "The first fields of the data and of the model."),
        scores=scores,
        score_labels={name: LABELS.get(name, name.replace("_", " ")) for name in scores},
        score_table=_score_table(scores),
        kinds={row.kind for rows in scores.values() for row in rows},
        boxes=_boxes(samples, anchors, scores),
        statistics=[_statistics(field) for field in fields],
        distributions=[_distribution(truth, samples, field) for field in fields],
        models=[_model(row, timings or {}) for row in models],
        training=image_of(figures.training_curve(metrics), "The training loss against the step.") if metrics else None,
        config=as_yaml(config),
        tables={
            "Data": pairs(truth.attrs),
            "Timings": pairs(timings, _seconds),
            "Machine": pairs(machine),
            "Versions": pairs(versions),
        },
    )


def html_file(path: str | Path) -> Path:
    """The path of an HTML file, refused before any work starts if it could not be written after it.

    Raises:
        IsADirectoryError: If the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"expected the path of an HTML file, but {path} is a folder; give {path / 'report.html'}"
        )
    return path


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write a page from a template beside this module.

    Arguments:
        path: The HTML file; an existing one is replaced, in one step, and its folder is made if need be.
        template: The name of the template.
        values: What it shows, each value escaped.

    Returns:
        The path.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    page = environment.get_template(template).render(**values)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(page, encoding="utf-8")
    os.replace(part, path)
    return path


@dataclass(frozen=True)
class Image:
    """A picture in a page.

    Attributes:
        data: The PNG file in base64.
        alt: What it shows, in words.
        width: How wide it is shown where there is room, in pixels of CSS.
    """

    data: str
    alt: str
    width: int

    @classmethod
    def of(cls, png: bytes, alt: str, width: int) -> Image:
        """The picture of a PNG file."""
        return cls(base64.b64encode(png).decode("ascii"), alt, width)


def image_of(figure: Figure, alt: str) -> Image:
    """A figure as the page shows it, with the words for those who do not see it."""
    buffer = io.BytesIO()
    # Finer than the page, for sharp letters on a telephone; transparent, for dark pages.
    figure.savefig(buffer, format="png", dpi=_DPI, transparent=True, metadata={"Software": None})
    return Image.of(buffer.getvalue(), alt, width=round(figure.get_figwidth() * 96))


@dataclass(frozen=True)
class _Tile:
    label: str
    value: str
    note: str


def _tiles(fields: list[Field], scores: Mapping[str, list[ScoreRow]], count: int, of: int) -> Iterator[_Tile]:
    """The numbers at the top of the report."""
    grid = " \N{MULTIPLICATION SIGN} ".join(map(str, fields[0].generated_grid.shape))
    yield _Tile("generated samples", str(count), f"on a grid of {grid} points; {of} in the data")

    error, residual = (_medians(scores.get(name, [])) for name in ("solution_error", "residual_mse"))
    if "generated" in error:
        trivial = f"; {error['zero name']} scores {_percent(error['zero'])}" if "zero" in error else ""
        yield _Tile("median solution error", _percent(error["generated"]), f"0 % is exact{trivial}")
    if "generated" in residual:
        yield _Tile("median residual", number(residual["generated"]), _against(residual))
    if "zero" in residual:
        yield _Tile(f"residual of {residual['zero name']}", number(residual["zero"]), "the trivial answer")

    field = next((field for field in fields if field.positive), fields[0])
    data, generated = (_root_mean_square(spread(u)) for _, u, _ in field.series()[:2])
    yield _Tile(
        f"spread of {field.quantity}",
        number(_ratio(generated, data)),
        "std over the samples, generated / data; 1 is right",
    )


def _medians(rows: list[ScoreRow]) -> dict[str, Any]:
    medians: dict[str, Any] = {row.kind: row.quartiles[1] for row in rows if row.kind != "anchor" and row.values.size}
    for row in rows:
        if row.kind == "anchor" and _TRIVIAL.fullmatch(row.name) and row.values.size:
            name = row.name.replace(" ", "\N{NO-BREAK SPACE}")
            medians |= {"zero": row.quartiles[1], "zero name": name}
    return medians


def _against(residual: Mapping[str, Any]) -> str:
    if "zero" not in residual:
        return "mean square, 0 is exact"
    if residual["generated"] < residual["zero"]:
        return f"mean square; below {residual['zero name']}"
    return f"mean square; no better than {residual['zero name']}"


def _notices(fields: list[Field], count: int, of: int) -> Iterator[str]:
    """What a reader must know before trusting the numbers."""
    for held, total, which in ((fields[0].generated, count, "generated"), (fields[0].data, of, "data")):
        if len(held) < total:
            yield f"Figures and statistics of the fields use the first {len(held)} of {total} {which} samples."
    if count == 0:
        yield "There are no generated samples: this report shows the data and their anchors only."
        return
    if count == 1:
        yield "There is one generated sample only: quartiles and spread need more."
    for field in fields:
        broken = int((~np.isfinite(field.generated)).any(axis=tuple(range(1, field.generated.ndim))).sum())
        if broken:
            yield (
                f"{broken} of {len(field.generated)} generated samples hold values of {field.label} that are NaN or "
                "infinite. These values are left out of the statistics and grey in the figures."
            )
        if field.positive and (share := float((field.generated <= 0).mean())) > 0:
            yield (
                f"{_percent(share)} of the generated values of {field.label} are not positive, as all data are. They "
                "have no logarithm and are left out of its statistics."
            )


def _score_table(scores: Mapping[str, list[ScoreRow]]) -> list[dict[str, Any]]:
    """One row for each anchor and each kind of samples; a cell of each score, None where it is missing."""
    cells: dict[tuple[str, str], dict[str, ScoreRow]] = {}
    for kind in ("anchor", "generated", "completed"):
        for score, rows in scores.items():
            for row in rows:
                if row.kind == kind:
                    cells.setdefault((kind, row.name), {})[score] = row
    return [
        {"kind": kind, "name": name, "cells": [found.get(score) for score in scores]}
        for (kind, name), found in cells.items()
    ]


def _boxes(samples: xr.Dataset, anchors: xr.Dataset | None, scores: Mapping[str, Any]) -> list[Image]:
    shown = [name for name in ("residual_mse", "solution_error") if name in scores] or list(scores)[:2]
    return [
        image_of(figures.score_boxes(samples, anchors, name), f"Box plots of {LABELS.get(name, name)}.")
        for name in shown
    ]


def _statistics(field: Field) -> dict[str, Any]:
    """Mean, standard deviation and spread of one field for data, generated and completed samples."""
    columns = {name: (_mean(u), _std(u), _root_mean_square(spread(u))) for name, u, _ in field.series()}
    rows = []
    for k, statistic in enumerate(("mean", "std over all points", "std over the samples")):
        values = {name: column[k] for name, column in columns.items()}
        ratio = _ratio(values["generated"], values["data"]) if k > 0 else None
        rows.append({"name": statistic, **values, "ratio": ratio})
    return {"quantity": field.quantity, "rows": rows}


def _distribution(truth: xr.Dataset, samples: xr.Dataset, field: Field) -> dict[str, Any]:
    images = [
        image_of(figures.marginal(truth, samples, field.name), f"Histogram of {field.quantity}."),
        image_of(figures.spectrum(truth, samples, field.name), f"Power spectrum of {field.quantity}."),
        image_of(
            figures.spread_maps(truth, samples, field.name),
            f"Pointwise standard deviation of {field.quantity}.",
        ),
    ]
    return {"label": field.label, "images": images}


def _model(row: Mapping[str, Any], timings: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the table of models."""
    first = row["name"] == "this experiment"
    told = ""
    if row["given"]:
        told = f"told the law of {', '.join(row['given'])}"
    elif row["latent"] != "none":
        told = f"latent {row['drawn']}"
    kind = {"flow": "flow matching", "regression": "regression", "consistency": "consistency flow matching"}
    return {
        **row,
        "kind": "generated" if first else "anchor",
        "what": "; ".join(part for part in (kind.get(row["objective"], row["objective"]), told) if part),
        "seconds": _seconds(timings.get("train" if first else f"train {row['name']}", "\N{EN DASH}")),
        "shown": {
            score: row["scores"][score] for score in ("solution_error", "residual_mse") if score in row["scores"]
        },
    }


def _mean(u: np.ndarray) -> float:
    u = u[np.isfinite(u)]
    return float(u.mean()) if u.size else math.nan


def _std(u: np.ndarray) -> float:
    u = u[np.isfinite(u)]
    return float(u.std()) if u.size else math.nan


def _root_mean_square(u: np.ndarray) -> float:
    return _mean(u**2) ** 0.5


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None


def _percent(value: float) -> str:
    return f"{number(100 * value)} %"


def _seconds(value: Any) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if not 120 <= value < math.inf:
        return f"{number(value)} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def as_yaml(values: Mapping[str, Any] | None) -> str:
    """Nested settings as YAML, in their order; empty where there are none."""
    plain = json.loads(json.dumps(values, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True) if values else ""


def pairs(
    values: Mapping[str, Any] | None, form: Callable[[Any], str] = str, prefix: str = ""
) -> list[tuple[str, str]]:
    """A mapping as rows of a table of two columns, nested keys joined.

    Arguments:
        values: The mapping; none gives no rows.
        form: How a value is written.
        prefix: What comes before the keys.
    """
    rows = []
    for key, value in (values or {}).items():
        if isinstance(value, Mapping):
            rows += pairs(value, form, f"{prefix}{key}, ")
        else:
            rows.append((f"{prefix}{key}", form(value)))
    return rows
