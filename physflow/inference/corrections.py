r"""Corrections of sampled fields.

A correction maps sampled fields, a tensor of shape (batch, channel, \*axes) in physical units, to corrected ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Completion", "Correction"]

Correction = Callable[[Tensor], Tensor]


class Completion:
    r"""Replace the solution fields by the solution for the sampled inputs, :math:`p \leftarrow S(K)`.

    The law of the inputs is left untouched, to the last bit, and the residual falls to what storage leaves.

    Arguments:
        complete: ``complete(*fields)`` returns all fields, in the same order, with the solutions recomputed from the
            inputs (`physflow.pde.Equation.complete`).
    """

    def __init__(self, complete: Callable[..., tuple[Tensor, ...]]) -> None:
        self.complete = complete

    def __call__(self, fields: Tensor) -> Tensor:
        """Complete fields of shape (batch, channel, *axes); the result has their type."""
        if len(fields) == 0:
            return fields
        return torch.stack(self.complete(*fields.double().unbind(1)), dim=1).to(fields.dtype)
