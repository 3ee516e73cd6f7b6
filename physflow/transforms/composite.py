"""Transforms made of others: one after the other, or one for each channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from physflow.transforms.base import Batches, Transform, as_batches

__all__ = ["Chain", "PerChannel"]


class _Composite(Transform):
    """A transform made of others."""

    def __init__(self, *transforms: Transform) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    @property
    def parts(self) -> tuple[Transform, ...]:
        """The transforms in their order."""
        return tuple(part for part in self.transforms if isinstance(part, Transform))

    def spec(self) -> dict[str, Any]:
        """The specs of the parts."""
        return {"name": type(self).__name__, "transforms": [part.spec() for part in self.parts]}


class Chain(_Composite):
    """One transform after the other.

    Arguments:
        transforms: The transforms in the order in which `forward` applies them.
    """

    def fit(self, data: Tensor | Batches) -> Self:
        """Fit each transform to what the ones before it make of the data."""
        batches = as_batches(data)
        for index, part in enumerate(self.parts):
            part.fit(_after(self.parts[:index], batches))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Apply the transforms in order."""
        return _apply(self.parts, x)

    def inverse(self, y: Tensor) -> Tensor:
        """Apply the inverses in reverse order."""
        for part in reversed(self.parts):
            y = part.inverse(y)
        return y

    def channels(self, channels: int) -> int:
        """The size after the last transform."""
        for part in self.parts:
            channels = part.channels(channels)
        return channels

    def log_det(self, x: Tensor) -> Tensor:
        """The sum over the transforms, each at what the ones before it make of x."""
        total = x.new_zeros(len(x))
        for part in self.parts:
            total, x = total + part.log_det(x), part(x)
        return total


class PerChannel(_Composite):
    """One transform for each channel; the results are joined along dimension 1.

    Arguments:
        transforms: One transform a channel, in channel order.
    """

    def fit(self, data: Tensor | Batches) -> Self:
        """Fit each transform to its channel."""
        batches = as_batches(data)
        for c, part in enumerate(self.parts):
            part.fit(_channel(c, batches))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Transform each channel and join the results."""
        if x.shape[1] != len(self.parts):
            raise ValueError(f"expected {len(self.parts)} channels, one per transform, got shape {tuple(x.shape)}")
        return torch.cat([part(x[:, c : c + 1]) for c, part in enumerate(self.parts)], dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """Invert each transform on its part of dimension 1."""
        pieces = y.split([part.channels(1) for part in self.parts], dim=1)
        return torch.cat([part.inverse(piece) for part, piece in zip(self.parts, pieces, strict=True)], dim=1)

    def channels(self, channels: int) -> int:
        """The sum over the parts."""
        return sum(part.channels(1) for part in self.parts)

    def log_det(self, x: Tensor) -> Tensor:
        """The sum over the channels."""
        each = [part.log_det(x[:, c : c + 1]) for c, part in enumerate(self.parts)]
        return torch.stack(each).sum(0)


def _after(transforms: Sequence[Transform], batches: Batches) -> Batches:
    return lambda: (_apply(transforms, x) for x in batches())


def _channel(c: int, batches: Batches) -> Batches:
    return lambda: (x[:, c : c + 1] for x in batches())


def _apply(transforms: Iterable[Transform], x: Tensor) -> Tensor:
    for transform in transforms:
        x = transform(x)
    return x
