r"""Sources: the laws :math:`p_0` from which a flow starts.

A source draws :math:`x_0 \sim p_0` in the shape of the data. Numbers are drawn on the generator's device and
then moved, so that one seed gives one draw on every device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Drawn", "Gaussian", "GaussianProcess", "Scaled", "Source"]


class Source(ABC):
    """A law from which starting points of the flow are drawn."""

    @abstractmethod
    def sample(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Independent draws.

        Arguments:
            shape: The shape (batch, ...) of the result.
            generator: The random numbers; it may live on another device than the result.
            dtype: The floating-point type of the result.
            device: The device of the result.

        Returns:
            A tensor of the given shape.
        """

    def log_density(self, x: Tensor) -> Tensor:
        """The logarithm of the density in nats, shape (batch,).

        Arguments:
            x: Points, shape (batch, ...).

        Raises:
            ValueError: If it is not known.
        """
        raise ValueError(
            f"the density of a source of type {type(self).__name__} is not known, nor that of what a flow makes of it: "
            "train from Gaussian()"
        )


@dataclass(frozen=True)
class Gaussian(Source):
    r"""White noise, :math:`x_0 \sim N(0, I)`."""

    def sample(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Independent standard normal numbers; see `Source.sample`."""
        return torch.randn(tuple(shape), generator=generator, dtype=dtype, device=generator.device).to(device)

    def log_density(self, x: Tensor) -> Tensor:
        r""":math:`-\tfrac12 |x|^2 - \tfrac d2 \log 2 \pi`; see `Source.log_density`."""
        return -0.5 * (x.square() + math.log(2 * math.pi)).flatten(1).sum(1)


@dataclass(frozen=True)
class GaussianProcess(Source):
    r"""Correlated noise, :math:`x_0 = C^{1/2} \xi` with :math:`\xi \sim N(0, I)`.

    A source as smooth as the data keeps the flow in a space of functions, so that refining the grid does not
    change what it learns. Scores do not follow from noise predictions by the formula of `Path.convert`,
    which is for N(0, I).

    Arguments:
        correlate: The map :math:`C^{1/2}` from white noise (batch, channel, *axes) to a field of the same
            shape and of unit variance at every point; linear, and the same for each item.

    References:
        G. Kerrigan, G. Migliorini, P. Smyth, "Functional flow matching", AISTATS 2024.
    """

    correlate: Callable[[Tensor], Tensor]

    def sample(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Independent correlated fields; see `Source.sample`.

        Raises:
            ValueError: If `correlate` changes the shape.
        """
        white = Gaussian().sample(shape, generator, dtype, device)
        field = self.correlate(white)
        if field.shape != white.shape:
            raise ValueError(
                f"expected correlate to keep the shape {tuple(white.shape)}, got {tuple(field.shape)}; "
                "was it made for another grid?"
            )
        return field.to(white)


@dataclass(frozen=True)
class Drawn(Source):
    """Any law that can be drawn from: another data set, or a toy distribution.

    Scores do not follow from noise predictions by the formula of `Path.convert`, which is for N(0, I).

    Arguments:
        draw: Called as draw(n, generator); returns n independent draws, shape (n, ...).
    """

    draw: Callable[[int, torch.Generator], Tensor]

    def sample(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draws of the law; see `Source.sample`.

        Raises:
            ValueError: If the draws have another shape than the data.
        """
        x0 = self.draw(shape[0], generator)
        if x0.shape != tuple(shape):
            raise ValueError(f"expected draws of the shape {tuple(shape)} of the data, got {tuple(x0.shape)}")
        return x0.to(device, dtype)


@dataclass(frozen=True)
class Scaled(Source):
    """Another source, larger or smaller: where paths start that do not start from the source itself.

    Arguments:
        source: The source.
        factor: What its draws are multiplied by.
    """

    source: Source
    factor: float

    def sample(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Scaled draws; see `Source.sample`."""
        return self.factor * self.source.sample(shape, generator, dtype, device)

    def log_density(self, x: Tensor) -> Tensor:
        """The density of the source at x over the factor, and the change of volume; see `Source.log_density`."""
        return self.source.log_density(x / self.factor) - math.prod(x.shape[1:]) * math.log(self.factor)
