r"""The parts of a transformer over patches of a field: patches, their positions, and blocks with adaptive layer norms.

A field on a grid of :math:`n_1 \times \dots \times n_D` points is cut into :math:`N = \prod_i n_i / P` patches of
:math:`P^D` points, and a linear map makes a token :math:`h_j` of width C of each. The positions, fixed sinusoids of the
place of the patch along each axis, are added. A block reads an embedding e of time and latent,

.. math:: h &\leftarrow h + a_1(e) \odot \mathrm{Attention} \bigl( (1 + s_1(e)) \odot \mathrm{LN}(h) + c_1(e) \bigr), \\
          h &\leftarrow h + a_2(e) \odot \mathrm{MLP} \bigl( (1 + s_2(e)) \odot \mathrm{LN}(h) + c_2(e) \bigr),

with shifts c, scales s and gates a linear in :math:`\mathrm{SiLU}(e)`. They start at zero: a new block is the identity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention, silu

from physflow.generative.networks.blocks import CONVOLUTIONS, zero

__all__ = ["Block", "Patches", "modulated", "pasted", "positions"]


def positions(places: Sequence[int], width: int) -> Tensor:
    r"""Sinusoids of the places of patches.

    Each axis has an equal, even share of the features, :math:`\sin(\omega_k i)` and :math:`\cos(\omega_k i)` with
    :math:`\omega_k = 10000^{-k / m}`, k = 0, ..., m - 1; what is left over is zero.

    Arguments:
        places: The number of patches along each axis.
        width: The number of features C.

    Returns:
        The features, shape (N, C), the last axis running fastest.
    """
    m = width // (2 * len(places))
    omega = 10000.0 ** (-torch.arange(m, dtype=torch.float64) / max(m, 1))
    features = []
    for index in torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in places), indexing="ij"):
        angle = index.reshape(-1, 1) * omega
        features += [angle.sin(), angle.cos()]
    found = torch.cat(features, dim=1)
    return nn.functional.pad(found, (0, width - found.shape[1])).float()


class Patches(nn.Module):
    """Cuts fields into tokens: a linear map of each patch, and its position.

    Arguments:
        channels_in: The number of channels of a field.
        resolution: The points along each axis, divisible by `patch`.
        patch: The points P of a patch along each axis.
        width: The width C of a token.

    Raises:
        ValueError: If an axis is not divisible, with the sizes that would do.
    """

    places: Tensor

    def __init__(self, channels_in: int, resolution: Sequence[int], patch: int, width: int) -> None:
        super().__init__()
        if len(resolution) not in CONVOLUTIONS:
            raise ValueError(f"expected fields on 1, 2 or 3 axes, got resolution={tuple(resolution)}")
        for axis, n in enumerate(resolution):
            if n < 1 or n % patch:
                sizes = [s for s in (n // patch * patch, (n // patch + 1) * patch) if s > 0]
                raise ValueError(
                    f"expected sizes divisible by patch={patch}, got {n} points along axis {axis} of "
                    f"{tuple(resolution)}; {' or '.join(map(str, sizes))} would work"
                )
        self.shape = (channels_in, *resolution)
        self.cut = CONVOLUTIONS[len(resolution)](channels_in, width, kernel_size=patch, stride=patch)
        # A linear map of a patch, and to start as one: a convolution's first weights know nothing of its stride.
        nn.init.xavier_uniform_(self.cut.weight.data.flatten(1))
        self.register_buffer("places", positions([n // patch for n in resolution], width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The tokens, shape (batch, N, C), of the fields x, shape (batch, channels_in, *resolution)."""
        if x.shape[1:] != self.shape:
            axes = ", ".join(map(str, self.shape))
            raise ValueError(
                f"expected fields of shape (batch, {axes}), got {tuple(x.shape)}; "
                "a transformer serves the resolution= that it was built with and no other"
            )
        tokens: Tensor = self.cut(x).flatten(2).transpose(1, 2)
        return tokens + self.places.to(tokens.dtype)


def modulated(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The layer norm of tokens (batch, N, C), scaled and shifted by (batch, C)."""
    normed = nn.functional.layer_norm(h, h.shape[-1:], eps=1e-6)
    return torch.addcmul(shift[:, None], normed, 1 + scale[:, None])


class Block(nn.Module):
    """Self-attention and a perceptron, both with adaptive layer norm; see the module's docstring.

    Arguments:
        width: The width C of a token, and of the embedding.
        heads: The heads of the attention, a divisor of `width`.
        expansion: The width inside the perceptron, in multiples of `width`.
    """

    def __init__(self, width: int, heads: int, expansion: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = zero(nn.Linear(width, 6 * width))
        self.qkv, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)
        for layer in (self.qkv, self.joined, self.wide, self.narrow):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """The tokens h (batch, N, C), changed under the embedding e (batch, C)."""
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(silu(e)).chunk(6, dim=1)
        h = torch.addcmul(h, gate[:, None], self._attention(modulated(h, scale, shift)))
        inner = gelu(self.wide(modulated(h, scale2, shift2)), approximate="tanh")
        return torch.addcmul(h, gate2[:, None], self.narrow(inner))

    def _attention(self, h: Tensor) -> Tensor:
        # (batch, N, 3 C) to three of (batch, heads, N, C / heads).
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.joined(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def pasted(tokens: Tensor, channels: int, resolution: Sequence[int], patch: int) -> Tensor:
    """Fields (batch, channels, *resolution) of tokens (batch, N, channels * patch^D), each a patch of them."""
    d, places = len(resolution), [n // patch for n in resolution]
    if math.prod(places) != tokens.shape[1]:
        raise ValueError(f"expected {math.prod(places)} patches of {tuple(resolution)} points, got {tokens.shape[1]}")
    x = tokens.reshape(len(tokens), *places, channels, *(patch,) * d)
    # Each place before the points of its patch.
    order = [0, d + 1, *(axis for i in range(d) for axis in (1 + i, d + 2 + i))]
    return x.permute(order).reshape(len(tokens), channels, *resolution)
