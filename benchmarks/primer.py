"""The primer: conditional flow matching from one Gaussian to four, seen and measured.

    python benchmarks/primer.py --out benchmarks/results/primer        # about 8 minutes on one core, 3 seeds
    python benchmarks/primer.py --quick --out primer-quick             # about 20 seconds

A Gaussian at the origin is carried to four at (+-4, +-4), all of variance 1/2, by a perceptron of width 64 that is
trained for 5,000 steps on batches of 1,024 fresh pairs. The pictures show how source and data are paired, the loss, the
learned velocity and the paths. Because source and data are Gaussian mixtures, the exact velocity and the least possible
loss are known, and what the training misses is measured.

Reference: the example of "A primer on flow matching", figures 1 to 4; Y. Lipman et al., "Flow matching for generative
modeling", ICLR 2023.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from physflow.config import TrainingConfig, to_dict
from physflow.data.toys import GaussianMixture, four_gaussians
from physflow.generative import (
    MLP,
    Drawn,
    DrawnBatches,
    ExactOT,
    FlowMatching,
    Heun,
    LinearPath,
    Velocity,
    integrate,
    item_generator,
    train,
)
from physflow.metrics import Resampled, straightness
from physflow.report import plot_coupling, plot_losses, plot_trajectories
from physflow.report.drawing import COLORS, panel, styled
from physflow.results import Quantity, Table

SOURCE = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None] / 2)
TARGET = four_gaussians(4.0, 0.5**0.5)
EXACT = TARGET.flow(LinearPath(), source=SOURCE)
STEPS, POINTS, FRAMES = 100, 500, 16
WIDTH, BLOCKS = 64, 2
TEXT = """
One Gaussian becomes four. The network is trained on straight lines between points of both that are paired at random;
what it learns is their mean velocity at every point and time, so the paths of its flow bend where lines cross.

The loss cannot fall to zero: its least value is the mean variance of the lines' velocities at a point, the loss of the
exact velocity, which is known here. The excess is what the training misses, on the same pairs. The excess of W2 is the
Wasserstein distance from fresh data minus that of other data from the same; the straightness is that of the paths (0
for straight lines at constant speed). The exact velocity, integrated alike, and data are the anchors of all scores.

