r"""Whether posteriors are calibrated, judged by draws of them for many simulated cases.

In each case a parameter :math:`\theta^*` is drawn from the prior, an observation x from its likelihood, and
:math:`\theta_1, \dots, \theta_L` from the posterior in question. If that is :math:`p(\theta \mid x)`, the truth is
exchangeable with the draws, and the rank of any number computed of it among the same of the draws is uniform on
:math:`0, \dots, L`:

* simulation-based calibration takes each parameter by itself (`simulation_ranks`, `uniformity`);
* TARP takes the distance from a random point :math:`\theta_r`, and so all parameters together (`tarp_coverage`). The
  fraction of the truths nearer than the fraction :math:`\alpha` of the draws is the expected coverage of the ball about
  :math:`\theta_r` of credibility :math:`\alpha`, which is :math:`\alpha` for an exact posterior.

Calibration is not exactness. The prior, drawn whatever x says, passes both; with points :math:`\theta_r` that depend on
x, such as a rough estimate of :math:`\theta`, TARP sees it. The draws of a case must be independent: thin chains
(`physflow.metrics.effective_sample_size`), or the ranks pile up for that reason alone.

References:
    S. Talts, M. Betancourt, D. Simpson, A. Vehtari, A. Gelman, "Validating Bayesian inference algorithms with
    simulation-based calibration", 2018.
    P. Lemos, A. Coogan, Y. Hezaveh, L. Perreault-Levasseur, "Sampling-based accuracy testing of posterior estimators
    for general inference", ICML 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from physflow.metrics.ensembles import truth_ranks

__all__ = ["TarpCoverage", "simulation_ranks", "tarp_coverage", "tarp_error", "uniformity"]

# The least expected count of a bin for which the statistic's law is close to chi-square.
_LEAST = 5
# More bins see finer structure and see a smooth fault, a bias or a wrong width, less.
_BINS = 20
# Of no seed that a user would take for the truths: points drawn from the same numbers would know them.
_SEED = 0x54415250


def simulation_ranks(draws: Tensor, truths: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""The rank of each true parameter among the draws of its posterior, :math:`\#\{l : \theta_l < \theta^*\}`.

    Arguments:
        draws: Draws :math:`\theta_l`, shape (cases, draws, \*parameters), in any unit.
        truths: True parameters :math:`\theta^*`, shape (cases, \*parameters).
        generator: Draws the order of equal values; without one, the same at every call.

    Returns:
        The ranks, shape (cases, \*parameters), whole numbers from 0 to L.

    Raises:
        ValueError: If the shapes do not fit, there are no draws or truths, or values are not finite.

    References:
        S. Talts et al., 2018, algorithm 1.
    """
    _check_shapes(draws, truths)
    return truth_ranks(draws.movedim(1, 0), truths, generator)


