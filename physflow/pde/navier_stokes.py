r"""Incompressible flow in the plane, by its vorticity.

.. math:: \partial_t \omega + v \cdot \nabla \omega = \nu \Delta \omega - \alpha\, \omega + f, \qquad
          v = (\partial_y \psi, -\partial_x \psi), \quad -\Delta \psi = \omega

on a periodic box, with Kolmogorov's forcing: a shear flow that turns to turbulence.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from physflow.config.checks import at_least
from physflow.grid import Grid
from physflow.pde.semilinear import Semilinear, Spectra

__all__ = ["NavierStokes"]


class NavierStokes(Semilinear):
    r"""The Navier-Stokes equation in vorticity form, in two dimensions.

    .. math:: \partial_t \omega = -\nabla \cdot (v \omega) + \nu \Delta \omega - \alpha\, \omega
              - A\, \kappa \cos(\kappa y), \qquad \kappa = \frac{2 \pi m}{L_y}

    **Channels.** The vorticity :math:`\omega = \partial_x v_y - \partial_y v_x` over time and space. Its mean is 0, and
    stays 0; `velocity` gives the flow, whose divergence is 0 to rounding, whatever the vorticity.

    **Boundary conditions.** Periodic. The mean flow is 0.

    **Forcing.** Kolmogorov's, :math:`(A \sin(\kappa y), 0)`, with m waves in the height of the box; A = 0 is none, and
    the flow decays. Drag :math:`\alpha` takes energy from the largest eddies; nothing else does in two dimensions.

    **Scheme.** Waves, of which the products are cut off at two thirds of the highest, and ETDRK4 in time
    (`physflow.pde.semilinear`): of fourth order in time, and exact in space as long as the eddies are resolved.

    **Good values.** On 64 x 64 points of a box of side :math:`2 \pi`: :math:`\nu = 0.005` to 0.01 with A = 1, m = 4 and
    :math:`\alpha = 0.1`; on 256 x 256 :math:`\nu = 0.001`. Steps of :math:`h / (2 \max|v|)`, with h the spacing.

    **When it fails.** With too little viscosity for the grid, vorticity gathers in the waves at the cut-off and the
    pictures turn to noise. Steps too long diverge.

    Arguments:
        grid: A grid of cells with the axes t, x, y.
        viscosity: The number :math:`\nu > 0`.
        forcing: The amplitude A.
        waves: The number m.
        drag: The number :math:`\alpha \ge 0`.
        substeps: The steps of the scheme between stored instants.

    Raises:
        ValueError: If the grid has other axes than t and two of space, or a number is out of range.

    References:
        G. Boffetta, R. Ecke, "Two-dimensional turbulence", Annual Review of Fluid Mechanics 44, 2012, section 2.
    """

    fields: ClassVar[tuple[str, ...]] = ("vorticity",)
    solutions: ClassVar[tuple[str, ...]] = ("vorticity",)

    def __init__(
        self,
        grid: Grid,
        viscosity: float = 0.01,
        forcing: float = 1.0,
        waves: int = 4,
        drag: float = 0.1,
        substeps: int = 10,
    ) -> None:
        super().__init__(grid, substeps)
        if grid.ndim != 3:
            raise ValueError(f"NavierStokes needs a grid of time and two axes of space, got the axes {grid.axes}")
        if not 0 < viscosity < math.inf:
            raise ValueError(f"viscosity must be positive and finite, got {viscosity}")
        for name, value in (("forcing", forcing), ("drag", drag)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        at_least(1, waves=waves)
        if forcing and 3 * waves >= grid.shape[2]:
            raise ValueError(
                f"{waves} waves of forcing are cut off on {grid.shape[2]} points: take fewer than {grid.shape[2] / 3:g}"
            )
        self.viscosity, self.forcing, self.waves, self.drag = viscosity, forcing, waves, drag
        space = grid.space
        wavenumber, (low, high) = 2 * math.pi * waves, space.bounds[1]
        y = torch.from_numpy((space.mesh()[1] - low) / (high - low))
        self._curl = -forcing * wavenumber / (high - low) * torch.cos(wavenumber * y)
        self._inverse = torch.where(self.square == 0, 0.0, 1 / self.square)

    def velocity(self, vorticity: Tensor) -> tuple[Tensor, Tensor]:
        r"""The flow :math:`(v_x, v_y)` of a vorticity.

        Arguments:
            vorticity: The vorticity at one instant, shape (batch, nx, ny).

        Returns:
            Two tensors of that shape, in float64.
        """
        return self._flow(self.to_waves(vorticity.double()))

    def linear(self) -> tuple[Tensor, ...]:
        """Friction and drag of each wave; see `Semilinear.linear`."""
        return (-self.viscosity * self.square - self.drag,)

    def nonlinear(self, *spectra: Tensor) -> Spectra:
        """Transport and forcing; see `Semilinear.nonlinear`."""
        kept = self.kept.to(spectra[0].device)
        w = spectra[0] * kept
        vorticity, (vx, vy) = self.to_points(w), self._flow(w)
        carried = self.derivative(self.to_waves(vx * vorticity), 0) + self.derivative(self.to_waves(vy * vorticity), 1)
        return (self.to_waves(self._curl.to(w.device)[None]) - carried * kept,)

    def attributes(self) -> dict[str, str | float]:
        """Plain values that rebuild the equation on its grid."""
        names = ("viscosity", "forcing", "waves", "drag", "substeps")
        return {"equation": "NavierStokes"} | {name: getattr(self, name) for name in names}

    def _flow(self, w: Tensor) -> tuple[Tensor, Tensor]:
        stream = w * self._inverse.to(w.device)
        return self.to_points(self.derivative(stream, 1)), self.to_points(-self.derivative(stream, 0))
