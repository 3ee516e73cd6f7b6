r"""Fields given observations: posteriors of an equation and of a trained model.

Wells and sensors read :math:`y = H(u) + \sigma \eta` of fields :math:`u = (K, p)` with :math:`p = S(K)`. Two ways lead
to draws of :math:`u` given :math:`y`.

* ``"solver"``: the model, or a law, is the prior of the input fields alone, :math:`K = G(z)` with
  :math:`z \sim N(0, I)`, and the likelihood goes through the solver and its adjoint,
  :math:`\Phi(z) = \tfrac12 |(y - H(G(z), S(G(z)))) / \sigma|^2`. Sequential Monte Carlo draws from it, right in the
  limit of many particles, and every pair solves the equation.
* ``"joint"``: the model's flow over all fields is guided to the observations (`physflow.inference.guidance`). No solve
  is needed, but the pairs are as far from the equation as the model's own, the distance of its p from S(K) has to be
  counted as noise (`model_error`), and guidance is an approximation wherever fields are not Gaussian.

References:
    A. M. Stuart, "Inverse problems: a Bayesian perspective", Acta Numerica 19, 2010, section 2.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from physflow.config import DataConfig, nearest
from physflow.data.karhunen_loeve import KarhunenLoeve
from physflow.data.laws import Lognormal, law_of
from physflow.fields import SAMPLE, to_dataset
from physflow.generative import (
    Coordinates,
    Euler,
    FlowMatching,
    Gaussian,
    StandardNormal,
    Velocity,
    integrate,
    starting_points,
)
from physflow.inference import (
    DPS,
    MMPS,
    Function,
    Guided,
    Hamiltonian,
    Kernel,
    Observation,
    Observations,
    Posterior,
    PseudoinverseGuidance,
    annealed,
    assemble,
    laplace,
)
from physflow.judgement import judgeable
from physflow.model import Model
from physflow.pde import Equation

__all__ = ["METHODS", "InputPrior", "condition", "law_prior", "model_error", "model_prior", "posterior_of"]

METHODS: dict[str, type[Guided]] = {"mmps": MMPS, "dps": DPS, "pseudoinverse": PseudoinverseGuidance}
"""The guidances by the names that `condition` and the command line take."""

_BLOCK = 50
_RANGE = 20.0
"""Of the logarithm of a positive input in one sample: a solver in double precision is of no use beyond."""


@dataclass(frozen=True)
class InputPrior:
    """The input fields of an equation, made from coordinates with a standard normal law.

    Arguments:
        decode: A differentiable map of coordinates, (batch, d) in float64, to the inputs, (batch, channel, *axes).
        dimension: The number d of coordinates.
        words: What it is, in words.
    """

    decode: Callable[[Tensor], Tensor]
    dimension: int
    words: str


def law_prior(config: DataConfig) -> InputPrior:
    r"""The prior of a data set itself: the Karhunen-Loeve coefficients :math:`\xi` of its permeability.

    Arguments:
        config: The settings of the generator: log-normal, with a number of modes and normal coefficients.

    Raises:
        ValueError: If the law is another.
    """
    law = law_of(config)
    if not isinstance(law, Lognormal) or not isinstance(law.field, KarhunenLoeve) or law.field.coefficients != "normal":
        raise ValueError(
            "expected a log-normal law of normal Karhunen-Loeve coefficients (modes=64, say): the coordinates of other "
            "laws are not standard normal, or as many as there are points"
        )
    field = law.field
    factor = torch.from_numpy(field.eigenvectors * np.sqrt(field.eigenvalues))

    def decode(z: Tensor) -> Tensor:
        return (z @ factor.T).exp().unflatten(1, (1, *field.grid.shape))

    return InputPrior(decode, field.modes, f"Karhunen-Loeve coefficients, {field.modes} modes")


def model_prior(model: Model, steps: int | None = None) -> InputPrior:
    """The input fields as a model makes them, from what it draws as noise.

    Where the latent holds the inputs (kind `fields`), z alone makes them, and the network is not needed. Otherwise the
    coordinates are the noise, after those of the latent if it has one, and the inputs are where the flow carries them,
    by Euler's method.

    Arguments:
        model: A model of the fields of an equation, with white noise, and z, if it has a latent, from N(0, I).
        steps: The steps of the flow; those of the model by default.

    Raises:
        ValueError: If the model has no equation, or draws from something else.
    """
    equation = _equation_of(model)
    channels = [model.fields.index(name) for name in equation.inputs]
    latent = model.latent
    if latent is not None and not isinstance(model.prior, StandardNormal):
        raise ValueError(
            f"this model draws z as {model.prior.words if model.prior else 'nothing'}, not from N(0, I): give it "
            "such a prior first, physflow.fitting.with_prior(model, data, 'normal'), if its encodings are normal"
        )
    _check_white(model)
    item = int(np.prod(model.shape))
    if isinstance(latent, Coordinates) and set(equation.inputs) <= set(model.config.latent.fields):

        def known(z: Tensor) -> Tensor:
            items = latent.join(z, z.new_zeros(len(z), item))
            return model.transform.inverse(items)[:, channels]

        return InputPrior(known, latent.dimension, f"the latent of the model, {latent.dimension} components")
    d = 0 if latent is None else latent.dimension
    velocity, taken = model.objective.velocity(model.network), steps or model.sampling.steps

    def carried(z: Tensor) -> Tensor:
        parts = z.float()
        told = None if latent is None else parts[:, :d]
        y = integrate(velocity, parts[:, d:].reshape(-1, *model.shape), Euler(), taken, told)
        items = y if latent is None or told is None else latent.join(told, y)
        return model.transform.inverse(items.double())[:, channels]

    return InputPrior(carried, d + item, f"the noise of the model, {d + item} components, {taken} Euler steps")


def posterior_of(equation: Equation, prior: InputPrior, observations: Observations) -> Posterior:
    """The law of the coordinates given observations, with the likelihood through the solver.

    Arguments:
        equation: The equation.
        prior: The prior of its inputs.
        observations: Observations of its fields, shape (batch, channel, *axes), in the order of the equation's.

    Returns:
        The posterior. Coordinates whose inputs are not finite, not positive where they must be, or of a contrast at
        which no solution can be trusted, have probability 0.
    """
    positive = [equation.inputs.index(name) for name in equation.positive if name in equation.inputs]

    def forward(z: Tensor) -> Tensor:
        inputs = prior.decode(z)
        good = inputs.isfinite().flatten(1).all(1)
        for channel in positive:
            low, high = inputs[:, channel].flatten(1).aminmax(dim=1)
            good = good & (low > 0) & (high.log() - low.log() < _RANGE)
        fields = equation.complete(*inputs[good].unbind(1))
        predicted = inputs.new_full((len(z), observations.size), torch.nan)
        return predicted.index_put((good,), observations.operator(torch.stack(fields, 1)))

    seen = Observations(Function(forward, observations.size), observations.values, observations.noise_std)
    return Posterior(seen, prior.dimension)


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
    equation = _equation_of(model)
    ds = model.sample(samples, seed=seed, score=False, dtype="float64")
    fields = torch.stack([torch.from_numpy(ds[name].values) for name in equation.fields], 1)
    solved = model.complete(fields)
    known = solved.isfinite().flatten(1).all(1)
    difference = observations.operator(fields[known]) - observations.operator(solved[known])
    return difference.square().mean(0).sqrt()


def condition(
    model: Model,
    observations: Sequence[Observation] | Observations,
    n: int = 200,
    seed: int = 0,
    mode: Literal["solver", "joint"] = "solver",
    method: str = "mmps",
    steps: int | None = None,
    *,
    prior: InputPrior | None = None,
    start: Literal["laplace", "prior"] = "laplace",
    kernel: Kernel | None = None,
    moves: int = 2,
    last: int = 6,
    inflate: bool = True,
    score: bool = True,
    progress: bool = False,
    **settings: Any,
) -> xr.Dataset:
    r"""Draw fields given observations, and score each.

    Arguments:
        model: A model of the fields of an equation.
        observations: What was observed, by the names of the model's fields.
        n: The number of draws. With ``"solver"`` they are the particles: few of them also mean a coarse posterior.
        seed: The seed.
        mode: ``"solver"`` or ``"joint"``; see the module's docstring.
        method: The guidance of ``"joint"``: ``"mmps"``, ``"dps"`` or ``"pseudoinverse"``.
        steps: The steps of the flow; 50 in the mode ``"joint"``, where few leave guidance no room.
        prior: The prior of the inputs for ``"solver"``; that of the model by default (`model_prior`).
        start: Where the annealing starts: at a Gaussian around one mode, which takes fewer solves, or at the prior,
            which finds all modes.
        kernel: What moves the particles (`physflow.inference.annealed`): trajectories of ten leaps by default.
        moves: Moves of each particle at each temperature.
        last: Moves at the last one.
        inflate: Whether ``"joint"`` counts the model's own error as noise (`model_error`).
        score: Whether to add the scores of `physflow.pde.score`.
        progress: Whether to show a progress bar.
        settings: More arguments of the guidance, such as ``iterations=5``.

    Returns:
        The draws over (sample, *axes) with their scores; the observations over ``sensor`` as ``observed``,
        ``observed_std`` and, for each draw, ``predicted``; attributes that say how they were made.

    Raises:
        ValueError: If a name is unknown, observations do not fit the model, or the model cannot be used like this.
    """
    if mode not in ("solver", "joint"):
        raise ValueError(f"unknown mode {mode!r}; {nearest(str(mode), ('solver', 'joint'))}")
    if start not in ("laplace", "prior"):
        raise ValueError(f"unknown start {start!r}; {nearest(str(start), ('laplace', 'prior'))}")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; {nearest(str(method), METHODS)}")
    if n < 2:
        raise ValueError(f"a posterior needs two draws or more, got {n}")
    given = (
        observations
        if isinstance(observations, Observations)
        else assemble(observations, model.fields, model.grid.coordinates())
    )
    equation = _equation_of(model)
    if mode == "solver":
        prior = prior or model_prior(model, steps)
        law = posterior_of(equation, prior, given)
        reference = laplace(law) if start == "laplace" else None
        particles = annealed(law, n, reference, kernel or Hamiltonian(10), moves, last, seed=seed, progress=progress)
        with torch.no_grad():
            pieces = [torch.stack(equation.complete(*prior.decode(z).unbind(1)), 1) for z in particles.z.split(256)]
        fields = torch.cat(pieces)
        made = {
            "prior": prior.words,
            "temperatures": len(particles.betas),
            "ancestors": particles.ancestors,
            "log_evidence": particles.log_evidence,
            "solves": law.forwards + law.adjoints,
        }
    else:
        taken = 50 if steps is None else steps
        guided_by = given
        if inflate:
            error = model_error(model, given)
            guided_by = dataclasses.replace(given, noise_std=(given.noise_std.square() + error.square()).sqrt())
        fields = _guided(model, guided_by, n, seed, METHODS[method], taken, settings, progress)
        made = {"method": method, "steps": taken, "model_error_counted": int(inflate)}
    attrs = {**model.attrs, "trained_on": model.fingerprint, "seed": seed, "mode": mode, **made}
    ds = to_dataset(fields, model.fields, model.grid, attrs)
    predicted = torch.full((n, given.size), torch.nan, dtype=torch.float64)
    good = judgeable(equation, fields)
    if lost := n - int(good.sum()):
        warnings.warn(
            f"{lost} of {n} draws are no fields (not finite, or not positive where they must be) and have no scores: "
            "take more steps, or count the model's error as noise (inflate=True)",
            RuntimeWarning,
            stacklevel=2,
        )
    with torch.no_grad():
        predicted[good] = given.operator(fields[good].double())
    ds["observed"] = ("sensor", given.values.numpy())
    ds["observed_std"] = ("sensor", given.noise_std.numpy())
    ds["predicted"] = ((SAMPLE, "sensor"), predicted.numpy())
    return model.score(ds) if score else ds


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
    _check_white(model)
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
            x0, _ = starting_points(objective.source, model.shape, seed, indices)
            pieces.append(decode(integrate(velocity, x0, steps=steps)).float())
            bar.update(len(indices))
    return torch.cat(pieces)


def _equation_of(model: Model) -> Equation:
    if model.equation is None:
        raise ValueError("conditioning needs an equation, and this model was trained on data without one")
    return model.equation


def _check_white(model: Model) -> None:
    if not isinstance(getattr(model.objective, "source", Gaussian()), Gaussian):
        raise ValueError(
            f"this model starts from {model.training.source} noise; posteriors need noise N(0, I), the training's "
            "source=gaussian"
        )
