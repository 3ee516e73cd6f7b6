"""Flow matching with and without latents on sixteen modes of different weight in the plane.

    python benchmarks/triangle.py --out benchmarks/results/triangle     # about 2 hours on 2 cores, 5 seeds
    python benchmarks/triangle.py --quick --out triangle                # about a minute

All methods have the same perceptron, data (50,000 points), batches of 256 and 20,000 steps; those with a latent have an
encoder or a mixture beside it. Trained are: I-CFM; OT-CFM (exact transport within a batch); SB-CFM (entropic transport
and the bridge of the same width); V-RFM (a posterior over x0, x1, xt and t); Latent-CFM with an encoder trained along
(one stage), with the frozen encoder of an autoencoder (two stages), and with the components of a Gaussian mixture.

The score is the Wasserstein-2 distance of samples from the law over that of other data from the same data: its excess,
over ten resamples that all methods share; exact, between 2,000 points, and by Sinkhorn's divergence (blur 0.05), as
published, between 400. Then the largest relative error among the shares of the sixteen modes, and the share of samples
that lie more than four standard deviations from every mode, where the law has 0.03 %. The row `data` is the law itself.

Two more tables show what moves Latent-CFM: z from the encodings of the training data, as published, or from N(0, I);
and the weight of the divergence.

Reference: A. Samaddar et al., "Efficient flow matching using latent variables", 2025, section 4.1, Table 1, Figures 2
and A.2, appendices E.1, G and I. The widths, steps and weights are not given there; those here are ours.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import harness
import torch
from torch import Tensor, nn

from physflow.config import TrainingConfig
from physflow.data.toys import triangle
from physflow.generative import (
    ELBO,
    MLP,
    VAE,
    BridgePath,
    BridgeWeight,
    ComponentIds,
    Components,
    Conditioned,
    DiagonalMixture,
    ExactOT,
    FlowMatching,
    Heun,
    Latent,
    MLPDecoder,
    MLPEncoder,
    NormalLatent,
    Prior,
    SchroedingerBridge,
    StandardNormal,
    TensorBatches,
    encodings_of,
    integrate,
    item_generator,
    train,
)
from physflow.metrics import Resampled, sinkhorn_wasserstein, wasserstein
from physflow.report import plot_trajectories, plot_trajectories_3d
from physflow.results import Quantity, Table

LAW = triangle()
SIGMA, LATENT, BETA, WIDTH = 0.5, 2, 0.01, 128
BETAS = (1e-3, 1e-1)
POINTS, SINKHORN_POINTS, FAR = 2000, 400, 4.0


@dataclass(frozen=True)
class Method:
    """A method: how it pairs noise and data, and what it knows of them."""

    name: str
    coupling: str = "independent"
    latent: str = "none"
    inputs: tuple[str, ...] = ("x1",)
    beta: float = BETA
    draws: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.name} {self.beta:g}".lower().replace(" ", "-").replace(",", "").replace("(", "").replace(")", "")


METHODS = (
    Method("I-CFM"),
    Method("OT-CFM", "ot"),
    Method("SB-CFM", "sb"),
    Method("V-RFM", latent="posterior", inputs=("x0", "x1", "xt", "t"), draws=("normal",)),
    Method("Latent-CFM (VAE, one stage)", latent="posterior", draws=("encodings", "normal")),
    Method("Latent-CFM (VAE, two stages)", latent="vae", draws=("encodings", "normal")),
    Method("Latent-CFM (GMM)", latent="mixture", draws=("encodings", "weights")),
)
SWEEP = tuple(Method(METHODS[4].name, latent="posterior", beta=beta, draws=METHODS[4].draws) for beta in BETAS)


def data(n: int, generator: torch.Generator) -> Tensor:
    """Draws of the law."""
    return LAW.sample(n, generator, dtype=torch.float32)


def trained(method: Method, x: Tensor, config: TrainingConfig, bench: harness.Benchmark) -> dict[str, Any]:
    """The velocity of a method, its priors by name, and what the training took."""
    folder = bench.work / f"{method.folder}-{config.seed}"
    items = TensorBatches(x)
    torch.manual_seed(config.seed)
    # The time of a training that was interrupted is not known.
    start = None if folder.exists() else time.perf_counter()
    latent: Latent | None = None
    if method.latent == "posterior":
        # The time is read by an embedding of its own, not as one of the joined samples.
        encoder = MLPEncoder(2 * len(set(method.inputs) - {"t"}), WIDTH, 3, time="t" in method.inputs)
        latent = NormalLatent(encoder, WIDTH, LATENT, method.inputs)
    elif method.latent == "vae":
        vae = VAE(MLPEncoder(2, WIDTH, 3), WIDTH, MLPDecoder(LATENT, 2, WIDTH, 1), LATENT)
        latent = train(vae, ELBO(LATENT, method.beta), items, config, folder=folder / "vae", progress=True).latent()
    elif method.latent == "mixture":
        mixture = DiagonalMixture(len(LAW.modes), 2)
        mixture.fit(x, seed=config.seed)
        latent = Components(mixture)
    network: nn.Module = MLP(2, width=64, blocks=3, latent=0 if latent is None else latent.dimension)
    if latent is not None:
        network = Conditioned(network, latent)
    coupling: dict[str, Any] = {
        "ot": {"coupling": ExactOT()},
        "sb": {"path": BridgePath(SIGMA), "coupling": SchroedingerBridge(SIGMA), "weight": BridgeWeight()},
    }.get(method.coupling, {})
    objective = FlowMatching(latent=latent, beta=method.beta, **coupling)
    network = train(network, objective, items, config, folder=folder, progress=True)
    priors: dict[str, Prior | None] = {}
    for draw in method.draws:
        if draw == "normal":
            priors[draw] = StandardNormal(LATENT)
        elif draw == "weights":
            priors[draw] = ComponentIds(latent.mixture.weights)
        else:
            encodings = encodings_of(latent, x.split(10_000))
            priors[draw] = ComponentIds(encodings.mean.mean(0)) if method.latent == "mixture" else encodings
    return {
        "velocity": objective.velocity(network),
        "priors": priors or {"none": None},
        "seconds": None if start is None else time.perf_counter() - start,
        "parameters": sum(p.numel() for p in network.parameters()),
    }


@torch.no_grad()
def generated(model: dict[str, Any], draw: str, n: int, seed: int) -> Tensor:
    """Samples by 30 steps of Heun's method."""
    x0 = torch.randn(n, 2, generator=item_generator(seed, 0))
    prior = model["priors"][draw]
    z = None if prior is None else prior.draw(n, item_generator(seed, 1))
    return torch.cat(
        [
            integrate(model["velocity"], start, Heun(), 30, None if z is None else z[k * 10_000 : (k + 1) * 10_000])
            for k, start in enumerate(x0.split(10_000))
        ]
    )


