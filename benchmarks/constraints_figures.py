"""The figures of the benchmark of constraints: residual against law, and the scores of the samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from constraints_methods import ANCHOR, END, LOOP, RAW, SELECTION, TRAINING
from darcy_scores import DATA, ZERO
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogFormatterMathtext
from numpy.typing import NDArray

from physflow.report.drawing import COLORS, styled
from physflow.results import number

__all__ = ["KINDS", "boxes", "labelled", "pareto", "placed", "points_of"]

Array = NDArray[np.float64]

KINDS = dict(zip((RAW, END, LOOP, SELECTION, TRAINING, ANCHOR), (*COLORS[:4], COLORS[5], COLORS[4]), strict=True))
"""The kinds of rows and their colours."""
MARKERS = dict(zip(KINDS, "Dos^vx", strict=True))
PANELS = {
    "sliced_w2": "sliced $W_2$ of (log K, p), over its floor",
    "std_ratio_log_permeability": "standard deviation of log K, over the data's",
}
"""What is drawn over the residual."""
BREAK, SQUEEZE = -2.5, 5.0
"""The decade below which the axis of the residuals is shorter, and how many times."""
NAMES = {"residual_mse": "residual", "solution_error": "error of p"}
"""The scores that are drawn as boxes, and what they are called."""
PLACES: Array = np.array(
    [
        (radius * math.cos(angle), radius * math.sin(angle))
        for radius in (8, 14, 22, 32, 44, 58, 74, 92, 112, 134, 158, 184)
        for angle in (math.pi * k / 8 for k in (0, 8, 1, -1, 7, -7, 2, -2, 6, -6, 3, -3, 5, -5, 3.7, -3.7, 4.3, -4.3))
    ]
)
"""Where a name may stand beside its point, in points, the nearest places first."""


def placed(points: Array, sizes: Array, frame: Array, unit: float) -> Array:
    """Where names stand beside their points: no name on another, a point or a line, as long as there is room.

    Arguments:
        points: The points, shape (n, 2), in pixels.
        sizes: Widths and heights of the names, shape (n, 2), in pixels.
        frame: Lower left and upper right corner of the panel, shape (4,).
        unit: The pixels of a point of type.

    Returns:
        The ends of the lines to the names, relative to the points, in points of type, shape (n, 2). A name starts
        there, or ends there if it stands at the left, and has its middle at that height.
    """
    # Boxes are rows of their lower left and upper right corners.
    markers = np.concatenate([points - 4 * unit, points + 4 * unit], 1)
    names, lines, found = np.empty((0, 4)), np.empty((0, 2)), []
    for point, (width, height) in zip(points, sizes, strict=True):
        others = markers[np.abs(points - point).max(1) > 8 * unit]
        shift = np.stack([np.where(PLACES[:, 0] > 0, 0, width), np.full(len(PLACES), height / 2)], 1)
        lower = point + unit * PLACES - shift
        boxes = np.concatenate([lower, lower + np.array([width, height])], 1)
        ways = point + unit * PLACES[:, None] * np.linspace(0, 1, 12)[:, None]
        crossed = _inside(ways.reshape(-1, 2), np.concatenate([others, names])).reshape(len(PLACES), -1).sum(1)
        outside = ~_inside(boxes.reshape(-1, 2), frame[None]).reshape(-1, 2).all(1)
        overlaps = _overlap(boxes, np.concatenate([markers, names])).sum(1)
        # As lengths of line, in points of type, that are worth it.
        cost = 1e5 * outside + 1e4 * overlaps + 30 * (crossed + _inside(lines, boxes).sum(0)) + np.hypot(*PLACES.T)
        best = int(cost.argmin())
        found.append(PLACES[best])
        names, lines = np.vstack([names, boxes[best]]), np.vstack([lines, ways[best]])
    return np.array(found)


def labelled(ax: Axes, points: Sequence[tuple[str, str, float, float]]) -> None:
    """Draw points with their names beside them (`placed`).

    Arguments:
        ax: The panel, whose limits are set and whose place in its figure is final.
        points: Name, kind, x and y of each.
    """
    renderer = FigureCanvasAgg(ax.get_figure(root=True)).get_renderer()
    unit = renderer.points_to_pixels(1.0)
    names = []
    for name, kind, x, y in points:
        ax.plot(x, y, MARKERS[kind], color=KINDS[kind], markersize=6, markeredgewidth=1.6, clip_on=False, zorder=3)
        names.append(ax.annotate(name, (x, y), (0, 0), textcoords="offset points", va="center", size=8))
    sizes = np.array([name.get_window_extent(renderer).padded(unit).size for name in names])
    centres = ax.transData.transform([(x, y) for _, _, x, y in points])
    places = placed(centres, sizes, np.ravel(ax.bbox), unit)
    for name, (_, kind, x, y), (dx, dy) in zip(names, points, places, strict=True):
        name.set(position=(dx, dy), ha="left" if dx > 0 else "right", color=KINDS[kind])
        line = {"arrowstyle": "-", "color": KINDS[kind], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        ax.annotate("", (x, y), (dx, dy), textcoords="offset points", arrowprops=line)


def _inside(points: Array, boxes: Array) -> NDArray[np.bool_]:
    """Whether points (n, 2) lie in boxes (m, 4), shape (n, m)."""
    return np.all((points[:, None] > boxes[:, :2]) & (points[:, None] < boxes[:, 2:]), axis=2)


def _overlap(boxes: Array, others: Array) -> NDArray[np.bool_]:
    """Whether boxes (n, 4) overlap others (m, 4), shape (n, m)."""
    return np.all((boxes[:, None, :2] < others[:, 2:]) & (boxes[:, None, 2:] > others[:, :2]), axis=2)


def points_of(rows: Sequence[Mapping[str, Any]], quantity: str) -> list[tuple[str, str, float, float]]:
    """Name, kind, residual (geometric mean) and a quantity (mean) of every method, over its seeds or sets."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        # A method whose samples are no fields has no scores.
        if row["part"] == "samples" and all(math.isfinite(row.get(q) or math.nan) for q in ("residual_mse", quantity)):
            groups.setdefault((row["method"], row["kind"]), []).append(row)
    return [
        (
            name,
            kind,
            statistics.geometric_mean(row["residual_mse"] for row in group),
            statistics.fmean(row[quantity] for row in group),
        )
        for (name, kind), group in groups.items()
    ]


