r"""Conservative finite volumes for :math:`\nabla \cdot (K \nabla p)` on a uniform grid of cells.

Integrating over cell :math:`i` and dividing by its volume leaves differences of fluxes through its faces. The
flux through the face between cells :math:`i` and :math:`i + 1` of an axis with spacing :math:`h` is taken as

.. math:: F_{i+1/2} = T_{i+1/2}\, (p_{i+1} - p_i), \qquad
          (\nabla \cdot (K \nabla p))_i = \sum_\text{axes} F_{i+1/2} - F_{i-1/2},

with the transmissibility :math:`T = K_{i+1/2} / h^2` and the permeability of the face

* harmonic: :math:`2 K_i K_{i+1} / (K_i + K_{i+1})`, two half cells in series: exact in one dimension;
* arithmetic: :math:`(K_i + K_{i+1}) / 2`.

The walls are faces too. Neumann: :math:`T = 0`, no flux. Dirichlet: the value on the wall is 0, half a cell
away from the centre, hence :math:`T = 2 K / h^2` to a neighbour of value 0. What leaves one cell enters the
next, so mass is conserved to rounding whatever the permeability.

An axis of n cells has n + 1 faces; face i of an axis lies before cell i. Tensors are (batch, *axes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

__all__ = ["Boundary", "Faces", "diagonal", "divergence", "matrix", "solve_direct", "transmissibilities"]

Faces = Literal["harmonic", "arithmetic"]
Boundary = Literal["neumann", "dirichlet"]


def transmissibilities(
    permeability: Tensor, spacing: Sequence[float], faces: Faces = "harmonic", boundary: Boundary = "neumann"
) -> tuple[Tensor, ...]:
    r"""The transmissibilities :math:`T` of all faces, walls included.

    Arguments:
        permeability: The cell values :math:`K > 0`, shape (batch, *axes).
        spacing: The spacing :math:`h` of each axis, in the unit of length.
        faces: The mean that gives the permeability of a face.
        boundary: The condition on all walls.

    Returns:
        One tensor an axis, in the unit of K over length squared; it has one entry more than cells along its
        axis.
    """
    walls = 2.0 if boundary == "dirichlet" else 0.0
    # Harmonic: the resistance of half a cell.
    half = 0.5 / permeability if faces == "harmonic" else permeability / 2
    result = []
    for dim, h in enumerate(spacing, start=1):
        cells = permeability.shape[dim]
        inner = half.narrow(dim, 0, cells - 1) + half.narrow(dim, 1, cells - 1)
        if faces == "harmonic":
            inner = inner.reciprocal_()
        first, last = permeability.narrow(dim, 0, 1) * walls, permeability.narrow(dim, cells - 1, 1) * walls
        # In place, here and above: large temporaries cost as much as the arithmetic.
        result.append(torch.cat((first, inner, last), dim).div_(h**2))
    return tuple(result)


def divergence(transmissibility: Sequence[Tensor], pressure: Tensor) -> Tensor:
    r"""The divergence :math:`\nabla \cdot (K \nabla p)` of each cell.

    Arguments:
        transmissibility: The transmissibilities of each axis.
        pressure: The cell values :math:`p`, shape (batch, *axes).

    Returns:
        The divergence, of the shape of `pressure`.
    """
    result = torch.zeros_like(pressure)
    for dim, t in enumerate(transmissibility, start=1):
        wall = torch.zeros_like(pressure.narrow(dim, 0, 1))
        result = result + torch.diff(t * torch.diff(pressure, dim=dim, prepend=wall, append=wall), dim=dim)
    return result


def diagonal(transmissibility: Sequence[Tensor], first_dim: int = 1) -> Tensor:
    r"""The diagonal of :math:`A = -\nabla \cdot (K \nabla)`: the sum over the faces of each cell.

    Arguments:
        transmissibility: The transmissibilities of each axis.
        first_dim: The dimension of the first axis: 1 in the layout (batch, *axes).

    Returns:
        The diagonal, one value a cell.
    """
    first, *rest = (
        t.narrow(dim, side, t.shape[dim] - 1)
        for dim, t in enumerate(transmissibility, start=first_dim)
        for side in (0, 1)
    )
    total = first + rest[0]
    for faces in rest[1:]:
        total += faces
    return total


def matrix(transmissibility: Sequence[Tensor]) -> sparse.csc_array:
    r"""The sparse matrix of :math:`A = -\nabla \cdot (K \nabla)` of one sample.

    Arguments:
        transmissibility: The transmissibilities of each axis, without a batch dimension.

    Returns:
        A symmetric matrix that acts on a field flattened in C order (the last axis runs fastest). Under
        Neumann walls the constant field is its null space.
    """
    d = diagonal(transmissibility, first_dim=0)
    cell = np.arange(d.numel()).reshape(d.shape)
    rows, columns, values = [cell.ravel()], [cell.ravel()], [d.double().cpu().numpy().ravel()]
    for dim, t in enumerate(transmissibility):
        inner = -t.narrow(dim, 1, t.shape[dim] - 2).double().cpu().numpy().ravel()
        before, after = np.delete(cell, -1, dim).ravel(), np.delete(cell, 0, dim).ravel()
        rows += [before, after]
        columns += [after, before]
        values += [inner, inner]
    entries = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csc_array((np.concatenate(values), entries), shape=(cell.size, cell.size))


def solve_direct(transmissibility: Sequence[Tensor], f: Tensor, singular: bool) -> tuple[Tensor, float]:
    r"""The solution of :math:`A x = f` for one sample, by a sparse factorisation and one step of refinement.

    Arguments:
        transmissibility: The transmissibilities of each axis, without a batch dimension.
        f: The right side; of zero mean if singular.
        singular: Whether constants are the null space (Neumann walls).

    Returns:
        The solution, and its residual :math:`|f - A x|` (not a number if the factorisation failed).
    """
    a, b = matrix(transmissibility), f.double().cpu().numpy().ravel()
    if not np.isfinite(a.data).all():
        return torch.full_like(f, torch.nan), float("nan")
    # The free constant is fixed by tying one cell to zero; under a right side of zero sum the tie carries
    # nothing.
    tie = np.zeros(b.size)
    tie[0] = a[0, 0] if singular else 0.0
    try:
        factors = splu((a + sparse.diags_array(tie)).tocsc())
    except RuntimeError:
        return torch.full_like(f, torch.nan), float("nan")
    x = factors.solve(b)
    x += factors.solve(b - a @ x)
    return torch.as_tensor(x.reshape(f.shape), device=f.device), float(np.linalg.norm(b - a @ x))
