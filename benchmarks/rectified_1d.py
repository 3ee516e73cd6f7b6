"""Variational rectified flow matching on the line, beside rectified flow, consistency flow matching and ReFlow.

    python benchmarks/rectified_1d.py --out benchmarks/results/rectified-1d     # about 2 hours on one core
    python benchmarks/rectified_1d.py --quick --out rectified-1d                # about a minute
    python benchmarks/rectified_1d.py --posteriors all --out DIR                # all 15: about 6 hours; goes on in DIR

N(0, 1) is carried to two equal modes at -1 and 1 of standard deviation 0.1, whose places and widths are a choice of
this package. Under random pairs two velocities meet wherever a point may go to either mode. V-RFM has four latent
components and the weight 1.0 of the divergence, as in the reference; the figures have posteriors over (x0, x1, xt)
and over x0, x1 or xt alone, of all 15 choices among x0, x1, xt and t.

The maps show the standard deviation of the velocity over time and place, along trajectories, and what a posterior can
tell: one that reads xt alone tells nothing that the velocity does not know, and leaves the map of rectified flow. That
has one velocity at a point; what its map shows is the change within a bin.

Reference: P. Guo, A. Schwing, "Variational rectified flow matching", ICML 2025, section 4.1, appendices C.1 to C.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from harness import Benchmark, options_of
from rectified import EVERY, POSTERIORS, QUICK, RECTIFIED, Extent, Problem, Trainings, settings_of, variational
from rectified_figures import compare, draw_figures, paths, straight_lines, tables, text_of
from torch import Tensor

from physflow.data.toys import GaussianMixture, two_modes
from physflow.metrics import VelocitySpread, velocity_spread
from physflow.report import plot_velocity_spread

NORMAL = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
PROBLEM = Problem(NORMAL, two_modes(), latent=4, beta=1.0, posteriors=(("x0", "x1", "xt"), ("x0",), ("x1",), ("xt",)))
STEPS, BINS = 120, (40, 40)


def spread(trajectory: Tensor) -> VelocitySpread:
    """The spread of the velocity along Euler's trajectories: their differences are the velocities."""
    x, velocities = trajectory[:-1], STEPS * trajectory.diff(dim=0)
    times = (torch.arange(STEPS, dtype=torch.float64) / STEPS)[:, None].expand(x.shape[:2])
    return velocity_spread(x.flatten(0, 1), velocities.flatten(0, 1), times.flatten(), BINS, x_range=(-2.5, 2.5))


def spread_maps(bench: Benchmark, trainings: Trainings, posteriors: Sequence[Sequence[str]], n: int) -> None:
    """The maps of the straight lines between pairs and of the flows, four a picture in one scale."""
    truth = spread(straight_lines(PROBLEM, n, STEPS))
    flows = [RECTIFIED, *map(variational, posteriors)]
    for k in range(0, len(flows), 3):
        maps = {flow.name: spread(paths(PROBLEM, trainings.trained(flow), n, STEPS)) for flow in flows[k : k + 3]}
        figure = plot_velocity_spread({"straight lines of pairs": truth, **maps})
        caption = f"Standard deviation of the velocity at (x, t): straight lines of pairs, {', '.join(maps)}."
        bench.picture(f"spread-{k // 3 + 1}.png", figure, caption)


def main() -> None:
    """Train all, draw, score, and write the results."""
    options = options_of(__doc__, 3, posteriors=POSTERIORS)
    extent = QUICK if options.quick else Extent()
    bench = Benchmark(options.out, {"quick": options.quick, **settings_of(PROBLEM, extent)})
    chosen = EVERY if options.posteriors == "all" else PROBLEM.posteriors
    trainings = compare(bench, PROBLEM, extent, options.seeds, chosen)
    draw_figures(bench, PROBLEM, trainings)
    spread_maps(bench, trainings, chosen, 2 * extent.samples)
    bench.finish("Rectified flows to two modes on the line", text_of(__doc__), options.seeds, tables(bench.rows))


if __name__ == "__main__":
    main()
