"""The methods of the Darcy benchmark: their settings, how long a step of each takes, and how samples are drawn.

All pixel methods share one U-Net and one training; what differs is the latent. An encoder is named after its share of
the flow's parameters. The reference has shares of 0.07, 1 and 16 in 34 million, and a large I-CFM of 65 million; ours
has 2.1 times the parameters of the small one.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import xarray as xr
from torch import nn

from physflow.assembly import make_network
from physflow.config import EncoderConfig, LatentConfig, MLPConfig, ModelConfig, SamplingConfig, TrainingConfig
from physflow.config import UNetConfig as UNet
from physflow.data import files
from physflow.fitting import train_model, with_prior
from physflow.generative import Conditioned
from physflow.grid import Grid
from physflow.model import Model

__all__ = ["KEYS", "Method", "budget_of", "count", "drawn", "methods", "parameters", "step_times"]

KEYS = (
    *("i-cfm", "i-cfm-large", "latent-0.2", "latent-3", "latent-45", "latent-map", "two-stage", "latent-2d", "v-rfm"),
    *("pod-latent", "regression"),
)
"""The names of the methods on the command line and of their folders."""
GIVEN = "law of K"
"""How the latent of a model that is given K is drawn: from fresh permeabilities of the law."""


@dataclass(frozen=True)
class Method:
    """One way to learn the pairs.

    Attributes:
        name: Its name in tables and figures.
        model: The settings of the model.
        training: The settings of the training, but for its steps and seed.
        draws: How its z is drawn, one set of samples each; the first is the method's own.
        solvers: The solvers and their steps; all draws but the first are integrated by the first alone.
    """

    name: str
    model: ModelConfig
    training: TrainingConfig
    draws: tuple[str, ...]
    solvers: tuple[tuple[str, int], ...]

    @property
    def sets(self) -> list[tuple[str, str, int]]:
        """How each set of samples is made: how z is drawn, the solver and its steps; the first is the method's own."""
        return [(draw, *solver) for draw in self.draws[:1] for solver in self.solvers] + [
            (draw, *self.solvers[0]) for draw in self.draws[1:]
        ]

    def of(self, steps: int, seed: int = 0) -> dict[str, ModelConfig | TrainingConfig | SamplingConfig]:
        """The arguments of `train_model` for so many steps; a VAE is trained for as many before."""
        model, warmup = self.model, min(self.training.warmup, steps // 10)
        if model.latent.kind == "vae":
            model = dataclasses.replace(model, latent=dataclasses.replace(model.latent, pretraining_steps=steps))
        return {
            "model": model,
            "training": dataclasses.replace(self.training, steps=steps, warmup=warmup, seed=seed),
            "sampling": SamplingConfig(solver=self.solvers[0][0], steps=self.solvers[0][1]),
        }


def methods(resolution: int, quick: bool = False) -> dict[str, Method]:
    """The methods for pairs on `resolution` x `resolution` points, 32 or 64.

    Arguments:
        resolution: The points along an axis.
        quick: Whether networks are small and fits short, to see that all runs.
    """
    # One level more on the finer grid, so that the encoder's last grid is 4 x 4 on both.
    finer = (1,) * (resolution // 32 - 1)
    encoders = {
        "0.2": EncoderConfig(width=8, channels=2, multipliers=(*finer, 1, 1, 1, 1)),
        "3": EncoderConfig(width=48, channels=6, multipliers=(*finer, 1, 1, 2, 2)),
        "45": EncoderConfig(width=128, channels=16, multipliers=(*finer, 1, 2, 3, 4)),
        # Wide on the coarse grids alone: a step takes hardly longer than without it.
        "map": EncoderConfig(width=128, channels=4, multipliers=(*finer, 1, 4, 8)),
    }
    # The large one is wider on the coarse grids, where that costs the least time.
    channels, levels, steps = (8, ((1, 2), (1, 3)), 4) if quick else (16, ((1, 2, 4), (1, 3, 6)), 20)
    solvers = (("heun", steps), ("euler", steps))
    fitting = {"fitted": 4, "fitting_steps": 20 if quick else 2000}
    small, large = (
        ModelConfig(space="pixel", network="unet", unet=UNet(channels, each, blocks=1, modulation="adaptive"))
        for each in levels
    )
    batch = 8 if quick else 32
    pixels = TrainingConfig(batch_size=batch, learning_rate=6e-3, schedule="cosine", ema=0.99, evaluate_every=500)

    def latent(name: str, encoder: str, *draws: str, kind: str = "posterior", **more: object) -> Method:
        settings = {"dimension": 32, "beta": 1e-3, **fitting, "encoder": encoders[encoder], **more}
        unet = dataclasses.replace(small.unet, fusion="map" if encoder == "map" else "adaptive")
        model = dataclasses.replace(small, unet=unet, latent=LatentConfig(kind, **settings))
        return Method(name, model, pixels, draws, solvers)

    every = ("encodings", "normal", "mixture", "flow")
    pod = ModelConfig(
        rank=16 if quick else 128,
        mlp=MLPConfig(width=64 if quick else 512, blocks=4),
        precondition="input",
        # Its samples are drawn for permeabilities of the law, whatever that is.
        latent=LatentConfig("fields", fields=("permeability",), draw="encodings"),
    )
    vectors = TrainingConfig(batch_size=512, prediction="data", evaluate_every=250)
    regression = TrainingConfig(batch_size=512, objective="regression", evaluate_every=250)
    found = (
        Method("I-CFM", small, pixels, ("none",), solvers),
        Method("I-CFM, large", large, pixels, ("none",), solvers),
        *(latent(f"Latent-CFM, encoder of {share} %", share, *every) for share in ("0.2", "3", "45")),
        latent("Latent-CFM, z as a map", "map", *every, beta=1e-4),
        latent("Latent-CFM, two stages", "3", "encodings", kind="vae"),
        latent("Latent-CFM, z of 2 components", "3", *every, dimension=2),
        latent("V-RFM", "3", "normal", inputs=("x0", "x1", "xt")),
        Method("POD latent of log K", pod, vectors, (GIVEN,), solvers[1:]),
        Method(
            "regression of p on log K",
            dataclasses.replace(pod, precondition="none"),
            regression,
            (GIVEN,),
            (("euler", 1),),
        ),
    )
    return dict(zip(KEYS, found, strict=True))


def count(network: nn.Module) -> tuple[int, int]:
    """The parameters of the flow, and those of the encoder with the head that makes z of its features."""
    encoder = sum(p.numel() for p in network.latent.parameters()) if isinstance(network, Conditioned) else 0
    return sum(p.numel() for p in network.parameters()) - encoder, encoder


def parameters(method: Method, resolution: int) -> tuple[int, int]:
    """The parameters (`count`) of a pixel method, before any training."""
    grid = Grid((resolution, resolution), ((0.0, 1.0), (0.0, 1.0)))
    return count(make_network(method.model, method.training, {"permeability": 1, "pressure": 1}, grid))


def budget_of(quick: bool, steps: int | None, seconds: float | None) -> dict[str, float]:
    """What each method is trained for, by the options of the command line: a number of steps or a time.

    Arguments:
        quick: Whether this is the quick run, which has steps of its own.
        steps: `--steps`, if given.
        seconds: `--seconds`, if given.

    Raises:
        SystemExit: If they do not go together, or are below 1.
    """
    given = {name: value for name, value in (("steps", steps), ("seconds", seconds)) if value is not None}
    if quick and given:
        raise SystemExit(f"--quick has steps of its own: leave out --{' and --'.join(given)}")
    if len(given) > 1:
        raise SystemExit(f"expected --steps or --seconds, got both ({steps} and {seconds}): leave one out")
    for name, value in given.items():
        # A value that is not a number is below nothing.
        if not 1 <= value < math.inf:
            raise SystemExit(f"expected --{name} of at least 1, got {value}")
    return {"steps": 20} if quick else given or {"seconds": 600.0}


def step_times(
    method: Method, reference: Method, data: Path, folder: Path, rounds: int, steps: tuple[int, int]
) -> tuple[float, float]:
    """The time of a step of a method, without what a training does once, and its ratio to that of another.

    A round trains both in turns, each for the fewer and for the more steps, and gives the times of the steps between;
    the results are medians over the rounds. A ratio of the same minute is steadier than a time.

    Arguments:
        method: The method.
        reference: The other method.
        data: Pairs, more than a batch.
        folder: For the trainings, which are not kept.
        rounds: How many rounds.
        steps: The fewer and the more steps.
    """
    few, many = steps

    def seconds(one: Method, n: int) -> float:
        start = time.perf_counter()
        train_model(data, folder, **one.of(n), overwrite=True)
        return time.perf_counter() - start

    def step(one: Method) -> float:
        less, more = (seconds(one, n) for n in steps)
        # On a machine busy with other things the shorter training can take longer: then an upper bound.
        return (more - less) / (many - few) if more > less else more / many

    # The first training of a process is slower than all others.
    seconds(reference, few)
    pairs = [(step(method), step(reference)) for _ in range(rounds)]
    return statistics.median(own for own, _ in pairs), statistics.median(own / other for own, other in pairs)


def drawn(made: tuple[str, str, int], model: Model, data: Path, given: Path, samples: int, seed: int) -> xr.Dataset:
    """Samples of a model with their scores.

    Arguments:
        made: How z is drawn, the solver and its steps.
        model: The trained model.
        data: Its training pairs.
        given: Fresh pairs of the law, whose permeabilities are given to the models that are told K.
        samples: How many.
        seed: The seed of the samples.
    """
    draw, solver, steps = made
    if draw == GIVEN:
        with files.open(given) as ds:
            z = model.encode(ds.isel(sample=slice(samples)))
        return model.decode(z, seed, solver, steps)
    if draw not in ("none", model.config.latent.drawn):
        model = with_prior(model, data, draw)
    return model.sample(samples, seed, solver, steps)
