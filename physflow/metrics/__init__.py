"""Measures of fields and of distributions: tensors in, numbers out."""

from physflow.metrics.calibration import TarpCoverage, simulation_ranks, tarp_coverage, tarp_error, uniformity
from physflow.metrics.chains import effective_sample_size, split_r_hat
from physflow.metrics.energy import EnergyTest, energy_distance, energy_test
from physflow.metrics.ensembles import (
    MomentErrors,
    SpreadSkill,
    coverage,
    crps,
    moment_errors,
    moment_floor,
    rank_counts,
    spread_skill,
    truth_ranks,
)
from physflow.metrics.features import FeatureNetwork
from physflow.metrics.frechet import FeatureStatistics, feature_statistics, frechet_distance
from physflow.metrics.images import grey_to_colour, inception_input, quantise, resize_as_tensorflow1
from physflow.metrics.inception_score import InceptionScore, inception_score
from physflow.metrics.kernels import mmd
from physflow.metrics.marginals import coefficients, coefficients_distance, w1
from physflow.metrics.nearest_neighbours import NearestRatio, nearest_distance, nearest_ratio
from physflow.metrics.parzen import parzen_bandwidth, parzen_log_density
from physflow.metrics.spectra import log_spectrum, radial_spectrum, spectrum_distance, spectrum_ratio
from physflow.metrics.straightness import Straightness, straightness
from physflow.metrics.support import Support, support
from physflow.metrics.variograms import VariogramFit, variogram, variogram_fit
from physflow.metrics.velocity_spread import VelocitySpread, velocity_spread
from physflow.metrics.wasserstein import (
    Excess,
    Resampled,
    sinkhorn_wasserstein,
    sliced_wasserstein,
    wasserstein,
)

__all__ = [
    "EnergyTest",
    "Excess",
    "FeatureNetwork",
    "FeatureStatistics",
    "InceptionScore",
    "MomentErrors",
    "NearestRatio",
    "Resampled",
    "SpreadSkill",
    "Straightness",
    "Support",
    "TarpCoverage",
    "VariogramFit",
    "VelocitySpread",
    "coefficients",
    "coefficients_distance",
    "coverage",
    "crps",
    "effective_sample_size",
    "energy_distance",
    "energy_test",
    "feature_statistics",
    "frechet_distance",
    "grey_to_colour",
    "inception_input",
    "inception_score",
    "log_spectrum",
    "mmd",
    "moment_errors",
    "moment_floor",
    "nearest_distance",
    "nearest_ratio",
    "parzen_bandwidth",
    "parzen_log_density",
    "quantise",
    "radial_spectrum",
    "rank_counts",
    "resize_as_tensorflow1",
    "simulation_ranks",
    "sinkhorn_wasserstein",
    "sliced_wasserstein",
    "spectrum_distance",
    "spectrum_ratio",
    "split_r_hat",
    "spread_skill",
    "straightness",
    "support",
    "tarp_coverage",
    "tarp_error",
    "truth_ranks",
    "uniformity",
    "variogram",
    "variogram_fit",
    "velocity_spread",
    "w1",
    "wasserstein",
]
