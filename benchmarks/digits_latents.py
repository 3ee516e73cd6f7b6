"""What a latent does on digits: its manifold, a walk along it, many digits of one z, and quality by cost.

    python benchmarks/digits_latents.py --out benchmarks/results/digits-latents     # about 25 minutes on 2 cores
    python benchmarks/digits_latents.py --quick --out digits-latents                # about a minute

Digits of 8 x 8 pixels, networks, training and distance of `digits.py`, one seed.

* Manifold: V-RFM with a latent of 2 components, over the quantiles of N(0, I), from one noise.
* Traversal: the two components of z that vary most among encodings, the others at their mean: by the decoder of the
  autoencoder of Latent-CFM in two stages, and by its flow, from one noise.
* One latent: digits of that flow, each from its own noise, with the z of one digit of the data.
* Distance by evaluations: Euler's method in 2 to 1000 steps, and an adaptive one (dopri5), told by the evaluations that
  it took.
* Distance by steps of training, each a training of its own to its end, drawn with 10 steps of Euler.
* Distance by the weight of the divergence, of V-RFM, and by steps of Euler: by a seed that `digits.py` does not have.

Reference: P. Guo, A. Schwing, "Variational rectified flow matching", ICML 2025, Figure 6 and Tables 1 and 2; A.
Samaddar et al., "Efficient flow matching using latent variables", 2025, sections 4.2 and 4.4.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import torch
from digits import DISTANCE, NAMES, Case, methods
from harness import Benchmark, options_of
from matplotlib.figure import Figure
from torch import Tensor

from physflow.autoencoder import Autoencoder
from physflow.config import to_dict
from physflow.data.images import to_pixels
from physflow.generative import latent_grid, latent_values, traverse
from physflow.model import Model
from physflow.report import plot_one_latent, plot_traversal
from physflow.report.drawing import COLORS, panel, styled
from physflow.results import Table

METHODS = ("i-cfm", "latent-cfm", "v-rfm")
BETAS = (1e-3, 1e-2, 5e-2, 2e-1)
BETA_SEED = 3
GRID = 11
"""Rows and columns of a traversal."""


def pictures_of(ds: Any) -> Tensor:
    """The digits of a Dataset, (sample, 8, 8) from 0 to 1."""
    return torch.from_numpy(to_pixels(ds)[:, 0]) / 255


def manifold(case: Case, steps: int) -> Figure:
    """V-RFM with a latent on the plane, over the plane."""
    model, training = methods(8, case.bench.settings["quick"])["v-rfm"]
    model = dataclasses.replace(model, latent=dataclasses.replace(model.latent, dimension=2))
    trained = case.trained("v-rfm-plane", model, training, steps, 0)
    grid, z = latent_grid(GRID, 2).unflatten(0, (GRID, GRID)), latent_values(GRID)
    digits = traverse(lambda z: pictures_of(trained.decode(z, one_noise=True)), grid)
    return plot_traversal({"V-RFM, z of two components": digits}, z_values=(z, z), label="digit", image=True)


def walk(case: Case, model: Model, autoencoder: Autoencoder) -> Figure:
    """The autoencoder and the flow along the two components that vary most."""

    def along(encode: Any, decode: Any) -> Tensor:
        z = torch.from_numpy(encode(case.known).values).float()
        mean, std = z.mean(0), z.std(0)
        first, second = std.argsort(descending=True)[:2].tolist()
        grid = mean + std * latent_grid(GRID, z.shape[1], axes=(first, second))
        return traverse(lambda z: pictures_of(decode(z)), grid.unflatten(0, (GRID, GRID)))

    fields = {
        "decoder of the autoencoder": along(autoencoder.encode, autoencoder.decode),
        "flow, one noise": along(model.encode, functools.partial(model.decode, one_noise=True)),
    }
    # In units of the spread of the encodings.
    z = latent_values(GRID)
    return plot_traversal(fields, z_values=(z, z), label="digit", image=True)


def one_latent(case: Case, model: Model, samples: int) -> Figure:
    """Many digits of the latent of one."""
    one = case.known.isel(sample=slice(3, 4))
    z = torch.from_numpy(model.encode(one).values).float().expand(samples, -1)
    return plot_one_latent(pictures_of(one)[0], pictures_of(model.decode(z)), "digit", image=True)


@styled
def curves(rows: Sequence[Mapping[str, Any]], part: str, x: str, label: str) -> Figure:
    """The distance of each method; an adaptive solver is a star."""
    figure, ax = panel(f"distance by {label}", (6.0, 3.4))
    for key, color in zip(METHODS, COLORS, strict=False):
        own = [row for row in rows if row["part"] == part and row["method"] == NAMES[key]]
        fixed = [row for row in own if row.get("solver") != "dopri5"]
        ax.plot([r[x] for r in fixed], [r["distance"] for r in fixed], marker="o", color=color, label=NAMES[key])
        for row in own:
            if row not in fixed:
                ax.plot(row[x], row["distance"], "*", markersize=11, color=color)
    ax.set(xscale="log", yscale="log", xlabel=label, ylabel="Frechet distance (classifier)")
    ticks = sorted({row[x] for row in rows if row["part"] == part and row.get("solver") != "dopri5"})
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.minorticks_off()
    ax.grid()
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    return figure


def main() -> None:
    """Train, draw, score, and draw the figures."""
    options = options_of(__doc__, 1)
    quick = options.quick
    nfe, budgets = ((2, 5), (2, 4)) if quick else ((2, 5, 10, 50, 100, 1000), (125, 250, 500, 1000))
    every = {key: to_dict(config) for key, (config, _) in methods(8, quick).items()}
    settings: dict[str, Any] = {"samples": 64 if quick else 1000, "classifier": 30 if quick else 800, "quick": quick}
    settings |= {"evaluations": nfe, "budgets": budgets, "steps": {"8": budgets[-1]}, "methods": every}
    bench = Benchmark(options.out, settings)
    case = Case(bench, 8)

    def drawn(model: Model, solver: str, steps: int | None) -> dict[str, Any]:
        ds = model.sample(settings["samples"], 1, solver, steps, progress=True)
        return {"evaluations": int(ds.attrs["evaluations"]), "distance": case.distance(ds)}

    for key in METHODS:
        config, training = methods(8, quick)[key]
        for budget in budgets:
            name = key if budget == budgets[-1] else f"{key}-{budget}"
            make = functools.partial(case.trained, name, config, training, budget, 0)
            where = {"part": "budget", "method": NAMES[key], "steps": budget}
            bench.add(lambda make=make: drawn(make(), "euler", 10), **where)
        for solver, steps in [*(("euler", n) for n in nfe), ("dopri5", None)]:
            where = {"part": "evaluations", "method": NAMES[key], "solver": solver, "grid": steps or "adaptive"}
            bench.add(lambda key=key, s=solver, n=steps: drawn(case.model(key, 0), s, n), **where)
    config, training = methods(8, quick)["v-rfm"]
    for beta in BETAS:
        weighted = dataclasses.replace(config, latent=dataclasses.replace(config.latent, beta=beta))
        make = functools.partial(case.trained, f"v-rfm-{beta:g}", weighted, training, budgets[-1], BETA_SEED)
        for n in nfe[:5]:
            where = {"part": "beta", "method": NAMES["v-rfm"], "beta": beta, "seed": BETA_SEED, "grid": n}
            bench.add(lambda make=make, n=n: drawn(make(), "euler", n), **where)
    two_stage = case.model("two-stage", 0)
    bench.picture("manifold.png", manifold(case, budgets[-1]), "Quantiles 5 % to 95 % of both components of z.")
    text = "The two components of z that vary most, in units of the spread of its encodings."
    bench.picture("traversal.png", walk(case, two_stage, Autoencoder(case.folder / "two-stage-0")), text)
    text = "A digit of the data, and digits of the flow with its z, each from its own noise."
    bench.picture("one-latent.png", one_latent(case, two_stage, settings["samples"] // 4), text)
    figure = curves(bench.rows, "evaluations", "evaluations", "evaluations")
    bench.picture("evaluations.png", figure, "By evaluations of the velocity: Euler's method; a star is dopri5.")
    figure = curves(bench.rows, "budget", "steps", "steps of training")
    bench.picture("training.png", figure, "By steps of training; 10 steps of Euler.")
    tables = [
        Table(f"{DISTANCE.label}, by steps of the solver", ("method",), (DISTANCE,), "grid", {"part": "evaluations"}),
        Table(f"{DISTANCE.label}, by steps of training", ("method",), (DISTANCE,), "steps", {"part": "budget"}),
        Table(f"{DISTANCE.label} of V-RFM, by weight and steps", ("beta",), (DISTANCE,), "grid", {"part": "beta"}),
    ]
    bench.finish("The latent of digits", (__doc__ or "").split("\n\n", 2)[2], 1, tables)


if __name__ == "__main__":
    matplotlib.use("agg")
    main()
