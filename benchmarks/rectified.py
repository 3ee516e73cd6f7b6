"""What the comparisons of rectified flows on synthetic data share: trainings, their rows, tables and figures.

A `Problem` is a pair of Gaussian mixtures with the settings of its latent; an `Extent` says how long everything is
trained and how much is drawn. The methods, all with the same network, batches and steps:

* rectified flow;
* V-RFM with a posterior over some of x0, x1, xt, t;
* consistency flow matching in two segments: half of the steps on known ends, half on itself;
* ReFlow, each round half as many steps on pairs made by the flow before it, from whose weights it begins.

Beside them are the exact marginal velocity, which rectified flow would learn without error, and the data.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Benchmark
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from physflow.config import TrainingConfig
from physflow.data.toys import GaussianMixture, MixtureFlow
from physflow.generative import (
    INPUTS,
    MLP,
    Adaptive,
    Conditioned,
    ConsistencyFlowMatching,
    Counted,
    Drawn,
    DrawnBatches,
    Euler,
    FlowMatching,
    LinearPath,
    MLPEncoder,
    NormalLatent,
    Objective,
    Pairs,
    ReFlow,
    StandardNormal,
    TensorBatches,
    Velocity,
    integrate,
    item_generator,
    reflow_pairs,
    train,
)
from physflow.metrics import parzen_bandwidth, parzen_log_density

__all__ = [
    "CONSISTENCY",
    "DATA",
    "EVALUATIONS",
    "EVERY",
    "EXACT",
    "POSTERIORS",
    "QUICK",
    "RECTIFIED",
    "REFLOW",
    "Extent",
    "Problem",
    "Trained",
    "Trainings",
    "compare",
    "exact_flow",
    "methods",
    "name_of",
    "plain_name",
    "settings_of",
    "starts",
]

EVALUATIONS = (2, 5, 10, 50, 100, "adaptive")
RECTIFIED, CONSISTENCY, EXACT, DATA = "rectified flow", "consistency FM", "exact marginal velocity", "data"
REFLOW = ("ReFlow, 1 round", "ReFlow, 2 rounds")
EVERY = tuple(chosen for k in range(1, len(INPUTS) + 1) for chosen in itertools.combinations(INPUTS, k))
"""All that a posterior may read."""
POSTERIORS = {"choices": ("shown", "all"), "default": "shown", "help": "the posteriors of the figures, or all 15"}
"""The option of the scripts."""
SEGMENTS, STEP, BOUNDARY = 2, 1e-3, 0.9
WIDTH, BLOCKS, POSTERIOR_WIDTH, POSTERIOR_LAYERS = 64, 3, 128, 3
# What is drawn with which seed, so that no two things share their numbers.
_SOURCE, _LATENT, _PAIRS, _OWN, _HELD_OUT, _VALIDATION, _BANDWIDTH = range(1001, 1008)


@dataclass(frozen=True)
class Problem:
    """From what to what, and the latent of V-RFM.

    Attributes:
        source: The law of x0.
        target: The law of x1.
        latent: The components of z.
        beta: The weight of the divergence.
        posteriors: What the posteriors read that the figures show.
    """

    source: GaussianMixture
    target: GaussianMixture
    latent: int
    beta: float
    posteriors: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Extent:
    """How much is computed.

    Attributes:
        steps: The steps of a training.
        batch_size: The fresh pairs of a step.
        pairs: The pairs of a round of ReFlow.
        samples: The samples that are scored.
        parzen: How many of them, and how many data, the Parzen window takes.
        held_out: The data on which the error of the velocity is taken.
    """

    steps: int = 20_000
    batch_size: int = 1000
    pairs: int = 100_000
    samples: int = 10_000
    parzen: int = 5000
    held_out: int = 4000


QUICK = Extent(steps=100, pairs=2000, samples=1000, parzen=500, held_out=1000)
"""Everything, far too short."""


@dataclass(frozen=True)
class Trained:
    """A trained flow.

    Attributes:
        network: Its network, with the averaged weights.
        velocity: Its velocity v(x, t, z).
        latent: The components of z; 0 for a flow without one.
        steps: The steps of its training, with those of the flows that it begins from.
        parameters: The weights that samples need, and those of the posterior.
        seconds: The time of these steps; NaN where it is not known.
        records: What its training recorded.
    """

    network: nn.Module
    velocity: Velocity
    latent: int
    steps: int
    parameters: tuple[int, int]
    seconds: float
    records: list[dict[str, Any]]

    @property
    def error(self) -> tuple[list[int], list[float]]:
        """The steps of the record, and the mean squared errors of the velocity on held-out pairs at them."""
        named = "validation_error" if self.latent else "validation_loss"
        known = [record for record in self.records if named in record]
        return [record["step"] for record in known], [record[named] for record in known]


def name_of(inputs: Sequence[str]) -> str:
    """The name of V-RFM with such a posterior."""
    return f"V-RFM ({', '.join(inputs)})"


def methods(posteriors: Sequence[Sequence[str]]) -> list[str]:
    """The names of all methods that are trained, in the order of the tables."""
    return [RECTIFIED, *map(name_of, posteriors), CONSISTENCY, *REFLOW]


def starts(problem: Problem, n: int, latent: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Where samples begin, and their z if they have one: the same for all methods."""
    x0 = problem.source.sample(n, item_generator(_SOURCE, seed), dtype=torch.float32)
    return x0, StandardNormal(latent).draw(n, item_generator(_LATENT, seed)) if latent else None


