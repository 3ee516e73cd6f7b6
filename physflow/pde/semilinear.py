r"""Equations of motion with a linear part that is diagonal in waves, on a periodic box.

.. math:: \partial_t s = L s + N(s).

In waves, :math:`\hat s_k(t)`, the linear part is a number :math:`L_k` for each: stiff, but solved exactly by
:math:`e^{L_k t}`. The nonlinear part is computed at the points of the grid and transformed (pseudo-spectral). Time is
stepped by the exponential Runge-Kutta scheme of fourth order, ETDRK4: with :math:`\varphi`-functions of
:math:`z = L_k h` it integrates the linear part exactly, and the nonlinear one as a classical Runge-Kutta scheme does.
The :math:`\varphi`-functions lose all digits near z = 0 if written as they stand; they are means over a circle around z
instead, which is exact to rounding.

References:
    S. Cox, P. Matthews, "Exponential time differencing for stiff systems", Journal of Computational Physics 176, 2002,
    equations 26 to 29.
    A. Kassam, L. Trefethen, "Fourth-order time-stepping for stiff PDEs", SIAM Journal on Scientific Computing 26, 2005,
    section 3.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physflow.config.checks import at_least
from physflow.grid import Grid
from physflow.pde.evolution import Evolution
from physflow.pde.waves import squares, wavenumbers

__all__ = ["Semilinear", "Spectra"]

Spectra: TypeAlias = tuple[Tensor, ...]
"""The waves of each field, shape (batch, \\*waves), complex128, as ``torch.fft.rfftn`` orders them."""

_CIRCLE = 32
"""Points of the half circle around z; real parts of their mean are the mean over the whole one."""


class Semilinear(Evolution):
    r"""An equation :math:`\partial_t s = L s + N(s)` on a periodic box.

    A subclass names its fields and writes `linear` and `nonlinear`.

    **Good values.** As many steps as the scheme needs: with twice as many, a solution of fourth order changes by a
    sixteenth of its error. Too few show as a `FloatingPointError`, or as ripples.

    Arguments:
        grid: A grid of cells with ``t`` as its first axis; the box repeats beyond its bounds.
        substeps: The steps of the scheme between stored instants.

    Attributes:
        wavenumbers: The wavenumber k along each axis, shaped to be multiplied with spectra. The highest of an even
            number of points is 0 here: its sine cannot be told from nothing on the grid.
        square: The square :math:`|k|^2` of each wave, of the shape of one item's spectrum.
        kept: The waves below two thirds of the highest along each axis: products of two of these come back as
            themselves, not as other waves (aliases), once all others are cut off.
    """

    def __init__(self, grid: Grid, substeps: int) -> None:
        super().__init__(grid)
        at_least(1, substeps=substeps)
        self.substeps, space = substeps, grid.space
        waves, kept = [], np.ones((), bool)
        for k, h, n in zip(wavenumbers(space.shape, space.spacing), space.spacing, space.shape, strict=True):
            # In whole numbers: with a third of the points as wavenumber rounding would decide.
            kept = kept & (3 * np.rint(np.abs(k) * h * n / (2 * math.pi)) < n)
            waves.append(torch.from_numpy(np.where(np.abs(k) * h < math.pi * (1 - 1e-9), k, 0.0)))
        self.wavenumbers, self.kept = tuple(waves), torch.from_numpy(kept)
        self.square = torch.from_numpy(squares(space.shape, space.spacing))
        self._scheme: list[_Coefficients] | None = None

    @abstractmethod
    def linear(self) -> tuple[Tensor, ...]:
        """The real number :math:`L_k` of each wave, one tensor a field, of the shape of one item's spectrum."""

    @abstractmethod
    def nonlinear(self, *spectra: Tensor) -> Spectra:
        r"""The waves of :math:`N(s)`.

        Arguments:
            spectra: The waves of each field.

        Returns:
            Those of the nonlinear part of each field, of the same shape.
        """

    def to_waves(self, u: Tensor) -> Tensor:
        r"""The waves of values (batch, \*space)."""
        return torch.fft.rfftn(u, dim=tuple(range(1, u.ndim)))

    def to_points(self, spectrum: Tensor) -> Tensor:
        r"""The values (batch, \*space) of waves."""
        return torch.fft.irfftn(spectrum, s=self.grid.space.shape, dim=tuple(range(1, spectrum.ndim)))

    def derivative(self, spectrum: Tensor, axis: int) -> Tensor:
        """The waves of the derivative along an axis of space."""
        return 1j * self.wavenumbers[axis].to(spectrum.device) * spectrum

    def advance(self, *states: Tensor) -> tuple[Tensor, ...]:
        """The fields at the next stored instant; see `Evolution.advance`. Computed in float64."""
        if not states[0].numel():
            return states
        if self._scheme is None:
            h = self.grid.spacing[0] / self.substeps
            # Kept for later calls, which may want derivatives.
            with torch.inference_mode(False):
                self._scheme = [_Coefficients.of(L.numpy(), h) for L in self.linear()]
        scheme = [c.to(states[0].device) for c in self._scheme]
        spectra = tuple(self.to_waves(s.double()) for s in states)
        for _ in range(self.substeps):
            spectra = self._step(spectra, scheme)
        return tuple(self.to_points(v).to(s.dtype) for v, s in zip(spectra, states, strict=True))

    def _step(self, v: Spectra, scheme: list[_Coefficients]) -> Spectra:
        """One step of ETDRK4."""
        at_v = self.nonlinear(*v)
        a = tuple(c.half * s + c.q * n for c, s, n in zip(scheme, v, at_v, strict=True))
        at_a = self.nonlinear(*a)
        b = tuple(c.half * s + c.q * n for c, s, n in zip(scheme, v, at_a, strict=True))
        at_b = self.nonlinear(*b)
        e = tuple(c.half * s + c.q * (2 * n - m) for c, s, n, m in zip(scheme, a, at_b, at_v, strict=True))
        at_e = self.nonlinear(*e)
        return tuple(
            c.whole * s + c.first * n1 + c.middle * (n2 + n3) + c.last * n4
            for c, s, n1, n2, n3, n4 in zip(scheme, v, at_v, at_a, at_b, at_e, strict=True)
        )


@dataclass(frozen=True)
class _Coefficients:
    """What a step multiplies waves by, of the shape of one item's spectrum."""

    whole: Tensor
    half: Tensor
    q: Tensor
    first: Tensor
    middle: Tensor
    last: Tensor

    @classmethod
    def of(cls, L: NDArray[np.float64], h: float) -> _Coefficients:
        """The coefficients for a step h."""
        circle = np.exp(1j * math.pi * (np.arange(1, _CIRCLE + 1) - 0.5) / _CIRCLE)
        z = h * L[..., None] + circle
        exp = np.exp(z)
        parts = (
            (np.exp(z / 2) - 1) / z,
            (-4 - z + exp * (4 - 3 * z + z**2)) / z**3,
            2 * (2 + z + exp * (z - 2)) / z**3,
            (-4 - 3 * z - z**2 + exp * (4 - z)) / z**3,
        )
        values = (np.exp(h * L), np.exp(h * L / 2), *(h * part.mean(-1).real for part in parts))
        return cls(*(torch.from_numpy(np.ascontiguousarray(value)) for value in values))

    def to(self, device: torch.device) -> _Coefficients:
        """The same on a device."""
        return _Coefficients(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))
