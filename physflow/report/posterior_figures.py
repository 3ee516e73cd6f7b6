"""Figures of fields given sensors: maps of the posterior, and predicted against observed readings.

Sensors are circles, those held out diamonds. A positive field is shown by its natural logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from physflow.fields import SAMPLE, grid_of
from physflow.grid import Grid
from physflow.report.comparison import plain, spread
from physflow.report.drawing import COLORS, Array, colorbar, scale_of, show, styled
from physflow.report.predictions import Predictions

__all__ = ["plot_posterior", "plot_readings"]

_MARKS: Mapping[str, Mapping[str, Any]] = {
    "used": {"marker": "o", "s": 26, "edgecolors": "#000000", "linewidths": 1.0},
    "held out": {"marker": "D", "s": 30, "edgecolors": "#000000", "linewidths": 1.0},
    "of another field": {"marker": "x", "s": 14, "color": "#ffffff", "linewidths": 0.9},
}
_COUNTED = {
    "line": "sensor, by its line in the file",
    "number": "number of the sensor, from 0, in the order of the file",
}


@styled
def plot_posterior(ds: xr.Dataset, name: str) -> Figure:
    """Maps of one field: the mean of the draws and two of them in one scale, and their standard deviation.

    On the mean a sensor is filled with the colour of what it read.

    Arguments:
        ds: Draws with their sensors (`physflow.sensors.with_sensors`).
        name: The field.

    Raises:
        ValueError: If the field has not two axes.
    """
    grid = grid_of(ds, [name])
    if grid.ndim != 2:
        raise ValueError(f"expected a field over two axes for maps, got {grid.axes}; take slices first")
    u = ds[name].transpose(SAMPLE, *grid.axes).values.astype(np.float64)
    positive = bool((u[np.isfinite(u)] > 0).all())
    label = str(ds[name].attrs.get("long_name", name.replace("_", " ")))
    quantity = f"log {label}" if positive else label
    u = np.log(u) if positive else u
    known = np.isfinite(u).all(axis=(1, 2))
    mean, std, draws = u[known].mean(0), spread(u[known]), u[:2]
    scale, colormap = scale_of(np.stack([mean, *draws]))
    low, high = np.nanquantile(std, [0.005, 0.995])
    std_scale = Normalize(min(0.0, low), high if high > 0 else 1.0)
    (x0, x1), (y0, y1) = grid.bounds
    # A box too long for its panel is shown out of proportion.
    ratio = min(max((y1 - y0) / (x1 - x0), 0.4), 2.0)
    figure = Figure(figsize=(10.4, 2.15 * ratio + 1.15), layout="constrained")
    axes = figure.subplots(1, 2 + len(draws))
    maps = [("mean of the draws", mean), *zip(("first draw", "second draw"), draws, strict=False), ("std", std)]
    for ax, (title, v) in zip(axes, maps, strict=True):
        settings = (std_scale, "magma") if title == "std" else (scale, colormap)
        # The first line of an image is at its top.
        show(ax, v.T[::-1], *settings).set_extent((x0, x1, y0, y1))
        aspect = "equal" if ratio == (y1 - y0) / (x1 - x0) else "auto"
        ax.set(xlim=(x0, x1), ylim=(y0, y1), aspect=aspect)
        ax.set_title(title, fontweight="normal")
    _ends(axes[0], grid)
    shown = _sensors(axes[0], ds, name, grid, positive, (scale, colormap))
    shown |= _sensors(axes[-1], ds, name, grid, positive, None)
    colorbar(figure, axes[:-1], scale, colormap, "", [mean, *draws])
    colorbar(figure, axes[-1:], std_scale, "magma", "", [std])
    # Beside a flat map a label of the bar has no room.
    figure.suptitle(plain(quantity), x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.legend(handles=[_handle(kind) for kind in _MARKS if kind in shown], loc="outside lower left", ncols=3)
    return figure


def _ends(ax: Axes, grid: Grid) -> None:
    """Name the axes of a map and mark their ends."""
    ax.set(xticks=grid.bounds[0], yticks=grid.bounds[1], xlabel=grid.axes[0], ylabel=grid.axes[1])
    ax.tick_params(length=2.5)
    ax.xaxis.labelpad = ax.yaxis.labelpad = -8


def _sensors(
    ax: Axes, ds: xr.Dataset, name: str, grid: Grid, positive: bool, filled: tuple[Normalize, str] | None
) -> set[str]:
    """Draw the sensors, filled with what they read or left open; returns the kinds that were drawn."""
    x, y = (ds[f"sensor_{axis}"].values for axis in grid.axes)
    own, held = ds["sensor_field"].values == name, ds["held_out"].values.astype(bool)
    groups = {"used": own & ~held, "held out": own & held}
    if filled is None:
        groups = {"of another field": ~own & ~held, **groups}
    read = _read(ds["observed"].values, ds["sensor_log"].values.astype(bool), positive)
    for kind, which in groups.items():
        colors: dict[str, Any] = {}
        if filled is not None:
            colors = {"c": read[which], "norm": filled[0], "cmap": filled[1], "plotnonfinite": True}
        elif kind != "of another field":
            colors = {"facecolors": "#ffffff"}
        if which.any():
            ax.scatter(x[which], y[which], **_MARKS[kind], **colors, clip_on=False)
    return {kind for kind, which in groups.items() if which.any()}


def _read(observed: Array, log: NDArray[np.bool_], positive: bool) -> Array:
    """The readings as the map shows the field; what has no logarithm is not finite."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(log, observed, np.log(observed)) if positive else np.where(log, np.exp(observed), observed)


