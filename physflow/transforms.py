r"""Invertible transforms between physical fields and the space in which a model works.

A transform maps a batch :math:`x` of shape (batch, channel, \*axes) to :math:`y`, and back. It is fitted once on data,
possibly larger than memory, and saved with the model. Transforms compose: `Chain` applies one after the other,
`PerChannel` applies one to each field and joins the results along dimension 1.

Proper orthogonal decomposition (POD) writes a field as :math:`x = m + \sum_{k \le r} s_k y_k v_k` with the mean field
:math:`m`, orthonormal modes :math:`v_k` (the leading eigenvectors of the sample covariance), their standard deviations
:math:`s_k` and whitened coordinates :math:`y_k` of zero mean and unit variance. With :math:`r` below the rank of the
data, `POD.inverse` is a right inverse only: ``inverse(forward(x))`` is the projection of :math:`x` onto the modes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

__all__ = ["POD", "Batches", "Chain", "Log", "PerChannel", "Standardize", "Transform", "from_spec"]

Batches = Callable[[], Iterable[Tensor]]
"""Data in pieces: every call starts a new pass over tensors of shape (batch, channel, *axes)."""


def _as_batches(data: Tensor | Batches) -> Batches:
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
        for x in _as_batches(data)():
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


class POD(Transform):
    r"""Whitened coordinates in the leading modes of proper orthogonal decomposition.

    The modes come from randomised subspace iteration on the covariance, which needs a few passes over the data and
    never more than one piece of it in memory.

    Arguments:
        rank: The number of modes r; None keeps as many as `energy` asks for.
        energy: The fraction of the variance that the kept modes hold, where `rank` is None.
        shape: The shape (channel, *axes) of a field, if it is known before fitting.
        iterations: Passes of subspace iteration.

    References:
        Halko, Martinsson and Tropp, Finding structure with randomness, SIAM Review 53 (2011), algorithms 4.4 and 5.3.
    """

    mean: Tensor
    modes: Tensor
    std: Tensor

    def __init__(
        self, rank: int | None = None, energy: float = 0.9999, shape: Sequence[int] = (), iterations: int = 4
    ) -> None:
        super().__init__()
        if rank is not None and rank < 1:
            raise ValueError(f"the rank of a POD must be at least 1, got {rank}")
        if not 0 < energy <= 1:
            raise ValueError(f"the energy of a POD must lie in (0, 1], got {energy}")
        self.rank, self.energy, self.shape, self.iterations = rank, energy, tuple(shape), iterations
        size = math.prod(self.shape) if self.shape else 0
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("modes", torch.zeros(size, rank or 0))
        self.register_buffer("std", torch.ones(rank or 0))

    def fit(self, data: Tensor | Batches) -> Self:
        """Compute mean, modes and standard deviations; a rank beyond the data's is cut to what they hold.

        Raises:
            ValueError: If there are fewer than two samples or the data do not vary.
        """
        batches = _as_batches(data)
        count, total = 0, None
        for x in batches():
            self.shape = tuple(x.shape[1:])
            piece = x.flatten(1).double().sum(0)
            count, total = count + len(x), piece if total is None else total + piece
        if total is None or count < 2:
            raise ValueError(f"a POD needs at least two samples, got {count}")
        mean = total / count
        largest = min(count - 1, mean.numel())

        def covariance_times(basis: Tensor) -> tuple[Tensor, float]:
            """C basis, with C the sample covariance, and trace(C)."""
            product, trace = torch.zeros_like(basis), 0.0
            for x in batches():
                centred = x.flatten(1) - mean.to(x.dtype)
                product += (centred.T @ (centred @ basis.to(x.dtype))).double()
                trace += float(centred.double().square().sum())
            return product / count, trace / count

        wanted = min(self.rank or 64, largest)
        while True:
            variances, vectors, trace = self._subspace(covariance_times, mean.numel(), min(wanted + 16, mean.numel()))
            if not trace > 0:
                raise ValueError("a POD needs data that vary, all samples are equal")
            # float32 fields carry rounding noise in proportion to their size: what lies below is no mode of the data.
            floor = max(1e-12 * float(variances[0]), 2e-14 * float(mean.square().mean()))
            held = int((variances[:wanted] > floor).sum())
            if self.rank is not None:
                keep = held
                break
            enough = (variances[:wanted].cumsum(0) >= self.energy * trace).nonzero()
            if len(enough) or held < wanted or wanted == largest:
                keep = min(int(enough[0]) + 1 if len(enough) else held, held)
                break
            wanted = min(2 * wanted, largest)
        self.rank = keep
        self.mean, self.modes = mean.float(), vectors[:, :keep].float().contiguous()
        self.std = variances[:keep].sqrt().float()
        return self

    def _subspace(
        self, covariance_times: Callable[[Tensor], tuple[Tensor, float]], size: int, width: int
    ) -> tuple[Tensor, Tensor, float]:
        """Leading eigenvalues (descending) and eigenvectors of the covariance, and its trace, by subspace iteration."""
        start = torch.randn(size, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        basis = torch.linalg.qr(start)[0]
        for _ in range(self.iterations):
            basis = torch.linalg.qr(covariance_times(basis)[0])[0]
        product, trace = covariance_times(basis)
        small = basis.T @ product
        variances, rotation = torch.linalg.eigh((small + small.T) / 2)
        vectors = basis @ rotation.flip(1)
        # An eigenvector's sign is arbitrary: fix it, so that the coordinates are the same everywhere.
        sign = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        return variances.flip(0).clamp_min(0), vectors * sign, trace

    def forward(self, x: Tensor) -> Tensor:
        """Return the coordinates, shape (batch, rank)."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"this POD was fitted to fields of shape {self.shape}, got {tuple(x.shape[1:])}")
        return (x.flatten(1) - self.mean.to(x.dtype)) @ self.modes.to(x.dtype) / self.std.to(x.dtype)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the fields with the given coordinates, shape (batch, channel, *axes)."""
        if y.ndim != 2 or y.shape[1] != self.rank:
            raise ValueError(f"expected coordinates of shape (batch, {self.rank}), got {tuple(y.shape)}")
        flat = self.mean.to(y.dtype) + (y * self.std.to(y.dtype)) @ self.modes.to(y.dtype).T
        return flat.view(len(y), *self.shape)

    def channels(self, channels: int) -> int:
        """The rank."""
        if self.rank is None:
            raise ValueError("the rank of this POD is known once it is fitted")
        return self.rank

    def spec(self) -> dict[str, Any]:
        """Rank, energy and the shape of a field."""
        return {"name": "POD", "rank": self.rank, "energy": self.energy, "shape": list(self.shape)}


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
        batches = _as_batches(data)
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


class PerChannel(_Composite):
    """One transform for each channel; the results are joined along dimension 1.

    Arguments:
        transforms: One transform a channel, in channel order.
    """

    def fit(self, data: Tensor | Batches) -> Self:
        """Fit each transform to its channel."""
        batches = _as_batches(data)
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


def _after(transforms: Sequence[Transform], batches: Batches) -> Batches:
    return lambda: (_apply(transforms, x) for x in batches())


def _channel(c: int, batches: Batches) -> Batches:
    return lambda: (x[:, c : c + 1] for x in batches())


def _apply(transforms: Iterable[Transform], x: Tensor) -> Tensor:
    for transform in transforms:
        x = transform(x)
    return x


def from_spec(spec: Mapping[str, Any]) -> Transform:
    """Build the transform that a `Transform.spec` describes; its fitted state is loaded by ``load_state_dict``."""
    classes: dict[str, type[Transform]] = {c.__name__: c for c in (Log, Standardize, POD, Chain, PerChannel)}
    if spec.get("name") not in classes:
        raise ValueError(f"unknown transform {spec.get('name')!r}; valid: {', '.join(classes)}")
    arguments = {key: value for key, value in spec.items() if key not in ("name", "transforms")}
    return classes[spec["name"]](*(from_spec(part) for part in spec.get("transforms", ())), **arguments)
