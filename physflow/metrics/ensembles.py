r"""Ensembles beside the truths they should hold.

In each case M members :math:`x_1, \dots, x_M` stand beside one truth y. The ensemble is exact if the truth is one more
draw of the law of its members, and then exchangeable with them, so that

* the rank of the truth, the number of members below it, is uniform on :math:`0, \dots, M` (`truth_ranks`);
* a central interval of level c holds the truth with probability c (`coverage`);
* the error of the ensemble's mean is as large as its spread (`spread_skill`):
  :math:`E(y - \bar x)^2 = \tfrac{M + 1}{M} E s^2`, with the variance :math:`s^2` of denominator M - 1.

These can hold for an ensemble that knows nothing of the case, such as draws of the climate. The continuous ranked
probability score sees both, the lower the better:

.. math:: \mathrm{CRPS} = \int (F(z) - 1[y \le z])^2\, dz = E |x - y| - \tfrac12 E |x - x'|,

with F the law of the members and x, x' independent draws of it. It has the unit of x and is :math:`|x - y|` for a
single number. Points of a field are judged one by one.

`moment_errors` compares samples with a law, of which other samples or the exact moments are known.

References:
    T. Gneiting, A. E. Raftery, "Strictly proper scoring rules, prediction, and estimation", Journal of the American
    Statistical Association 102, 2007, section 4.2.
    C. A. T. Ferro, "Fair scores for ensemble forecasts", Quarterly Journal of the Royal Meteorological Society 140,
    2014.
    V. Fortin et al., "Why should ensemble spread match the RMSE of the ensemble mean?", Journal of Hydrometeorology 15,
    2014.
    T. M. Hamill, "Interpretation of rank histograms for verifying ensemble forecasts", Monthly Weather Review 129,
    2001.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "MomentErrors",
    "SpreadSkill",
    "coverage",
    "crps",
    "moment_errors",
    "moment_floor",
    "rank_counts",
    "spread_skill",
    "truth_ranks",
]

# Of no seed that a user would take for what is judged: order drawn from the same numbers would depend on it.
_SEED = 0x52414E4B


def crps(ensemble: Tensor, truth: Tensor, fair: bool = True) -> Tensor:
    r"""The continuous ranked probability score of each truth.

    .. math:: \frac1M \sum_i |x_i - y| - \frac{1}{2 M D} \sum_{i, j} |x_i - x_j|, \qquad
              \sum_{i, j} |x_i - x_j| = 2 \sum_{k=1}^{M-1} k (M - k) (x_{(k+1)} - x_{(k)}),

    with the sorted members :math:`x_{(k)}`. The fair score has D = M - 1: its mean over ensembles is the score of the
    law they are drawn from, whatever M, so that ensembles of different sizes compare; one of them may be negative. The
    plain score has D = M and is that of the M values themselves.

    Arguments:
        ensemble: Members x, shape (members, cases, \*points), in any unit.
        truth: Truths y, shape (cases, \*points).
        fair: Whether to estimate the score of the law of the members (D = M - 1) or of the members (D = M).

    Returns:
        The scores, shape (cases, \*points), float64, in the unit of x.

    Raises:
        ValueError: If the shapes do not fit, there is nothing to judge, values are not finite, or there is a single
            member for the fair score.

    References:
        T. Gneiting, A. E. Raftery, 2007, equation 21; C. A. T. Ferro, 2014.
    """
    x, y = _judged(ensemble, truth, least=2 if fair else 1)
    m = len(x)
    # Sorting leaves sums of gaps, none negative: nothing cancels in a narrow ensemble far from the origin.
    x = x.sort(0).values
    k = torch.arange(1, m, dtype=x.dtype).reshape(-1, *[1] * y.ndim)
    pairs = 2 * (k * (m - k) * x.diff(dim=0)).sum(0)
    return (x - y).abs().mean(0) - pairs / (2 * m * (m - 1 if fair else m))


@dataclass(frozen=True)
class SpreadSkill:
    r"""The error of an ensemble's mean beside its spread, in the unit of the members.

    Arguments:
        error: The root mean square of :math:`y - \bar x`.
        spread: The root mean square of :math:`\sqrt{(M + 1) / M}\, s`.
        ratio: Spread over error: about 1 for an exact ensemble, below 1 for one too sure of itself. Infinite if there
            is no error, NaN if there is no spread either.
    """

    error: float
    spread: float
    ratio: float


def spread_skill(ensemble: Tensor, truth: Tensor) -> SpreadSkill:
    r"""How far the ensemble's mean is from the truth, and how far its spread says.

    Arguments:
        ensemble: Members x, shape (members, cases, \*points), at least two members, in any unit.
        truth: Truths y, shape (cases, \*points).

    Returns:
        Error, spread and ratio; squares are averaged over cases and points.

    Raises:
        ValueError: If the shapes do not fit, there is nothing to judge, values are not finite, or there is a single
            member.

    References:
        V. Fortin et al., 2014.
    """
    x, y = _judged(ensemble, truth, least=2)
    error = (y - x.mean(0)).square().mean().sqrt()
    spread = ((len(x) + 1) / len(x) * x.var(0).mean()).sqrt()
    return SpreadSkill(float(error), float(spread), float(spread / error))


def truth_ranks(ensemble: Tensor, truth: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""The rank of each truth among its members: how many are below it.

    Of equal values the order is drawn at random, without which the ranks of an exact ensemble would not be uniform.

    Arguments:
        ensemble: Members x, shape (members, cases, \*points), in any unit.
        truth: Truths y, shape (cases, \*points).
        generator: Draws the order of equal values; without one, the same at every call.

    Returns:
        The ranks, shape (cases, \*points), whole numbers from 0 to M.

    Raises:
        ValueError: If the shapes do not fit, there is nothing to judge, or values are not finite.

    References:
        T. M. Hamill, 2001.
    """
    x, y = _judged(ensemble, truth)
    generator = torch.Generator().manual_seed(_SEED) if generator is None else generator
    u = torch.rand(y.shape, dtype=torch.float64, generator=generator)
    return (x < y).sum(0) + (u * ((x == y).sum(0) + 1)).long()


