"""The tables of the comparisons of rectified flows, and the figures of their rows, trainings and paths."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from harness import Benchmark
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rectified import (
    DATA,
    EVALUATIONS,
    EXACT,
    RECTIFIED,
    Problem,
    Trained,
    Trainings,
    exact_flow,
    methods,
    name_of,
    plain_name,
    starts,
)
from torch import Tensor

from physflow.generative import Euler, integrate, item_generator
from physflow.report import plot_losses, plot_trajectories
from physflow.report.drawing import COLORS, LINES, styled
from physflow.results import Quantity, Table, number

__all__ = ["draw_figures", "likelihoods", "losses", "paths", "straight_lines", "tables"]


TRUE = Quantity("log_density", "true log-density")
MEDIAN = Quantity("median_log_density", "its median")
PARZEN = Quantity("parzen_log_density", "Parzen-window log-likelihood")
SHARES = Quantity("largest_deviation_of_a_share", "largest deviation of a share", "%")
DISTANCE = Quantity("wasserstein_along_axes", "Wasserstein distance along axes")
MARKERS = "osD^vPX<>"
TICKS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


def tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Both likelihoods and the shares by evaluations, what the adaptive solver gives, and the cost."""
    own = [row for row in rows if row["part"] == DATA]

    def beside(quantity: Quantity) -> str:
        return f"The data themselves: {quantity.cell([row[quantity.name] for row in own])}."

    def across(title: str, quantity: Quantity, note: str = "") -> Table:
        where = {"part": "samples"}
        return Table(title, ("method",), (quantity,), "evaluations", where, f"{beside(quantity)} {note}".strip())

    error = number(statistics.fmean(row["standard_error"] for row in own))
    return [
        across(
            "Mean log-density of samples under the target, in nats, by evaluations",
            TRUE,
            f"One seed of them has a standard error of {error}.",
        ),
        across("The median of the same, in nats: a few samples far from all modes do not move it", MEDIAN),
        across(
            "Parzen window: mean log-density of data under the samples' kernel estimate, in nats, by evaluations",
            PARZEN,
        ),
        across("Largest deviation of a mode's share from its weight, by evaluations", SHARES),
        Table(
            "Adaptive steps (dopri5, tolerance 1e-5)",
            ("method",),
            (Quantity("measured_evaluations", "evaluations"), TRUE, MEDIAN, PARZEN, SHARES, DISTANCE),
            where={"part": "samples", "evaluations": "adaptive"},
            note=f"All samples share their steps. {beside(DISTANCE)[:-1]} from other data.",
        ),
        Table(
            "Training",
            ("method",),
            (
                Quantity("steps", "steps"),
                Quantity("seconds", "time", "s"),
                Quantity("parameters", "parameters"),
                Quantity("posterior_parameters", "of the posterior"),
                Quantity("final_loss", "final loss"),
                Quantity("velocity_error", "error"),
                Quantity("rate", "rate in nats"),
            ),
            where={"part": "training"},
            note="Steps and time include the flows that a method begins from, those of ReFlow also its pairs. The loss "
            "is the mean over the last steps and another quantity for each kind of method; the error is that of the "
            "velocity on held-out pairs, for V-RFM given z of the posterior, which costs the rate.",
        ),
    ]


