r"""The exact flow between two Gaussian mixtures: the truth against which paths, losses and networks are tested.

The data are :math:`x_1 \sim \sum_k w_k N(m_k, S_k)`, the source :math:`x_0 \sim \sum_l v_l N(n_l, R_l)` is drawn
independently, and the path is

.. math:: x_t = \alpha_t x_1 + \sigma_t x_0 + \gamma_t \varepsilon, \qquad
          u_t = \dot\alpha_t x_1 + \dot\sigma_t x_0 + \dot\gamma_t \varepsilon, \qquad \varepsilon \sim N(0, I),

with the noise :math:`\gamma = 0` of a plain path, :math:`\gamma = s` of a tube of width s, or any other. Given the pair
(k, l) of components everything is jointly Gaussian:

.. math:: x_t \sim N(\mu, C), \qquad \mu = \alpha m_k + \sigma n_l, \qquad
          C = \alpha^2 S_k + \sigma^2 R_l + \gamma^2 I,

and :math:`L = a x_1 + b x_0 + c\, \varepsilon` has, with the cross covariance
:math:`A = a \alpha S_k + b \sigma R_l + c \gamma I`,

.. math:: E[L \mid x_t] = a m_k + b n_l + A C^{-1} (x_t - \mu), \qquad
          \mathrm{Cov}[L \mid x_t] = a^2 S_k + b^2 R_l + c^2 I - A C^{-1} A^T.

The mixture weighs the pairs by their responsibilities for :math:`x_t`. The data prediction is
:math:`D = E[x_1 \mid x_t]`, the noise prediction :math:`N = E[x_0 \mid x_t]`. Constant noise, which is that of a tube,
moves a trajectory as a whole, so that its ends :math:`x_1 + s \varepsilon` and :math:`x_0 + s \varepsilon` take the
places of :math:`x_1` and :math:`x_0`, as in `physflow.generative.LinearPath`.

The cost is that of a Cholesky decomposition of a d x d matrix for every point and pair: meant for few dimensions.

References:
    A. Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal transport",
    TMLR 2024, section 3.
    C. Bishop, "Pattern recognition and machine learning", 2006, section 2.3.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from torch import Tensor

from physflow.config import nearest

if TYPE_CHECKING:
    from physflow.data.toys.gaussian_mixtures import GaussianMixture

__all__ = ["Blur", "MixtureFlow", "Schedules"]

Blur: TypeAlias = float | tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]

_PREDICTIONS = ("velocity", "data", "noise")
# So many points at once keep a hundred pairs in the plane below a hundred megabytes.
_BLOCK = 2**13
# The standard deviation of so many numbers is right to 1.6 percent.
_PROBES = 2000


class Schedules(Protocol):
    r"""The four schedules of a path, each a map of times (batch,) to values (batch,)."""

    def alpha(self, t: Tensor) -> Tensor:
        r"""The data's share :math:`\alpha_t`."""
        ...

    def sigma(self, t: Tensor) -> Tensor:
        r"""The source's share :math:`\sigma_t`."""
        ...

    def d_alpha(self, t: Tensor) -> Tensor:
        r"""The derivative :math:`\dot\alpha_t`."""
        ...

    def d_sigma(self, t: Tensor) -> Tensor:
        r"""The derivative :math:`\dot\sigma_t`."""
        ...