@styled
def pareto(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Residual against two distances of the law, one point a method; the band is the data against the data.

    Arguments:
        rows: All rows.
    """
    figure = Figure((15.0, 7.2), layout=ConstrainedLayoutEngine(w_pad=0.15))
    panels = figure.subplots(1, 2)
    drawn = []
    for ax, (quantity, label) in zip(panels, PANELS.items(), strict=True):
        floor = [row[quantity] for row in rows if row["part"] == "samples" and row["method"] == DATA]
        over = statistics.fmean(floor) if quantity == "sliced_w2" else 1.0
        points = [(name, kind, x, y / over) for name, kind, x, y in points_of(rows, quantity)]
        if quantity != "sliced_w2":
            # Anchors have the log K of the data.
            points = [point for point in points if point[1] != ANCHOR or point[0] == DATA]
        # Without pressure the distance is so large that the others would be one line.
        far = max(y for name, _, _, y in points if name != ZERO)
        near = min(y for _, _, _, y in points)
        low, high = near - 0.25 * (far - near), far + 0.25 * (far - near)
        points = [
            (f"{name} (at {number(y)})" if y > high else name, kind, x, min(y, far + 0.2 * (far - near)))
            for name, kind, x, y in points
        ]
        ax.axhspan(min(floor) / over, max(floor) / over, color=KINDS[ANCHOR], alpha=0.15, linewidth=0)
        ends = [x for _, _, x, _ in points]
        ax.set_xscale("function", functions=(_squeezed, _stretched))
        ax.set_xticks([10.0**k for k in (-10, -7, -4, -2, -1, 0, 1, 2)])
        ax.xaxis.set_major_formatter(LogFormatterMathtext())
        ax.set(xlim=(min(ends) / 100, max(ends) * 10), ylim=(low, high), ylabel=label)
        ax.set_xlabel("residual (mean square, median over the samples); the axis is shorter left of the dotted line")
        ax.axvline(10**BREAK, color="#999999", linestyle=":", linewidth=1)
        ax.grid()
        drawn.append((ax, points))
    handles = [panels[0].plot([], [], MARKERS[kind], color=color, label=kind)[0] for kind, color in KINDS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(KINDS))
    # Names are placed by their size on the page: nothing may move afterwards.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax, points in drawn:
        labelled(ax, points)
    return figure


@styled
def boxes(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The residual and the error of p by every method: quartiles, median, up to 95 %.

    Arguments:
        rows: All rows; of those of one method the first is drawn.
    """
    first = {row["method"]: row for row in reversed(rows) if row["part"] == "samples"}
    names = [name for kind in KINDS for name, row in reversed(first.items()) if row["kind"] == kind]
    figure = Figure((10.5, 0.26 * len(names) + 1.2), layout=ConstrainedLayoutEngine(w_pad=0.15))
    panels = figure.subplots(1, 2, sharey=True)
    for ax, (score, label) in zip(panels, NAMES.items(), strict=True):
        ends = [row[f"{score}_{end}"] for row in first.values() if row.get(score) for end in ("q1", "p95")]
        for y, name in enumerate(names):
            row, color = first[name], KINDS[first[name]["kind"]]
            median = row.get(score)
            if median:
                ax.plot([row[f"{score}_q3"], row[f"{score}_p95"]], [y, y], color=color, linewidth=1.2)
                ax.barh(y, row[f"{score}_q3"] - row[f"{score}_q1"], 0.56, row[f"{score}_q1"], color=color, alpha=0.4)
                ax.plot([median, median], [y - 0.28, y + 0.28], color=color, linewidth=2.4)
            ax.text(1.02, y, number(median), transform=ax.get_yaxis_transform(), va="center", color=color)
        ax.text(1.02, 1.01, "median", transform=ax.transAxes)
        ax.set(xscale="log", xlim=(0.3 * min(ends), 3 * max(ends)), xlabel=label)
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
    panels[0].set(yticks=range(len(names)), ylim=(len(names) - 0.4, -0.6))
    panels[0].set_yticklabels(names)
    return figure


def _squeezed(x: Array) -> Array:
    """The place of a residual on its axis, in decades that are shorter below the break."""
    decade = np.log10(np.maximum(x, 1e-30))
    return np.where(decade > BREAK, decade, BREAK + (decade - BREAK) / SQUEEZE)


def _stretched(y: Array) -> Array:
    """The residual at a place of the axis."""
    return 10.0 ** np.where(y > BREAK, y, BREAK + (y - BREAK) * SQUEEZE)
