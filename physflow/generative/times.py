r"""Time laws: where on the path a network is trained.

A time law draws the times t of a loss from a density q on [0, 1]. It is a weight by another name: for any
integrand l

.. math:: E_{t \sim q}[l(t)] = \int_0^1 q(t) \, l(t) \, dt = E_{t \sim U[0, 1]}[q(t) \, l(t)],

so a loss under q has the minimiser and the mean of the uniform loss with the weight :math:`w(t) = q(t)`; only
the noise of its gradient differs. Where q is 0 the network learns nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LogitNormal", "TimeLaw", "Uniform"]


class TimeLaw(ABC):
    """A law on [0, 1] from which the times of a loss are drawn."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Independent times.

        Arguments:
            n: Their number.
            generator: The random numbers.
            dtype: The floating-point type of the result.

        Returns:
            Times in [0, 1], shape (n,), on the generator's device.
        """

    @abstractmethod
    def density(self, t: Tensor) -> Tensor:
        """The density q at the times t, of the shape of t; 0 outside [0, 1]."""


@dataclass(frozen=True)
class Uniform(TimeLaw):
    r"""The uniform law :math:`U[a, b]`.

    Arguments:
        first: The earliest time a.
        last: The latest time b.

    Raises:
        ValueError: Unless 0 <= first < last <= 1.
    """

    first: float = 0.0
    last: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last <= 1:
            raise ValueError(f"expected 0 <= first < last <= 1, got first = {self.first} and last = {self.last}")

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform times; see `TimeLaw.sample`."""
        t = torch.rand(n, generator=generator, dtype=dtype, device=generator.device)
        # Rounding must not carry a time beyond its bounds.
        return (self.first + (self.last - self.first) * t).clamp(self.first, self.last)

    def density(self, t: Tensor) -> Tensor:
        """1 / (last - first) between the bounds, else 0."""
        return ((t >= self.first) & (t <= self.last)).to(t.dtype) / (self.last - self.first)


@dataclass(frozen=True)
class LogitNormal(TimeLaw):
    r"""The logit-normal law: :math:`\log \frac{t}{1 - t} \sim N(m, s^2)`.

    It prefers the middle of the path, where the velocity is hardest to predict, to its ends:

    .. math:: q(t) = \frac{1}{s \sqrt{2 \pi} \, t (1 - t)}
              \exp\Big(-\frac{(\log \frac{t}{1 - t} - m)^2}{2 s^2}\Big).

    Arguments:
        mean: m; a negative one prefers the noise, a positive one the data.
        std: s, positive.

    Raises:
        ValueError: If the mean is not finite, or s is not positive or not finite.

    References:
        P. Esser et al., "Scaling rectified flow transformers for high-resolution image synthesis", ICML 2024,
        section 3.1.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise ValueError(f"mean must be finite, got {self.mean}")
        if not 0 < self.std < math.inf:
            raise ValueError(f"std must be positive and finite, got {self.std}")

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Logit-normal times; see `TimeLaw.sample`."""
        normal = torch.randn(n, generator=generator, dtype=dtype, device=generator.device)
        return torch.sigmoid(self.mean + self.std * normal)

    def density(self, t: Tensor) -> Tensor:
        """The formula of the class between 0 and 1, else 0."""
        inside = (t > 0) & (t < 1)
        # Any time inside, so that the formula is finite where its value is not used.
        t = torch.where(inside, t, 0.5)
        exponent = -((torch.logit(t) - self.mean) ** 2) / (2 * self.std**2)
        density = torch.exp(exponent) / (self.std * math.sqrt(2 * math.pi) * t * (1 - t))
        return torch.where(inside, density, 0.0)
