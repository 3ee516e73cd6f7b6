"""Measures of fields and of distributions: tensors in, numbers out."""

from physflow.metrics.spectra import radial_spectrum

__all__ = ["radial_spectrum"]
