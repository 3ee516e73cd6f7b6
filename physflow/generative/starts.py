"""Where samples start: noise and latents, so that sample i depends on (seed, i) alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from physflow.generative.latents import Prior
from physflow.generative.seeds import item_generator
from physflow.generative.sources import Source

__all__ = ["starting_points"]


def starting_points(
    source: Source,
    shape: Sequence[int],
    seed: int,
    indices: Sequence[int],
    prior: Prior | None = None,
    latents: Tensor | None = None,
    one_noise: bool = False,
    given: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The noise and the latents of samples, each from a generator of its own: the noise first, then the latent.

    Arguments:
        source: The law of the noise.
        shape: The shape of one sample.
        seed: The seed.
        indices: The numbers of the samples.
        prior: The law of the latents, if there are any and none are given.
        latents: The latents of all samples, shape (samples, dimension); beyond the last, the last one.
        one_noise: Whether all samples have the noise of sample 0, so that only their latents differ.
        given: The noise of all samples, shape (samples, *shape), in place of draws; beyond the last, the last one.

    Returns:
        The noise, shape (len(indices), *shape), and the latents, shape (len(indices), dimension), or None.
    """
    noise, z = [], []
    for index in indices:
        generator = item_generator(seed, 0 if one_noise else index)
        if given is None:
            noise.append(source.sample((1, *shape), generator))
        else:
            noise.append(given[min(index, len(given) - 1)][None])
        if latents is not None:
            z.append(latents[min(index, len(latents) - 1)][None])
        elif prior is not None:
            z.append(prior.draw(1, generator))
    return torch.cat(noise), torch.cat(z) if z else None
