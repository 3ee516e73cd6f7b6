r"""Fields given observations: posteriors of an equation and of a trained model.

Wells and sensors read :math:`y = H(u) + \sigma \eta` of fields :math:`u = (K, p)` with :math:`p = S(K)`. Two ways lead
to draws of :math:`u` given :math:`y`.

* ``"solver"``: the model, or a law, is the prior of the input fields alone, :math:`K = G(z)` with
  :math:`z \sim N(0, I)`, and the likelihood goes through the solver and its adjoint,
  :math:`\Phi(z) = \tfrac12 |(y - H(G(z), S(G(z)))) / \sigma|^2`. Markov chains draw from it
  (`physflow.inference.sample_posterior`), right in the limit of many moves, and every pair solves the equation.
* ``"joint"``: the model's flow over all fields is guided to the observations (`physflow.inference.guidance`). No solve
  is needed, but the pairs are as far from the equation as the model's own, the distance of its p from S(K) has to be
  counted as noise (`model_error`), and guidance is an approximation wherever fields are not Gaussian. That noise is
  taken as independent between sensors, which the error of a model is not: neighbours err together, and draws given
  many close sensors are too sure of themselves.

A solution between walls without flux is known up to a constant, and the equation takes the one of mean zero. Readings
with another datum have :math:`y = H(p + c) + \sigma \eta` with an unknown :math:`c = s \zeta`, common to all readings
of solution fields. Mode ``"solver"`` draws :math:`\zeta \sim N(0, 1)` with z for a given standard deviation s.

References:
    A. M. Stuart, "Inverse problems: a Bayesian perspective", Acta Numerica 19, 2010, section 2.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from physflow import __version__
from physflow.config import nearest
from physflow.fields import SAMPLE, SENSOR, to_dataset
from physflow.generative import FlowMatching, Velocity, integrate, starting_points
from physflow.inference import (
    DPS,
    MMPS,
    Function,
    Guided,
    Kernel,
    Observation,
    Observations,
    Posterior,
    PseudoinverseGuidance,
    Start,
    assemble,
    joined,
    sample_posterior,
)
from physflow.input_priors import (
    PRIOR_DRAWS,
    InputPrior,
    beside_the_prior,
    check_white,
    equation_of,
    law_prior,
    model_prior,
)
from physflow.judgement import judgeable
from physflow.metrics import effective_sample_size, split_r_hat
from physflow.model import Model
from physflow.pde import Equation

__all__ = ["METHODS", "InputPrior", "condition", "law_prior", "model_error", "model_prior", "posterior_of"]

METHODS: dict[str, type[Guided]] = {"mmps": MMPS, "dps": DPS, "pseudoinverse": PseudoinverseGuidance}
"""The guidances by the names that `condition` and the command line take."""

_CHAINS = 64
_BLOCK = 50
_OWN = ("velocity", "observations", "path")
"""What `condition` itself gives to a guidance."""
_RANGE = 20.0
"""Of the logarithm of a positive input in one sample: a solver in double precision is of no use beyond."""


def posterior_of(
    equation: Equation, prior: InputPrior, observations: Observations, offset_std: float = 0.0
) -> Posterior:
    r"""The law of the coordinates given observations, with the likelihood through the solver.

    Arguments:
        equation: The equation.
        prior: The prior of its inputs.
        observations: Observations of its fields, shape (batch, channel, *axes), in the order of the equation's.
        offset_std: The standard deviation s of an unknown constant that readings of solution fields have in common;
            :math:`\zeta` is the last coordinate then. 0 is no such constant.

    Returns:
        The posterior. Coordinates whose inputs are not finite, not positive where they must be, or of a contrast at
        which no solution can be trusted, have probability 0.
    """
    positive = [equation.inputs.index(name) for name in equation.positive if name in equation.inputs]
    d = prior.dimension

    def forward(z: Tensor) -> Tensor:
        inputs = prior.decode(z[:, :d])
        good = inputs.isfinite().flatten(1).all(1)
        for channel in positive:
            low, high = inputs[:, channel].flatten(1).aminmax(dim=1)
            good = good & (low > 0) & (high.log() - low.log() < _RANGE)
        fields = torch.stack(equation.complete(*inputs[good].unbind(1)), 1)
        if offset_std:
            fields = _shifted(equation, fields, offset_std * z[good, d])
        predicted = inputs.new_full((len(z), observations.size), torch.nan)
        return predicted.index_put((good,), observations.operator(fields))

    seen = Observations(Function(forward, observations.size), observations.values, observations.noise_std)
    return Posterior(seen, d + bool(offset_std))


def _shifted(equation: Equation, fields: Tensor, offset: Tensor) -> Tensor:
    """Fields with a constant, shape (batch,), added to the solution fields."""
    solved = fields.new_tensor([name in equation.solutions for name in equation.fields])
    return fields + (offset[:, None] * solved)[(..., *[None] * (fields.ndim - 2))]


def model_error(model: Model, observations: Observations, samples: int = 100, seed: int = 1) -> Tensor:
    """How far what sensors would read of a model's fields is from what they read of solutions for its inputs.

    Arguments:
        model: The model.
        observations: The observations, in the order of its fields.
        samples: Fields drawn to see it.
        seed: Their seed.

    Returns:
        The root mean square difference of each reading, shape (m,); 0 where the inputs are read.
    """
    equation = equation_of(model)
    ds = model.sample(samples, seed=seed, score=False, dtype="float64")
    fields = torch.stack([torch.from_numpy(ds[name].values) for name in equation.fields], 1)
    solved = model.complete(fields)
    known = solved.isfinite().flatten(1).all(1)
    difference = observations.operator(fields[known]) - observations.operator(solved[known])
    return difference.square().mean(0).sqrt()


def condition(
    model: Model,
    observations: Observation | Sequence[Observation] | Observations,
    n: int = 200,
    seed: int = 0,
    mode: Literal["solver", "joint"] = "solver",
    method: str | None = None,
    steps: int | None = None,
    *,
    beside: Observation | Sequence[Observation] | Observations | None = None,
    prior: InputPrior | None = None,
    start: Start | None = None,
    offset_std: float = 0.0,
    kernel: Kernel | None = None,
    burn_in: int = 8,
    moves: int = 20,
    inflate: bool = True,
    score: bool = True,
    progress: bool = False,
    **settings: Any,
) -> xr.Dataset:
    r"""Draw fields given observations, and score each.

    Arguments:
        model: A model of the fields of an equation; for ``"joint"``, of any fields.
        observations: What was observed, by the names of the model's fields.
        n: The number of draws.
        seed: The seed.
        mode: ``"solver"`` or ``"joint"``; see the module's docstring.
        method: The guidance of ``"joint"``: ``"mmps"``, the default, ``"dps"`` or ``"pseudoinverse"``.
        steps: The steps of the flow; 50 in the mode ``"joint"``, where few leave guidance no room.
        beside: Observations that are not used, only predicted, such as those held out.
        prior: The prior of the inputs for ``"solver"``; that of the model by default (`model_prior`).
        start: Where the chains of ``"solver"`` begin: around one mode (``"laplace"``, the default), or at the end of an
            annealing from the prior (``"prior"``), which takes more solves and may find other modes.
        offset_std: For ``"solver"``, the standard deviation of an unknown constant in all readings of solution fields,
            in their unit: their datum, where the walls do not fix it. The fields drawn keep the equation's.
        kernel: What moves the chains of ``"solver"``: Hamiltonian trajectories of up to 40 leaps by default.
        burn_in: Moves of each of its 64 chains before the first draw.
        moves: Moves after them. All are draws, of which n are taken; more n, more moves.
        inflate: Whether ``"joint"`` counts the model's own error as noise (`model_error`).
        score: Whether to add the scores of `physflow.pde.score`.
        progress: Whether to show a progress bar.
        settings: More arguments of the guidance of ``"joint"``, such as ``iterations=5``.

    Returns:
        The draws over (sample, *axes) with their scores; the observations, and after them those beside, over ``sensor``
        as ``observed``, ``observed_std``, ``held_out`` and, for each draw, ``predicted``; ``model_error`` where it was
        counted, and ``offset`` of each draw where it is unknown; attributes that say how they were made.

    Raises:
        ValueError: If a name is unknown or a setting is of the other mode, observations do not fit the model, or the
            model cannot be used like this.
        TypeError: If the model or the observations are still a name or sensors, or a setting is unknown.

    Warns:
        UserWarning: In mode ``"solver"``, of a reading far from what any of 100 draws of the prior say there.
    """
    given_to: dict[str, dict[str, object]] = {
        "solver": {"start": start, "prior": prior, "kernel": kernel, "offset_std": offset_std or None},
        "joint": {"method": method},
    }
    if mode not in given_to:
        raise ValueError(f"unknown mode {mode!r}; {nearest(str(mode), given_to)}")
    if start not in (None, *get_args(Start)):
        raise ValueError(f"unknown start {start!r}; {nearest(str(start), get_args(Start))}")
    if method is not None and method not in METHODS:
        raise ValueError(f"unknown method {method!r}; {nearest(str(method), METHODS)}")
    (other,) = set(given_to) - {mode}
    for name, value in given_to[other].items():
        if value is not None:
            raise ValueError(f"{name} says nothing with mode={mode!r}; it is for mode={other!r}")
    if n < 2:
        raise ValueError(f"a posterior needs two draws or more, got {n}")
    if moves < 4:
        raise ValueError(f"chains are judged by four moves or more after the burn-in, got moves={moves}")
    if not 0 <= offset_std < np.inf:
        raise ValueError(f"offset_std must be finite and not negative, got {offset_std!r}")
    if isinstance(model, str | Path):
        raise TypeError(f"expected a model, got its name {str(model)!r}; take physflow.load({str(model)!r})")
    guidance = METHODS[method or "mmps"]
    _check_settings(guidance if mode == "joint" else None, settings)
    given, words = _assembled(model, observations)
    every = given
    if beside is not None:
        unused, more = _assembled(model, beside)
        every, words = joined((given, unused)), words + more
    equation = equation_of(model) if mode == "solver" else model.equation
    variables: dict[str, Any] = {}
    offset: Tensor | None = None
    if equation is not None and mode == "solver":
        _check_datum(equation, offset_std)
        prior = prior or model_prior(model, steps)
        start = start or "laplace"
        told = beside_the_prior(posterior_of(equation, prior, every, offset_std), every, words, seed)
        for words_of_one in told:
            warnings.warn(words_of_one, UserWarning, stacklevel=2)
        law = posterior_of(equation, prior, given, offset_std)
        chains = sample_posterior(law, start, _CHAINS, burn_in, max(moves, -(-n // _CHAINS)), kernel, seed, progress)
        d, coordinates = prior.dimension, chains.spread_out(n)
        with torch.no_grad():
            pieces = [
                torch.stack(equation.complete(*prior.decode(z[:, :d]).unbind(1)), 1) for z in coordinates.split(256)
            ]
        fields = torch.cat(pieces)
        if offset_std:
            offset = offset_std * coordinates[:, d]
            about = {"long_name": "unknown constant in readings of solutions", "fields": " ".join(equation.solutions)}
            variables["offset"] = (SAMPLE, offset.numpy(), about)
        made = {
            "prior": prior.words,
            "start": start,
            **({"offset_std": offset_std} if offset_std else {}),
            "chains": _CHAINS,
            "acceptance": chains.acceptance,
            "sample_size": float(effective_sample_size(chains.z).min()),
            "r_hat": float(split_r_hat(chains.z).max()),
            "solves": law.forwards + law.adjoints + PRIOR_DRAWS,
            "beside_the_prior": "\n".join(told),
        }
    else:
        taken = 50 if steps is None else steps
        guided_by = given
        if counted := inflate and equation is not None:
            error = model_error(model, every)
            variables["model_error"] = (SENSOR, error.numpy())
            std = torch.hypot(given.noise_std, error[: given.size])
            guided_by = dataclasses.replace(given, noise_std=std)
        fields = _guided(model, guided_by, n, seed, guidance, taken, settings, progress)
        made = {"method": method or "mmps", "steps": taken, "model_error_counted": int(counted)}
    attrs = {**model.attrs, "trained_on": model.fingerprint, "physflow_version": __version__, "seed": seed}
    ds = to_dataset(fields, model.fields, model.grid, {**attrs, "mode": mode, **made})
    predicted = torch.full((n, every.size), torch.nan, dtype=torch.float64)
    good = fields.isfinite().flatten(1).all(1) if equation is None else judgeable(equation, fields)
    if lost := n - int(good.sum()):
        warnings.warn(
            f"{lost} of {n} draws are no fields (not finite, or not positive where they must be) and have no scores: "
            "take more steps, or count the model's error as noise (inflate=True)",
            RuntimeWarning,
            stacklevel=2,
        )
    with torch.no_grad():
        seen = fields[good].double()
        if equation is not None and offset is not None:
            seen = _shifted(equation, seen, offset[good])
        predicted[good] = every.operator(seen)
    variables |= {
        "observed": (SENSOR, every.values.numpy()),
        "observed_std": (SENSOR, every.noise_std.numpy()),
        "held_out": (SENSOR, np.arange(every.size) >= given.size),
        "predicted": ((SAMPLE, SENSOR), predicted.numpy()),
    }
    ds = ds.assign(variables)
    return model.score(ds) if score and equation is not None else ds


def _check_settings(guidance: type[Guided] | None, settings: dict[str, Any]) -> None:
    """Raise a TypeError if a setting is none of `condition`, and none of the guidance if there is one."""
    valid = [name for name, p in inspect.signature(condition).parameters.items() if p.kind is not p.VAR_KEYWORD]
    if guidance is not None:
        valid += [name for name in inspect.signature(guidance).parameters if name not in _OWN]
    for name in settings:
        if name not in valid:
            raise TypeError(f"unknown setting {name!r}; {nearest(name, valid)}")


def _check_datum(equation: Equation, offset_std: float) -> None:
    if offset_std and not equation.up_to_a_constant:
        raise ValueError(
            f"offset_std is for a solution that is known up to a constant, between walls without flux; with "
            f"boundary={getattr(equation, 'boundary', None)!r} the equation fixes the datum: leave it at 0, and give "
            "readings with that datum"
        )


def _assembled(
    model: Model, observations: Observation | Sequence[Observation] | Observations
) -> tuple[Observations, list[str]]:
    """Observations of a model's fields, and what each reading is called."""
    if isinstance(observations, Observations):
        return observations, [f"reading {i}" for i in range(observations.size)]
    if isinstance(observations, str | Path):
        raise TypeError(
            f"expected observations, got the name {str(observations)!r}; take physflow.sensors.observations_of("
            f"physflow.sensors.read_sensors({str(observations)!r}, model.grid.axes, model.fields))"
        )
    several = [observations] if isinstance(observations, Observation) else list(observations)
    for one in several:
        if not isinstance(one, Observation):
            raise TypeError(
                f"expected each observation as a physflow.inference.Observation, got {type(one).__name__}; sensors "
                "become observations by physflow.sensors.observations_of"
            )
    cells, positive = model.grid.centering == "cells", None if model.equation is None else model.equation.positive
    together = assemble(several, model.fields, model.grid.coordinates(), cells=cells, positive=positive)
    words = []
    for number, one in enumerate(several):
        quantity = f"log {one.field}" if one.log else one.field or "all fields"
        for i in range(np.size(one.values)):
            place = (
                "" if one.locations is None else f" at ({', '.join(f'{s:g}' for s in np.asarray(one.locations)[i])})"
            )
            words.append(f"{one.words(number, i)}, {quantity}{place},")
    return together, words


