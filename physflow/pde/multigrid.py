r"""Conjugate gradients with a geometric multigrid preconditioner, for batches of finite-volume systems.

Solves :math:`A x = f` with :math:`A = -\nabla \cdot (K \nabla)` of `physflow.pde.finite_volumes`, every
sample of the batch with its own K. The V-cycle runs in float32 inside conjugate gradients in float64:

* smoother: three Chebyshev steps before and after, for the part [0.35, 2] of the spectrum of
  :math:`D^{-1/2} A D^{-1/2}` with D the diagonal of A;
* transfer: sums of the residual over pairs of cells, and the transpose (a correction constant in each coarse
  cell). An axis of odd length ends in a coarse cell made of one fine cell;
* coarse transmissibility: the centres of neighbouring coarse cells are joined by two paths in parallel, each
  of half a resistor 1/T, a full one and another half in series; walls likewise. All grids keep five points;
* an axis whose spacing is twice that of the other, or more, waits until the other has been coarsened;
* the coarsest grid, of 16 cells or fewer, is solved by a dense inverse.

Inside, the batch is the last dimension, so that a neighbour in x or y is a shift by long contiguous runs. The
inner operations are element-wise and in place, on buffers made once per block of the batch, and no operation
mixes samples: a sample's result does not depend on the other samples of its batch.

References:
    Alcouffe, Brandt, Dendy and Painter, "The multi-grid method for the diffusion equation with strongly
    discontinuous coefficients", SIAM J. Sci. Stat. Comput. 2, 1981 (coarse coefficients from resistors).
    Saad, "Iterative methods for sparse linear systems", 2nd edition, 2003 (algorithms 9.1 and 12.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from physflow.pde.finite_volumes import diagonal, solve_direct

__all__ = ["Multigrid", "solve", "vcycle"]

COARSEST_CELLS = 16
DIRECT_CELLS = 256**2
BLOCK_CELLS = {"cpu": 2**18}
BLOCK_CELLS_ACCELERATOR = 2**24
"""A batch is solved in blocks of about this many cells: for the cache of a processor, the memory of a GPU."""


def _chebyshev_weights(steps: int, low: float, high: float) -> list[float]:
    """The inverse roots of the Chebyshev polynomial on [low, high], in increasing order."""
    angles = (math.pi * (2 * i + 1) / (2 * steps) for i in range(steps))
    return sorted(2 / (high + low + (high - low) * math.cos(angle)) for angle in angles)


WEIGHTS = _chebyshev_weights(3, 0.35, 2.0)


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
            # The margin keeps the rounding of the spacings from deciding about a ratio of exactly two.
            cx = 2 if nx > 1 and (ny == 1 or hx < 1.99 * hy) else 1
            cy = 2 if ny > 1 and (nx == 1 or hy < 1.99 * hx) else 1
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


def _couplings(tx: Tensor, ty: Tensor) -> tuple[Tensor, ...]:
    """The transmissibilities to the neighbours of each cell, in the order of `_Ghosted.neighbours`."""
    return tx[:-1], tx[1:], ty[:, :-1], ty[:, 1:]


class _Ghosted:
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
        self.root, self.inverse = buffer(mx, my), buffer(mx, my)
        self.root[:nx, :ny], self.inverse[:nx, :ny] = root, inverse
        sx, sy = buffer(mx + 1, my), buffer(mx, my + 1)
        torch.mul(tx[1:-1], inverse[1:], out=sx[1:nx, :ny]).mul_(inverse[:-1])
        torch.mul(ty[:, 1:-1], inverse[:, 1:], out=sy[:nx, 1:ny]).mul_(inverse[:, :-1])
        self.couplings = _couplings(sx, sy)
        self.b, self.r = buffer(mx, my), buffer(mx, my)
        self.x, self.spare = _Ghosted(self.b), _Ghosted(self.b)
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
        if self.cy == 2:
            self.half[:, 0::2].copy_(correction)
            self.half[:, 1::2].copy_(correction)
            correction = self.half
        for i in range(self.cx):
            self.x.centre[i :: self.cx].addcmul_(self.root[i :: self.cx], correction)


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


def _conjugate_gradients(
    tx: Tensor, ty: Tensor, f: Tensor, cycle: Multigrid, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """The solutions for right sides f of norm 1 or 0, shape (nx, ny, batch), and the norms of their residuals."""
    d, couplings = diagonal((tx, ty), first_dim=0), _couplings(tx, ty)
    x, r, q, z, products = torch.zeros_like(f), f.clone(), *(torch.empty_like(f) for _ in range(3))
    ghosted = _Ghosted(f)
    p = ghosted.centre

    def apply() -> None:
        torch.mul(d, p, out=q)
        for coupling, neighbour in zip(couplings, ghosted.neighbours, strict=True):
            q.addcmul_(coupling, neighbour, value=-1)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        torch.mul(a, b, out=products)
        return products.flatten(0, 1).sum(0)

    zero = f.new_zeros(f.shape[2])
    rz, active = zero, dot(r, r) > tolerance**2
    for _ in range(max_iterations):
        if not active.any():
            break
        z.copy_(cycle(r))
        previous, rz = rz, dot(r, z)
        p.mul_(torch.where(active & (previous != 0), rz / previous, zero)).add_(z)
        apply()
        # A sample that has stopped takes steps of length zero, so its solution stays as it is.
        step = torch.where(active, rz / dot(p, q), zero)
        x.addcmul_(p, step)
        r.addcmul_(q, step, value=-1)
        # Not a number compares false: such a sample stops too, and its true residual tells.
        active &= dot(r, r) > tolerance**2

    p.copy_(x)
    apply()
    torch.sub(f, q, out=r)
    return x, dot(r, r).sqrt()


def _blocks(transmissibility: Sequence[Tensor], f: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The parts of the batch that are solved together."""
    cells = BLOCK_CELLS.get(f.device.type, BLOCK_CELLS_ACCELERATOR)
    size = max(1, cells // math.prod(f.shape[1:]))
    return zip(*(value.split(size) for value in (*transmissibility, f)), strict=True)


def _scale(block: Sequence[Tensor], singular: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The system (tx, ty, f) near one in size, in float64 with the batch last; the factor that undoes it."""
    tx, ty, f = (value.detach().double().permute(1, 2, 0).contiguous() for value in block)
    d = diagonal((tx, ty), first_dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    # The middle of the range, to stay within that of float32; a power of two, so that it adds no rounding.
    scale = torch.exp2(-(d.amin((0, 1)).log2() + d.amax((0, 1)).log2()).div(2).round())
    if singular:
        f = f - f.mean((0, 1))
    norm = torch.linalg.vector_norm(f, dim=(0, 1))
    return tx * scale, ty * scale, f / torch.where(norm > 0, norm, 1.0), norm * scale


def _unscale(x: Tensor, factor: Tensor, singular: bool) -> Tensor:
    x = x * factor
    return (x - x.mean((0, 1)) if singular else x).permute(2, 0, 1)


def _rounding(tx: Tensor, ty: Tensor, x: Tensor) -> Tensor:
    """The norm of the residual that rounding alone may leave: a few eps |A| |x|, whatever the solver."""
    size = torch.linalg.vector_norm(diagonal((tx, ty), first_dim=0), dim=(0, 1))
    return 4 * torch.finfo(x.dtype).eps * size * x.abs().amax((0, 1))


def _likely_cause(tx: Tensor, ty: Tensor) -> str:
    d = diagonal((tx, ty), first_dim=0)
    if not bool(torch.isfinite(d).all()):
        return "its permeability is not finite, or too large for the spacing of the grid"
    orders = float((d.max() / d.min()).log10())
    return (
        f"its permeability spans {orders:.0f} orders of magnitude: narrow them, relax the tolerance, or raise "
        "max_iterations"
    )


def solve(
    transmissibility: Sequence[Tensor],
    f: Tensor,
    spacing: Sequence[float],
    *,
    singular: bool,
    tolerance: float = 1e-8,
    max_iterations: int = 100,
) -> Tensor:
    r"""The solution of :math:`A x = f`; not differentiable.

    Arguments:
        transmissibility: The transmissibilities of both axes (see `physflow.pde.finite_volumes`).
        f: The right sides, shape (batch, nx, ny).
        spacing: The spacing of both axes.
        singular: Whether constants are the null space (Neumann walls). The mean of f is then taken out, and
            the solution has mean zero.
        tolerance: The relative residual :math:`|f - A x| / |f|` at which each sample stops. What rounding
            leaves of it in double precision is allowed besides.
        max_iterations: The most iterations before a sample is handed to a sparse direct solver (on grids of
            up to 256 x 256 cells).

    Returns:
        The solution, float64, shape (batch, nx, ny).

    Raises:
        ValueError: If the tolerance is not in (0, 1).
        RuntimeError: If a sample reaches the tolerance neither way.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"the tolerance is a relative residual, expected in (0, 1), got {tolerance}")
    solutions: list[Tensor] = []
    for block in _blocks(transmissibility, f):
        tx, ty, b, factor = _scale(block, singular)
        cycle = Multigrid(tx, ty, spacing, singular)
        x, residual = _conjugate_gradients(tx, ty, b, cycle, tolerance, max_iterations)
        # Negated, so that a residual that is not a number counts as missed.
        for i in (~(residual <= tolerance + _rounding(tx, ty, x))).nonzero().ravel().tolist():
            sample = sum(map(len, solutions)) + i
            t, reached, tried = (tx[..., [i]], ty[..., [i]]), float(residual[i]), f"{max_iterations} iterations"
            if x[..., i].numel() <= DIRECT_CELLS:
                x[..., i], reached = solve_direct([value[..., 0] for value in t], b[..., i], singular)
                tried += " and a direct solve"
            if not reached <= tolerance + _rounding(*t, x[..., [i]]):
                raise RuntimeError(
                    f"sample {sample} was not solved: its relative residual is {reached:.1e} after {tried}, the "
                    f"tolerance is {tolerance:.1e}; {_likely_cause(*t)}"
                )
        solutions.append(_unscale(x, factor, singular))
    return torch.cat(solutions).contiguous()


def vcycle(transmissibility: Sequence[Tensor], r: Tensor, spacing: Sequence[float], *, singular: bool) -> Tensor:
    r"""One V-cycle: an approximate, symmetric :math:`A^{-1} r`; not differentiable.

    Arguments:
        transmissibility: The transmissibilities of both axes.
        r: The right sides, shape (batch, nx, ny).
        spacing: The spacing of both axes.
        singular: Whether constants are the null space; they are then taken out of r and of the result.

    Returns:
        The result, float64 of the precision of float32, shape (batch, nx, ny).
    """
    results = []
    for block in _blocks(transmissibility, r):
        tx, ty, b, factor = _scale(block, singular)
        results.append(_unscale(Multigrid(tx, ty, spacing, singular)(b).double(), factor, singular))
    return torch.cat(results).contiguous()
