"""What it takes to bring samples to their equation, and what that does to their law: corrections of a Darcy flow.

    python benchmarks/constraints.py --out benchmarks/results/constraints    # about an hour on one core, 3 seeds
    python benchmarks/constraints.py --quick --out constraints               # about a minute

One flow of pairs (K, p), the same noise, and every way to make p fit K:

* as sampled: I-CFM without a latent over the POD coordinates of log K and p, 64 and 128 of them, 20 steps of Heun's
  method;
* at the end: the mean of p set to zero; CoCoGen, 10 and 100 steps of two published sizes (the largest change of p in a
  step, in its unit: the standard deviation of p is 0.076); descent on the preconditioned residual, 1 and 5 steps, p
  alone moves; the Gauss-Newton projection of (log K, p), in the standard deviations of both; completion, p = S(K);
* in the loop: descent, projection and completion of what the flow predicts of the data, from t = 0.67 on. Projection
  and completion run at the end once more, for the POD of p holds no exact solution; `completion in the loop alone` does
  not;
* selection: the best tenth of ten times as many samples, by the error of p or by the residual;
* in training: two more flows of the same settings and steps, trained with the residual of the clean estimate in the
  loss, of two weights, as sampled.

The law is `pidm-64` (64 modes, normal coefficients): 10,000 pairs on 32 x 32 points between Neumann walls, of which 2 %
validate, with their images under the symmetries of the equation. A seed moves weights, batches and noise; seeds share
the pairs. Samples are scored as they are kept, in float32, whose rounding is the residual of the data as well.

How to read it. A way is good if it lies at the left and on the floor: it lowers the residual and leaves the law alone.
The residual (`residual_mse`) measures the noise of single points, the error of p (`solution_error`) is what a user
notices: a way can lower the one by a factor of ten and leave the other where it was. `data in the POD of the model` is
what a perfect flow in these coordinates would score. Only p moves at the end but for the projection, so that log K has
the law of the samples; a way that acts earlier, or selects, moves log K, and its std ratio says by how much.

References: C. Jacobsen, Y. Zhuang, K. Duraisamy, "CoCoGen", 2023; C. Utkarsh et al., "Physics-constrained flow
matching", NeurIPS 2025; J.-H. Bastek, W. Sun, D. Kochmann, "Physics-informed diffusion models", ICLR 2025.
"""

from __future__ import annotations

import functools
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from constraints_figures import boxes, pareto
from constraints_methods import ANCHOR, TRAINING, Way, costs, sampled, ways
from darcy import Case
from darcy_models import Method
from darcy_scores import DATA, FLOORS, LAW_NOTE, LAW_OF_SAMPLES, ROWS_NOTE, SHUFFLED, ZERO, quartiles
from harness import Benchmark, options_of

from physflow.config import MLPConfig, ModelConfig, TrainingConfig, to_dict
from physflow.data import files
from physflow.data.darcy import FIELDS
from physflow.fields import to_dataset, to_tensor
from physflow.model import Model
from physflow.pde import score
from physflow.results import Quantity, Table

__all__ = ["LAW", "POD", "WEIGHTS", "Judged", "flows", "tables"]

