r"""Objectives: what a network is trained to minimise.

Conditional flow matching regresses the conditional velocity (or the data) on points of the path:

.. math:: L(\theta) = E_{t \sim U[0, 1],\ (x_0, x_1) \sim \pi}
          \; w(t) \, \tfrac{1}{d} \lVert f_\theta(x_t, t) - y_t \rVert^2,

where d is the number of elements of an item and the target :math:`y_t` is :math:`u_t = dx_t/dt` for velocity
prediction and the data end of the trajectory for data prediction. The minimiser is
:math:`E[y_t \mid x_t = x]`: the marginal velocity, or the data prediction from which it follows (see
`physflow.generative.paths`). The minimum is not zero but the mean conditional variance of :math:`y_t`.

With a latent (`physflow.generative.latents`) the network is told :math:`z \sim q(z \mid x_0, x_1, x_t, t)` and

.. math:: L(\theta, q) = E\; w(t)\, \tfrac{1}{d} \lVert f_\theta(x_t, t, z) - y_t \rVert^2
          + \beta\, E\, \mathrm{KL}\bigl(q(z \mid \cdot) \,\|\, N(0, I)\bigr):

the error is a mean over the elements of an item, the divergence a sum over the components of z, in nats, and both are
means over the batch. Whoever writes the error as a sum over elements has d times our beta.

References:
    Y. Lipman et al., "Flow matching for generative modeling", ICLR 2023, theorem 2.
    A. Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal
    transport", TMLR 2024, section 3.
    A. Samaddar et al., "Efficient flow matching using latent variables", 2025, Algorithm 1.
    P. Guo, A. Schwing, "Variational rectified flow matching", ICML 2025, section 3.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn

from physflow.config import nearest
from physflow.config.checks import fraction
from physflow.generative.couplings import Coupling, Independent
from physflow.generative.latents.base import Latent
from physflow.generative.latents.conditioned import Conditioned
from physflow.generative.paths import LinearPath, Path, Quantity, Velocity
from physflow.generative.predictors import Predictor
from physflow.generative.sources import Gaussian, Scaled, Source
from physflow.generative.times import TimeLaw, Uniform

__all__ = ["Evaluation", "FlowMatching", "LateWeight", "Objective"]


class Objective(ABC):
    """A scalar to minimise over the weights of a network."""

    source: Source
    """The law of the noise."""

    @property
    def start(self) -> Source:
        """The law of the state from which samples start."""
        return self.source

    @abstractmethod
    def loss(
        self,
        network: Callable[..., Tensor],
        x1: Tensor,
        generator: torch.Generator,
        average: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """An estimate of the objective from one minibatch; unbiased for independent couplings and without a teacher.

        Arguments:
            network: Any callable network(x, t, z=None), x and the result of shape (batch, ...), t (batch,).
            x1: Data samples in model space, shape (batch, ...), at least one.
            generator: All random numbers of the estimate.
            average: The network with the averaged weights, for objectives with a teacher, which get no gradient from
                it; None stands for the network itself.

        Returns:
            The loss, a scalar tensor in float32 or finer.
        """

    def at(self, share: float) -> Objective:
        """The objective of a step before which this share of all steps was taken, in [0, 1): itself, but for stages."""
        return self

    def parts(self, network: Callable[..., Tensor], x1: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss, and what it is made of, by name: what is recorded of the validation; arguments as for `loss`."""
        return {"loss": self.loss(network, x1, generator)}


@dataclass(frozen=True)
class LateWeight:
    r"""The weight :math:`w(t) = 1 / \max(1 - t, c)`, which grows towards the data.

    With data prediction it is the mean, on a logarithmic scale, between an equal weight of the data (:math:`w = 1`)
    and of the velocity, whose error is that of the data over :math:`1 - t` (:math:`w = (1 - t)^{-2}`).

    Arguments:
        floor: The smallest time left :math:`c`, positive; it bounds the weight.
    """

    floor: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.floor <= 1:
            raise ValueError(f"the floor of the time left must lie in (0, 1], got {self.floor}")

    def __call__(self, t: Tensor) -> Tensor:
        """The weights of the times t, shape (batch,)."""
        return 1 / (1 - t).clamp_min(self.floor)


