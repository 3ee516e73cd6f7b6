"""Handwritten digits by flow matching with and without a latent: distance from the data by the number of steps.

    python benchmarks/digits.py --out benchmarks/results/digits           # about 12 minutes on 2 cores
    python benchmarks/digits.py --quick --out digits                      # about a minute
    python benchmarks/digits.py --resolution 8 --seeds 3 --out DIR        # about 20 minutes

The digits of scikit-learn, 8 x 8 pixels, and the same interpolated to 16 x 16: 1,437 to train on, 360 held out. The
methods, by their names for --methods, are

* `i-cfm` and `ot-cfm`: a U-Net, noise and data paired at random, or by optimal transport in the batch;
* `consistency`: consistency flow matching in two segments, half of the steps on known ends, half on itself;
* `latent-cfm`: Latent-CFM in one stage: an encoder of the image, trained with the flow, makes z of 8 components, and z
  is drawn from encodings of training images, as published; and in `two-stage` the encoder is that of a VAE trained
  before, for as many steps, which are not counted;
* `v-rfm`: the encoder reads x0, x1 and xt, z is added to the embedding of the time and drawn from N(0, I); in
  `v-rfm-sum` it reads x1 and t, and z is summed with the coarsest features. The weight of the divergence from N(0, I)
  decides what they do (`digits_latents.py` tells it by that weight): with less, z of the training are unlike those of
  N(0, I); with more, there is no z to speak of, and what remains is I-CFM.

Network, training, noise and data are the same for all, and so is the number of steps of training; the time that they
take is told beside. A distance is that of Frechet between the features of a classifier, trained on the same images, for
1,000 samples and for all training images: it compares these methods on these digits, and is no FID. That of the
held-out digits is told beside it; with 360 of them it is larger than with as many as there are samples. The least that
can be told apart is the distance of as many digits of training as there are samples, drawn again.

Reference: the methods of A. Samaddar et al., "Efficient flow matching using latent variables", 2025, Table 2, and of
P. Guo, A. Schwing, "Variational rectified flow matching", ICML 2025, Tables 1 and 2, on images that need no download.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import xarray as xr
from digits_classifier import accuracy, trained
from harness import Benchmark, options_of
from matplotlib.figure import Figure

from physflow.config import EncoderConfig, LatentConfig, ModelConfig, TrainingConfig, UNetConfig, to_dict
from physflow.data import files
from physflow.data.images import digits, to_pixels
from physflow.fitting import train_model
from physflow.metrics import feature_statistics, frechet_distance
from physflow.model import Model, load
from physflow.report.drawing import COLORS, LINES, panel, styled
from physflow.results import Quantity, Table

NFE = (2, 5, 10, 100)
"""Steps of Euler's method."""
HELD_OUT = 360
NAMES = {
    "i-cfm": "I-CFM",
    "ot-cfm": "OT-CFM",
    "consistency": "Consistency-FM",
    "latent-cfm": "Latent-CFM",
    "two-stage": "Latent-CFM, two stages",
    "v-rfm": "V-RFM (x0, x1, xt), with the time",
    "v-rfm-sum": "V-RFM (x1, t), bottleneck sum",
}
DATA, AGAIN = "held-out digits", "digits of training, drawn again"
DISTANCE = Quantity("distance", "Frechet distance (classifier of digits)")


def methods(resolution: int, quick: bool) -> dict[str, tuple[ModelConfig, TrainingConfig]]:
    """The settings of each method, but for steps and seed."""
    encoder = EncoderConfig(width=64, channels=8, multipliers=(1, 2, 2))
    unet = UNetConfig(*((16, (1, 2)) if resolution == 8 else (8, (1, 2, 4))), 1, modulation="adaptive")
    plain = ModelConfig(space="pixel", log=(), network="unet", unet=unet)
    training = TrainingConfig(
        batch_size=16 if quick else 64, learning_rate=3e-3, ema=0.99, validation=0.0, evaluate_every=10**6
    )

    def latent(kind: str, inputs: Sequence[str] = ("x1",), fusion: str = "adaptive", beta: float = 1e-3) -> ModelConfig:
        settings = {"inputs": tuple(inputs)} if kind == "posterior" else {}
        found = LatentConfig(kind, dimension=8, beta=beta, encoder=encoder, **settings)
        return dataclasses.replace(plain, unet=dataclasses.replace(unet, fusion=fusion), latent=found)

    return {
        "i-cfm": (plain, training),
        "ot-cfm": (plain, dataclasses.replace(training, coupling="ot")),
        "consistency": (plain, dataclasses.replace(training, objective="consistency")),
        "latent-cfm": (latent("posterior"), training),
        "two-stage": (latent("vae"), training),
        "v-rfm": (latent("posterior", ("x0", "x1", "xt"), beta=1e-2), training),
        "v-rfm-sum": (latent("posterior", ("x1", "t"), "bottleneck", beta=1e-2), training),
    }


