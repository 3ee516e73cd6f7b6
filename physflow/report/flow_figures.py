r"""Figures of a flow: its paths, its coupling, and the velocities that meet in a point.

A path :math:`x_t` runs from the source (:math:`t = 0`) to the data (:math:`t = 1`) at equally spaced times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from physflow.metrics import VelocitySpread
from physflow.report.comparison import plain
from physflow.report.drawing import MISSING, Array, array_of, colorbar, panel, styled
from physflow.results import number

__all__ = ["plot_coupling", "plot_trajectories", "plot_trajectories_3d", "plot_velocity_spread"]

_SOURCE, _END, _TARGET = "#4d4d4d", "#c8591b", "#b8b8b8"
_TIME = "cividis"


@styled
def plot_trajectories(
    trajectory: Tensor | ArrayLike,
    target: Tensor | ArrayLike | Callable[[Tensor], Tensor] | None = None,
    title: str = "trajectories",
) -> Figure:
    """The paths of a flow, coloured by time, with their start and end; in the plane, or on a line against time.

    Arguments:
        trajectory: States at equally spaced times from 0 to 1, shape (steps + 1, batch, d) with d = 2 or d = 1.
        target: What the flow should reach, drawn behind the paths of the plane: points of shape (n, 2), or the log
            density of the target, a function of points (n, 2) with values (n,), drawn as its contours at 1, 5, 20 and
            60 % of the largest value.
        title: The title.

    Raises:
        ValueError: If the shapes are wrong, there is no path, a state is not finite, or a target comes with d = 1.
    """
    x = _trajectory(trajectory, (1, 2))
    times = np.linspace(0, 1, len(x))
    plane = x.shape[2] == 2
    if target is not None and not plane:
        raise ValueError("a target is drawn behind paths of the plane; these are on a line, so leave it out")
    figure, ax = panel(title, (4.6, 3.9), xlabel="x" if plane else "time t", ylabel="y" if plane else "x")
    points = x if plane else np.stack([np.broadcast_to(times[:, None], x.shape[:2]), x[..., 0]], axis=-1)
    lines = LineCollection(
        list(_segments(points)), array=np.tile(_middle(times), x.shape[1]), cmap=_TIME, norm=Normalize(0, 1)
    )
    lines.set(linewidth=0.9, alpha=0.75, zorder=2)
    ax.add_collection(lines)
    _ends(ax, points[0], points[-1])
    if plane:
        ax.set_aspect("equal", adjustable="datalim")
    if callable(target):
        _contours(ax, target, points.reshape(-1, 2))
    elif target is not None:
        u, v = _points(target, "target").T
        ax.scatter(u, v, s=4, color=_TARGET, linewidth=0, zorder=1, label="target")
    figure.colorbar(lines, ax=ax, label="time t", pad=0.02, aspect=30).outline.set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, markerscale=1.5)
    return figure


@styled
def plot_trajectories_3d(
    trajectory: Tensor | ArrayLike, times: Sequence[float] = (0.0, 0.5, 1.0), title: str = "trajectories"
) -> Figure:
    """The paths of a flow in the plane as lines in the box of (x, y, t), time upwards.

    Arguments:
        trajectory: States at equally spaced times from 0 to 1, shape (steps + 1, batch, 2).
        times: The times at which the states are drawn as points: those of the nearest steps.
        title: The title.

    Raises:
        ValueError: If the shape is wrong, there is no path, a state is not finite, or a time lies outside [0, 1].
    """
    x = _trajectory(trajectory, (2,))
    if not all(0 <= t <= 1 for t in times):
        raise ValueError(f"times must lie in [0, 1], got {tuple(times)}")
    grid = np.linspace(0, 1, len(x))
    figure = Figure((4.6, 4.4))
    # The layout engine does not see the labels of a box, so its place is fixed.
    ax: Any = figure.add_axes((0.02, 0.04, 0.86, 0.86), projection="3d", title=plain(title))
    points = np.concatenate([x, np.broadcast_to(grid[:, None, None], (*x.shape[:2], 1))], axis=-1)
    colors = matplotlib.colormaps[_TIME]
    for before, after, t in zip(points[:-1], points[1:], _middle(grid), strict=True):
        # All paths of one step are one broken line: far fewer things to draw than a line for each path.
        broken = np.stack([before, after, np.full_like(after, np.nan)], axis=1).reshape(-1, 3)
        ax.plot(*broken.T, color=colors(t), linewidth=0.7, alpha=0.6, solid_capstyle="butt")
    for step in sorted({round(t * (len(x) - 1)) for t in times}):
        ax.scatter(*points[step].T, s=7, color=[colors(grid[step])], depthshade=False, label=f"t = {grid[step]:.3g}")
    ax.set(xlabel="x", ylabel="y", zlabel="time t", zlim=(0, 1))
    ax.view_init(elev=18, azim=-62)
    ax.legend(loc="upper right")
    return figure


@styled
def plot_coupling(x0: Tensor | ArrayLike, x1: Tensor | ArrayLike, title: str = "coupling") -> Figure:
    r"""The pairs of a coupling in the plane, each joined by a line, with the mean of :math:`|x_1 - x_0|^2`.

    Arguments:
        x0: Points of the source, shape (batch, 2).
        x1: The point of the data that each is paired with, same shape.
        title: The title.

    Raises:
        ValueError: If the shapes are wrong, there is no pair, or a value is not finite.
    """
    start, end = _points(x0, "x0"), _points(x1, "x1")
    if len(start) != len(end):
        raise ValueError(f"expected one x1 for each x0, got {len(start)} and {len(end)}")
    cost = number(float(np.square(end - start).sum(axis=1).mean()))
    figure, ax = panel(title, (4.0, 4.3), xlabel="x", ylabel="y")
    ax.set_aspect("equal", adjustable="datalim")
    ax.add_collection(LineCollection(list(np.stack([start, end], axis=1)), color="#7da7cf", linewidth=0.6, zorder=2))
    _ends(ax, start, end, ("source $x_0$", "data $x_1$"))
    figure.legend(loc="outside lower center", ncols=2, title=f"mean squared distance {cost}")
    return figure


@styled
def plot_velocity_spread(spread: VelocitySpread | Mapping[str, VelocitySpread]) -> Figure:
    """The standard deviation of the velocity over time and place, of one flow or of several in one scale.

    Bins of fewer than two items are grey.

    Arguments:
        spread: What `physflow.metrics.velocity_spread` returns, or several by name. The first sets the scale.

    Raises:
        ValueError: If there is none.
    """
    named = dict(spread) if isinstance(spread, Mapping) else {"spread of the velocity": spread}
    if not named:
        raise ValueError("expected the spread of one flow at least, got none")
    figure = Figure((3.3 * len(named) + 0.9, 3.1), layout="constrained")
    axes = figure.subplots(1, len(named), squeeze=False, sharey=True)[0]
    first = array_of(next(iter(named.values())).std)
    largest = float(np.nanmax(first)) if np.isfinite(first).any() else 0.0
    scale = Normalize(0, largest or 1.0)
    cmap = matplotlib.colormaps["viridis"].with_extremes(bad=MISSING)
    for ax, (name, one) in zip(axes, named.items(), strict=True):
        std = np.ma.masked_invalid(array_of(one.std))
        ax.pcolormesh(array_of(one.t_edges), array_of(one.x_edges), std, norm=scale, cmap=cmap, rasterized=True)
        # Masked bins are not drawn: they are the background.
        ax.set(title=plain(name), xlabel="time t", facecolor=MISSING)
    axes[0].set_ylabel("x")
    shown = [array_of(one.std) for one in named.values()]
    colorbar(figure, list(axes), scale, "viridis", "standard deviation of dx/dt", shown)
    return figure


def _trajectory(trajectory: Tensor | ArrayLike, dimensions: tuple[int, ...]) -> Array:
    x = array_of(trajectory)
    if x.ndim != 3 or len(x) < 2 or x.shape[1] < 1 or x.shape[2] not in dimensions:
        wanted = " or ".join(map(str, dimensions))
        raise ValueError(
            f"expected a trajectory of shape (steps + 1, batch, d) with d = {wanted}, one step and one path at least, "
            f"got {x.shape}"
        )
    if not np.isfinite(x).all():
        raise ValueError("the trajectory holds values that are NaN or infinite; leave those paths out")
    return x


def _points(values: Tensor | ArrayLike, name: str) -> Array:
    x = array_of(values)
    if x.ndim != 2 or x.shape[1] != 2 or not len(x):
        raise ValueError(f"expected {name} to be points of the plane, shape (n, 2) with n > 0, got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds values that are NaN or infinite; leave those points out")
    return x


def _middle(times: Array) -> Array:
    return (times[1:] + times[:-1]) / 2


def _segments(points: Array) -> Array:
    """The segments (batch * steps, 2, d) of paths (steps + 1, batch, d), path by path."""
    pairs = np.stack([points[:-1], points[1:]], axis=2)
    return pairs.swapaxes(0, 1).reshape(-1, 2, points.shape[2])


def _ends(ax: Axes, start: Array, end: Array, names: tuple[str, str] = ("start, t = 0", "end, t = 1")) -> None:
    """Mark where paths start (rings) and end (discs)."""
    size = 14 if len(start) <= 100 else 7
    (x0, y0), (x1, y1) = start.T, end.T
    ax.scatter(x0, y0, s=size, facecolor="white", edgecolor=_SOURCE, linewidth=0.7, zorder=3, label=names[0])
    ax.scatter(x1, y1, s=size, color=_END, linewidth=0, zorder=4, label=names[1])


def _contours(ax: Axes, log_density: Callable[[Tensor], Tensor], points: Array, n: int = 160) -> None:
    """Filled contours of a density over the box of some points and 40 % more."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.4 * np.maximum(high - low, 1e-3 * (1 + np.abs(high)))
    u, v = (np.linspace(a - m, b + m, n) for a, b, m in zip(low, high, margin, strict=True))
    grid = torch.from_numpy(np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2))
    values = array_of(log_density(grid))
    if values.shape != (n * n,):
        raise ValueError(f"expected the target's log density to return one value a point, got {values.shape}")
    relative = np.exp(values - values.max()).reshape(n, n)
    ax.contourf(u, v, relative, levels=(0.01, 0.05, 0.2, 0.6, 1.0), colors=("#f0f0f0", "#e0e0e0", "#cccccc", "#b5b5b5"))