def exact_flow(problem: Problem) -> MixtureFlow:
    """The exact flow, that of the marginal velocity."""
    return problem.target.flow(LinearPath(), source=problem.source)


def settings_of(problem: Problem, extent: Extent) -> dict[str, Any]:
    """All that the numbers depend on; the bandwidth is that of as many data as the samples of the Parzen window."""
    h = parzen_bandwidth(problem.target.sample(extent.parzen, item_generator(_BANDWIDTH, 0)))
    return {
        "problem": {
            name: {"weights": law.weights.tolist(), "means": law.means.tolist(), "std": law.covariances[0, 0, 0] ** 0.5}
            for name, law in (("source", problem.source), ("target", problem.target))
        },
        "network": {"width": WIDTH, "blocks": BLOCKS, "fusion": "adaptive"},
        "posterior": {"width": POSTERIOR_WIDTH, "layers": POSTERIOR_LAYERS, "z": problem.latent, "beta": problem.beta},
        "training": {**vars(extent), "learning_rate": 1e-3, "schedule": "cosine", "ema": 0.999},
        "consistency": {"segments": SEGMENTS, "step": STEP, "boundary": BOUNDARY},
        "evaluations": EVALUATIONS,
        # It is found to about 0.1 %: more digits would only differ between machines.
        "parzen_bandwidth": float(f"{h:.2g}"),
    }


