r"""Proper orthogonal decomposition (POD).

It writes a field as :math:`x = m + \sum_{k \le r} s_k y_k v_k` with the mean field :math:`m`, orthonormal modes
:math:`v_k` (the leading eigenvectors of the sample covariance), their standard deviations :math:`s_k` and whitened
coordinates :math:`y_k` of zero mean and unit variance. With :math:`r` below the rank of the data, `POD.inverse` is a
right inverse only: ``inverse(forward(x))`` is the projection of :math:`x` onto the modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from physflow.transforms.base import Batches, Transform, as_batches

__all__ = ["POD"]


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
        batches = as_batches(data)
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

    def log_det(self, x: Tensor) -> Tensor:
        """The sum of -log(std) over the modes, if there are as many as points.

        Raises:
            ValueError: If there are fewer modes: fields off their span have no coordinates, and so no density.
        """
        size = math.prod(self.shape)
        if self.rank != size:
            raise ValueError(
                f"a POD of {self.rank} modes is no bijection of fields of {size} values: they have no density, their "
                "coordinates have one; use space='pixel' for a density of fields"
            )
        return -self.std.log().sum().to(x.dtype).expand(len(x))
