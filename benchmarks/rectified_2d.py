"""Variational rectified flow matching on two rings of Gaussians, beside rectified flow, consistency FM and ReFlow.

    python benchmarks/rectified_2d.py --out benchmarks/results/rectified-2d     # about 100 minutes on one core
    python benchmarks/rectified_2d.py --quick --out rectified-2d                # about a minute
    python benchmarks/rectified_2d.py --posteriors all --out DIR                # all 15: about 7 hours; goes on in DIR

Six Gaussians on a circle of radius 1/3 are carried to six on a circle of radius 1, paired at random, so that straight
lines between them cross everywhere. Their standard deviation, 0.05, is a choice of this package. V-RFM has eight latent
components and the weight 0.1 of the divergence, as in the reference; the divergence is here a sum over the components,
against a mean squared error over the two coordinates. The figures have posteriors over (x0, x1, xt), as in the
reference, and over x1 alone, of all 15 choices among x0, x1, xt and t.

Reference: P. Guo, A. Schwing, "Variational rectified flow matching", ICML 2025, section 4.2, appendix C.1.
"""

from __future__ import annotations

from harness import Benchmark, options_of
from rectified import EVERY, POSTERIORS, QUICK, Extent, Problem, settings_of
from rectified_figures import compare, draw_figures, tables, text_of

from physflow.data.toys import ring

PROBLEM = Problem(ring(radius=1 / 3), ring(), latent=8, beta=0.1, posteriors=(("x0", "x1", "xt"), ("x1",)))


def main() -> None:
    """Train all, draw, score, and write the results."""
    options = options_of(__doc__, 3, posteriors=POSTERIORS)
    extent = QUICK if options.quick else Extent()
    bench = Benchmark(options.out, {"quick": options.quick, **settings_of(PROBLEM, extent)})
    chosen = EVERY if options.posteriors == "all" else PROBLEM.posteriors
    draw_figures(bench, PROBLEM, compare(bench, PROBLEM, extent, options.seeds, chosen))
    bench.finish("Rectified flows between two rings of Gaussians", text_of(__doc__), options.seeds, tables(bench.rows))


if __name__ == "__main__":
    main()
