r"""Figures that set generated fields beside data.

Each function returns a `matplotlib.figure.Figure` of the caller's; the global state of pyplot is not used.

Three things hold throughout. What is compared shares one scale, and the data set it. A positive field is compared by
its logarithm. ``field[i, j]`` is drawn at :math:`(x_i, y_j)`, x to the right and y upwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from physflow.grid import Grid
from physflow.metrics import radial_spectrum
from physflow.report.comparison import LABELS, Field, compare, plain, score_rows, spread
from physflow.report.drawing import Array, panel, scale_of, styled
from physflow.results import number

__all__ = ["gallery", "marginal", "score_boxes", "spectrum", "spread_maps", "training_curve"]

_COLORS = {"anchor": "#8a8a8a", "data": "#4d4d4d", "generated": "#1f66a8", "completed": "#c8591b"}
_SIZE = (3.9, 3.1)


@dataclass(frozen=True)
class _Group:
    """Arrays of shape (sample, *axes) that are drawn in one scale, each with its name and grid."""

    title: str
    scale: Normalize
    colormap: str
    rows: list[tuple[str, Array, Grid]]


def _groups(fields: list[Field], count: int) -> list[_Group]:
    groups = []
    for field in fields:
        rows = [("data", field.data[:count], field.data_grid)]
        groups.append(_Group(field.label, *scale_of(field.data), rows))
        if not len(field.generated):
            continue
        rows.append(("generated", field.generated[:count], field.generated_grid))
        if field.completed is not None:
            rows.append(("completed", field.completed[:count], field.generated_grid))
            (_, u, _), (_, v, _) = rows[1:]
            difference = np.subtract(u, v, where=np.isfinite(u) & np.isfinite(v), out=np.full_like(u, np.nan))
            bound = np.quantile(np.abs(np.nan_to_num(difference)), 0.999) or 1.0
            row = ("generated −\ncompleted", difference, field.generated_grid)
            groups.append(_Group(f"{field.label}, difference", Normalize(-bound, bound), "PuOr_r", [row]))
    return groups


@styled
def gallery(truth: xr.Dataset, samples: xr.Dataset, count: int = 4) -> Figure:
    """The first fields of the data and the first generated ones.

    A row is a quantity, a column a sample (over one axis: a panel is a quantity, a curve a sample). Data, generated and
    completed field share one scale; generated minus completed has its own, symmetric about zero. Of fields over time
    and two axes the first and the last instant are shown, of three axes of space the middle layer.

    Arguments:
        truth: The data.
        samples: The generated fields, with ``<field>_completed`` or without.
        count: How many samples of each are shown.

    Raises:
        ValueError: If the samples lack a field of the data.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    fields = [panel for field in compare(truth, samples) for panel in field.panels()]
    groups = _groups(fields, count)
    return _curves(groups) if groups[0].rows[0][2].ndim == 1 else _maps(groups)


def _maps(groups: list[_Group]) -> Figure:
    columns = max(len(u) for group in groups for _, u, _ in group.rows)
    lines = sum(len(group.rows) for group in groups)
    (x0, x1), (y0, y1) = groups[0].rows[0][2].bounds
    # A box too long for its panel is shown out of proportion.
    ratio = min(max((y1 - y0) / (x1 - x0), 0.4), 2.0)
    width = 1.62 if columns > 2 else 2.2
    figure = Figure(
        figsize=(width * columns + 1.5, width * ratio * lines + 0.5 * len(groups) + 0.3),
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01),
    )
    axes = figure.subplots(lines, columns, squeeze=False)
    remaining = iter(axes)
    for group in groups:
        used = []
        for name, u, grid in group.rows:
            line = next(remaining)
            for ax, one in zip(line, u, strict=False):
                _map(ax, one, grid, group.scale, group.colormap)
                ax.set(xticks=[], yticks=[], aspect="equal" if ratio == (y1 - y0) / (x1 - x0) else "auto")
            for ax in line[len(u) :]:
                ax.set_axis_off()
            line[0].set_ylabel(name, fontsize=11)
            used += list(line)
        # The empty line keeps the title away from the row above.
        used[0].set_title("\n" + plain(group.title), fontsize=12)
        _colorbar(figure, used, [u for _, u, _ in group.rows], aspect=12 * len(group.rows))
    _ends(axes[-1, 0], groups[0].rows[0][2])
    return figure