class Trainings:
    """The trainings of one seed, each made when it is asked for, or gone on with where it was interrupted.

    Arguments:
        problem: The laws and the latent.
        extent: How long.
        folder: Where their checkpoints are kept.
        seed: The seed.
    """

    def __init__(self, problem: Problem, extent: Extent, folder: Path, seed: int) -> None:
        self.problem, self.extent, self.folder, self.seed = problem, extent, folder, seed
        self.dimension = problem.target.dimension
        self.source = Drawn(lambda n, generator: problem.source.sample(n, generator, dtype=torch.float32))
        self.held_out = TensorBatches(problem.target.sample(extent.held_out, item_generator(_VALIDATION, 0)).float())
        self.trained = functools.cache(self._trained)

    def _trained(self, method: str) -> Trained:
        if method in REFLOW:
            return self._reflow(method)
        if method == CONSISTENCY:
            known, consistent = (
                ConsistencyFlowMatching(source=self.source, segments=SEGMENTS, step=STEP, boundary=boundary)
                for boundary in (0.0, BOUNDARY)
            )
            first = self._run(self._network(), known, f"{method} 1", self.extent.steps // 2)
            return self._run(first.network, consistent, method, self.extent.steps // 2, first)
        if method == RECTIFIED:
            return self._run(self._network(), FlowMatching(source=self.source), method, self.extent.steps)
        inputs = tuple(method.removeprefix("V-RFM (").removesuffix(")").split(", "))
        network = self._network(self.problem.latent)
        vectors = sum(name != "t" for name in inputs)
        encoder = MLPEncoder(max(1, self.dimension * vectors), POSTERIOR_WIDTH, POSTERIOR_LAYERS, time="t" in inputs)
        latent = NormalLatent(encoder, POSTERIOR_WIDTH, self.problem.latent, inputs)
        objective = FlowMatching(source=self.source, latent=latent, beta=self.problem.beta)
        return self._run(Conditioned(network, latent), objective, method, self.extent.steps)

    def _network(self, latent: int = 0) -> nn.Module:
        torch.manual_seed(self.seed)
        return MLP(self.dimension, width=WIDTH, blocks=BLOCKS, latent=latent, fusion="adaptive")

    def _reflow(self, method: str) -> Trained:
        k = REFLOW.index(method)
        before = self.trained(REFLOW[k - 1] if k else RECTIFIED)
        x0 = self.problem.source.sample(self.extent.pairs, item_generator(_PAIRS + 10 * k, self.seed)).float()
        path = self.folder / plain_name(method) / "pairs.pt"
        start = time.perf_counter()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            torch.save(reflow_pairs(before.velocity, x0, steps=50), part)
            part.replace(path)
        seconds = time.perf_counter() - start
        pairs = Pairs(x0, torch.load(path, weights_only=True))

        def draw(n: int, generator: torch.Generator) -> Tensor:
            return pairs.batch(torch.randint(len(pairs), (n,), generator=generator))

        return self._run(copy.deepcopy(before.network), ReFlow(), method, self.extent.steps // 2, before, draw, seconds)

    def _run(
        self,
        network: nn.Module,
        objective: Objective,
        name: str,
        steps: int,
        before: Trained | None = None,
        draw: Callable[[int, torch.Generator], Tensor] | None = None,
        seconds: float = 0.0,
    ) -> Trained:
        """Train a network, that of the flow before it or a new one."""
        config = TrainingConfig(
            steps=steps,
            batch_size=self.extent.batch_size,
            learning_rate=1e-3,
            seed=self.seed,
            evaluate_every=max(1, steps // 40),
            checkpoint_every=2000,
        )
        taken = 0

        def fresh(n: int, generator: torch.Generator) -> Tensor:
            nonlocal taken
            taken += 1
            return draw(n, generator) if draw else self.problem.target.sample(n, generator, dtype=torch.float32)

        # ReFlow learns from pairs: held-out data alone have none.
        validation = None if draw else self.held_out
        folder = self.folder / plain_name(name)
        start = time.perf_counter()
        data = DrawnBatches(fresh, config.batch_size, self.seed)
        network = train(network, objective, data, config, validation=validation, folder=folder, progress=True)
        spent = folder / "seconds.json"
        if taken or not spent.exists():
            # An interrupted training has taken a part of its steps here: the whole is reckoned from them.
            seconds = seconds + (time.perf_counter() - start) * steps / taken if taken else math.nan
            spent.write_text(json.dumps(seconds + (before.seconds if before else 0.0)))
        latent = network.latent if isinstance(network, Conditioned) else None
        posterior = sum(p.numel() for p in latent.parameters()) if latent else 0
        return Trained(
            network,
            objective.velocity(network),
            latent.dimension if latent else 0,
            steps + (before.steps if before else 0),
            (sum(p.numel() for p in network.parameters()) - posterior, posterior),
            json.loads(spent.read_text()),
            [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()],
        )


def compare(
    bench: Benchmark, problem: Problem, extent: Extent, seeds: int, posteriors: Sequence[Sequence[str]]
) -> Trainings:
    """All rows of a benchmark: those of the data, of the exact velocity, and of every method and seed.

    Returns:
        The trainings of the first seed.
    """
    h = bench.settings["parzen_bandwidth"]
    for seed in range(seeds):
        x = problem.target.sample(extent.samples, item_generator(_OWN, seed))
        bench.add(functools.partial(_scores, problem, extent, h, x, seed), part=DATA, method=DATA, seed=seed)
    exact = exact_flow(problem).velocity
    # Its error is that of the samples alone, which every row states: one seed is enough.
    bench.add(lambda: _rows(problem, extent, h, exact, 0, 0), part="samples", method=EXACT, seed=0)
    trainings = [Trainings(problem, extent, bench.work / f"seed-{seed}", seed) for seed in range(seeds)]
    for method in methods(posteriors):
        for seed, training in enumerate(trainings):
            flow = functools.partial(training.trained, method)
            bench.add(lambda f=flow: _cost(f()), part="training", method=method, seed=seed)
            bench.add(
                lambda f=flow, s=seed: _rows(problem, extent, h, f().velocity, f().latent, s),
                part="samples",
                method=method,
                seed=seed,
            )
    return trainings[0]


def _cost(flow: Trained) -> dict[str, Any]:
    last = flow.records[-1]
    sampling, posterior = flow.parameters
    return {
        "steps": flow.steps,
        "seconds": None if math.isnan(flow.seconds) else flow.seconds,
        "parameters": sampling,
        "posterior_parameters": posterior,
        "final_loss": last["loss"],
        "velocity_error": last.get("validation_error", last.get("validation_loss")),
        "rate": last.get("validation_rate"),
    }


def _rows(
    problem: Problem, extent: Extent, h: float, velocity: Velocity, latent: int, seed: int
) -> list[dict[str, Any]]:
    """The scores of samples at every number of evaluations."""
    x0, z = starts(problem, extent.samples, latent, seed)
    rows = []
    for evaluations in EVALUATIONS:
        counted, adaptive = Counted(velocity), evaluations == "adaptive"
        start = time.perf_counter()
        with torch.no_grad():
            x = integrate(counted, x0, Adaptive() if adaptive else Euler(), 1 if adaptive else int(evaluations), z)
        seconds = time.perf_counter() - start
        cost = {"measured_evaluations": counted.calls, "sampling_seconds": seconds}
        rows.append({"evaluations": evaluations, **cost, **_scores(problem, extent, h, x, seed)})
    return rows


def _scores(problem: Problem, extent: Extent, h: float, x: Tensor, seed: int) -> dict[str, float]:
    """What samples score: both likelihoods, the shares of the modes, the distance along the axes."""
    x, target = x.double(), problem.target
    data = target.sample(len(x), item_generator(_HELD_OUT, seed))
    shares = torch.bincount(torch.cdist(x, target.modes).argmin(1), minlength=len(target.modes)) / len(x)
    distances = [wasserstein_distance(x[:, axis], data[:, axis]) for axis in range(target.dimension)]
    densities = target.log_density(x)
    return {
        "log_density": float(densities.mean()),
        "standard_error": float(densities.std() / len(x) ** 0.5),
        "median_log_density": float(densities.median()),
        "parzen_log_density": parzen_log_density(data[: extent.parzen], x[: extent.parzen], h),
        "largest_deviation_of_a_share": float((shares / target.weights - 1).abs().max()),
        "wasserstein_along_axes": float(np.mean(distances)),
    }


def plain_name(name: str) -> str:
    """A name as that of a folder or file."""
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-").replace("--", "-")
