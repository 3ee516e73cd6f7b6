"""Measures of fields and of distributions: tensors in, numbers out."""

from physflow.metrics.nearest_neighbours import NearestRatio, nearest_distance, nearest_ratio
from physflow.metrics.parzen import parzen_bandwidth, parzen_log_density
from physflow.metrics.spectra import radial_spectrum
from physflow.metrics.straightness import Straightness, straightness
from physflow.metrics.velocity_spread import VelocitySpread, velocity_spread
from physflow.metrics.wasserstein import (
    Excess,
    Resampled,
    sinkhorn_wasserstein,
    sliced_wasserstein,
    wasserstein,
)

__all__ = [
    "Excess",
    "NearestRatio",
    "Resampled",
    "Straightness",
    "VelocitySpread",
    "nearest_distance",
    "nearest_ratio",
    "parzen_bandwidth",
    "parzen_log_density",
    "radial_spectrum",
    "sinkhorn_wasserstein",
    "sliced_wasserstein",
    "straightness",
    "velocity_spread",
    "wasserstein",
]
