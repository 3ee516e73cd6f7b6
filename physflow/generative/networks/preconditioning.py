r"""A network scaled to start from the exact flow between two unit Gaussians and to learn the difference.

On a path :math:`x_t = \alpha x_1 + \sigma x_0` let noise :math:`x_0` and data :math:`x_1` be uncorrelated and
of unit variance. Then :math:`x_t` has the variance :math:`D = \alpha^2 + \sigma^2`, and

.. math:: r = (\sigma x_1 - \alpha x_0) / \sqrt{D}

has unit variance and no correlation with :math:`x_t`: it is the part of the pair :math:`(x_0, x_1)` that no
linear function of :math:`x_t` predicts. Solved for the pair,

.. math:: x_1 = \frac{\alpha}{D} x_t + \frac{\sigma}{\sqrt{D}} r, \qquad
          x_0 = \frac{\sigma}{D} x_t - \frac{\alpha}{\sqrt{D}} r,

so that the velocity of the path is

.. math:: \dot\alpha x_1 + \dot\sigma x_0 = \frac{\dot\alpha \alpha + \dot\sigma \sigma}{D} x_t
          + \frac{\dot\alpha \sigma - \dot\sigma \alpha}{\sqrt{D}} r.

The network :math:`F` therefore reads :math:`x_t / \sqrt{D}` and stands for :math:`r` (up to the sign of its
factor): its input and its target have unit variance at every t. The first term is the best linear prediction
from :math:`x_t`, so the factor of :math:`F`, by which its errors are multiplied, is as small as it can be:
the principles of Karras et al. For data from N(0, I), :math:`E[r \mid x_t] = 0`: with :math:`F = 0` the
velocity is that of the exact flow from N(0, I) to N(0, I).

A network that predicts the data and is told a latent that nearly determines them is better off without: the linear
prediction from the state is a poor start, whose share has to be undone. It is helped by what it reads: `Faded` gives
it :math:`\alpha x_t / D`, the linear prediction of the data, which fades with what the state says of them. At
:math:`t = 0`, where the state is pure noise, independent of the data, it need not learn to ignore it. Under a coupling
that ties noise to data the state says something at :math:`t = 0` too, and must not fade.

Predictions of velocity, data and noise hold the same :math:`F`, but for its sign; they differ in how the loss weights
it over t.

References:
    Karras, Aittala, Aila and Laine (2022), Elucidating the design space of diffusion-based generative models,
    section 5 and appendix B.6 (there :math:`\alpha = 1`).
"""

from __future__ import annotations

import typing
from typing import Literal

from torch import Tensor, nn

from physflow.config import nearest
from physflow.generative.paths import Path

__all__ = ["Faded", "Preconditioned"]

Prediction = Literal["velocity", "data", "noise"]


class _Wrapped(nn.Module):
    """A network around another, for one path."""

    def __init__(self, network: nn.Module, path: Path) -> None:
        super().__init__()
        self.network = network
        self.path = path

    @property
    def latent(self) -> int | None:
        """The width of the latent that the network takes, where it states one."""
        return getattr(self.network, "latent", None)


class Faded(_Wrapped):
    r"""A prediction of the data that reads their linear prediction, :math:`\hat x_1(x, t, z) = F(\alpha x / D, t, z)`.

    For sources that are independent of the data only, and not for velocities.

    Arguments:
        network: The network :math:`F`, called as ``network(x, t, z)``.
        path: The path, for :math:`\alpha(t)` and :math:`\sigma(t)`.
    """

    def forward(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The prediction, of the shape of x (batch, ...), at the times t (batch,) and the latents z, if any."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        value: Tensor = self.network(_per_item(alpha / (alpha**2 + sigma**2), x) * x, t, z)
        return value


class Preconditioned(_Wrapped):
    r"""The velocity, the data or the noise predicted through a scaled network.

    .. math:: v(x, t, z) &= \frac{\dot\alpha \alpha + \dot\sigma \sigma}{D} x
              + \frac{|\dot\alpha \sigma - \dot\sigma \alpha|}{\sqrt{D}} F(x / \sqrt{D}, t, z)

              \hat x_1(x, t, z) &= \frac{\alpha}{D} x + \frac{\sigma}{\sqrt{D}} F(x / \sqrt{D}, t, z)

              \hat x_0(x, t, z) &= \frac{\sigma}{D} x + \frac{\alpha}{\sqrt{D}} F(x / \sqrt{D}, t, z)

    Standardise the data to unit variance first; a path's tube around its mean is not counted in :math:`D`.

    Arguments:
        network: The network :math:`F`, called as ``network(x, t, z)``.
        path: The path, for :math:`\alpha(t)`, :math:`\sigma(t)` and their derivatives.
        prediction: ``"velocity"``, ``"data"`` or ``"noise"``.

    Raises:
        ValueError: If `prediction` is another word.
    """

    def __init__(self, network: nn.Module, path: Path, prediction: Prediction = "velocity") -> None:
        super().__init__(network, path)
        if prediction not in typing.get_args(Prediction):
            raise ValueError(
                f"unknown prediction {prediction!r}; {nearest(str(prediction), typing.get_args(Prediction))}"
            )
        self.prediction = prediction

    def forward(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The prediction, of the shape of x (batch, ...), at the times t (batch,) and the latents z, if any."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        variance = alpha**2 + sigma**2
        if self.prediction == "velocity":
            d_alpha, d_sigma = self.path.d_alpha(t), self.path.d_sigma(t)
            skip = (d_alpha * alpha + d_sigma * sigma) / variance
            out = (d_alpha * sigma - d_sigma * alpha).abs() * variance.rsqrt()
        elif self.prediction == "data":
            skip, out = alpha / variance, sigma * variance.rsqrt()
        else:
            skip, out = sigma / variance, alpha * variance.rsqrt()
        read = _per_item(variance.rsqrt(), x) * x
        return _per_item(skip, x) * x + _per_item(out, x) * self.network(read, t, z)


def _per_item(factor: Tensor, x: Tensor) -> Tensor:
    """Factors (batch,) as (batch, 1, ..., 1), so that each scales a whole state."""
    return factor.view(-1, *(1,) * (x.ndim - 1))
