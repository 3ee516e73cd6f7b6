r"""Some coordinates of an item as its latent: what is known of a law enters as z, exactly.

An item in model space is a vector or a stack of channels. Where some of its coordinates have a known law (the whitened
Karhunen-Loeve or POD coefficients of log K are independent and standard normal), and the others depend on them, they
serve as the latent:

.. math:: x = (z, y), \qquad z \sim p(z) \text{ known}, \qquad y \mid z \text{ by the flow}.

The encoder is a selection, deterministic and exact; so is the decoder, `join`, which puts z back into its place. The
flow runs over y alone. Where z determines y, as K determines p, the conditional flow ends in a point and its limit is
regression: compare with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from physflow.generative.latents.base import Latent, Posterior

__all__ = ["Coordinates"]


class Coordinates(Latent):
    """The latent that consists of chosen coordinates along dimension 1 of a vector.

    Arguments:
        chosen: The indices of the coordinates that are z, in their order.
        size: The number of coordinates of an item.

    Raises:
        ValueError: If none or all are chosen, or one is out of range or chosen twice.
    """

    chosen: Tensor
    others: Tensor

    def __init__(self, chosen: Sequence[int], size: int) -> None:
        super().__init__()
        chosen = [int(i) for i in chosen]
        if not 0 < len(chosen) < size:
            raise ValueError(
                f"expected between 1 and {size - 1} of the {size} coordinates as latent, got {len(chosen)}: "
                "something must be known and something left for the flow"
            )
        if len(set(chosen)) < len(chosen) or not all(0 <= i < size for i in chosen):
            raise ValueError(f"expected different coordinates between 0 and {size - 1}, got {chosen}")
        self.dimension, self.size = len(chosen), size
        self.register_buffer("chosen", torch.tensor(chosen), persistent=False)
        others = sorted(set(range(size)) - set(chosen))
        self.register_buffer("others", torch.tensor(others), persistent=False)

    def posterior(
        self, x0: Tensor | None = None, x1: Tensor | None = None, xt: Tensor | None = None, t: Tensor | None = None
    ) -> Posterior:
        """The point z of each item; reads `x1`."""
        (x1,) = self._declared(x0=x0, x1=x1, xt=xt, t=t)
        self._check(x1, self.size, "items")
        return Posterior(x1.index_select(1, self.chosen.to(x1.device)))

    def rest(self, x1: Tensor) -> Tensor:
        """The coordinates that are not z, shape (batch, size - dimension)."""
        self._check(x1, self.size, "items")
        return x1.index_select(1, self.others.to(x1.device))

    def join(self, z: Tensor, x: Tensor) -> Tensor:
        """The whole items, shape (batch, size)."""
        self._check(z, self.dimension, "latents")
        self._check(x, self.size - self.dimension, "the rest of the items")
        whole = x.new_empty(len(x), self.size)
        whole[:, self.chosen], whole[:, self.others] = z.to(x.dtype), x
        return whole

    @staticmethod
    def _check(x: Tensor, size: int, what: str) -> None:
        if x.ndim != 2 or x.shape[1] != size:
            raise ValueError(f"expected {what} of shape (batch, {size}), got {tuple(x.shape)}")
