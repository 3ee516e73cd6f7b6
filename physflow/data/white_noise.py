r"""White noise that anyone can draw again: the numbers of sample i depend on (seed, i) alone.

The bits come from Philox-4x32 with ten rounds, a counter-based generator: a keyed function of a counter, without
state. The seed is the key, the sample's index the upper half of the counter, the place of a number within its sample
the lower half. Two 32-bit words :math:`u, v` make two normal numbers (Box and Muller)

.. math:: \sqrt{-2 \ln u}\, \cos 2 \pi v, \qquad \sqrt{-2 \ln u}\, \sin 2 \pi v

in float32, of which none exceeds 6.8 in size (the normal law does with a probability of 1e-11). Compiled, and free of
the interpreter lock: numpy's own normal numbers take several times as long as the Fourier transform that makes a field
of them.

References:
    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox).
    Box and Muller, "A note on the generation of random normal deviates", Ann. Math. Statist. 29, 1958.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from physflow.pde.lanes import jit

__all__ = ["normals", "uniforms"]

_CHUNK = 256
"""Counters worked on together: their words stay in the first cache."""


def normals(seed: int, indices: ArrayLike, size: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Independent N(0, 1) numbers.

    Arguments:
        seed: The seed, in [0, 2^64).
        indices: The indices of the samples, shape (count,).
        size: How many numbers of each sample.
        out: Where they go, contiguous and of shape (count, size); a new array by default.

    Returns:
        The numbers, shape (count, size).

    Raises:
        ValueError: If the seed or an index is out of range.
    """
    samples = _indices(seed, indices)
    if out is None:
        out = np.empty((len(samples), size), dtype=np.float32)
    _fill_normals(np.uint64(seed), samples, out)
    return out


def uniforms(seed: int, indices: ArrayLike, size: int) -> NDArray[np.float64]:
    """Independent numbers uniform on (0, 1), multiples of 2^-32 shifted by half a step; arguments as `normals`."""
    samples = _indices(seed, indices)
    out = np.empty((len(samples), size), dtype=np.float64)
    _fill_uniforms(np.uint64(seed), samples, out)
    return out


def _indices(seed: int, indices: ArrayLike) -> NDArray[np.uint64]:
    if not 0 <= seed < 2**64:
        raise ValueError(f"expected a seed in [0, 2**64), got {seed}")
    array = np.atleast_1d(np.asarray(indices, dtype=np.int64))
    if array.ndim != 1 or (array < 0).any():
        raise ValueError(f"expected a row of indices that are not negative, got {indices!r}")
    return array.astype(np.uint64)


@jit
def _philox(key, index, start, words):
    """The words of the counters start, start + 1, ...: words[k, c] is word k of counter start + c."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    for c in range(words.shape[1]):
        counter = np.uint64(start + c)
        x0, x1, x2, x3 = counter & low, counter >> half, index & low, index >> half
        k0, k1 = key & low, key >> half
        for _ in range(10):
            a, b = np.uint64(0xD2511F53) * x0, np.uint64(0xCD9E8D57) * x2
            x0, x1, x2, x3 = (b >> half) ^ x1 ^ k0, b & low, (a >> half) ^ x3 ^ k1, a & low
            k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
        words[0, c], words[1, c], words[2, c], words[3, c] = x0, x1, x2, x3


@jit
def _box_muller(u, v, radius, bits, first, second):
    """Two normal numbers of each pair of words; `bits` is the memory of `radius` as integers."""
    n = len(u)
    for c in range(n):
        radius[c] = (np.float32(u[c]) + np.float32(0.5)) * np.float32(2.0**-32)
    for c in range(n):
        # The logarithm: exponent and mantissa m in [1, 2), and ln m = 2 artanh((m - 1) / (m + 1)).
        exponent = np.float32((bits[c] >> 23) - 127)
        mantissa = (bits[c] & 0x7FFFFF) | 0x3F800000
        bits[c] = mantissa
        first[c] = exponent
    for c in range(n):
        m = radius[c]
        s = (m - np.float32(1.41421356)) / (m + np.float32(1.41421356))
        q = s * s
        series = np.float32(1 / 9) + q * np.float32(1 / 11)
        series = np.float32(1 / 5) + q * (np.float32(1 / 7) + q * series)
        series = np.float32(2) * s * (np.float32(1) + q * (np.float32(1 / 3) + q * series))
        log = (first[c] + np.float32(0.5)) * np.float32(0.6931471805599453) + series
        radius[c] = np.sqrt(max(np.float32(-2) * log, np.float32(0)))
    for c in range(n):
        # The two upper bits choose the quadrant, the others the angle from its middle.
        quadrant = v[c] >> 30
        angle = (np.float32(v[c] & 0x3FFFFFFF) + np.float32(0.5)) * np.float32(2.0**-30) - np.float32(0.5)
        a = angle * np.float32(np.pi / 2)
        q = a * a
        sine = np.float32(1 / 120) + q * (np.float32(-1 / 5040) + q * np.float32(1 / 362880))
        sine = a * (np.float32(1) + q * (np.float32(-1 / 6) + q * sine))
        cosine = np.float32(1 / 24) + q * (np.float32(-1 / 720) + q * np.float32(1 / 40320))
        cosine = np.float32(1) + q * (np.float32(-1 / 2) + q * cosine)
        x = cosine if quadrant & 1 == 0 else -sine
        y = sine if quadrant & 1 == 0 else cosine
        sign = radius[c] if quadrant < 2 else -radius[c]
        first[c], second[c] = sign * x, sign * y


@jit
def _fill_normals(seed, indices, out):
    words, radius = np.empty((4, _CHUNK), np.uint32), np.empty(_CHUNK, np.float32)
    bits, pairs = radius.view(np.int32), np.empty((4, _CHUNK), np.float32)
    for row in range(len(indices)):
        size = out.shape[1]
        for start in range(0, size, 4 * _CHUNK):
            _philox(seed, indices[row], start // 4, words)
            part, whole = out[row, start : start + 4 * _CHUNK], start + 4 * _CHUNK <= size
            target = part.reshape(4, _CHUNK) if whole else pairs
            _box_muller(words[0], words[1], radius, bits, target[0], target[1])
            _box_muller(words[2], words[3], radius, bits, target[2], target[3])
            if not whole:
                part[:] = pairs.ravel()[: len(part)]


@jit
def _fill_uniforms(seed, indices, out):
    words = np.empty((4, _CHUNK), np.uint32)
    for row in range(len(indices)):
        for start in range(0, out.shape[1], 4 * _CHUNK):
            _philox(seed, indices[row], start // 4, words)
            part = out[row, start : start + 4 * _CHUNK]
            for k in range(len(part)):
                part[k] = (words[k // _CHUNK, k % _CHUNK] + 0.5) * 2.0**-32
