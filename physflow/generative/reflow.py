r"""Rectified flow: straightening a flow by training it again on pairs of its own making.

A velocity v carries each source sample :math:`x_0` to :math:`x_1 = \Phi(x_0)`, its solution at :math:`t = 1`. The
next flow is trained on these pairs instead of independent ones,

.. math:: \min_\theta E_{x_0 \sim p_0,\ t \sim U[0, 1]} \tfrac1d \lVert v_\theta(x_t, t) - (x_1 - x_0) \rVert^2,
          \qquad x_t = (1 - t) x_0 + t x_1, \quad x_1 = \Phi(x_0),

with d the number of elements of an item. The new flow has the same ends :math:`p_0` and :math:`\Phi(p_0)`. Its
transport costs no more: if M is the minimum for some pairs, v its minimiser and :math:`\Phi` the flow of v, then

.. math:: \tfrac1d E|x_1 - x_0|^2 - \tfrac1d E|\Phi(x_0) - x_0|^2 = M + S, \qquad
          S = \tfrac1d E \int_0^1 |v(x(t), t) - (\Phi(x_0) - x_0)|^2\, dt,

where S measures how far the trajectories x(t) are from straight. So over all rounds M and S add up to no more than
the cost of the first pairs, and both tend to zero. Where S is zero, one Euler step generates without error.

No round corrects the one before: an error of the velocity, or of the solver that makes the pairs, stays in the data.
Make the pairs with many steps or a high order.

The pairs may come from elsewhere: a coarse simulation and a fine one of the same case, for a flow that translates
between the two (`physflow.generative.translate`). Lines of such pairs cross, where a velocity of x and t alone can only
go between; a latent that reads the start, ``inputs=("x0",)``, tells them apart.

References:
    X. Liu, C. Gong, Q. Liu, "Flow straight and fast: learning to generate and transfer data with rectified flow",
    ICLR 2023, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from physflow.generative.integrators import Heun, Solver, integrate
from physflow.generative.latents.base import Latent
from physflow.generative.objectives import FlowMatching, Objective
from physflow.generative.paths import LinearPath, Path, Velocity
from physflow.generative.sources import Gaussian, Source
from physflow.generative.times import TimeLaw, Uniform

__all__ = ["Pairs", "ReFlow", "reflow_pairs"]

_HEUN = Heun()


@torch.no_grad()
def reflow_pairs(
    velocity: Velocity,
    x0: Tensor,
    solver: Solver = _HEUN,
    steps: int = 100,
    *,
    batch_size: int = 1024,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Tensor:
    r"""The ends :math:`x_1 = \Phi(x_0)` of a flow's trajectories, computed in blocks and without gradients.

    With a solver of fixed steps the size of a block changes the speed and the memory only. An `Adaptive` one shares
    its steps within a block.

    Arguments:
        velocity: v(x, t), such as a trained network in evaluation mode.
        x0: The starts, drawn from the source, shape (items, ...).
        solver: The numerical method.
        steps: The number of equal steps from 0 to 1.
        batch_size: The number of items that are solved for at once.
        device: Where to solve; None is where the starts are.
        progress: Whether to show a progress bar.

    Returns:
        The ends in the order of the starts, with their shape, dtype and device.

    Raises:
        TypeError: If `x0` does not hold floating-point numbers.
        ValueError: If `batch_size` is less than 1, or for the reasons of `integrate`.
        FloatingPointError: If a state stops being finite.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not x0.is_floating_point():
        raise TypeError(f"expected starts of a floating-point type, got {x0.dtype}")
    x1 = torch.empty_like(x0)
    with tqdm(total=len(x0), desc="pairs", unit="item", disable=not progress) as bar:
        for start, end in zip(x0.split(batch_size), x1.split(batch_size), strict=True):
            end.copy_(integrate(velocity, start.to(device or x0.device), solver, steps))
            bar.update(len(start))
    return x1


