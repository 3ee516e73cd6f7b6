r"""Stationary Gaussian fields by embedding their covariance in a torus.

On the N points of a uniform grid the field is a normal vector with the covariance matrix :math:`C_{ij} = k(x_i - x_j)`.
:math:`C` is a part of a circulant matrix: the covariance of a field on a larger grid that closes to a torus, where the
lag between two points is the shorter way round. The Fourier basis diagonalises that matrix, so that products with
:math:`C` and, where all eigenvalues :math:`\Lambda \ge 0`, draws from :math:`N(0, C)` cost one FFT.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray

from physflow.data.covariances import Covariance
from physflow.data.random_fields import Array, RandomField
from physflow.data.white_noise import normals
from physflow.grid import Grid

__all__ = ["CirculantEmbedding", "Torus"]

_FACTORS = (2, 3, 4, 6, 8)
_ROUNDING = 1e-10
"""How negative an eigenvalue may be, relative to the largest, to count as a rounding error."""
_PIECE_POINTS = 2**16
"""Points of the torus that are transformed together."""


class Torus:
    r"""The circulant matrix that embeds a covariance matrix, diagonal in the Fourier basis.

    Arguments:
        grid: The points of the covariance matrix.
        covariance: The covariance.
        factor: The points of the torus along each axis, in multiples of the grid's; at least 2.

    Attributes:
        shape: The points of the torus.
        spectrum: Its eigenvalues :math:`\Lambda`, in the order of the FFT.
        inside: Where the grid lies on it, as slices.
    """

    def __init__(self, grid: Grid, covariance: Covariance, factor: int = 2) -> None:
        self.grid = grid
        self.shape = tuple(factor * n for n in grid.shape)
        # With its sign, for along a slanted axis k(h1, h2) and k(h1, -h2) differ.
        lags = ((np.arange(m) - m * (2 * np.arange(m) > m)) * h for m, h in zip(self.shape, grid.spacing, strict=True))
        values = covariance(*np.meshgrid(*lags, indexing="ij"))
        # Half-way round, both signs are the shorter way: their mean keeps the matrix symmetric.
        mirrored = np.roll(np.flip(values), 1, axis=tuple(range(grid.ndim)))
        self.spectrum: Array = scipy.fft.fftn((values + mirrored) / 2).real
        self.inside = tuple(slice(n) for n in grid.shape)

    def multiply(self, vector: Array) -> Array:
        """The covariance matrix times a vector of the grid's points."""
        padded = scipy.fft.rfftn(vector.reshape(self.grid.shape), s=self.shape)
        half = self.spectrum[..., : padded.shape[-1]]
        return scipy.fft.irfftn(half * padded, s=self.shape)[self.inside].ravel()


class CirculantEmbedding(RandomField):
    r"""The full Gaussian field with covariance :math:`C`, exact on the grid's points.

    With :math:`\Lambda` the spectrum of a torus of M points and :math:`Z` complex white noise, real and imaginary part
    of :math:`F (\sqrt{\Lambda / M} Z)` are two independent fields: each pair of samples 2j, 2j + 1 shares one
    transform.

    The torus has twice the grid's points along each axis or, where its spectrum is negative, 3, 4, 6 or 8 times as
    many: smooth covariances need the room to decay. A draw then costs as much more as the torus is larger.

    **Good values.** On 64 x 64 cells of the unit square, lengths up to 0.25 (exponential) or 0.15 (Gaussian, Matern
    with :math:`\nu = 3/2`) take a torus of factor 2.

    **When it fails.** Beyond lengths of about 0.7 (exponential), 0.4 (Matern, :math:`\nu = 3/2`) or 0.5 (Gaussian): a
    Karhunen-Loeve expansion takes any.

    Arguments:
        grid: The points.
        covariance: The covariance of the field.

    Raises:
        ValueError: If every torus' spectrum is negative, so that no embedding is a covariance.

    References:
        Dietrich and Newsam, Fast and exact simulation of stationary Gaussian processes, SIAM J. Sci. Comput. 18 (1997).
    """

    def __init__(self, grid: Grid, covariance: Covariance) -> None:
        super().__init__(grid)
        self.covariance = covariance
        for factor in _FACTORS:
            self._torus = Torus(grid, covariance, factor)
            lowest, highest = float(self._torus.spectrum.min()), float(self._torus.spectrum.max())
            if lowest >= -_ROUNDING * highest:
                break
        else:
            raise ValueError(
                f"the circulant embedding of this covariance is not positive (its smallest eigenvalue is {lowest:.3g}, "
                f"the largest {highest:.3g}, on a torus of {factor} times the grid): the correlation length is too "
                "long for the domain; shorten it or give a number of modes, which draws by Karhunen-Loeve expansion"
            )
        amplitude = np.sqrt(np.maximum(self._torus.spectrum, 0.0) / self._torus.spectrum.size)
        # In float32, which holds a field to 1e-6 and takes half the time: the law is not known better than that.
        self._amplitude = torch.from_numpy(amplitude).float()

    def _draw_block(self, seed: int, first: int) -> NDArray[np.float32]:
        fields = np.empty((self.block, *self.grid.shape), dtype=np.float32)
        points = math.prod(self._torus.shape)
        # A few pairs at a time stay near the cache, in memory that is asked for once.
        pairs = self.block // 2
        count = max(k for k in range(1, pairs + 1) if pairs % k == 0 and (k == 1 or k * points <= _PIECE_POINTS))
        noise, buffers = np.empty((count, 2 * points), dtype=np.float32), [torch.empty(0)] * self.grid.ndim
        for start in range(0, self.block, 2 * count):
            # The pair's numbers are those of its first member: an odd sample is the imaginary part.
            members = np.arange(first + start, first + start + 2 * count, 2)
            normals(seed, members, 2 * points, out=noise)
            field = torch.from_numpy(noise.view(np.complex64).reshape(count, *self._torus.shape))
            field *= self._amplitude
            # Axis by axis, the last first: what lies outside the grid is dropped before the next one is transformed.
            for axis in range(self.grid.ndim, 0, -1):
                buffer = buffers[axis - 1] if start else field.new_empty(field.shape)
                buffers[axis - 1] = torch.fft.fft(field, dim=axis, out=buffer)
                field = buffers[axis - 1].narrow(axis, 0, self.grid.shape[axis - 1])
            values = field.numpy()
            fields[start : start + 2 * count : 2] = values.real
            fields[start + 1 : start + 2 * count : 2] = values.imag
        return fields
