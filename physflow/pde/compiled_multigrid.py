r"""The multigrid cycle of `physflow.pde.multigrid`, compiled for a processor.

Same hierarchy: coarse transmissibilities from resistors, transfer by sums and constants, one axis waiting for the other
where the cells are long, a dense inverse at the end. What differs is the smoother, chosen for the machine: red-black
Gauss-Seidel, two sweeps before and two, in reverse order, after the coarse correction. It needs one array where
Chebyshev needs two, and half the cycles of conjugate gradients; but it touches every other cell, which suits no
accelerator.

Layout: `physflow.pde.lanes.LANES` samples run fastest. A level of n x m cells holds its fields with a rim of zeros, as
arrays of shape (n + 2, (m + 2) LANES); `tx[i]` joins the rows i - 1 and i, `ty[:, j]` the columns j - 1 and j. Cell
(i, j) is red if i + j is even.

The sweeps run through the rows one behind the other: while sweep 1 is at row t, sweep 2 is at row t - 1, and so on. So
each row is fetched from memory once per half cycle, however many sweeps there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from physflow.pde.lanes import LANES, broadcast, jit, load, narrow, store, widen
from physflow.pde.multigrid import COARSEST_CELLS, coarsening

__all__ = ["SWEEPS", "Cycle", "arrange", "plan", "prepare", "size", "v_cycle"]

SWEEPS = 4
"""Sweeps over one colour on each side of the coarse correction: two over all cells."""

Singles: TypeAlias = list[NDArray[np.float32]]


class Cycle(NamedTuple):
    """The arrays of a hierarchy, finest level first, for LANES samples."""

    levels: NDArray[np.int64]
    """A row (n, m, cx, cy) each: the size, and the factors to the next level."""
    x: Singles
    b: Singles
    tx: Singles
    ty: Singles
    inverse: Singles
    """The inverse diagonals."""
    matrix: NDArray[np.float32]
    """The inverse of the coarsest matrix, shape (cells, cells LANES)."""
    work: NDArray[np.float64]
    """Memory for it."""


def plan(shape: Sequence[int], spacing: Sequence[float]) -> NDArray[np.int64]:
    """The levels of the hierarchy, finest first: a row (n, m, cx, cy) each, with the factors to the next one."""
    (n, m), (hx, hy) = shape, spacing
    levels = []
    while n * m > COARSEST_CELLS:
        cx, cy = coarsening((n, m), (hx, hy))
        levels.append((n, m, cx, cy))
        n, m, hx, hy = -(-n // cx), -(-m // cy), hx * cx, hy * cy
    return np.array([*levels, (n, m, 1, 1)], dtype=np.int64)


@jit
def _diagonal(tx, ty, inverse, n, m):
    one, tiny = broadcast(np.float32(1)), broadcast(np.float32(1e-37))
    for i in range(1, n + 1):
        top, bottom, side, out = tx[i], tx[i + 1], ty[i], inverse[i]
        for j in range(1, m + 1):
            o = j * LANES
            store(out, o, one / (load(top, o) + load(bottom, o) + load(side, o) + load(side, o + LANES) + tiny))


@jit
def _conductance(before, at, after, o, halves_before, halves_after):
    """The conductance of one face, with half of the resistors before and after it in series where there are any."""
    two, b = broadcast(np.float32(2)), load(at, o)
    # With resistances a, b, c it is 1 / (a / 2 + b + c / 2): divisions are dear, and a wall has no conductance.
    if halves_before and halves_after:
        a, c = load(before, o), load(after, o)
        return two * a * b * c / (b * c + two * a * c + a * b)
    if halves_before or halves_after:
        a = load(before if halves_before else after, o)
        return two * a * b / (two * a + b)
    return b


@jit
def _coarsen(fx, fy, tx, ty, n, m, cx, cy):
    """The transmissibilities of the level above one of n x m cells."""
    rows, columns = (n + cx - 1) // cx, (m + cy - 1) // cy
    for i in range(1, rows + 2):
        # With an odd number of cells the last coarse cell is a fine one, and the last face its wall.
        g = min(cx * (i - 1), n) + 1
        before, after = cx == 2 and g > 1 and g == 2 * i - 1, cx == 2 and g < n
        for j in range(1, columns + 1):
            total = broadcast(np.float32(0))
            for k in range((j - 1) * cy + 1, min(j * cy, m) + 1):
                total = total + _conductance(fx[max(g - 1, 0)], fx[g], fx[min(g + 1, n + 1)], k * LANES, before, after)
            store(tx[i], j * LANES, total)
    for j in range(1, columns + 2):
        g = min(cy * (j - 1), m) + 1
        before, after = cy == 2 and g > 1 and g == 2 * j - 1, cy == 2 and g < m
        o, last = g * LANES, (m + 1) * LANES
        for i in range(1, rows + 1):
            total = broadcast(np.float32(0))
            for k in range((i - 1) * cx + 1, min(i * cx, n) + 1):
                row = fy[k]
                total = total + _conductance(row[o - LANES :], row[o:], row[min(o + LANES, last) :], 0, before, after)
            store(ty[i], j * LANES, total)


def size(levels: NDArray[np.int64]) -> int:
    """How many numbers a field on all levels has, for LANES samples."""
    return int(((levels[:, 0] + 2) * (levels[:, 1] + 2)).sum()) * LANES


@jit
def _take(memory, levels, start):
    """Cut a field on all levels out of the memory."""
    fields = []
    for level in levels:
        rows, columns = level[0] + 2, (level[1] + 2) * LANES
        fields.append(memory[start : start + rows * columns].reshape(rows, columns))
        start += rows * columns
    return fields, start


@jit
def arrange(levels, memory):
    """A hierarchy in memory of five times its `size`, which may hold anything; the rims are zero and stay so."""
    x, start = _take(memory, levels, 0)
    b, start = _take(memory, levels, start)
    tx, start = _take(memory, levels, start)
    ty, start = _take(memory, levels, start)
    inverse, start = _take(memory, levels, start)
    for k in range(len(levels)):
        # What is not on the rim is written before it is read.
        for field in (x[k], b[k], tx[k], ty[k]):
            field[0] = 0
            field[-1] = 0
            field[:, :LANES] = 0
            field[:, -LANES:] = 0
    cells = levels[-1, 0] * levels[-1, 1]
    matrix, work = np.empty((cells, cells * LANES), np.float32), np.empty((cells, cells * LANES))
    return Cycle(levels, x, b, tx, ty, inverse, matrix, work)


@jit
def prepare(cycle, singular):
    """Fill the coarse levels from the finest transmissibilities, the inverse diagonals and the coarsest inverse."""
    last = len(cycle.levels) - 1
    for k in range(last + 1):
        n, m, cx, cy = cycle.levels[k]
        _diagonal(cycle.tx[k], cycle.ty[k], cycle.inverse[k], n, m)
        if k < last:
            _coarsen(cycle.tx[k], cycle.ty[k], cycle.tx[k + 1], cycle.ty[k + 1], n, m, cx, cy)
    n, m, _, _ = cycle.levels[last]
    _invert_coarsest(cycle.tx[last], cycle.ty[last], cycle.matrix, cycle.work, n, m, singular)


@jit
def v_cycle(cycle, sweeps):
    """One V-cycle for the right side in `b[0]`; the answer is in `x[0]`, and the sums of their product are returned."""
    last = len(cycle.levels) - 1
    for k in range(last):
        x, b, tx, ty, inverse = cycle.x[k], cycle.b[k], cycle.tx[k], cycle.ty[k], cycle.inverse[k]
        _go_down(x, b, tx, ty, inverse, cycle.b[k + 1], cycle.levels[k], sweeps)
    _solve_coarsest(cycle.x[last], cycle.b[last], cycle.matrix, cycle.levels[last])
    for k in range(last - 1, -1, -1):
        x, b, tx, ty, inverse = cycle.x[k], cycle.b[k], cycle.tx[k], cycle.ty[k], cycle.inverse[k]
        total = _go_up(x, b, tx, ty, inverse, cycle.x[k + 1], cycle.levels[k], sweeps)
    if last == 0:
        total = broadcast(np.float64(0))
        n, m, _, _ = cycle.levels[0]
        for i in range(1, n + 1):
            total = _dot_row(cycle.x[0][i], cycle.b[0][i], total, m)
    return total


@jit
def _relax(x, up, down, b, top, bottom, side, inverse, first, m):
    """Solve the equations of every other cell of a row, from column `first` on, for their own value."""
    for j in range(first, m + 1, 2):
        o = j * LANES
        inflow = load(b, o) + load(top, o) * load(up, o) + load(bottom, o) * load(down, o)
        inflow = inflow + load(side, o) * load(x, o - LANES) + load(side, o + LANES) * load(x, o + LANES)
        store(x, o, inflow * load(inverse, o))


@jit
def _relax_row(x, b, tx, ty, inverse, i, m, colour):
    _relax(x[i], x[i - 1], x[i + 1], b[i], tx[i], tx[i + 1], ty[i], inverse[i], 1 + ((i + colour) & 1), m)


@jit
def _start_row(x, b, inverse, i, m):
    """The first sweep, over the red cells, from x = 0."""
    row, right, factor = x[i], b[i], inverse[i]
    for j in range(1 + (i & 1), m + 1, 2):
        o = j * LANES
        store(row, o, load(right, o) * load(factor, o))


@jit
def _restrict_row(coarse, x, up, down, b, top, bottom, side, first, m, cy):
    """Add the residual of the red cells of a row to the coarse cells; that of the black ones is zero."""
    for j in range(first, m + 1, 2):
        o = j * LANES
        c = ((j - 1) // cy + 1) * LANES
        centre = load(x, o)
        r = load(coarse, c) + load(b, o)
        r = r + load(top, o) * (load(up, o) - centre) + load(bottom, o) * (load(down, o) - centre)
        r = r + load(side, o) * (load(x, o - LANES) - centre)
        store(coarse, c, r + load(side, o + LANES) * (load(x, o + LANES) - centre))


@jit
def _go_down(x, b, tx, ty, inverse, coarse, level, sweeps):
    """Smooth A x = b from x = 0, and put the residual on the right side of the coarser level."""
    n, m, cx, cy = level
    for t in range(1, n + sweeps + 1):
        if t <= n:
            _start_row(x, b, inverse, t, m)
        for sweep in range(1, sweeps):
            i = t - sweep
            if 1 <= i <= n:
                _relax_row(x, b, tx, ty, inverse, i, m, sweep & 1)
        i = t - sweeps
        if i >= 1:
            row = coarse[(i - 1) // cx + 1]
            if (i - 1) % cx == 0:
                row[:] = 0
            _restrict_row(row, x[i], x[i - 1], x[i + 1], b[i], tx[i], tx[i + 1], ty[i], 1 + (i & 1), m, cy)


@jit
def _add_row(x, coarse, m, cy):
    for j in range(1, m + 1):
        o = j * LANES
        store(x, o, load(x, o) + load(coarse, ((j - 1) // cy + 1) * LANES))


@jit
def _dot_row(x, b, total, m):
    for j in range(1, m + 1):
        total = total + widen(load(x, j * LANES)) * widen(load(b, j * LANES))
    return total


@jit
def _go_up(x, b, tx, ty, inverse, coarse, level, sweeps):
    """Add the correction of the coarser level, constant in each of its cells, and smooth: black first, red last.

    Returns:
        The sums of x b.
    """
    n, m, cx, cy = level
    total = broadcast(np.float64(0))
    for t in range(1, n + sweeps + 1):
        if t <= n:
            _add_row(x[t], coarse[(t - 1) // cx + 1], m, cy)
        for sweep in range(1, sweeps + 1):
            i = t - sweep
            if 1 <= i <= n:
                _relax_row(x, b, tx, ty, inverse, i, m, sweep & 1)
        if t > sweeps:
            total = _dot_row(x[t - sweeps], b[t - sweeps], total, m)
    return total


@jit
def _invert_coarsest(tx, ty, matrix, work, n, m, singular):
    """The inverses of the coarsest matrices, by Gauss and Jordan without pivots: they are positive definite.

    Arguments:
        tx: The transmissibilities along x.
        ty: The transmissibilities along y.
        matrix: The result, float32, shape (cells, cells LANES).
        work: Memory, float64, of the same shape.
        n: The number of rows of cells.
        m: The number of columns.
        singular: Whether constants are the null space; they are then given the mean of the diagonal as eigenvalue.
    """
    cells, zero = n * m, broadcast(np.float64(0))
    work[:] = 0
    trace = zero
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            c, o = (i - 1) * m + j - 1, j * LANES
            bottom, right = widen(load(tx[i + 1], o)), widen(load(ty[i], o + LANES))
            d = widen(load(tx[i], o)) + bottom + widen(load(ty[i], o)) + right
            trace = trace + d
            store(work[c], c * LANES, d)
            if i < n:
                store(work[c], (c + m) * LANES, zero - bottom)
                store(work[c + m], c * LANES, zero - bottom)
            if j < m:
                store(work[c], (c + 1) * LANES, zero - right)
                store(work[c + 1], c * LANES, zero - right)
    if singular:
        # A single cell has no face, hence the added number.
        shift = (trace + broadcast(np.float64(1e-30))) * broadcast(1.0 / (cells * cells))
        for a in range(cells):
            for c in range(cells):
                store(work[a], c * LANES, load(work[a], c * LANES) + shift)
    one = broadcast(np.float64(1))
    for p in range(cells):
        pivot = one / load(work[p], p * LANES)
        store(work[p], p * LANES, one)
        for c in range(cells):
            store(work[p], c * LANES, load(work[p], c * LANES) * pivot)
        for a in range(cells):
            if a != p:
                factor = load(work[a], p * LANES)
                store(work[a], p * LANES, zero)
                for c in range(cells):
                    store(work[a], c * LANES, load(work[a], c * LANES) - factor * load(work[p], c * LANES))
    for a in range(cells):
        for c in range(cells):
            store(matrix[a], c * LANES, narrow(load(work[a], c * LANES)))


@jit
def _solve_coarsest(x, b, matrix, level):
    """Multiply the right side by the dense inverse."""
    n, m, _, _ = level
    for i in range(n):
        for j in range(m):
            row, total = matrix[i * m + j], broadcast(np.float32(0))
            for k in range(n):
                right = b[k + 1]
                for c in range(m):
                    total = total + load(row, (k * m + c) * LANES) * load(right, (c + 1) * LANES)
            store(x[i + 1], (j + 1) * LANES, total)