class Pairs:
    """A `BatchSource` of pairs in memory: its items are (x0, x1), stacked along a new axis after the first.

    Arguments:
        x0: The starts, shape (items, ...).
        x1: The ends, same shape.

    Raises:
        ValueError: If the shapes differ.
    """

    def __init__(self, x0: Tensor, x1: Tensor) -> None:
        if x0.shape != x1.shape:
            raise ValueError(f"expected starts and ends of one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
        self.x0, self.x1 = x0, x1

    def __len__(self) -> int:
        return len(self.x0)

    def batch(self, indices: Tensor) -> Tensor:
        """The pairs at `indices`, shape (len(indices), 2, ...)."""
        return torch.stack([ends[indices.to(ends.device)] for ends in (self.x0, self.x1)], dim=1)


@dataclass(frozen=True)
class ReFlow(Objective):
    """Flow matching on given pairs: the data hold what a source and a coupling would otherwise draw.

    Two rounds, from a trained network that predicts the velocity::

        objective = ReFlow()
        for _ in range(2):
            x0 = Gaussian().sample((50_000, *shape), generator)
            x1 = reflow_pairs(objective.velocity(network), x0, steps=100)
            network = train(network, objective, Pairs(x0, x1), config)

    Each round begins at the weights of the one before, as is usual.

    Arguments:
        path: The probability path between the two of a pair. What the module's docstring says of straight
            trajectories holds for `LinearPath` without a tube.
        times: The law of the time, as in `FlowMatching`.
        weight: The weight of the times, as in `FlowMatching`.
        prediction: What the network returns, as in `FlowMatching`.
        latent: What the network is told, as in `FlowMatching`; None for rectified flow.
        beta: The weight of the divergence of the latent, as in `FlowMatching`.

    Raises:
        ValueError: If `prediction` is neither, or as of `FlowMatching`.
    """

    path: Path = field(default_factory=LinearPath)
    times: TimeLaw = field(default_factory=Uniform, kw_only=True)
    weight: Callable[[Tensor], Tensor] | None = field(default=None, kw_only=True)
    prediction: Literal["velocity", "data"] = field(default="velocity", kw_only=True)
    latent: Latent | None = field(default=None, kw_only=True)
    beta: float = field(default=1e-3, kw_only=True)

    def __post_init__(self) -> None:
        self._matching(None)

    def _matching(self, starts: Tensor | None) -> FlowMatching:
        """The same on starts that are given."""
        return FlowMatching(
            self.path,
            source=Gaussian() if starts is None else _Given(starts),
            latent=self.latent,
            beta=self.beta,
            times=self.times,
            weight=self.weight,
            prediction=self.prediction,
        )

    def loss(
        self,
        network: Callable[..., Tensor],
        x1: Tensor,
        generator: torch.Generator,
        average: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """The loss of `FlowMatching` with the starts of the pairs in place of a draw; see `Objective.loss`.

        Arguments:
            network: Any callable network(x, t), x and the result of shape (batch, ...), t (batch,).
            x1: Pairs of a start and its end, as `Pairs` gives them, shape (batch, 2, ...), at least one.
            generator: The random numbers of the times, and of the path if it draws any.
            average: Not used.

        Returns:
            The loss, a scalar tensor in float32 or finer.

        Raises:
            TypeError: If the pairs do not hold floating-point numbers.
            ValueError: If these are no pairs, there are none, or the network or the weight returns a wrong shape.
        """
        if x1.ndim < 2 or x1.shape[1] != 2:
            raise ValueError(
                f"expected pairs (x0, x1) of shape (batch, 2, ...), got {tuple(x1.shape)}; make the data with Pairs"
            )
        starts, ends = x1.unbind(1)
        return self._matching(starts).loss(network, ends, generator)

    def velocity(self, network: Callable[..., Tensor]) -> Velocity:
        """The velocity that a trained network stands for, as in `FlowMatching.velocity`."""
        return self._matching(None).velocity(network)


@dataclass(frozen=True)
class _Given(Source):
    """The source that has been drawn already."""

    x0: Tensor

    def sample(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """The draws at hand, whose shape is the one asked for."""
        return self.x0.to(device, dtype)