def _guided(
    model: Model,
    observations: Observations,
    n: int,
    seed: int,
    guidance: type[Guided],
    steps: int,
    settings: dict[str, Any],
    progress: bool,
) -> Tensor:
    """Fields by the guided flow."""
    if model.latent is not None:
        raise ValueError(
            "the mode 'joint' guides the flow of all fields, and the latent of this model is drawn before it: use "
            "mode='solver', or a model without a latent"
        )
    objective = model.objective
    if not isinstance(objective, FlowMatching):
        raise ValueError(
            "guidance needs a model trained by flow matching, this one was trained by "
            f"{model.training.objective}: use mode='solver'"
        )
    check_white(model)
    if model.training.coupling != "independent":
        raise ValueError(
            f"guidance needs noise that is independent of the data; this model pairs them by "
            f"{model.training.coupling!r}: use mode='solver'"
        )

    def decode(x: Tensor) -> Tensor:
        return model.transform.inverse(x.double())

    velocity: Velocity = guidance(
        objective.velocity(model.network), observations.through(decode), path=objective.path, **settings
    )
    pieces = []
    with torch.no_grad(), tqdm(total=n, desc="condition", unit="field", disable=not progress) as bar:
        for first in range(0, n, _BLOCK):
            indices = range(first, min(first + _BLOCK, n))
            x0, _ = starting_points(objective.start, model.shape, seed, indices)
            pieces.append(decode(integrate(velocity, x0, steps=steps)).float())
            bar.update(len(indices))
    return torch.cat(pieces)
