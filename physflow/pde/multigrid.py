r"""A geometric multigrid cycle for batches of finite-volume systems.

One V-cycle is an approximate inverse of :math:`A = -\nabla \cdot (K \nabla)` of `physflow.pde.finite_volumes`, every
sample of the batch with its own K. It runs in float32. Its parts:

* smoother: three Chebyshev steps before and after, for the part [0.35, 2] of the spectrum of
  :math:`D^{-1/2} A D^{-1/2}` with D the diagonal of A;
* transfer: sums of the residual over pairs of cells, and the transpose (a correction constant in each coarse cell). An
  axis of odd length ends in a coarse cell made of one fine cell;
* coarse transmissibility: the centres of neighbouring coarse cells are joined by two paths in parallel, each of half a
  resistor 1/T, a full one and another half in series; walls likewise. All grids keep five points;
* an axis whose spacing is twice that of the other, or more, waits until the other has been coarsened;
* the coarsest grid, of 16 cells or fewer, is solved by a dense inverse.

The batch is the last dimension, so that a neighbour in x or y is a shift by long contiguous runs. The operations of the
cycle are element-wise and in place, on buffers made once, and none mixes samples.

References:
    Alcouffe, Brandt, Dendy and Painter, "The multi-grid method for the diffusion equation with strongly discontinuous
    coefficients", SIAM J. Sci. Stat. Comput. 2, 1981 (coarse coefficients from resistors).
    Saad, "Iterative methods for sparse linear systems", 2nd edition, 2003 (algorithm 12.1, Chebyshev).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from physflow.pde.finite_volumes import diagonal

__all__ = ["Ghosted", "Multigrid", "coarsening", "couplings_to_neighbours"]

COARSEST_CELLS = 16
"""A grid of at most this many cells is solved by a dense inverse."""


def _chebyshev_weights(steps: int, low: float, high: float) -> list[float]:
    """The inverse roots of the Chebyshev polynomial on [low, high], in increasing order."""
    angles = (math.pi * (2 * i + 1) / (2 * steps) for i in range(steps))
    return sorted(2 / (high + low + (high - low) * math.cos(angle)) for angle in angles)


WEIGHTS = _chebyshev_weights(3, 0.35, 2.0)


def coarsening(shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, int]:
    """By which factors, 1 or 2, a grid of two axes is coarsened; one of cells twice as long as wide along one only."""
    (nx, ny), (hx, hy) = shape, spacing
    # The margin keeps the rounding of the spacings from deciding about a ratio of exactly two.
    cx = 2 if nx > 1 and (ny == 1 or hx < 1.99 * hy) else 1
    cy = 2 if ny > 1 and (nx == 1 or hy < 1.99 * hx) else 1
    return cx, cy


class Multigrid:
    """The V-cycle of a batch of systems: an approximate inverse, symmetric and positive.

    Arguments:
        tx: The transmissibilities along x, shape (nx + 1, ny, batch), near one in size.
        ty: The transmissibilities along y, shape (nx, ny + 1, batch).
        spacing: The spacing of both axes.
        singular: Whether constants are the null space (Neumann walls).
    """

    def __init__(self, tx: Tensor, ty: Tensor, spacing: Sequence[float], singular: bool) -> None:
        grids = []
        tx, ty = tx.float(), ty.float()
        hx, hy = spacing
        while (nx := ty.shape[0]) * (ny := tx.shape[1]) > COARSEST_CELLS:
            cx, cy = coarsening((nx, ny), (hx, hy))
            grids.append((tx, ty, cx, cy))
            tx, ty = _coarsen(tx, ty, cx, cy)
            hx, hy = hx * cx, hy * cy
        self.finest: _Level | _Coarsest = _Coarsest(tx, ty, singular)
        for tx, ty, cx, cy in reversed(grids):
            self.finest = _Level(tx, ty, cx, cy, self.finest)

    def __call__(self, r: Tensor) -> Tensor:
        """One V-cycle for the right side r, shape (nx, ny, batch). The result is a buffer of the cycle."""
        self.finest.right.copy_(r)
        return self.finest.cycle()


def _coarsen(tx: Tensor, ty: Tensor, cx: int, cy: int) -> tuple[Tensor, Tensor]:
    """The transmissibilities after coarsening x by cx and y by cy."""
    if cx == 2:
        tx = _series(tx, 0)
    if cy == 2:
        ty = _series(ty, 1)
        tx = _parallel(tx, 1)
    if cx == 2:
        ty = _parallel(ty, 0)
    return tx.contiguous(), ty.contiguous()


def _series(t: Tensor, axis: int) -> Tensor:
    """The transmissibilities between the centres of pairs of cells along `axis`."""
    resistance = (1 / t).transpose(0, axis)
    total, inner = resistance[0::2].clone(), resistance[1::2] / 2
    if len(resistance) % 2 == 0:
        # An odd number of cells. The last coarse cell is one fine cell: its centre lies on no face, and the
        # last face is its wall.
        total, inner = torch.cat((total, resistance[-1:])), inner[:-1]
    total[: len(inner)] += inner
    total[1 : len(inner) + 1] += inner
    return (1 / total).transpose(0, axis)


def _parallel(t: Tensor, axis: int) -> Tensor:
    """The sums of pairs of entries along `axis`; an odd last entry stays alone."""
    t = t.transpose(0, axis)
    total, second = t[0::2].clone(), t[1::2]
    total[: len(second)] += second
    return total.transpose(0, axis)


def _roots(d: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of the diagonal and its inverse, both positive and finite even for a cell without faces."""
    d = d.clamp_min(torch.finfo(d.dtype).tiny)
    return d.sqrt(), d.rsqrt()


