r"""Optimal assignment: the transport plan between n items and kn items of equal weight.

Given costs :math:`C` of shape (n, kn), each of the n rows gets k columns and each column one row, such that the
sum of the costs is the smallest. This is the optimal transport plan between n items of weight 1/n and kn items
of weight 1/(kn), which has such a solution; for k = 1 it is a permutation.

scipy solves it by shortest augmenting paths, in :math:`O((kn)^3)` at worst. The time goes into long paths, and
those come from bad dual potentials, since scipy starts from none. Subtracting :math:`f_i + g_j` from
:math:`C_{ij}` changes no solution, so potentials are made first, by a few entropic (Sinkhorn) steps in single
precision at a falling regularisation. They need not converge: however rough they are, the solution is exact.

References:
    D. Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Transactions on Aerospace and
    Electronic Systems 52, 2016: the algorithm of scipy.
    G. Peyre, M. Cuturi, "Computational optimal transport", 2019, sections 4.2 and 4.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["assignment"]

# The regularisation falls by _FALL from the spread of the costs to _END / n of it, about the gap between an
# item's best partners, with _STEPS steps each. Measured: about as fast as the better of scipy alone and a network
# simplex for 256 items in 2 to 784 dimensions, and faster than both for 1024.
_FALL, _END, _STEPS = 0.25, 16.0, 5
# Bounds of a step, far from the largest and smallest number of single precision.
_LARGE_EXPONENT, _LARGE_FACTOR = 60.0, 1e15


def assignment(cost: Tensor) -> Tensor:
    """The columns that the cheapest assignment gives to each row.

    Arguments:
        cost: The finite costs, shape (n, kn) with n and k at least 1, on any device.

    Returns:
        Column indices (n, k) on the CPU; each column occurs once.

    Raises:
        ValueError: If the number of columns is not a multiple of the number of rows, or a cost is not finite.

    References:
        See the module.
    """
    # Imported here because it is slow to import and few trainings need it.
    from scipy.optimize import linear_sum_assignment

    n, columns = cost.shape
    if n == 0 or columns == 0 or columns % n:
        raise ValueError(f"expected costs of shape (n, k n) with n, k >= 1, got {tuple(cost.shape)}")
    with torch.no_grad():
        cost = cost.cpu().double()
        if not torch.isfinite(cost).all():
            raise ValueError("cannot assign: a cost is NaN or infinite; are the data scaled?")
        reduced = cost - _column_potentials(cost)
        # The best row potentials for these column potentials, and then the other way round.
        reduced -= reduced.amin(1, keepdim=True)
        reduced -= reduced.amin(0)
        _, order = linear_sum_assignment(reduced.repeat_interleave(columns // n, 0).numpy())
    return torch.as_tensor(order).reshape(n, columns // n)


def _column_potentials(cost: Tensor) -> Tensor:
    """Potentials g (kn,) that nearly solve the dual problem; any finite ones would do."""
    n, columns = cost.shape
    centred = cost - cost.mean()
    # The mean deviation, whose square cannot overflow or vanish.
    spread = centred.abs().mean()
    if spread == 0:
        return torch.zeros_like(cost[0])
    scaled = (centred / spread).float()
    f, g = scaled.new_zeros(n, 1), scaled.new_zeros(columns)
    epsilon = 1.0
    while True:
        kernel = ((f + g - scaled) / epsilon).clamp_(max=_LARGE_EXPONENT).exp_()
        v = torch.ones_like(g)
        for _ in range(_STEPS):
            u = (columns / n) / (kernel @ v).clamp_(1 / _LARGE_FACTOR, _LARGE_FACTOR)
            v = 1 / (u @ kernel).clamp_(1 / _LARGE_FACTOR, _LARGE_FACTOR)
        f, g = f + epsilon * u.log()[:, None], g + epsilon * v.log()
        if epsilon <= _END / columns:
            return spread * g.double()
        epsilon *= _FALL
