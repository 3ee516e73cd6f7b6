r"""Paths that are their schedules: :math:`x_t = \alpha_t x_1 + \sigma_t x_0` without further noise.

* `CondOT`: the straight line that ends in noise of a small width,
* `Cosine`: the quarter circle, which keeps the variance of standardised data.

See `physflow.generative.paths` for the symbols and for `LinearPath`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physflow.generative.paths import Path

__all__ = ["CondOT", "Cosine"]


class CondOT(Path):
    r"""The conditional optimal transport path.

    .. math:: x_t = t x_1 + (1 - (1 - s) t) x_0, \qquad u_t = x_1 - (1 - s) x_0,

    the straight line from :math:`x_0` to :math:`x_1 + s x_0`. Given :math:`x_1` and :math:`x_0 \sim N(0, I)` it
    is the law :math:`N(t x_1, (1 - (1 - s) t)^2 I)`, which the optimal transport map carries along. The flow
    ends in the data blurred by :math:`s x_0`, and is smooth up to :math:`t = 1`: every conversion from and to
    the score exists there too.

    Arguments:
        sigma_min: The width :math:`s` at the data, in the unit of the source; 0 is `LinearPath`. Kept as `width`.

    Raises:
        ValueError: If `sigma_min` is not in [0, 1).

    References:
        Y. Lipman et al., "Flow matching for generative modeling", ICLR 2023, section 4.1, example II.
    """

    def __init__(self, sigma_min: float) -> None:
        if not 0 <= sigma_min < 1:
            raise ValueError(f"sigma_min, the width at the data, must lie in [0, 1), got {sigma_min}")
        self.width = float(sigma_min)

    def __repr__(self) -> str:
        return f"CondOT(sigma_min={self.width:g})"

    def alpha(self, t: Tensor) -> Tensor:
        """The data's share, t."""
        return t

    def sigma(self, t: Tensor) -> Tensor:
        """The source's share, 1 - (1 - sigma_min) t."""
        # Not 1 - (1 - s) t, which would round s away at t = 1.
        return (1 - t) + self.width * t

    def d_alpha(self, t: Tensor) -> Tensor:
        """The derivative of t: 1."""
        return torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        """The derivative of 1 - (1 - sigma_min) t."""
        return torch.full_like(t, self.width - 1)


class Cosine(Path):
    r"""The trigonometric path, on which :math:`\alpha_t^2 + \sigma_t^2 = 1`.

    .. math:: x_t = \sin(\tfrac\pi2 t) \, x_1 + \cos(\tfrac\pi2 t) \, x_0.

    For independent ends of unit variance the variance is 1 at all times.

    References:
        M. Albergo, N. Boffi, E. Vanden-Eijnden, "Stochastic interpolants", 2023, section 4.
        A. Nichol, P. Dhariwal, "Improved denoising diffusion probabilistic models", ICML 2021, section 3.2.
    """

    def __repr__(self) -> str:
        return "Cosine()"

    def alpha(self, t: Tensor) -> Tensor:
        r"""The data's share, :math:`\sin(\pi t / 2)`."""
        return torch.sin(math.pi / 2 * t)

    def sigma(self, t: Tensor) -> Tensor:
        r"""The source's share, :math:`\cos(\pi t / 2)`."""
        # As a sine it is exactly 0 at t = 1.
        return torch.sin(math.pi / 2 * (1 - t))

    def d_alpha(self, t: Tensor) -> Tensor:
        r"""The derivative :math:`\frac\pi2 \cos(\pi t / 2)`."""
        return math.pi / 2 * self.sigma(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        r"""The derivative :math:`-\frac\pi2 \sin(\pi t / 2)`."""
        return -math.pi / 2 * self.alpha(t)