Width 64, 5,000 steps and batches of 1,024 are those of the example; ours are a residual perceptron, Adam with a
learning rate that falls to zero, averaged weights, and 100 steps of Heun's method.
"""


def source(n: int, generator: torch.Generator) -> Tensor:
    """Draws of the Gaussian at the origin."""
    return SOURCE.sample(n, generator, dtype=torch.float32)


def target(n: int, generator: torch.Generator) -> Tensor:
    """Draws of the four Gaussians."""
    return TARGET.sample(n, generator, dtype=torch.float32)


def trained(config: TrainingConfig, bench: harness.Benchmark) -> tuple[torch.nn.Module, FlowMatching]:
    """The trained network and its objective."""
    torch.manual_seed(config.seed)
    network, objective = MLP(2, width=WIDTH, blocks=BLOCKS), FlowMatching(source=Drawn(source))
    data = DrawnBatches(target, config.batch_size, config.seed)
    return train(network, objective, data, config, folder=bench.work / f"model-{config.seed}", progress=True), objective


def scores(velocity: Velocity, resampled: Resampled, n: int, seed: int) -> dict[str, float]:
    """What the flow of a velocity scores."""
    with torch.no_grad():
        path = integrate(velocity, source(n, item_generator(9, seed)), Heun(), STEPS, trajectory=True)
    return {**scores_of(path[-1], resampled), "straightness": float(straightness(path[:, :POINTS]).value)}


def scores_of(x: Tensor, resampled: Resampled) -> dict[str, float]:
    """What samples score."""
    shares = torch.bincount(torch.cdist(x.double(), TARGET.modes).argmin(1), minlength=4) / len(x)
    return {
        "excess_w2": resampled.excess(x).mean,
        "log_density": float(TARGET.log_density(x.double()).mean()),
        "largest_error_of_a_share": float((4 * shares - 1).abs().max()),
    }


@styled
def frame(velocity: Velocity, x: Tensor, t: float) -> Figure:
    """The velocity on a grid, and where the points are at that time."""
    figure, ax = panel(f"velocity and points at t = {t:.2f}", (4.4, 4.4), xlim=(-7, 7), ylim=(-7, 7))
    line = torch.linspace(-6.5, 6.5, 14)
    at = torch.cartesian_prod(line, line)
    with torch.no_grad():
        v = velocity(at, torch.full((len(at),), t), None)
    ax.quiver(*at.T, *v.T, color="#b5b5b5", scale=120, width=0.004)
    ax.scatter(*x.T, s=5, color=COLORS[0], zorder=3)
    ax.set(aspect="equal", xlabel="x", ylabel="y")
    return figure


def animation(path: Path, velocity: Velocity, states: Tensor) -> None:
    """An animated PNG of the velocity and the points, one frame for each of the states."""
    images = []
    for k, x in enumerate(states):
        figure = frame(velocity, x, k / (len(states) - 1))
        figure.savefig(path, dpi=75)
        with Image.open(path) as image:
            # Few colours make a small file.
            images.append(image.convert("RGB").quantize(12, dither=Image.Dither.NONE))
    times = [150] * (len(images) - 1) + [1500]
    images[0].save(path, save_all=True, append_images=images[1:], duration=times, loop=0, optimize=True)


def main() -> None:
    """Train with every seed, measure, and draw the pictures of the first."""
    options = harness.options_of(__doc__, seeds=3)
    steps, n, points, batches = (200, 1000, 200, 5) if options.quick else (5000, 20_000, 2000, 100)
    base = TrainingConfig(steps=steps, batch_size=1024, learning_rate=1e-3, evaluate_every=steps)
    settings = {"training": to_dict(base), "width": WIDTH, "blocks": BLOCKS, "samples": n, "points": points}
    settings |= {"heun": STEPS, "batches_of_the_loss": batches, "quick": options.quick}
    bench = harness.Benchmark(options.out, settings)
    resampled = Resampled(target, points)
    # The same pairs as for the networks, so that their chance cancels in the excess.
    least = loss_of(exact, FlowMatching(source=Drawn(source)), batches)
    for seed in range(options.seeds):
        config = dataclasses.replace(base, seed=seed)
        own = target(n, item_generator(seed, 2))
        bench.add(lambda own=own: scores_of(own, resampled), method="data", seed=seed)

        def anchor(seed: int = seed) -> dict[str, float]:
            return {"loss": least, **scores(exact, resampled, n, seed)}

        bench.add(anchor, method="exact velocity", seed=seed)

        def row(config: TrainingConfig = config) -> dict[str, Any]:
            with bench.clock(f"model-{config.seed}"):
                network, objective = trained(config, bench)
            loss = loss_of(network, objective, batches)
            found = {"loss": loss, "excess_loss": loss / least - 1, "seconds": bench.seconds(f"model-{config.seed}")}
            return found | scores(objective.velocity(network), resampled, n, config.seed)

        bench.add(row, method="I-CFM", seed=seed)
    draw(bench, base, least, options.seeds)
    columns = (
        Quantity("loss", "loss"),
        Quantity("excess_loss", "over that of the exact velocity", "%"),
        Quantity("excess_w2", "excess of W2"),
        Quantity("log_density", "mean log-density of the samples"),
        Quantity("largest_error_of_a_share", "largest relative error of a mode's share", "%"),
        Quantity("straightness", "straightness"),
        Quantity("seconds", "training", "s"),
    )
    table = Table("The data, the exact velocity, and flow matching", ("method",), columns)
    bench.finish("From one Gaussian to four", TEXT, options.seeds, [table])


def draw(bench: harness.Benchmark, config: TrainingConfig, least: float, seeds: int) -> None:
    """The pairs, the loss, the velocity and the paths."""
    x0, x1 = source(POINTS, item_generator(3, 0)), target(POINTS, item_generator(3, 1))
    bench.picture("coupling.png", plot_coupling(x0, x1, "independent pairs"), "Pairs as I-CFM draws them.")
    optimal = ExactOT()(x0, x1, item_generator(3, 2))
    bench.picture(
        "coupling-ot.png", plot_coupling(*optimal, "pairs of optimal transport"), "Pairs as OT-CFM draws them."
    )
    curves: dict[str, Any] = {}
    for seed in range(seeds):
        lines = (bench.work / f"model-{seed}" / "metrics.jsonl").read_text().splitlines()
        curves[f"seed {seed}"] = [record for record in map(json.loads, lines) if "loss" in record]
    curves["least possible"] = ([0, config.steps], [least, least])
    bench.picture("loss.png", plot_losses(curves), "The loss of the batches, and the least possible value.")
    network, objective = trained(config, bench)
    velocity = objective.velocity(network)
    with torch.no_grad():
        learned, known = (integrate(v, x0, Heun(), 6 * FRAMES, trajectory=True) for v in (velocity, exact))
    animation(bench.out / "flow.png", velocity, learned[::6])
    bench.drawn("flow.png", "Animated: the learned velocity, and points that it carries.")
    for name, file, states in (("learned", "trajectories", learned), ("exact", "trajectories-exact", known)):
        figure = plot_trajectories(states[:, :200], TARGET.log_density, f"paths of the {name} velocity")
        bench.picture(f"{file}.png", figure, f"Paths of the {name} velocity; contours: the data's density.")


def exact(x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
    """The exact velocity in the precision of x."""
    return EXACT.velocity(x.double(), t.double()).to(x.dtype)


@torch.no_grad()
def loss_of(network: Callable[..., Tensor], objective: FlowMatching, batches: int) -> float:
    """The loss on so many batches of fresh pairs, the same for all networks."""
    generator = item_generator(77, 0)
    losses = [objective.loss(network, target(4096, generator), generator) for _ in range(batches)]
    return float(torch.stack(losses).mean())


if __name__ == "__main__":
    main()
