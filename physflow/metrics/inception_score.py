r"""The Inception Score: how sure a classifier is of each sample, and how many classes the samples have.

.. math:: \mathrm{IS} = \exp E_x\, \mathrm{KL}\bigl(p(y | x) \,\|\, p(y)\bigr), \qquad p(y) = E_x\, p(y | x)

is between 1, if the classifier says the same of every sample, and the number of classes, if it is sure of each sample
and the classes are equally frequent. It looks at no data: a generator that repeats one sample of each class has the
best score there is.

The samples of a part also estimate p(y): n of them have a score of n at most, and the logarithm of the score of few is
too low in the mean. Only scores of as many samples and parts may be compared.

References:
    T. Salimans et al., "Improved techniques for training GANs", NeurIPS 2016, section 4.
    M. J. Chong, D. Forsyth, "Effectively unbiased FID and Inception Score and where to find them", CVPR 2020.
    S. Barratt, R. Sharma, "A note on the Inception Score", ICML 2018 workshop on deep generative models.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

__all__ = ["InceptionScore", "inception_score"]

# How far the probabilities of a sample may sum from 1: what half precision leaves of a thousand classes.
_TOLERANCE = 1e-2


@dataclass(frozen=True)
class InceptionScore:
    """The score, over the parts of the samples.

    Attributes:
        mean: The mean over the parts, from 1 to the number of classes.
        std: The standard deviation over the parts, with their number in the denominator; 0 for one part.
    """

    mean: float
    std: float


def inception_score(predictions: Tensor, kind: Literal["logits", "probabilities"], splits: int = 10) -> InceptionScore:
    """The Inception Score of samples, as published: the mean over ten parts of consecutive samples.

    The samples must be in random order: a part of samples sorted by class has few classes.

    Arguments:
        predictions: What the classifier says, shape (n, classes).
        kind: Whether that are logits or probabilities.
        splits: The number of parts.

    Returns:
        Mean and standard deviation over the parts.

    Raises:
        ValueError: If the shape is another, values are not finite, probabilities are negative or do not sum to 1, the
            kind is none of both, or there are fewer samples than parts.

    References:
        T. Salimans et al., 2016, section 4.
    """
    if kind not in ("logits", "probabilities"):
        raise ValueError(f"kind must be 'logits' or 'probabilities', got {kind!r}")
    if predictions.ndim != 2 or not predictions.shape[1]:
        raise ValueError(f"expected predictions of shape (n, classes), got {tuple(predictions.shape)}")
    n = len(predictions)
    if not 1 <= splits <= n:
        raise ValueError(
            f"expected at least one part and a sample in each, got splits={splits} for {n} samples; the published "
            "score has 50,000 samples in 10 parts"
        )
    bounds = [part * n // splits for part in range(splits + 1)]
    parts = [predictions[start:stop] for start, stop in pairwise(bounds)]
    scores = torch.stack([_information(_probabilities(part, kind)) for part in parts]).exp()
    return InceptionScore(float(scores.mean()), float(scores.std(correction=0)))


def _probabilities(predictions: Tensor, kind: str) -> Tensor:
    """The probabilities p(y|x) of a part in float64, each row of sum 1."""
    p = predictions.detach().cpu().double()
    if not p.isfinite().all():
        raise ValueError("predictions hold values that are NaN or infinite: leave those samples out and say how many")
    if kind == "logits":
        return p.softmax(1)
    total = p.sum(1, keepdim=True)
    off = float((total - 1).abs().max())
    if off > _TOLERANCE or bool((p < 0).any()):
        raise ValueError(
            f"expected probabilities of at least 0 that sum to 1 for each sample, got a least of {float(p.min()):g} "
            f"and a sum that is off by {off:g}; are these logits?"
        )
    return p / total


def _information(p: Tensor) -> Tensor:
    """The mean divergence of the rows from their mean, in nats."""
    terms = torch.special.xlogy(p, p) - torch.special.xlogy(p, p.mean(0))
    # Rounding alone could make it negative.
    return terms.sum(1).mean().clamp(min=0)
