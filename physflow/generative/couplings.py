r"""Couplings: which source sample is paired with which data sample.

Flow matching may regress on any joint law :math:`\pi(x_0, x_1)` with marginals :math:`p_0` and :math:`p_1`.
A coupling draws pairs from such a law, given independent samples of the two marginals. Unless it says
otherwise it chooses among the source samples and leaves the data samples where they are, so that whatever
belongs to :math:`x_1` (latents, conditions, indices) stays aligned. All its random numbers come from the
generator it is given.

Two finite samples with weights :math:`a` and :math:`b` are joined by a plan, a matrix :math:`P \ge 0` with
row sums :math:`a` and column sums :math:`b`; :math:`P_{ij}` is the probability of the pair
:math:`(x_0^{(i)}, x_1^{(j)})`. The optimal transport plan minimises :math:`\sum_{ij} P_{ij} C_{ij}`, here for
the squared Euclidean cost :math:`C_{ij} = \lVert x_0^{(i)} - x_1^{(j)} \rVert^2`. Its entropic relaxation is
in `physflow.generative.entropic`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from physflow.config import nearest
from physflow.generative.assignment import assignment

__all__ = ["Coupling", "ExactOT", "Independent", "check_batches"]


class Coupling(ABC):
    """A rule that pairs the samples of a minibatch."""

    source_factor: int = 1
    """How many source samples the coupling wants for each data sample."""

    independent: bool = False
    """Whether the source sample says nothing of the data sample it is paired with."""

    @abstractmethod
    def __call__(self, x0: Tensor, x1: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The paired minibatch.

        Arguments:
            x0: Source samples, shape (source_factor * batch, ...), independent of the data.
            x1: Data samples, shape (batch, ...), of the same dtype.
            generator: Random numbers, for couplings that draw any.

        Returns:
            Source samples (batch, ...), taken from `x0`, and `x1`, as it is unless the coupling says otherwise.
        """


@dataclass(frozen=True)
class Independent(Coupling):
    r"""The product law :math:`\pi = p_0 \otimes p_1`: samples are paired as they come (I-CFM)."""

    independent = True

    def __call__(self, x0: Tensor, x1: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Both batches as they are."""
        return x0, x1


@dataclass(frozen=True)
class ExactOT(Coupling):
    r"""The optimal transport plan between the two minibatches for the squared Euclidean cost (OT-CFM).

    .. math:: \min_P \sum_i \lVert x_0^{(P(i))} - x_1^{(i)} \rVert^2 \quad \text{over permutations } P.

    Two batches of equal size and weight have a permutation as optimal plan. The plan is optimal within the
    minibatch only: it approaches the plan between the laws as the batch grows. It costs :math:`O(n^3)` on the
    CPU for n source items. It is not meant for conditional models: it ties the source to the condition, while
    generation draws them independently (Cheng and Schwing, 2025).

    With a `source_factor` k the plan is that between the n data items and kn source items, so the source is
    resolved k times as finely: as k grows it becomes the semi-discrete plan between :math:`p_0` and the
    minibatch. The plan gives k source items to each data item, and one of them is drawn. The law of the
    drawn items is exactly :math:`p_0`. Picking only the best n of the kn source items (a rectangular
    assignment) would be cheaper still in distance, but what it picks is no sample of :math:`p_0`: far source
    items are left out, and a model trained on near noise meets the far noise only when it generates. For
    example, between N(0, I) and N(0, I / 4) in the plane and k = 4 it shrinks the second moment of the source
    to less than half.

    Arguments:
        plan: ``"permutation"`` uses each data item once, in its place; ``"sample"`` draws as many pairs from
            the plan with replacement, and so reorders, repeats and omits data items.
        source_factor: The number k of source items for each data item.

    Raises:
        ValueError: If the plan is unknown or the factor is not a whole number of at least 1.

    References:
        A. Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal
        transport", TMLR 2024, section 3.2.
        A. Pooladian et al., "Multisample flow matching", ICML 2023.
        H. K. Cheng, A. Schwing, "The curse of conditions", 2025.
    """

    plan: Literal["permutation", "sample"] = "permutation"
    source_factor: int = 1

    def __post_init__(self) -> None:
        plans = ("permutation", "sample")
        if self.plan not in plans:
            raise ValueError(f"unknown use {self.plan!r} of the plan; {nearest(self.plan, plans)}")
        k = self.source_factor
        if isinstance(k, bool) or int(k) != k or k < 1:
            raise ValueError(f"source_factor must be a whole number of at least 1, got {k}")

    def __call__(self, x0: Tensor, x1: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """One source item of the optimal plan for each data item; see `Coupling`.

        Raises:
            ValueError: If the shapes do not fit, the batch is empty, a sample is not finite, or random
                numbers are needed (a sampled plan, a source factor above 1) and there is no generator.
        """
        check_batches(x0, x1, self.source_factor)
        n, k = len(x1), self.source_factor
        members = torch.as_tensor(_assigned(x0, x1), device=x0.device)
        if self.plan == "permutation" and k == 1:
            return x0[members[:, 0]], x1
        if generator is None:
            raise ValueError(f"{self} draws random numbers; pass a torch.Generator as generator")
        columns = torch.arange(n, device=x1.device)
        if self.plan == "sample":
            columns = torch.randint(n, (n,), generator=generator, device=generator.device).to(x1.device)
            x1 = x1[columns]
        choice = torch.randint(k, (n,), generator=generator, device=generator.device).to(x1.device)
        return x0[members[columns, choice]], x1


def check_batches(x0: Tensor, x1: Tensor, source_factor: int = 1) -> None:
    """Raise unless two batches can be joined by a plan.

    Arguments:
        x0: Source samples, shape (source_factor * batch, ...).
        x1: Data samples, shape (batch, ...).
        source_factor: The number of source samples for each data sample.

    Raises:
        ValueError: If the shapes do not fit, there is nothing to pair, or a sample is not finite.
    """
    if source_factor == 1 and x0.shape != x1.shape:
        raise ValueError(f"expected source and data of one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
    expected = (source_factor * len(x1), *x1.shape[1:])
    if x0.shape != expected:
        raise ValueError(
            f"expected {source_factor} source items for each data item, shape {expected}, got {tuple(x0.shape)}; "
            "draw coupling.source_factor times the batch from the source"
        )
    if x1.numel() == 0:
        raise ValueError(f"cannot pair an empty minibatch; got data of shape {tuple(x1.shape)}")
    if not (torch.isfinite(x0).all() and torch.isfinite(x1).all()):
        raise ValueError("cannot pair the minibatch: a source or data sample is NaN or infinite")


def _assigned(x0: Tensor, x1: Tensor) -> Tensor:
    """The indices (n, k) of the k source items that the optimal plan gives to each of the n data items."""
    # Autocast would compute the products in half precision.
    with torch.no_grad(), torch.autocast(x0.device.type, enabled=False):
        # Of the cost only -2 <x0, x1> depends on the pairing; centred, it loses no digits to an offset.
        return assignment(-(_centred_vectors(x1) @ _centred_vectors(x0).T))


def _centred_vectors(x: Tensor) -> Tensor:
    """The items of x as vectors (batch, elements) of mean zero."""
    vectors = x.unsqueeze(-1).flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    return vectors - vectors.mean(0)
