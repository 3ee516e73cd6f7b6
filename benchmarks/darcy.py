"""Darcy pairs (K, p) by flow matching with and without a latent: physics, law, and what it costs.

    python benchmarks/darcy.py --out benchmarks/results/darcy            # about 4 hours on 2 cores
    python benchmarks/darcy.py --quick --out darcy                       # about a minute and a half

Parts of it, into one and the same folder, where they add up: --law and --methods.

Two laws of K, each of 10,000 pairs, of which 2 % validate, on 32 x 32 points between Neumann walls, with a well that
injects and one that extracts: `pidm-64` (64 modes, normal coefficients) and `cocogen-16` (16 modes, coefficients
uniform on [0, 2.5]). The methods, by their names for --methods, are

* `i-cfm`: a U-Net on the standardised point values of (log K, p); `i-cfm-large`: one of 2.1 times its parameters;
* `latent-0.2`, `latent-3`, `latent-45`: Latent-CFM in one stage: the small U-Net is told z of 32 components, made from
  the pair by an encoder that is trained with it and has 0.2, 3 or 45 % of its parameters; as published, z is added to
  the embedding of the time; `latent-2d`: z has 2 components, the encoder 3 %;
* `latent-map`: Latent-CFM in one stage with z as a map over the coarsest grid, which can say where something is, and a
  weight of the divergence of 1e-4 instead of 1e-3, with which z says more;
* `two-stage`: Latent-CFM in two stages: the encoder is that of a VAE trained before for as many steps, and frozen but
  for its head;
* `v-rfm`: the encoder reads x0, x1 and xt, and z is drawn from N(0, I);
* `pod-latent`, told K: a flow over the POD coordinates of p, with those of log K as its latent;
* `regression`, told K: p directly from K by the same perceptron. These two are given permeabilities of the law: their
  log K is data, but for what their POD leaves out.

All pixel methods have the same training: batches of 32, cosine schedule, averaged weights, and a learning rate of
6e-3 that was chosen on I-CFM alone: after 300 steps at 32 x 32 (100 samples, 20 steps of Euler's method) its residual
was 216 at 3e-3, 77 at 6e-3 and 53 at 1.2e-2, this with a larger error of p (14.8, 14.2 and 16.4 %), and training
diverged at 2.4e-2. Each method is trained for the same time: its steps are those of I-CFM over the ratio of the times
of a step, timed in turns (with two stages, that of the VAE included); `--steps` gives all the same number. Seeds
share the training pairs. Where z comes from encodings of training pairs, as published, it is drawn from N(0, I), a
mixture and a flow fitted to the encodings as well, from the one trained model. Samples are integrated by 20 steps of
Heun's method, preferred because it keeps more of the spread of log K, in each method's own way also by 20 of Euler's,
with about half the evaluations.

How to read it. The residual (`residual_mse`) measures the noise of single points: on 32 x 32 points, 0.3 % of white
noise on p cost as much as p = 0. The error of p (`solution_error`), against the solution for the sample's own K, is
what a user notices. Neither says whether the law of the samples is that of the data: that is what the distances are
for, each to be read beside its floor, the line "other pairs of the law". They in turn hardly see which p goes with
which K: "shuffled pairs".

Reference: A. Samaddar et al., "Efficient flow matching using latent variables", 2025, section 4.3, Table 3, Figures 5,
A.1, A.4 and A.5, appendices D, H.2 and K.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import xarray as xr
from darcy_models import KEYS, Method, budget_of, count, drawn, methods, step_times
from darcy_scores import DATA, FLOORS, PUBLISHED, SHUFFLED, ZERO, Judge, log_spectrum, tables
from harness import Benchmark, options_of
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from physflow.config import DataConfig, to_dict
from physflow.data import darcy, files
from physflow.data.karhunen_loeve import KarhunenLoeve
from physflow.data.laws import law_of
from physflow.fields import to_tensor
from physflow.fitting import train_model
from physflow.generative import encodings_of, latent_grid, latent_values, traverse
from physflow.model import Model, load
from physflow.pde import score, score_fields
from physflow.report import plot_traversal
from physflow.report.drawing import COLORS, LINES, colorbar, mosaic, scale_of, show, styled
from physflow.results import number

LAWS = ("pidm-64", "cocogen-16")
GRID = 7
"""Rows and columns of the traversal."""
NAMES = {"residual_mse": "residual", "solution_error": "error of p"}
"""The scores that are drawn, and what they are called."""


class Case:
    """One law: its data, its judge, and the folders of its models in the benchmark's own.

    Arguments:
        bench: The benchmark, with its settings.
        law: The law's name.
    """

    def __init__(self, bench: Benchmark, law: str) -> None:
        settings = bench.settings
        self.bench, self.law, self.folder = bench, law, bench.work / law
        self.samples: int = settings["samples"]
        self.folder.mkdir(exist_ok=True)
        self.config = DataConfig(samples=settings["pairs"], resolution=settings["resolution"], preset=law)
        sizes = (settings["pairs"], settings["pairs"], FLOORS * self.samples, self.samples)
        self.data, self.fresh, self.other, self.given = (
            self._pairs(name, n, seed)
            for seed, (name, n) in enumerate(zip(("data", "fresh", "other", "given"), sizes, strict=True))
        )
        field = law_of(self.config).field
        assert isinstance(field, KarhunenLoeve)
        with files.open(self.data) as training, files.open(self.fresh) as held_out:
            self.judge = Judge(field, training, held_out)

    def _pairs(self, name: str, samples: int, seed: int) -> Path:
        path = self.folder / f"{name}.nc"
        if not path.exists():
            resolution = self.config.resolution
            darcy.generate(samples, resolution, self.law, seed=seed, out=path, progress=True).close()
        return path

    def anchors(self, number_of: int) -> list[dict[str, Any]]:
        """The rows of one set of fresh pairs: as they are, without pressure, and with that of another pair."""
        first = number_of * self.samples
        with files.open(self.other) as opened:
            ds = opened.isel(sample=slice(first, first + self.samples)).load()
        p = ds["pressure"]
        pressures = {DATA: p, ZERO: 0 * p, SHUFFLED: p.roll(sample=1)}
        sets = {name: ds.assign(pressure=values) for name, values in pressures.items()}
        return [
            {"method": name, "draw": "–", "solver": "–", **self.judge.row(one.merge(score(one)))}
            for name, one in sets.items()
        ]

    def path(self, key: str, seed: int) -> Path:
        """The folder of a model."""
        return self.folder / f"{key}-{seed}"

    def file(self, key: str, seed: int, made: tuple[str, str, int]) -> Path:
        """The file of a set of samples: how z is drawn, the solver and its steps."""
        return self.path(key, seed) / f"{'-'.join(map(str, made))}.nc"

    def model(self, key: str, method: Method, steps: int, seed: int) -> Model:
        """A model: one that is there is loaded, otherwise it is trained, an interrupted training goes on."""
        folder = self.path(key, seed)
        if not (folder / "config.yaml").exists():
            with self.bench.clock(f"{self.law}-{key}-{seed}"):
                train_model(self.data, folder, **method.of(steps, seed), progress=True)
        return load(folder)

    def cost(self, key: str, method: Method, steps: int, seed: int, over_reference: float | None) -> dict[str, Any]:
        """Train a method: its parameters, and the time that this took beside that of a step measured before."""
        flow, encoder = count(self.model(key, method, steps, seed).network)
        return {
            "parameters": flow,
            "encoder_parameters": encoder,
            "steps": steps,
            "seconds": self.bench.seconds(f"{self.law}-{key}-{seed}"),
            "step_over_i_cfm": over_reference,
        }

    def rows(self, key: str, method: Method, steps: int, seed: int) -> list[dict[str, Any]]:
        """Draw and score the samples of a method in every way."""
        model = self.model(key, method, steps, seed)
        found = []
        for made in method.sets:
            path = self.file(key, seed, made)
            if not path.exists():
                files.write(drawn(made, model, self.data, self.given, self.samples, seed + 1), path)
            draw, solver, n = made
            with files.open(path) as ds:
                way = {"draw": draw, "solver": f"{solver}, {n} steps", "evaluations": int(ds.attrs["evaluations"])}
                found.append({**way, **self.judge.row(ds.load())})
        return found


def traversal(case: Case, model: Model) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs over a grid of latents of two components, all from one noise: log K and p, residuals, values of z.

    The grid runs over equal steps in probability of the normal law that has the mean and the standard deviation of the
    encodings of the training pairs.
    """
    with files.open(case.data) as ds:
        x = to_tensor(ds.isel(sample=slice(1000)), model.fields)
    assert model.latent is not None
    z = encodings_of(model.latent, [model.transform(x).float()]).mean
    mean, std = z.mean(0), z.std(0)
    grid = (mean + std * latent_grid(GRID, 2)).unflatten(0, (GRID, GRID))

    def generate(z: torch.Tensor) -> torch.Tensor:
        return to_tensor(model.decode(z, one_noise=True, score=False), model.fields)

    pairs = traverse(generate, grid)
    K, p = pairs.flatten(0, 1).unbind(1)
    assert model.equation is not None
    residuals = torch.from_numpy(score_fields(model.equation, K, p)["residual_mse"]).view(GRID, GRID)
    return torch.stack([K.log(), p], 1).unflatten(0, (GRID, GRID)), residuals, mean + std * latent_values(GRID)[:, None]


