"""Variational rectified flow matching on two rings of Gaussians, beside rectified flow, consistency FM and ReFlow.

    python benchmarks/rectified_2d.py --out benchmarks/results/rectified-2d     # about 100 minutes on one core
    python benchmarks/rectified_2d.py --quick --out rectified-2d                # about a minute
    python benchmarks/rectified_2d.py --posteriors all --out DIR                # about 7 hours; goes on in DIR

Six Gaussians on a circle of radius 1/3 are carried to six on a circle of radius 1, paired at random, so that straight
lines between them cross everywhere. Settings of the reference: perceptrons of width 64, a posterior of three layers of
128, eight latent components, batches of 1,000 fresh pairs, 20,000 steps, learning rate 1e-3, the weight 0.1 of the
divergence, here a sum over the components against a mean squared error over the two coordinates. Choices of this
package: the width of the modes, 0.05, a residual perceptron that z and t modulate, a learning rate that falls to zero,
averaged weights. Half of the steps of consistency flow matching are of its first stage; a round of ReFlow has half of
the steps too, on 100,000 pairs. V-RFM is trained with posteriors over (x0, x1, xt), as in the reference, and over x1
alone; `--posteriors all` trains with all 15 choices among x0, x1, xt and t.

How to read the numbers: the log-density of samples under the target has the data's own value as its mark; a higher one
comes from samples that are too narrow. The Parzen window asks the other way round, how likely data are given the
samples, and sees modes that are missing, as does the largest deviation of a mode's share from 1/6.

Reference: P. Guo, A. Schwing, "Variational rectified flow matching", ICML 2025, section 4.2, appendix C.1.
"""

from __future__ import annotations

from harness import Benchmark, options_of
from rectified import EVERY, POSTERIORS, QUICK, Extent, Problem, compare, settings_of
from rectified_figures import draw_figures, tables

from physflow.data.toys import ring

PROBLEM = Problem(ring(radius=1 / 3), ring(), latent=8, beta=0.1, posteriors=(("x0", "x1", "xt"), ("x1",)))
TEXT = """
Flows from six Gaussians on a small ring to six on a large one. Rectified flow learns one velocity at every point, the
mean over all straight lines through it, and its paths must turn where lines cross; V-RFM is told by z which line is
meant, by a posterior that reads some of x0, x1, xt and t while it is trained, and draws z from N(0, I) once for each
sample. The exact marginal velocity is what rectified flow would learn without error: what it misses at few evaluations
is the fault of Euler's method.

The data's own value is the mark of both likelihoods. Mean log-density of the samples above it says that they are too
narrow, not that they are better; Parzen-window likelihood cannot be above it but by chance, and falls where the samples
miss a part of the data: read both. The median of the first is not moved by few samples far from all modes. The largest
deviation of a mode's share from 1/6 says whether all modes are hit equally often; that of the data is chance alone.
"""


def main() -> None:
    """Train all, draw, score, and write the results."""
    options = options_of(__doc__, 3, posteriors=POSTERIORS)
    extent = QUICK if options.quick else Extent()
    bench = Benchmark(options.out, settings_of(PROBLEM, extent))
    chosen = EVERY if options.posteriors == "all" else PROBLEM.posteriors
    draw_figures(bench, PROBLEM, compare(bench, PROBLEM, extent, options.seeds, chosen))
    bench.finish("Rectified flows between two rings of Gaussians", TEXT, options.seeds, tables(bench.rows))


if __name__ == "__main__":
    main()
