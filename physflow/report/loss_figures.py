"""Figures of training: the curves of several runs beside each other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from physflow.report.comparison import plain
from physflow.report.drawing import COLORS, LINES, Array, array_of, styled

__all__ = ["Curve", "plot_losses"]

Curve: TypeAlias = Sequence[Mapping[str, Any]] | tuple[ArrayLike, ArrayLike]
"""The records of ``metrics.jsonl``, or the training steps and the values at them."""


@styled
def plot_losses(curves: Mapping[str, Curve], quantities: Sequence[str] = ("loss",)) -> Figure:
    """What changes during training, a panel for each quantity and a line for each run.

    An axis is logarithmic if its values are positive and span more than a decade. Values that are missing or not finite
    are left out, and so is a run in a panel for which it has no value.

    Arguments:
        curves: The runs by name: the records of ``metrics.jsonl``, each with ``step`` and some quantities, or a pair of
            steps and values, which belongs to the first panel.
        quantities: The quantities shown, as the records call them: ``loss``, ``validation_loss``, ``reconstruction``.

    Raises:
        ValueError: If there is no run or no quantity, no run has a value of a quantity, a record has no step, or steps
            and values differ in number.
    """
    if not curves or not quantities:
        raise ValueError(f"expected at least one run and one quantity, got {len(curves)} and {len(quantities)}")
    figure = Figure((4.0 * len(quantities) + 0.4, 3.3), layout="constrained")
    styles = dict(zip(curves, zip(itertools.cycle(COLORS), itertools.cycle(LINES), strict=False), strict=False))
    handles = {}
    for k, (ax, quantity) in enumerate(
        zip(figure.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True)
    ):
        shown = []
        for name, curve in curves.items():
            steps, values = _points(name, curve, quantity, first=k == 0)
            if values.size:
                color, line = styles[name]
                mark = "o" if values.size == 1 else ""
                handles[name] = ax.plot(steps, values, line, marker=mark, color=color, linewidth=1.3)[0]
                shown.append(values)
        if not shown:
            raise ValueError(f"no run has a value of {quantity!r}; the runs are {list(curves)}")
        low, high = min(v.min() for v in shown), max(v.max() for v in shown)
        ax.set(title=plain(quantity.replace("_", " ")), xlabel="training step")
        if low > 0 and high > 10 * low:
            ax.set_yscale("log")
        ax.grid(axis="y", which="both")
    ordered = [name for name in curves if name in handles]
    figure.legend(
        [handles[name] for name in ordered],
        [plain(name) for name in ordered],
        loc="outside lower center",
        ncols=min(len(ordered), 4),
    )
    return figure


def _points(name: str, curve: Curve, quantity: str, first: bool) -> tuple[Array, Array]:
    """Steps and finite values of one quantity of one run."""
    if isinstance(curve, tuple):
        steps, values = (array_of(u) for u in curve)
        if steps.ndim != 1 or steps.shape != values.shape:
            raise ValueError(f"expected as many steps as values for {name!r}, got {steps.shape} and {values.shape}")
        if not first:
            return np.empty(0), np.empty(0)
    else:
        records = [record for record in curve if record.get(quantity) is not None]
        if not all("step" in record for record in records):
            raise ValueError(f"a record of {name!r} has no 'step'; expected the records of metrics.jsonl")
        steps, values = (array_of([record[key] for record in records]) for key in ("step", quantity))
    finite = np.isfinite(values)
    return steps[finite], values[finite]