def rank_counts(ensemble: Tensor, truth: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""The rank histogram: how many truths have each rank.

    It is flat for an exact ensemble, but for chance; high at both ends for one too narrow, in the middle for one too
    wide, at one end for one off to one side. Neighbouring points of a field share their chance: what is far from flat
    is a matter of the cases, not of the cases times the points.

    Arguments:
        ensemble: Members x, shape (members, cases, \*points), in any unit.
        truth: Truths y, shape (cases, \*points).
        generator: Draws the order of equal values; without one, the same at every call.

    Returns:
        The counts, shape (members + 1,), whole numbers; their sum is the number of truths.

    Raises:
        ValueError: If the shapes do not fit, there is nothing to judge, or values are not finite.

    References:
        T. M. Hamill, 2001.
    """
    return torch.bincount(truth_ranks(ensemble, truth, generator).flatten(), minlength=len(ensemble) + 1)


def coverage(ensemble: Tensor, truth: Tensor, level: float) -> float:
    r"""The fraction of the truths inside the central interval of a level.

    The interval reaches from the quantile at :math:`a = (1 - c) / 2` to that at 1 - a. The sorted members
    :math:`x_{(k)}` are the quantiles at :math:`k / (M + 1)`, as an exact ensemble leaves a share of
    :math:`1 / (M + 1)` of the truths to each gap between two of them, and to either side of all. Where an end of the
    interval falls within a gap, a truth in that gap counts by the share of the gap that is inside,

    .. math:: (M + 1)\, \bigl| [\tfrac{r}{M + 1}, \tfrac{r + 1}{M + 1}] \cap [a, 1 - a] \bigr|

    for the rank r, or the mean of it over the ranks that equal values leave open. The expected coverage of an exact
    ensemble is therefore the level itself, for every M and level. Levels above :math:`(M - 1) / (M + 1)` reach beyond
    all members, where an ensemble says nothing but how many truths are there.

    Arguments:
        ensemble: Members x, shape (members, cases, \*points), in any unit.
        truth: Truths y, shape (cases, \*points).
        level: The level c, between 0 and 1.

    Returns:
        The fraction, over all cases and points.

    Raises:
        ValueError: If the shapes do not fit, there is nothing to judge, values are not finite, or the level does not
            lie between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}; 90 % is 0.9")
    x, y = _judged(ensemble, truth)
    a = (1 - level) / 2
    below, equal = (x < y).sum(0).double(), (x == y).sum(0)
    low, high = below / (len(x) + 1), (below + equal + 1) / (len(x) + 1)
    return float(((high.clamp(max=1 - a) - low.clamp(min=a)).clamp(min=0) / (high - low)).mean())


