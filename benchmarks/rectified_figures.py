"""How the comparisons of rectified flows are scored and shown: rows, tables, figures, and how to read them."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from harness import Benchmark
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rectified import (
    ADAPTIVE,
    DATA,
    EVALUATIONS,
    EXACT,
    HELD_OUT,
    OWN,
    RECTIFIED,
    Extent,
    Problem,
    Trained,
    Trainings,
    exact_flow,
    methods,
    plain_name,
    starts,
    variational,
)
from scipy.stats import wasserstein_distance
from torch import Tensor

from physflow.generative import Counted, Euler, Solver, Velocity, integrate, item_generator
from physflow.metrics import parzen_log_density
from physflow.report import plot_losses, plot_trajectories
from physflow.report.drawing import COLORS, LINES, styled
from physflow.results import Quantity, Table, number

__all__ = ["compare", "draw_figures", "likelihoods", "losses", "paths", "solved", "straight_lines", "tables", "text_of"]


TRUE = Quantity("log_density", "mean log-density of the samples")
MEDIAN = Quantity("median_log_density", "median log-density of the samples")
PARZEN = Quantity("parzen_log_density", "Parzen-window log-likelihood of the data")
SHARES = Quantity("largest_error_of_a_share", "largest relative error of a mode's share", "%")
DISTANCE = Quantity("wasserstein_along_axes", "Wasserstein distance along axes")
MISSING = Quantity("missing", "missing")
COST = ("measured_evaluations", "sampling_seconds")
SCORES = (
    *("log_density", "standard_error", "median_log_density", "parzen_log_density"),
    *("largest_error_of_a_share", "wasserstein_along_axes"),
)
"""The names of the scores in the rows."""
SEGMENTED = (
    "Consistency FM is made for as many Euler steps as it has segments, two; more steps, or adaptive ones, may make "
    "its samples worse."
)
READING = f"""
Rectified flow learns one velocity at every point, the mean over all straight lines through it, so that its paths turn
where lines cross. V-RFM is told by z which line is meant, by a posterior that reads some of x0, x1, xt and t while it
is trained, and draws z from N(0, I) once for each sample. The exact marginal velocity is what rectified flow would
learn without error: what it misses at few evaluations is the fault of Euler's method. {SEGMENTED}

There are two likelihoods. The data's own value is the mark of both, and both must be read:

* mean log-density of the samples, under the target. Above the mark, samples are too narrow, not better. Its median is
  not moved by a few samples far from all modes.
* Parzen-window log-likelihood of the data, under a kernel estimate of the samples with one bandwidth for all methods.
  It may be a little above the mark: samples narrower by about the bandwidth. Far below: a part of the data is missed.

The largest relative error of a mode's share, the maximum of |share / weight - 1|, says whether all modes are hit as
often as they should be; that of the data is chance alone. Samples that are not finite are left out of the scores and
counted as missing.

Settings of the reference: perceptrons of width 64, a posterior of three layers of 128, batches of 1,000 fresh pairs,
20,000 steps, learning rate 1e-3. Choices of this package:

* a residual perceptron of three blocks, which z and t modulate;
* Adam, a learning rate that falls to zero, gradients of norm 1 at most, averaged weights;
* half of the steps of consistency flow matching are of its first stage;
* a round of ReFlow adds half as many steps, on 100,000 pairs that 50 steps of Heun's method make.
"""
MARKERS = "osD^vPX<>"
TICKS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


def text_of(description: str) -> str:
    """The text of the results, from a script's description: what is done, how to read it, the reference."""
    _, _, body = description.split("\n\n", 2)
    done, _, reference = body.rpartition("\n\n")
    return f"{done}\n{READING}\n{reference}"


def compare(
    bench: Benchmark, problem: Problem, extent: Extent, seeds: int, posteriors: Sequence[Sequence[str]]
) -> Trainings:
    """All rows of a benchmark: those of the data, of the exact velocity, and of every method and seed.

    Returns:
        The trainings of the first seed.
    """
    h = bench.settings["parzen_bandwidth"]
    for seed in range(seeds):
        x = problem.target.sample(extent.samples, item_generator(OWN, seed))
        bench.add(functools.partial(_scores, problem, extent, h, x, seed), part=DATA, method=DATA, seed=seed)
    exact = exact_flow(problem).velocity
    # Its error is that of the samples alone, which every row states: one seed is enough.
    bench.add(lambda: _rows(problem, extent, h, exact, 0, 0), part="samples", method=EXACT, seed=0)
    trainings = [Trainings(problem, extent, bench, seed) for seed in range(seeds)]
    for method in methods(posteriors):
        for seed, training in enumerate(trainings):
            flow = functools.partial(training.trained, method)
            bench.add(lambda f=flow: _cost(f()), part="training", method=method.name, seed=seed)
            bench.add(
                lambda f=flow, s=seed: _rows(problem, extent, h, f().velocity, f().latent, s),
                part="samples",
                method=method.name,
                seed=seed,
            )
    return trainings[0]


