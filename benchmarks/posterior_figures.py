"""The tables and figures of the posterior benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from posterior_problems import Problem, fields_of
from scipy.stats import binom
from torch import Tensor

from physflow.report.drawing import COLORS, colorbar, scale_of, show, styled
from physflow.results import Quantity, Table

__all__ = ["calibration_figure", "maps", "tables"]

SHOWN = ("chains", "solver, law", "solver, model", "joint, MMPS", "joint, DPS, widened", "prior")
SCORES = (
    ("mean", "error of the mean", "%"),
    ("std", "error of the std", "%"),
    ("spread", "spread", ""),
    ("mmd", "squared MMD", ""),
    ("sliced_w2", "sliced W2", ""),
)


def tables(sets: int) -> list[Table]:
    """How the rows are summed up.

    Arguments:
        sets: How many problems the ranks are of.
    """
    over = "± is the standard deviation over the problems, with one trained flow."
    cost = (
        Quantity("solves", "solves"),
        Quantity("seconds", "time", "s"),
        Quantity("least_sample_size", "least effective sample size"),
        Quantity("r_hat", "largest R-hat"),
        Quantity("diverged", "diverged"),
    )
    chains = (
        Quantity("r_hat", "largest R-hat"),
        Quantity("least_sample_size", "least effective sample size"),
        Quantity("draws", "draws"),
        Quantity("acceptance", "acceptance"),
        Quantity("solves", "solves"),
        Quantity("seconds", "time", "s"),
        Quantity("solves_per_second", "solves per second"),
    )
    covered = tuple(
        Quantity(f"covered_{level}_{field}", f"{label} in {share}", "%")
        for field, label in (("log_k", "log K"), ("p", "p"))
        for level, share in (("0.5", "50 %"), ("0.9", "90 %"))
    )
    methods = {"part": "methods"}
    found = [Table("The Markov chains", ("problem",), chains, where={"part": "chains"})]
    for short, label in (("log_k", "log K"), ("p", "p")):
        quantities = tuple(Quantity(f"{name}_{short}", text, unit) for name, text, unit in SCORES)
        found.append(Table(f"{label} beside the chains", ("method",), quantities, where=methods, note=over))
    found.append(Table("What it costs", ("method",), cost, where=methods, note=over))
    found.append(
        Table("Truths within the central part of the draws", ("method",), covered, where={"part": "calibration"})
    )
    p = (Quantity("p_value", "p-value"), Quantity("passed", "above 0.01"))
    found.append(Table("Ranks of the true coefficients", ("coefficient",), p, where={"part": "ranks", "sets": sets}))
    return found


@styled
def _maps(work: Path, problem: Problem, chains: Tensor) -> Figure:
    sets = {"chains": chains}
    for name in SHOWN[1:]:
        path = work / f"draws-{problem.number}-{name.replace(', ', '-')}.pt"
        if path.exists():
            sets[name] = torch.load(path)
    truth = fields_of(problem.pairs(problem.truth[None]))["log K"][0].numpy()
    columns = {"truth": (truth, np.full_like(truth, np.nan))}
    for name, pairs in sets.items():
        u = fields_of(pairs)["log K"]
        columns[name] = (u.mean(0).numpy(), u.std(0).numpy())
    figure = Figure((1.75 * len(columns) + 0.6, 4.1), layout="constrained")
    panels = figure.subplots(2, len(columns))
    places = problem.observations.operator.mask.nonzero().numpy()  # type: ignore[attr-defined]
    for row, label in enumerate(("mean of log K", "standard deviation")):
        every = [values[row] for values in columns.values() if np.isfinite(values[row]).all()]
        scale, colormap = scale_of(np.stack(every))
        for ax, (name, values) in zip(panels[row], columns.items(), strict=True):
            if not np.isfinite(values[row]).all():
                ax.axis("off")
                continue
            # x to the right and y upwards.
            show(ax, values[row].T[::-1], scale, colormap)
            if row == 0:
                ax.set_title(name, fontsize=9.5)
            if name in ("truth", "chains"):
                ax.plot(
                    places[:, 0],
                    problem.resolution - 1 - places[:, 1],
                    "o",
                    markersize=2.2,
                    color="white",
                    markeredgecolor="black",
                    mew=0.5,
                )
        colorbar(figure, list(panels[row]), scale, colormap, label, every, "right")
    return figure


def maps(work: Path, problem: Problem, chains: Tensor) -> tuple[Figure, str]:
    """Mean and standard deviation of log K by the methods, beside the truth and the chains, and the caption.

    Arguments:
        work: The folder of the draws.
        problem: The problem.
        chains: Draws (K, p) of the chains.
    """
    text = "The first problem: mean (above) and standard deviation of log K given 64 pressures (dots), by some methods."
    return _maps(work, problem, chains), text.replace("64", str(problem.sensors))


@styled
def _calibration(ranks: Tensor, draws: int, shown: int = 16) -> Figure:
    figure = Figure((8.6, 4.6), layout="constrained")
    panels = figure.subplots(4, 4, sharex=True, sharey=True).ravel()
    sets, bins = len(ranks), 5 if len(ranks) < 100 else 10
    low, high = binom.ppf((0.005, 0.995), sets, 1 / bins)
    for ax in panels[ranks.shape[1] :]:
        ax.axis("off")
    for k, ax in enumerate(panels[: min(shown, ranks.shape[1])]):
        counts, edges = np.histogram((ranks[:, k].numpy() + 0.5) / (draws + 1), bins, (0, 1))
        ax.bar(edges[:-1], counts, 1 / bins, align="edge", color=COLORS[0], alpha=0.5, edgecolor="white")
        ax.axhspan(low, high, color=COLORS[4], alpha=0.18, linewidth=0)
        ax.set_title(f"coefficient {k + 1}", fontsize=8.5, fontweight="normal", pad=3)
        ax.set(xlim=(0, 1), xticks=(0, 0.5, 1))
    figure.supxlabel("rank of the truth among the draws", fontsize=9.5)
    figure.supylabel("problems", fontsize=9.5)
    return figure


def calibration_figure(ranks: Tensor, draws: int) -> tuple[Figure, str]:
    """Histograms of the ranks of the leading coefficients, and the caption.

    Arguments:
        ranks: The ranks, shape (sets, modes).
        draws: The draws among which they are ranks.
    """
    text = (
        "Solver, law: ranks of the true coefficients of the law among draws of their posteriors; a bar of an honest "
        "one lies in the grey band in 99 of 100 cases."
    )
    return _calibration(ranks, draws), text