def _map(ax: Axes, u: Array, grid: Grid, scale: Normalize, colormap: str) -> None:
    # Each point is the middle of its pixel, on cells and on nodes.
    ends = [(x[0] - h / 2, x[-1] + h / 2) for x, h in zip(grid.coordinates(), grid.spacing, strict=True)]
    cmap: Colormap = matplotlib.colormaps[colormap].with_extremes(bad="#d9d9d9")
    ax.imshow(u.T, origin="lower", extent=(*ends[0], *ends[1]), norm=scale, cmap=cmap, interpolation="nearest")
    ax.spines[:].set_visible(False)


def _ends(ax: Axes, grid: Grid) -> None:
    """Name the axes of a map and mark their ends, the labels within the length of the axis."""
    (x, y), names = grid.bounds, grid.axes
    ax.set(xticks=x, yticks=y)
    ax.set_xticklabels([f"{end:.3g}" for end in x])
    ax.set_yticklabels([f"{end:.3g}" for end in y])
    ax.tick_params(length=2.5)
    for ticks, which, places in (
        (ax.get_xticklabels(), "ha", ("left", "right")),
        (ax.get_yticklabels(), "va", ("bottom", "top")),
    ):
        for tick, place in zip(ticks, places, strict=True):
            tick.set(**{which: place})
    for name, end, shift, ha, va in (
        (names[0], (0.5, 0.0), (0, -5), "center", "top"),
        (names[1], (0.0, 0.5), (-5, 0), "right", "center"),
    ):
        ax.annotate(name, end, shift, "axes fraction", "offset points", ha=ha, va=va, color="#555555")


def _colorbar(figure: Figure, axes: list[Axes], shown: list[Array], **settings: Any) -> None:
    """A colour bar for axes of one scale, with arrows where values lie beyond it."""
    image = axes[0].images[0]
    low, high = image.get_clim()
    under = any(np.nanmin(u, initial=np.inf) < low for u in shown)
    over = any(np.nanmax(u, initial=-np.inf) > high for u in shown)
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[under, over]
    bar = figure.colorbar(image, ax=axes, extend=extend, pad=0.02, fraction=0.05, **settings)
    bar.outline.set_visible(False)


def _curves(groups: list[_Group]) -> Figure:
    columns = max(len(group.rows) for group in groups)
    figure = Figure(figsize=(2.9 * columns + 0.4, 2.3 * len(groups) + 0.2), layout="constrained")
    axes = figure.subplots(len(groups), columns, squeeze=False)
    for line, group in zip(axes, groups, strict=True):
        for ax, (name, u, grid) in zip(line, group.rows, strict=False):
            ax.plot(grid.coordinates()[0], u.T, linewidth=1.2)
            ax.set(xlabel=grid.axes[0], ylabel=name, yscale="log" if isinstance(group.scale, LogNorm) else "linear")
            ax.set_ylim(group.scale.vmin, group.scale.vmax)
        for ax in line[len(group.rows) :]:
            ax.set_axis_off()
        line[0].set_title(plain(group.title))
    return figure