class Case:
    """The digits at one resolution: a file of those to train on, and the classifier that compares.

    Arguments:
        bench: The benchmark, with its settings.
        resolution: The pixels along an axis.
    """

    def __init__(self, bench: Benchmark, resolution: int) -> None:
        self.bench, self.resolution, self.folder = bench, resolution, bench.work / str(resolution)
        self.folder.mkdir(exist_ok=True)
        ds = digits(resolution)
        # The set has no order of classes, but one of writers: those of the last images are new.
        self.known, self.new = ds.isel(sample=slice(-HELD_OUT)), ds.isel(sample=slice(-HELD_OUT, None))
        self.data = files.write(self.known.drop_vars("label"), self.folder / "digits.nc", overwrite=True)
        images = torch.from_numpy(to_pixels(self.known))
        self.features = trained(images, torch.from_numpy(self.known["label"].values), bench.settings["classifier"])
        self.statistics = feature_statistics([self.features(images)])

    def anchors(self) -> list[dict[str, Any]]:
        """What the digits that were held out score, and as many of those of training as there are samples."""
        again = np.random.default_rng(0).integers(0, self.known.sizes["sample"], self.bench.settings["samples"])

        def row(name: str, ds: xr.Dataset) -> dict[str, Any]:
            images, labels = torch.from_numpy(to_pixels(ds)), torch.from_numpy(ds["label"].values)
            return {
                "method": name,
                "distance": self.distance(ds),
                "accuracy": accuracy(self.features, images, labels),
            }

        return [row(DATA, self.new), row(AGAIN, self.known.isel(sample=again))]

    def distance(self, ds: xr.Dataset) -> float:
        """The distance of images from the digits to train on."""
        return frechet_distance(feature_statistics([self.features(torch.from_numpy(to_pixels(ds)))]), self.statistics)

    def model(self, key: str, seed: int) -> Model:
        """The model of a method and a seed."""
        settings = self.bench.settings
        model, training = methods(self.resolution, settings["quick"])[key]
        return self.trained(key, model, training, settings["steps"][str(self.resolution)], seed)

    def trained(self, key: str, model: ModelConfig, training: TrainingConfig, steps: int, seed: int) -> Model:
        """A model: one that is there is loaded, otherwise it is trained, an interrupted training goes on."""
        folder = self.folder / f"{key}-{seed}"
        if not (folder / "config.yaml").exists():
            if model.latent.kind == "vae":
                model = dataclasses.replace(model, latent=dataclasses.replace(model.latent, pretraining_steps=steps))
            training = dataclasses.replace(training, steps=steps, warmup=steps // 10, seed=seed)
            with self.bench.clock(f"{self.resolution}-{key}-{seed}"):
                train_model(self.data, folder, model=model, training=training, progress=True)
        return load(folder)

    def file(self, key: str, seed: int, steps: int) -> Path:
        """The file of a set of samples."""
        return self.folder / f"{key}-{seed}" / f"euler-{steps}.nc"

    def rows(self, key: str, seed: int) -> list[dict[str, Any]]:
        """The distances of a method."""
        model, found = self.model(key, seed), []
        for steps in NFE:
            ds = model.sample(self.bench.settings["samples"], seed + 1, "euler", steps, progress=True)
            files.write(ds, self.file(key, seed, steps), overwrite=True)
            evaluations = int(ds.attrs["evaluations"])
            found.append({"part": "samples", "evaluations": evaluations, "distance": self.distance(ds)})
        flow = sum(p.numel() for p in model.network.parameters())
        seconds = self.bench.seconds(f"{self.resolution}-{key}-{seed}")
        return [*found, {"part": "training", "parameters": flow, "seconds": seconds}]


@styled
def curves(rows: Sequence[Mapping[str, Any]], resolution: int) -> Figure:
    """The distance of each method by evaluations, the mean over seeds."""
    figure, ax = panel(f"{resolution} x {resolution} digits", (6.4, 3.6))
    own = [row for row in rows if row["resolution"] == resolution]
    for i, name in enumerate(NAMES.values()):
        means = []
        for steps in NFE:
            found = [r["distance"] for r in own if r["method"] == name and r.get("evaluations") == steps]
            means.append(np.mean(found) if found else np.nan)
        if np.isfinite(means).any():
            ax.plot(NFE, means, LINES[i // len(COLORS)], color=COLORS[i % len(COLORS)], marker="o", label=name)
    for name, line in ((DATA, ":"), (AGAIN, "--")):
        level = next(row["distance"] for row in own if row["method"] == name)
        ax.axhline(level, color="black", linestyle=line, linewidth=1, label=name)
    ax.set(xscale="log", yscale="log", xlabel="evaluations (Euler)", ylabel="Frechet distance (classifier)")
    ax.set_xticks(NFE, [str(n) for n in NFE])
    ax.minorticks_off()
    ax.grid()
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    return figure


@styled
def gallery(case: Case, chosen: Sequence[str], shown: int = 10) -> Figure:
    """The first samples of each method below digits: at the left by 2 steps, at the right by 100."""
    figure = Figure((8.6, 0.34 * (len(chosen) + 1) + 0.5), layout="constrained")
    for ax, steps in zip(figure.subplots(1, 2, sharey=True), (NFE[0], NFE[-1]), strict=True):
        lines = [to_pixels(case.known.isel(sample=slice(shown)))]
        for key in chosen:
            with files.open(case.file(key, 0, steps)) as ds:
                lines.append(to_pixels(ds.isel(sample=slice(shown))))
        # A margin, lest digits run into each other.
        margin, n = case.resolution // 8, case.resolution + 2 * (case.resolution // 8)
        spaced = [np.pad(line[:, 0], ((0, 0), (margin, margin), (margin, margin))) for line in lines]
        ax.imshow(np.concatenate([np.concatenate(line, axis=1) for line in spaced]), cmap="gray_r")
        ax.set_yticks([n * i + n / 2 for i in range(len(lines))], ["data", *(NAMES[key] for key in chosen)])
        ax.set(xticks=[], title=f"{steps} steps")
        ax.tick_params(length=0)
    return figure


def tables(resolutions: Sequence[int]) -> list[Table]:
    """The distances by evaluations, and the cost."""
    found = []
    for n in resolutions:
        where = {"resolution": n}
        title = f"{DISTANCE.label} at {n} x {n}, by evaluations"
        found += [
            Table(title, ("method",), (DISTANCE,), "evaluations", {**where, "part": "samples"}),
            Table(
                f"{n} x {n}: digits themselves, and how many of them the classifier names rightly",
                ("method",),
                (DISTANCE, Quantity("accuracy", "named rightly", "%")),
                where={**where, "part": "data"},
            ),
            Table(
                f"{n} x {n}: training",
                ("method",),
                (Quantity("parameters", "parameters, encoder included"), Quantity("seconds", "time", "s")),
                where={**where, "part": "training"},
            ),
        ]
    return found


def main() -> None:
    """Train, draw, score, and draw the figures."""
    options = options_of(
        __doc__,
        1,
        resolution={"type": int, "choices": (8, 16), "help": "pixels along an axis (default both)"},
        methods={"choices": tuple(NAMES), "nargs": "+", "default": tuple(NAMES), "metavar": "METHOD"},
    )
    quick = options.quick
    steps = {"8": 4, "16": 4} if quick else {"8": 1000, "16": 400}
    samples, classifier = (64, 30) if quick else (1000, 800)
    every = {f"{n}-{k}": to_dict(c) for n in (8, 16) for k, (c, _) in methods(n, quick).items()}
    sizes = {"steps": steps, "samples": samples, "classifier": classifier}
    training = to_dict(methods(8, quick)["i-cfm"][1])
    bench = Benchmark(options.out, {**sizes, "methods": every, "training": training, "quick": quick})
    for n in (options.resolution,) if options.resolution else (8, 16):
        case = Case(bench, n)
        bench.add(case.anchors, part="data", resolution=n)
        for seed in range(options.seeds):
            for key in options.methods:
                bench.add(functools.partial(case.rows, key, seed), resolution=n, method=NAMES[key], seed=seed)
        bench.picture(f"distance-{n}.png", curves(bench.rows, n), "Mean over seeds of the distance by evaluations.")
        text = "The first samples of every method, from the same noise for all."
        bench.picture(f"samples-{n}.png", gallery(case, options.methods), text)
    bench.finish(
        "Digits by flow matching with a latent", (__doc__ or "").split("\n\n", 2)[2], options.seeds, tables((8, 16))
    )


if __name__ == "__main__":
    matplotlib.use("agg")
    main()