LAW = "pidm-64"
WEIGHTS = (0.01, 0.1)
"""The weights of the residual in training."""
NOISE = (0.001, 0.01)
"""White noise on p, as a share of the standard deviation of p over the points."""
POD = "data in the POD of the model"
SOLVED = 1e-4
"""The relative residual up to which a sample counts as a solution: float32 leaves about a tenth of that."""
PHYSICS = (
    Quantity("residual_mse", "residual, median"),
    Quantity("residual_mse_q3", "residual, upper quartile"),
    Quantity("residual_mse_p95", "residual, 95 %"),
    Quantity("relative_residual", "relative residual, median"),
    Quantity("solved", "solved", "%"),
    Quantity("solution_error", "error of p, median", "%"),
    Quantity("solution_error_q3", "error of p, upper quartile", "%"),
    Quantity("mean_pressure", "mean of p"),
    Quantity("missing", "no field"),
)
ROWS = (
    "Anchors (shuffled pairs: each K with the p of another pair; noise: white, in per cent of the standard deviation "
    f"of p): ± over {FLOORS} sets of fresh pairs; all others: over seeds."
)
PHYSICS_NOTE = (
    "Residual: mean square; relative: its norm over that of the source, 1 for p = 0. Solved: samples of a relative "
    f"residual of at most {SOLVED:g}. Mean of p: root mean square over the samples, in standard deviations of p. No "
    f"field: samples that are not finite. A selection is judged here by what it was selected by, or nearly. {ROWS}"
)
MOVED = (
    Quantity("moved_log_permeability", "log K moved by"),
    Quantity("moved_pressure", "p moved by"),
)
MOVED_NOTE = "Moved by: root mean square distance from the sample of the same noise, in standard deviations of data."
COST = (Quantity("milliseconds", "added to a sample (ms)"), Quantity("share", "share of the time of sampling", "%"))
COST_NOTE = (
    "The line `as sampled` is sampling itself. All timed in turns in one process, in the blocks in which samples are "
    "drawn; medians over the rounds. In the loop: sampling takes longer, and the correction at the end. Selection: the "
    "samples thrown away and the scoring of all. Physics in training adds nothing to a sample."
)
TRAINED = (Quantity("parameters", "parameters"), Quantity("steps", "steps"), Quantity("seconds", "training", "s"))


class Judged(Case):
    """The law with its data and its judge, and rows of what this benchmark asks."""

    def row(self, ds: xr.Dataset, before: xr.Dataset | None = None) -> dict[str, Any]:
        """All that pairs with their scores are asked.

        Arguments:
            ds: The pairs, with their scores as variables.
            before: The samples of the same noise as they were, if these are corrected ones.
        """
        std = self.judge.std.flatten().tolist()
        relative, means = ds["relative_residual"], ds["pressure"].astype(np.float64).mean(("x", "y"))
        found = {
            **self.judge.row(ds),
            **quartiles("relative_residual", relative),
            "solved": float((relative <= SOLVED).mean()),
            "mean_pressure": float((means**2).mean() ** 0.5) / std[1],
        }
        if before is not None:
            (K, p), (K0, p0) = (to_tensor(one, FIELDS, finite=False).double().unbind(1) for one in (ds, before))
            moved = {"log_permeability": (K / K0).log(), "pressure": p - p0}
            for (name, by), unit in zip(moved.items(), std, strict=True):
                found[f"moved_{name}"] = float(by.square().mean().sqrt()) / unit
        return found

    def set_of(self, number_of: int) -> xr.Dataset:
        """One set of fresh pairs."""
        first = number_of * self.samples
        with files.open(self.other) as opened:
            return opened.isel(sample=slice(first, first + self.samples)).load()

    def anchor_rows(self, number_of: int) -> list[dict[str, Any]]:
        """The rows of one set of fresh pairs: as they are, without pressure, with another's, and with noise."""
        ds = self.set_of(number_of)
        p = ds["pressure"]
        pressures = {DATA: p, ZERO: 0 * p, SHUFFLED: p.roll(sample=1)}
        noise = np.random.default_rng([number_of]).standard_normal(p.shape).astype(p.dtype)
        for share in NOISE:
            pressures[f"{100 * share:g} % of noise on p"] = p + share * p.std(p.dims[1:]) * p.copy(data=noise)
        sets = {name: ds.assign(pressure=values) for name, values in pressures.items()}
        return [{"method": name, **self.row(one.merge(score(one)))} for name, one in sets.items()]

    def pod_row(self, number_of: int, model: Model) -> dict[str, Any]:
        """The row of one set of fresh pairs, as far as the POD of a model holds them."""
        ds = self.set_of(number_of)
        y = model.transform(to_tensor(ds, FIELDS).double())
        kept = to_dataset(model.transform.inverse(y).float(), FIELDS, model.grid, ds.attrs)
        return {"method": POD, **self.row(model.score(kept))}

    def sample_row(self, key: str, seed: int, name: str, way: Way, model: Model) -> dict[str, Any]:
        """The row of the samples of a model by one way; the samples are kept."""
        folder = self.path(key, seed)
        path = folder / f"{name}.nc"
        if not path.exists():
            files.write(sampled(way, model, self.samples, seed + 1), path)
        with files.open(path) as ds:
            found = ds.load()
        if way.end is None and way.loop is None:
            return self.row(found)
        with files.open(folder / "raw.nc") as raw:
            return self.row(found, raw.load())