@styled
def score_boxes(samples: xr.Dataset, anchors: xr.Dataset | None, score: str) -> Figure:
    """A score of the anchors and of the samples: quartiles (box), median (line, number), 5 to 95 % (whisker).

    The axis is logarithmic and ends six decades below the largest box; an arrow marks a median beyond it.

    Arguments:
        samples: The generated fields with their scores.
        anchors: The scores of the anchors, dimensions (anchor, sample), or None.
        score: The name of the score.

    Raises:
        ValueError: If neither samples nor anchors hold the score.
    """
    rows = score_rows(samples, anchors, score)
    if not rows:
        raise ValueError(f"neither the samples nor the anchors hold the score {score!r}")
    figure, ax = panel(LABELS.get(score, score.replace("_", " ")), (5.2, 0.36 * len(rows) + 0.95), xscale="log")
    ends = [np.quantile(row.values, [0.05, 0.75, 0.95]) for row in rows if row.values.size]
    largest = max((q3 for _, q3, _ in ends if q3 > 0), default=1.0)
    low = max(1e-6 * largest, 0.5 * min((p5 for p5, _, _ in ends), default=0.0))
    high = 2 * max((p95 for _, _, p95 in ends), default=1.0)
    for y, row in enumerate(rows):
        color, median = _COLORS[row.kind], row.quartiles[1]
        _box(ax, y, np.maximum(row.values, 0.1 * low), color)
        text = number(median) if row.values.size else "no value"
        ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", color=color, fontweight="bold")
        if median < low:
            ax.plot(low, y, marker="<", color=color, clip_on=False)
    ax.set_xlim(low, max(high, 10 * low))
    ax.set(yticks=range(len(rows)), ylim=(len(rows) - 0.4, -0.6))
    ax.set_yticklabels([plain(row.name) for row in rows])
    ax.tick_params(axis="y", length=0, pad=8)
    ax.annotate("median", (1.02, 1), xycoords="axes fraction", xytext=(0, 8), textcoords="offset points", fontsize=9)
    ax.grid(axis="x")
    return figure


def _box(ax: Axes, y: int, u: Array, color: str) -> None:
    if u.size:
        p5, q1, median, q3, p95 = np.quantile(u, [0.05, 0.25, 0.5, 0.75, 0.95])
        ax.plot([p5, p95], [y, y], color=color, linewidth=1.2, solid_capstyle="butt")
        ax.barh(y, q3 - q1, left=q1, height=0.5, color=color, alpha=0.45, linewidth=0)
        ax.plot([median, median], [y - 0.25, y + 0.25], color=color, linewidth=2.4, solid_capstyle="butt")


