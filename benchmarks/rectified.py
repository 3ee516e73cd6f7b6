"""What the comparisons of rectified flows on synthetic data share: the laws, the methods and their trainings.

A `Problem` is a pair of Gaussian mixtures with the settings of its latent; an `Extent` says how long everything is
trained and how much is drawn. The methods, all with the same network and batches, and but for ReFlow with the same
number of steps:

* rectified flow;
* V-RFM with a posterior over some of x0, x1, xt, t;
* consistency flow matching in two segments: half of the steps on known ends, half on itself;
* ReFlow, whose rounds add half as many steps each, on pairs made by the flow before it, from whose weights it begins.

Beside them are the exact marginal velocity, which rectified flow would learn without error, and the data.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from harness import Benchmark
from torch import Tensor, nn

from physflow.config import TrainingConfig
from physflow.data.toys import GaussianMixture, MixtureFlow
from physflow.generative import (
    INPUTS,
    MLP,
    Adaptive,
    Conditioned,
    ConsistencyFlowMatching,
    Drawn,
    DrawnBatches,
    FlowMatching,
    Heun,
    LinearPath,
    MLPEncoder,
    NormalLatent,
    Objective,
    Pairs,
    ReFlow,
    StandardNormal,
    TensorBatches,
    Velocity,
    item_generator,
    reflow_pairs,
    train,
)
from physflow.metrics import parzen_bandwidth

__all__ = [
    "ADAPTIVE",
    "CONSISTENCY",
    "DATA",
    "EVALUATIONS",
    "EVERY",
    "EXACT",
    "HELD_OUT",
    "OWN",
    "POSTERIORS",
    "QUICK",
    "RECTIFIED",
    "REFLOW",
    "Extent",
    "Method",
    "Problem",
    "Trained",
    "Trainings",
    "exact_flow",
    "methods",
    "plain_name",
    "settings_of",
    "starts",
    "variational",
]


@dataclass(frozen=True)
class Method:
    """What is trained.

    Attributes:
        name: Its name in tables and figures.
        kind: Which objective it has.
        posterior: What the posterior of V-RFM reads.
        before: The flow from whose weights ReFlow begins, and which makes its pairs.
    """

    name: str
    kind: Literal["rectified", "variational", "consistency", "reflow"]
    posterior: tuple[str, ...] = ()
    before: Method | None = None


EVALUATIONS = (2, 5, 10, 50, 100, "adaptive")
ADAPTIVE = Adaptive(rtol=1e-5, atol=1e-5)
EXACT, DATA = "exact marginal velocity", "data"
RECTIFIED, CONSISTENCY = Method("rectified flow", "rectified"), Method("consistency FM", "consistency")
_ONCE = Method("ReFlow, 1 round", "reflow", before=RECTIFIED)
REFLOW = (_ONCE, Method("ReFlow, 2 rounds", "reflow", before=_ONCE))
EVERY = tuple(chosen for k in range(1, len(INPUTS) + 1) for chosen in itertools.combinations(INPUTS, k))
"""All that a posterior may read."""
POSTERIORS = {"choices": ("shown", "all"), "default": "shown", "help": "the posteriors of the figures, or all 15"}
"""The option of the scripts."""
SEGMENTS, STEP, ALPHA, BOUNDARY = 2, 1e-3, 1e-5, 0.9
PAIR_STEPS = 50
SHARED = TrainingConfig(learning_rate=1e-3, schedule="cosine", warmup=100, clip=1.0, ema=0.999)
"""What all trainings have in common."""
WIDTH, BLOCKS, POSTERIOR_WIDTH, POSTERIOR_LAYERS = 64, 3, 128, 3
# What is drawn with which seed, so that no two things share their numbers.
_SOURCE, _LATENT, _PAIRS, OWN, HELD_OUT, _VALIDATION, _BANDWIDTH = range(1001, 1008)


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
        seconds: The time of these steps, and of the pairs of ReFlow; None if a part of them was killed.
        records: What its training recorded.
    """

    network: nn.Module
    velocity: Velocity
    latent: int
    steps: int
    parameters: tuple[int, int]
    seconds: float | None
    records: list[dict[str, Any]]

    @property
    def error(self) -> tuple[list[int], list[float]]:
        """The steps of the record, and the mean squared errors of the velocity on held-out pairs at them, if any."""
        named = "validation_error" if self.latent else "validation_loss"
        known = [record for record in self.records if named in record]
        return [record["step"] for record in known], [record[named] for record in known]


def variational(posterior: Sequence[str]) -> Method:
    """V-RFM with a posterior that reads these."""
    return Method(f"V-RFM ({', '.join(posterior)})", "variational", tuple(posterior))


def methods(posteriors: Sequence[Sequence[str]]) -> list[Method]:
    """All methods that are trained, in the order of the tables."""
    return [RECTIFIED, *map(variational, posteriors), CONSISTENCY, *REFLOW]


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
        "extent": vars(extent),
        "training": {
            "optimiser": "Adam",
            **{name: getattr(SHARED, name) for name in ("learning_rate", "schedule", "warmup", "clip", "ema")},
        },
        "consistency": {"segments": SEGMENTS, "step": STEP, "alpha": ALPHA, "boundaries": [0.0, BOUNDARY]},
        "reflow": {
            "rounds": len(REFLOW),
            "steps_of_a_round": extent.steps // 2,
            "pairs_by": f"Heun, {PAIR_STEPS} steps",
        },
        "evaluations": EVALUATIONS,
        "adaptive": vars(ADAPTIVE),
        # It is found to about 0.1 %: more digits would only differ between machines.
        "parzen_bandwidth": float(f"{h:.2g}"),
    }


