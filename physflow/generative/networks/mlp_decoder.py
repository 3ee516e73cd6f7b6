r"""A perceptron that reads a latent and returns a vector: the mirror of `MLPEncoder`.

.. math:: h_1 = \mathrm{SiLU}(W_1 z + b_1), \quad h_{l + 1} = \mathrm{SiLU}(W_{l + 1} h_l + b_{l + 1}), \quad
          x = W_{out} h_L + b_{out}.
"""

from __future__ import annotations

from torch import Tensor, nn

from physflow.config.checks import at_least
from physflow.generative.networks.mlp_encoder import MLPEncoder

__all__ = ["MLPDecoder"]


class MLPDecoder(nn.Module):
    """A decoder to vectors, called as ``decoder(z)``.

    Arguments:
        latent: The width of the latent z.
        channels_out: The number of coordinates of a vector.
        width: The width of every hidden layer.
        layers: The number L of hidden layers.

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(self, latent: int, channels_out: int, width: int = 128, layers: int = 3) -> None:
        super().__init__()
        at_least(1, latent=latent, channels_out=channels_out)
        self.latent = latent
        self.hidden = MLPEncoder(latent, width, layers)
        self.output = nn.Linear(width, channels_out)

    def forward(self, z: Tensor) -> Tensor:
        """The vectors, shape (batch, channels_out), of the latents z (batch, latent).

        Raises:
            ValueError: If z has another shape.
        """
        if z.ndim != 2 or z.shape[1] != self.latent:
            raise ValueError(f"expected latents of shape (batch, {self.latent}), got {tuple(z.shape)}")
        return self.output(self.hidden(z))
