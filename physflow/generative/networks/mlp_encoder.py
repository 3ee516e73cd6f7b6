r"""A perceptron that reads vectors, and perhaps a time, and returns features of them.

.. math:: h_1 = \mathrm{SiLU}(W_1 x + b_1 + e(t)), \qquad h_{l + 1} = \mathrm{SiLU}(W_{l + 1} h_l + b_{l + 1}),

with the embedding :math:`e(t)` of `Conditioning` where it reads the time. The features are the last :math:`h_L`.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from physflow.config.checks import at_least
from physflow.generative.networks.optional_time import OptionalTime

__all__ = ["MLPEncoder"]


class MLPEncoder(nn.Module):
    """An encoder of vectors: called as ``encoder(x)``, or ``encoder(x, t)`` if it reads the time.

    Arguments:
        channels_in: The number of coordinates of a vector; of several vectors joined, their sum.
        width: The number of features, and the width of every layer.
        layers: The number L of layers.
        time: Whether it reads the time.

    Attributes:
        width: The number of features.

    Raises:
        ValueError: If a size is not positive.

    References:
        Guo and Schwing (2025), Variational rectified flow matching (the encoder of its synthetic data has this size).
    """

    def __init__(self, channels_in: int, width: int = 128, layers: int = 3, time: bool = False) -> None:
        super().__init__()
        at_least(1, channels_in=channels_in, width=width, layers=layers)
        self.channels_in, self.width = channels_in, width
        self.time = OptionalTime(64, width, time)
        self.layers = nn.ModuleList(nn.Linear(width if depth else channels_in, width) for depth in range(layers))

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The features of vectors.

        Arguments:
            x: The vectors, shape (batch, channels_in).
            t: Their times, shape (batch,); only for an encoder that reads the time.

        Returns:
            The features, shape (batch, width).

        Raises:
            ValueError: If a shape does not fit, or the time is missing or superfluous.
        """
        if x.ndim != 2 or x.shape[1] != self.channels_in:
            raise ValueError(f"expected vectors of shape (batch, {self.channels_in}), got {tuple(x.shape)}")
        e = self.time(x, t)
        h = self.layers[0](x)
        h = silu(h if e is None else h + e)
        for layer in self.layers[1:]:
            h = silu(layer(h))
        return h
