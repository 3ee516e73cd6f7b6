r"""Solutions of :math:`-\nabla \cdot (K \nabla p) = f` on cells, by the code that suits the device.

One algorithm, conjugate gradients preconditioned by multigrid, written twice:

* ``"compiled"`` (`physflow.pde.compiled_solver`), for processors: a few samples at a time, which stay near the cache;
* ``"torch"`` (`physflow.pde.conjugate_gradients`), for any device: whole batches, by element-wise operations.

Both stop each sample at its own tolerance and agree to that. What the compiled code cannot bring to it goes to the
other, which ends at a sparse direct solver, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from physflow.pde import compiled_solver, conjugate_gradients, finite_volumes
from physflow.pde.finite_volumes import Boundary, Faces

__all__ = ["Backend", "solve"]

Backend = Literal["compiled", "torch"]


def solve(
    permeability: Tensor,
    f: Tensor,
    spacing: Sequence[float],
    faces: Faces = "harmonic",
    boundary: Boundary = "neumann",
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 100,
    backend: Backend | None = None,
) -> Tensor:
    r"""The solution :math:`p`, not differentiable.

    Arguments:
        permeability: The permeability :math:`K > 0`, shape (batch, nx, ny).
        f: The right sides, shape (nx, ny) for all samples or (batch, nx, ny). Under Neumann walls their mean is taken
            out, and the solution has mean zero.
        spacing: The spacing of both axes.
        faces: The mean that gives the permeability of a face.
        boundary: The condition on all walls.
        tolerance: The relative residual :math:`|f - A p| / |f|` at which each sample stops. What rounding leaves of it
            in double precision is allowed besides.
        max_iterations: The most iterations before a sample is handed to a sparse direct solver.
        backend: Which code; None takes the compiled one on a processor.

    Returns:
        The solution, float64, shape (batch, nx, ny).

    Raises:
        ValueError: If the tolerance is not in (0, 1), or the right sides do not fit the permeability.
        RuntimeError: If a sample reaches the tolerance neither way.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"the tolerance is a relative residual, expected in (0, 1), got {tolerance}")
    if f.shape not in (permeability.shape, permeability.shape[1:]):
        raise ValueError(
            f"expected right sides of shape {tuple(permeability.shape[1:])} or {tuple(permeability.shape)}, as the "
            f"permeability has, got {tuple(f.shape)}"
        )
    backend = backend or ("compiled" if permeability.device.type == "cpu" else "torch")
    limits: Any = {"tolerance": tolerance, "max_iterations": max_iterations}

    def by_torch(K: Tensor, g: Tensor, numbers: Sequence[int] | None = None) -> Tensor:
        t = finite_volumes.transmissibilities(K.double(), spacing, faces, boundary)
        return conjugate_gradients.solve(
            t, g.expand_as(K), spacing, singular=boundary == "neumann", numbers=numbers, **limits
        )

    if backend == "torch":
        return by_torch(permeability, f)
    p, residuals, _ = compiled_solver.solve(permeability, f, spacing, faces, boundary, **limits)
    # Negated, so that a residual that is not a number counts as missed.
    missed = (~(residuals <= tolerance)).nonzero().ravel()
    if len(missed):
        K, g = permeability[missed].double(), f.expand_as(permeability)[missed]
        t = finite_volumes.transmissibilities(K, spacing, faces, boundary)
        rounding = conjugate_gradients.rounding(finite_volumes.diagonal(t), p[missed]) / g.flatten(1).norm(dim=1)
        kept = residuals[missed] <= tolerance + rounding.clamp_max(conjugate_gradients.MOST_ROUNDING)
        missed, K, g = missed[~kept], K[~kept], g[~kept]
        if len(missed):
            p[missed] = by_torch(K, g, missed.tolist())
    return p
