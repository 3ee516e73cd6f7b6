r"""A learned normal posterior: the encoder of Latent-CFM and the posterior of V-RFM.

.. math:: q(z \mid \cdot) = N\bigl(\mu, \operatorname{diag} e^{\ell}\bigr), \qquad
          (\mu, \ell) = W\, h(\text{inputs}) + b,

with an encoder network h and a linear head. What differs between the methods is what h reads and how it is trained:

* Latent-CFM, one stage: h reads :math:`x_1`; encoder and velocity are trained together.
* Latent-CFM, two stages (Algorithm 1): h is the encoder of a variational autoencoder trained before
  (`physflow.generative.VAE`) and frozen; the head alone is trained with the velocity.
* V-RFM: h reads any non-empty subset of :math:`\{x_0, x_1, x_t, t\}`; trained together with the velocity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from physflow.config import nearest
from physflow.generative.latents.base import INPUTS, Latent, Posterior

__all__ = ["NormalLatent"]

# Beyond it, a variance is 0 or infinite in float32 for all that a loss can see.
_LARGEST_LOG_VARIANCE = 20.0


class NormalLatent(Latent):
    r"""A normal posterior of an encoder's features.

    Arguments:
        encoder: The network h: called as ``encoder(x)``, or ``encoder(x, t)`` if it reads the time, with x the declared
            samples joined along dimension 1, or, where there are none, a column of zeros; it returns features
            (batch, width).
        width: The number of features.
        dimension: The number of components of z.
        inputs: What the posterior reads: a non-empty choice of ``"x0"``, ``"x1"``, ``"xt"``, ``"t"``.
        frozen: Whether the encoder stays as it is and the head alone is trained.

    Raises:
        ValueError: If no input is chosen, one is unknown or named twice, or a size is not positive.
    """

    stochastic = True

    def __init__(
        self,
        encoder: nn.Module,
        width: int,
        dimension: int,
        inputs: Sequence[str] = ("x1",),
        frozen: bool = False,
    ) -> None:
        super().__init__()
        inputs = (inputs,) if isinstance(inputs, str) else inputs
        if not inputs:
            raise ValueError(f"a posterior must read something: choose inputs among {', '.join(INPUTS)}, got none")
        for name in inputs:
            if name not in INPUTS:
                raise ValueError(f"unknown input {name!r} of a posterior; {nearest(str(name), INPUTS)}")
        if len(set(inputs)) < len(inputs):
            raise ValueError(f"expected each input of a posterior once, got {', '.join(inputs)}")
        if width < 1 or dimension < 1:
            raise ValueError(f"expected width and dimension of at least 1, got {width} and {dimension}")
        if getattr(encoder, "width", width) != width:
            raise ValueError(
                f"the encoder returns {getattr(encoder, 'width', None)} features, but width={width}: give its own"
            )
        self.encoder, self.dimension, self.inputs, self.frozen = encoder, dimension, tuple(inputs), frozen
        self.head = nn.Linear(width, 2 * dimension)
        if frozen:
            encoder.requires_grad_(False)

    def posterior(
        self, x0: Tensor | None = None, x1: Tensor | None = None, xt: Tensor | None = None, t: Tensor | None = None
    ) -> Posterior:
        """The normal law of z; see `Latent.posterior`."""
        samples = self._declared(x0=x0, x1=x1, xt=xt, t=t)
        time = samples.pop(self.inputs.index("t")) if "t" in self.inputs else None
        if not samples:
            # The time alone: the encoder reads it beside a column of zeros.
            assert time is not None
            samples = [time.new_zeros(len(time), 1)]
        x = torch.cat(samples, dim=1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.encoder(x) if time is None else self.encoder(x, time)
        mean, log_variance = self.head(features).chunk(2, dim=1)
        # Half precision ends here: exponentials of it overflow.
        finer = torch.promote_types(mean.dtype, torch.float32)
        return Posterior(mean.to(finer), _bounded(log_variance.to(finer)))

    def train(self, mode: bool = True) -> NormalLatent:
        """Set the mode; a frozen encoder has no dropout in any."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


def _bounded(log_variance: Tensor) -> Tensor:
    """Nearly the identity where a variance is reasonable; bounded smoothly, so that the divergence can pull it back."""
    return _LARGEST_LOG_VARIANCE * torch.tanh(log_variance / _LARGEST_LOG_VARIANCE)
