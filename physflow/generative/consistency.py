r"""Consistency flow matching: a velocity that points straight at the end of its segment of time.

Time is cut into K equal segments; that of t ends at :math:`e = (\lfloor K t \rfloor + 1) / K`. One straight step from
x at t leads to

.. math:: f_\theta(x, t) = x + (e - t)\, v_\theta(x, t),

and is asked to lead to the same point from two neighbouring times of a trajectory, :math:`t` and
:math:`r = \min(t + \Delta t, e)`:

.. math:: L(\theta) = E \tfrac1d \Bigl( \lVert f_\theta(x_t, t) - y \rVert^2 + \alpha\, \chi \,
          \lVert v_\theta(x_t, t) - v_{\bar\theta}(x_r, r) \rVert^2 \Bigr), \qquad
          y = \begin{cases} f_{\bar\theta}(x_r, r) & \chi = 1 \\ x_e & \chi = 0 \end{cases}

with :math:`x_t, x_r, x_e` points of one path between a source sample and a data sample, t uniform in [0, 1), d the
number of elements of an item, and no gradient through the averaged weights :math:`\bar\theta`. The flag
:math:`\chi` is 1 where :math:`r < b` and :math:`r < e`: later than the boundary b the target is the known end of the
segment, and a pair of times never reaches into the next segment, where v may jump.

* For b = 0 only the known end is left: flow matching with the weight :math:`(e - t)^2`, whose minimiser on a straight
  path is the marginal velocity.
* For b = 1 and :math:`\Delta t, \alpha \to 0` the minimiser is the mean velocity that takes the flow from (x, t) to the
  end of the segment, so that K Euler steps generate without error.

In between, the target beyond the boundary is that of flow matching. It keeps the end of the last segment in place
while the rest learns from itself, which spreads slowly, from the ends of the segments to their beginnings. The
published training has two stages of equal length, b = 0 and then b = 0.9, the second from the weights of the first.
The first is what makes the second possible: from new weights, consistency alone hardly learns anything.

References:
    L. Yang et al., "Consistency flow matching: defining straight flows with velocity consistency", 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from physflow.generative.couplings import Coupling, Independent
from physflow.generative.objectives import Objective
from physflow.generative.paths import LinearPath, Path, Velocity
from physflow.generative.sources import Gaussian, Source

__all__ = ["ConsistencyFlowMatching"]


@dataclass(frozen=True)
class ConsistencyFlowMatching(Objective):
    r"""Consistency flow matching with any path, coupling and source.

    In two stages of equal length::

        objective = ConsistencyFlowMatching(known=0.5)
        network = train(network, objective, data, config)
        x1 = integrate(objective.velocity(network), x0, Euler(), steps=objective.segments)

    or from a network that predicts the velocity already, with ``known=0.0``.

    The two velocities of the loss differ by :math:`O(\Delta t)`, so train in float32: bfloat16 rounds them by more.
    Dropout makes them differ too, for the averaged network has none; leave it out.

    Arguments:
        path: The probability path. Beyond the boundary the target is exact for a straight one (`LinearPath`), as the
            module's docstring says.
        coupling: How the samples of a minibatch are paired.
        source: The law of :math:`x_0`.
        segments: The number K of segments.
        step: The distance :math:`\Delta t` of two neighbouring times, shorter than a segment. The gradient of the
            consistency is proportional to it, and so is the bias of its minimum: a longer step learns sooner, a
            shorter one more exactly.
        alpha: The weight :math:`\alpha` of the distance between the two velocities.
        boundary: The time b from which on the target is the known end of the segment, in [0, 1].
        known: The share of a training at its beginning in which every target is a known end, b = 0; in [0, 1].

    Raises:
        ValueError: If a number is not as described.
    """

    path: Path = field(default_factory=LinearPath)
    coupling: Coupling = field(default_factory=Independent)
    source: Source = field(default_factory=Gaussian)
    segments: int = field(default=2, kw_only=True)
    step: float = field(default=1e-3, kw_only=True)
    alpha: float = field(default=1e-5, kw_only=True)
    boundary: float = field(default=0.9, kw_only=True)
    known: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.segments, bool) or int(self.segments) != self.segments or self.segments < 1:
            raise ValueError(f"segments must be a whole number of at least 1, got {self.segments}")
        if not 0 < self.step < 1 / self.segments:
            raise ValueError(
                f"step must be positive and shorter than a segment, 1 / {self.segments} of the time, got {self.step}"
            )
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"alpha must be finite and not negative, got {self.alpha}")
        if not 0 <= self.boundary <= 1:
            raise ValueError(
                f"boundary is a time and must lie in [0, 1], got {self.boundary}; "
                "0 trains on the known ends alone, 1 on consistency alone"
            )
        if not 0 <= self.known <= 1:
            raise ValueError(f"known is a share of the training and must lie in [0, 1], got {self.known}")

    def at(self, share: float) -> ConsistencyFlowMatching:
        """That of the stage: with known ends alone while less than the share `known` of all steps was taken."""
        return replace(self, boundary=0.0, known=0.0) if share < self.known else self

    def loss(
        self,
        network: Callable[..., Tensor],
        x1: Tensor,
        generator: torch.Generator,
        average: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        r"""The loss of the module's docstring, one uniform time per item; see `Objective.loss`.

        Arguments:
            network: Any callable network(x, t), x and the velocity of shape (batch, ...), t (batch,).
            x1: Data samples in model space, shape (batch, ...), at least one.
            generator: All random numbers of the estimate.
            average: The network with the averaged weights :math:`\bar\theta`, called without gradients; None is the
                network itself. With a boundary of 0 it is not called.

        Returns:
            The loss, a scalar tensor in float32 or finer.

        Raises:
            TypeError: If `x1` does not hold floating-point numbers.
            ValueError: If the batch is empty, or a network returns a wrong shape.
        """
        if not x1.is_floating_point():
            raise TypeError(f"expected data of a floating-point type, got {x1.dtype}")
        if x1.numel() == 0:
            raise ValueError(f"the mean over an empty batch is undefined; got data of shape {tuple(x1.shape)}")
        x1 = x1.to(torch.promote_types(x1.dtype, torch.float32))
        x0 = self.source.sample(x1.shape, generator, dtype=x1.dtype, device=x1.device)
        x0, x1 = self.coupling(x0, x1, generator)
        t = torch.rand(len(x1), generator=generator, dtype=x1.dtype, device=generator.device).to(x1.device)
        end = ((self.segments * t).floor() + 1) / self.segments
        r = torch.minimum(t + self.step, end)
        x_t, x_r, x_end = self._trajectory(x0, x1, (t, r, end), generator)

        velocity = _checked(network, x_t, t)
        reached = x_t + _per_item(end - t, x_t) * velocity
        if self.boundary == 0:
            return (reached - x_end).square().mean()
        # After the call with gradients: autocast would otherwise hand it weights that were cast without any.
        with torch.no_grad():
            taught = _checked(network if average is None else average, x_r, r)
        consistent = _per_item((r < self.boundary) & (r < end), x_t)
        target = torch.where(consistent, x_r + _per_item(end - r, x_r) * taught, x_end)
        apart = torch.where(consistent, velocity - taught, 0.0)
        return (reached - target).square().mean() + self.alpha * apart.square().mean()

    def velocity(self, network: Callable[..., Tensor]) -> Velocity:
        r"""The velocity that a trained network stands for: the network itself.

        It is the mean velocity up to the end of the segment, no longer the slope of a trajectory. Generate with
        `Euler` and as many steps as there are `segments`: each step then spans one segment. A solver that evaluates
        it within a segment takes the mean for the slope, and more steps may make the samples worse.

        Arguments:
            network: The network that was trained on this objective.

        Returns:
            The callable v(x, t, z=None), to be given to `integrate`.
        """
        return network

    def _trajectory(
        self, x0: Tensor, x1: Tensor, times: tuple[Tensor, ...], generator: torch.Generator
    ) -> list[Tensor]:
        """Points of the same paths at several times: a path that draws numbers draws the same ones for each."""
        state, points = generator.get_state(), []
        for t in times:
            generator.set_state(state)
            points.append(self.path.interpolate(x0, x1, t, generator)[0])
        return points


def _checked(network: Callable[..., Tensor], x: Tensor, t: Tensor) -> Tensor:
    """The network's velocity in the precision of x, which is finer than that of autocast."""
    velocity = network(x, t)
    if velocity.shape != x.shape:
        raise ValueError(f"expected the network to keep the shape {tuple(x.shape)}, got {tuple(velocity.shape)}")
    return velocity.to(x.dtype)


def _per_item(values: Tensor, x: Tensor) -> Tensor:
    """Values (batch,), shaped to meet x (batch, ...)."""
    return values.reshape(-1, *(1,) * (x.ndim - 1))