@dataclass(frozen=True, eq=False)
class MixtureFlow:
    r"""The exact flow from a Gaussian mixture to another; made by `GaussianMixture.flow`.

    Points x have the shape (batch, d), times t (batch,). The arithmetic is in float64, the results have the type of x.
    Every method raises a ValueError for points of another dimension and for any other than one time per point.

    Arguments:
        target: The law of the data :math:`x_1`.
        path: The schedules.
        source: The law of :math:`x_0`.
        blur: The noise that the path adds: the width s of a tube, or :math:`\gamma` and :math:`\dot\gamma` as two maps
            of times (batch,) to values (batch,).

    Raises:
        ValueError: If target and source have different dimensions, or the path can be seen to add another noise.
    """

    target: GaussianMixture
    path: Schedules
    source: GaussianMixture
    blur: Blur = 0.0

    def __post_init__(self) -> None:
        if self.source.dimension != self.target.dimension:
            raise ValueError(
                f"expected a source of the target's dimension {self.target.dimension}, got {self.source.dimension}"
            )
        if isinstance(self.blur, int | float) and not 0 <= self.blur < math.inf:
            raise ValueError(f"expected a blur that is finite and not negative, got {self.blur}")
        self._check_noise()

    def sample(self, t: Tensor, generator: torch.Generator) -> Tensor:
        """Independent points :math:`x_t`, one for each of the times t (batch,), shape (batch, d), in the type of t."""
        x1, x0 = (law.sample(len(t), generator, device=t.device) for law in (self.target, self.source))
        normal = torch.randn(x1.shape, generator=generator, dtype=torch.float64, device=generator.device)
        alpha, sigma, gamma = (share[:, None] for share in self._shares(t.double()))
        return (alpha * x1 + sigma * x0 + gamma * normal.to(t.device)).to(t.dtype)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        r"""The logarithm of the density of :math:`x_t`, :math:`\log p_t(x)`, shape (batch,)."""
        return torch.logsumexp(self._pairs(x, t).log_joint, dim=1).to(x.dtype)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        r"""The score :math:`\nabla \log p_t(x)`, shape (batch, d)."""
        pairs = self._pairs(x, t)
        pulls = -torch.linalg.solve_triangular(pairs.roots.mT, pairs.whitened, upper=True)[..., 0]
        return torch.einsum("np,npd->nd", pairs.responsibilities, pulls).to(x.dtype)

    def velocity(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        r"""The velocity :math:`E[u_t \mid x_t = x]`, shape (batch, d); the latent z is ignored."""
        return self._expectation("velocity", x, t)

    def data(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        r"""The data prediction :math:`E[x_1 \mid x_t = x]`, or of the tube's end, shape (batch, d); z is ignored."""
        return self._expectation("data", x, t)

    def noise(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        r"""The noise prediction :math:`E[x_0 \mid x_t = x]`, or of the tube's end, shape (batch, d); z is ignored."""
        return self._expectation("noise", x, t)

    def variance(self, prediction: str, x: Tensor, t: Tensor) -> Tensor:
        r"""How uncertain the target of a prediction remains at a point of the path.

        .. math:: \operatorname{tr} \mathrm{Cov}[L \mid x_t = x] / d

        Arguments:
            prediction: What is predicted: ``"velocity"``, ``"data"`` or ``"noise"``.
            x: Points, shape (batch, d).
            t: Times, shape (batch,).

        Returns:
            The mean conditional variance of a coordinate of the target, shape (batch,).

        Raises:
            ValueError: If the prediction is none of the three, or a shape is wrong.
        """
        pairs, (a, b, c) = self._pairs(x, t), self._combination(prediction, t.double())
        means, cross = self._conditional(pairs, a, b, c)
        within = (
            a[:, None] ** 2 * pairs.target_covariances.diagonal(dim1=1, dim2=2).sum(1)
            + b[:, None] ** 2 * pairs.source_covariances.diagonal(dim1=1, dim2=2).sum(1)
            + c[:, None] ** 2 * self.target.dimension
            - torch.linalg.solve_triangular(pairs.roots, cross.mT, upper=False).square().sum((2, 3))
        )
        spread = means - torch.einsum("np,npd->nd", pairs.responsibilities, means)[:, None]
        total = (pairs.responsibilities * (within + spread.square().sum(2))).sum(1)
        return (total / self.target.dimension).to(x.dtype)

    def minimum(
        self,
        prediction: str,
        n: int,
        generator: torch.Generator,
        weight: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""The minimum of the flow-matching loss, below which no network can come.

        .. math:: \min_f E_{t \sim U[0, 1]}\; w(t) \tfrac{1}{d} \lVert f(x_t, t) - L \rVert^2
                  = E_t\; w(t) \tfrac{1}{d} \operatorname{tr} \mathrm{Cov}[L \mid x_t],

        estimated by Monte Carlo over points :math:`(t, x_t)`; at each point the variance is exact.

        Arguments:
            prediction: What is predicted: ``"velocity"``, ``"data"`` or ``"noise"``.
            n: The number of points, at least two.
            generator: All random numbers.
            weight: The weight :math:`w(t)`, a map of times (batch,) to values (batch,); None is one. Another law of
                the times is a weight too: its density.

        Returns:
            The minimum and its standard error, two scalars in float64.

        Raises:
            ValueError: If the prediction is none of the three, or n is less than two.
        """
        if n < 2:
            raise ValueError(f"expected at least two points to estimate a minimum and its error, got n = {n}")
        t = torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)
        blocks = zip(self.sample(t, generator).split(_BLOCK), t.split(_BLOCK), strict=True)
        values = torch.cat([self.variance(prediction, x, time) for x, time in blocks])
        if weight is not None:
            values = weight(t) * values
        return values.mean(), values.std() / math.sqrt(n)

    def flow_map(self, x: Tensor, t: float) -> Tensor:
        r"""Where the flow carries points from time 0 to t, between two Gaussians whose covariances commute.

        The map is :math:`\mu_t + C_t^{1/2} C_0^{-1/2} (x - \mu_0)`, which solves the flow's equation because
        :math:`C_t` commutes with its derivative.

        Arguments:
            x: Points at time 0, shape (batch, d).
            t: The time of arrival.

        Returns:
            The points at time t, shape (batch, d).

        Raises:
            ValueError: If target or source have several components, or their covariances do not commute.
        """
        if len(self.target.weights) > 1 or len(self.source.weights) > 1:
            raise ValueError("the flow map has a closed form between two Gaussians only, got a mixture of several")
        first, second = self.target.covariances[0].to(x.device), self.source.covariances[0].to(x.device)
        if not torch.allclose(first @ second, second @ first, rtol=0, atol=1e-12 * float(first.norm() * second.norm())):
            raise ValueError("the flow map has a closed form only if target and source have covariances that commute")
        times = torch.tensor([0.0, t], dtype=torch.float64, device=x.device)
        pairs = self._pairs(self.source.mean.to(x.device).repeat(2, 1), times)
        values, vectors = torch.linalg.eigh(pairs.roots[:, 0] @ pairs.roots[:, 0].mT)
        start, end = (vectors * values[:, None].sqrt()) @ vectors.mT
        alpha, sigma, _ = (share[:, None] for share in pairs.shares)
        centre, goal = alpha * pairs.target_means + sigma * pairs.source_means
        return (goal + torch.linalg.solve(start, (x.double() - centre).T).T @ end).to(x.dtype)

    def _check_noise(self) -> None:
        """Let the path say, if it can interpolate, how much noise it adds at t = 1/2: forgotten, it goes unnoticed."""
        if (interpolate := getattr(self.path, "interpolate", None)) is None:
            return
        nothing, half = torch.zeros(_PROBES, 1, dtype=torch.float64), torch.full((_PROBES,), 0.5, dtype=torch.float64)
        found = interpolate(nothing, nothing, half, torch.Generator().manual_seed(0))[0].std().item()
        stated = self._shares(half)[2][0].item()
        if not math.isclose(found, stated, rel_tol=0.15):
            raise ValueError(
                f"{self.path} adds noise of standard deviation {found:.2g} at t = 0.5, but blur states {stated:.2g}; "
                "pass its noise as blur"
            )

    def _shares(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha, sigma and gamma."""
        gamma = torch.full_like(t, self.blur) if isinstance(self.blur, int | float) else self.blur[0](t)
        return self.path.alpha(t), self.path.sigma(t), gamma

    def _combination(self, prediction: str, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The coefficients a, b, c of what is predicted."""
        if prediction not in _PREDICTIONS:
            raise ValueError(f"unknown prediction {prediction!r}; {nearest(prediction, _PREDICTIONS)}")
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        if isinstance(self.blur, int | float):
            width, rate = torch.full_like(t, self.blur), zero
        else:
            width, rate = zero, self.blur[1](t)
        if prediction == "velocity":
            return self.path.d_alpha(t), self.path.d_sigma(t), rate
        return (one, zero, width) if prediction == "data" else (zero, one, width)

    def _expectation(self, prediction: str, x: Tensor, t: Tensor) -> Tensor:
        pairs = self._pairs(x, t)
        means, _ = self._conditional(pairs, *self._combination(prediction, t.double()))
        return torch.einsum("np,npd->nd", pairs.responsibilities, means).to(x.dtype)

    def _conditional(self, pairs: _Pairs, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Given each pair: the mean (batch, P, d) of a x1 + b x0 + c epsilon, and its cross covariance A with x_t."""
        alpha, sigma, gamma = pairs.shares
        cross = _combined(a * alpha, pairs.target_covariances, b * sigma, pairs.source_covariances, c * gamma)
        pulls = torch.linalg.solve_triangular(pairs.roots.mT, pairs.whitened, upper=True)
        means = a[:, None, None] * pairs.target_means + b[:, None, None] * pairs.source_means
        return means + (cross @ pulls)[..., 0], cross

    def _pairs(self, x: Tensor, t: Tensor) -> _Pairs:
        """The joint law of pair and point."""
        d, k, j = self.target.dimension, len(self.target.weights), len(self.source.weights)
        if x.ndim != 2 or x.shape[1] != d:
            raise ValueError(f"expected points of shape (batch, {d}), got {tuple(x.shape)}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"expected one time per item, shape {tuple(x.shape[:1])}, got {tuple(t.shape)}")
        device = x.device
        weights = (self.target.weights[:, None] * self.source.weights).flatten().to(device)
        target_means = self.target.means.repeat_interleave(j, dim=0).to(device)
        source_means = self.source.means.repeat(k, 1).to(device)
        target_covariances = self.target.covariances.repeat_interleave(j, dim=0).to(device)
        source_covariances = self.source.covariances.repeat(k, 1, 1).to(device)

        alpha, sigma, gamma = shares = self._shares(t.double())
        covariances = _combined(alpha**2, target_covariances, sigma**2, source_covariances, gamma**2)
        roots = torch.linalg.cholesky(covariances)
        offsets = x.double()[:, None] - alpha[:, None, None] * target_means - sigma[:, None, None] * source_means
        whitened = torch.linalg.solve_triangular(roots, offsets[..., None], upper=False)
        log_volumes = roots.diagonal(dim1=2, dim2=3).log().sum(2) + d / 2 * math.log(2 * math.pi)
        log_joint = weights.log() - log_volumes - 0.5 * whitened.square().sum((2, 3))
        return _Pairs(
            target_means, source_means, target_covariances, source_covariances, shares, roots, whitened, log_joint
        )


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Of each of the P pairs of components, and of each point: the law of x_t and how likely it is the point's."""

    target_means: Tensor
    source_means: Tensor
    target_covariances: Tensor
    source_covariances: Tensor
    shares: tuple[Tensor, Tensor, Tensor]
    roots: Tensor
    """Lower triangular roots of the covariances C, shape (batch, P, d, d)."""
    whitened: Tensor
    """The offsets of x from the means, the inverse roots applied, shape (batch, P, d, 1)."""
    log_joint: Tensor
    """The logarithms of weight times density, shape (batch, P)."""

    @property
    def responsibilities(self) -> Tensor:
        """The probabilities of the pairs given the point, shape (batch, P)."""
        return torch.softmax(self.log_joint, dim=1)


def _combined(a: Tensor, first: Tensor, b: Tensor, second: Tensor, c: Tensor) -> Tensor:
    """The matrices a first + b second + c I, shape (batch, P, d, d), of numbers (batch,) and matrices (P, d, d)."""
    a, b, c = (number[:, None, None, None] for number in (a, b, c))
    return a * first + b * second + c * torch.eye(first.shape[-1], dtype=first.dtype, device=first.device)
