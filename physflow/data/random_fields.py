r"""Gaussian random fields on uniform grids.

A stationary Gaussian field :math:`G` of mean zero has a covariance :math:`k(x, x') = \sigma^2 \rho(|x - x'|)`. On the
N points of a grid it is a normal vector with the covariance matrix :math:`C_{ij} = k(x_i, x_j)`, drawn in one of two
ways:

* `KarhunenLoeve`: :math:`G = \sum_{i \le s} \sqrt{\lambda_i} \phi_i \xi_i` with the s leading eigenpairs of :math:`C`.
  Few modes give smooth fields; the coefficients :math:`\xi_i` need not be normal.
* `CirculantEmbedding`: the full field. :math:`C` is embedded in a circulant matrix on a torus of twice the size, which
  the FFT diagonalises: exact when the torus' spectrum is not negative (as for the exponential covariance).

Reproducibility: sample i depends on (seed, i) alone. Each sample has its own counter-based generator, and the
arithmetic runs in blocks of fixed size aligned to i, so that neither the number of samples nor of workers changes a
bit of any.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import scipy.fft
import scipy.sparse.linalg
import torch
from numpy.typing import NDArray

from physflow.grid import Grid

__all__ = [
    "UNIFORM_RANGE",
    "CirculantEmbedding",
    "Covariance",
    "Exponential",
    "KarhunenLoeve",
    "RandomField",
    "sample_generator",
]

Array: TypeAlias = NDArray[np.float64]

_BLOCK_POINTS = 2**19

UNIFORM_RANGE = (0.0, 2.5)
"""The interval of uniform coefficients in the published data (Jacobsen et al., public generator)."""


class Covariance(ABC):
    r"""An isotropic covariance :math:`k(r)` of the distance :math:`r`."""

    @abstractmethod
    def __call__(self, distance: Array) -> Array:
        """The covariance at each distance."""


@dataclass(frozen=True)
class Exponential(Covariance):
    r"""The exponential covariance :math:`k(r) = \sigma^2 e^{-r / l}`: continuous fields, nowhere differentiable.

    Arguments:
        correlation_length: The length :math:`l`, in the unit of the grid's bounds.
        std: The standard deviation :math:`\sigma`.
    """

    correlation_length: float = 0.1
    std: float = 1.0

    def __call__(self, distance: Array) -> Array:
        """The covariance at each distance."""
        return self.std**2 * np.exp(-distance / self.correlation_length)


def sample_generator(seed: int, index: int) -> np.random.Generator:
    """The random numbers of sample `index`: a Philox stream keyed by (seed, index), the same whoever draws it."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))