def uniformity(ranks: Tensor, draws: int, bins: int | None = None) -> Tensor:
    r"""The p-value of the chi-square test that ranks are uniform on :math:`0, \dots, L`, for each parameter.

    The rank r belongs to the bin :math:`\lfloor r B / (L + 1) \rfloor` of B. Where L + 1 is no multiple of B, the bins
    hold numbers of ranks that differ by one, and expect counts in proportion: no rank is left out.

    The p-value of an exact posterior is uniform in [0, 1]. Of P parameters the smallest is expected at about 1 / P:
    compare it with a level divided by P.

    Arguments:
        ranks: Ranks, shape (cases, \*parameters), whole numbers.
        draws: The number L of draws that they are ranks among.
        bins: The number B of bins; by default the most, up to 20, that expect 5 cases or more in each.

    Returns:
        The p-values, shape (\*parameters), float64.

    Raises:
        TypeError: If the ranks are not of a type of whole numbers.
        ValueError: If there are no ranks or draws, a rank lies outside 0 to L, there are fewer than two bins or more
            than L + 1, or a bin expects fewer than 5 cases.

    References:
        S. Talts et al., 2018 (the uniform law of the ranks).
    """
    if ranks.is_floating_point() or ranks.is_complex() or ranks.dtype == torch.bool:
        raise TypeError(f"expected ranks as whole numbers, got {ranks.dtype}; see simulation_ranks")
    if ranks.ndim < 1 or ranks.numel() == 0:
        raise ValueError(f"expected ranks of shape (cases, *parameters), at least one, got {tuple(ranks.shape)}")
    if draws < 1:
        raise ValueError(f"expected ranks among one draw or more, got draws={draws}")
    low, high = int(ranks.min()), int(ranks.max())
    if low < 0 or high > draws:
        raise ValueError(
            f"ranks among {draws} draws lie in 0 to {draws}, got some between {low} and {high}; draws is L, not L + 1"
        )
    cases, most = len(ranks), draws + 1

    def least(bins: int) -> float:
        return cases * (most // bins) / most

    if bins is None:
        bins = next((b for b in range(min(most, _BINS), 1, -1) if least(b) >= _LEAST), 2)
    if not 2 <= bins <= most:
        raise ValueError(f"expected 2 to {most} bins for {draws} draws, got {bins}")
    if least(bins) < _LEAST:
        raise ValueError(
            f"expected {_LEAST} cases or more in each of {bins} bins, but {cases} cases leave {least(bins):g} in one; "
            "take fewer bins or more cases"
        )
    index = ranks.detach().cpu().long().reshape(cases, -1)
    parameters = index.shape[1]
    flat = index * bins // most + bins * torch.arange(parameters)
    observed = torch.bincount(flat.flatten(), minlength=bins * parameters).reshape(parameters, bins).double()
    share = torch.bincount(torch.arange(most) * bins // most).double() / most
    p_values = stats.chisquare(observed.numpy(), (cases * share).expand_as(observed).numpy(), axis=1).pvalue
    return torch.from_numpy(np.asarray(p_values)).reshape(ranks.shape[1:])


@dataclass(frozen=True)
class TarpCoverage:
    r"""The expected coverage of balls about random points, by credibility level.

    Arguments:
        levels: The levels :math:`\alpha_k = k / (L + 1)`, :math:`k = 0, \dots, L + 1`, shape (draws + 2,). At these the
            mean of the coverage of an exact posterior is the level itself, however few draws there are.
        coverage: The expected coverage probability at each level, same shape, from 0 to 1. A posterior too narrow has
            it nearer to 1/2 than the level, one too wide the opposite; for a biased one it is on one side.
        cases: The number of cases.
    """

    levels: Tensor
    coverage: Tensor
    cases: int


def tarp_coverage(
    draws: Tensor, truths: Tensor, references: Tensor | None = None, generator: torch.Generator | None = None
) -> TarpCoverage:
    r"""Expected coverage probabilities by tests of accuracy with random points.

    .. math:: \mathrm{ECP}(\alpha_k) = \frac1N \#\bigl\{ i : \#\{ l : |\theta_{il} - \theta_{ri}| <
              |\theta^*_i - \theta_{ri}| \} < k \bigr\}

    The distance is Euclidean after division of each parameter by its standard deviation over the truths and draws of
    all cases. Truths and draws enter it alike: the truth of an exact posterior remains exchangeable.

    Arguments:
        draws: Draws :math:`\theta_{il}`, shape (cases, draws, \*parameters), in any unit.
        truths: True parameters :math:`\theta^*_i`, shape (cases, \*parameters).
        references: The points :math:`\theta_{ri}`, shape (cases, \*parameters), in the unit of the parameters. They may
            depend on the observations, not on the truths. By default uniform within two standard deviations of the
            mean, over the truths and draws of all cases.
        generator: Draws these points and the order of equal distances; without one, the same at every call. It must not
            start from the seed that drew the truths: points made of the same numbers know them.

    Returns:
        Levels and coverage.

    Raises:
        ValueError: If the shapes do not fit, there are no draws or truths, or values are not finite.

    References:
        P. Lemos et al., 2023.
    """
    _check_shapes(draws, truths)
    if references is not None and references.shape != truths.shape:
        raise ValueError(
            f"expected one reference for each truth, of shape {tuple(truths.shape)}, got {tuple(references.shape)}"
        )
    generator = torch.Generator().manual_seed(_SEED) if generator is None else generator
    cases, count = draws.shape[:2]
    theta = torch.cat([truths[:, None], draws], 1).detach().cpu().double().reshape(cases, count + 1, -1)
    std, mean = torch.std_mean(theta, (0, 1), correction=0)
    # A parameter that never varies adds the same to all distances of a case; its deviation is 0 or rounding.
    scale = torch.where(theta.amax((0, 1)) > theta.amin((0, 1)), std, 1.0)
    theta = (theta - mean) / scale
    if references is None:
        theta_r = 4 * torch.rand(cases, theta.shape[2], dtype=theta.dtype, generator=generator) - 2
    else:
        theta_r = (references.detach().cpu().double().reshape(cases, -1) - mean) / scale
    # Differences rather than scalar products: a truth that equals a draw is exactly as far.
    distances = torch.cdist(theta, theta_r[:, None], compute_mode="donot_use_mm_for_euclid_dist")[..., 0]
    ranks = truth_ranks(distances[:, 1:].T, distances[:, 0], generator)
    below = torch.bincount(ranks, minlength=count + 1).cumsum(0)
    ecp = torch.cat([below.new_zeros(1), below]).double() / cases
    return TarpCoverage(torch.arange(count + 2, dtype=torch.float64) / (count + 1), ecp, cases)


def tarp_error(found: TarpCoverage) -> tuple[float, float]:
    r"""The largest deviation of the coverage from the level, and how likely as large a one is by chance.

    .. math:: D = \max_k |\mathrm{ECP}(\alpha_k) - \alpha_k|

    is the statistic of Kolmogorov and Smirnov, of which only the values at the levels are known. The p-value is that of
    the statistic over all levels, which is never smaller: it errs on the safe side, the less the more draws there are.

    Arguments:
        found: Levels and coverage, as `tarp_coverage` returns them.

    Returns:
        The deviation D, and the p-value: the probability, for an exact posterior, of a deviation of D or more.

    References:
        P. Lemos et al., 2023 (the coverage); A. N. Kolmogorov, 1933 (the statistic).
    """
    error = float((found.coverage - found.levels).abs().max())
    return error, float(stats.kstwo.sf(error, found.cases))


def _check_shapes(draws: Tensor, truths: Tensor) -> None:
    if draws.ndim < 2 or draws.shape[:1] + draws.shape[2:] != truths.shape:
        raise ValueError(
            "expected draws of shape (cases, draws, *parameters) and truths of shape (cases, *parameters), got "
            f"{tuple(draws.shape)} and {tuple(truths.shape)}; the draws of a case are the second axis"
        )
    if draws.numel() == 0:
        raise ValueError(f"expected draws and truths, got none: draws of shape {tuple(draws.shape)}")
