r"""Screened Poisson problems with constant coefficients, solved directly by the fast Fourier transform.

On a grid of cells, with the second difference :math:`\Delta_h` of spacing h along each axis, the solution of

.. math:: (\kappa - \Delta_h)\, u = f

is a quotient in a basis in which :math:`\Delta_h` is diagonal. Beyond the walls fields go on as their mirror image:

* ``"neumann"``: even, :math:`u_{-1} = u_0`, so that nothing flows through the wall;
* ``"dirichlet"``: odd, :math:`u_{-1} = -u_0`, so that u is zero on the wall, half a cell from the first point;
* ``"periodic"``: no walls, :math:`u_{-1} = u_{n-1}`.

Field and mirror image together, m points, are periodic, with the eigenvalues
:math:`\left(\tfrac{2}{h} \sin \tfrac{\pi k}{m}\right)^2` of :math:`-\Delta_h`. This is the discrete cosine or sine
transform written as a Fourier transform, in torch: on any device, and differentiable as often as one likes.

References:
    G. Strang, "The discrete cosine transform", SIAM Review 41, 1999, sections 2 and 3.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Walls", "eigenvalues", "laplacian", "mirrored", "multiplied", "solve"]

Walls = Literal["neumann", "dirichlet", "periodic"]
"""What lies beyond the first and the last cell of an axis."""


def laplacian(u: Tensor, spacing: Sequence[float], walls: Walls) -> Tensor:
    r"""The second difference :math:`\Delta_h u`.

    Arguments:
        u: The field, shape (batch, \*axes).
        spacing: The spacing h of each axis.
        walls: What lies beyond the walls.

    Returns:
        The field :math:`\Delta_h u`, same shape.
    """
    total = torch.zeros_like(u)
    for axis, h in enumerate(spacing, start=1):
        n = u.shape[axis]
        first, last = u.narrow(axis, 0, 1), u.narrow(axis, n - 1, 1)
        before, after = {"neumann": (first, last), "dirichlet": (-first, -last), "periodic": (last, first)}[walls]
        longer = torch.cat([before, u, after], axis)
        total = total + (longer.narrow(axis, 0, n) - 2 * u + longer.narrow(axis, 2, n)) / h**2
    return total


def mirrored(u: Tensor, walls: Walls) -> Tensor:
    r"""A field, shape (batch, \*axes), with its mirror images beyond the upper walls: periodic."""
    for axis in range(1, u.ndim) if walls != "periodic" else ():
        image = u.flip(axis)
        u = torch.cat([u, image if walls == "neumann" else -image], axis)
    return u


def multiplied(u: Tensor, walls: Walls, factor: Tensor) -> Tensor:
    r"""A field of which each wave, mirror images included, is multiplied by a number.

    Arguments:
        u: The field, shape (batch, \*axes).
        walls: What lies beyond the walls.
        factor: The numbers, in the order of ``torch.fft.rfftn``.

    Returns:
        The field, same shape.
    """
    if not u.numel():
        # The transform takes no empty batch.
        return u
    image, axes = mirrored(u, walls), tuple(range(1, u.ndim))
    found = torch.fft.irfftn(torch.fft.rfftn(image, dim=axes) * factor, s=image.shape[1:], dim=axes)
    for axis in axes:
        found = found.narrow(axis, 0, u.shape[axis])
    return found.contiguous()


@functools.lru_cache(maxsize=32)
def eigenvalues(shape: tuple[int, ...], spacing: tuple[float, ...], walls: Walls) -> Tensor:
    r"""The eigenvalues of :math:`-\Delta_h` on fields with their mirror images, in the order of ``torch.fft.rfftn``.

    Arguments:
        shape: The number of cells along each axis.
        spacing: The spacing h of each axis.
        walls: What lies beyond the walls.

    Returns:
        A float64 tensor of the shape of the transform. Odd images leave the first of each axis out.
    """
    total = np.zeros(())
    for axis, (n, h) in enumerate(zip(shape, spacing, strict=True)):
        m = n if walls == "periodic" else 2 * n
        k = np.arange(m if axis + 1 < len(shape) else m // 2 + 1)
        total = total[..., None] + (2 / h * np.sin(math.pi * k / m)) ** 2
    # Kept for later calls, which may want derivatives.
    with torch.inference_mode(False):
        return torch.from_numpy(total)


def solve(f: Tensor, spacing: Sequence[float], walls: Walls, screening: float = 0.0) -> Tensor:
    r"""The solution u of :math:`(\kappa - \Delta_h) u = f`.

    Arguments:
        f: The right side, shape (batch, \*axes); computed in its type.
        spacing: The spacing h of each axis.
        walls: What lies beyond the walls.
        screening: The number :math:`\kappa`, of either sign, but not an eigenvalue of :math:`\Delta_h`. If it is
            0 and no wall holds u, the constant part of f is left out and u has none.

    Returns:
        The solution, same shape.
    """
    symbol = eigenvalues(tuple(f.shape[1:]), tuple(spacing), walls).to(f) + screening
    # The constant, where nothing says which it is; odd images have none.
    inverse = torch.where(symbol == 0, 0.0, 1 / symbol)
    return multiplied(f, walls, inverse)