@styled
def boxes(sets: Mapping[str, xr.Dataset], rows: Mapping[str, Mapping[str, Any]], law: str) -> Figure:
    """The residual and the error of p of every method: quartiles, median, 5 to 95 %, beside the anchors.

    Arguments:
        sets: The samples of each method.
        rows: A row of each anchor.
        law: The law.
    """
    figure = Figure((9.6, 0.34 * len(sets) + 1.5), layout=ConstrainedLayoutEngine(w_pad=0.1))
    panels = figure.subplots(1, 2, sharey=True)
    for ax, name in zip(panels, NAMES, strict=True):
        ends = [rows[ZERO][name]]
        for y, ds in enumerate(sets.values()):
            known = ds[name].values[np.isfinite(ds[name].values)]
            if not known.size:
                continue
            p5, q1, median, q3, p95 = np.quantile(known, [0.05, 0.25, 0.5, 0.75, 0.95])
            ends += [p5, p95]
            ax.plot([p5, p95], [y, y], color=COLORS[0], linewidth=1.2)
            ax.barh(y, q3 - q1, left=q1, height=0.56, color=COLORS[0], alpha=0.4, linewidth=0)
            ax.plot([median, median], [y - 0.28, y + 0.28], color=COLORS[0], linewidth=2.4)
            ax.text(1.01, y, number(float(median)), transform=ax.get_yaxis_transform(), va="center", color=COLORS[0])
        ax.axvline(rows[ZERO][name], color=COLORS[1], linestyle="--", linewidth=1.2)
        ax.text(rows[ZERO][name], 1.01, "p = 0", transform=ax.get_xaxis_transform(), color=COLORS[1], ha="center")
        ax.text(1.01, 1.01, "median", transform=ax.transAxes)
        floor = number(rows[DATA][name])
        ax.set(
            xscale="log",
            xlim=(0.6 * min(ends), 1.6 * max(ends)),
            xlabel=f"{NAMES[name]}\n(other pairs of the law: {floor})",
        )
        ax.grid(axis="x")
    # The floor is orders of magnitude below: a line at it would leave no room for the rest.
    panels[0].set(yticks=range(len(sets)), ylim=(len(sets) - 0.4, -0.6))
    panels[0].set_yticklabels(list(sets))
    for ax in panels:
        ax.tick_params(axis="y", length=0)
    figure.suptitle(law, x=0.01, ha="left", fontweight="bold", fontsize=10.5)
    return figure


