"""Measures of fields and of distributions: tensors in, numbers out."""

from physflow.metrics.nearest_neighbours import NearestRatio, nearest_distance, nearest_ratio
from physflow.metrics.spectra import radial_spectrum
from physflow.metrics.straightness import Straightness, straightness
from physflow.metrics.velocity_spread import VelocitySpread, velocity_spread

__all__ = [
    "NearestRatio",
    "Straightness",
    "VelocitySpread",
    "nearest_distance",
    "nearest_ratio",
    "radial_spectrum",
    "straightness",
    "velocity_spread",
]
