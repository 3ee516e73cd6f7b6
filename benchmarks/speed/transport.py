"""How fast minibatches are paired: `ExactOT` against POT's exact solver, on the same batches in turns.

Run it alone on the machine:  python benchmarks/speed/transport.py --out benchmarks/results/transport

Both start from the two batches and end with the permutation: the cost matrix is counted for both. POT (`ot.emd`, the
network simplex) gets it in float64 from `ot.dist`. Medians over the turns; the batches differ from turn to turn.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import ot
import torch

from physflow.generative import ExactOT
from physflow.machine import commit, machine, versions
from physflow.results import Quantity, Results, Table

BATCHES, DIMENSIONS = (256, 1024), (2, 16, 192, 2048)


def seconds(function, *arguments):
    """The time of a call and its result."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def emd(x0, x1):
    """POT's plan as the order of the source items."""
    weights = np.full(len(x0), 1 / len(x0))
    plan = ot.emd(weights, weights, ot.dist(x0.double().numpy(), x1.double().numpy()), numItermax=10_000_000)
    return plan.argmax(0)


def row(n, d, turns):
    """Both on `turns` batches of n items with d elements."""
    ours, theirs, excess = [], [], []
    for turn in range(turns):
        generator = torch.Generator().manual_seed(turn)
        x0 = torch.randn(n, d, generator=generator)
        x1 = 1 + 0.5 * torch.randn(n, d, generator=generator)
        taken, (paired, _) = seconds(ExactOT(), x0, x1)
        ours.append(taken)
        taken, order = seconds(emd, x0, x1)
        theirs.append(taken)
        cost, least = ((x - x1).double().square().sum() for x in (paired, x0[torch.from_numpy(order)]))
        excess.append(float(cost / least - 1))
    return {
        "batch": n,
        "elements": d,
        "ExactOT_ms": 1e3 * statistics.median(ours),
        "emd_ms": 1e3 * statistics.median(theirs),
        "ratio": statistics.median(theirs) / statistics.median(ours),
        "largest_excess_cost": max(excess),
    }


def main():
    """Time all sizes and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--turns", type=int, default=7, help="how many batches of each size are timed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    row(64, 2, 1)
    rows = [row(n, d, options.turns) for n in BATCHES for d in DIMENSIONS]
    columns = (
        Quantity("ExactOT_ms", "ExactOT, ms"),
        Quantity("emd_ms", "POT, ms"),
        Quantity("ratio", "faster by"),
        Quantity("largest_excess_cost", "largest excess cost"),
    )
    results = Results(
        title="How fast minibatches are paired",
        text=__doc__.split("\n\n", 2)[2].strip(),
        command=f"python benchmarks/speed/transport.py --out DIR --turns {options.turns}",
        settings={"turns": options.turns},
        seeds=(0,),
        rows=tuple(rows),
        tables=(Table("Exact transport between normal batches", ("batch", "elements"), columns),),
        pictures=(),
        hardware={**machine(), "threads": 1},
        versions={**versions(), "pot": ot.__version__},
        commit=commit(),
    )
    results.write(options.out)
    print(results.markdown())


if __name__ == "__main__":
    main()