def _handle(kind: str) -> Line2D:
    mark = _MARKS[kind]
    color = "#555555" if "color" in mark else "#ffffff"
    words = f"sensor {kind}" if kind == "of another field" else f"sensor of this field, {kind}"
    edge = mark.get("edgecolors", color)
    return Line2D([], [], linestyle="", marker=mark["marker"], color=color, markeredgecolor=edge, label=words)


@styled
def plot_readings(predictions: Predictions) -> Figure:
    """Predicted beside observed readings, a line of panels for each quantity.

    At the left one against the other, on the diagonal where both agree; at the right their difference at each sensor.
    The mark is the mean of the draws; the thick bar holds 90 % of what they say, the thin one 90 % of the predicted
    readings, noise included.

    Arguments:
        predictions: The sensors (`physflow.report.predictions.predictions_of`).
    """
    quantities = predictions.quantities
    figure = Figure(figsize=(10.4, 3.1 * len(quantities) + 0.3), layout="constrained")
    panels = figure.subplots(len(quantities), 2, squeeze=False, width_ratios=(1, 2.2))
    handles: dict[str, Any] = {}
    counted = "line" if (predictions.line > 0).all() else "number"
    for (left, right), quantity in zip(panels, quantities, strict=True):
        here = predictions.chosen(predictions.quantity == quantity)
        ends = np.concatenate([here.interval().ravel(), here.observed])
        margin = 0.05 * np.ptp(ends) or 0.1
        limits = (ends.min() - margin, ends.max() + margin)
        left.plot(limits, limits, color="#999999", linewidth=1, zorder=1)
        right.axhline(0, color="#999999", linewidth=1, zorder=1)
        for words, held, color, marker in (("used", False, COLORS[0], "o"), ("held out", True, COLORS[1], "D")):
            some = here.chosen(here.held_out == held)
            if not len(some):
                continue
            for ax, x, shift in ((left, some.observed, 0.0), (right, getattr(some, counted), some.observed)):
                ax.vlines(x, *(some.interval() - shift), color=color, linewidth=0.9, zorder=2 + held)
                ax.vlines(
                    x, *(some.interval(noise=False) - shift), color=color, linewidth=2.8, alpha=0.55, zorder=2 + held
                )
                (mark,) = ax.plot(x, some.draws.mean(0) - shift, marker, color=color, markersize=4, zorder=3 + held)
            handles[f"sensor {words}"] = mark
        left.set(title=plain(quantity), xlabel="observed", ylabel="predicted", xlim=limits, ylim=limits)
        left.set_aspect("equal")
        right.set(xlabel=_COUNTED[counted], ylabel="predicted − observed")
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.grid()
        right.grid(axis="y")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2)
    return figure