def flows(quick: bool) -> dict[str, Method]:
    """The flows by the names of their folders: that whose samples are corrected first, then those with physics.

    Arguments:
        quick: Whether the network is small and sees few data, to see that all runs.
    """
    rank, width, batch, steps = (16, 32, 64, 5) if quick else (128, 352, 256, 20)
    model = ModelConfig(rank=rank, mlp=MLPConfig(width=width, blocks=4))
    found = {}
    for weight in (0.0, *WEIGHTS):
        training = TrainingConfig(batch_size=batch, physics=weight, symmetries=True, evaluate_every=500)
        name = f"physics in training, {weight:g}" if weight else "I-CFM"
        found[f"physics-{weight:g}" if weight else "i-cfm"] = Method(
            name, model, training, ("none",), (("heun", steps),)
        )
    return found


def tables() -> list[Table]:
    """How the rows are summed up."""
    samples, by = {"part": "samples"}, ("kind", "method")
    law_note = f"{LAW_NOTE.removesuffix(ROWS_NOTE)}{MOVED_NOTE} {ROWS}"
    return [
        Table("Physics of the samples", by, PHYSICS, where=samples, note=PHYSICS_NOTE),
        Table("Law of the samples", by, (*LAW_OF_SAMPLES, *MOVED), where=samples, note=law_note),
        Table("Time of the corrections", by, COST, where={"part": "cost"}, note=COST_NOTE),
        Table("Training", ("method",), TRAINED, where={"part": "training"}),
    ]


def pictures(bench: Benchmark) -> None:
    """The two figures."""
    text = (
        "Residual against the distance of the law; the grey band is other pairs of the law. Means over the seeds. "
        "At the right the anchors are left out, whose log K is that of the data."
    )
    bench.picture("pareto.png", pareto(bench.rows), text)
    text = "Residual and error of p: quartiles, median (its number at the right), up to 95 % of the samples; seed 0."
    bench.picture("boxes.png", boxes(bench.rows), text)


def main() -> None:
    """Train, draw, correct, score, time, and draw the figures."""
    options = options_of(__doc__, 3)
    quick = options.quick
    pairs, samples, steps, timed, rounds = (300, 20, 20, 5, 1) if quick else (10_000, 500, 4000, 50, 5)
    methods = flows(quick)
    models = {key: {"model": to_dict(m.model), "training": to_dict(m.training)} for key, m in methods.items()}
    sizes = {"resolution": 32, "pairs": pairs, "samples": samples, "steps": steps, "timed": timed, "rounds": rounds}
    bench = Benchmark(options.out, {**sizes, "methods": models, "quick": quick})
    case = Judged(bench, LAW)
    for k in range(FLOORS):
        bench.add(functools.partial(case.anchor_rows, k), part="samples", kind=ANCHOR, set=k)
    every: dict[str, Way] = {}
    for seed in range(options.seeds):
        for key, method in methods.items():
            cost = functools.partial(case.cost, key, method, steps, seed, None)
            bench.add(cost, part="training", method=method.name, seed=seed)
        model = case.model("i-cfm", methods["i-cfm"], steps, seed)
        assert model.equation is not None
        every = ways(model.equation, case.judge.std.flatten().tolist())
        if seed == 0:
            for k in range(FLOORS):
                bench.add(functools.partial(case.pod_row, k, model), part="samples", kind=ANCHOR, of=POD, set=k)
            bench.add(functools.partial(costs, model, every, timed, rounds), part="cost")
        for name, way in every.items():
            row = functools.partial(case.sample_row, "i-cfm", seed, name, way, model)
            bench.add(row, part="samples", kind=way.kind, method=way.name, seed=seed)
        for key, method in methods.items():
            if key == "i-cfm":
                continue
            other = case.model(key, method, steps, seed)
            row = functools.partial(case.sample_row, key, seed, "raw", every["raw"], other)
            bench.add(row, part="samples", kind=TRAINING, method=method.name, seed=seed)
    pictures(bench)
    text = (__doc__ or "").split("\n\n", 2)[2]
    bench.finish("Corrections of Darcy samples: residual against law", text, options.seeds, tables())


if __name__ == "__main__":
    matplotlib.use("agg")
    main()
