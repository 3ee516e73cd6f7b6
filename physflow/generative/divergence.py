r"""The divergence of a velocity, the trace of its Jacobian :math:`J = \partial v / \partial x`.

Exactly it takes d products of a vector with J,

.. math:: \nabla \cdot v = \sum_{i=1}^{d} e_i^T J e_i,

and without bias k products with random probes of mean zero and unit covariance (Hutchinson),

.. math:: \nabla \cdot v = E[\varepsilon^T J \varepsilon], \qquad
          \mathrm{Var}(\varepsilon^T J \varepsilon) = \begin{cases} 2 \sum_{i \ne j} S_{ij}^2 & \text{signs} \\
          2 \lVert S \rVert_F^2 & \text{normal} \end{cases}, \qquad S = \tfrac12 (J + J^T).

Signs (Rademacher) have the least variance, none at all where S is diagonal. A probe stays the same along a trajectory,
so that what is integrated is a function of the state and the time (FFJORD).

References:
    M. F. Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines",
    Communications in Statistics 18, 1989.
    W. Grathwohl et al., "FFJORD: Free-form continuous dynamics for scalable reversible generative models", ICLR 2019.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from physflow.config.checks import at_least, one_of
from physflow.generative.samplers.base import normals

__all__ = ["Divergence", "Exact", "Hutchinson"]

# So many numbers are held in the products that are made at once.
_NUMBERS = 2**22


class Divergence(ABC):
    """A way to the divergence of a velocity."""

    @abstractmethod
    def probes(self, x: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor | None:
        """What is drawn once for a trajectory.

        Arguments:
            x: Its first state, shape (batch, ...).
            generator: The random numbers: one generator, or one for each item.

        Returns:
            Probes of shape (k, batch, ...), or None.

        Raises:
            ValueError: If there is no generator, and one is needed.
        """

    @abstractmethod
    def __call__(self, f: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        """The velocity, and its divergence by each probe.

        With gradients switched on both can be differentiated; otherwise they are without a graph.

        Arguments:
            f: The velocity at a time, a map of (batch, ...) to the same shape, of each item by itself.
            x: The state, shape (batch, ...).
            probes: What `probes` has drawn.

        Returns:
            The velocity, of the shape of x, and estimates of the divergence, shape (batch, k), k = 1 for the exact one.

        Raises:
            ValueError: If the velocity has no derivative by x.
        """


@dataclass(frozen=True)
class Exact(Divergence):
    """The sum of all d derivatives, for few dimensions or cheap velocities.

    Arguments:
        block: How many products are made at once; None is as many as fit into 32 MiB of float64 numbers.
    """

    block: int | None = None

    def __post_init__(self) -> None:
        if self.block is not None:
            at_least(1, block=self.block)

    def probes(self, x: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> None:
        """Nothing is drawn."""
        return

    def __call__(self, f: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        """The velocity and the trace of its Jacobian; see `Divergence`."""
        v, pull = _pullback(f, x)
        d = x[0].numel() if len(x) else 0
        block = self.block or max(1, _NUMBERS // max(1, x.numel()))
        total = x.new_zeros(len(x))
        for first in range(0, d, block):
            indices = torch.arange(first, min(first + block, d), device=x.device)
            units = torch.zeros(len(indices), len(x), d, dtype=x.dtype, device=x.device)
            units.scatter_(2, indices[:, None, None].expand(-1, len(x), 1), 1.0)
            columns = pull(units.view(-1, *x.shape)).flatten(2)
            total = total + columns.gather(2, indices[:, None, None].expand(-1, len(x), 1)).sum((0, 2))
        return v, total[:, None]


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """The mean over random probes: one product a probe, whatever the dimension.

    Arguments:
        number: The number k of probes.
        law: Their law, ``"rademacher"`` (signs) or ``"gaussian"``.

    Raises:
        ValueError: If the number is not positive, or the law unknown.
    """

    number: int = 1
    law: Literal["rademacher", "gaussian"] = "rademacher"

    def __post_init__(self) -> None:
        at_least(1, number=self.number)
        one_of("law of probes", self.law, ("rademacher", "gaussian"))

    def probes(self, x: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
        """Signs or normal numbers, shape (k, batch, ...); see `Divergence.probes`."""
        if generator is None:
            raise ValueError(f"{self} draws random probes; pass a torch.Generator as generator, or take Exact()")
        noise = normals(generator)
        normal = torch.stack([noise(x) for _ in range(self.number)])
        return normal if self.law == "gaussian" else torch.where(normal < 0, -torch.ones_like(normal), 1.0)

    def __call__(self, f: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        """The velocity and one estimate for each probe; see `Divergence`."""
        assert probes is not None
        v, pull = _pullback(f, x)
        products = torch.stack([pull(probe[None])[0] for probe in probes])
        return v, (products * probes).flatten(2).sum(2).T


def _pullback(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The value of f, and its products of vectors (k, batch, ...) with the Jacobian, shape (k, batch, ...)."""
    graph = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        # What inference mode made cannot be in a graph; a clone can.
        start = x if graph and x.requires_grad else x.detach().clone().requires_grad_()
        v = f(start)

    def products(vectors: Tensor, batched: bool) -> Tensor:
        # The graph is for further products, and for gradients of the result.
        settings = {"create_graph": graph, "retain_graph": True, "is_grads_batched": batched, "allow_unused": True}
        product = torch.autograd.grad(v, start, vectors, **settings)[0] if v.requires_grad else None
        if product is None:
            raise ValueError(
                "the velocity has no derivative by the state: it was computed without a graph (no_grad, detach, or a "
                "guided velocity, which is without one), and its divergence is not known"
            )
        return product

    def pull(vectors: Tensor) -> Tensor:
        with torch.inference_mode(False):
            given = vectors.clone().to(v.dtype)
            if len(given) > 1:
                try:
                    return products(given, True)
                except RuntimeError:
                    # Some backward passes, those of convolutions among them, cannot be batched.
                    pass
            return torch.stack([products(one, False) for one in given])

    return (v if graph else v.detach()), pull