@styled
def samples_of(sets: Mapping[str, xr.Dataset], law: str, shown: int = 3) -> Figure:
    """The first samples of every method below pairs of the data: log K at the left, p at the right."""
    figure = Figure((6.2, 0.55 * len(sets) + 0.9), layout=ConstrainedLayoutEngine(w_pad=0.1))
    panels = figure.subplots(1, 2)
    for ax, name, label in zip(panels, darcy.FIELDS, ("log K", "p"), strict=True):
        every = [np.log(ds[name].values) if name == "permeability" else ds[name].values for ds in sets.values()]
        fields = np.stack([u[:shown] for u in every]).astype(np.float64)
        # The data, which come first, set the scale.
        scale, colormap = scale_of(every[0])
        picture, (down, _) = mosaic(fields)
        show(ax, picture, scale, colormap, "white")
        ax.set_title(f"{label}, {law}" if name == darcy.FIELDS[0] else label)
        colorbar(figure, [ax], scale, colormap, label, [fields], "bottom")
    panels[0].set_yticks([i * down + fields.shape[-1] / 2 for i in range(len(sets))], list(sets))
    panels[0].tick_params(axis="y", length=0)
    return figure


@styled
def spectra(sets: Mapping[str, xr.Dataset], spacing: float, law: str) -> Figure:
    """The median radial spectrum of log K of every method, and its ratio to that of the data, which come first."""
    figure = Figure((10.2, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    truth = None
    for i, (name, ds) in enumerate(sets.items()):
        wavenumber, log = log_spectrum(to_tensor(ds, "permeability")[:, 0].log(), spacing)
        truth = log if truth is None else truth
        color, line = ("black", "-") if i == 0 else (COLORS[(i - 1) % len(COLORS)], LINES[(i - 1) // len(COLORS)])
        for ax, values in zip(panels, (log, log - truth), strict=True):
            ax.plot(wavenumber, values.exp(), color=color, linestyle=line, label=name, zorder=3 - (i > 0))
    for ax, title in zip(panels, (f"spectrum of log K, {law}", "over that of the data"), strict=True):
        ax.set(xscale="log", yscale="log", title=title, xlabel="wavenumber (radians per unit length)")
        ax.grid()
    panels[0].set_ylabel("power")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8.5)
    return figure


def pictures(case: Case, every: Mapping[str, Method], anchors: list[dict[str, Any]]) -> None:
    """All figures of one law, from all samples in the folder, z drawn in each method's own way."""
    bench, law = case.bench, case.law
    kept = {key: case.file(key, 0, method.sets[0]) for key, method in every.items()}
    sets = {}
    for key, path in kept.items():
        if path.exists():
            with files.open(path) as ds:
                sets[every[key].name] = ds.load()
    with files.open(case.other) as ds:
        data = {"data": ds.isel(sample=slice(case.samples)).load()}
    first = {row["method"]: row for row in reversed(anchors)}
    own = "Each method as in the first of its lines in the tables."
    text = "Residual and error of p: quartiles, median (its number at the right), 5 to 95 % of the samples. " + own
    bench.picture(f"boxes-{law}.png", boxes(sets, first, law), text)
    bench.picture(f"samples-{law}.png", samples_of(data | sets, law), f"The first samples of every method. {own}")
    text = f"Median radial spectrum of log K, and its ratio to that of the data. {own}"
    bench.picture(f"spectra-{law}.png", spectra(data | sets, case.judge.spacing, law), text)
    if not kept["latent-2d"].exists():
        return
    fields, residuals, z = traversal(case, load(case.path("latent-2d", 0)))
    values = {"mean": float(residuals.mean()), "median": float(residuals.median())}
    bench.add(lambda: values, part="traversal", law=law, pairs=GRID * GRID)
    for channel, label in enumerate(("log K", "p")):
        settings = {"z_values": (z[:, 0], z[:, 1]), "label": label, "score": "residual"}
        figure = plot_traversal({f"{label}, {law}": fields[:, :, channel]}, {f"{label}, {law}": residuals}, **settings)
        text = "From one noise, the two components of z over the spread of the encodings; the residual below each pair."
        bench.picture(f"traversal-{law}-{('permeability', 'pressure')[channel]}.png", figure, text)


def steps_of(
    bench: Benchmark, chosen: Mapping[str, Method], reference: Method, data: Path
) -> tuple[dict[str, int], dict[str, float]]:
    """The steps of each method, and where they follow from a time, that of its step over that of the reference."""
    settings = bench.settings
    if "seconds" not in settings:
        return dict.fromkeys(chosen, settings["steps"]), {}

    def timed(method: Method) -> dict[str, float]:
        with files.open(data) as ds:
            # A set of one batch of any method: fitting a transform to more only takes time.
            part = files.write(ds.isel(sample=slice(600)), bench.work / "timed.nc", overwrite=True)
        seconds, ratio = step_times(method, reference, part, bench.work / "timing", 5, (4, 24))
        return {"seconds_of_a_step": seconds, "ratio": 1.0 if method is reference else ratio}

    def measured(key: str, method: Method) -> dict[str, float]:
        return bench.add(lambda: timed(method), part="timing", key=key)[0]

    own = measured("i-cfm", reference)
    ratios = {"i-cfm": 1.0} | {key: measured(key, one)["ratio"] for key, one in chosen.items() if one is not reference}
    steps = settings["seconds"] / own["seconds_of_a_step"]
    return {key: max(1, int(steps / ratios[key])) for key in chosen}, ratios


def main() -> None:
    """Time, train, draw, score and draw the figures."""
    options = options_of(
        __doc__,
        1,
        law={"choices": LAWS, "help": "one law (default both)"},
        methods={"choices": KEYS, "nargs": "+", "default": KEYS, "metavar": "METHOD", "help": " ".join(KEYS)},
        resolution={"type": int, "choices": (32, 64), "default": 32, "help": "points along an axis (default 32)"},
        seconds={"type": float, "help": "training time of each method (default 600)"},
        steps={"type": int, "help": "steps of each method, instead of a time"},
    )
    quick = options.quick
    every = methods(options.resolution, quick)
    pairs, samples = (300, 50) if quick else (10_000, 500)
    budget = budget_of(quick, options.steps, options.seconds)
    models = {key: {"model": to_dict(m.model), "training": to_dict(m.training)} for key, m in every.items()}
    sizes = {"resolution": options.resolution, "pairs": pairs, "samples": samples}
    bench = Benchmark(options.out, {**sizes, **budget, "methods": models, "quick": quick})
    cases = [Case(bench, law) for law in ((options.law,) if options.law else LAWS)]
    chosen = {key: every[key] for key in KEYS if key in options.methods}
    steps, ratios = steps_of(bench, chosen, every["i-cfm"], cases[0].data)
    for case in cases:
        own: dict[str, Any] = {"law": case.law}
        anchors = [
            row
            for k in range(FLOORS)
            for row in bench.add(functools.partial(case.anchors, k), part="samples", **own, set=k)
        ]
        for key, method in chosen.items():
            for seed in range(options.seeds):
                piece = {**own, "method": method.name, "seed": seed}
                training = (key, method, steps[key], seed)
                bench.add(functools.partial(case.cost, *training, ratios.get(key)), part="training", **piece)
                bench.add(functools.partial(case.rows, *training), part="samples", **piece)
        pictures(case, every, anchors)
    bench.add(lambda: PUBLISHED, part="published")
    bench.finish(
        "Darcy pairs by flow matching with a latent", (__doc__ or "").split("\n\n", 3)[3], options.seeds, tables(LAWS)
    )


if __name__ == "__main__":
    matplotlib.use("agg")
    main()
