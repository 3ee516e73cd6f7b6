r"""Latents: a variable z that a velocity :math:`v(x, t, z)` is told beside the state.

With a latent the data are a mixture :math:`p_1(x_1) = \int p_1(x_1 \mid z)\, p(z)\, dz`, and the flow carries the
source to :math:`p_1(\cdot \mid z)` for each z. In training, z comes from an encoder or posterior

.. math:: z \sim q(z \mid \text{inputs}), \qquad \text{inputs} \subseteq \{x_0, x_1, x_t, t\},

whose distance from the prior :math:`N(0, I)` is paid for (`physflow.generative.FlowMatching`). In generation it comes
from a `Prior`, once, and stays as it is along the whole trajectory.

* Latent-CFM reads :math:`x_1` alone: what z says of a sample is what the flow need not find.
* Variational rectified flow matching (V-RFM) reads more of the pair: z says which of the velocities that cross at a
  point is meant, and trajectories may cross. Generation draws z and :math:`x_0` apart: the law is right as far as the
  divergence has made z independent of :math:`x_0` on average.

The Kullback-Leibler divergence is a sum over the components of z, in nats, one number an item; objectives average it
over the batch.

References:
    A. Samaddar et al., "Efficient flow matching using latent variables", 2025 (Latent-CFM).
    P. Guo, A. Schwing, "Variational rectified flow matching", ICML 2025.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["INPUTS", "Latent", "Posterior"]

INPUTS = ("x0", "x1", "xt", "t")
"""What a posterior may read: source sample, data sample, point of the path, time."""


@dataclass(frozen=True)
class Posterior:
    r"""The law :math:`q(z \mid \cdot)` of a batch: :math:`N(\mu, \operatorname{diag} e^{\ell})`, or a point.

    Arguments:
        mean: The means :math:`\mu`, shape (batch, dimension).
        log_variance: The logarithms :math:`\ell` of the variances, same shape; None for the point :math:`z = \mu`.
    """

    mean: Tensor
    log_variance: Tensor | None = None

    def sample(self, epsilon: Tensor | None = None) -> Tensor:
        r"""The draw :math:`z = \mu + e^{\ell / 2} \varepsilon`, differentiable in :math:`\mu` and :math:`\ell`.

        Arguments:
            epsilon: Standard normal numbers of the means' shape; None gives the means.
        """
        if self.log_variance is None or epsilon is None:
            return self.mean
        return self.mean + (0.5 * self.log_variance).exp() * epsilon

    def kl(self) -> Tensor:
        r"""The divergence from N(0, I) in nats, a sum over the components of z, shape (batch,); zero for a point.

        .. math:: \tfrac12 \sum_j \bigl( \mu_j^2 + e^{\ell_j} - 1 - \ell_j \bigr)

        A point has no finite divergence; it is not trained and pays nothing.
        """
        if self.log_variance is None:
            return self.mean.new_zeros(len(self.mean))
        # expm1, because near the prior the difference is a small one of numbers near one.
        terms = self.mean.square() + (torch.expm1(self.log_variance) - self.log_variance).clamp_min(0)
        return 0.5 * terms.flatten(1).sum(1)


class Latent(nn.Module, ABC):
    """A rule that gives every training item its latent.

    Attributes:
        dimension: The number of components of z.
        inputs: What the posterior reads, names from `INPUTS`.
        stochastic: Whether the posterior draws: it is then trained with the network and pays its divergence.
    """

    dimension: int
    inputs: tuple[str, ...] = ("x1",)
    stochastic: bool = False

    @abstractmethod
    def posterior(
        self, x0: Tensor | None = None, x1: Tensor | None = None, xt: Tensor | None = None, t: Tensor | None = None
    ) -> Posterior:
        """The law of z given what this latent declares to read; the rest is ignored.

        Arguments:
            x0: Source samples, shape (batch, ...).
            x1: Data samples, whole items of the training data, shape (batch, ...).
            xt: Points of the path, shape (batch, ...).
            t: Times, shape (batch,).

        Raises:
            ValueError: If a declared input is missing.
        """

    def rest(self, x1: Tensor) -> Tensor:
        """What is left for the flow once z is known: the whole item, unless z holds a part of it exactly."""
        return x1

    def join(self, z: Tensor, x: Tensor) -> Tensor:
        """The whole item from its latent and the rest; inverts `rest`."""
        return x

    def _declared(self, **given: Tensor | None) -> list[Tensor]:
        """The declared inputs in the order of their declaration."""
        missing = [name for name in self.inputs if given[name] is None]
        if missing:
            raise ValueError(
                f"this posterior reads {', '.join(self.inputs)}, but got no {', '.join(missing)}; give all that it "
                "reads, or draw z from a prior"
            )
        return [value for name in self.inputs if (value := given[name]) is not None]

    def forward(
        self, x0: Tensor | None = None, x1: Tensor | None = None, xt: Tensor | None = None, t: Tensor | None = None
    ) -> Posterior:
        """The same as `posterior`."""
        return self.posterior(x0, x1, xt, t)

    @torch.no_grad()
    def encode(self, x1: Tensor) -> Tensor:
        """The mean of z for data samples, shape (batch, dimension).

        Raises:
            ValueError: If the posterior reads more than :math:`x_1`.
        """
        return self.posterior(x1=x1).mean