@dataclass(frozen=True)
class Evaluation:
    """A network at one draw of all that is random in `FlowMatching`: what a further term of a loss needs.

    Attributes:
        item: The data samples as given, whole items, shape (batch, ...), in float32 or finer; a coupling may have
            paired the points of the path with other ones, but not where there is a latent.
        x_t: The points of the path, shape (batch, ...).
        t: Their times, shape (batch,).
        predicted: What the network returned, of the shape of `x_t`; under autocast in half precision.
        error: The weighted mean squared error, a scalar.
        rate: The mean divergence of the latent in nats, a scalar.
    """

    item: Tensor
    x_t: Tensor
    t: Tensor
    predicted: Tensor
    error: Tensor
    rate: Tensor


@dataclass(frozen=True)
class FlowMatching(Objective):
    r"""Conditional flow matching with any path, coupling, source and latent.

    Arguments:
        path: The probability path.
        coupling: How the samples of a minibatch are paired: `Independent` is I-CFM, `ExactOT` is OT-CFM.
        source: The law of :math:`x_0`.
        latent: What the network is told, or None. The network is then `Conditioned(network, latent)`: the posterior
            in the network is the one that is trained; of the one given here the objective reads sizes and `rest`.
        beta: The weight of the divergence of a stochastic latent, in units of the mean squared error per nat.
        times: The law of the time; another than the uniform one is a weight by its density.
        weight: The weight :math:`w(t)`, a map of times (batch,) to values (batch,); None is :math:`w = 1`.
        unconditional: The share of the items whose network is told zeros in place of z, for `ClassifierFree`.
        prediction: What the network returns: ``"velocity"``, ``"data"`` (the clean sample), ``"noise"`` or
            ``"score"``. The data prediction of a `LinearPath` with a tube is that of the tube's end, as its docstring
            says; the error of a score is infinite at t = 1 without a weight (`ScoreMatching`).

    Raises:
        ValueError: If `prediction` is none of these, `beta` is negative or not finite, or there is a latent and a
            coupling other than `Independent`.
    """

    path: Path = field(default_factory=LinearPath)
    coupling: Coupling = field(default_factory=Independent)
    source: Source = field(default_factory=Gaussian)
    latent: Latent | None = None
    beta: float = field(default=1e-3, kw_only=True)
    times: TimeLaw = field(default_factory=Uniform, kw_only=True)
    weight: Callable[[Tensor], Tensor] | None = field(default=None, kw_only=True)
    prediction: Quantity = field(default="velocity", kw_only=True)
    unconditional: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        fraction(unconditional=self.unconditional)
        if self.unconditional and self.latent is None:
            raise ValueError(f"unconditional={self.unconditional:g} leaves out z, but there is no latent: give latent=")
        if self.prediction not in get_args(Quantity):
            hint = nearest(self.prediction, get_args(Quantity))
            raise ValueError(f"unknown prediction {self.prediction!r} of a network; {hint}")
        if self.latent is not None and not self.coupling.independent:
            raise ValueError(
                f"{self.coupling} ties the source to the data, and so to the latent, but generation draws the two "
                "apart: the samples would follow another law; use Independent() with a latent"
            )
        if not 0 <= self.beta < math.inf:
            raise ValueError(
                f"beta, the weight of the latent's divergence, must be finite and not negative, got {self.beta}: "
                "a negative one would reward a posterior for leaving its prior"
            )

    def loss(
        self,
        network: Callable[..., Tensor],
        x1: Tensor,
        generator: torch.Generator,
        average: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """The weighted error, one time per item, and the weighted divergence; see `Objective.loss`.

        Raises:
            TypeError: If `x1` does not hold floating-point numbers, or the network takes no latent.
            ValueError: If the batch is empty, or the network or the weight returns a wrong shape.
        """
        error, rate = self.terms(network, x1, generator)
        return error + self.beta * rate

    def parts(self, network: Callable[..., Tensor], x1: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss; with a stochastic latent also the error and the rate in nats. See `Objective.parts`."""
        error, rate = self.terms(network, x1, generator)
        stochastic = self.latent is not None and self.latent.stochastic
        return {"loss": error + self.beta * rate, **({"error": error, "rate": rate} if stochastic else {})}

    def terms(self, network: Callable[..., Tensor], x1: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The weighted mean squared error and the mean divergence in nats, two scalars; arguments as for `loss`."""
        at = self.evaluate(network, x1, generator)
        return at.error, at.rate

    def evaluate(self, network: Callable[..., Tensor], x1: Tensor, generator: torch.Generator) -> Evaluation:
        """The network at one draw, with both terms of the loss; arguments as for `loss`.

        Raises:
            TypeError: As `loss` does.
            ValueError: As `loss` does.
        """
        if not x1.is_floating_point():
            raise TypeError(f"expected data of a floating-point type, got {x1.dtype}")
        if x1.numel() == 0:
            raise ValueError(f"the mean over an empty batch is undefined; got data of shape {tuple(x1.shape)}")
        item = x1.to(torch.promote_types(x1.dtype, torch.float32))
        x1 = item if self.latent is None else self.latent.rest(item)
        shape = (self.coupling.source_factor * len(x1), *x1.shape[1:])
        x0 = self.source.sample(shape, generator, dtype=x1.dtype, device=x1.device)
        x0, x1 = self.coupling(x0, x1, generator)
        t = self.times.sample(len(x1), generator, dtype=x1.dtype).to(x1.device)
        x_t, target = self.path.interpolate(x0, x1, t, generator)
        target = self.path.convert(target, x_t, t, given="velocity", wanted=self.prediction)

        predicted, kl = self._predict(network, x_t, t, x0, item, generator)
        if predicted.shape != target.shape:
            raise ValueError(f"expected the network to keep the shape {tuple(x_t.shape)}, got {tuple(predicted.shape)}")
        # Autocast's half precision ends here: the target's type is finer, and elementwise arithmetic keeps it.
        per_item = (predicted - target).square().reshape(len(t), -1).mean(1)
        if self.weight is not None:
            weight = self.weight(t)
            if weight.shape != t.shape:
                raise ValueError(f"expected one weight per item, shape {tuple(t.shape)}, got {tuple(weight.shape)}")
            per_item = weight * per_item
        return Evaluation(item, x_t, t, predicted, per_item.mean(), kl.mean())

    def _predict(
        self,
        network: Callable[..., Any],
        x_t: Tensor,
        t: Tensor,
        x0: Tensor,
        item: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """The network's prediction and the divergence of its latent, shape (batch,)."""
        # Wrapped for several processes, or compiled, a network keeps the one that was given as an attribute.
        given = getattr(network, "module", getattr(network, "_orig_mod", network))
        if self.latent is None:
            if isinstance(given, Conditioned):
                raise TypeError(
                    "the network has a latent, but the objective knows of none: use "
                    f"{type(self).__name__}(latent=network.latent)"
                )
            return network(x_t, t), torch.zeros_like(t)
        if isinstance(given, Conditioned) and _facts(self.latent) != _facts(given.latent):
            raise ValueError(
                "the objective's latent is not that of the network: "
                f"{_facts(self.latent)} against {_facts(given.latent)}"
            )
        epsilon = None
        if self.latent.stochastic:
            shape = (len(t), self.latent.dimension)
            epsilon = Gaussian().sample(shape, generator, dtype=x_t.dtype, device=x_t.device)
        if isinstance(given, nn.Module) and not isinstance(given, Conditioned):
            raise TypeError(
                f"an objective with a latent needs a network that encodes, got {type(given).__name__}: train "
                "Conditioned(network, latent)"
            )
        if not self.unconditional:
            predicted, kl = network(x_t, t, None, x0, item, epsilon)
            return predicted, kl
        told = torch.rand(len(t), generator=generator, device=generator.device) >= self.unconditional
        predicted, kl = network(x_t, t, None, x0, item, epsilon, told.to(x_t))
        return predicted, kl

    def velocity(self, network: Callable[..., Tensor]) -> Velocity:
        r"""The marginal velocity that a trained network stands for.

        Of a network that predicts something else it is made by conversion, which needs a distance from the ends of the
        path: see `Predictor`. Invert with a velocity-predicting network.

        Arguments:
            network: The network that was trained on this objective.

        Returns:
            The callable v(x, t, z=None), to be given to `integrate`.
        """
        return network if self.prediction == "velocity" else self.predictor(network)

    @property
    def start(self) -> Source:
        """The source; on paths that do not start from it, such as `VE`, in the size of the path's first state."""
        spread = self.path.spread(torch.zeros(1, dtype=torch.float64)).item()
        return self.source if spread == 1 else Scaled(self.source, spread)

    def predictor(self, network: Callable[..., Tensor]) -> Predictor:
        """The trained network with its path, which tells data, noise and score too, and samples with noise."""
        return Predictor(network, self.path, self.prediction)


def _facts(latent: Latent) -> dict[str, Any]:
    """What an objective must know of a latent."""
    return {"dimension": latent.dimension, "inputs": latent.inputs, "stochastic": latent.stochastic}
