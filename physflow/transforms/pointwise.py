"""Transforms of each value by itself: the logarithm, a fixed scale, and zero mean and unit variance."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from physflow.transforms.base import Batches, Transform, as_batches

__all__ = ["Log", "Scale", "Standardize"]


class Log(Transform):
    r"""The logarithm of a positive field, :math:`y = \log x`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return log(x); raise a ValueError if a value is not positive."""
        if not bool((x > 0).all()):
            raise ValueError(
                f"the logarithm needs positive values, the field's smallest is {float(x.min()):.6g}; "
                "leave this field out of the fields that enter as their logarithm (ModelConfig.log)"
            )
        return x.log()

    def inverse(self, y: Tensor) -> Tensor:
        """Return exp(y)."""
        return y.exp()

    def channels(self, channels: int) -> int:
        """The number of channels does not change."""
        return channels

    def spec(self) -> dict[str, Any]:
        """The name alone."""
        return {"name": "Log"}

    def log_det(self, x: Tensor) -> Tensor:
        """The sum of -log(x) over the points."""
        return -self(x).flatten(1).sum(1)


class Scale(Transform):
    r"""A fixed scale, :math:`y = c x`: 1 leaves values as they are, as suits images that run from -1 to 1.

    Arguments:
        factor: The scale c, positive.

    Raises:
        ValueError: If the scale is not positive and finite.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        if not 0 < factor < math.inf:
            raise ValueError(f"a scale must be positive and finite, got {factor}")
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return c x."""
        return self.factor * x

    def inverse(self, y: Tensor) -> Tensor:
        """Return y / c."""
        return y / self.factor

    def channels(self, channels: int) -> int:
        """The number of channels does not change."""
        return channels

    def spec(self) -> dict[str, Any]:
        """The scale."""
        return {"name": "Scale", "factor": self.factor}

    def log_det(self, x: Tensor) -> Tensor:
        """The logarithm of the scale, once for every value."""
        return x.new_full((len(x),), math.log(self.factor) * math.prod(x.shape[1:]))


class Standardize(Transform):
    r"""Zero mean and unit variance per channel, :math:`y = (x - m) / s`, over all samples and points.

    Arguments:
        channel_count: The number of channels, if it is known before fitting.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channel_count: int = 1) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channel_count, dtype=torch.float64))
        self.register_buffer("std", torch.ones(channel_count, dtype=torch.float64))

    def fit(self, data: Tensor | Batches) -> Self:
        """Compute each channel's mean and standard deviation in float64, shifted against cancellation."""
        count, shift, total, square = 0, None, None, None
        for x in as_batches(data)():
            flat = x.double().movedim(1, 0).flatten(1)
            if shift is None and flat.shape[1]:
                shift = flat[:, :1].clone()
                total, square = torch.zeros_like(shift[:, 0]), torch.zeros_like(shift[:, 0])
            if shift is not None and total is not None and square is not None:
                centred = flat - shift
                total, square, count = total + centred.sum(1), square + centred.square().sum(1), count + flat.shape[1]
        if shift is None or total is None or square is None:
            raise ValueError("cannot standardise an empty data set; give at least one sample")
        mean = total / count
        std = (square / count - mean.square()).clamp_min(0).sqrt()
        if bool((std <= 1e-12 * (mean + shift[:, 0]).abs()).any()):
            constant = [c for c in range(len(std)) if std[c] <= 1e-12 * (mean + shift[:, 0]).abs()[c]]
            raise ValueError(f"cannot standardise channels {constant}: they are constant; leave these fields out")
        self.mean, self.std = mean + shift[:, 0], std
        return self

    def _columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1,) + (1,) * (x.ndim - 2)
        return self.mean.to(x.dtype).view(shape), self.std.to(x.dtype).view(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return (x - mean) / std."""
        mean, std = self._columns(x)
        return (x - mean) / std

    def inverse(self, y: Tensor) -> Tensor:
        """Return mean + std y."""
        mean, std = self._columns(y)
        return mean + std * y

    def channels(self, channels: int) -> int:
        """The number of channels does not change."""
        return channels

    def spec(self) -> dict[str, Any]:
        """The number of channels."""
        return {"name": "Standardize", "channel_count": len(self.mean)}

    def log_det(self, x: Tensor) -> Tensor:
        """The sum of -log(std) over channels and points, the same for every field."""
        volume = -self.std.log().sum() * math.prod(x.shape[2:])
        return volume.to(x.dtype).expand(len(x))