def scores(x: Tensor, distances: dict[str, Resampled]) -> dict[str, float]:
    """What samples score."""
    x = x.double()
    apart, nearest = torch.cdist(x, LAW.modes).min(1)
    shares = torch.bincount(nearest, minlength=len(LAW.modes)) / len(x)
    found = {f"excess_{name}": distance.excess(x).mean for name, distance in distances.items()}
    return {
        **found,
        "largest_error_of_a_weight": float((shares / LAW.weights - 1).abs().max()),
        "rms_error_of_the_weights": float((shares / LAW.weights - 1).square().mean().sqrt()),
        "share_between_modes": float((apart > FAR * STD).double().mean()),
        "log_density": float(LAW.log_density(x).mean()),
    }


STD = float(LAW.covariances.diagonal(dim1=1, dim2=2).mean().sqrt())


def main() -> None:
    """Train all methods with every seed, and write what their samples score."""
    options = harness.options_of(__doc__, seeds=5)
    steps, n, points, resamples = (100, 2000, 300, 3) if options.quick else (20_000, 100_000, POINTS, 10)
    settings = {
        "steps": steps,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "data": 50_000,
        "samples": n,
        "points": points,
    }
    settings |= {"resamples": resamples, "sigma": SIGMA, "latent": LATENT, "beta": BETA, "betas": BETAS, "width": 64}
    bench = harness.Benchmark(options.out, settings)
    distances = {
        "w2": Resampled(data, points, resamples, wasserstein),
        "sinkhorn": Resampled(data, min(points, SINKHORN_POINTS), resamples, sinkhorn_wasserstein),
    }
    paths: dict[str, Tensor] = {}
    for seed in range(options.seeds):
        x = data(settings["data"], item_generator(seed, 7))
        config = TrainingConfig(
            steps=steps, batch_size=256, learning_rate=1e-3, seed=seed, evaluate_every=steps, checkpoint_every=5000
        )
        own = data(n, item_generator(seed, 8))
        bench.add(lambda own=own: scores(own, distances), part="methods", method="data", draw="", beta=0.0, seed=seed)
        for part, methods in (("methods", METHODS), ("sweep", SWEEP)):
            for method in methods:

                def rows(method: Method = method, config: TrainingConfig = config, x: Tensor = x) -> list[dict]:
                    model = trained(method, x, config, bench)
                    kept = {key: model[key] for key in ("seconds", "parameters")}
                    return [
                        {
                            "draw": draw if k else "",
                            "z": draw,
                            **scores(generated(model, draw, n, config.seed), distances),
                            **kept,
                        }
                        for k, draw in enumerate(model["priors"])
                    ]

                bench.add(rows, part=part, method=method.name, beta=method.beta, seed=seed)
                if seed == 0 and part == "methods":
                    paths[method.name] = trajectories(trained(method, x, config, bench))
    for name, path in paths.items():
        file = name.lower().translate(str.maketrans({" ": "-", "(": "", ")": "", ",": ""}))
        figure = plot_trajectories(path, LAW.log_density, name)
        bench.picture(f"trajectories-{file}.png", figure, f"{name}: paths from noise to the sixteen modes (contours).")
        if "one stage" in name:
            figure = plot_trajectories_3d(path, title=name)
            bench.picture(f"trajectories-3d-{file}.png", figure, f"{name}: the same paths against time.")
    excess = (Quantity("excess_w2", "excess W2"), Quantity("excess_sinkhorn", "excess W2 (Sinkhorn)"))
    weights = (
        Quantity("largest_error_of_a_weight", "largest error of a weight", "%"),
        Quantity("rms_error_of_the_weights", "rms error of the weights", "%"),
        Quantity("share_between_modes", "share between modes", "%"),
    )
    cost = (Quantity("parameters", "parameters"), Quantity("seconds", "training", "s"))
    tables = [
        Table("Each method as published", ("method",), excess + weights + cost, where={"part": "methods", "draw": ""}),
        Table("How z is drawn", ("method", "z"), excess + weights, where={"part": "methods"}),
        Table("Weight of the divergence", ("method", "beta", "z"), excess + weights, where={"part": "sweep"}),
    ]
    bench.finish("Sixteen modes in the plane", __doc__.split("\n\n", 2)[2], options.seeds, tables)


@torch.no_grad()
def trajectories(model: dict[str, Any]) -> Tensor:
    """The paths of 150 samples."""
    x0 = torch.randn(150, 2, generator=item_generator(5, 0))
    prior = next(iter(model["priors"].values()))
    z = None if prior is None else prior.draw(len(x0), item_generator(5, 1))
    return integrate(model["velocity"], x0, Heun(), 50, z, trajectory=True)


if __name__ == "__main__":
    main()
