r"""Couplings: which source sample is paired with which data sample.

Flow matching may regress on any joint law :math:`\pi(x_0, x_1)` with marginals :math:`p_0` and :math:`p_1`.
A coupling reorders the source samples of a minibatch and leaves the data samples where they are, so that
whatever belongs to :math:`x_1` (latents, conditions, indices) stays aligned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Coupling", "ExactOT", "Independent"]


class Coupling(ABC):
    """A rule that pairs the samples of a minibatch."""

    @abstractmethod
    def __call__(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        """The paired minibatch.

        Arguments:
            x0: Source samples, shape (batch, ...).
            x1: Data samples, same shape.

        Returns:
            `x0` reordered along its first axis, and `x1` as it is.
        """


@dataclass(frozen=True)
class Independent(Coupling):
    r"""The product law :math:`\pi = p_0 \otimes p_1`: samples are paired as they come (I-CFM)."""

    def __call__(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Both batches as they are."""
        return x0, x1


@dataclass(frozen=True)
class ExactOT(Coupling):
    r"""The optimal transport plan between the two minibatches for the squared Euclidean cost (OT-CFM).

    .. math:: \min_P \sum_i \lVert x_0^{(P(i))} - x_1^{(i)} \rVert^2 \quad \text{over permutations } P.

    Two batches of equal size and weight have a permutation as optimal plan, so each sample is used exactly
    once. The plan is optimal within the minibatch only: it approaches the plan between the laws as the batch
    grows. It costs :math:`O(n^3)` on the CPU for n items. It is not meant for conditional models: it ties
    the source to the condition, while generation draws them independently (Cheng and Schwing, 2025).

    References:
        A. Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal
        transport", TMLR 2024, section 3.2.
        A. Pooladian et al., "Multisample flow matching", ICML 2023.
        H. K. Cheng, A. Schwing, "The curse of conditions", 2025.
    """

    def __call__(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        """The source samples in the order of the optimal plan, and the data samples as they are.

        Raises:
            ValueError: If the shapes differ or a sample is not finite.
        """
        # Imported here because it is slow to import and few trainings need it.
        from scipy.optimize import linear_sum_assignment

        if x0.shape != x1.shape:
            raise ValueError(f"expected source and data of one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
        # Autocast would compute the products in half precision.
        with torch.no_grad(), torch.autocast(x0.device.type, enabled=False):
            # Of the cost only <x0, x1> depends on the pairing; centred, it loses no digits to an offset.
            products = _centred_vectors(x1) @ _centred_vectors(x0).T
        if not torch.isfinite(products).all():
            raise ValueError("cannot pair the minibatch: a source or data sample is NaN or infinite")
        _, order = linear_sum_assignment(products.cpu().numpy(), maximize=True)
        return x0[torch.as_tensor(order, device=x0.device)], x1


def _centred_vectors(x: Tensor) -> Tensor:
    """The items of x as vectors (batch, elements) of mean zero."""
    vectors = x.unsqueeze(-1).flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    return vectors - vectors.mean(0)
