"""The time of an encoder that may or may not read it: its embedding, or nothing.

What a latent is read from includes the time in variational rectified flow matching, where the encoder sees points of
the path, and excludes it in an autoencoder of data samples. Both are built of the same encoders.
"""

from __future__ import annotations

from torch import Tensor, nn

from physflow.generative.networks.embedding import Conditioning

__all__ = ["OptionalTime"]


class OptionalTime(nn.Module):
    """The embedding of the time by `Conditioning`, for an encoder that reads it; else None.

    Arguments:
        features: The number of sinusoids of t, even.
        width: The width of the embedding.
        time: Whether the encoder reads the time.
    """

    def __init__(self, features: int, width: int, time: bool) -> None:
        super().__init__()
        self.conditioning = Conditioning(features, width) if time else None

    def forward(self, x: Tensor, t: Tensor | None) -> Tensor | None:
        """The embedding, shape (batch, width), of the times t (batch,) that belong to x (batch, ...), or None.

        Raises:
            ValueError: If the time is missing or superfluous, or does not belong to x.
        """
        if self.conditioning is None:
            if t is not None:
                raise ValueError(
                    f"this encoder reads no time, got t of shape {tuple(t.shape)}; "
                    "leave t out, or build the encoder with time=True"
                )
            return None
        if t is None:
            raise ValueError(f"this encoder reads the time: expected t of shape ({len(x)},), got none")
        return self.conditioning(x, t)
