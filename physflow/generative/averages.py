r"""Averaged weights: an exponential moving average of those that are trained.

.. math:: \bar\theta \leftarrow d_n \bar\theta + (1 - d_n)\, \theta, \qquad
          d_0 = 0, \quad d_n = \min\Bigl(d, \frac{1 + n}{10 + n}\Bigr)

after n updates: the decay rises to :math:`d`, so that the first weights are soon forgotten.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["AveragedWeights"]


class AveragedWeights(AveragedModel):
    """A copy of a network with averaged weights, in `module`; its buffers are those of the network.

    Arguments:
        network: The network; its parameters must stay the same tensors.
        decay: The decay d in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network)
        self.decay = decay
        # Collected once: to walk through the modules in every step costs small networks a tenth of their time.
        parts = (network, self.module)
        self._weights = tuple([p.detach() for p in part.parameters()] for part in parts)
        self._buffers_of_both = tuple(list(part.buffers()) for part in parts)

    @torch.no_grad()
    def update(self) -> None:
        """Move the averaged weights towards those of the network."""
        n = int(self.n_averaged)
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        current, averaged = self._weights
        # Weights of one type and device are moved by one call.
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for ours, theirs in zip(*self._buffers_of_both, strict=True):
            theirs.copy_(ours)
        self.n_averaged += 1
