r"""Figures of a latent: what its coordinates do, what it leaves open, and what it costs.

A traversal is a grid of fields made from latents of which two coordinates run (`physflow.generative.exploration`).
The rate is the divergence :math:`\mathrm{KL}(q(z \mid x_1) \,\|\, p(z))` in nats, what the latent is told of an item;
the distortion is what the reconstruction loses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from physflow.report.comparison import plain
from physflow.report.drawing import COLORS, Array, array_of, colorbar, mosaic, scale_of, show, styled
from physflow.results import number

__all__ = ["plot_one_latent", "plot_rate", "plot_traversal"]

Values: TypeAlias = Tensor | ArrayLike
_TILE = 0.62
"""The width of a field of a traversal in inches."""


@styled
def plot_traversal(
    fields: Values | Mapping[str, Values],
    scores: Values | Mapping[str, Values] | None = None,
    z_values: tuple[Values, Values] | None = None,
    label: str = "field",
    score: str = "residual",
    axes: tuple[int, int] = (0, 1),
    image: bool = False,
) -> Figure:
    """Fields over a grid of latents, each with its score beneath, of one model or of several beside each other.

    All grids share one scale, which the first one sets. A title gives the median of the scores.

    Arguments:
        fields: Fields of shape (rows, columns, nx, ny), of one model or of several by name: what
            `physflow.generative.exploration.traverse` returns, one channel of it.
        scores: The score of each field, shape (rows, columns); by name if the fields are. A name may be missing.
        z_values: The values of the latent's coordinate down the rows and along the columns.
        label: What the fields are, with the unit.
        score: What the scores are.
        axes: Which coordinates of the latent run down the rows and along the columns.
        image: Whether the fields are images, first line at the top; else field[i, j] lies at (x_i, y_j).

    Raises:
        ValueError: If the shapes are wrong or do not fit each other, or scores have a name that no fields have.
    """
    grids = {name: _grid_of(u, name) for name, u in _named(fields, label).items()}
    marks = {name: array_of(u) for name, u in _named(scores, label).items()} if scores is not None else {}
    values = [array_of(z) for z in z_values] if z_values is not None else None
    _check_traversal(grids, marks, values)

    first = next(iter(grids.values()))
    rows, columns, height, width = first.shape if image else (*first.shape[:2], *first.shape[:1:-1])
    gap = (0.3 if marks else 0.06, 0.06)
    figure, panels = _row([_TILE * columns] * len(grids), _TILE * rows * (height / width) * (1 + gap[0]) + 0.45)
    scale, colormap = _scale(first, image)
    for ax, (name, u) in zip(panels, grids.items(), strict=True):
        picture, (down, right) = mosaic(u, image, gap)
        show(ax, picture, scale, colormap, "white")
        title = name
        if name in marks:
            title += f"\nmedian {score} {number(float(np.nanmedian(marks[name])))}"
            for (i, j), value in np.ndenumerate(marks[name]):
                # In points below the field, as the size of the letters has nothing to do with that of the fields.
                place, shift = (j * right + (width - 1) / 2, i * down + height - 0.5), (0, -1.5)
                ax.annotate(number(value), place, shift, textcoords="offset points", ha="center", va="top", fontsize=6)
        ax.set(title=plain(title), xlabel=f"latent coordinate {axes[1]}")
        if values is not None:
            ax.set_xticks(np.arange(columns) * right + (width - 1) / 2, [_short(z) for z in values[1]])
            ax.set_yticks(np.arange(rows) * down + (height - 1) / 2, [_short(z) for z in values[0]])
            ax.tick_params(length=0, labelsize=8)
            # Below the scores of the last row.
            ax.tick_params(axis="x", pad=11 if name in marks else 3)
    panels[0].set_ylabel(f"latent coordinate {axes[0]}")
    colorbar(figure, panels, scale, colormap, label, list(grids.values()))
    return figure


@styled
def plot_one_latent(
    reference: Values,
    samples: Values,
    label: str = "field",
    count: int = 12,
    image: bool = False,
) -> Figure:
    """The field that a latent encodes, samples made from this one latent, and their standard deviation at each point.

    The samples are drawn in the scale of the encoded field. The standard deviation, of all samples, has its own scale;
    with one sample there is none.

    Arguments:
        reference: The encoded field, shape (nx, ny).
        samples: Samples from its latent, shape (n, nx, ny): what `physflow.generative.exploration.many_from_one`
            returns, one channel of it.
        label: What the fields are, with the unit.
        count: At most how many samples are shown.
        image: Whether the fields are images, first line at the top; else field[i, j] lies at (x_i, y_j).

    Raises:
        ValueError: If the shapes are wrong or there is no sample.
    """
    u, many = array_of(reference), array_of(samples)
    if u.ndim != 2 or many.ndim != 3 or many.shape[1:] != u.shape or not many.size:
        raise ValueError(
            "expected an encoded field of shape (nx, ny) and at least one sample of shape (n, nx, ny), got "
            f"{u.shape} and {many.shape}; take one channel"
        )
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    shown = many[:count]
    lines = max(1, round(math.sqrt(len(shown) / 2)))
    columns = -(-len(shown) // lines)
    tiles = np.full((lines * columns, *u.shape), np.nan)
    tiles[: len(shown)] = shown
    height, width = u.shape if image else u.shape[::-1]
    tall = lines * 0.95 * height / width
    single = max(tall * width / height, 1.2)
    widths = [single, max(columns * 0.95, 2.0)] + [single] * (len(many) > 1)
    figure, panels = _row(widths, max(tall, single * height / width) + 0.55)
    scale, colormap = _scale(u, image)
    show(panels[0], mosaic(u[None, None], image)[0], scale, colormap)
    panels[0].set_title("encoded")
    # Gaps are no missing values.
    show(panels[1], mosaic(tiles.reshape(lines, columns, *u.shape), image)[0], scale, colormap, "white")
    panels[1].set_title(f"from its latent ({len(shown)} of {len(many)})")
    colorbar(figure, panels[:2], scale, colormap, label, [u, shown], "bottom")
    if len(many) > 1:
        std = many.std(axis=0, ddof=1)
        largest = float(np.nanmax(std, initial=0.0))
        own = Normalize(0, largest or 1.0)
        show(panels[2], mosaic(std[None, None], image)[0], own, "cividis")
        panels[2].set_title("their std")
        colorbar(figure, panels[2:], own, "cividis", f"std of {label}", [std], "bottom")
    return figure


@styled
def plot_rate(
    betas: Values,
    rates: Values,
    distortions: Values | None = None,
    distortion: str = "mean squared error",
) -> Figure:
    """The rate of a latent, and what its reconstruction loses, against the weight of the rate in the loss.

    Arguments:
        betas: The weights, positive, in any order.
        rates: The rate of the model trained with each, in nats.
        distortions: The distortion of each, if known.
        distortion: What the distortion is, with the unit.

    Raises:
        ValueError: If there is no weight, one is not positive, or the numbers of values differ.
    """
    beta = array_of(betas)
    series = [("rate", "KL(q(z | x) || p(z)) (nats)", array_of(rates))]
    if distortions is not None:
        series.append(("distortion", distortion, array_of(distortions)))
    if beta.ndim != 1 or not beta.size or not ((beta > 0) & np.isfinite(beta)).all():
        raise ValueError(f"expected at least one weight beta, all positive, got {beta.tolist()}")
    figure = Figure((3.6 * len(series) + 0.2, 2.9), layout="constrained")
    order = np.argsort(beta)
    panels = figure.subplots(1, len(series), squeeze=False)[0]
    for ax, (title, name, values), color in zip(panels, series, COLORS, strict=False):
        if values.shape != beta.shape:
            raise ValueError(f"expected one {title} for each of the {len(beta)} weights, got shape {values.shape}")
        ax.plot(beta[order], values[order], marker="o", markersize=4.5, color=color)
        ax.set(title=title, xlabel="weight of the rate, β", ylabel=plain(name), xscale="log")
        finite = values[np.isfinite(values)]
        if finite.size and finite.min() > 0 and finite.max() > 10 * finite.min():
            ax.set_yscale("log")
        else:
            ax.set_ylim(bottom=min(0.0, float(finite.min(initial=0.0))))
        ax.grid()
    return figure


def _named(values: Values | Mapping[str, Values], name: str) -> dict[str, Values]:
    return dict(values) if isinstance(values, Mapping) else {name: values}


def _check_traversal(grids: dict[str, Array], marks: dict[str, Array], values: list[Array] | None) -> None:
    if not grids or not set(marks) <= set(grids):
        raise ValueError(f"expected scores of {list(grids)}, by the names of the fields, got those of {list(marks)}")
    shape = next(iter(grids.values())).shape
    for name, u in grids.items():
        if u.shape != shape:
            raise ValueError(f"expected all traversals to have the shape {shape}, got {u.shape} for {name!r}")
    for name, u in marks.items():
        if u.shape != shape[:2]:
            raise ValueError(f"expected scores of shape {shape[:2]}, one a field, got {u.shape} for {name!r}")
    if values is not None and tuple(len(z) for z in values) != shape[:2]:
        raise ValueError(
            f"expected z_values to hold {shape[0]} values for the rows and {shape[1]} for the columns, got "
            f"{tuple(len(z) for z in values)}"
        )


def _short(z: float) -> str:
    """A latent value to two decimals, without a signed zero."""
    return f"{round(z, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def _grid_of(values: Values, name: str) -> Array:
    u = array_of(values)
    if u.ndim != 4 or not u.size:
        raise ValueError(
            f"expected fields of shape (rows, columns, nx, ny) for {name!r}, got {u.shape}; take one channel of what a "
            "traversal returns: fields[:, :, 0]"
        )
    return u


def _scale(u: Array, image: bool) -> tuple[Normalize, str]:
    """The scale and colour map of fields, or greys from the darkest to the brightest point of images."""
    known = u[np.isfinite(u)]
    if not image or not known.size:
        return scale_of(u)
    low, high = known.min(), known.max()
    return Normalize(low, high if high > low else low + 1), "gray"


def _row(widths: list[float], height: float) -> tuple[Figure, list[Axes]]:
    """Panels of given widths and one height, in inches, in a row."""
    figure = Figure((sum(widths) + 0.5 * len(widths) + 1.1, height + 0.45), layout="constrained")
    return figure, list(figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0])
