r"""Probability paths between a source and the data.

A path moves a source sample :math:`x_0 \sim p_0` (noise, :math:`t = 0`) to a data sample :math:`x_1 \sim p_1`
(:math:`t = 1`) along

.. math:: x_t = \alpha_t x_1 + \sigma_t x_0, \qquad u_t = \dot\alpha_t x_1 + \dot\sigma_t x_0,

with :math:`\alpha` rising from 0 to 1 and :math:`\sigma` falling from 1 to 0 or nearly 0. The conditional
velocity :math:`u_t` is what a network regresses; its conditional mean :math:`v(x, t) = E[u_t \mid x_t = x]` is
the marginal velocity, whose flow :math:`\dot x = v(x, t)` carries :math:`p_0` to :math:`p_1`. "Velocity" means
:math:`dx/dt` everywhere, never the "v-prediction" of diffusion models.

Four predictions hold the same information, because :math:`x = \alpha_t D + \sigma_t N` and
:math:`v = \dot\alpha_t D + \dot\sigma_t N`:

* velocity :math:`v = E[u_t \mid x_t = x]`,
* data :math:`D = E[x_1 \mid x_t = x]`,
* noise :math:`N = E[x_0 \mid x_t = x]`,
* score :math:`\nabla \log p_t(x) = -N / \sigma_t`, for :math:`x_0 \sim N(0, I)` drawn independently of
  :math:`x_1`.

References:
    Y. Lipman et al., "Flow matching for generative modeling", ICLR 2023.
    A. Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal
    transport", TMLR 2024, section 3.
    M. Albergo, N. Boffi, E. Vanden-Eijnden, "Stochastic interpolants", 2023, section 2.
"""

from __future__ import annotations

import math
import typing
from abc import ABC, abstractmethod
from typing import Literal, Protocol

import torch
from torch import Tensor

from physflow.config import nearest
from physflow.generative.sources import Gaussian

__all__ = ["LinearPath", "Path", "Quantity", "Velocity", "check_prediction", "per_item"]

Quantity = Literal["velocity", "data", "noise", "score"]


class Velocity(Protocol):
    """Any callable v(x, t, z=None): x and the velocity (batch, ...), t (batch,), z the latent or None."""

    def __call__(self, x: Tensor, t: Tensor, z: Tensor | None = None, /) -> Tensor:
        """The velocity dx/dt at x and t."""
        ...


