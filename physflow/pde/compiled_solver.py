r"""Conjugate gradients around the compiled multigrid cycle: the solver of a processor.

Solves :math:`-\nabla \cdot (K \nabla p) = f` for many K, in float64 around a V-cycle in float32, `LANES` samples at a
time (`physflow.pde.lanes`). The discretisation is that of `physflow.pde.finite_volumes`, computed here from K so that
no transmissibility travels through memory; a test holds the two together. Each sample stops at its own tolerance and
is left alone from then on, and no operation mixes samples: a result does not depend, to the last bit, on the other
samples of its batch, their number or the number of threads.

Memory decides the speed. Search directions are held in float32: the pressure and the residual are advanced by the same
rounded direction, so they stay consistent to the precision of float64, and only the directions' conjugacy is
perturbed, as it is anyway by a cycle in float32.

References:
    Saad, "Iterative methods for sparse linear systems", 2nd edition, 2003 (algorithm 9.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physflow.pde.compiled_multigrid import SWEEPS, Cycle, allocate, plan, prepare, v_cycle
from physflow.pde.finite_volumes import Boundary, Faces
from physflow.pde.lanes import LANES, broadcast, jit, load, narrow, store, widen

__all__ = ["solve"]

Doubles: TypeAlias = NDArray[np.float64]


class _Workspace(NamedTuple):
    """The memory of one worker: scaled systems of LANES samples, in rims of zeros, and numbers of each sample."""

    cycle: Cycle
    squares: Doubles
    """The inverse squares of the spacings."""
    tx: Doubles
    ty: Doubles
    x: Doubles
    r: Doubles
    q: Doubles
    p: NDArray[np.float32]
    norms: Doubles
    """The norms of the right sides, which were divided by them."""
    scale: Doubles
    """The powers of two by which the transmissibilities were multiplied."""
    rz: Doubles
    previous: Doubles
    sums: Doubles
    active: NDArray[np.bool_]


def solve(
    permeability: Tensor,
    f: Tensor,
    spacing: Sequence[float],
    faces: Faces = "harmonic",
    boundary: Boundary = "neumann",
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 100,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Solve as far as conjugate gradients get; not differentiable.

    Arguments:
        permeability: The permeability :math:`K`, shape (batch, nx, ny), on a processor.
        f: The right sides, shape (nx, ny) for all samples or (batch, nx, ny). Under Neumann walls their mean is taken
            out, and the solution has mean zero.
        spacing: The spacing of both axes.
        faces: The mean that gives the permeability of a face.
        boundary: The condition on the walls.
        tolerance: The relative residual :math:`|f - A p| / |f|` at which each sample stops.
        max_iterations: The most iterations.

    Returns:
        The solution, float64, shape (batch, nx, ny); the relative residual of each sample, computed from it anew; and
        the number of its iterations. A sample that did not converge is told by its residual.
    """
    samples, *shape = permeability.shape
    # Contiguous always: another layout would be compiled anew.
    K = permeability.detach().double().contiguous().numpy()
    right = f.detach().double().reshape(-1, *shape).contiguous().numpy()
    x, residuals, iterations = np.empty_like(K), np.empty(samples), np.empty(samples, dtype=np.int64)
    levels, inverse_squares = plan(shape, spacing), np.array([h**-2.0 for h in spacing])
    walls = (faces == "harmonic", boundary == "neumann")
    options = (levels, inverse_squares, *walls, tolerance, max_iterations, SWEEPS)

    def solve_part(part: slice) -> None:
        g = right if len(right) == 1 else right[part]
        _solve(K[part], g, *options, x[part], residuals[part], iterations[part])

    groups = -(-samples // LANES)
    threads = max(1, min(torch.get_num_threads(), groups))
    # Whole groups, dealt out in equal numbers.
    ends = [LANES * (groups * (k + 1) // threads) for k in range(threads)]
    parts = [slice(first, last) for first, last in zip([0, *ends], ends, strict=False)]
    if threads == 1:
        solve_part(parts[0])
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(solve_part, parts))
    return torch.from_numpy(x), torch.from_numpy(residuals), torch.from_numpy(iterations)


@jit
def _allocate(levels, squares):
    rim = (levels[0, 0] + 2, (levels[0, 1] + 2) * LANES)
    tx, ty, x, r, q = np.zeros(rim), np.zeros(rim), np.zeros(rim), np.zeros(rim), np.zeros(rim)
    norms, scale, rz, previous, sums = (
        np.zeros(LANES),
        np.zeros(LANES),
        np.zeros(LANES),
        np.zeros(LANES),
        np.zeros(LANES),
    )
    p, active = np.zeros(rim, np.float32), np.zeros(LANES, np.bool_)
    return _Workspace(allocate(levels), squares, tx, ty, x, r, q, p, norms, scale, rz, previous, sums, active)


@jit
def _gather(fields, first, out, n, m):
    """The fields of LANES samples from `first` on, with the samples as the fastest axis; the last fills the rest."""
    last = fields.shape[0] - 1
    for i in range(n):
        row = out[i + 1]
        for j in range(m):
            for lane in range(LANES):
                row[(j + 1) * LANES + lane] = fields[min(first + lane, last), i, j]


@jit
def _halves(K, n, m, harmonic):
    """Replace K by the resistance of half a cell, or by K / 2 for arithmetic faces; return the sums of K and 1/K."""
    half = broadcast(np.float64(0.5))
    total = inverse = broadcast(np.float64(0))
    for i in range(1, n + 1):
        row = K[i]
        for j in range(1, m + 1):
            value = load(row, j * LANES)
            resistance = half / value
            total, inverse = total + value, inverse + resistance
            store(row, j * LANES, resistance if harmonic else half * value)
    return total, inverse + inverse


@jit
def _wall(out, half, first, count, scale, harmonic, neumann):
    """The faces between a wall and `count` cells: none, or half a cell away from it."""
    for j in range(first, first + count):
        value = broadcast(np.float64(0))
        if not neumann:
            h = load(half, j * LANES)
            value = broadcast(1.0) / h if harmonic else broadcast(4.0) * h
        store(out, j * LANES, value * scale)


@jit
def _inner(out, before, after, first, count, scale, harmonic):
    """The faces between cells and their neighbours."""
    one = broadcast(np.float64(1))
    for j in range(first, first + count):
        value = load(before, j * LANES) + load(after, j * LANES)
        store(out, j * LANES, (one / value if harmonic else value) * scale)


@jit
def _transmissibilities(half, tx, ty, n, m, sx, sy, harmonic, neumann):
    for i in range(2, n + 1):
        _inner(tx[i], half[i - 1], half[i], 1, m, sx, harmonic)
    _wall(tx[1], half[1], 1, m, sx, harmonic, neumann)
    _wall(tx[n + 1], half[n], 1, m, sx, harmonic, neumann)
    for i in range(1, n + 1):
        row = half[i]
        _inner(ty[i][LANES:], row, row[LANES:], 1, m - 1, sy, harmonic)
        _wall(ty[i], row, 1, 1, sy, harmonic, neumann)
        _wall(ty[i][LANES:], row, m, 1, sy, harmonic, neumann)


@jit
def _normalise(f, n, m, singular, norms):
    """Take the mean out of the right sides if singular, and divide them by their norms, which are kept."""
    mean = square = broadcast(np.float64(0))
    if singular:
        for i in range(1, n + 1):
            for j in range(1, m + 1):
                mean = mean + load(f[i], j * LANES)
        mean = mean * broadcast(1.0 / (n * m))
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            value = load(f[i], j * LANES) - mean
            square = square + value * value
            store(f[i], j * LANES, value)
    store(norms, 0, square)
    for lane in range(LANES):
        norms[lane] = np.sqrt(norms[lane]) if norms[lane] > 0 else 1.0
    factor = broadcast(np.float64(1)) / load(norms, 0)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            store(f[i], j * LANES, load(f[i], j * LANES) * factor)


@jit
def _residual_squares(f, x, tx, ty, n, m):
    """The sums of the squares of f - A x."""
    total = broadcast(np.float64(0))
    for i in range(1, n + 1):
        up, row, down, top, bottom, side = x[i - 1], x[i], x[i + 1], tx[i], tx[i + 1], ty[i]
        for j in range(1, m + 1):
            o = j * LANES
            centre = load(row, o)
            value = load(top, o) * (centre - load(up, o)) + load(bottom, o) * (centre - load(down, o))
            value = value + load(side, o) * (centre - load(row, o - LANES))
            value = load(f[i], o) - value - load(side, o + LANES) * (centre - load(row, o + LANES))
            total = total + value * value
    return total


@jit
def _direction_row(x, p, z, step, beta, m):
    """Advance x by the last direction, and turn that into the next one: p = z + beta p."""
    for j in range(1, m + 1):
        o = j * LANES
        old = widen(load(p, o))
        store(x, o, load(x, o) + step * old)
        store(p, o, narrow(widen(load(z, o)) + beta * old))


@jit
def _apply_row(q, p, up, down, top, bottom, side, total, m):
    """The product q = A p, and the sum of p q added to `total`."""
    for j in range(1, m + 1):
        o = j * LANES
        centre = widen(load(p, o))
        value = load(top, o) * (centre - widen(load(up, o))) + load(bottom, o) * (centre - widen(load(down, o)))
        value = value + load(side, o) * (centre - widen(load(p, o - LANES)))
        value = value + load(side, o + LANES) * (centre - widen(load(p, o + LANES)))
        store(q, o, value)
        total = total + centre * value
    return total


@jit
def _advance_row(r, q, b, step, total, m):
    """Advance r by -q, and add the sum of r r to `total`; b is r for the cycle."""
    for j in range(1, m + 1):
        o = j * LANES
        value = load(r, o) - step * load(q, o)
        store(r, o, value)
        store(b, o, narrow(value))
        total = total + value * value
    return total


@jit
def _narrow(a, out):
    for i in range(a.shape[0]):
        for o in range(0, a.shape[1], LANES):
            store(out[i], o, narrow(load(a[i], o)))


@jit
def _squares(f, n, m):
    total = broadcast(np.float64(0))
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            total = total + load(f[i], j * LANES) * load(f[i], j * LANES)
    return total


@jit
def _set_up(w, K, f, first, harmonic, neumann):
    """The systems of the samples from `first` on, scaled; the permeability is in q for a while."""
    n, m = K.shape[1:]
    _gather(K, first, w.q, n, m)
    total, inverse = _halves(w.q, n, m, harmonic)
    store(w.scale, 0, total)
    store(w.sums, 0, inverse)
    for lane in range(LANES):
        # The middle of the range goes to about one, to stay within float32; a power of two adds no rounding.
        size = np.sqrt(w.scale[lane]) / np.sqrt(w.sums[lane]) * np.sqrt(w.squares[0] * w.squares[1])
        w.scale[lane] = 2.0 ** -np.round(np.log2(size)) if 0 < size < np.inf else 1.0
    sx, sy = load(w.scale, 0) * broadcast(w.squares[0]), load(w.scale, 0) * broadcast(w.squares[1])
    _transmissibilities(w.q, w.tx, w.ty, n, m, sx, sy, harmonic, neumann)
    _narrow(w.tx, w.cycle.tx[0])
    _narrow(w.ty, w.cycle.ty[0])
    prepare(w.cycle, neumann)
    _gather(f, first, w.r, n, m)
    _normalise(w.r, n, m, neumann, w.norms)


@jit
def _iterate(w, n, m, tolerance, max_iterations, sweeps, counts):
    """Conjugate gradients from x = 0, for the right sides in r."""
    z, b = w.cycle.x[0], w.cycle.b[0]
    w.x[:] = 0
    w.p[:] = 0
    w.previous[:] = np.inf
    counts[:] = 0
    _narrow(w.r, b)
    store(w.sums, 0, _squares(w.r, n, m))
    step = broadcast(np.float64(0))
    for count in range(1, max_iterations + 1):
        for lane in range(LANES):
            # Not a number compares false: such a sample stops, and its true residual tells.
            w.active[lane] = (count == 1 or w.active[lane]) and w.sums[lane] > tolerance**2
            counts[lane] += w.active[lane]
        if not w.active.any():
            break
        store(w.rz, 0, v_cycle(w.cycle, sweeps))
        for lane in range(LANES):
            ratio = w.rz[lane] / w.previous[lane]
            w.previous[lane] = w.rz[lane]
            # 0 / 0 is a zero right side.
            w.sums[lane] = ratio if np.isfinite(ratio) else 0.0
        beta, total = load(w.sums, 0), broadcast(np.float64(0))
        # The product follows one row behind the direction.
        _direction_row(w.x[1], w.p[1], z[1], step, beta, m)
        for i in range(1, n + 1):
            if i < n:
                _direction_row(w.x[i + 1], w.p[i + 1], z[i + 1], step, beta, m)
            total = _apply_row(w.q[i], w.p[i], w.p[i - 1], w.p[i + 1], w.tx[i], w.tx[i + 1], w.ty[i], total, m)
        store(w.sums, 0, total)
        for lane in range(LANES):
            # A sample that has stopped takes steps of length zero, so its solution stays as it is.
            w.sums[lane] = w.rz[lane] / w.sums[lane] if w.active[lane] else 0.0
        step, total = load(w.sums, 0), broadcast(np.float64(0))
        for i in range(1, n + 1):
            total = _advance_row(w.r[i], w.q[i], b[i], step, total, m)
        store(w.sums, 0, total)
    for i in range(1, n + 1):
        _direction_row(w.x[i], w.p[i], z[i], step, step, m)


@jit
def _finish(w, f, first, count, neumann, solutions, residuals):
    """The true residuals, and the solutions in the units of the problem."""
    n, m = solutions.shape[1:]
    _gather(f, first, w.r, n, m)
    _normalise(w.r, n, m, neumann, w.norms)
    store(w.sums, 0, _residual_squares(w.r, w.x, w.tx, w.ty, n, m))
    mean = broadcast(np.float64(0))
    if neumann:
        for i in range(1, n + 1):
            for j in range(1, m + 1):
                mean = mean + load(w.x[i], j * LANES)
        mean = mean * broadcast(1.0 / (n * m))
    factor = load(w.norms, 0) * load(w.scale, 0)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            store(w.q[i], j * LANES, (load(w.x[i], j * LANES) - mean) * factor)
        for lane in range(count):
            for j in range(m):
                solutions[first + lane, i - 1, j] = w.q[i, (j + 1) * LANES + lane]
    for lane in range(count):
        residuals[first + lane] = np.sqrt(w.sums[lane])


@jit
def _solve(
    K, f, levels, squares, harmonic, neumann, tolerance, max_iterations, sweeps, solutions, residuals, iterations
):
    """Solve the samples of one worker, LANES at a time."""
    samples, n, m = K.shape
    w, counts = _allocate(levels, squares), np.zeros(LANES, np.int64)
    for first in range(0, samples, LANES):
        count = min(LANES, samples - first)
        _set_up(w, K, f, first, harmonic, neumann)
        _iterate(w, n, m, tolerance, max_iterations, sweeps, counts)
        _finish(w, f, first, count, neumann, solutions, residuals)
        iterations[first : first + count] = counts[:count]
