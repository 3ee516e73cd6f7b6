"""Generators for items of a sequence, so that item i depends on (seed, i) alone."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["item_generator"]


def item_generator(seed: int, index: int, stream: int = 0) -> torch.Generator:
    """The generator of item `index` of the sequence with this seed.

    torch's generator knows 32 bits of its seed: a sum, unlike a hash, gives no two items of a sequence the same.

    Arguments:
        seed: The seed of the sequence, not negative.
        index: The number of the item, not negative.
        stream: Which of several independent streams of the item's random numbers.
    """
    start = int(np.random.SeedSequence((seed, stream) if stream else seed).generate_state(1)[0])
    return torch.Generator().manual_seed((start + index) % 2**32)
