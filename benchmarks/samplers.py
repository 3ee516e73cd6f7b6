"""Flow against diffusion: paths, samplers with and without noise, and what one network can do on all of them.

    python benchmarks/samplers.py --out benchmarks/results/samplers     # about 20 minutes on one core
    python benchmarks/samplers.py --quick --out samplers                # a minute

The data are a mixture of three tilted Gaussians in the plane, whose velocity and score are known on every path. So what
a sampler misses is its own error, and what a network misses is told apart from it.

* Order: the error of mean and variance of samples of one Gaussian on the line, on the cosine path, which follow without
  sampling: every sampler is affine in its start and in its random numbers. Between two numbers of steps, the order.
* Law: samples by the exact flow. The p-value is that of a permutation test of the energy distance from as many data;
  errors of mean, covariance and weights of the modes are in their standard errors, the largest of each. Paths whose
  first state is not quite noise (VP, VE) start with an error of their own: VE without the mean of the data.
* Cost: the energy distance from 20,000 data by evaluations.
* Curvature: what there is of it in the exact flow on each path (straightness; 0 is straight lines at constant speed),
  and trajectories, with and without noise.
* Networks: one perceptron trained by flow matching on the straight line, one by denoising score matching on the
  variance preserving path, alike in all else; both sampled along both paths, with and without noise. Data is the
  anchor.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import torch
from harness import Benchmark, options_of
from matplotlib.figure import Figure
from torch import Tensor

from physflow.config import TrainingConfig
from physflow.data.toys import GaussianMixture
from physflow.generative import (
    DDIM,
    EDM,
    MLP,
    RK4,
    VE,
    VP,
    Cosine,
    Counted,
    DrawnBatches,
    Euler,
    EulerMaruyama,
    FlowMatching,
    Heun,
    LinearPath,
    Midpoint,
    Path,
    Predictor,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
    ScoreMatching,
    StochasticHeun,
    simulate,
    train,
)
from physflow.metrics import energy_distance, energy_test, straightness
from physflow.report import plot_trajectories
from physflow.report.drawing import COLORS, LINES, panel, styled
from physflow.results import Quantity, Table

MEANS = [[2.0, 0.5], [-1.5, 1.0], [0.0, -2.0]]
ROOTS = torch.tensor([[[0.6, 0.0], [0.3, 0.4]], [[0.5, 0.0], [-0.2, 0.7]], [[0.8, 0.0], [0.1, 0.3]]]).double()
TARGET = GaussianMixture([0.5, 0.3, 0.2], torch.tensor(MEANS), ROOTS @ ROOTS.mT)
NARROW = GaussianMixture([1.0], [[0.7]], [[[0.25]]])
PATHS: dict[str, Path] = {"linear": LinearPath(), "cosine": Cosine(), "VP": VP(), "VE": VE(0.01, 20.0)}
SAMPLERS: dict[str, Sampler] = {
    "Euler": ProbabilityFlow(Euler()),
    "midpoint": ProbabilityFlow(Midpoint()),
    "Heun": ProbabilityFlow(Heun()),
    "RK4": ProbabilityFlow(RK4()),
    "DDIM": DDIM(),
    "EDM": EDM(),
    "Euler-Maruyama": EulerMaruyama(),
    "stochastic Heun": StochasticHeun(),
    "predictor-corrector": PredictorCorrector(),
    "DDIM, eta 1": DDIM(1.0),
    "EDM, churn 0.2": EDM(churn=0.2),
}
ORDERS = {"Euler": 1, "midpoint": 2, "Heun": 2, "RK4": 4, "DDIM": 1, "Euler-Maruyama": 1, "stochastic Heun": 2}
STEPS = (10, 20, 50, 100, 200)


def exact(path: Path, target: GaussianMixture = TARGET) -> Predictor:
    """What is known of the flow: by the score, where the velocity is not known at an end."""
    flow, given = target.flow(path), "score" if isinstance(path, VP) else "velocity"
    method = getattr(flow, given)
    return Predictor(lambda x, t, z=None: method(x, t), path, given)


def moments(path: Path, sampler: Sampler, steps: int) -> Tensor:
    """Mean and variance of samples of `NARROW`, without sampling: by one sample for each random number."""
    first = torch.tensor([sampler.times(path, steps)[0]]).double()
    alpha, sigma, spread = path.alpha(first), path.sigma(first), path.spread(first)
    x0 = torch.zeros(3 * steps + 2, 1).double() + alpha * 0.7 / spread
    x0[1] += (alpha**2 * 0.25 + sigma**2).sqrt() / spread
    calls = 0

    def one_at_a_time(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros_like(x).index_fill_(0, torch.tensor([calls + 1]), 1.0)

    x = simulate(exact(path, NARROW), x0, sampler, steps, one_at_a_time)[:, 0]
    return torch.stack([x[0], (x[1:] - x[0]).square().sum()])


def order(name: str, counts: Sequence[int]) -> dict[str, Any]:
    """The order between two numbers of steps."""
    truth = torch.tensor([0.7, 0.25], dtype=torch.float64)
    errors = [float((moments(PATHS["cosine"], SAMPLERS[name], n) - truth).norm()) for n in counts]
    ratio = torch.tensor(counts[1] / counts[0]).log2()
    found = float(-(torch.tensor(errors[1] / errors[0]).log2() / ratio))
    return {"error": errors[1], "order": found, "expected": ORDERS[name]}


def drawn(path: Path, sampler: Sampler, steps: int, n: int, seed: int, model: Predictor | None = None) -> Tensor:
    """Samples, by the exact flow unless a model is given."""
    generator = torch.Generator().manual_seed(1000 + seed)
    model = model or exact(path)
    dtype = torch.float64 if model.network.__class__.__name__ == "function" else torch.float32
    x0 = torch.randn(n, 2, generator=generator, dtype=dtype)
    with torch.no_grad():
        return simulate(model, x0, sampler, steps, generator).double()


def law(path: Path, sampler: Sampler, n: int, steps: int, seed: int) -> dict[str, Any]:
    """How samples compare with data: a test, and the moments in their standard errors."""
    x, data = drawn(path, sampler, steps, n, seed), TARGET.sample(n, torch.Generator().manual_seed(7))
    products = (x - TARGET.mean)[:, :, None] * (x - TARGET.mean)[:, None, :]
    shares = TARGET.responsibilities(x)

    def worst(values: Tensor, truth: Tensor) -> float:
        return float(((values.mean(0) - truth).abs() / values.std(0) * n**0.5).max())

    return {
        "p": energy_test(x[:1000], data[:1000], permutations=500).p_value,
        "mean": worst(x, TARGET.mean),
        "covariance": worst(products, TARGET.covariance),
        "weights": worst(shares, TARGET.weights),
    }


def cost(path: Path, sampler: Sampler, steps: int, n: int, many: int) -> dict[str, Any]:
    """The energy distance by steps, and the evaluations that they take."""
    model = exact(path)
    counted = Counted(model.network)
    x = drawn(path, sampler, steps, n, 1, Predictor(lambda x, t, z=None: counted(x, t), path, model.given))
    data = TARGET.sample(many, torch.Generator().manual_seed(8))
    return {"evaluations": counted.calls, "distance": energy_distance(x, data)}


def curvature(path: Path, n: int) -> dict[str, Any]:
    """The straightness of the exact flow."""
    x0 = torch.randn(n, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    states = simulate(exact(path), x0, SAMPLERS["Heun"], 200, trajectory=True)
    return {"straightness": straightness(states).value}


def networks(quick: bool, bench: Benchmark) -> list[dict[str, Any]]:
    """Both trainings, sampled along both paths."""
    config = TrainingConfig(steps=20 if quick else 4000, batch_size=512, learning_rate=2e-3, ema=0.999)
    objectives = {"flow matching, linear": FlowMatching(), "score matching, VP": ScoreMatching(VP())}
    n, found = 200 if quick else 4000, []
    data = [TARGET.sample(n, torch.Generator().manual_seed(seed)) for seed in (11, 12)]
    found.append({"network": "data", "along": "-", "by": "-", "distance": energy_distance(*data)})
    for name, objective in objectives.items():
        torch.manual_seed(0)
        batches = DrawnBatches(lambda k, g: TARGET.sample(k, g, dtype=torch.float32), 512, seed=3)
        with bench.clock(name):
            network = train(MLP(2, 128, 3), objective, batches, config, progress=True)
        model = objective.predictor(network)
        for along in ("linear", "VP"):
            moved = model.along(PATHS[along])
            for by, sampler, steps in (
                ("Heun", SAMPLERS["Heun"], 50),
                ("DDIM", DDIM(), 100),
                ("Euler-Maruyama", EulerMaruyama(), 400),
            ):
                x = drawn(PATHS[along], sampler, steps, n, 5, Network(moved))
                row = {"network": name, "along": along, "by": f"{by}, {steps} steps"}
                found.append({**row, "distance": energy_distance(x, data[0]), "seconds": bench.seconds(name)})
    return found


class Network(Predictor):
    """A predictor whose network computes in float32."""

    def __init__(self, model: Predictor) -> None:
        super().__init__(model.network, model.path, model.given)
        self.model = model

    def predict(self, x: Tensor, t: Tensor, *wanted: Any, z: Tensor | None = None) -> tuple[Tensor, ...]:
        """The predictions of the model, in the type of x."""
        return tuple(p.to(x.dtype) for p in self.model.predict(x.float(), t.float(), *wanted, z=z))


@styled
def curves(rows: Sequence[Mapping[str, Any]], path: str) -> Figure:
    """The distance of each sampler by evaluations."""
    figure, ax = panel(f"{path} path", (6.2, 3.8))
    own = [row for row in rows if row.get("part") == "cost" and row["path"] == path]
    for i, name in enumerate(SAMPLERS):
        found = [row for row in own if row["sampler"] == name]
        line = LINES[i // len(COLORS) % len(LINES)]
        x, y = ([row[key] for row in found] for key in ("evaluations", "distance"))
        ax.plot(x, y, line, color=COLORS[i % len(COLORS)], marker="o", markersize=3, label=name)
    ax.set(xscale="log", yscale="log", xlabel="evaluations", ylabel="energy distance from data")
    ax.grid()
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    return figure


def paths_picture(path: Path, sampler: Sampler, title: str, n: int = 16) -> Figure:
    """Trajectories in the plane."""
    generator = torch.Generator().manual_seed(4)
    x0 = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    states = simulate(exact(path), x0, sampler, 200, generator, trajectory=True)
    return plot_trajectories(states, lambda x: TARGET.log_density(x), title)


def main() -> None:
    """Measure all, and draw the figures."""
    options = options_of(__doc__, 1)
    quick = options.quick
    n, steps, laws = (200, STEPS[:2], 20) if quick else (4000, STEPS, 400)
    config = {"quick": quick, "samples": n, "steps": steps, "steps_of_laws": laws}
    bench = Benchmark(options.out, {**config, "paths": list(map(str, PATHS.values())), "network": [128, 3]})
    for name, expected in ORDERS.items():
        counts = (32, 64) if expected == 4 else (64, 128) if quick else (256, 512)
        bench.add(functools.partial(order, name, counts), part="order", sampler=name)
    for key, path in PATHS.items():
        bench.add(functools.partial(curvature, path, n), part="curvature", path=key)
        for i, (name, sampler) in enumerate(SAMPLERS.items()):
            bench.add(functools.partial(law, path, sampler, n, laws, 20 + i), part="law", path=key, sampler=name)
    for key in ("linear", "VP"):
        for name, sampler in SAMPLERS.items():
            for k in steps:
                piece = functools.partial(cost, PATHS[key], sampler, k, n, 500 if quick else 20_000)
                bench.add(piece, part="cost", path=key, sampler=name, steps=k)
        caption = f"The {key} path, exact flow: energy distance from 20,000 data by evaluations of the velocity."
        bench.picture(f"cost-{key.lower()}.png", curves(bench.rows, key), caption)
    bench.add(functools.partial(networks, quick, bench), part="networks")
    for key in ("linear", "VP"):
        for name, sampler in (("flow", SAMPLERS["Heun"]), ("diffusion", EulerMaruyama())):
            caption = f"Trajectories on the {key} path: {name}; contours are those of the data."
            bench.picture(
                f"{name}-{key.lower()}.png", paths_picture(PATHS[key], sampler, f"{name}, {key} path"), caption
            )
    quantities = [
        Quantity("p", "p-value"),
        *(Quantity(q, f"{q}, in errors") for q in ("mean", "covariance", "weights")),
    ]
    orders = (Quantity("expected", "order"), Quantity("order", "found"), Quantity("error", "error"))
    distance = Quantity("distance", "energy distance")
    tables = [
        Table("Orders, on the cosine path", ("sampler",), orders, where={"part": "order"}),
        Table(
            "Straightness of the exact flow", ("path",), (Quantity("straightness", "S"),), where={"part": "curvature"}
        ),
        *(
            Table(f"Samples and data, {key} path", ("sampler",), tuple(quantities), where={"part": "law", "path": key})
            for key in PATHS
        ),
        *(
            Table(
                f"Energy distance by steps, {key} path",
                ("sampler",),
                (distance,),
                "steps",
                {"part": "cost", "path": key},
            )
            for key in ("linear", "VP")
        ),
        Table("Networks on both paths", ("network", "along", "by"), (distance,), where={"part": "networks"}),
    ]
    bench.finish("Flow against diffusion", (__doc__ or "").split("\n\n", 2)[2], 1, tables)


if __name__ == "__main__":
    matplotlib.use("agg")
    main()
