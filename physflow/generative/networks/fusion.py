r"""How a latent enters a U-Net at its bottleneck.

.. math:: h \leftarrow 0.1\, h + 0.9\, W_2\, \mathrm{SiLU}(W_1 z + b_1) + b_2'

The features :math:`h` of the coarsest grid give way to a map of the latent that is the same at every point
(:math:`b_2'` is 0.9 times the bias of the second layer). All that follows on the way up sees the latent at nine times
the weight of the features, while the fine levels still reach the result past it.
"""

from __future__ import annotations

from torch import Tensor, nn

from physflow.generative.networks.embedding import check_latent

__all__ = ["FEATURE_WEIGHT", "LATENT_WEIGHT", "BottleneckSum"]

FEATURE_WEIGHT = 0.1
LATENT_WEIGHT = 0.9


class BottleneckSum(nn.Module):
    """The weighted sum of features and latent of the module's docstring.

    Arguments:
        latent: The width of the latent z, at least 1.
        width: The number of channels of the features.

    Raises:
        ValueError: If there is no latent.

    References:
        Guo and Schwing (2025), Variational rectified flow matching, section 4.4 ("bottleneck sum").
    """

    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        if latent < 1:
            raise ValueError(
                f"fusion='bottleneck' needs a latent to fuse, got latent={latent}; "
                "give latent >= 1, or leave fusion='adaptive'"
            )
        self.latent = latent
        self.layers = nn.Sequential(nn.Linear(latent, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: Tensor, z: Tensor | None) -> Tensor:
        """The sum, of the shape of the features.

        Arguments:
            h: The features, shape (batch, width, *axes).
            z: The latents, shape (batch, latent).

        Raises:
            ValueError: If z is missing or does not belong to h.
        """
        z = check_latent(z, h.shape[0], self.latent)
        return FEATURE_WEIGHT * h + LATENT_WEIGHT * self.layers(z)[(...,) + (None,) * (h.ndim - 2)]