def couplings_to_neighbours(tx: Tensor, ty: Tensor) -> tuple[Tensor, ...]:
    """The transmissibilities to the neighbours of each cell, in the order of `Ghosted.neighbours`."""
    return tx[:-1], tx[1:], ty[:, :-1], ty[:, 1:]


class Ghosted:
    """A field with a rim of zeros around it, and its views shifted by one cell each way."""

    def __init__(self, like: Tensor) -> None:
        nx, ny, batch = like.shape
        full = like.new_zeros((nx + 2, ny + 2, batch))
        self.centre = full[1:-1, 1:-1]
        self.neighbours = (full[:-2, 1:-1], full[2:, 1:-1], full[1:-1, :-2], full[1:-1, 2:])


class _Level:
    """One grid of the hierarchy, with the operator scaled to a unit diagonal, and the buffers of its cycle.

    An axis that is halved is padded to even length by cells without faces: `root`, and with it every value,
    is 0 there at all times.
    """

    def __init__(self, tx: Tensor, ty: Tensor, cx: int, cy: int, coarse: _Level | _Coarsest) -> None:
        self.cx, self.cy, self.coarse = cx, cy, coarse
        d = diagonal((tx, ty), first_dim=0)
        nx, ny, batch = d.shape
        mx, my = -(-nx // cx) * cx, -(-ny // cy) * cy

        def buffer(*shape: int) -> Tensor:
            return d.new_zeros((*shape, batch))

        root, inverse = _roots(d)
        sx, sy = buffer(mx + 1, my), buffer(mx, my + 1)
        torch.mul(tx[1:-1], inverse[1:], out=sx[1:nx, :ny]).mul_(inverse[:-1])
        torch.mul(ty[:, 1:-1], inverse[:, 1:], out=sy[:nx, 1:ny]).mul_(inverse[:, :-1])
        self.root, self.inverse = (pad(value, (0, 0, 0, my - ny, 0, mx - nx)) for value in (root, inverse))
        self.couplings = couplings_to_neighbours(sx, sy)
        self.b, self.r = buffer(mx, my), buffer(mx, my)
        self.x, self.spare = Ghosted(self.b), Ghosted(self.b)
        # Without the padding: the right side as the caller writes it, and the answer as the caller reads it.
        self.right, self.answer = self.b[:nx, :ny], self.r[:nx, :ny]
        # Between the grids: coarsened along x only.
        self.half = buffer(mx // 2, my) if cx == 2 else self.r

    def cycle(self) -> Tensor:
        """One V-cycle from this grid down, for the right side in `right`."""
        self.b.mul_(self.inverse)
        torch.mul(self.b, WEIGHTS[0], out=self.x.centre)
        for weight in WEIGHTS[1:]:
            self._smooth(weight)
        torch.sub(self.b, self.x.centre, out=self.r)
        self._add_neighbours(self.r, 1.0)
        self._restrict()
        self._prolong(self.coarse.cycle())
        for weight in reversed(WEIGHTS):
            self._smooth(weight)
        torch.mul(self.x.centre, self.inverse, out=self.r)
        return self.answer

    def _smooth(self, weight: float) -> None:
        r"""One step :math:`x + w (b - A x)`, written into the spare buffer."""
        torch.lerp(self.x.centre, self.b, weight, out=self.spare.centre)
        self._add_neighbours(self.spare.centre, weight)
        self.x, self.spare = self.spare, self.x

    def _add_neighbours(self, target: Tensor, weight: float) -> None:
        for coupling, neighbour in zip(self.couplings, self.x.neighbours, strict=True):
            target.addcmul_(coupling, neighbour, value=weight)

    def _restrict(self) -> None:
        """Sum the residual over each coarse cell."""
        self.r.mul_(self.root)
        if self.cx == 2:
            torch.add(self.r[0::2], self.r[1::2], out=self.half)
        if self.cy == 2:
            torch.add(self.half[:, 0::2], self.half[:, 1::2], out=self.coarse.right)
        else:
            self.coarse.right.copy_(self.half)

    def _prolong(self, correction: Tensor) -> None:
        """Add the correction of each coarse cell to all of its cells."""
        half = self.half.unflatten(1, (-1, self.cy))
        half.copy_(correction[:, :, None])
        x, root = (value.unflatten(0, (-1, self.cx)) for value in (self.x.centre, self.root))
        x.addcmul_(root, self.half[:, None])


class _Coarsest:
    """The coarsest grid, solved by the dense inverse of its matrix."""

    def __init__(self, tx: Tensor, ty: Tensor, singular: bool) -> None:
        tx, ty = tx.double(), ty.double()
        d = diagonal((tx, ty), first_dim=0)
        nx, ny, batch = d.shape
        n = nx * ny
        root, inverse = (value.flatten(0, 1) for value in _roots(d))
        cell = torch.arange(n, device=d.device).reshape(nx, ny)
        a = d.new_zeros((n, n, batch))
        a[cell[:-1].ravel(), cell[1:].ravel()] = -tx[1:-1].flatten(0, 1)
        a[cell[:, :-1].ravel(), cell[:, 1:].ravel()] = -ty[:, 1:-1].flatten(0, 1)
        # Scaled to a unit diagonal, which also serves a cell without faces.
        a = (a + a.transpose(0, 1)) * inverse * inverse[:, None]
        a.diagonal().fill_(1.0)
        if singular:
            # The null vector is given the eigenvalue 1; a right side of zero sum has no part in it.
            null = root / torch.linalg.vector_norm(root, dim=0)
            a += null * null[:, None]
        # inv_ex leaves infinities where a sample has no inverse; its residual then tells.
        a = torch.linalg.inv_ex(a.permute(2, 0, 1))[0].permute(1, 2, 0)
        self.matrix = (a * inverse * inverse[:, None]).float().contiguous()
        self.products = torch.empty_like(self.matrix)
        self.right = torch.zeros_like(d, dtype=torch.float32)
        self.answer = torch.zeros_like(self.right)

    def cycle(self) -> Tensor:
        """The solution for the right side in `right`."""
        torch.mul(self.matrix, self.right.flatten(0, 1), out=self.products)
        torch.sum(self.products, 1, out=self.answer.view_as(self.products[0]))
        return self.answer
