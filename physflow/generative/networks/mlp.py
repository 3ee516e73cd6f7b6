r"""A residual multilayer perceptron, for states that are vectors of coordinates.

With the input layer :math:`h = W_{in} x + b_{in}` and the embedding :math:`e(t, z)` of time and latent, each
block adds

.. math:: h \leftarrow h + W_3\, \bigl(\mathrm{SiLU}(W_1 g + b_1) \odot (W_2 g + b_2)\bigr) + b_3,
          \qquad g = (1 + a(e)) \odot \mathrm{LN}(h) + c(e),

with the scale :math:`a` and the shift :math:`c` linear in :math:`\mathrm{SiLU}(e)`. A latent is joined to the state,
:math:`h = W_{in} (x, z) + b_{in}` with :math:`e(t)`, or enters the embedding :math:`e(t, z)`. The output layer is
linear. It and every :math:`W_3` start at zero: an untrained network is the zero function and its blocks are
the identity.

The work is in a few large matrix products (the modulations of all blocks are one): what a CPU does best.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, addcmul, nn
from torch.nn.functional import silu

from physflow.config import MLPConfig
from physflow.generative.networks.embedding import Conditioning, check_latent

__all__ = ["MLP"]


class MLP(nn.Module):
    """A residual perceptron with adaptive layer norms: called as ``network(x, t, z=None)``.

    Arguments:
        dimension: The number d of coordinates of a state.
        width: The width of the residual stream.
        blocks: The number of residual blocks.
        expansion: The size of a block, that of a plain hidden layer of this many times `width`. The gated one is two
            thirds as wide, for it has three matrices in place of two.
        latent: The width of the latent z; 0 for a network without one.
        fusion: How the latent enters: ``"concatenate"`` joins it to the state, as suits one that a state depends on
            in detail; ``"adaptive"`` adds it to the embedding of the time, which scales and shifts every block.

    Raises:
        ValueError: If a size is not positive, or the fusion unknown.

    References:
        Peebles and Xie (2023), Scalable diffusion models with transformers, section 3.2 (adaptive layer norm,
        zero start).
        Shazeer (2020), GLU variants improve transformer (the gate: products of features, which a field that solves an
        equation with another as coefficient is made of).
    """

    def __init__(
        self,
        dimension: int,
        width: int = 512,
        blocks: int = 4,
        expansion: int = 2,
        latent: int = 0,
        fusion: Literal["concatenate", "adaptive"] = "concatenate",
    ) -> None:
        super().__init__()
        if min(dimension, width, blocks, expansion) < 1 or latent < 0:
            raise ValueError(
                f"expected positive sizes and latent >= 0, got dimension={dimension}, width={width}, "
                f"blocks={blocks}, expansion={expansion}, latent={latent}"
            )
        # The settings that a configuration shares with the network are checked in one place.
        MLPConfig(width, blocks, expansion, fusion)
        self.dimension, self.latent, self.joined = dimension, latent, latent if fusion == "concatenate" else 0
        embedded = latent - self.joined
        # Time is one number: a quarter of the width embeds it amply and keeps the modulation cheap.
        embedding = max(64, width // 4, embedded)
        self.conditioning = Conditioning(64, embedding, embedded)
        self.modulation = nn.Linear(embedding, blocks * 2 * width)
        self.input = nn.Linear(dimension + self.joined, width)
        self.blocks = nn.ModuleList(_Block(width, max(1, round(2 / 3 * expansion * width))) for _ in range(blocks))
        self.output = nn.Linear(width, dimension)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The network's value at the states x and times t.

        Arguments:
            x: The states, shape (batch, dimension).
            t: The times, shape (batch,).
            z: The latents, shape (batch, latent); only for a network with latent > 0.

        Returns:
            A tensor of x's shape.

        Raises:
            ValueError: If a shape does not fit.
        """
        if x.ndim != 2 or x.shape[1] != self.dimension:
            raise ValueError(f"expected states of shape (batch, {self.dimension}), got {tuple(x.shape)}")
        if self.joined:
            x, z = torch.cat([x, check_latent(z, len(x), self.joined)], dim=1), None
        modulation = self.modulation(silu(self.conditioning(x, t, z)))
        h = self.input(x)
        for block, part in zip(self.blocks, modulation.chunk(len(self.blocks), dim=1), strict=True):
            scale, shift = part.chunk(2, dim=1)
            h = h + block(h, scale, shift)
        return self.output(h)


class _Block(nn.Module):
    """The increment of one block; `scale` and `shift` have the shape of `h`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.first = nn.Linear(width, 2 * hidden)
        self.last = nn.Linear(hidden, width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        gate, value = self.first(addcmul(shift, self.norm(h), 1 + scale)).chunk(2, dim=1)
        return self.last(silu(gate) * value)
