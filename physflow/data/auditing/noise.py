r"""What a reading leaves unexplained: noise of single points on the solutions, on the inputs, or something smooth.

White noise has the same power in all waves, three quarters of it in those of more than half the largest wavenumber
along an axis; what another scheme, a coarser grid or an open tolerance leaves is smooth. Noise on the inputs does
not show in the solutions, which average it, but in the residual. For Darcy, with :math:`K (1 + \varepsilon \eta)` in
place of K, :math:`\eta` white, the flux :math:`q` through a face of two cells changes by
:math:`q \varepsilon (\eta_i + \eta_j) / 2`, and the residual by :math:`\varepsilon` times a field of variance

.. math:: \frac{1}{4} \sum_{\text{faces}} \frac{q^2}{h^2}.

Noise of this size must then also be there in the short waves of :math:`\log K`, and explain by how much the solutions
differ.
"""

from __future__ import annotations

import torch
from scipy.fft import dctn
from torch import Tensor

from physflow.pde import Darcy

__all__ = ["input_noise", "is_white", "roughness"]

_WHITE = 0.75
"""The share of the power of white noise that is in short waves."""


def roughness(u: Tensor) -> float:
    """The share of the power of fields, shape (sample, nx, ny), that is in short waves; 0.75 for white noise."""
    power = (dctn(u.numpy(), axes=(1, 2), norm="ortho") ** 2).mean(0)
    power[0, 0] = 0.0
    nx, ny = power.shape
    smooth = power[: (nx + 1) // 2, : (ny + 1) // 2].sum()
    total = power.sum()
    return float(1 - smooth / total) if total > 0 else 0.0


def is_white(u: Tensor) -> bool:
    """Whether fields are noise of single points."""
    return abs(roughness(u) - _WHITE) < 0.1


def input_noise(equation: Darcy, K: Tensor, p: Tensor) -> float | None:
    r"""The relative noise :math:`\varepsilon` of single points of K, if that is what the residual shows.

    Arguments:
        equation: The equation.
        K: The permeability, shape (sample, nx, ny), float64.
        p: The pressure that solves the equation for the permeability without the noise, same shape.

    Returns:
        The noise, or None where the residual is not white in the measure of its own expected size, K holds no noise of
        this size, or such noise does not change the pressure by as much.
    """
    r = equation.residual(K, p)
    variance = _variance(equation, K, p)
    # Where nothing flows noise does not show.
    seen = variance > 1e-3 * variance.mean((1, 2), keepdim=True)
    ratio = (r / variance.clamp_min(1e-300).sqrt()) * seen
    if not is_white(ratio):
        return None
    level = (r.square().sum((1, 2)) / variance.sum((1, 2))).sqrt().median()
    rough = K.log()
    if roughness(rough) * rough.var((1, 2)).mean() < _WHITE * level**2 / 2:
        return None
    s, generator = equation.solve(K), torch.Generator().manual_seed(0)
    noise = torch.randn(K.shape, generator=generator, dtype=K.dtype)
    changed = equation.solve(K * (level * noise).exp())
    explained = (changed - s).norm(dim=(1, 2)).median()
    return float(level) if (p - s).norm(dim=(1, 2)).median() < 3 * explained else None


def _variance(equation: Darcy, K: Tensor, p: Tensor) -> Tensor:
    """The variance of the residual for white noise on K of relative size one."""
    total = p.new_zeros(p.shape)
    for axis, h in zip((1, 2), equation.grid.spacing, strict=True):
        n = p.shape[axis]
        low, high = K.narrow(axis, 0, n - 1), K.narrow(axis, 1, n - 1)
        q2 = (2 * low * high / (low + high) * p.diff(dim=axis) / h**2).square() / 4
        total.narrow(axis, 0, n - 1).add_(q2)
        total.narrow(axis, 1, n - 1).add_(q2)
    return total
