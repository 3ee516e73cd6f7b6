"""Figures that set generated fields beside data, and the report of an experiment as one HTML file."""

from physflow.report.figures import (
    gallery,
    marginal,
    score_boxes,
    spectrum,
    spread_maps,
    training_curve,
)
from physflow.report.html import write_report

__all__ = [
    "gallery",
    "marginal",
    "score_boxes",
    "spectrum",
    "spread_maps",
    "training_curve",
    "write_report",
]
