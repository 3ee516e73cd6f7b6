r"""Physics in training: the residual of the clean estimate beside flow matching.

Where data obey :math:`R(x_1) = 0`, the network's estimate of the clean sample can be held to it too:

.. math:: L = L_{FM} + c\, E\Bigl[ \frac{1}{2 \Sigma_t}\, \tfrac1m \lVert R(D(x_t, t)) \rVert^2 \Bigr], \qquad
          \Sigma_t = \max\Bigl(\frac{\sigma_t}{\alpha_t},\, \epsilon\Bigr)^2,

with the data prediction :math:`D` that follows from whatever the network predicts, m the number of entries of an
item's residual, and the same draw of :math:`(x_0, x_1, t, z)` in both terms: the network is evaluated once.
:math:`\Sigma_t` is the variance of :math:`x_1` given :math:`x_t = \alpha_t x_1 + \sigma_t x_0` for a source of variance
one, as far as the law of the data leaves it open. The weight is

.. math:: \frac{1}{2 \Sigma_t} = \tfrac12 \Bigl( \frac{\alpha_t}{\max(\sigma_t, \epsilon\, \alpha_t)} \Bigr)^2 :

it vanishes at :math:`t = 0`, where the estimate is but a mean of the data, grows as the estimate gets sharp, and is
constant, :math:`1 / 2 \epsilon^2`, near :math:`t = 1`.

For a `LinearPath` with a tube the estimate is that of the tube's end, as for any data prediction.

The residual of a mean is not the mean of residuals. :math:`D` is to be :math:`E[x_1 \mid x_t]`, and

.. math:: R(E[x_1 \mid x_t]) = E[R(x_1) \mid x_t] = 0

holds for an affine R only. For any other, :math:`R = \lvert x \rvert - 1` on the circle say, the exact estimate has a
residual. The term then pulls the network away from it, and the minimum of the sum is not the law of the data: samples
obey R more closely and may lose spread. Measure both. For an affine R that all data obey, law and residual have their
minima at the same network.

References:
    J.-H. Bastek, W. Sun, D. Kochmann, "Physics-informed diffusion models", ICLR 2025, section 3: the residual as a
    virtual observation, here of the mean estimate. There :math:`\Sigma_t` is the variance of a step of the reverse
    process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from physflow.generative.objectives import Evaluation, FlowMatching, Objective
from physflow.generative.paths import Velocity

__all__ = ["PhysicsInformed"]


@dataclass(frozen=True)
class PhysicsInformed(Objective):
    r"""Flow matching with the residual of the clean estimate in the loss.

    **Good values.** The residual of a differential equation amplifies the noise of single points, and early estimates
    are noise: its square may exceed the error by orders of magnitude. Compare ``physics`` with ``error`` in `parts`,
    and choose c such that the error of the trained network rises by little. A large c first finds one sample that obeys
    R and estimates it everywhere, which takes many steps to unlearn.

    Arguments:
        objective: The flow matching; its time law and coupling are those of the physics term, its weight is not.
        residual: The residual :math:`R` of whole items in model space, (batch, ...) to (batch, ...), in torch
            operations, each item by itself; relative to a size of its own, so that c is a number.
        weight: The weight :math:`c`, in units of the mean squared error; 0 is `objective` itself, bit for bit.
        floor: The smallest :math:`\sigma_t / \alpha_t` that counts, :math:`\epsilon`; it bounds the weight over time.

    Raises:
        TypeError: If the objective is not `FlowMatching`.
        ValueError: If the weight is negative or not finite, or the floor not in (0, 1].

    References:
        See the module's docstring.
    """

    objective: FlowMatching
    residual: Callable[[Tensor], Tensor]
    weight: float
    floor: float = field(default=0.05, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.objective, FlowMatching):
            raise TypeError(
                "the residual is taken at the data prediction of a FlowMatching objective, got "
                f"{type(self.objective).__name__}: other objectives have none at every time"
            )
        if not 0 <= self.weight < math.inf:
            raise ValueError(
                f"weight, of the residual, must be finite and not negative, got {self.weight}: a negative one would "
                "reward a broken equation"
            )
        if not 0 < self.floor <= 1:
            raise ValueError(f"floor, the smallest sigma / alpha that counts, must lie in (0, 1], got {self.floor}")

    def loss(
        self,
        network: Callable[..., Tensor],
        x1: Tensor,
        generator: torch.Generator,
        average: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """The loss of the module's docstring; see `Objective.loss`. Without a weight no residual is evaluated.

        Raises:
            TypeError: As `FlowMatching.loss` does.
            ValueError: As `FlowMatching.loss` does; if the residual has a wrong shape or passes no gradient on; or if
                the path has no data prediction.
        """
        if self.weight == 0:
            return self.objective.loss(network, x1, generator, average)
        return self.parts(network, x1, generator)["loss"]

    def parts(self, network: Callable[..., Tensor], x1: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss, the error, with a stochastic latent the rate in nats, and the physics term without c."""
        at = self.objective.evaluate(network, x1, generator)
        physics = self._physics(at)
        loss = at.error + self.objective.beta * at.rate + self.weight * physics
        stochastic = self.objective.latent is not None and self.objective.latent.stochastic
        return {"loss": loss, "error": at.error, **({"rate": at.rate} if stochastic else {}), "physics": physics}

    def time_weight(self, t: Tensor) -> Tensor:
        r"""The weights :math:`1 / 2 \Sigma_t` of the times t, shape (batch,), without what noise a path adds."""
        alpha, sigma = self.objective.path.alpha(t), self.objective.path.sigma(t)
        # As a share of the noise, which is never zero: at t = 0 there is no data to divide by.
        return 0.5 * (alpha / torch.maximum(sigma, self.floor * alpha)).square()

    def velocity(self, network: Callable[..., Tensor]) -> Velocity:
        """The velocity that a trained network stands for: that of the flow matching (`FlowMatching.velocity`)."""
        return self.objective.velocity(network)

    def _physics(self, at: Evaluation) -> Tensor:
        """The mean over the batch of the weighted mean square of the residual, a scalar."""
        # A second derivative of numbers of eight bits would be noise.
        with torch.autocast(at.x_t.device.type, enabled=False):
            r = self.residual(self._clean(at))
        if r.shape[:1] != at.t.shape or r.numel() == 0:
            raise ValueError(
                f"expected a residual of shape ({len(at.t)}, ...), entries for each of the {len(at.t)} items, got "
                f"{tuple(r.shape)}"
            )
        if at.predicted.requires_grad and not r.requires_grad:
            raise ValueError(
                "the residual passes no gradient on to the network, which could not learn from it: write it in torch "
                "operations, without detach, no_grad or numpy"
            )
        return (self.time_weight(at.t) * r.square().reshape(len(r), -1).mean(1)).mean()

    def _clean(self, at: Evaluation) -> Tensor:
        """The estimates of the clean items, whole: with what the latent holds of them."""
        objective = self.objective
        predicted = at.predicted.to(at.x_t.dtype)
        data = objective.path.convert(predicted, at.x_t, at.t, given=objective.prediction, wanted="data")
        if objective.latent is None or data.shape == at.item.shape:
            return data
        return objective.latent.join(objective.latent.encode(at.item), data)