def _cost(flow: Trained) -> dict[str, Any]:
    sampling, posterior = flow.parameters
    _, errors = flow.error
    return {
        "steps": flow.steps,
        "seconds": flow.seconds,
        "parameters": sampling,
        "posterior_parameters": posterior,
        "final_loss": flow.records[-1]["loss"],
        "velocity_error": errors[-1] if errors else None,
        "rate": flow.records[-1].get("validation_rate"),
    }


@torch.no_grad()
def solved(
    velocity: Velocity, x0: Tensor, solver: Solver, steps: int, z: Tensor | None, trajectory: bool = False
) -> Tensor:
    """The ends, or all states, of the paths that stay finite, in their order.

    One path that does not stops the solver for all: the halves are then solved apart, down to single paths.
    """
    try:
        return integrate(velocity, x0, solver, steps, z, trajectory=trajectory)
    except FloatingPointError:
        if len(x0) == 1:
            return x0.new_empty((steps + 1, 0, *x0.shape[1:]) if trajectory else (0, *x0.shape[1:]))
        n = (len(x0) + 1) // 2
        halves = zip(x0.split(n), (None, None) if z is None else z.split(n), strict=True)
        return torch.cat(
            [solved(velocity, start, solver, steps, own, trajectory) for start, own in halves], int(trajectory)
        )


def _rows(
    problem: Problem, extent: Extent, h: float, velocity: Velocity, latent: int, seed: int
) -> list[dict[str, Any]]:
    """The scores of samples at every number of evaluations."""
    x0, z = starts(problem, extent.samples, latent, seed)
    rows = []
    for evaluations in EVALUATIONS:
        counted, adaptive = Counted(velocity), evaluations == "adaptive"
        start = time.perf_counter()
        x = solved(counted, x0, ADAPTIVE if adaptive else Euler(), 1 if adaptive else int(evaluations), z)
        seconds = time.perf_counter() - start
        # Where a path was not finite, others were solved more than once.
        whole = len(x) == len(x0)
        cost = {"measured_evaluations": counted.calls, "sampling_seconds": seconds} if whole else dict.fromkeys(COST)
        missing = len(x0) - len(x)
        rows.append({"evaluations": evaluations, **cost, "missing": missing, **_scores(problem, extent, h, x, seed)})
    return rows


def _scores(problem: Problem, extent: Extent, h: float, x: Tensor, seed: int) -> dict[str, float | None]:
    """What samples score: both likelihoods, the shares of the modes, the distance along the axes; None without any."""
    if not len(x):
        return dict.fromkeys(SCORES)
    x, target = x.double(), problem.target
    data = target.sample(extent.samples, item_generator(HELD_OUT, seed))
    shares = torch.bincount(torch.cdist(x, target.modes).argmin(1), minlength=len(target.modes)) / len(x)
    distances = [wasserstein_distance(x[:, axis], data[:, axis]) for axis in range(target.dimension)]
    densities = target.log_density(x)
    values = (
        densities.mean(),
        densities.std(correction=0) / len(x) ** 0.5,
        densities.median(),
        parzen_log_density(data[: extent.parzen], x[: extent.parzen], h),
        (shares / target.weights - 1).abs().max(),
        np.mean(distances),
    )
    return {name: float(value) for name, value in zip(SCORES, values, strict=True)}


def tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Both likelihoods and the shares by evaluations, what the adaptive solver gives, and the cost."""
    own = [row for row in rows if row["part"] == DATA]
    where = {"part": "samples"}

    def beside(quantity: Quantity) -> str:
        return f"The data themselves: {quantity.cell([row[quantity.name] for row in own])}."

    def across(quantity: Quantity, unit: str = "", note: str = "") -> Table:
        title = f"{_title(quantity)}{unit}, by evaluations"
        return Table(title, ("method",), (quantity,), "evaluations", where, f"{beside(quantity)} {note}".strip())

    error = number(statistics.fmean(row["standard_error"] for row in own))
    lost = any(row["missing"] for row in rows if row["part"] == "samples")
    by_evaluations = [
        across(TRUE, ", in nats", f"One seed of them has a standard error of {error}. {SEGMENTED}"),
        across(MEDIAN, ", in nats", f"A few samples far from all modes do not move it. {SEGMENTED}"),
        across(PARZEN, ", in nats", SEGMENTED),
        across(SHARES, note="" if lost else "No sample is missing."),
    ]
    if lost:
        title = "Samples that did not stay finite, left out of all scores, by evaluations"
        by_evaluations.append(Table(title, ("method",), (MISSING,), "evaluations", where))
    return [
        *by_evaluations,
        Table(
            f"Adaptive steps ({ADAPTIVE.method}, tolerance {ADAPTIVE.rtol:g})",
            ("method",),
            (Quantity("measured_evaluations", "evaluations"), TRUE, MEDIAN, PARZEN, SHARES, DISTANCE, MISSING),
            where={**where, "evaluations": "adaptive"},
            note=f"All samples share their steps. {beside(DISTANCE)[:-1]} from other data. {SEGMENTED}",
        ),
        Table(
            "Training",
            ("method",),
            (
                Quantity("steps", "steps"),
                Quantity("seconds", "time", "s"),
                Quantity("parameters", "parameters to sample"),
                Quantity("posterior_parameters", "parameters of the posterior"),
                Quantity("final_loss", "final loss"),
                Quantity("velocity_error", "error"),
                Quantity("rate", "rate in nats"),
            ),
            where={"part": "training"},
            note="Steps and time include the flows that a method begins from, the time of ReFlow also its pairs; a "
            "time is not known where a run was killed. The loss is the mean over the last steps and another quantity "
            "for each kind of method. The error is the mean squared error of the velocity on held-out independent "
            "pairs, for V-RFM given z of the posterior, which costs the rate; consistency FM and ReFlow learn other "
            "velocities and have none.",
        ),
    ]


def _title(quantity: Quantity) -> str:
    return quantity.label[0].upper() + quantity.label[1:]


@styled
def likelihoods(rows: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> Figure:
    """Both likelihoods by evaluations, less those of the data: mean and standard deviation over the seeds."""
    figure = Figure((9.6, 4.6), layout="constrained")
    for ax, quantity in zip(figure.subplots(1, 2), (TRUE, PARZEN), strict=True):
        own = statistics.fmean(row[quantity.name] for row in rows if row["part"] == DATA)
        reached = [0.0]
        for k, method in enumerate(shown):
            means, deviations = _across_seeds(rows, method, quantity)
            differences = [mean - own for mean in means]
            reached += filter(math.isfinite, differences)
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
            title=quantity.label,
            xlabel="evaluations of the velocity",
            ylabel=f"less the data's own, {number(own)} nats",
        )
        ax.set_xticks(range(len(EVALUATIONS)), [str(evaluations) for evaluations in EVALUATIONS])
        ax.grid(axis="y")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _across_seeds(
    rows: Sequence[Mapping[str, Any]], method: str, quantity: Quantity
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of a quantity over the seeds, at every number of evaluations; NaN without any."""
    values: dict[Any, list[float]] = {evaluations: [] for evaluations in EVALUATIONS}
    for row in rows:
        if row["part"] == "samples" and row["method"] == method and row[quantity.name] is not None:
            values[row["evaluations"]].append(row[quantity.name])
    return (
        [statistics.fmean(found) if found else math.nan for found in values.values()],
        [statistics.stdev(found) if len(found) > 1 else 0.0 for found in values.values()],
    )


def paths(problem: Problem, flow: Trained, n: int, steps: int) -> Tensor:
    """Trajectories by Euler's method, one z for each, shape (steps + 1, n, d), n less those that are not finite."""
    x0, z = starts(problem, n, flow.latent, 0)
    return solved(flow.velocity, x0, Euler(), steps, z, trajectory=True)


def straight_lines(problem: Problem, n: int, steps: int) -> Tensor:
    """The straight lines of random pairs, what the velocities are learnt from, as `paths`."""
    x0, _ = starts(problem, n, 0, 0)
    x1 = problem.target.sample(n, item_generator(2, 0), dtype=x0.dtype)
    t = torch.linspace(0, 1, steps + 1)[:, None, None]
    return (1 - t) * x0 + t * x1


@styled
def losses(problem: Problem, trainings: Trainings) -> Figure:
    """The error of the velocity while training, of rectified flow and V-RFM, and the least without z."""
    known = (RECTIFIED, *map(variational, problem.posteriors))
    curves: dict[str, Any] = {method.name: trainings.trained(method).error for method in known}
    floor, _ = exact_flow(problem).minimum("velocity", 20_000, item_generator(1, 0))
    steps = curves[RECTIFIED.name][0]
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
        likelihoods(bench.rows, [*(method.name for method in shown), EXACT]),
        f"{_title(TRUE)} and {PARZEN.label} by evaluations, less those of the data themselves: mean and standard "
        "deviation over the seeds. Zero is the mark; on the left, samples above it are too narrow.",
    )
    caption = "Mean squared error of the velocity on held-out pairs while training; V-RFM is told z by its posterior."
    bench.picture("losses.png", losses(problem, trainings), caption)

    plane = problem.target.dimension == 2
    n, target = (90, problem.target.log_density) if plane else (60, None)
    pictures = {"straight lines of pairs": straight_lines(problem, n, 50)}
    pictures |= {method.name: paths(problem, trainings.trained(method), n, 50) for method in shown}
    for name, trajectory in pictures.items():
        figure = plot_trajectories(trajectory, target, name)
        bench.picture(f"paths-{plain_name(name)}.png", figure, f"Paths from x0 to x1 by 50 steps of Euler: {name}.")
