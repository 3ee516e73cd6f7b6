r"""Conjugate gradients around the compiled multigrid cycle: the solver of a processor.

Solves :math:`-\nabla \cdot (K \nabla p) = f` for many K, in float64 around a V-cycle in float32, `LANES` samples at a
time (`physflow.pde.lanes`). Each sample stops at its own tolerance and is left alone from then on, and no operation
mixes samples: a result does not depend, to the last bit, on the other samples of its batch, their number or the number
of threads.

Memory decides the speed. Search directions are held in float32: the pressure and the residual are advanced by the same
rounded direction, so they stay consistent to the precision of float64, and only the directions' conjugacy is
perturbed, as it is anyway by a cycle in float32.

References:
    Saad, "Iterative methods for sparse linear systems", 2nd edition, 2003 (algorithm 9.1).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physflow.pde.compiled_multigrid import SWEEPS, Cycle, arrange, plan, prepare, size, v_cycle
from physflow.pde.compiled_systems import face_transmissibilities, gather, gather_right_sides, middle
from physflow.pde.finite_volumes import Boundary, Faces
from physflow.pde.lanes import LANES, broadcast, jit, load, narrow, store, widen

__all__ = ["solve"]

KEPT_BYTES = 2**28
"""The memory of workers is kept for later calls up to this size; two workers on 512 x 512 cells take it."""

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
    means = right.mean((1, 2)) if boundary == "neumann" else np.zeros(len(right))
    centred = np.abs(right - means[:, None, None])
    # Relative to the largest value, whose square might overflow.
    peaks = centred.max((1, 2), initial=0)
    peaks[peaks == 0] = 1.0
    norms = peaks * np.sqrt(np.square(centred / peaks[:, None, None]).sum((1, 2)))
    # What rounding leaves of a constant without its mean is no right side.
    nothing = norms <= 8 * np.finfo(float).eps * np.sqrt(right[0].size if len(right) else 1) * np.abs(means)
    right, means = np.where(nothing[:, None, None], 0.0, right), np.where(nothing, 0.0, means)
    norms[nothing | (norms == 0)] = 1.0
    x, residuals, iterations = np.empty_like(K), np.empty(samples), np.empty(samples, dtype=np.int64)
    levels, squares = plan(shape, spacing), np.array([h**-2.0 for h in spacing])
    options = (faces == "harmonic", boundary == "neumann", tolerance, max_iterations, SWEEPS)

    def solve_part(part: slice) -> None:
        # One right side serves all samples.
        g = tuple(values if len(values) == 1 else values[part] for values in (right, means, norms))
        memory = _borrow_memory(levels)
        _solve(K[part], *g, levels, squares, *options, memory, x[part], residuals[part], iterations[part])
        _return_memory(memory)

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


Memory: TypeAlias = tuple[NDArray[np.float32], Doubles]

_kept: list[Memory] = []
_lock = threading.Lock()


def _borrow_memory(levels: NDArray[np.int64]) -> Memory:
    """Memory for the fields of one worker, of an earlier call if possible: the system takes as long as a solve over it.

    By numpy, which asks for large pages: with small ones, as memory has that compiled code takes, fine grids wait for
    address translation.
    """
    sizes = size(levels[:1]) + 5 * size(levels), 5 * size(levels[:1])
    with _lock:
        for k, (singles, doubles) in enumerate(_kept):
            if (len(singles), len(doubles)) == sizes:
                return _kept.pop(k)
    return np.empty(sizes[0], np.float32), np.empty(sizes[1])


def _return_memory(memory: Memory) -> None:
    """Keep it for the next call; what was used longest ago goes."""
    with _lock:
        _kept.insert(0, memory)
        while sum(array.nbytes for arrays in _kept for array in arrays) > KEPT_BYTES:
            _kept.pop()


@jit
def _arrange(levels, squares, memory):
    """The workspace in memory that may hold anything."""
    singles, doubles = memory
    rows, columns = levels[0, 0] + 2, (levels[0, 1] + 2) * LANES
    points, fields = rows * columns, doubles.reshape(5, rows, columns)
    numbers = np.zeros((5, LANES))
    return _Workspace(
        arrange(levels, singles[points:]),
        squares,
        fields[0],
        fields[1],
        fields[2],
        fields[3],
        fields[4],
        singles[:points].reshape(rows, columns),
        numbers[0],
        numbers[1],
        numbers[2],
        numbers[3],
        numbers[4],
        np.zeros(LANES, np.bool_),
    )


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
def _squares(f, b, n, m):
    """The sums of the squares of f, which b gets in float32."""
    total = broadcast(np.float64(0))
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            value = load(f[i], j * LANES)
            store(b[i], j * LANES, narrow(value))
            total = total + value * value
    return total


@jit
def _set_up(w, K, f, means, norms, first, harmonic, neumann):
    """The systems of the samples from `first` on, scaled; the permeability is in q for a while."""
    n, m = K.shape[1:]
    gather(K, first, w.q)
    middle(w.q, n, m, w.scale)
    for lane in range(LANES):
        # The middle of the range goes to about one, to stay within float32; a power of two adds no rounding.
        typical = w.scale[lane] * np.sqrt(w.squares[0] * w.squares[1])
        w.scale[lane] = 2.0 ** -np.round(np.log2(typical)) if 0 < typical < np.inf else 1.0
    sx, sy = load(w.scale, 0) * broadcast(w.squares[0]), load(w.scale, 0) * broadcast(w.squares[1])
    face_transmissibilities(w.q, w.tx, w.ty, (w.cycle.tx[0], w.cycle.ty[0]), n, m, sx, sy, harmonic, neumann)
    prepare(w.cycle, neumann)
    gather_right_sides(f, means, norms, first, w.r, w.norms)


@jit
def _iterate(w, n, m, tolerance, max_iterations, sweeps, counts):
    """Conjugate gradients from x = 0, for the right sides in r."""
    z, b = w.cycle.x[0], w.cycle.b[0]
    # With their rims, which stay zero.
    w.x[:] = 0
    w.p[:] = 0
    w.previous[:] = np.inf
    counts[:] = 0
    store(w.sums, 0, _squares(w.r, b, n, m))
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
def _finish(w, f, means, norms, first, count, neumann, solutions, residuals):
    """The true residuals, and the solutions in the units of the problem."""
    n, m = solutions.shape[1:]
    gather_right_sides(f, means, norms, first, w.r, w.norms)
    store(w.sums, 0, _residual_squares(w.r, w.x, w.tx, w.ty, n, m))
    mean = broadcast(np.float64(0))
    if neumann:
        for i in range(1, n + 1):
            for j in range(1, m + 1):
                mean = mean + load(w.x[i], j * LANES)
        mean = mean * broadcast(1.0 / (n * m))
    factor, row = load(w.norms, 0) * load(w.scale, 0), w.q[1]
    for i in range(n):
        for j in range(1, m + 1):
            store(row, j * LANES, (load(w.x[i + 1], j * LANES) - mean) * factor)
        for lane in range(count):
            for j in range(m):
                solutions[first + lane, i, j] = row[(j + 1) * LANES + lane]
    for lane in range(count):
        residuals[first + lane] = np.sqrt(w.sums[lane])


@jit
def _solve(
    K,
    f,
    means,
    norms,
    levels,
    squares,
    harmonic,
    neumann,
    tolerance,
    max_iterations,
    sweeps,
    memory,
    solutions,
    residuals,
    iterations,
):
    """Solve the samples of one worker, LANES at a time."""
    samples, n, m = K.shape
    w, counts = _arrange(levels, squares, memory), np.zeros(LANES, np.int64)
    for first in range(0, samples, LANES):
        count = min(LANES, samples - first)
        _set_up(w, K, f, means, norms, first, harmonic, neumann)
        _iterate(w, n, m, tolerance, max_iterations, sweeps, counts)
        _finish(w, f, means, norms, first, count, neumann, solutions, residuals)
        iterations[first : first + count] = counts[:count]
