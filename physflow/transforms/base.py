"""What every transform can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Self

from torch import Tensor, nn

__all__ = ["Batches", "Transform", "as_batches"]

Batches = Callable[[], Iterable[Tensor]]
"""Data in pieces: every call starts a new pass over tensors of shape (batch, channel, *axes)."""


def as_batches(data: Tensor | Batches) -> Batches:
    """Data in pieces; a tensor is one."""
    return (lambda: (data,)) if isinstance(data, Tensor) else data


class Transform(nn.Module, ABC):
    """An invertible map of batches of fields. Subclasses keep what they fit in buffers, saved with the model."""

    def fit(self, data: Tensor | Batches) -> Self:
        """Fit the transform to data of shape (batch, channel, *axes), whole or in pieces, and return it."""
        return self

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map fields to model space."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Map model space back to fields."""

    @abstractmethod
    def channels(self, channels: int) -> int:
        """The size of dimension 1 after the transform of `channels` channels."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Plain data from which `from_spec` builds the transform, ready to load its fitted state."""

    @abstractmethod
    def log_det(self, x: Tensor) -> Tensor:
        r"""The volume that the transform makes of a unit of volume, :math:`\log |\det \partial y / \partial x|`.

        A density of y times its exponential is a density of x.

        Arguments:
            x: Fields, shape (batch, channel, *axes).

        Returns:
            The logarithms in nats, shape (batch,).

        Raises:
            ValueError: If the transform is no bijection.
        """
