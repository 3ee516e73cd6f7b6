r"""Systems of equations for the compiled solver: from K and f to transmissibilities and scaled right sides.

The discretisation is that of `physflow.pde.finite_volumes`, written again so that no transmissibility travels through
the main memory; tests hold the two together. The fields of `physflow.pde.lanes.LANES` samples are gathered with the
samples as the fastest axis, in the layout of `physflow.pde.compiled_multigrid`.
"""

from __future__ import annotations

import numpy as np

from physflow.pde.lanes import LANES, broadcast, jit, load, narrow, store

__all__ = ["face_transmissibilities", "gather", "gather_right_sides", "middle"]


@jit
def _gather_row(fields, first, i, row):
    last = fields.shape[0] - 1
    for j in range(fields.shape[2]):
        for lane in range(LANES):
            row[(j + 1) * LANES + lane] = fields[min(first + lane, last), i, j]


@jit
def gather(fields, first, out):
    """The fields of LANES samples from `first` on, with the samples as the fastest axis; the last fills the rest."""
    for i in range(fields.shape[1]):
        _gather_row(fields, first, i, out[i + 1])


@jit
def gather_right_sides(f, means, norms, first, out, factors):
    """The same of right sides, without their means and divided by their norms, which are kept."""
    last = len(f) - 1
    mean = np.empty(LANES)
    for lane in range(LANES):
        mean[lane], factors[lane] = means[min(first + lane, last)], norms[min(first + lane, last)]
    shift, factor = load(mean, 0), broadcast(np.float64(1)) / load(factors, 0)
    for i in range(f.shape[1]):
        row = out[i + 1]
        _gather_row(f, first, i, row)
        for j in range(1, f.shape[2] + 1):
            store(row, j * LANES, (load(row, j * LANES) - shift) * factor)


@jit
def middle(K, n, m, out):
    """A number in the middle of the range of K: the root of the quotient of the sums of K and 1 / K, over some rows."""
    total = inverse = broadcast(np.float64(0))
    for i in range(1, n + 1, 8):
        for j in range(1, m + 1):
            value = load(K[i], j * LANES)
            total, inverse = total + value, inverse + broadcast(np.float64(1)) / value
    inverses = np.empty(LANES)
    store(out, 0, total)
    store(inverses, 0, inverse)
    for lane in range(LANES):
        out[lane] = np.sqrt(out[lane]) / np.sqrt(inverses[lane])


@jit
def _wall(out, single, cells, first, last, scale, neumann):
    """The faces between a wall and the cells of columns first..last: none, or half a cell away."""
    for j in range(first, last + 1):
        o = j * LANES
        value = broadcast(np.float64(0)) if neumann else broadcast(np.float64(2)) * load(cells, o) * scale
        store(out, o, value)
        store(single, o, narrow(value))


@jit
def _inner(out, single, before, after, last, scale, harmonic):
    """The faces between the cells of columns 1..last of two rows."""
    for j in range(1, last + 1):
        o = j * LANES
        a, b = load(before, o), load(after, o)
        mean = a / (a + b) * b * broadcast(np.float64(2)) if harmonic else (a + b) * broadcast(np.float64(0.5))
        store(out, o, mean * scale)
        store(single, o, narrow(mean * scale))


@jit
def face_transmissibilities(K, tx, ty, singles, n, m, sx, sy, harmonic, neumann):
    """The transmissibilities of all faces, in float64 and, as `singles`, in float32."""
    single_x, single_y = singles
    for i in range(2, n + 1):
        _inner(tx[i], single_x[i], K[i - 1], K[i], m, sx, harmonic)
    _wall(tx[1], single_x[1], K[1], 1, m, sx, neumann)
    _wall(tx[n + 1], single_x[n + 1], K[n], 1, m, sx, neumann)
    for i in range(1, n + 1):
        row, after, single = K[i], ty[i][LANES:], single_y[i][LANES:]
        _inner(after, single, row, row[LANES:], m - 1, sy, harmonic)
        _wall(ty[i], single_y[i], row, 1, 1, sy, neumann)
        _wall(after, single, row, m, m, sy, neumann)
