r"""A convolutional network that reads a latent and returns a field: the mirror of `ConvEncoder`.

Two linear maps with SiLU between them spread the latent over the features of the coarsest grid. Residual blocks work
on the same :math:`L` levels as those of the encoder, from the coarsest to the finest; nearest-neighbour repetition and
a convolution lead from each to the next; a group norm, SiLU and a convolution give the field.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import silu

from physflow.config.checks import at_least
from physflow.generative.networks.blocks import Padding, Residual, Up, check_levels, convolution_on, group_norm

__all__ = ["ConvDecoder"]


class ConvDecoder(nn.Module):
    r"""A decoder to fields, called as ``decoder(z)``.

    Arguments:
        latent: The width of the latent z.
        channels_out: The number of channels of a field.
        resolution: The points along each axis of a field, one, two or three of them, all divisible by
            :math:`2^{L - 1}`.
        channels: The base width :math:`C`.
        multipliers: The width of each level, :math:`m_1, \dots, m_L`, from the finest to the coarsest as in the
            encoder, in units of `channels`.
        blocks: Residual blocks per level.
        width: The width between the two linear maps.
        padding: ``"zeros"``, ``"circular"``, ``"reflect"`` or ``"replicate"``, in every convolution.

    Raises:
        ValueError: If a setting is impossible, or the grid cannot be halved often enough.
    """

    def __init__(
        self,
        latent: int,
        channels_out: int,
        resolution: Sequence[int],
        channels: int = 16,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        blocks: int = 1,
        width: int = 128,
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        at_least(1, latent=latent, channels_out=channels_out, width=width)
        coarse = check_levels(resolution, channels, multipliers, blocks, padding)
        convolution = convolution_on(len(resolution), padding)
        self.latent = latent
        last = multipliers[-1] * channels
        self.spread = nn.Sequential(
            nn.Linear(latent, width),
            nn.SiLU(),
            nn.Linear(width, last * coarse.numel()),
            nn.Unflatten(1, (last, *coarse)),
        )
        self.up = nn.Sequential()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks):
                self.up.append(Residual(convolution, last, multiplier * channels))
                last = multiplier * channels
            if level > 0:
                self.up.append(Up(convolution, last))
        self.norm = group_norm(last)
        self.output = convolution(last, channels_out)

    def forward(self, z: Tensor) -> Tensor:
        """The fields, shape (batch, channels_out, *resolution), of the latents z (batch, latent).

        Raises:
            ValueError: If z has another shape.
        """
        if z.ndim != 2 or z.shape[1] != self.latent:
            raise ValueError(f"expected latents of shape (batch, {self.latent}), got {tuple(z.shape)}")
        return self.output(silu(self.norm(self.up(self.spread(z)))))
