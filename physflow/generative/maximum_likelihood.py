r"""Training by maximum likelihood: a continuous normalising flow, as before flow matching.

.. math:: L(\theta) = - \frac1d\, E \log p_1(x_1; \theta),

the density by the change of variables (`physflow.generative.likelihood`), with one random probe for the divergence, the
same along each trajectory (FFJORD). The gradient is that of the adjoint equation, solved by torchdiffeq beside the
state, so that memory does not grow with the steps.

It needs no path and finds its own, not a straight one. Each step of training solves two differential equations, with
tens to hundreds of evaluations of the network and of its derivative, where flow matching takes one: it is here as a
reference, for few dimensions. The loss is the density itself, so that losses of different runs compare.

References:
    R. T. Q. Chen et al., "Neural ordinary differential equations", NeurIPS 2018.
    W. Grathwohl et al., "FFJORD: Free-form continuous dynamics for scalable reversible generative models", ICLR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torchdiffeq
from torch import Tensor, nn

from physflow.config.checks import positive
from physflow.generative.divergence import Divergence, Hutchinson
from physflow.generative.integrators import at, check_finite
from physflow.generative.objectives import Objective
from physflow.generative.paths import Velocity
from physflow.generative.sources import Gaussian, Source

__all__ = ["MaximumLikelihood"]


@dataclass(frozen=True)
class MaximumLikelihood(Objective):
    """The negative log-density of the data, in nats per dimension.

    Arguments:
        source: The law at t = 0, of known density.
        divergence: `Hutchinson`, whose probes are drawn anew in every step, or `Exact`.
        rtol: The relative tolerance of the adaptive solver (dopri5), both ways.
        atol: The absolute tolerance.

    Raises:
        ValueError: If a tolerance is not positive.
    """

    source: Source = field(default_factory=Gaussian)
    divergence: Divergence = field(default_factory=Hutchinson)
    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        positive(rtol=self.rtol, atol=self.atol)

    def loss(
        self,
        network: Callable[..., Tensor],
        x1: Tensor,
        generator: torch.Generator,
        average: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """The mean over the batch; see `Objective.loss`.

        Raises:
            TypeError: If the network is no module, whose weights the adjoint must know, as on several processes.
            SolverDiverged: If the state stops being finite.
        """
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"maximum likelihood needs the weights of a torch.nn.Module, got {type(network).__name__}; it trains "
                "on one process"
            )
        shape, d = x1.shape, math.prod(x1.shape[1:])
        probes = self.divergence.probes(x1, generator)

        def augmented(t: Tensor, state: Tensor) -> Tensor:
            x = state[:, :d].reshape(shape)
            v, trace = self.divergence(lambda y: network(y, at(float(t.detach()), y)), x, probes)
            return torch.cat([v.flatten(1), trace.mean(1, keepdim=True)], dim=1)

        start = torch.cat([x1.flatten(1), x1.new_zeros(len(x1), 1)], dim=1)
        times = start.new_tensor([1.0, 0.0])
        weights = tuple(p for p in network.parameters() if p.requires_grad)
        end = torchdiffeq.odeint_adjoint(
            augmented, start, times, rtol=self.rtol, atol=self.atol, method="dopri5", adjoint_params=weights
        )[-1]
        check_finite(end.detach(), 0.0, "the state")
        return -(self.source.log_density(end[:, :d].reshape(shape)) + end[:, d]).mean() / d

    def velocity(self, network: Callable[..., Tensor]) -> Velocity:
        """The network itself."""
        return network