@styled
def likelihoods(rows: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> Figure:
    """Both likelihoods by evaluations, less those of the data: mean and standard deviation over the seeds."""
    figure = Figure((9.6, 4.6), layout="constrained")
    titles = {TRUE: "samples under the target", PARZEN: "data under the samples' Parzen window"}
    for ax, (quantity, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        own = statistics.fmean(row[quantity.name] for row in rows if row["part"] == DATA)
        reached = [0.0]
        for k, method in enumerate(shown):
            means, deviations = _across_seeds(rows, method, quantity)
            differences = [mean - own for mean in means]
            reached += differences
            # Side by side, so that bars of methods that agree do not hide each other.
            places = [place + 0.05 * (k - (len(shown) - 1) / 2) for place in range(len(EVALUATIONS))]
            color, dashes = ("#222222", ":") if method == EXACT else (COLORS[k % len(COLORS)], LINES[k // len(COLORS)])
            style: Any = {"color": color, "linestyle": dashes, "marker": MARKERS[k % len(MARKERS)], "markersize": 4}
            ax.errorbar(places, differences, deviations, label=method, linewidth=1.1, capsize=2, **style)
        ax.axhline(0, color="#222222", linewidth=1.0, zorder=1)
        ax.set_yscale("symlog", linthresh=TICKS[0], linscale=0.7)
        low, high = 1.6 * min(-TICKS[0], *reached), max(TICKS[0], 1.6 * max(reached))
        ax.set_ylim(low, high)
        ticks = sorted({0.0, *TICKS, *(-tick for tick in TICKS)})
        ax.set_yticks([tick for tick in ticks if low <= tick <= high], minor=False)
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set(
            title=title,
            xlabel="evaluations of the velocity",
            ylabel=f"log-likelihood less the data's {number(own)}, nats",
        )
        ax.set_xticks(range(len(EVALUATIONS)), [str(evaluations) for evaluations in EVALUATIONS])
        ax.grid(axis="y")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _across_seeds(
    rows: Sequence[Mapping[str, Any]], method: str, quantity: Quantity
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of a quantity over the seeds, at every number of evaluations."""
    values: dict[Any, list[float]] = {evaluations: [] for evaluations in EVALUATIONS}
    for row in rows:
        if row["part"] == "samples" and row["method"] == method:
            values[row["evaluations"]].append(row[quantity.name])
    return (
        [statistics.fmean(found) for found in values.values()],
        [statistics.stdev(found) if len(found) > 1 else 0.0 for found in values.values()],
    )


def paths(problem: Problem, flow: Trained, n: int, steps: int) -> Tensor:
    """Trajectories by Euler's method, one z for each, shape (steps + 1, n, d)."""
    x0, z = starts(problem, n, flow.latent, 0)
    with torch.no_grad():
        return integrate(flow.velocity, x0, Euler(), steps, z, trajectory=True)


def straight_lines(problem: Problem, n: int, steps: int) -> Tensor:
    """The straight lines of random pairs, what the velocities are learnt from, as `paths`."""
    x0, _ = starts(problem, n, 0, 0)
    x1 = problem.target.sample(n, item_generator(2, 0), dtype=x0.dtype)
    t = torch.linspace(0, 1, steps + 1)[:, None, None]
    return (1 - t) * x0 + t * x1


@styled
def losses(problem: Problem, trainings: Trainings) -> Figure:
    """The error of the velocity while training, of rectified flow and V-RFM, and the least without z."""
    named = (RECTIFIED, *map(name_of, problem.posteriors))
    curves: dict[str, Any] = {name: trainings.trained(name).error for name in named}
    floor, _ = exact_flow(problem).minimum("velocity", 20_000, item_generator(1, 0))
    steps = curves[RECTIFIED][0]
    curves["least without z"] = (steps, [float(floor)] * len(steps))
    figure = plot_losses(curves)
    figure.set_size_inches(6.8, 3.8)
    figure.axes[0].set_title("error of the velocity on held-out pairs", loc="left")
    figure.axes[0].set(ylim=(0, None), yscale="linear")
    return figure


def draw_figures(bench: Benchmark, problem: Problem, trainings: Trainings) -> None:
    """The likelihoods, the errors while training, and the paths of every kind of flow, those of the first seed."""
    shown = methods(problem.posteriors)
    bench.picture(
        "likelihoods.png",
        likelihoods(bench.rows, [*shown, EXACT]),
        "Log-likelihoods by evaluations, less those of the data: mean and standard deviation over the seeds. Zero is "
        "the mark; on the left, samples above it are too narrow.",
    )
    caption = "Mean squared error of the velocity on held-out pairs while training; V-RFM is told z by its posterior."
    bench.picture("losses.png", losses(problem, trainings), caption)

    plane = problem.target.dimension == 2
    n, target = (90, problem.target.log_density) if plane else (60, None)
    pictures = {"straight lines of pairs": straight_lines(problem, n, 50)}
    pictures |= {name: paths(problem, trainings.trained(name), n, 50) for name in shown}
    for name, trajectory in pictures.items():
        figure = plot_trajectories(trajectory, target, name)
        bench.picture(f"paths-{plain_name(name)}.png", figure, f"Paths from x0 to x1 by 50 steps of Euler: {name}.")
