r"""The Gray-Scott model: two chemicals that react and diffuse, and make patterns.

.. math:: \partial_t u = D_u \Delta u - u v^2 + F (1 - u), \qquad \partial_t v = D_v \Delta v + u v^2 - (F + k) v
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from physflow.grid import Grid
from physflow.pde.semilinear import Semilinear, Spectra

__all__ = ["GrayScott"]


class GrayScott(Semilinear):
    r"""The Gray-Scott model on a periodic box, in one, two or three dimensions.

    .. math::

        \partial_t u &= D_u \Delta u - u v^2 + F (1 - u) \\
        \partial_t v &= D_v \Delta v + u v^2 - (F + k) v

    **Channels.** The concentrations :math:`u` of the substrate, which is fed at the rate F, and :math:`v` of the
    activator, which turns it into more of itself and is removed at the rate F + k.

    **Boundary conditions.** Periodic.

    **Scheme.** Waves and ETDRK4 in time (`physflow.pde.semilinear`), of fourth order. The cubic reaction is not cut
    off: on a grid that resolves the patterns, its aliases are small.

    **Good values.** On a box of side 2.5 with 128 points: :math:`D_u = 2 \cdot 10^{-5}, D_v = 10^{-5}` and steps of 1
    or 2 in time. F = 0.04, k = 0.06 makes spots that turn to stripes; F = 0.035, k = 0.065 spots that divide;
    F = 0.02, k = 0.05 waves. u = 1, v = 0 is at rest and stable: patterns grow from spots of v of 0.25 and more.

    **When it fails.** A pattern repeats over some :math:`10 \sqrt{D_u / F}`: with fewer than eight points in that, it
    is pinned to the grid. Most (F, k) end at rest.

    Arguments:
        grid: A grid of cells with ``t`` as its first axis.
        feed: The rate F.
        kill: The rate k.
        diffusivity_u: The number :math:`D_u`.
        diffusivity_v: The number :math:`D_v`.
        substeps: The steps of the scheme between stored instants.

    Raises:
        ValueError: If the grid is not of cells or has no time, or a number is not positive.

    References:
        J. Pearson, "Complex patterns in a simple system", Science 261, 1993 (values and patterns).
    """

    fields: ClassVar[tuple[str, ...]] = ("substrate", "activator")
    solutions: ClassVar[tuple[str, ...]] = ("substrate", "activator")

    def __init__(
        self,
        grid: Grid,
        feed: float = 0.04,
        kill: float = 0.06,
        diffusivity_u: float = 2e-5,
        diffusivity_v: float = 1e-5,
        substeps: int = 10,
    ) -> None:
        super().__init__(grid, substeps)
        self.feed, self.kill, self.diffusivity_u, self.diffusivity_v = feed, kill, diffusivity_u, diffusivity_v
        for name in ("feed", "kill", "diffusivity_u", "diffusivity_v"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")

    def linear(self) -> tuple[Tensor, ...]:
        """Diffusion and removal of each wave; see `Semilinear.linear`."""
        square = self.square
        return -self.diffusivity_u * square - self.feed, -self.diffusivity_v * square - (self.feed + self.kill)

    def nonlinear(self, *spectra: Tensor) -> Spectra:
        """The reaction, and what is fed; see `Semilinear.nonlinear`."""
        u, v = (self.to_points(s) for s in spectra)
        reaction = u * v**2
        return self.to_waves(self.feed - reaction), self.to_waves(reaction)

    def attributes(self) -> dict[str, str | float]:
        """Plain values that rebuild the equation on its grid."""
        names = ("feed", "kill", "diffusivity_u", "diffusivity_v", "substeps")
        return {"equation": "GrayScott"} | {name: getattr(self, name) for name in names}
