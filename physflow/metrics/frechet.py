r"""The Fréchet distance of two sets of features, by their Gaussian statistics.

.. math:: d^2 = |\mu_1 - \mu_2|^2 + \mathrm{tr}\,\bigl(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2}\bigr)

is the square of the distance :math:`W_2` of the Gaussian laws with those means and covariances. Images are compared by
features that a network makes of them (`FeatureNetwork`); with those of Inception-v3 the number is known as FID. What
the features do not see, and what their first two moments do not tell, the distance does not see either.

The covariances of n samples err, and the distance of two sets of one law is not zero but about C / n, with a constant C
that depends on the law: only distances from as many samples may be compared.

References:
    D. C. Dowson, B. V. Landau, "The Fréchet distance between multivariate normal distributions", Journal of
    Multivariate Analysis 12, 1982.
    M. Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS 2017.
    M. J. Chong, D. Forsyth, "Effectively unbiased FID and Inception Score and where to find them", CVPR 2020.
    T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance: analysis and
    recommendations", The American Statistician 37, 1983.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["FeatureStatistics", "feature_statistics", "frechet_distance"]

# Samples whose float64 copy is held at a time.
_ROWS = 8192
# How far a covariance may be from a symmetric one without negative eigenvalues, relative to its largest entry or
# eigenvalue: what rounding leaves of one that was computed in float32.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class FeatureStatistics:
    r"""The Gaussian statistics of a set of features, in float64 on the CPU.

    Attributes:
        mean: :math:`\mu`, shape (d,).
        covariance: :math:`\Sigma` with n - 1 in the denominator, shape (d, d).
        count: The number n of samples; None where a file does not tell.

    Raises:
        ValueError: If the shapes do not fit, values are not finite, the covariance is not symmetric, or there are fewer
            than 2 samples.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "covariance"):
            object.__setattr__(self, name, getattr(self, name).detach().cpu().double())
        d = self.mean.numel()
        if self.mean.shape != (d,) or not d or self.covariance.shape != (d, d):
            raise ValueError(
                "expected a mean of shape (d,) and a covariance of shape (d, d) with d >= 1, got "
                f"{tuple(self.mean.shape)} and {tuple(self.covariance.shape)}"
            )
        if not (self.mean.isfinite().all() and self.covariance.isfinite().all()):
            raise ValueError("the mean or the covariance holds values that are NaN or infinite; compute them again")
        skew = float((self.covariance - self.covariance.T).abs().max())
        if skew > _ROUNDING * float(self.covariance.abs().max()):
            raise ValueError(
                f"expected a symmetric covariance, got entries that differ by {skew:g} from those across the diagonal; "
                "is it the root or a factor of one?"
            )
        if self.count is not None and self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got count={self.count}")

    def save(self, path: str | Path) -> None:
        """Write an .npz file with the keys mu, sigma and, where it is known, count.

        Arguments:
            path: The file, written under exactly this name.
        """
        mu, sigma = self.mean.numpy(), self.covariance.numpy()
        with Path(path).open("wb") as file:
            if self.count is None:
                np.savez(file, mu=mu, sigma=sigma)
            else:
                np.savez(file, mu=mu, sigma=sigma, count=np.int64(self.count))

    @classmethod
    def load(cls, path: str | Path) -> FeatureStatistics:
        """Read a file that `save` wrote, or one of published statistics, which holds mu and sigma alone.

        Objects that Python would have to unpickle are refused.

        Arguments:
            path: The .npz file.

        Returns:
            The statistics.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not an .npz file, lacks mu or sigma, or what it holds is not a mean and a covariance.
        """
        with Path(path).open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError(f"{path} is not an .npz file, or only a part of one")
        with np.load(path, allow_pickle=False) as arrays:
            if not {"mu", "sigma"} <= set(arrays.files):
                raise ValueError(
                    f"{path} holds {', '.join(sorted(arrays.files)) or 'nothing'}; expected the statistics mu and sigma"
                )
            try:
                mean, covariance = (torch.from_numpy(arrays[key].astype(np.float64)) for key in ("mu", "sigma"))
                count = int(arrays["count"]) if "count" in arrays.files else None
                return cls(mean, covariance, count)
            except (ValueError, TypeError, zipfile.BadZipFile) as error:
                raise ValueError(f"{path} does not hold the statistics of features: {error}") from error


