r"""The Brownian bridge between source and data, and the weight that its loss needs.

Given its ends a Brownian motion of diffusion :math:`\sigma` is the law
:math:`N(\mu_t, \sigma^2 t (1 - t) I)` around the line :math:`\mu_t = (1 - t) x_0 + t x_1`. Paired by
`SchroedingerBridge` with the same :math:`\sigma` these laws make up the marginals of the Schroedinger bridge, and the
marginal velocity is that of its probability flow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physflow.generative.paths import Path, Quantity
from physflow.generative.sources import Gaussian

__all__ = ["BridgePath", "BridgeWeight"]


class BridgePath(Path):
    r"""The Brownian bridge of diffusion :math:`\sigma` (SB-CFM).

    .. math:: x_t = \mu_t + \sigma \sqrt{t (1 - t)} \, \varepsilon, \qquad
              u_t = \frac{1 - 2t}{2 t (1 - t)} (x_t - \mu_t) + x_1 - x_0, \qquad \varepsilon \sim N(0, I).

    Both ends are exact: :math:`x_0` at :math:`t = 0` and :math:`x_1` at :math:`t = 1`.

    The loss. :math:`E \lVert u_t \rVert^2` grows like :math:`\sigma^2 / (4 t (1 - t))` towards both ends, so
    with uniform times and no weight the mean of the loss is infinite. Train with ``weight=BridgeWeight()``,
    which makes it finite and leaves the minimiser as it is, or with the times of ``Uniform(e, 1 - e)``, outside
    of which the network then has to extrapolate, or with both. At :math:`t = 0` and :math:`t = 1` themselves,
    which random numbers hit now and then, :math:`u_t` takes its finite value at a distance of the resolution of
    t; `BridgeWeight` is 0 there.

    Conversions. A prediction says what :math:`x_0`, :math:`x_1` and :math:`\varepsilon` are together, and two
    equations do not tell three unknowns apart: without further knowledge no conversion exists. With
    `independent` there is such knowledge: for :math:`x_0 \sim N(0, I)` drawn independently of :math:`x_1`,

    .. math:: x = t D + (1 - t + \sigma^2 t) N, \quad
              v = D + \Big(\sigma^2 \frac{1 - 2t}{2 (1 - t)} - 1\Big) N, \quad
              \nabla \log p_t = -\frac{N}{1 - t}

    with :math:`D = E[x_1 \mid x_t = x]` and :math:`N = E[x_0 \mid x_t = x]`, because given :math:`x_1` the
    two noises share :math:`x - t x_1` in proportion to their variances. The velocity's part is infinite at
    :math:`t = 1`.

    Arguments:
        sigma: The diffusion :math:`\sigma`, in the unit of the data, positive. Kept as `diffusion`, since
            `sigma(t)` is the source's share :math:`1 - t`.
        independent: Whether the source is N(0, I) and independent of the data (`Gaussian`, `Independent`),
            which the conversions suppose. Wrong for `SchroedingerBridge` and `ExactOT`.

    Raises:
        ValueError: If `sigma` is not positive or not finite.

    References:
        A. Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal
        transport", TMLR 2024, section 3.2 (SB-CFM).
    """

    def __init__(self, sigma: float, independent: bool = False) -> None:
        if not 0 < sigma < math.inf:
            raise ValueError(
                f"sigma, the bridge's diffusion, must be positive and finite, got {sigma}; 0 is LinearPath()"
            )
        self.diffusion = float(sigma)
        self.independent = independent

    def __repr__(self) -> str:
        return f"BridgePath(sigma={self.diffusion:g}, independent={self.independent})"

    def alpha(self, t: Tensor) -> Tensor:
        """The data's share, t."""
        return t

    def sigma(self, t: Tensor) -> Tensor:
        """The source's share, 1 - t."""
        return 1 - t

    def d_alpha(self, t: Tensor) -> Tensor:
        """The derivative of t: 1."""
        return torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        """The derivative of 1 - t: -1."""
        return -torch.ones_like(t)

    def shares(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The factors of data and noise in x and v (class docstring), for an independent source N(0, I)."""
        variance = self.diffusion**2
        noise_in_v = variance * (1 - 2 * t) / (2 * (1 - t)) - 1
        return t, 1 - t + variance * t, torch.ones_like(t), noise_in_v

    def interpolate(
        self, x0: Tensor, x1: Tensor, t: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""A point :math:`x_t` of the bridge and the conditional velocity :math:`u_t`.

        Arguments and returns are those of `Path.interpolate`; the generator draws :math:`\varepsilon`.

        Raises:
            ValueError: If the shapes do not fit each other, or there is no generator.
        """
        x_t, u_t = super().interpolate(x0, x1, t, generator)
        if generator is None:
            raise ValueError(f"{self} draws random numbers; pass a torch.Generator as generator")
        epsilon = Gaussian().sample(x_t.shape, generator, dtype=x_t.dtype, device=x_t.device)
        variance = t * (1 - t)
        # Half the resolution is the smallest distance of a random t in (0, 1) from an end.
        rate = (1 - 2 * t) / (2 * variance.clamp_min(torch.finfo(t.dtype).eps / 2).sqrt())
        width, d_width = (
            (self.diffusion * share).to(x_t.dtype).reshape(-1, *(1,) * (x_t.ndim - 1))
            for share in (variance.sqrt(), rate)
        )
        return x_t + width * epsilon, u_t + d_width * epsilon

    def convert(self, value: Tensor, x: Tensor, t: Tensor, *, given: Quantity, wanted: Quantity) -> Tensor:
        r"""One prediction at :math:`x_t = x` turned into another, for an independent source N(0, I).

        Arguments and returns are those of `Path.convert`.

        Raises:
            ValueError: As `Path.convert` does; if the path is not declared `independent`; or if a velocity is
                given or wanted at :math:`t = 1`, where it is infinite.
        """
        if given != wanted and not self.independent:
            raise ValueError(
                f"{self} has no conversion from {given} to {wanted}: x_t mixes three unknowns; if the source is "
                "N(0, I) and independent of the data, declare BridgePath(..., independent=True)"
            )
        if given != wanted and "velocity" in (given, wanted) and (t == 1).any():
            raise ValueError(
                "this conversion does not exist at t = 1: the bridge's velocity is infinite there; "
                "use times strictly between 0 and 1"
            )
        return super().convert(value, x, t, given=given, wanted=wanted)


@dataclass(frozen=True)
class BridgeWeight:
    r"""The weight :math:`w(t) = t (1 - t)`, which makes the mean loss of a `BridgePath` finite.

    It is a weight of `FlowMatching`: a map of times (batch,) to weights (batch,).
    """

    def __call__(self, t: Tensor) -> Tensor:
        """The weights of the times t, shape (batch,)."""
        return t * (1 - t)