class RandomField(ABC):
    """A law of random fields on a grid.

    Arguments:
        grid: The points.
        covariance: The covariance of the field.
    """

    def __init__(self, grid: Grid, covariance: Covariance) -> None:
        self.grid, self.covariance = grid, covariance

    @property
    def block(self) -> int:
        """How many samples are computed together, an even number; blocks are aligned to multiples of it.

        Enough to keep a processor busy, few enough for its cache: 128 up to 64 x 64 points, 2 from 512 x 512.
        """
        return max(2, min(128, 2 * (_BLOCK_POINTS // (2 * int(np.prod(self.grid.shape))))))

    @abstractmethod
    def _draw_block(self, seed: int, first: int) -> Array:
        """Samples first .. first + block - 1, shape (block, *grid.shape)."""

    def draw(self, seed: int, first: int, count: int) -> Array:
        """Draw samples first .. first + count - 1.

        Arguments:
            seed: The seed of the whole set.
            first: The index of the first sample.
            count: The number of samples.

        Returns:
            The fields, shape (count, *grid.shape).
        """
        if first < 0 or count < 0:
            raise ValueError(f"expected indices that are not negative, got first={first}, count={count}")
        start = first - first % self.block
        blocks = [self._draw_block(seed, b) for b in range(start, first + count, self.block)]
        if not blocks:
            return np.empty((0, *self.grid.shape))
        return np.concatenate(blocks)[first - start : first - start + count]


class _Torus:
    """The circulant matrix that embeds a covariance matrix on a uniform grid, diagonal in the Fourier basis."""

    def __init__(self, grid: Grid, covariance: Covariance) -> None:
        self.grid = grid
        self.shape = tuple(2 * n for n in grid.shape)
        lags = (np.minimum(np.arange(m), m - np.arange(m)) * h for m, h in zip(self.shape, grid.spacing, strict=True))
        distance = np.sqrt(sum(lag**2 for lag in np.meshgrid(*lags, indexing="ij")))
        self.spectrum: Array = scipy.fft.fftn(covariance(distance)).real
        self.inside = tuple(slice(n) for n in grid.shape)

    def multiply(self, vector: Array) -> Array:
        """C times a vector of the grid's points."""
        padded = scipy.fft.rfftn(vector.reshape(self.grid.shape), s=self.shape)
        half = self.spectrum[..., : padded.shape[-1]]
        return scipy.fft.irfftn(half * padded, s=self.shape)[self.inside].ravel()


class KarhunenLoeve(RandomField):
    r"""The leading modes of the Karhunen-Loeve expansion, :math:`G = \sum_{i \le s} \sqrt{\lambda_i} \phi_i \xi_i`.

    The eigenpairs are those of the covariance matrix on the grid's points, found by Lanczos iteration with an FFT
    product. Signs, and bases inside degenerate pairs (a square has many), are fixed by projecting smooth reference
    functions, so that the same coefficients give the same field on every machine and nearly the same one on every grid.

    Arguments:
        grid: The points.
        covariance: The covariance of the field.
        modes: The number s of modes.
        coefficients: The law of :math:`\xi_i`: ``"normal"``, N(0, 1), or ``"uniform"`` on [0, 2.5] as in the published
            data.

    Attributes:
        eigenvalues: :math:`\lambda_i`, descending, shape (s,).
        eigenvectors: :math:`\phi_i`, orthonormal, shape (N, s).

    References:
        Jacobsen et al., CoCoGen: physically consistent and conditioned score-based generative models, 2023, section 4.
    """

    def __init__(
        self,
        grid: Grid,
        covariance: Covariance,
        modes: int,
        coefficients: Literal["normal", "uniform"] = "normal",
    ) -> None:
        super().__init__(grid, covariance)
        points = int(np.prod(grid.shape))
        if not 1 <= modes <= points:
            raise ValueError(f"expected between 1 and {points} modes on this grid of {points} points, got {modes}")
        self.modes, self.coefficients = modes, coefficients
        self.eigenvalues, self.eigenvectors = _eigenpairs(grid, covariance, modes)
        self._factor = torch.from_numpy(self.eigenvectors * np.sqrt(self.eigenvalues))

    def draw_coefficients(self, seed: int, first: int, count: int) -> Array:
        r"""The coefficients :math:`\xi` of samples first .. first + count - 1, shape (count, s)."""
        draws = np.empty((count, self.modes))
        for row in range(count):
            generator = sample_generator(seed, first + row)
            if self.coefficients == "normal":
                generator.standard_normal(out=draws[row])
            else:
                draws[row] = generator.uniform(*UNIFORM_RANGE, self.modes)
        return draws

    def _draw_block(self, seed: int, first: int) -> Array:
        # By torch, whose threads the generator sets to one: those of numpy's matrix product would wait for one another.
        coefficients = torch.from_numpy(self.draw_coefficients(seed, first, self.block))
        fields: Array = (coefficients @ self._factor.T).numpy()
        return fields.reshape(self.block, *self.grid.shape)


@lru_cache(maxsize=8)
def _eigenpairs(grid: Grid, covariance: Covariance, modes: int) -> tuple[Array, Array]:
    torus, points = _Torus(grid, covariance), int(np.prod(grid.shape))
    # A few more than asked for, so that no degenerate pair is cut in two before its basis is fixed.
    wanted = modes + 8
    if wanted >= points // 2:
        identity = np.eye(points)
        matrix = np.stack([torus.multiply(column) for column in identity])
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    else:
        operator = scipy.sparse.linalg.LinearOperator((points, points), matvec=torus.multiply, dtype=np.float64)
        start = np.cos(np.arange(points) ** 2 * np.sqrt(2.0))
        values, vectors = scipy.sparse.linalg.eigsh(operator, k=wanted, v0=start, ncv=min(points, 2 * wanted + 20))
    order = np.argsort(-values, kind="stable")
    values, vectors = np.maximum(values[order], 0.0), vectors[:, order]
    return values[:modes], _canonical_basis(grid, values, vectors)[:, :modes]


def _canonical_basis(grid: Grid, values: Array, vectors: Array) -> Array:
    """Replace each cluster of vectors of (nearly) equal eigenvalues by the basis that fixed functions project to."""
    result = np.empty_like(vectors)
    # Coordinates scaled to [0, 1]: the references do not depend on the units.
    scaled = [(x - a) / (b - a) for x, (a, b) in zip(grid.mesh(), grid.bounds, strict=True)]
    start = 0
    while start < len(values):
        stop = start + 1
        while stop < len(values) and values[stop - 1] - values[stop] <= 1e-7 * values[0]:
            stop += 1
        cluster = vectors[:, start:stop]
        references = np.stack([_reference(scaled, k) for k in range(stop - start)], axis=1)
        # Gram-Schmidt of the projected references does not depend on the basis that Lanczos happened to return.
        rotation, triangle = np.linalg.qr(cluster.T @ references)
        signs = np.where(np.diag(triangle) < 0, -1.0, 1.0)
        result[:, start:stop] = cluster @ (rotation * signs)
        start = stop
    return result


def _reference(scaled: list[Array], k: int) -> Array:
    """The k-th function that fixes signs and bases: a plane wave that shares no symmetry with the box.

    Uniform coefficients make the mean of G depend on the signs of the modes. These waves give K of the published law
    (16 modes) the mean 1.18 and the standard deviation 0.97, near those of the published data, 1.15 and 0.98.
    """
    wave = (7.0 * (1 + 0.37 * k), 5.0 * (1 - 0.21 * k), 3.0 * (1 + 0.13 * k))
    return np.cos(sum(w * x for w, x in zip(wave, scaled, strict=False)) + 2.25 + k).ravel()


class CirculantEmbedding(RandomField):
    r"""The full Gaussian field with covariance :math:`C`, exact on the grid's points.

    With :math:`\Lambda` the spectrum of the embedding torus and :math:`Z` complex white noise, real and imaginary part
    of :math:`F (\sqrt{\Lambda / M} Z)` are two independent fields: each pair of samples 2j, 2j + 1 shares one
    transform.

    Arguments:
        grid: The points.
        covariance: The covariance of the field.

    Raises:
        ValueError: If the torus' spectrum is negative, so that the embedding is no covariance.

    References:
        Dietrich and Newsam, Fast and exact simulation of stationary Gaussian processes, SIAM J. Sci. Comput. 18 (1997).
    """

    def __init__(self, grid: Grid, covariance: Covariance) -> None:
        super().__init__(grid, covariance)
        self._torus = _Torus(grid, covariance)
        lowest, highest = float(self._torus.spectrum.min()), float(self._torus.spectrum.max())
        if lowest < -1e-10 * highest:
            raise ValueError(
                f"the circulant embedding of this covariance is not positive (its smallest eigenvalue is {lowest:.3g}, "
                f"the largest {highest:.3g}): the correlation length is too long for the domain; shorten it or give a "
                "number of modes, which draws by Karhunen-Loeve expansion"
            )
        self._amplitude = np.sqrt(np.maximum(self._torus.spectrum, 0.0) / self._torus.spectrum.size)

    def _draw_block(self, seed: int, first: int) -> Array:
        fields = np.empty((self.block, *self.grid.shape))
        for pair in range(0, self.block, 2):
            # The pair's numbers come from the stream of its first member: an odd sample is the imaginary part.
            noise = sample_generator(seed, first + pair).standard_normal((2, *self._torus.shape))
            field = scipy.fft.fftn(self._amplitude * (noise[0] + 1j * noise[1]))[self._torus.inside]
            fields[pair], fields[pair + 1] = field.real, field.imag
        return fields
