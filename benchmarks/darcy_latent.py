"""Latent-CFM beside plain flow matching on pixels: Darcy pairs on 32 x 32 points, the same time for both.

    python benchmarks/darcy_latent.py --out benchmarks/results/darcy-latent      # 2 x 7 minutes of training on 2 cores
    python benchmarks/darcy_latent.py --quick --out darcy-latent            # about a minute

Both are the same U-Net on standardised point values of (log K, p), trained on the same 10,000 pairs (64 modes, between
Neumann walls, two wells). Latent-CFM (one stage) has beside it a convolutional encoder of the pair, trained together
with the velocity; its z enters with the time. The steps of each are the time allowed over the measured time of its
step, so the larger one takes fewer.

Then z is drawn in four ways from the one trained Latent-CFM: encodings of training pairs, as published; N(0, I); a
Gaussian mixture fitted to the encodings; a flow fitted to them. The ratio of distances says whether samples lean on
training pairs: the distance to the nearest of them over that to the nearest of as many fresh pairs, 1 if they do not.
Its anchor is the ratio of the fresh pairs' own kind: pairs that the model never saw.

Reference: A. Samaddar et al., "Efficient flow matching using latent variables", 2025, section 4.3 and Table 3.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy.stats import wasserstein_distance

import physflow
from physflow.config import EncoderConfig, LatentConfig, ModelConfig, TrainingConfig, UNetConfig
from physflow.data import darcy, files
from physflow.fields import to_tensor
from physflow.fitting import train_model, with_prior
from physflow.machine import machine, versions
from physflow.metrics import nearest_ratio
from physflow.model import Model, load

UNET = UNetConfig(channels=16, multipliers=(1, 2, 4), blocks=1, modulation="adaptive")
PIXELS = ModelConfig(space="pixel", network="unet", unet=UNET)
ENCODER = EncoderConfig(width=128, channels=16, multipliers=(1, 2, 4, 4), blocks=1)
MODELS = {
    "I-CFM": PIXELS,
    "Latent-CFM": dataclasses.replace(
        PIXELS, latent=LatentConfig("posterior", dimension=32, beta=1e-3, draw="encodings", fitted=4, encoder=ENCODER)
    ),
}
DRAWS = ("encodings", "normal", "mixture", "flow")
SOLVER, STEPS = "euler", 20


def pairs(path: Path, samples: int, seed: int) -> Path:
    """The file of that many pairs, made if it is not there."""
    if not path.exists():
        darcy.generate(samples, resolution=32, modes=64, seed=seed, out=path, progress=True).close()
    return path


def seconds_per_step(data: Path, out: Path, training: TrainingConfig) -> dict[str, float]:
    """The time of a step of each model, in turns: 50 steps, without what a training does once; medians of five."""
    path = out / "seconds_per_step.json"
    if path.exists():
        return json.loads(path.read_text())
    taken: dict[tuple[str, int], list[float]] = {}
    for _ in range(5):
        for name, model in MODELS.items():
            for steps in (10, 60):
                start = time.perf_counter()
                short = dataclasses.replace(training, steps=steps, evaluate_every=1000)
                train_model(data, out / "timing", model=model, training=short, overwrite=True)
                taken.setdefault((name, steps), []).append(time.perf_counter() - start)
    each = {n: (statistics.median(taken[n, 60]) - statistics.median(taken[n, 10])) / 50 for n in MODELS}
    path.write_text(json.dumps(each))
    return each


def trained(name: str, data: Path, out: Path, steps: int, training: TrainingConfig) -> tuple[Model, dict[str, Any]]:
    """A model trained for so many steps, and what it cost; one that exists is loaded."""
    folder = out / name.lower()
    if not (folder / "cost.json").exists():
        start = time.perf_counter()
        settings = {"model": MODELS[name], "training": dataclasses.replace(training, steps=steps)}
        train_model(data, folder, **settings, overwrite=True, progress=True)
        cost = {"steps": steps, "seconds": round(time.perf_counter() - start, 1)}
        (folder / "cost.json").write_text(json.dumps(cost))
    model = load(folder)
    parameters = sum(p.numel() for p in model.network.parameters())
    return model, {"parameters": parameters, **json.loads((folder / "cost.json").read_text())}


def quartiles(values: xr.DataArray) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return [float(value) for value in np.nanquantile(values, [0.25, 0.5, 0.75])]


def standardised(ds: xr.Dataset, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(log K, p), each field with mean 0 and standard deviation 1 over the data."""
    fields = to_tensor(ds, darcy.FIELDS).double()
    fields = torch.stack([fields[:, 0].log(), fields[:, 1]], 1)
    return (fields - mean) / std


