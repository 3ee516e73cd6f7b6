"""Variational rectified flow matching on the line, beside rectified flow, consistency flow matching and ReFlow.

    python benchmarks/rectified_1d.py --out benchmarks/results/rectified-1d     # about 2 hours on one core
    python benchmarks/rectified_1d.py --quick --out rectified-1d                # about a minute
    python benchmarks/rectified_1d.py --posteriors all --out DIR                # about 6 hours; goes on in DIR

N(0, 1) is carried to two equal modes at -1 and 1 of standard deviation 0.1. Under random pairs two velocities meet
wherever a point may go to either mode. Settings of the reference: perceptrons of width 64, a posterior of three layers
of 128, four latent components, the weight 1.0 of the divergence, batches of 1,000 fresh pairs, 20,000 steps, learning
rate 1e-3. Choices of this package: the places and widths of the modes, a residual perceptron that z and t modulate, a
learning rate that falls to zero, averaged weights. Half of the steps of consistency flow matching are of its first
stage; a round of ReFlow has half of the steps too, on 100,000 pairs. V-RFM is trained with posteriors over (x0, x1, xt)
and over x0, x1 or xt alone; `--posteriors all` trains with all 15 choices among x0, x1, xt and t.

How to read the numbers: the log-density of samples under the target has the data's own value as its mark; a higher one
comes from samples that are too narrow. The Parzen window asks the other way round, how likely data are given the
samples, and sees modes that are missing. The maps show the standard deviation of the velocity over time and place,
along trajectories: rectified flow has one velocity at a point, what is left is its change within a bin.

Reference: P. Guo, A. Schwing, "Variational rectified flow matching", ICML 2025, section 4.1, appendices C.1 to C.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from harness import Benchmark, options_of
from rectified import (
    EVERY,
    POSTERIORS,
    QUICK,
    RECTIFIED,
    Extent,
    Problem,
    Trainings,
    compare,
    name_of,
    settings_of,
)
from rectified_figures import draw_figures, paths, straight_lines, tables
from torch import Tensor

from physflow.data.toys import GaussianMixture, two_modes
from physflow.metrics import VelocitySpread, velocity_spread
from physflow.report import plot_velocity_spread

NORMAL = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
PROBLEM = Problem(NORMAL, two_modes(), latent=4, beta=1.0, posteriors=(("x0", "x1", "xt"), ("x0",), ("x1",), ("xt",)))
STEPS, BINS = 120, (40, 40)
TEXT = """
Flows from N(0, 1) to two modes on the line. Rectified flow learns one velocity at every point, the mean over all
straight lines through it; V-RFM is told by z which of them is meant, by a posterior that reads some of x0, x1, xt and t
while it is trained, and draws z from N(0, I) once for each sample. The exact marginal velocity is what rectified flow
would learn without error: what it misses at few evaluations is the fault of Euler's method.

The data's own value is the mark of both likelihoods. Mean log-density of the samples above it says that they are too
narrow, not that they are better; Parzen-window likelihood cannot be above it but by chance, and falls where the samples
miss a part of the data: read both. The median of the first is not moved by few samples far from both modes. The maps of
the velocity's spread show what a posterior can tell: one that reads xt alone tells nothing that the velocity does not
know, and leaves the map of rectified flow.
"""


def spread(trajectory: Tensor) -> VelocitySpread:
    """The spread of the velocity along Euler's trajectories: their differences are the velocities."""
    x, velocities = trajectory[:-1], STEPS * trajectory.diff(dim=0)
    times = (torch.arange(STEPS, dtype=torch.float64) / STEPS)[:, None].expand(x.shape[:2])
    return velocity_spread(x.flatten(0, 1), velocities.flatten(0, 1), times.flatten(), BINS, x_range=(-2.5, 2.5))


def spread_maps(bench: Benchmark, trainings: Trainings, posteriors: Sequence[Sequence[str]], n: int) -> None:
    """The maps of the straight lines between pairs and of the flows, four a picture in one scale."""
    truth = spread(straight_lines(PROBLEM, n, STEPS))
    names = [RECTIFIED, *map(name_of, posteriors)]
    for k in range(0, len(names), 3):
        maps = {name: spread(paths(PROBLEM, trainings.trained(name), n, STEPS)) for name in names[k : k + 3]}
        figure = plot_velocity_spread({"straight lines of pairs": truth, **maps})
        caption = f"Standard deviation of the velocity at (x, t): straight lines of pairs, {', '.join(maps)}."
        bench.picture(f"spread-{k // 3 + 1}.png", figure, caption)


def main() -> None:
    """Train all, draw, score, and write the results."""
    options = options_of(__doc__, 3, posteriors=POSTERIORS)
    extent = QUICK if options.quick else Extent()
    bench = Benchmark(options.out, settings_of(PROBLEM, extent))
    chosen = EVERY if options.posteriors == "all" else PROBLEM.posteriors
    trainings = compare(bench, PROBLEM, extent, options.seeds, chosen)
    draw_figures(bench, PROBLEM, trainings)
    spread_maps(bench, trainings, chosen, 2 * extent.samples)
    bench.finish("Rectified flows to two modes on the line", TEXT, options.seeds, tables(bench.rows))


if __name__ == "__main__":
    main()
