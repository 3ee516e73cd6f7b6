"""Figures of fields, flows, latents and training; an experiment, or the results of benchmarks, as one HTML file."""

from physflow.report.benchmarks import write_benchmarks
from physflow.report.conditioning import write_conditioning
from physflow.report.figures import (
    gallery,
    marginal,
    score_boxes,
    spectrum,
    spread_maps,
    training_curve,
)
from physflow.report.flow_figures import (
    plot_coupling,
    plot_trajectories,
    plot_trajectories_3d,
    plot_velocity_spread,
)
from physflow.report.html import write_report
from physflow.report.latent_figures import plot_one_latent, plot_rate, plot_traversal
from physflow.report.loss_figures import plot_losses

__all__ = [
    "gallery",
    "marginal",
    "plot_coupling",
    "plot_losses",
    "plot_one_latent",
    "plot_rate",
    "plot_trajectories",
    "plot_trajectories_3d",
    "plot_traversal",
    "plot_velocity_spread",
    "score_boxes",
    "spectrum",
    "spread_maps",
    "training_curve",
    "write_benchmarks",
    "write_conditioning",
    "write_report",
]