def feature_statistics(batches: Iterable[Tensor]) -> FeatureStatistics:
    r"""The mean and covariance of features, of which one batch at a time is held.

    Of two parts with counts :math:`n_a, n_b`, means :math:`\mu_a, \mu_b` and sums of squared deviations
    :math:`M_a, M_b`,

    .. math:: M = M_a + M_b + \frac{n_a n_b}{n_a + n_b} (\mu_b - \mu_a)(\mu_b - \mu_a)^T, \qquad
              \mu = \mu_a + \frac{n_b}{n_a + n_b} (\mu_b - \mu_a),

    and :math:`\Sigma = M / (n - 1)`: a mean far from zero costs no digits, as it does to a sum of squares.

    Arguments:
        batches: Features, each of shape (batch, d); a tensor of shape (n, d) is a single batch.

    Returns:
        Their statistics.

    Raises:
        ValueError: If a batch is not of that shape or holds values that are not finite, the dimensions differ, or there
            are fewer than 2 samples.

    References:
        T. F. Chan, G. H. Golub, R. J. LeVeque, 1983.
    """
    count, mean, squares = 0, torch.empty(0), torch.empty(0)
    for index, batch in enumerate([batches] if isinstance(batches, Tensor) else batches):
        if batch.ndim != 2 or not batch.shape[1]:
            raise ValueError(
                f"expected features of shape (batch, d), got {tuple(batch.shape)} in batch {index}; "
                "what has further axes must be pooled or flattened first"
            )
        if not index:
            d = batch.shape[1]
            mean, squares = torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
        elif batch.shape[1] != len(mean):
            raise ValueError(f"expected {len(mean)} features as in the batches before, got {batch.shape[1]} in {index}")
        for block in batch.detach().split(_ROWS) if len(batch) else ():
            x = block.cpu().double()
            if not x.isfinite().all():
                raise ValueError(
                    f"batch {index} holds features that are NaN or infinite: leave those samples out and say how many"
                )
            n, centre = len(x), x.mean(0)
            x = x - centre
            shift = centre - mean
            squares += x.T @ x + torch.outer(shift, shift) * (count * n / (count + n))
            mean += shift * (n / (count + n))
            count += n
    if count < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {count}; are the batches used up already?")
    return FeatureStatistics(mean, (squares + squares.T) / (2 * (count - 1)), count)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    r"""The Fréchet distance :math:`d^2` of two sets of features.

    With factors :math:`\Sigma_i = A_i A_i^T`, of which the eigenvectors give one each, the trace of the root is the sum
    of the singular values of :math:`A_1^T A_2`. Both sets enter alike, nothing can turn complex, and a singular
    covariance only has a factor with fewer columns.

    Arguments:
        a: Statistics of a set.
        b: Statistics of another, by the same network.

    Returns:
        The distance, in the square of the unit of the features; published values of FID are this number, not its root.

    Raises:
        TypeError: If either is no statistics.
        ValueError: If the numbers of features differ or a covariance has a negative eigenvalue.

    Warns:
        UserWarning: If a set has no more samples than features: its covariance is singular.

    References:
        D. C. Dowson, B. V. Landau, 1982; M. Heusel et al., 2017.
    """
    for statistics in (a, b):
        if not isinstance(statistics, FeatureStatistics):
            raise TypeError(
                f"expected the statistics of features, got {type(statistics).__name__}; feature_statistics makes "
                "them of the features that a FeatureNetwork makes of images"
            )
    d = len(a.mean)
    if len(b.mean) != d:
        raise ValueError(f"expected as many features in both sets, got {d} and {len(b.mean)}; are they of one network?")
    few = [str(s.count) for s in (a, b) if s.count is not None and s.count <= d]
    if few:
        warnings.warn(
            f"{' and '.join(few)} samples of {d} features have a singular covariance, and the distance is biased; "
            f"take many more than {d} samples, and compare only distances from as many",
            UserWarning,
            stacklevel=2,
        )
    shift = (a.mean - b.mean).square().sum()
    cross = torch.linalg.svdvals(_factor(a.covariance).T @ _factor(b.covariance)).sum()
    # Rounding alone could make it negative.
    return max(float(shift + a.covariance.trace() + b.covariance.trace() - 2 * cross), 0.0)


def _factor(covariance: Tensor) -> Tensor:
    """A factor A of the covariance A A^T, shape (d, rank)."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    least, most = float(values[0]), float(values.abs().max())
    if least < -_ROUNDING * most:
        raise ValueError(
            f"a covariance has no negative eigenvalues, got {least:g} beside a largest of {float(values[-1]):g}; "
            "compute it in float64, as feature_statistics does"
        )
    # Eigenvalues that are rounding have roots of 1e-8 of the largest, which many of them would add up.
    kept = values > len(values) * torch.finfo(values.dtype).eps * most
    return vectors[:, kept] * values[kept].sqrt()
