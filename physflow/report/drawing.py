"""What figures share: the style, arrays from tensors, the scale of a field, and many fields as one image.

A figure is a `matplotlib.figure.Figure` of the caller's; the global state of pyplot is not used. Colours tell apart
with any kind of colour vision, and no curve is told by its colour alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from physflow.report.comparison import plain

__all__ = [
    "COLORS",
    "LINES",
    "MISSING",
    "STYLE",
    "array_of",
    "colorbar",
    "mosaic",
    "panel",
    "scale_of",
    "show",
    "styled",
]

P = ParamSpec("P")
Array = NDArray[np.float64]

COLORS = ("#1f66a8", "#c8591b", "#009e73", "#cc79a7", "#4d4d4d", "#56b4e9")
"""The colours of series, in their order: blue, orange, green, purple, grey, light blue."""
LINES = ("-", "--", "-.", ":")
"""The dashes of series, in their order."""
MISSING = "#d9d9d9"
"""The colour of what is not known."""
STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.edgecolor": "#999999",
    "axes.labelcolor": "#333333",
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    **dict.fromkeys(("xtick.color", "ytick.color"), "#555555"),
    "text.color": "#222222",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}
"""The settings of matplotlib under which a figure is made."""


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in our style and leave the user's settings as they are."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def panel(title: str, size: tuple[float, float] = (3.9, 3.1), **settings: Any) -> tuple[Figure, Axes]:
    """A figure of one panel.

    Arguments:
        title: The title; a dollar sign starts no formula.
        size: Width and height in inches.
        settings: Settings of the panel, such as its labels.
    """
    figure = Figure(size, layout="constrained")
    return figure, figure.add_subplot(title=plain(title), **settings)


def array_of(values: Tensor | ArrayLike) -> Array:
    """A tensor on any device, with gradient or without, or anything like an array, as a float64 array."""
    return np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, dtype=np.float64)


def scale_of(u: Array) -> tuple[Normalize, str]:
    """The scale and colour map that suit some values: symmetric about zero, logarithmic, or linear.

    The scale leaves out the outermost 0.1 % at either end; values that are not finite do not count.

    Arguments:
        u: The values, any shape.

    Returns:
        The scale, and the name of a colour map.
    """
    u = u[np.isfinite(u)]
    if not u.size:
        return Normalize(0.0, 1.0), "viridis"
    low, high = np.quantile(u, [0.001, 0.999])
    if u.min() < 0 < u.max():
        bound = max(-low, high) or float(np.abs(u).max())
        return Normalize(-bound, bound), "RdBu_r"
    if low > 0 and high > 10 * low:
        return LogNorm(low, high), "viridis"
    margin = 0.0 if high > low else 0.1 * abs(high) or 0.1
    return Normalize(low - margin, high + margin), "viridis"


def mosaic(
    fields: Array, image: bool = False, gap: tuple[float, float] = (0.06, 0.06)
) -> tuple[Array, tuple[int, int]]:
    """Many fields as one image, which is drawn far faster than a panel for each.

    Arguments:
        fields: Fields of shape (rows, columns, nx, ny).
        image: Whether the two axes of a field are the lines (downwards) and columns of an image; else they are x (to
            the right) and y (upwards).
        gap: The space below and beside a field, as a share of its height and width; one point at least.

    Returns:
        The image, its first line at the top, NaN in the gaps between the fields, and how many lines and columns lie
        between neighbouring fields: the upper left corner of fields[i, j] is i and j times that.
    """
    tiles = fields if image else fields.swapaxes(-1, -2)[..., ::-1, :]
    rows, columns, height, width = tiles.shape
    below, beside = (max(1, round(share * n)) for share, n in zip(gap, (height, width), strict=True))
    padded = np.full((rows, height + below, columns, width + beside), np.nan)
    padded[:, :height, :, :width] = tiles.swapaxes(1, 2)
    return padded.reshape(rows * (height + below), -1)[:-below, :-beside], (height + below, width + beside)


def show(ax: Axes, u: Array, scale: Normalize, colormap: str, missing: str = MISSING) -> AxesImage:
    """Draw an image, its first line at the top, without ticks or frame.

    Arguments:
        ax: The panel.
        u: The image, shape (lines, columns).
        scale: The scale of its values.
        colormap: The name of the colour map.
        missing: The colour of NaN.
    """
    drawn = ax.imshow(
        u, norm=scale, cmap=matplotlib.colormaps[colormap].with_extremes(bad=missing), interpolation="nearest"
    )
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return drawn


def colorbar(
    figure: Figure,
    axes: Sequence[Axes],
    scale: Normalize,
    colormap: str,
    label: str,
    shown: Sequence[Array],
    location: Literal["right", "bottom"] = "right",
) -> None:
    """A colour bar for panels of one scale, with arrows where values lie beyond it.

    Arguments:
        figure: The figure.
        axes: The panels at whose side the bar stands.
        scale: Their scale.
        colormap: The name of their colour map.
        label: What the values are, with the unit; a dollar sign starts no formula.
        shown: The values, NaN where there is none.
        location: On which side of the panels it stands.
    """
    image = ScalarMappable(scale, colormap)
    low, high = image.get_clim()
    under, over = any((u < low).any() for u in shown), any((u > high).any() for u in shown)
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[under, over]
    settings: Any = {"pad": 0.02, "aspect": 24, "label": plain(label), "extend": extend, "location": location}
    bar = figure.colorbar(image, ax=list(axes), **settings)
    bar.outline.set_visible(False)
