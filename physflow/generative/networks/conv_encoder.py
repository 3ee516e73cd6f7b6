r"""A convolutional network that reads fields, and perhaps a time, and returns features of them.

It is the way down of a U-Net: residual blocks on :math:`L` levels of resolution, level l with :math:`m_l C` channels on
a grid coarsened by :math:`2^l`, strided convolutions between them. The features of the coarsest grid pass a group norm
and SiLU, are flattened, and a linear map of all of them gives the result. Flattening, unlike a mean over the grid,
keeps where things are: the features of a field are not those of its translate. It is why the grid is fixed.

The time scales and shifts the second norm of every residual block.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import silu

from physflow.config.checks import at_least
from physflow.generative.networks.blocks import Down, Padding, Residual, check_levels, convolution_on, group_norm
from physflow.generative.networks.optional_time import OptionalTime

__all__ = ["ConvEncoder"]


class ConvEncoder(nn.Module):
    r"""An encoder of fields: called as ``encoder(x)``, or ``encoder(x, t)`` if it reads the time.

    Arguments:
        channels_in: The number of channels of a field; of several fields joined, their sum.
        resolution: The points along each axis of a field, one, two or three of them, all divisible by
            :math:`2^{L - 1}`.
        channels: The base width :math:`C`.
        multipliers: The width of each level, :math:`m_1, \dots, m_L`, in units of `channels`.
        blocks: Residual blocks per level.
        width: The number of features.
        time: Whether it reads the time.
        padding: ``"zeros"``, ``"circular"``, ``"reflect"`` or ``"replicate"``, in every convolution.

    Attributes:
        width: The number of features.

    Raises:
        ValueError: If a setting is impossible, or the grid cannot be halved often enough.

    References:
        Guo and Schwing (2025), Variational rectified flow matching, section 4.4 (a small encoder like the way down of
        the velocity's U-Net, with the time in its norms).
    """

    def __init__(
        self,
        channels_in: int,
        resolution: Sequence[int],
        channels: int = 16,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        blocks: int = 1,
        width: int = 128,
        time: bool = False,
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        at_least(1, channels_in=channels_in, width=width)
        coarse = check_levels(resolution, channels, multipliers, blocks, padding)
        self.channels_in, self.resolution, self.width = channels_in, tuple(resolution), width
        convolution = convolution_on(len(resolution), padding)
        embedding = 4 * channels if time else 0
        self.time = OptionalTime(channels + channels % 2, embedding, time)
        last = multipliers[0] * channels
        self.input = convolution(channels_in, last)
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            if level > 0:
                self.down.append(Down(convolution, last))
            for _ in range(blocks):
                self.down.append(Residual(convolution, last, multiplier * channels, embedding, modulation="adaptive"))
                last = multiplier * channels
        self.norm = group_norm(last)
        self.output = nn.Linear(last * coarse.numel(), width)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The features of fields.

        Arguments:
            x: The fields, shape (batch, channels_in, *resolution).
            t: Their times, shape (batch,); only for an encoder that reads the time.

        Returns:
            The features, shape (batch, width).

        Raises:
            ValueError: If a shape does not fit, or the time is missing or superfluous.
        """
        expected = (self.channels_in, *self.resolution)
        if x.shape[1:] != expected:
            axes = ", ".join(map(str, expected))
            raise ValueError(
                f"expected fields of shape (batch, {axes}), got {tuple(x.shape)}; "
                "an encoder serves the resolution= that it was built with and no other"
            )
        e = self.time(x, t)
        if e is not None:
            e = silu(e)
        h = self.input(x)
        for part in self.down:
            h = part(h, e)
        return self.output(silu(self.norm(h)).flatten(1))
