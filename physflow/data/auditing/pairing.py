r"""Do inputs and solutions of one number belong together?

The solutions of some inputs are compared with all that are stored: for each, the stored field at the least angle is
its partner. Where partners are near and not where they should be, the pairs are shuffled.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["NONE", "belong", "partners", "sines"]

NONE = -1
"""The number of a partner that is not there."""


def partners(s: Tensor, stored: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """For solutions, the stored fields that are most like them, whatever their sign.

    Arguments:
        s: Solutions, shape (count, nx, ny).
        stored: All stored fields, in pieces of shape (some, nx, ny), in the order of the file.

    Returns:
        The numbers of the partners, and the sines of the angles between, shape (count,) each.
    """
    s = _unit(s)
    best, number, first = torch.full((len(s),), -1.0, dtype=s.dtype), torch.full((len(s),), NONE), 0
    for piece in stored:
        cosine, where = (s @ _unit(piece).T).abs().max(1)
        number = torch.where(cosine > best, first + where, number)
        best, first = torch.maximum(best, cosine), first + len(piece)
    return number, _sine(best)


def sines(s: Tensor, q: Tensor) -> Tensor:
    """The sines of the angles between solutions and stored fields, pair by pair."""
    return _sine((_unit(s) * _unit(q)).sum(1).abs())


def belong(angles: Tensor) -> Tensor:
    """Which partners, by the sines of the angles between, are more than the nearest of others: as near as most."""
    return angles < max(1e-3, 10 * float(angles.median()))


def _sine(cosine: Tensor) -> Tensor:
    return (1 - cosine.clamp(0, 1).square()).clamp_min(0).sqrt()


def _unit(u: Tensor) -> Tensor:
    u = u.flatten(1)
    u = u - u.mean(1, keepdim=True)
    return u / u.norm(dim=1, keepdim=True).clamp_min(1e-300)