@styled
def training_curve(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """The loss, and the validation loss where there is one, against the training step.

    Arguments:
        metrics: One mapping a record, with ``step``, ``loss`` and perhaps ``validation_loss``.
    """
    figure, ax = panel("loss", (6.8, 2.8), xlabel="training step")
    shown = []
    styles: dict[str, tuple[str, dict[str, Any]]] = {
        "loss": ("training batch", {"color": "#9db8d2", "linewidth": 1.0}),
        "validation_loss": ("validation", {"color": _COLORS["completed"], "marker": "o", "markersize": 3.5}),
    }
    for key, (name, style) in styles.items():
        points = [(m["step"], m[key]) for m in metrics if m.get(key) is not None and math.isfinite(m[key])]
        if points:
            shown += [loss for _, loss in points]
            ax.plot(*zip(*points, strict=True), label=name, **style)
    if shown:
        ax.legend()
        ax.grid(axis="y", which="both")
        if min(shown) > 0 and max(shown) > 10 * min(shown):
            ax.set_yscale("log")
    return figure


@styled
def spectrum(truth: xr.Dataset, samples: xr.Dataset, name: str) -> Figure:
    """The radial power spectrum of one field: the median over the samples and the band of 10 to 90 %.

    That of a field over time is of its last instant.

    Samples in which a value is not finite, or has no logarithm, have no spectrum and are left out.

    Arguments:
        truth: The data.
        samples: The generated fields, with ``<field>_completed`` or without.
        name: The field.

    Raises:
        ValueError: If data or samples lack the field.
    """
    (field,) = (field.last_instant() for field in compare(truth, samples, [name]))
    figure, ax = panel(f"spectrum of {field.quantity}", xscale="log", yscale="log")
    for series, u, grid in field.series():
        whole = u[np.isfinite(u).all(axis=tuple(range(1, u.ndim)))]
        if not len(whole):
            continue
        wavenumber, power = (v.numpy() for v in radial_spectrum(torch.from_numpy(whole), grid.spacing))
        # Beyond the shortest wave along an axis a shell lies partly outside the grid's wavenumbers.
        whole_shells = wavenumber <= math.pi / max(grid.spacing)
        wavenumber, power = wavenumber[whole_shells], power[:, whole_shells]
        low, median, high = np.quantile(power, [0.1, 0.5, 0.9], axis=0)
        if not median.any():
            continue
        style = "--" if series == "completed" else "-"
        ax.plot(wavenumber, median, style, color=_COLORS[series], label=series)
        ax.fill_between(wavenumber, low, high, color=_COLORS[series], alpha=0.18, linewidth=0)
    # Ten, twenty and fifty, as the wavenumbers of a grid often span less than two decades.
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda wavenumber, _: f"{wavenumber:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="wavenumber (radians per unit length)", ylabel="power")
    ax.grid()
    if ax.lines:
        ax.legend()
    else:
        ax.text(0.5, 0.5, "the field does not vary", transform=ax.transAxes, ha="center")
    return figure


@styled
def marginal(truth: xr.Dataset, samples: xr.Dataset, name: str) -> Figure:
    """The histogram of one field over all points and samples, with mean and standard deviation.

    Arguments:
        truth: The data.
        samples: The generated fields.
        name: The field.

    Raises:
        ValueError: If data or samples lack the field.
    """
    (field,) = compare(truth, samples, [name])
    figure, ax = panel(f"distribution of {field.quantity}", xlabel=plain(field.quantity), ylabel="density")
    pairs = [(series, u[np.isfinite(u)]) for series, u, _ in field.series()[:2]]
    low, high = np.quantile(pairs[0][1], [0.0005, 0.9995])
    margin = 0.25 * (high - low) or 0.1
    edges = np.linspace(low - margin, high + margin, 81)
    for series, u in pairs:
        if u.size:
            # Density with respect to all values: those beyond the edges count.
            density = np.histogram(u, edges)[0] / (u.size * (edges[1] - edges[0]))
            text = f"{series}: mean {number(u.mean())}, std {number(u.std())}"
            solid: dict[str, Any] = (
                {"fill": True, "color": "#cfcfcf"} if series == "data" else {"color": _COLORS[series]}
            )
            ax.stairs(density, edges, label=text, **solid)
    ax.set_ylim(bottom=0)
    figure.legend(loc="outside lower left")
    return figure


@styled
def spread_maps(truth: xr.Dataset, samples: xr.Dataset, name: str) -> Figure:
    """The standard deviation over the samples at each point, of data and of generated fields, in one scale.

    Arguments:
        truth: The data.
        samples: The generated fields.
        name: The field.

    Raises:
        ValueError: If data or samples lack the field.
    """
    (field,) = (field.panels()[-1] for field in compare(truth, samples, [name]))
    title = f"std of {field.quantity} over the samples"
    series = [(which, spread(u), grid) for which, u, grid in field.series()[:2]]
    known = np.concatenate([s[np.isfinite(s)] for _, s, _ in series])
    if field.data_grid.ndim == 1:
        figure, ax = panel(title, xlabel=field.data_grid.axes[0])
        for which, s, grid in series:
            ax.plot(grid.coordinates()[0], s, color=_COLORS[which], label=which)
        ax.set_ylim(bottom=0)
        ax.legend()
        return figure
    low, high = np.quantile(known, [0.005, 0.995]) if known.size else (0.0, 1.0)
    scale = Normalize(low, high if high > low else low + 1.0)
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, (which, s, grid) in zip(axes, series, strict=True):
        _map(ax, s, grid, scale, "viridis")
        ax.set(xticks=[], yticks=[])
        ax.set_title(which if np.isfinite(s).any() else f"{which}: too few", fontweight="normal")
    _ends(axes[0], series[0][2])
    figure.suptitle(plain(title), x=0.02, ha="left", fontsize=10.5, fontweight="bold")
    _colorbar(figure, list(axes), [s for _, s, _ in series], aspect=24, location="bottom")
    return figure
