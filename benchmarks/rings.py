"""Variational rectified flow matching on two rings of Gaussians, beside rectified flow.

    python benchmarks/rings.py --out benchmarks/results/rings            # about 10 minutes on 2 cores
    python benchmarks/rings.py --quick --out rings                       # about half a minute

Six Gaussians on a circle of radius 1/3 are carried to six on a circle of radius 1, paired at random, so that straight
lines between them cross everywhere. The velocity that rectified flow learns is a mean over all lines through a point;
that of V-RFM is told by z which line is meant. Both are trained with the settings of the reference: perceptrons of
width 64, batches of 1,000 fresh pairs, 20,000 steps, learning rate 1e-3; V-RFM has a posterior over (x0, x1, xt) of
three layers of 128, eight latent components and the weight 0.1 of the divergence, a sum over the components, against
the mean squared error, a mean over the two coordinates. Samples are drawn by Euler's method.

The score is the mean log-density of 10,000 samples under the target's exact density, in nats. The data's own value is
the mark to hit, not to beat: a higher one comes from samples that are too narrow; the median is not moved by a few
samples far from all modes. Beside it: the largest relative
deviation of a mode's share from 1/6, and the Wasserstein distance from the data along the two axes.

Reference: P. Guo, A. Schwing, "Variational rectified flow matching", ICML 2025, section 4.1.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from physflow.config import TrainingConfig
from physflow.data.toys import ring
from physflow.generative import (
    MLP,
    Conditioned,
    Drawn,
    DrawnBatches,
    Euler,
    FlowMatching,
    LinearPath,
    MLPEncoder,
    NormalLatent,
    StandardNormal,
    Velocity,
    integrate,
    item_generator,
    train,
)
from physflow.machine import machine, versions

SOURCE, TARGET = ring(radius=1 / 3), ring()
EVALUATIONS = (2, 5, 10, 50, 100)
LATENT, BETA, INPUTS = 8, 0.1, ("x0", "x1", "xt")


def source(n: int, generator: torch.Generator) -> Tensor:
    """Draws of the inner ring."""
    return SOURCE.sample(n, generator, dtype=torch.float32)


def target(n: int, generator: torch.Generator) -> Tensor:
    """Draws of the outer ring."""
    return TARGET.sample(n, generator, dtype=torch.float32)


def trained(variational: bool, config: TrainingConfig, folder: Path) -> tuple[nn.Module, FlowMatching, float]:
    """The network, its objective, and the seconds of the training (that is resumed where it was interrupted)."""
    torch.manual_seed(config.seed)
    network: nn.Module = MLP(2, width=64, blocks=3, latent=LATENT if variational else 0, fusion="adaptive")
    latent = None
    if variational:
        encoder = MLPEncoder(2 * len(INPUTS), width=128, layers=3)
        latent = NormalLatent(encoder, 128, LATENT, INPUTS)
        network = Conditioned(network, latent)
    objective = FlowMatching(source=Drawn(source), latent=latent, beta=BETA)
    data = DrawnBatches(target, config.batch_size, config.seed)
    start = time.perf_counter()
    network = train(network, objective, data, config, folder=folder, progress=True)
    return network, objective, time.perf_counter() - start


def scores(x: Tensor) -> dict[str, float]:
    """What samples score: log-density, shares of the modes, distance along the axes."""
    x = x.double()
    nearest = torch.cdist(x, TARGET.modes).argmin(1)
    shares = torch.bincount(nearest, minlength=len(TARGET.modes)) / len(x)
    data = TARGET.sample(len(x), item_generator(99, 0))
    distances = [wasserstein_distance(x[:, axis], data[:, axis]) for axis in range(2)]
    densities = TARGET.log_density(x)
    return {
        "log_density": float(densities.mean()),
        "standard_error": float(densities.std() / len(x) ** 0.5),
        "median_log_density": float(densities.median()),
        "largest_deviation_of_a_share": float((6 * shares - 1).abs().max()),
        "wasserstein_along_axes": float(np.mean(distances)),
    }


def rows(name: str, velocity: Velocity, prior: StandardNormal | None, n: int) -> list[dict]:
    """The scores of a model at every number of evaluations."""
    found = []
    for steps in EVALUATIONS:
        x0 = source(n, item_generator(1, 0))
        z = None if prior is None else prior.draw(n, item_generator(2, 0))
        with torch.no_grad():
            x = integrate(velocity, x0, Euler(), steps, z)
        found.append({"method": name, "evaluations": steps, **scores(x)})
        print(found[-1], flush=True)
    return found


def main() -> None:
    """Train both, draw from both and from the exact velocity, and write what they score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results; a rerun goes on there")
    parser.add_argument("--quick", action="store_true", help="300 steps, to see that it runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    steps, n = (300, 2000) if options.quick else (20_000, 10_000)
    config = TrainingConfig(steps=steps, batch_size=1000, learning_rate=1e-3, seed=options.seed, checkpoint_every=2000)
    options.out.mkdir(parents=True, exist_ok=True)

    models, found = {}, []
    for name, variational in (("rectified flow", False), ("V-RFM", True)):
        folder = options.out / ("v-rfm" if variational else "rectified-flow")
        network, objective, seconds = trained(variational, config, folder)
        velocity = objective.velocity(network)
        models[name] = {"seconds": round(seconds, 1), "parameters": sum(p.numel() for p in network.parameters())}
        found += rows(name, velocity, StandardNormal(LATENT) if variational else None, n)
    exact = TARGET.flow(LinearPath(), source=SOURCE).velocity
    found += rows("exact marginal velocity", lambda x, t, z=None: exact(x.double(), t.double()).float(), None, n)
    own = {"method": "data", "evaluations": 0, **scores(TARGET.sample(n, item_generator(3, 0)))}
    results = {
        "settings": {"steps": steps, "seed": options.seed, "samples": n, "beta": BETA, "inputs": INPUTS},
        "hardware": {**machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "models": models,
        "rows": [own, *found],
    }
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    lines = [
        "Mean log-density of samples under the target in nats, its standard error and (the median), by evaluations; "
        f"the data: {own['log_density']:.2f} ({own['median_log_density']:.2f})",
        "",
        f"| method | {' | '.join(map(str, EVALUATIONS))} |",
        "|---" * (1 + len(EVALUATIONS)) + "|",
    ]
    for name in dict.fromkeys(row["method"] for row in found):
        values = [
            f"{row['log_density']:.2f} ± {row['standard_error']:.2f} ({row['median_log_density']:.2f})"
            for row in found
            if row["method"] == name
        ]
        lines.append(f"| {name} | {' | '.join(values)} |")
    (options.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