@dataclass(frozen=True)
class MomentErrors:
    """The errors of the first two moments of samples, relative to the moments of a reference; without unit.

    Arguments:
        mean: That of the mean; infinite where the reference has mean 0 everywhere (NaN if the samples have it too).
        std: That of the standard deviations; infinite or NaN where the reference has none.
    """

    mean: float
    std: float


def moment_errors(samples: Tensor, reference: Tensor | tuple[Tensor, Tensor]) -> MomentErrors:
    r"""The relative errors of the mean field and of the field of standard deviations.

    .. math:: \frac{|m - m_{ref}|_2}{|m_{ref}|_2}, \qquad \frac{|s - s_{ref}|_2}{|s_{ref}|_2}

    over the points, with m and s the mean and the standard deviation (of denominator n - 1) at each point.

    Arguments:
        samples: Samples, shape (n, \*points), at least two, in any unit.
        reference: Samples of the law, shape (n', \*points), at least two; or its mean and its standard deviation, each
            of shape (\*points).

    Returns:
        Both errors. Samples of the law itself have errors too: see `moment_floor`.

    Raises:
        ValueError: If the shapes do not fit, there are fewer than two samples or no points, or values are not finite.
    """
    m, s = _moments("samples", samples)
    if isinstance(reference, Tensor):
        m_ref, s_ref = _moments("reference samples", reference)
    else:
        m_ref, s_ref = (part.detach().cpu().double() for part in reference)
    if not m.shape == m_ref.shape == s_ref.shape:
        raise ValueError(
            f"expected samples and a reference with points of one shape, got {tuple(m.shape)} and "
            f"{tuple(m_ref.shape)} (mean), {tuple(s_ref.shape)} (std)"
        )
    _check_finite("the reference's moments", m_ref, s_ref)
    norm = torch.linalg.vector_norm
    return MomentErrors(float(norm(m - m_ref) / norm(m_ref)), float(norm(s - s_ref) / norm(s_ref)))


def moment_floor(reference: Tensor, generator: torch.Generator | None = None) -> MomentErrors:
    r"""The errors that samples of the law itself have: those of one random half of it against the other half.

    That is what n / 2 samples have against as many. From n samples against n others expect :math:`1 / \sqrt 2` of it,
    from n against exact moments one half.

    Arguments:
        reference: Samples of the law, shape (n, \*points), at least four, in any unit.
        generator: Draws the halves; without one, the same at every call.

    Returns:
        Both errors.

    Raises:
        ValueError: If there are fewer than four samples or no points, or values are not finite.
    """
    half = len(reference) // 2 if reference.ndim else 0
    if half < 2:
        raise ValueError(
            f"expected four samples or more, for two halves with a spread, got shape {tuple(reference.shape)}"
        )
    generator = torch.Generator().manual_seed(_SEED) if generator is None else generator
    order = torch.randperm(len(reference), generator=generator).to(reference.device)
    return moment_errors(reference[order[:half]], reference[order[half:]])


def _moments(name: str, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation at each point, float64 on the CPU."""
    if samples.ndim < 1 or len(samples) < 2 or samples.numel() == 0:
        raise ValueError(f"expected two or more {name} of shape (n, *points), got {tuple(samples.shape)}")
    _check_finite(name, samples)
    x = samples.detach().cpu().double()
    return x.mean(0), x.std(0)


def _judged(ensemble: Tensor, truth: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    """Members (members, cases, *points) and truths (cases, *points), float64 on the CPU."""
    if ensemble.ndim < 2 or ensemble.shape[1:] != truth.shape:
        raise ValueError(
            "expected an ensemble of shape (members, cases, *points) and truths of shape (cases, *points), got "
            f"{tuple(ensemble.shape)} and {tuple(truth.shape)}; members come first, and truth[None] is one case"
        )
    if len(ensemble) < least or truth.numel() == 0:
        raise ValueError(
            f"expected {least} or more members and at least one truth, got {len(ensemble)} and {truth.numel()}"
        )
    _check_finite("ensemble or truth", ensemble, truth)
    return ensemble.detach().cpu().double(), truth.detach().cpu().double()


def _check_finite(name: str, *values: Tensor) -> None:
    if not all(torch.isfinite(value).all() for value in values):
        raise ValueError(f"{name} hold values that are NaN or infinite: leave those out and say how many")
