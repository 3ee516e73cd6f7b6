"""How fast Darcy pairs are made: the solver against direct ones, and the whole generator against the solver.

Run it alone on the machine:  python benchmarks/speed/darcy.py --out benchmarks/results/speed

One core unless said otherwise. All contestants of a grid are timed in turns, in one process, so that a slow minute of
the machine is everybody's; each row gives the median over the turns and the best. The fields are full exponential ones
(correlation length 0.1, standard deviation 1), between Neumann walls, with two wells.

* compiled, torch: `physflow.pde.solvers.solve`, relative residual 1e-8, from K to p.
* splu: scipy's SuperLU in symmetric mode, factorisation and solution; the assembly of the matrix is not counted.
* cholmod: CHOLMOD by scikit-sparse, if installed, simplicial, its best ordering and symbolic analysis
  done once; assembly not counted.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.sparse.linalg import splu
from tqdm import tqdm

from physflow.data import darcy
from physflow.data.circulant import CirculantEmbedding
from physflow.data.covariances import Exponential
from physflow.grid import Grid
from physflow.machine import commit, machine, versions
from physflow.pde import Darcy, compiled_solver, solvers
from physflow.results import Quantity, Results, Table

try:
    from sksparse import cholmod
except ImportError:
    cholmod = None

BATCH = {64: 512, 128: 128, 256: 32, 512: 16}
DIRECT = {64: 16, 128: 6, 256: 2, 512: 1}
"""Samples of a turn: of the iterative solvers, and of the direct ones."""


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def matrices(equation: Darcy, K: torch.Tensor) -> list[sparse.csc_matrix]:
    """The matrices of the samples, with one cell tied to zero: the same pressure but for its mean."""
    result = []
    for sample in K:
        a = equation.matrix(sample).tolil()
        a[0, 0] *= 2
        result.append(sparse.csc_matrix(a))
    return result


def solve_row(n: int, turns: int) -> dict:
    """All solvers on one grid: samples a second, medians and bests, iterations and errors."""
    grid = Grid((n, n))
    equation = Darcy(grid)
    K = torch.from_numpy(np.exp(CirculantEmbedding(grid, Exponential(0.1, 1.0)).draw(0, 0, BATCH[n])))
    f, few = equation.source_term, K[: DIRECT[n]]
    systems, b = matrices(equation, few), f.numpy().ravel()

    def direct() -> list[np.ndarray]:
        options = {"permc_spec": "MMD_AT_PLUS_A", "options": {"SymmetricMode": True}, "diag_pivot_thresh": 0.01}
        return [splu(a, **options).solve(b) for a in systems]

    contestants: dict[str, tuple[int, Callable[[], object]]] = {
        "compiled": (len(K), lambda: solvers.solve(K, f, grid.spacing)),
        "torch": (len(K), lambda: solvers.solve(K, f, grid.spacing, backend="torch")),
        "splu": (len(few), direct),
    }
    if cholmod is not None:
        factor = cholmod.analyze(systems[0], mode="simplicial", ordering_method="best")

        def by_cholmod() -> None:
            for a in systems:
                factor.cholesky_inplace(a)
                factor(b)

        contestants["cholmod"] = (len(few), by_cholmod)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in tqdm(range(turns + 1), desc=f"{n} x {n}", leave=False):
        for name, (count, function) in contestants.items():
            duration = seconds(function) / count
            if turn:  # The first turn warms up.
                times[name].append(duration)
    expected = torch.from_numpy(np.stack(direct()).reshape(-1, n, n))
    expected -= expected.mean((1, 2), keepdim=True)
    found, _, iterations = compiled_solver.solve(K, f, grid.spacing)
    error = (found[: len(few)] - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    row = {"n": n, "iterations": float(iterations.double().mean()), "error": float(error.max())}
    for name, values in times.items():
        row[name] = {"median": 1 / statistics.median(values), "best": 1 / min(values)}
        if name != "compiled":
            ratios = [other / own for own, other in zip(times["compiled"], values, strict=True)]
            row[name]["compiled_is_faster_by"] = statistics.median(ratios)
            row[name]["on_the_best_of_the_turns"] = min(values) / min(times["compiled"])
    return row


def exponent(turns: int, sizes: tuple[int, int]) -> float:
    """How fast the rate falls with the side of the grid, the two sizes timed in turns."""
    times: dict[int, list[float]] = {n: [] for n in sizes}
    problems = {}
    for n in sizes:
        grid = Grid((n, n))
        K = torch.from_numpy(CirculantEmbedding(grid, Exponential(0.1, 1.0)).draw(0, 0, BATCH[n])).double().exp()
        problems[n] = (K, Darcy(grid).source_term, grid.spacing)
    for turn in tqdm(range(2 * turns + 1), desc="exponent", leave=False):
        for n, problem in problems.items():
            duration = seconds(lambda problem=problem: solvers.solve(*problem)) / BATCH[n]
            if turn:
                times[n].append(duration)
    small, large = sizes
    ratio = statistics.median(slow / fast for fast, slow in zip(times[small], times[large], strict=True))
    return float(np.log(ratio) / np.log(large / small))


def core_rows(turns: int) -> dict:
    """One core against all: the solver alone, at 64 x 64."""
    grid = Grid((64, 64))
    K = torch.from_numpy(np.exp(CirculantEmbedding(grid, Exponential(0.1, 1.0)).draw(0, 0, 1024)))
    f, cores = Darcy(grid).source_term, os.cpu_count() or 1
    times: dict[int, list[float]] = {1: [], cores: []}
    for turn in tqdm(range(turns + 1), desc="cores", leave=False):
        for threads, values in times.items():
            torch.set_num_threads(threads)
            duration = seconds(lambda: solvers.solve(K, f, grid.spacing))
            if turn:
                values.append(duration)
    torch.set_num_threads(1)
    ratio = statistics.median(one / all_ for one, all_ in zip(times[1], times[cores], strict=True))
    rates = {str(k): len(K) / statistics.median(v) for k, v in times.items()}
    return {"cores": cores, "samples_per_second": rates, "speedup": ratio}


def whole_row(modes: int | None, turns: int, samples: int) -> dict:
    """`generate` (field, solution, file) against the solver alone on the same blocks, both on all cores."""
    tolerance, step = darcy.TOLERANCES["float32"], 128
    blocks = torch.from_numpy(darcy.generate(samples, modes=modes).permeability.values).split(step)
    equation = Darcy(Grid((64, 64)))

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            darcy.generate(samples, modes=modes, out=Path(folder) / "data.nc").close()

    def alone() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda K: equation.solve(K.double(), tolerance), blocks))

    times: dict[str, list[float]] = {"generate": [], "solve": []}
    for turn in tqdm(range(turns + 1), desc=f"generate, {modes or 'all'} modes", leave=False):
        for name, function in (("generate", whole), ("solve", alone)):
            duration = seconds(function)
            if turn:
                times[name].append(duration)
    share = statistics.median(s / g for s, g in zip(times["solve"], times["generate"], strict=True))
    rates = {name: samples / statistics.median(values) for name, values in times.items()}
    return {"modes": modes, "samples": samples, "samples_per_second": rates, "share": share}


def large_row(samples: int) -> dict:
    """Many pairs into a folder of shards, in a process of its own: wall time and peak memory."""
    code = (
        "import resource, sys, time; start = time.perf_counter(); from physflow.data import darcy; "
        "ds = darcy.generate(int(sys.argv[1]), modes=None, out=sys.argv[2]); seconds = time.perf_counter() - start; "
        "assert ds.sizes['sample'] == int(sys.argv[1]); ds.close(); "
        "print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"
    )
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "shards")
        output = subprocess.run(
            [sys.executable, "-c", code, str(samples), target], check=True, capture_output=True, text=True
        )
    wall, memory = map(float, output.stdout.split())
    return {"samples": samples, "seconds": wall, "peak_gib": memory, "samples_per_second": samples / wall}


TABLES = (
    Table(
        "Samples a second on one core: full exponential field, std 1, relative residual 1e-8",
        ("grid", "solver"),
        (
            Quantity("samples_per_second", "samples/s, median of the turns"),
            Quantity("best", "best"),
            Quantity("compiled_is_faster_by", "compiled is faster by, median"),
            Quantity("on_the_best_of_the_turns", "on the best of the turns"),
            Quantity("iterations", "iterations"),
            Quantity("error", "error"),
        ),
        where={"part": "solve"},
        note="Ratios are of the same turn. The error is the largest relative difference of the compiled solution "
        "from SuperLU's; at 512 x 512 the direct solvers are timed on one sample.",
    ),
    Table(
        "Cores and size of the grid",
        ("what",),
        (Quantity("value", "value"),),
        where={"part": "scaling"},
        note="The rate falls like N to the minus exponent; what is compared is timed in turns.",
    ),
    Table(
        "Whole pairs at 64 x 64, field, solution and file, all cores",
        ("law",),
        (
            Quantity("samples_per_second", "pairs/s"),
            Quantity("solver_alone", "solver alone, samples/s"),
            Quantity("share", "share of the solver's rate", "%"),
        ),
        where={"part": "generate"},
    ),
    Table(
        "Many pairs at 64 x 64, full field, as shards, all cores",
        ("pairs",),
        (Quantity("seconds", "time", "s"), Quantity("peak_gib", "peak memory, GiB")),
        where={"part": "large"},
    ),
)


def rows_of(found: dict) -> list[dict]:
    """What was measured as rows of results."""
    rows = []
    for row in found["solve"]:
        grid = f"{row['n']} x {row['n']}"
        for solver in ("compiled", "torch", "splu", "cholmod"):
            if solver in row:
                own = {key: row[key] for key in ("iterations", "error")} if solver == "compiled" else {}
                rate = {"samples_per_second" if k == "median" else k: v for k, v in row[solver].items()}
                rows.append({"part": "solve", "grid": grid, "solver": solver, **rate, **own})
    first, last = (found["solve"][k]["n"] for k in (0, -1))
    cores = found["cores"]
    rows.append({"part": "scaling", "what": f"exponent from {first} to {last}", "value": found["exponent"]})
    rows.append({"part": "scaling", "what": f"{cores['cores']} cores over one, 64 x 64", "value": cores["speedup"]})
    for row in found["generate"]:
        rate = row["samples_per_second"]
        law = "the full field" if row["modes"] is None else f"{row['modes']} modes"
        both = {"samples_per_second": rate["generate"], "solver_alone": rate["solve"], "share": row["share"]}
        rows.append({"part": "generate", "law": law, "samples": row["samples"], **both})
    if "large" in found:
        rows.append({"part": "large", "pairs": found["large"]["samples"], **found["large"]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--quick", action="store_true", help="small grids and few turns, in about a minute")
    parser.add_argument("--turns", type=int, help="how often each contestant is timed (default 7, quick 3)")
    options = parser.parse_args()
    grids, turns = ((64, 128), options.turns or 3) if options.quick else ((64, 128, 256, 512), options.turns or 7)
    torch.set_num_threads(1)
    found: dict = {
        "solve": [solve_row(n, turns) for n in grids],
        "exponent": exponent(turns, (grids[0], grids[-1])),
        "cores": core_rows(turns),
        "generate": [whole_row(modes, turns, 2048 if options.quick else 8192) for modes in (64, None)],
    }
    if not options.quick:
        found["large"] = large_row(100_000)
    if cholmod is None:
        print("scikit-sparse is not installed: CHOLMOD was not timed")
    results = Results(
        title="How fast Darcy pairs are made",
        text=(__doc__ or "").split("\n\n", 2)[2].strip(),
        command=f"python benchmarks/speed/darcy.py --out DIR --turns {turns}{' --quick' * options.quick}",
        settings={"quick": options.quick, "turns": turns, "batch": BATCH, "samples_of_the_direct_solvers": DIRECT},
        seeds=(0,),
        rows=tuple(rows_of(found)),
        tables=TABLES if "large" in found else TABLES[:-1],
        pictures=(),
        hardware={**machine(), "threads": 1},
        versions=versions(),
        commit=commit(),
    )
    print(results.markdown())
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
    results.write(options.out)


if __name__ == "__main__":
    main()
