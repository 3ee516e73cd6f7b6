r"""Conjugate gradients for batches of finite-volume systems, preconditioned by multigrid.

Solves :math:`A x = f` with :math:`A = -\nabla \cdot (K \nabla)` of `physflow.pde.finite_volumes`, every sample of the
batch with its own K, in float64 around a V-cycle in float32 (`physflow.pde.multigrid`). The number of iterations does
not grow with the grid. Each sample stops at its own tolerance and is left alone from then on, and no operation mixes
samples. The order in which a vectorised sum adds depends on the size of the batch, so batches are filled up to whole
groups: a sample's result does not depend on the other samples of its batch, nor on their number, to the last bit.

References:
    Saad, "Iterative methods for sparse linear systems", 2nd edition, 2003 (algorithm 9.1).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from physflow.pde.finite_volumes import diagonal, solve_direct
from physflow.pde.multigrid import Ghosted, Multigrid, couplings_to_neighbours

__all__ = ["MOST_ROUNDING", "precondition", "rounding", "solve"]

MOST_ROUNDING = 1e-3
"""What rounding leaves is accepted up to this relative residual."""

DIRECT_CELLS = 256**2
"""A sample of at most this many cells is given to a sparse direct solver if it does not converge."""

BLOCK_CELLS = 2**19
"""A batch is solved in blocks of at most this many cells on a processor (128 samples of 64 x 64 cells)."""

ACCELERATOR_BLOCK_CELLS = 2**24
"""The same on an accelerator, where the launch of an operation costs more than its arithmetic."""


GROUP = 32
"""Batches are filled up to a multiple of this many samples, or of a block where that holds fewer."""


class _System(NamedTuple):
    """Systems A x = f near one in size, in float64 with the batch last, and the factor that undoes it in x."""

    tx: Tensor
    ty: Tensor
    d: Tensor
    f: Tensor
    factor: Tensor


def _conjugate_gradients(
    system: _System, cycle: Multigrid, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """The solutions of scaled systems, shape (nx, ny, batch), and the norms of their residuals."""
    d, f, couplings = system.d, system.f, couplings_to_neighbours(system.tx, system.ty)
    x, r, q, z, products = torch.zeros_like(f), f.clone(), *(torch.empty_like(f) for _ in range(3))
    ghosted = Ghosted(f)
    p = ghosted.centre

    def apply() -> None:
        torch.mul(d, p, out=q)
        for coupling, neighbour in zip(couplings, ghosted.neighbours, strict=True):
            q.addcmul_(coupling, neighbour, value=-1)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        torch.mul(a, b, out=products)
        return products.flatten(0, 1).sum(0)

    zero = f.new_zeros(f.shape[2])
    rz, active = torch.full_like(zero, torch.inf), dot(r, r) > tolerance**2
    for _ in range(max_iterations):
        if not active.any():
            break
        z.copy_(cycle(r))
        previous, rz = rz, dot(r, z)
        # 0 / 0 is a zero right side.
        torch.addcmul(z, p, (rz / previous).nan_to_num_(0.0), out=p)
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


def _blocks(transmissibility: Sequence[Tensor], f: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """The parts of the batch that are solved together: the number of samples, and these filled up to a whole group."""
    cells = BLOCK_CELLS if f.device.type == "cpu" else ACCELERATOR_BLOCK_CELLS
    size = max(1, cells // math.prod(f.shape[1:]))
    group = min(size, GROUP)
    for block in zip(*(value.split(size // group * group) for value in (*transmissibility, f)), strict=True):
        samples = len(block[-1])
        missing = -samples % group
        yield (
            samples,
            tuple(torch.cat((v, v[-1:].expand(missing, -1, -1))) if missing and samples else v for v in block),
        )


def _scale(block: Sequence[Tensor], singular: bool) -> _System:
    tx, ty, f = (
        value.detach().permute(1, 2, 0).to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        for value in block
    )
    d = diagonal((tx, ty), first_dim=0)
    low, high = (extreme((0, 1)).clamp_min(torch.finfo(d.dtype).tiny).log2() for extreme in (d.amin, d.amax))
    # The middle of the range, to stay within that of float32; a power of two, so that it adds no rounding.
    scale = torch.exp2(-((low + high) / 2).round())
    mean = f.mean((0, 1)) if singular else torch.zeros_like(scale)
    f -= mean
    # Relative to the largest value, whose square might overflow.
    peak = f.abs().amax((0, 1))
    f /= torch.where(peak > 0, peak, 1.0)
    norm = torch.linalg.vector_norm(f, dim=(0, 1))
    # What rounding leaves of a constant without its mean is no right side.
    f *= peak * norm > 8 * torch.finfo(f.dtype).eps * math.prod(f.shape[:2]) ** 0.5 * mean.abs()
    f /= torch.where(norm > 0, norm, 1.0)
    norm = peak * norm
    return _System(tx.mul_(scale), ty.mul_(scale), d.mul_(scale), f, norm * scale)


def _unscale(x: Tensor, factor: Tensor, singular: bool) -> Tensor:
    x = x * factor
    if singular:
        x -= x.mean((0, 1))
    return x.permute(2, 0, 1)


def rounding(d: Tensor, x: Tensor) -> Tensor:
    """The norm of the residual that rounding alone may leave: a few eps |A| |x|, whatever the solver.

    Where that is no longer small against the right side, of norm one, no solver in double precision gives a solution
    that could be trusted: see `MOST_ROUNDING`.

    Arguments:
        d: The diagonals of A, shape (batch, *axes).
        x: The solutions, same shape.
    """
    return 4 * torch.finfo(x.dtype).eps * torch.linalg.vector_norm(d.flatten(1), dim=1) * x.abs().flatten(1).amax(1)


def _rescue(sample: _System, x: Tensor, residual: float, singular: bool, tolerance: float, name: str) -> Tensor:
    """The solution of one sample that missed the tolerance: x if rounding is why, else by a direct solver."""

    def allowed(x: Tensor) -> float:
        return tolerance + min(MOST_ROUNDING, float(rounding(sample.d.movedim(-1, 0), x.movedim(-1, 0))))

    if residual <= allowed(x):
        return x
    if x.numel() <= DIRECT_CELLS:
        # The same words for each sample, so that Python shows them once.
        warnings.warn(
            "a sparse direct solver, many times slower, takes over where conjugate gradients do not converge: samples "
            "whose permeability has too high a contrast",
            RuntimeWarning,
            stacklevel=3,
        )
        t = (sample.tx[..., 0], sample.ty[..., 0])
        direct, of_direct = solve_direct(t, sample.f[..., 0], singular)
        # Negated, so that a residual that is not a number loses.
        if not residual <= of_direct:
            x, residual = direct[..., None], of_direct
        if residual <= allowed(x):
            return x
    low, high = sample.d.min(), sample.d.max()
    cause = f"spans {(high / low).log10():.0f} orders of magnitude" if high < torch.inf else "is not finite"
    raise RuntimeError(
        f"{name}: its relative residual is {residual:.1e}, the tolerance {tolerance:.1e}. Its permeability {cause}; "
        "narrow its range, relax the tolerance or allow more iterations"
    )


def solve(
    transmissibility: Sequence[Tensor],
    f: Tensor,
    spacing: Sequence[float],
    *,
    singular: bool,
    tolerance: float = 1e-8,
    max_iterations: int = 100,
    numbers: Sequence[int] | None = None,
) -> Tensor:
    r"""The solution of :math:`A x = f`; not differentiable.

    Arguments:
        transmissibility: The transmissibilities of both axes (see `physflow.pde.finite_volumes`).
        f: The right sides, shape (batch, nx, ny).
        spacing: The spacing of both axes.
        singular: Whether constants are the null space (Neumann walls). The mean of f is then taken out, and the
            solution has mean zero.
        tolerance: The relative residual :math:`|f - A x| / |f|` at which each sample stops. What rounding leaves of it
            in double precision is allowed besides.
        max_iterations: The most iterations before a sample is handed to a sparse direct solver.
        numbers: The names of the samples in an error; their places in the batch by default.

    Returns:
        The solution, float64, shape (batch, nx, ny).

    Raises:
        ValueError: If the tolerance is not in (0, 1).
        RuntimeError: If a sample reaches the tolerance neither way.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"the tolerance is a relative residual, expected in (0, 1), got {tolerance}")
    solutions: list[Tensor] = []
    for samples, block in _blocks(transmissibility, f):
        system = _scale(block, singular)
        cycle = Multigrid(system.tx, system.ty, spacing, singular)
        x, residual = _conjugate_gradients(system, cycle, tolerance, max_iterations)
        # Negated, so that a residual that is not a number counts as missed.
        for i in (~(residual[:samples] <= tolerance)).nonzero().ravel().tolist():
            sample = _System(*(value[..., [i]] for value in system))
            place = sum(map(len, solutions)) + i
            name = f"sample {numbers[place] if numbers else place} was not solved in {max_iterations} iterations"
            x[..., [i]] = _rescue(sample, x[..., [i]], float(residual[i]), singular, tolerance, name)
        solutions.append(_unscale(x, system.factor, singular)[:samples])
    return torch.cat(solutions).contiguous()


def precondition(transmissibility: Sequence[Tensor], r: Tensor, spacing: Sequence[float], *, singular: bool) -> Tensor:
    r"""One V-cycle: an approximate, symmetric :math:`A^{-1} r`; not differentiable. The arguments are those of `solve`.

    Returns:
        The result, float64 of the precision of float32, shape (batch, nx, ny); of mean zero if singular.
    """
    results = []
    for samples, block in _blocks(transmissibility, r):
        system = _scale(block, singular)
        x = Multigrid(system.tx, system.ty, spacing, singular)(system.f).double()
        results.append(_unscale(x, system.factor, singular)[:samples])
    return torch.cat(results).contiguous()