class Trainings:
    """The trainings of one seed, each made when it is asked for, or gone on with where it was interrupted.

    Arguments:
        problem: The laws and the latent.
        extent: How long.
        bench: Keeps their checkpoints and their times.
        seed: The seed.
    """

    def __init__(self, problem: Problem, extent: Extent, bench: Benchmark, seed: int) -> None:
        self.problem, self.extent, self.bench, self.seed = problem, extent, bench, seed
        self.dimension = problem.target.dimension
        self.source = Drawn(lambda n, generator: problem.source.sample(n, generator, dtype=torch.float32))
        self.held_out = TensorBatches(problem.target.sample(extent.held_out, item_generator(_VALIDATION, 0)).float())
        self.trained = functools.cache(self._trained)

    def _trained(self, method: Method) -> Trained:
        steps = self.extent.steps
        if method.before:
            return self._reflow(method, self.trained(method.before))
        if method.kind == "consistency":
            known, consistent = (
                ConsistencyFlowMatching(
                    source=self.source, segments=SEGMENTS, step=STEP, alpha=ALPHA, boundary=boundary
                )
                for boundary in (0.0, BOUNDARY)
            )
            first = self._run(self._network(), known, f"{method.name} 1", steps // 2)
            return self._run(first.network, consistent, method.name, steps // 2, first)
        if not method.posterior:
            return self._run(self._network(), FlowMatching(source=self.source), method.name, steps)
        inputs = method.posterior
        network = self._network(self.problem.latent)
        vectors = sum(name != "t" for name in inputs)
        encoder = MLPEncoder(max(1, self.dimension * vectors), POSTERIOR_WIDTH, POSTERIOR_LAYERS, time="t" in inputs)
        latent = NormalLatent(encoder, POSTERIOR_WIDTH, self.problem.latent, inputs)
        objective = FlowMatching(source=self.source, latent=latent, beta=self.problem.beta)
        return self._run(Conditioned(network, latent), objective, method.name, steps)

    def _network(self, latent: int = 0) -> nn.Module:
        torch.manual_seed(self.seed)
        return MLP(self.dimension, width=WIDTH, blocks=BLOCKS, latent=latent, fusion="adaptive")

    def _reflow(self, method: Method, before: Trained) -> Trained:
        generator = item_generator(_PAIRS + 10 * REFLOW.index(method), self.seed)
        x0 = self.problem.source.sample(self.extent.pairs, generator).float()
        path, clock = self._folder(method.name) / "pairs.pt", self._clock(f"{method.name} pairs")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            with self.bench.clock(clock):
                torch.save(reflow_pairs(before.velocity, x0, Heun(), PAIR_STEPS), part)
            part.replace(path)
        pairs = Pairs(x0, torch.load(path, weights_only=True))

        def draw(n: int, generator: torch.Generator) -> Tensor:
            return pairs.batch(torch.randint(len(pairs), (n,), generator=generator))

        network, spent = copy.deepcopy(before.network), self.bench.seconds(clock)
        return self._run(network, ReFlow(), method.name, self.extent.steps // 2, before, draw, spent)

    def _folder(self, name: str) -> Path:
        return self.bench.work / f"seed-{self.seed}" / plain_name(name)

    def _clock(self, name: str) -> str:
        return f"seed-{self.seed}-{plain_name(name)}"

    def _run(
        self,
        network: nn.Module,
        objective: Objective,
        name: str,
        steps: int,
        before: Trained | None = None,
        draw: Callable[[int, torch.Generator], Tensor] | None = None,
        seconds: float | None = 0.0,
    ) -> Trained:
        """Train a network, that of the flow before it or a new one, on which these seconds were spent already."""
        config = replace(
            SHARED,
            steps=steps,
            batch_size=self.extent.batch_size,
            seed=self.seed,
            evaluate_every=max(1, steps // 40),
            checkpoint_every=2000,
        )
        fresh = draw or (lambda n, generator: self.problem.target.sample(n, generator, dtype=torch.float32))
        # The loss of the others on held-out data is not the error of their velocity on independent pairs.
        validation = self.held_out if isinstance(objective, FlowMatching) else None
        folder, clock = self._folder(name), self._clock(name)
        data = DrawnBatches(fresh, config.batch_size, self.seed)
        with self.bench.clock(clock):
            network = train(network, objective, data, config, validation=validation, folder=folder, progress=True)
        spent = [seconds, self.bench.seconds(clock), before.seconds if before else 0.0]
        known = [value for value in spent if value is not None]
        latent = network.latent if isinstance(network, Conditioned) else None
        posterior = sum(p.numel() for p in latent.parameters()) if latent else 0
        return Trained(
            network,
            objective.velocity(network),
            latent.dimension if latent else 0,
            steps + (before.steps if before else 0),
            (sum(p.numel() for p in network.parameters()) - posterior, posterior),
            sum(known) if len(known) == len(spent) else None,
            [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()],
        )


def plain_name(name: str) -> str:
    """A name as that of a folder or file."""
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-").replace("--", "-")
