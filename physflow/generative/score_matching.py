r"""Denoising score matching: the objective of diffusion models, and its weights by name.

A network is taught the score of the conditional law of the path,

.. math:: L(\theta) = E\; \lambda(t)\, \tfrac{1}{d} \lVert s_\theta(x_t, t) - \nabla \log p_t(x_t \mid x_1) \rVert^2,
          \qquad \nabla \log p_t(x_t \mid x_1) = -\frac{x_0}{\sigma_t},

whose minimiser is the score of the marginal law. Whatever a network predicts, at a given point of the path its error in
velocity, data, noise and score are one error in other units: with :math:`x = \alpha D + \sigma N` and
:math:`v = \dot\alpha D + \dot\sigma N` an error :math:`\delta` of the noise is one of

.. math:: -\frac{\sigma}{\alpha} \delta \text{ in D}, \qquad
          \frac{\dot\sigma \alpha - \dot\alpha \sigma}{\alpha} \delta \text{ in v}, \qquad
          -\frac{1}{\sigma} \delta \text{ in the score.}

So flow matching and score matching differ by their weight over time alone, and the weights have names:

=================  ======================  ==========================================================================
counts             :math:`\lambda(t)`      the loss is that of
=================  ======================  ==========================================================================
``"noise"``        :math:`\sigma^2`        predicting the noise: the usual weight of diffusion models
``"likelihood"``   :math:`g^2`             a bound of the negative log-likelihood, twice and up to a constant
``"velocity"``     :math:`g^4 / 4`         flow matching on the same path
``"data"``         :math:`\sigma^4/\alpha^2`  predicting the data
=================  ======================  ==========================================================================

References:
    P. Vincent, "A connection between score matching and denoising autoencoders", Neural Computation, 2011.
    Y. Song, C. Durkan, I. Murray, S. Ermon, "Maximum likelihood training of score-based diffusion models", NeurIPS
    2021, theorem 1.
    D. Kingma, R. Gao, "Understanding diffusion objectives as the ELBO with simple data augmentation", NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from physflow.config import nearest
from physflow.generative.diffusions import VP
from physflow.generative.objectives import FlowMatching
from physflow.generative.paths import Path, Quantity
from physflow.generative.sources import Gaussian
from physflow.generative.times import TimeLaw, Uniform

__all__ = ["Counts", "ErrorWeight", "ScoreMatching"]

Counts: TypeAlias = Literal["noise", "likelihood", "velocity", "data", "score"]
"""What an error is counted as."""


@dataclass(frozen=True)
class ErrorWeight:
    """The weight w(t) of the error of one prediction that makes it count as the error of another.

    It is a weight of `FlowMatching`: a map of times (batch,) to weights (batch,).

    Arguments:
        path: The path.
        given: What the network predicts.
        counts: What its error is counted as: that of a prediction, or ``"likelihood"``.

    Raises:
        ValueError: If a name is unknown.
    """

    path: Path
    given: Quantity
    counts: Counts

    def __post_init__(self) -> None:
        for name, value, names in (
            ("given", self.given, get_args(Quantity)),
            ("counts", self.counts, get_args(Counts)),
        ):
            if value not in names:
                raise ValueError(f"unknown {name}={value!r} of an error; {nearest(str(value), names)}")

    def __call__(self, t: Tensor) -> Tensor:
        """The weights of the times t, shape (batch,)."""
        if self.given == self.counts:
            return torch.ones_like(t)
        return (self._unit(t, self.counts) / self._unit(t, self.given)).square()

    def _unit(self, t: Tensor, counts: Counts) -> Tensor:
        """The error, up to its sign, that belongs to an error of 1 of the noise."""
        a, b, c, d = self.path.shares(t)
        if counts == "noise":
            return torch.ones_like(t)
        if counts == "data":
            return b / a
        if counts == "velocity":
            return (d - c * b / a).abs()
        score = 1 / self.path.score_scale(t)
        return score if counts == "score" else self.path.squared_diffusion(t).sqrt() * score


@dataclass(frozen=True)
class ScoreMatching(FlowMatching):
    """Denoising score matching with any path and prediction, by default as diffusion models are trained.

    Its source is N(0, I), independent of the data. Samples come from `FlowMatching.predictor` with any sampler, or from
    `FlowMatching.velocity` and `integrate`::

        objective = ScoreMatching(VP())
        network = train(network, objective, data, config)
        x1 = simulate(objective.predictor(network), x0, EulerMaruyama(), 500, generator)

    Arguments:
        path: The path.
        prediction: What the network predicts.
        counts: What its error is counted as; see the module's docstring. The weight is then `ErrorWeight`.
        times: The law of the time, which stops a little before the data, where the score need not exist.

    Raises:
        ValueError: If a name is unknown, or the source is another or paired with the data.
    """

    path: Path = field(default_factory=VP)
    prediction: Quantity = field(default="noise", kw_only=True)
    counts: Counts = field(default="noise", kw_only=True)
    times: TimeLaw = field(default_factory=lambda: Uniform(0.0, 1 - 1e-5), kw_only=True)
    weight: Callable[[Tensor], Tensor] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.coupling.independent or not isinstance(self.source, Gaussian):
            raise ValueError(
                "scores follow from noise that is N(0, I) and independent of the data: use Independent() and "
                f"Gaussian(), got {self.coupling} and {self.source}"
            )
        object.__setattr__(self, "weight", ErrorWeight(self.path, self.prediction, self.counts))
        super().__post_init__()
