"""Likelihoods of flows against known ones: mixtures, Gaussian fields, trained models; and training by them.

    python benchmarks/likelihood.py --out benchmarks/results/likelihood     # less than an hour on one core
    python benchmarks/likelihood.py --quick --out likelihood                # a minute

* Mixtures: three Gaussians in 1, 2 and 16 dimensions, the exact velocity of the straight line, in float64. The largest
  error of the log-density of 100 samples with the exact divergence, by tolerance and by steps; and the mean error with
  100 probes for each sample, in its standard errors.
* Round trip: from the same samples to noise and back, relative to each, by tolerance.
* Field: log K on 32 x 32 points, the exponential covariance, all modes. The exact linear flow from N(0, I), against the
  closed form.
* Trained: models of the same log K, in the coordinates of all modes and in points. The gap is the mean over 50 new
  fields of the true log-density less the model's, in nats for each of 1024 dimensions; beside it that of the Gaussian
  law that the model is before training, by the mean and covariance (coordinates) or the variances (points) of the data.
  Points have 8 probes a sample.
* Training: nats above the entropy of the mixture in the plane, of one small network trained by maximum likelihood and
  by flow matching, after the same numbers of steps, and the time that they took.
* Digits: bits per dimension of the 360 digits that were held out, 8 x 8 pixels of 17 values, spread over their bins;
  with a latent it is a bound, by 8 draws. Uniform pixels would have log2 17 = 4.09.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from typing import Any

import matplotlib
import numpy as np
import torch
import xarray as xr
from digits import HELD_OUT, methods
from harness import Benchmark, options_of
from matplotlib.figure import Figure
from torch import Tensor, nn

import physflow
from physflow.config import MLPConfig, ModelConfig, TrainingConfig, UNetConfig, to_dict
from physflow.data.covariances import Exponential
from physflow.data.toys import GaussianMixture
from physflow.fitting import train_model
from physflow.generative import (
    RK4,
    Adaptive,
    DrawnBatches,
    FlowMatching,
    Hutchinson,
    LinearPath,
    MaximumLikelihood,
    Objective,
    Velocity,
    invert,
    log_likelihood,
    train,
)
from physflow.report.drawing import COLORS, panel, styled
from physflow.results import Quantity, Table

DIMENSIONS, TOLERANCES = (1, 2, 16), (1e-4, 1e-6, 1e-8)
POINTS = 32


def mixture(d: int) -> GaussianMixture:
    """Three components in d dimensions."""
    generator = torch.Generator().manual_seed(d)
    means = 1.5 * torch.randn(3, d, generator=generator, dtype=torch.float64)
    roots = 0.3 * torch.randn(3, d, d, generator=generator, dtype=torch.float64) / math.sqrt(d)
    return GaussianMixture([0.5, 0.3, 0.2], means, roots @ roots.mT + 0.2 * torch.eye(d, dtype=torch.float64))


def of_mixture(d: int, n: int) -> list[dict[str, Any]]:
    """Errors with the exact velocity."""
    law = mixture(d)
    x, found = law.sample(n, torch.Generator().manual_seed(0)), []
    velocity, truth = law.flow(LinearPath()).velocity, law.log_density(x)
    for tolerance in TOLERANCES:
        solver = Adaptive(rtol=tolerance, atol=tolerance)
        got, back = log_likelihood(velocity, x, solver), invert(velocity, x, solver, tolerance=1.0)
        error, trip = float((got.log_density - truth).abs().max()), float(back.round_trip_error.max())
        found.append({"by": f"dopri5, {tolerance:g}", "error": error, "trip": trip})
    for steps in (10, 50):
        got, back = log_likelihood(velocity, x, RK4(), steps), invert(velocity, x, RK4(), steps, tolerance=1.0)
        error, trip = float((got.log_density - truth).abs().max()), float(back.round_trip_error.max())
        found.append({"by": f"RK4, {steps} steps", "error": error, "trip": trip})
    for name in ("rademacher", "gaussian"):
        settings: dict[str, Any] = {"divergence": Hutchinson(100, name), "generator": torch.Generator().manual_seed(1)}
        got = log_likelihood(velocity, x, RK4(), 50, **settings)
        size = float(got.standard_error.square().sum().sqrt() / n)
        # In one dimension signs leave nothing to chance.
        errors = float((got.log_density - truth).mean().abs()) / size if size > 1e-12 else 0.0
        found.append({"by": f"100 probes, {name}", "spread": float(got.standard_error.mean()), "errors": errors})
    return found


class FieldLaw:
    """The law of log K on a grid: its covariance, its flow and draws of it."""

    def __init__(self) -> None:
        points = (np.stack(np.meshgrid(*[np.arange(POINTS)] * 2, indexing="ij"), -1).reshape(-1, 2) + 0.5) / POINTS
        distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
        self.covariance = torch.from_numpy(Exponential(0.1)(distances))
        self.values, self.vectors = torch.linalg.eigh(self.covariance)

    def log_density(self, x: Tensor) -> Tensor:
        """The log-density of log K, shape (batch, n, n)."""
        y = x.flatten(1) @ self.vectors
        return -0.5 * (y.square() / self.values + self.values.log() + math.log(2 * math.pi)).sum(1)

    def velocity(self) -> Velocity:
        """The exact velocity from N(0, I) on the straight line."""

        def velocity(x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
            s = t[:, None]
            rate = (s * self.values - (1 - s)) / (s**2 * self.values + (1 - s) ** 2)
            return ((x.flatten(1) @ self.vectors * rate) @ self.vectors.T).view_as(x)

        return velocity


def of_field(n: int, tolerance: float) -> dict[str, Any]:
    """The error of the exact linear flow."""
    law = FieldLaw()
    normal = torch.randn(n, len(law.values), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (normal * law.values.sqrt() @ law.vectors.T).view(n, 1, POINTS, POINTS)
    start = time.perf_counter()
    got = log_likelihood(law.velocity(), x, Adaptive(rtol=tolerance, atol=tolerance))
    truth = law.log_density(x[:, 0])
    return {
        "error": float((got.log_density - truth).abs().max()),
        "value": float(truth.mean()),
        "seconds": time.perf_counter() - start,
    }


MODELS = {
    "all modes, perceptron": (
        ModelConfig(energy=1.0, rank=POINTS**2, mlp=MLPConfig(width=512, blocks=2)),
        TrainingConfig(steps=2000, batch_size=512, validation=0.0),
    ),
    "points, U-Net": (
        ModelConfig("pixel", network="unet", unet=UNetConfig(16, (1, 2, 4), 1, frequency=10.0)),
        TrainingConfig(steps=1500, batch_size=64, validation=0.0, evaluate_every=10**6),
    ),
}


def of_model(bench: Benchmark, key: str) -> list[dict[str, Any]]:
    """The gap of a model before and after its training."""
    quick, law = bench.settings["quick"], FieldLaw()
    data = bench.work / "fields.nc"
    samples = 1100 if quick else 8000
    if not data.exists():
        physflow.data.darcy.generate(samples, resolution=POINTS, modes=None, out=data).close()
    new = physflow.data.darcy.generate(3 if quick else 50, resolution=POINTS, modes=None, seed=1, dtype="float64")
    new, found = new[["permeability"]], []
    log_k = torch.from_numpy(np.log(new["permeability"].values))
    truth = law.log_density(log_k)
    for trained in (False, True):
        config, training = MODELS[key]
        steps = (2 if quick else training.steps) if trained else 0
        training = dataclasses.replace(training, steps=steps, warmup=steps // 10)
        folder = bench.work / f"{key.split(',')[0].replace(' ', '-')}-{steps}"
        if not (folder / "config.yaml").exists():
            with bench.clock(folder.name):
                train_model(data, folder, model=config, training=training, fields=["permeability"], progress=True)
        model = physflow.load(folder)
        got = model.log_likelihood(new, steps=4 if quick else 40, probes=2 if quick else 8, progress=True)
        # The density of K, and that of its logarithm.
        nats = torch.from_numpy(got["log_likelihood"].values) + log_k.flatten(1).sum(1)
        back = model.invert(new, Adaptive(rtol=1e-6, atol=1e-6), tolerance=1.0)
        found.append(
            {
                "state": f"{steps} steps of training" if trained else "before training",
                "gap": float((truth - nats).mean()) / POINTS**2,
                "spread": float((truth - nats).std()) / POINTS**2,
                "probes": float(got["standard_error"].mean()) / POINTS**2,
                "trip": float(back["round_trip_error"].max()),
                "seconds": bench.seconds(folder.name),
            }
        )
    return found


class Smooth(nn.Module):
    """A small velocity without fast sinusoids of the time, which would cost an adaptive solver many steps."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The velocity."""
        return self.layers(torch.cat([x, t[:, None]], dim=1))