def row(name: str, ds: xr.Dataset, data: xr.Dataset, fresh: xr.Dataset) -> dict[str, Any]:
    """What samples score beside the data."""
    log = torch.from_numpy(np.log(data["permeability"].values)).double()
    p = torch.from_numpy(data["pressure"].values).double()
    mean = torch.stack([log.mean(), p.mean()])[None, :, None, None]
    std = torch.stack([log.std(), p.std()])[None, :, None, None]
    x, training, held_out = (standardised(part, mean, std) for part in (ds, data, fresh))
    ratio = nearest_ratio(x.flatten(1), training.flatten(1), held_out.flatten(1))
    found = {"method": name, **{score: quartiles(ds[score]) for score in ("residual_mse", "solution_error")}}
    found["std_ratio_log_permeability"] = float(x[:, 0].std() / training[:, 0].std())
    found["std_ratio_pressure"] = float(x[:, 1].std() / training[:, 1].std())
    thinned = training[:: max(1, len(training) // 500)]
    found["wasserstein_log_permeability"] = wasserstein_distance(x[:, 0].flatten(), thinned[:, 0].flatten())
    found["nearest_ratio"] = [float(q) for q in ratio.quartiles]
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| samples | residual_mse | solution_error | std ratio log K | std ratio p | W1 of log K | nearest ratio |",
        "|---" * 7 + "|",
    ]
    for r in rows:
        cells = [r["method"], f"{r['residual_mse'][1]:.3g}", f"{100 * r['solution_error'][1]:.2f} %"]
        cells += [f"{r[key]:.3f}" for key in ("std_ratio_log_permeability", "std_ratio_pressure")]
        cells += [f"{r['wasserstein_log_permeability']:.3f}", f"{r['nearest_ratio'][1]:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train both, draw, score, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results; a rerun goes on there")
    parser.add_argument("--quick", action="store_true", help="500 pairs and 10 seconds, to see that it runs")
    parser.add_argument("--seconds", type=float, default=420, help="training time of each model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    count, samples, seconds = (500, 100, 10.0) if options.quick else (10_000, 200, options.seconds)
    options.out.mkdir(parents=True, exist_ok=True)
    training = TrainingConfig(batch_size=32, learning_rate=1e-3, seed=options.seed, evaluate_every=500)

    path = pairs(options.out / "data.nc", count, 0)
    data = files.open(path).load()
    fresh = files.open(pairs(options.out / "fresh.nc", count, 1)).load()
    each = seconds_per_step(path, options.out, training)
    plain, plain_cost = trained("I-CFM", path, options.out, int(seconds / each["I-CFM"]), training)
    latent, latent_cost = trained("Latent-CFM", path, options.out, int(seconds / each["Latent-CFM"]), training)
    settings = {"seed": 1, "solver": SOLVER, "steps": STEPS, "progress": True}
    rows = [row("I-CFM", plain.sample(samples, **settings), data, fresh)]
    for draw in DRAWS:
        ds = with_prior(latent, path, draw).sample(samples, **settings)
        rows.append(row(f"Latent-CFM, z from {draw}", ds, data, fresh))
    other = files.open(pairs(options.out / "other.nc", samples, 2)).load()
    rows.append(row("other pairs of the law", physflow.pde.score(other).merge(other), data, fresh))
    results = {
        "settings": {
            "pairs": count,
            "samples": samples,
            "solver": SOLVER,
            "steps": STEPS,
            "seconds": seconds,
            "seed": options.seed,
        },
        "hardware": {**machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "seconds_per_step": each,
        "models": {"I-CFM": plain_cost, "Latent-CFM": latent_cost},
        "rows": rows,
    }
    (options.out / "results.json").write_text(json.dumps(results, indent=1, default=str))
    ratio = rows[0]["residual_mse"][1] / rows[1]["residual_mse"][1]
    text = f"{table(rows)}\n\nResidual of I-CFM over that of Latent-CFM: {ratio:.2f}\n"
    (options.out / "table.md").write_text(text)
    print(text, json.dumps(results["models"]), sep="\n")
    assert math.isfinite(ratio)


if __name__ == "__main__":
    main()
