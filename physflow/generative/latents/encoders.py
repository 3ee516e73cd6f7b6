r"""Latents that are given, not trained with the flow: any encoder, and the component of a mixture.

The Gaussian-mixture variant of Latent-CFM (Algorithms A.1, A.2) fits a mixture :math:`\sum_k w_k N(m_k, S_k)` to the
data, tells the flow which component a sample most likely belongs to, and draws the component with its weight, or with
the share of the samples that belong to it (`ComponentIds`):

.. math:: z = e_{k(x_1)}, \qquad k(x_1) = \arg\max_k \, w_k N(x_1; m_k, S_k),

with :math:`e_k` the k-th unit vector. There is no divergence to pay.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from physflow.generative.latents.base import Latent, Posterior
from physflow.generative.mixture import DiagonalMixture

__all__ = ["Components", "Encoded"]


class Encoded(Latent):
    """The latent of any deterministic encoder; no gradient enters it.

    Arguments:
        encoder: A callable or module that maps data samples (batch, ...) to latents (batch, dimension).
        dimension: The number of components of z.
    """

    def __init__(self, encoder: Callable[[Tensor], Tensor], dimension: int) -> None:
        super().__init__()
        if dimension < 1:
            raise ValueError(f"expected a latent dimension of at least 1, got {dimension}")
        self.encoder, self.dimension = encoder, dimension
        if isinstance(encoder, nn.Module):
            encoder.requires_grad_(False).eval()

    def posterior(
        self, x0: Tensor | None = None, x1: Tensor | None = None, xt: Tensor | None = None, t: Tensor | None = None
    ) -> Posterior:
        """The point z of each item; reads `x1`.

        Raises:
            ValueError: If the encoder returns another shape than (batch, dimension).
        """
        (x1,) = self._declared(x0=x0, x1=x1, xt=xt, t=t)
        with torch.no_grad():
            z = self.encoder(x1)
        if z.shape != (len(x1), self.dimension):
            raise ValueError(
                f"expected the encoder to return latents of shape ({len(x1)}, {self.dimension}), got {tuple(z.shape)}; "
                "is dimension the width of its result?"
            )
        return Posterior(z.to(x1.dtype))

    def train(self, mode: bool = True) -> Encoded:
        """Set the mode; the encoder has no dropout in any, and gathers no statistics."""
        super().train(mode)
        if isinstance(self.encoder, nn.Module):
            self.encoder.eval()
        return self


class Components(Latent):
    """The most likely component of a fitted mixture, as a unit vector.

    Arguments:
        mixture: The mixture over the items as vectors, fitted.
    """

    def __init__(self, mixture: DiagonalMixture) -> None:
        super().__init__()
        self.mixture = mixture.requires_grad_(False)
        self.dimension = mixture.components

    def posterior(
        self, x0: Tensor | None = None, x1: Tensor | None = None, xt: Tensor | None = None, t: Tensor | None = None
    ) -> Posterior:
        """The point z of each item; reads `x1`."""
        (x1,) = self._declared(x0=x0, x1=x1, xt=xt, t=t)
        ids = self.mixture.ids(x1.flatten(1))
        return Posterior(one_hot(ids, self.dimension).to(x1.dtype))
