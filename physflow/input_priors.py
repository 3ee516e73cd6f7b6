r"""Priors of the input fields of an equation, in coordinates with a standard normal law.

.. math:: K = G(z), \qquad z \sim N(0, I_d)

with a differentiable map G: the Karhunen-Loeve expansion of a law (`law_prior`), or what a trained model makes of its
latent or its noise (`model_prior`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from physflow.config import DataConfig
from physflow.data.karhunen_loeve import KarhunenLoeve
from physflow.data.laws import Lognormal, law_of
from physflow.generative import Coordinates, Euler, Gaussian, StandardNormal, integrate
from physflow.inference import Observations, Posterior
from physflow.model import Model
from physflow.pde import Equation

__all__ = ["PRIOR_DRAWS", "InputPrior", "beside_the_prior", "check_white", "equation_of", "law_prior", "model_prior"]

PRIOR_DRAWS = 100
"""So many draws of the prior say what readings are to be expected."""
_TOLD = 5
"""So many readings beside the prior are told one by one."""


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
    equation = equation_of(model)
    channels = [model.fields.index(name) for name in equation.inputs]
    latent = model.latent
    if latent is not None and not isinstance(model.prior, StandardNormal):
        raise ValueError(
            f"this model draws z as {model.prior.words if model.prior else 'nothing'}, not from N(0, I): give it "
            "such a prior first, physflow.fitting.with_prior(model, data, 'normal'), if its encodings are normal"
        )
    check_white(model)
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


def equation_of(model: Model) -> Equation:
    """The equation of a model.

    Raises:
        ValueError: If it has none.
    """
    if model.equation is None:
        raise ValueError(
            "conditioning by the solver needs an equation, and this model was trained on data without one; a model "
            "without a latent can be guided, mode='joint'"
        )
    return model.equation


def check_white(model: Model) -> None:
    """Raise a ValueError if the flow of a model does not start from N(0, I)."""
    if not isinstance(getattr(model.objective, "source", Gaussian()), Gaussian):
        raise ValueError(
            f"this model starts from {model.training.source} noise; posteriors need noise N(0, I), the training's "
            "source=gaussian"
        )


def beside_the_prior(law: Posterior, observations: Observations, words: Sequence[str], seed: int) -> list[str]:
    """The readings that no draw of the prior comes near, in words, at most a few of them.

    The range of the draws is widened by half of itself on both sides, against the chance of so few, and by three
    standard deviations of the noise.

    Arguments:
        law: The posterior (`physflow.conditioning.posterior_of`), whose operator maps coordinates to readings.
        observations: What was read.
        words: What each reading is called.
        seed: The seed of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        z = torch.randn(PRIOR_DRAWS, law.dimension, dtype=torch.float64, generator=generator)
        read = law.observations.operator(z)
    known = read[read.isfinite().all(1)]
    if len(known) < PRIOR_DRAWS // 2:
        return []
    low, high = known.aminmax(dim=0)
    margin = 0.5 * (high - low) + 3 * observations.noise_std
    y = observations.values
    outside = ((y < low - margin) | (y > high + margin)).nonzero()[:, 0].tolist()
    told = [
        f"{words[i]} reads {y[i]:.4g}, and {len(known)} draws of the prior say {low[i]:.4g} to {high[i]:.4g} there: "
        "other units, another datum, or a logarithm?"
        for i in outside[:_TOLD]
    ]
    if len(outside) > _TOLD:
        told.append(
            f"{len(outside)} of {len(y)} readings lie so far beside the prior; only the first {_TOLD} are told."
        )
    return told