class Path(ABC):
    r"""The path :math:`x_t = \alpha_t x_1 + \sigma_t x_0`, given by two schedules and their derivatives.

    A subclass states the four schedules, each a map of times (batch,) to values (batch,).
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        r"""The data's share :math:`\alpha_t`, rising from 0 to 1."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        r"""The source's share :math:`\sigma_t`, falling from 1 to 0 or nearly 0."""

    @abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor:
        r"""The derivative :math:`\dot\alpha_t = d\alpha_t/dt`."""

    @abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor:
        r"""The derivative :math:`\dot\sigma_t = d\sigma_t/dt`."""

    def shares(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""The factors a, b, c, d in :math:`x = a D + b N` and :math:`v = c D + d N`, each (batch,).

        D and N are the predictions of data and noise; here the factors are
        :math:`\alpha_t, \sigma_t, \dot\alpha_t, \dot\sigma_t`.
        """
        return self.alpha(t), self.sigma(t), self.d_alpha(t), self.d_sigma(t)

    def score_scale(self, t: Tensor) -> Tensor:
        r"""The scale :math:`r_t` (batch,) in :math:`\nabla \log p_t = -N / r_t`: here :math:`\sigma_t`."""
        return self.sigma(t)

    def drift(self, t: Tensor) -> Tensor:
        r"""The rate :math:`f_t = d \log \alpha_t / dt` (batch,) of the noising process.

        With `squared_diffusion` it splits the velocity, :math:`v = f_t x + \tfrac12 g_t^2 \nabla \log p_t`, for
        :math:`x_0 \sim N(0, I)` drawn independently of :math:`x_1`. Infinite where :math:`\alpha = 0`.
        """
        a, _, c, _ = self.shares(t)
        return c / a

    def squared_diffusion(self, t: Tensor) -> Tensor:
        r"""The squared diffusion :math:`g_t^2` (batch,) of the noising process; see `drift`.

        With :math:`r` of `score_scale` it is :math:`2 r (b c / a - d)`, on a path of schedules alone
        :math:`2 \sigma_t^2 f_t - d \sigma_t^2 / dt`. Infinite where :math:`\alpha = 0`.
        """
        _, b, _, d = self.shares(t)
        return 2 * self.score_scale(t) * (b * self.drift(t) - d)

    def spread(self, t: Tensor) -> Tensor:
        r"""The size :math:`\sqrt{\alpha_t^2 + \sigma_t^2}` (batch,) of :math:`x_t`, for data of unit variance.

        At :math:`t = 0` it scales a draw of N(0, I) to a starting point: 1 on every path that starts from pure noise.
        """
        return torch.hypot(self.alpha(t), self.sigma(t))

    def interpolate(
        self, x0: Tensor, x1: Tensor, t: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""A point of the path and the conditional velocity there.

        Arguments:
            x0: Source samples :math:`x_0`, shape (batch, ...).
            x1: Data samples :math:`x_1`, same shape.
            t: Times in [0, 1], shape (batch,).
            generator: Random numbers, for paths that draw any.

        Returns:
            The pair :math:`(x_t, u_t)`, each of the shape and dtype of `x1`.

        Raises:
            ValueError: If the shapes do not fit each other.
        """
        if x0.shape != x1.shape:
            raise ValueError(f"expected source and data of one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
        x_t = per_item(self.alpha(t), x1) * x1 + per_item(self.sigma(t), x0) * x0
        u_t = per_item(self.d_alpha(t), x1) * x1 + per_item(self.d_sigma(t), x0) * x0
        return x_t, u_t

    def convert(self, value: Tensor, x: Tensor, t: Tensor, *, given: Quantity, wanted: Quantity) -> Tensor:
        r"""One prediction at :math:`x_t = x` turned into another.

        The conversions between velocity, data and noise hold for any source and coupling. Those from and to
        the score hold for a source :math:`N(0, I)` independent of the data.

        Arguments:
            value: The prediction at hand, shape (batch, ...).
            x: The point :math:`x_t`, same shape.
            t: Times, shape (batch,).
            given: What `value` is.
            wanted: What to return.

        Returns:
            The wanted prediction, same shape as `x`.

        Raises:
            ValueError: If a name or a shape is wrong, or where the conversion does not exist: at
                :math:`t = 0` (:math:`\alpha = 0`) noise and score say nothing of the data, and at
                :math:`t = 1` (:math:`\sigma = 0`) the data prediction says nothing of the noise and no noise
                is left to define a score.
        """
        check_prediction(value, x, given, wanted)
        if given == wanted:
            return value
        if given == "score":
            noise = -per_item(self.score_scale(t), x) * value
            return self.convert(noise, x, t, given="noise", wanted=wanted)
        if wanted == "score":
            noise = self.convert(value, x, t, given=given, wanted="noise")
            return -_divide(noise, self.score_scale(t), t, "x_t holds no noise (sigma = 0)")

        a, b, c, d = self.shares(t)
        alpha, sigma, d_alpha, d_sigma = (per_item(share, x) for share in (a, b, c, d))
        if given == "velocity":
            # The two equations x = alpha D + sigma N and v = d_alpha D + d_sigma N, solved for one unknown.
            numerator = d_sigma * x - sigma * value if wanted == "data" else alpha * value - d_alpha * x
            return _divide(numerator, a * d - b * c, t, "alpha / sigma stands still")
        if given == "data":
            data = value
            noise = _divide(x - alpha * data, b, t, "x_t holds no noise (sigma = 0)")
        else:
            noise = value
            data = _divide(x - sigma * noise, a, t, "x_t holds no data (alpha = 0)")
        if wanted == "velocity":
            return d_alpha * data + d_sigma * noise
        return data if wanted == "data" else noise


class LinearPath(Path):
    r"""The straight line with a tube of width :math:`s` around it (I-CFM).

    .. math:: x_t = (1 - t) x_0 + t x_1 + s \varepsilon, \; u_t = x_1 - x_0, \; \varepsilon \sim N(0, I).

    The width of the conditional law :math:`N((1 - t) x_0 + t x_1, s^2 I)` is constant, so its velocity is
    that of its mean.

    What the tube changes, for :math:`s > 0`:

    * The flow carries the source blurred by :math:`N(0, s^2 I)` to the data blurred by :math:`N(0, s^2 I)`.
      Starting from the unblurred source, as is usual, adds an error of :math:`O(s^2)`.
    * A trajectory of fixed :math:`x_0, x_1, \varepsilon` is the line from :math:`x_0 + s\varepsilon` to
      :math:`x_1 + s\varepsilon`. These ends take the places of :math:`x_0` and :math:`x_1`: the data
      prediction is :math:`E[x_1 + s\varepsilon \mid x_t]`, the noise prediction
      :math:`E[x_0 + s\varepsilon \mid x_t]`, and every conversion between velocity, data and noise stays
      exact.
    * The score is :math:`-N / (1 - t + s^2)`, finite up to :math:`t = 1`.

    Arguments:
        sigma: The width :math:`s` of the tube, in the unit of the data; 0 is the line itself. Kept as
            `width`, since `sigma(t)` is the source's share :math:`1 - t`.

    Raises:
        ValueError: If `sigma` is negative or not finite.

    References:
        A. Tong et al., TMLR 2024, section 3.2 (I-CFM).
    """

    def __init__(self, sigma: float = 0.0) -> None:
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma, the width of the tube, must be finite and not negative, got {sigma}")
        self.width = float(sigma)

    def __repr__(self) -> str:
        return f"LinearPath(sigma={self.width:g})"

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

    def score_scale(self, t: Tensor) -> Tensor:
        r"""The scale :math:`1 - t + s^2`.

        With :math:`\tau^2 = (1 - t)^2 + s^2` the score is :math:`-(x - t E[x_1 \mid x]) / \tau^2`, and the
        noise prediction, by the Gaussian regression of :math:`x_0 + s\varepsilon` on :math:`x_t - t x_1`, is
        :math:`(1 - t + s^2) (x - t E[x_1 \mid x]) / \tau^2`.
        """
        return 1 - t + self.width**2

    def interpolate(
        self, x0: Tensor, x1: Tensor, t: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""A point :math:`x_t` of the tube and the conditional velocity :math:`u_t = x_1 - x_0`.

        Arguments and returns are those of `Path.interpolate`; the generator draws :math:`\varepsilon`.

        Raises:
            ValueError: If the shapes do not fit each other, or a tube with a width gets no generator.
        """
        x_t, u_t = super().interpolate(x0, x1, t, generator)
        if self.width > 0:
            if generator is None:
                raise ValueError(f"{self} draws random numbers; pass a torch.Generator as generator")
            epsilon = Gaussian().sample(x_t.shape, generator, dtype=x_t.dtype, device=x_t.device)
            x_t = x_t + self.width * epsilon
        return x_t, u_t


def check_prediction(value: Tensor, x: Tensor, given: Quantity, wanted: Quantity) -> None:
    """Refuse names of predictions that there are not, and a prediction of another shape than its point x.

    Raises:
        ValueError: If a name or the shape is wrong.
    """
    for quantity in (given, wanted):
        if quantity not in typing.get_args(Quantity):
            hint = nearest(quantity, typing.get_args(Quantity))
            raise ValueError(f"unknown prediction {quantity!r}; {hint}")
    if value.shape != x.shape:
        raise ValueError(f"expected the prediction to have the shape {tuple(x.shape)} of x, got {tuple(value.shape)}")


def per_item(schedule: Tensor, x: Tensor) -> Tensor:
    """Values (batch,) in the dtype of x (batch, ...), shaped to multiply it."""
    if schedule.shape != x.shape[:1]:
        raise ValueError(f"expected one time per item, shape {tuple(x.shape[:1])}, got {tuple(schedule.shape)}")
    return schedule.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def _divide(numerator: Tensor, denominator: Tensor, t: Tensor, reason: str) -> Tensor:
    singular = denominator == 0
    if singular.any():
        raise ValueError(
            f"this conversion does not exist at t = {t[singular][0].item():g}: {reason}; "
            "use times strictly between 0 and 1"
        )
    return numerator / per_item(denominator, numerator)
