r"""Gaussian fields by the leading modes of their Karhunen-Loeve expansion.

.. math:: G = \sum_{i \le s} \sqrt{\lambda_i} \phi_i \xi_i

with the eigenpairs :math:`(\lambda_i, \phi_i)`, largest first, of the covariance matrix on the points of a grid.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import scipy.sparse.linalg
import torch
from threadpoolctl import threadpool_limits

from physflow.data.circulant import Torus
from physflow.data.covariances import Covariance
from physflow.data.random_fields import Array, RandomField
from physflow.data.white_noise import normals, uniforms
from physflow.grid import Grid

__all__ = ["UNIFORM_RANGE", "KarhunenLoeve"]

UNIFORM_RANGE = (0.0, 2.5)
"""The interval of uniform coefficients in the published data (Jacobsen et al., public generator)."""


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
        super().__init__(grid)
        self.covariance = covariance
        points = int(np.prod(grid.shape))
        if not 1 <= modes <= points:
            raise ValueError(f"expected between 1 and {points} modes on this grid of {points} points, got {modes}")
        self.modes, self.coefficients = modes, coefficients
        self.eigenvalues, self.eigenvectors = _eigenpairs(grid, covariance, modes)
        self._factor = torch.from_numpy(self.eigenvectors * np.sqrt(self.eigenvalues))

    def draw_coefficients(self, seed: int, first: int, count: int) -> Array:
        r"""The coefficients :math:`\xi` of samples first .. first + count - 1, shape (count, s)."""
        indices = np.arange(first, first + count)
        if self.coefficients == "normal":
            return normals(seed, indices, self.modes).astype(np.float64)
        low, high = UNIFORM_RANGE
        return low + (high - low) * uniforms(seed, indices, self.modes)

    def _draw_block(self, seed: int, first: int) -> Array:
        # By torch, whose threads the generator sets to one: those of numpy's matrix product would wait for one another.
        coefficients = torch.from_numpy(self.draw_coefficients(seed, first, self.block))
        fields: Array = (coefficients @ self._factor.T).numpy()
        return fields.reshape(self.block, *self.grid.shape)


_DENSE_POINTS = 2**13
"""Up to this many points the matrix takes half a gigabyte at most."""


@lru_cache(maxsize=8)
# The sums of several threads of a linear-algebra library differ from those of one in their last bits.
@threadpool_limits.wrap(limits=1)
def _eigenpairs(grid: Grid, covariance: Covariance, modes: int) -> tuple[Array, Array]:
    torus, points = Torus(grid, covariance), int(np.prod(grid.shape))
    # A few more than asked for, so that no degenerate pair is cut in two before its basis is fixed.
    wanted = modes + 8
    # From a quarter of all modes on, all of them are found sooner.
    if wanted >= points // (4 if points <= _DENSE_POINTS else 2):
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
        # Equal but for rounding: mixing vectors of different eigenvalues would change the covariance.
        while stop < len(values) and values[stop - 1] - values[stop] <= 1e-9 * values[stop] + 1e-12 * values[0]:
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
