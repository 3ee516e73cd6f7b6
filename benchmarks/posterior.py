"""Posteriors of Darcy pairs (K, p) from 64 sensors on the pressure, beside Markov chains through the solver.

    python benchmarks/posterior.py --out benchmarks/results/posterior     # about an hour and a half on one core
    python benchmarks/posterior.py --quick --out posterior                # about a minute and a half

Log K has 64 Karhunen-Loeve modes with normal coefficients on 32 x 32 points, walls are Neumann's; 64 points of the
grid, chosen at random, are sensors of p with noise of 1 % of its standard deviation. The methods are

* Markov chains: 64 chains of Hamiltonian trajectories of up to 40 leaps through the solver and its adjoint, the
  reference of all others. One half of them starts at an annealing from the prior, which knows no mode, the other at one
  from a widened Laplace approximation. The line "chains against chains" is 300 draws of the first half against the
  second: what even the same posterior scores;
* solver, law: `physflow.inference.sample_posterior` over the coefficients of the law with its defaults, 64 short chains
  that begin at Laplace's approximation, right in the limit of many moves; Laplace: this approximation alone;
* solver, model: the same over the noise of a trained flow over (log K, p), of which K alone is taken;
* joint: the flow over (log K, p) guided to the sensors, its own error counted as noise: moment matching (MMPS, ten
  iterations), DPS with its likelihood widened by the variance of the data given the point, and Pi-GDM; "completed" has
  p replaced by the solution for its K;
* prior: draws of the law, which know nothing of the sensors.

How to read it. The errors of the posterior's mean and of its standard deviation are relative to those of the reference,
over all points, log K and p by themselves; the spread is the mean standard deviation over the reference's. Distances
are in units of the prior's standard deviation; the squared mean discrepancy (MMD) is unbiased and can be negative.
Solves counts solutions and adjoint solutions alike. One flow serves all problems: its chance is not in the deviations.

Calibration is judged by itself, over many permeabilities of the law and their own sensors: the share of points whose
truth lies in the central 90 % of the draws, and, for the short chains, whether the ranks of the true coefficients among
50 draws of as many chains are uniform (p-values of a chi-square test; of 16 honest ones, one run in seven has one below
0.01).

Reference: the form of the table and the scores are those of "PosteriorBench", 2026; problems and numbers are not the
same, and not comparable.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import matplotlib
import numpy as np
import torch
from harness import Benchmark, options_of
from posterior_figures import calibration_figure, maps, tables
from posterior_problems import Problem, compared, fields_of
from torch import Tensor

from physflow.conditioning import condition, posterior_of
from physflow.config import DataConfig, MLPConfig, ModelConfig, TrainingConfig, to_dict
from physflow.data import darcy
from physflow.fields import to_tensor
from physflow.fitting import train_model
from physflow.inference import Chains, Gaussian, Hamiltonian, Posterior, annealed, laplace, run_chains, sample_posterior
from physflow.input_priors import model_prior
from physflow.metrics import coverage, effective_sample_size, simulation_ranks, split_r_hat, uniformity
from physflow.model import Model, load

NAMES = {"mmps": "MMPS", "dps": "DPS, widened", "pseudoinverse": "Pi-GDM"}
FIRST = 100
"""The number of the first problem of the calibration."""


class Study:
    """All that is computed, in the folder of the benchmark.

    Arguments:
        bench: The benchmark, with its settings.
    """

    def __init__(self, bench: Benchmark) -> None:
        self.bench, self.settings = bench, bench.settings

    def problem(self, number: int) -> Problem:
        """The problem of this number."""
        return Problem(number, **self.settings["problem"])

    def chains(self, number: int) -> dict[str, Any]:
        """Run the Markov chains of a problem, and keep them."""
        problem, s = self.problem(number), self.settings["chains"]
        posterior, start = problem.posterior(), time.perf_counter()
        reference, n = laplace(posterior), s["chains"] // 2
        # The second group has never seen the mode that Laplace's approximation knows.
        first = annealed(posterior, n, reference.widened(1.5), Hamiltonian(10), seed=problem.seed("chains, Laplace"))
        second = annealed(posterior, s["from_prior"], None, Hamiltonian(10), seed=problem.seed("chains, prior"))
        begin = torch.cat([first.z, second.z[:: len(second.z) // n][:n]])
        found = run_chains(
            posterior,
            **{name: s[name] for name in ("chains", "draws", "burn_in")},
            reference=reference,
            kernel=Hamiltonian(s["leaps"]),
            start=begin,
            seed=problem.seed("chains"),
            progress=True,
        )
        seconds, solves = time.perf_counter() - start, posterior.forwards + posterior.adjoints
        torch.save(found.z, self.bench.work / f"chains-{number}.pt")
        return {
            "r_hat": float(split_r_hat(found.z).max()),
            "least_sample_size": float(effective_sample_size(found.z).min()),
            "draws": found.z[..., 0].numel(),
            "acceptance": found.acceptance,
            "solves": solves,
            "seconds": seconds,
            "solves_per_second": solves / seconds,
        }

    def reference(self, number: int) -> tuple[Tensor, Tensor]:
        """Draws (K, p) of the chains of a problem, of those that started near the mode and of the others."""
        z = torch.load(self.bench.work / f"chains-{number}.pt")
        kept = z[:, :: max(1, z[..., 0].numel() // self.settings["kept"])]
        halves = kept.split(len(kept) // 2)
        first, second = (self.problem(number).pairs(half.flatten(0, 1)) for half in halves)
        return first, second

    def short_chains(self, posterior: Posterior, seed: int) -> tuple[Chains, dict[str, Any]]:
        """Draws by short chains, and what they took."""
        s, start = self.settings["short_chains"], time.perf_counter()
        counts = {name: s[name] for name in ("chains", "burn_in", "draws")}
        found = sample_posterior(posterior, **counts, kernel=Hamiltonian(s["leaps"]), seed=seed)
        solves, seconds = posterior.forwards + posterior.adjoints, time.perf_counter() - start
        size, r_hat = float(effective_sample_size(found.z).min()), float(split_r_hat(found.z).max())
        return found, {"solves": solves, "seconds": seconds, "least_sample_size": size, "r_hat": r_hat}

    def through_law(self, problem: Problem) -> tuple[Chains, dict[str, Any]]:
        """Coefficients of the law by short chains, and what they took."""
        return self.short_chains(problem.posterior(), problem.seed("short chains"))

    def rows(self, number: int) -> list[dict[str, Any]]:
        """All methods but the chains on one problem."""
        problem, s = self.problem(number), self.settings
        first, second = self.reference(number)
        chains = torch.cat([first, second])
        n, generator = s["compared"], problem.generator("prior")
        prior = problem.pairs(Gaussian.prior(problem.modes).draw(n, generator))
        drawn: dict[str, tuple[Tensor | None, dict[str, Any]]] = {}
        short, cost = self.through_law(problem)
        drawn["solver, law"] = (problem.pairs(short.spread_out(n)), cost)
        posterior, start = problem.posterior(), time.perf_counter()
        gaussian = laplace(posterior)
        cost = {"solves": posterior.forwards + posterior.adjoints, "seconds": time.perf_counter() - start}
        drawn["Laplace"] = (problem.pairs(gaussian.draw(n, generator)), cost)
        drawn["solver, model"] = self.through_model(problem, n)
        for method in NAMES:
            drawn |= self.joint(problem, n, method)
        drawn["prior"] = (prior, {})
        # As many as the others have: fewer draws have larger errors.
        few = second[torch.linspace(0, len(second) - 1, n).long()]
        found = [{"method": "chains against chains", **compared(few, first, prior)}]
        for name, (pairs, cost) in drawn.items():
            if pairs is None:
                found.append({"method": name, **cost})
                continue
            torch.save(pairs.float(), self.bench.work / f"draws-{number}-{name.replace(', ', '-')}.pt")
            found.append({"method": name, **compared(pairs, chains, prior), **cost})
        return found

    def through_model(self, problem: Problem, n: int) -> tuple[Tensor, dict[str, Any]]:
        """Pairs by short chains over the noise of the model, and what they took."""
        prior = model_prior(self.model, self.settings["prior_steps"])
        posterior = posterior_of(problem.equation, prior, problem.observations)
        found, cost = self.short_chains(posterior, problem.seed("model"))
        K = torch.cat([prior.decode(z).detach() for z in found.spread_out(n).split(256)])
        pairs = torch.stack(problem.equation.complete(*K.unbind(1)), 1)
        return pairs, cost

    def joint(self, problem: Problem, n: int, method: str) -> dict[str, tuple[Tensor | None, dict[str, Any]]]:
        """Pairs by the guided flow, as they are and completed."""
        start = time.perf_counter()
        steps = self.settings["guided_steps"]
        try:
            seed = problem.seed("joint")
            ds = condition(self.model, problem.observations, n, seed, "joint", method, steps, score=False)
        except FloatingPointError:
            # A method may diverge: that is its result.
            return {f"joint, {NAMES[method]}": (None, {"diverged": 1})}
        pairs = to_tensor(ds, self.model.fields, torch.float64)
        # The model's own error is found from as many solves as samples are drawn for it.
        cost = {"solves": self.settings["error_samples"], "seconds": time.perf_counter() - start, "diverged": 0}
        done, solves = self.model.complete(pairs), cost["solves"] + n
        completed = {**cost, "solves": solves, "seconds": time.perf_counter() - start}
        return {f"joint, {NAMES[method]}": (pairs, cost), f"joint, {NAMES[method]}, completed": (done, completed)}

    @property
    def model(self) -> Model:
        """The flow over (log K, p), trained if it is not there."""
        folder, data, s = self.bench.work / "model", self.bench.work / "data.nc", self.settings
        if not (folder / "config.yaml").exists():
            if not data.exists():
                darcy.generate(**{k: v for k, v in s["data"].items() if v is not None}, out=data, progress=True).close()
            train_model(data, folder, model=_model(s["quick"]), training=_training(s["quick"]), progress=True)
        return load(folder)

    def calibration(self, number: int) -> list[dict[str, Any]]:
        """Whether the truth of one problem lies where draws of its posterior say, and its ranks among them."""
        problem, found = self.problem(number), []
        truth, (short, _) = problem.pairs(problem.truth[None]), self.through_law(problem)
        drawn = {"solver, law": problem.pairs(short.spread_out(self.settings["compared"]))}
        joint = self.joint(problem, self.settings["joint_draws"], "mmps")
        drawn |= {name: pairs for name, (pairs, _) in joint.items() if pairs is not None}
        for name, pairs in drawn.items():
            covered: dict[str, Any] = {}
            for field, u in fields_of(pairs).items():
                true = fields_of(truth)[field]
                for level in (0.5, 0.9):
                    covered[f"covered_{level:g}_{field.replace(' ', '_').lower()}"] = coverage(u[:, None], true, level)
            found.append({"method": name, **covered})
        ranked = short.spread_out(self.settings["ranked"])
        ranks = simulation_ranks(ranked[None], problem.truth[None], problem.generator("ties"))
        torch.save(ranks[0], self.bench.work / f"ranks-{number}.pt")
        return found

    def ranks(self, sets: int) -> Tensor:
        """The ranks of the coefficients, shape (sets, modes)."""
        return torch.stack([torch.load(self.bench.work / f"ranks-{FIRST + k}.pt") for k in range(sets)])

    def uniform(self, sets: int) -> list[dict[str, Any]]:
        """The p-value of each of the leading coefficients."""
        p = uniformity(self.ranks(sets), self.settings["ranked"])[:16]
        return [
            {"coefficient": k + 1, "p_value": float(value), "passed": float(value > 0.01)} for k, value in enumerate(p)
        ]


def _model(quick: bool) -> ModelConfig:
    return ModelConfig(rank=16 if quick else 128, mlp=MLPConfig(width=64 if quick else 512, blocks=4))


def _training(quick: bool) -> TrainingConfig:
    steps = 50 if quick else 6000
    return TrainingConfig(
        steps=steps, batch_size=512, prediction="data", symmetries=True, evaluate_every=500, checkpoint_every=500
    )


def main() -> None:
    """Run the chains, draw by all methods, judge, and draw the figures."""
    options = options_of(
        __doc__,
        3,
        sets={"type": int, "help": "problems of the calibration (default 60)"},
        part={"choices": ("chains", "methods", "calibration"), "help": "one part (default all)"},
    )
    quick = options.quick
    sets = options.sets or (12 if quick else 60)
    problem = {
        "resolution": 16 if quick else 32,
        "modes": 8 if quick else 64,
        "sensors": 8 if quick else 64,
        "noise": 0.01,
    }
    data = DataConfig(samples=200 if quick else 20_000, resolution=problem["resolution"], modes=problem["modes"])
    settings = {
        "quick": quick,
        "problem": problem,
        "error_samples": 100,
        "chains": {
            "chains": 8 if quick else 64,
            "from_prior": 16 if quick else 128,
            "draws": 20 if quick else 2000,
            "burn_in": 20 if quick else 500,
        }
        | {"leaps": 4 if quick else 40},
        "kept": 100 if quick else 4000,
        "short_chains": {
            "chains": 16 if quick else 64,
            "burn_in": 4 if quick else 8,
            "draws": 8 if quick else 20,
            "leaps": 4 if quick else 40,
        },
        "compared": 64 if quick else 300,
        "prior_steps": 4,
        "guided_steps": 5 if quick else 50,
        "joint_draws": 20 if quick else 100,
        "ranked": 10 if quick else 50,
        "data": dataclasses.asdict(data),
        "model": to_dict(_model(quick)),
        "training": to_dict(_training(quick)),
    }
    bench = Benchmark(options.out, settings)
    study = Study(bench)
    parts = (options.part,) if options.part else ("chains", "methods", "calibration")
    for number in range(options.seeds):
        if "chains" in parts:
            bench.add(lambda number=number: study.chains(number), part="chains", problem=number)
        if "methods" in parts:
            bench.add(lambda number=number: study.rows(number), part="methods", problem=number)
    if "methods" in parts:
        bench.picture("maps.png", *maps(bench.work, study.problem(0), torch.cat(study.reference(0))))
    if "calibration" in parts:
        for k in range(sets):
            bench.add(lambda k=k: study.calibration(FIRST + k), part="calibration", problem=FIRST + k)
        bench.add(lambda: study.uniform(sets), part="ranks", sets=sets)
        bench.picture("calibration.png", *calibration_figure(study.ranks(sets), settings["ranked"]))
    text = (__doc__ or "").split("\n\n", 2)[2]
    bench.finish("Posteriors from sparse pressures", text, options.seeds, tables(sets))


if __name__ == "__main__":
    matplotlib.use("agg")
    np.seterr(all="ignore")
    main()