def of_training(name: str, steps: int) -> dict[str, Any]:
    """Nats above the entropy."""
    law = mixture(2)
    objective: Objective = FlowMatching() if name == "flow matching" else MaximumLikelihood(rtol=1e-4, atol=1e-4)
    config = TrainingConfig(steps=steps, batch_size=256, learning_rate=5e-3, ema=0.95, warmup=steps // 10)
    torch.manual_seed(0)
    start = time.perf_counter()
    batches = DrawnBatches(lambda n, g: law.sample(n, g, dtype=torch.float32), 256, seed=3)
    network = train(Smooth(), objective, batches, config, progress=True)
    seconds = time.perf_counter() - start
    x = law.sample(2000, torch.Generator().manual_seed(9))
    got = log_likelihood(network.double(), x, Adaptive(rtol=1e-6, atol=1e-6))
    return {"gap": float((law.log_density(x) - got.log_density).mean()), "seconds": seconds}


def of_digits(bench: Benchmark, key: str) -> dict[str, Any]:
    """Bits per dimension of digits that were held out."""
    quick = bench.settings["quick"]
    ds = physflow.data.images.dequantise(physflow.data.images.digits(), seed=0)
    known, new = ds.isel(sample=slice(-HELD_OUT)), ds.isel(sample=slice(-HELD_OUT, None))
    data = physflow.data.write(known.drop_vars("label"), bench.work / "digits.nc", overwrite=True)
    config, training = methods(8, quick)[key]
    if key == "latent-cfm":
        # The law of z in generation needs a density.
        config = dataclasses.replace(config, latent=dataclasses.replace(config.latent, draw="mixture"))
    training = dataclasses.replace(training, steps=4 if quick else 2000, warmup=0 if quick else 200)
    folder = bench.work / f"digits-{key}"
    if not (folder / "config.yaml").exists():
        train_model(data, folder, model=config, training=training, progress=True)
    new = new.isel(sample=slice(4)) if quick else new
    model: physflow.Model = physflow.load(folder)
    got: xr.Dataset = model.log_likelihood(new, steps=4 if quick else 20, probes=4, draws=8, progress=True)
    return {"bits": float(got["bits_per_dimension"].mean()), "spread": float(got["bits_per_dimension"].std())}


@styled
def gaps(bench: Benchmark) -> Figure:
    """The gap by steps of both trainings."""
    figure, ax = panel("training a small flow in the plane", (4.6, 3.4), xlabel="time of training, s")
    for name, color in zip(("flow matching", "maximum likelihood"), COLORS, strict=False):
        own = [row for row in bench.rows if row.get("part") == "training" and row["method"] == name]
        ax.plot([r["seconds"] for r in own], [r["gap"] for r in own], marker="o", color=color, label=name)
    ax.set(xscale="log", yscale="log", ylabel="nats above the entropy")
    ax.grid()
    ax.legend()
    return figure


def main() -> None:
    """Measure all, and draw the figure."""
    options = options_of(__doc__, 1)
    quick = options.quick
    bench = Benchmark(options.out, {"quick": quick, "models": {k: list(map(to_dict, v)) for k, v in MODELS.items()}})
    for d in DIMENSIONS:
        bench.add(functools.partial(of_mixture, d, 5 if quick else 100), part="mixture", d=d)
    for tolerance in (1e-2,) if quick else (1e-4, 1e-6):
        piece = functools.partial(of_field, 1 if quick else 4, tolerance)
        bench.add(piece, part="field", by=f"dopri5, {tolerance:g}")
    for key in MODELS:
        bench.add(functools.partial(of_model, bench, key), part="model", model=key)
    for steps in (5, 10) if quick else (125, 250, 500, 1000):
        for name in ("flow matching", "maximum likelihood"):
            bench.add(functools.partial(of_training, name, steps), part="training", method=name, steps=steps)
    for key, name in (("i-cfm", "I-CFM"), ("latent-cfm", "Latent-CFM, a bound")):
        bench.add(functools.partial(of_digits, bench, key), part="digits", method=name)
    bench.picture("training.png", gaps(bench), "Nats above the entropy by the time of training; 4 numbers of steps.")
    error, trip = Quantity("error", "largest error, nats"), Quantity("trip", "largest round-trip error")
    seconds, gap = Quantity("seconds", "time", "s"), Quantity("gap", "gap")
    probes = (Quantity("spread", "standard error of a sample, nats"), Quantity("errors", "mean error, standard errors"))
    model = (gap, Quantity("spread", "its spread"), Quantity("probes", "error by probes"), trip, seconds)
    exact = (*(f"dopri5, {tolerance:g}" for tolerance in TOLERANCES), "RK4, 10 steps", "RK4, 50 steps")
    tables = [
        *(Table(f"Mixtures, {by}", ("d",), (error, trip), where={"part": "mixture", "by": by}) for by in exact),
        *(
            Table(f"Mixtures, 100 probes, {law}", ("d",), probes, where={"part": "mixture", "by": f"100 probes, {law}"})
            for law in ("rademacher", "gaussian")
        ),
        Table("Field of 32 x 32 points", ("by",), (error, Quantity("value", "mean"), seconds), where={"part": "field"}),
        Table("Trained models, nats per dimension", ("model", "state"), model, where={"part": "model"}),
        Table("Nats above the entropy, by steps", ("method",), (gap,), "steps", {"part": "training"}),
        Table("Time of training", ("method",), (seconds,), "steps", {"part": "training"}),
        Table(
            "Digits",
            ("method",),
            (Quantity("bits", "bits per dimension"), Quantity("spread", "spread")),
            where={"part": "digits"},
        ),
    ]
    bench.finish("Likelihoods of flows", (__doc__ or "").split("\n\n", 2)[2], 1, tables)


if __name__ == "__main__":
    matplotlib.use("agg")
    main()
