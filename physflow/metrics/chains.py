r"""Whether Markov chains have mixed, and how many independent draws theirs are worth.

M chains of N draws each have the within-chain variance W, the mean of the chains' variances (of denominator N - 1), and
the between-chain variance B / N, the variance of the chains' means. The variance of the target is estimated by

.. math:: \widehat{\mathrm{var}}^+ = \frac{N - 1}{N} W + \frac1N B, \qquad
          \hat R = \sqrt{\widehat{\mathrm{var}}^+ / W},

and :math:`\hat R` is 1 for chains that have all seen the same law; above 1.01 they are not to be used. With the
autocovariance :math:`\gamma_{t,m}` of chain m at lag t (of denominator N), the autocorrelation of all is

.. math:: \hat\rho_t = 1 - \frac{W - \frac1M \sum_m \gamma_{t,m}}{\widehat{\mathrm{var}}^+}, \qquad
          \mathrm{ESS} = \frac{M N}{\hat\tau}, \qquad \hat\tau = -1 + 2 \sum_{k=0}^{K} \hat P_k,

with :math:`\hat P_k = \hat\rho_{2k} + \hat\rho_{2k+1}`. For a reversible chain the exact :math:`P_k` are positive and
fall, so the sum ends before the first :math:`\hat P_k` that is not positive, and each term is lowered to the least of
those before it (Geyer's initial monotone sequence). The mean of the draws has the variance of the target over ESS.

Every chain is split in two halves, which are taken as chains, so that a drift within a chain is seen; of an odd number
of draws the middle one is left out. The rank-normalised draws are :math:`\Phi^{-1}((r - 3/8) / (S + 1/4))`, with r the
rank among all S (mean ranks for equal values): what is said of them holds for laws without a mean or a variance too.

References:
    A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Bürkner, "Rank-normalization, folding, and localization: an
    improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16, 2021, sections 3 and 4.
    C. J. Geyer, "Practical Markov chain Monte Carlo", Statistical Science 7, 1992, section 3.3.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from scipy import fft
from scipy.special import ndtri
from scipy.stats import rankdata
from torch import Tensor

__all__ = ["effective_sample_size", "split_r_hat"]


def split_r_hat(draws: Tensor, rank: bool = True) -> Tensor:
    r"""The potential scale reduction :math:`\hat R` of split chains, for each parameter.

    With ranks it is the larger of two: that of the rank-normalised draws, which sees chains in different places, and
    that of the rank-normalised distances :math:`|\theta - \mathrm{median}|`, which sees chains of different widths.

    Arguments:
        draws: Draws, shape (chains, draws, \*parameters), at least one chain of four draws, in any unit. A single chain
            is judged by its halves, which says little.
        rank: Whether to normalise by ranks, or to take the draws as they are (and their place only).

    Returns:
        :math:`\hat R`, shape (\*parameters), float64. Infinite if every half of a chain is stuck, not all at one value;
        NaN if all draws are equal.

    Raises:
        ValueError: If there is no chain of four draws, there are no parameters, or values are not finite.

    References:
        A. Vehtari et al., 2021, section 4.
    """
    x = _split(draws)
    if rank:
        middle = np.median(x, axis=(0, 1), keepdims=True)
        r_hat = np.fmax(_r_hat(_normal_scores(x)), _r_hat(_normal_scores(np.abs(x - middle))))
    else:
        r_hat = _r_hat(x)
    return torch.from_numpy(r_hat).reshape(draws.shape[2:])


def effective_sample_size(draws: Tensor, rank: bool = True) -> Tensor:
    r"""How many independent draws would do as well, for each parameter.

    Arguments:
        draws: Draws, shape (chains, draws, \*parameters), at least one chain of four draws, in any unit.
        rank: Whether to normalise by ranks, which gives the bulk ESS: that of statements about the middle of the law.
            Without, the ESS of the mean: the standard error of the mean of all draws is their standard deviation over
            its square root.

    Returns:
        ESS, shape (\*parameters), float64. It exceeds the number S of draws where successive draws balance each other,
        and is kept to :math:`S \log_{10} S`. NaN if every half of a chain is stuck.

    Raises:
        ValueError: If there is no chain of four draws, there are no parameters, or values are not finite.

    References:
        A. Vehtari et al., 2021, sections 3 and 4; C. J. Geyer, 1992, section 3.3.
    """
    x = _split(draws)
    if rank:
        x = _normal_scores(x)
    m, n = x.shape[:2]
    within, between = _variances(x)
    var_plus = (n - 1) / n * within + between
    stuck = within == 0
    rho = 1 - (within - _autocovariances(x).mean(0)) / np.where(stuck, 1.0, var_plus)
    # By its definition and not by the formula, which has (N - 1) / N of W there.
    rho[0] = 1
    pairs = rho[: n // 2 * 2].reshape(n // 2, 2, -1).sum(1)
    positive = np.logical_and.accumulate(pairs > 0, axis=0)
    tau = -1 + 2 * (np.minimum.accumulate(pairs, axis=0) * positive).sum(0)
    ess = m * n / np.maximum(tau, 1 / math.log10(m * n))
    return torch.from_numpy(np.where(stuck, np.nan, ess)).reshape(draws.shape[2:])


def _split(draws: Tensor) -> np.ndarray:
    """The halves of all chains, shape (2 chains, draws // 2, parameters), float64."""
    if draws.ndim < 2 or draws.shape[1] < 4 or draws.numel() == 0:
        raise ValueError(
            "expected draws of shape (chains, draws, *parameters) with four draws or more in a chain, got "
            f"{tuple(draws.shape)}; draws[None] is a single chain"
        )
    if not torch.isfinite(draws).all():
        raise ValueError("draws hold values that are NaN or infinite; find the steps that made them")
    x = draws.detach().cpu().double().reshape(*draws.shape[:2], -1).numpy()
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])


def _normal_scores(x: np.ndarray) -> np.ndarray:
    """The rank-normalised draws of each parameter, same shape (chains, draws, parameters)."""
    s = x.shape[0] * x.shape[1]
    ranks = rankdata(x.reshape(s, -1), axis=0)
    return cast(np.ndarray, ndtri((ranks - 3 / 8) / (s + 1 / 4))).reshape(x.shape)


def _variances(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The variances W and B / N of each parameter.

    They are taken of differences from a first draw and from a first mean: exactly 0 for chains that are stuck.
    """
    steps = x - x[:, :1]
    means = x[:, 0] + steps.mean(1)
    return steps.var(1, ddof=1).mean(0), (means - means[0]).var(0, ddof=1)


def _r_hat(x: np.ndarray) -> np.ndarray:
    r""":math:`\hat R` of each parameter, of chains as they are."""
    n = x.shape[1]
    within, between = _variances(x)
    ratio = np.divide(between, within, out=np.where(between > 0, np.inf, np.nan), where=within > 0)
    return np.sqrt((n - 1) / n + ratio)


def _autocovariances(x: np.ndarray) -> np.ndarray:
    """The autocovariances of each chain at all lags, of denominator N, same shape (chains, draws, parameters)."""
    n = x.shape[1]
    steps = x - x[:, :1]
    # Twice the length, so that no lag wraps around.
    length = fft.next_fast_len(2 * n, real=True)
    spectrum = fft.rfft(steps - steps.mean(1, keepdims=True), length, axis=1)
    return fft.irfft(np.abs(spectrum) ** 2, length, axis=1)[:, :n] / n
