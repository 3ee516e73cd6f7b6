"""The baselines of an experiment: models trained on the same data, which the report shows beside the experiment's own.

Each has a folder under ``baselines/`` with its model and its samples, scored.
"""

from __future__ import annotations

from pathlib import Path

from physflow.config import BaselineConfig, FieldsConfig
from physflow.data import files
from physflow.fitting import train_model
from physflow.model import load

__all__ = ["folder_of", "sample_baseline", "train_baseline"]


def folder_of(out: Path, baseline: BaselineConfig) -> Path:
    """The folder of a baseline in the folder of an experiment."""
    return out / "baselines" / baseline.folder


def train_baseline(out: Path, baseline: BaselineConfig, generator: FieldsConfig, progress: bool = False) -> None:
    """Train a baseline on the data of an experiment, or go on where that was interrupted.

    Arguments:
        out: The folder of the experiment.
        baseline: The settings.
        generator: The settings that made the data.
        progress: Whether to show progress bars.
    """
    train_model(
        out / "data.nc",
        folder_of(out, baseline) / "model",
        model=baseline.model,
        training=baseline.training,
        generator=generator,
        sampling=baseline.sampling,
        progress=progress,
    )


def sample_baseline(out: Path, baseline: BaselineConfig, progress: bool = False) -> None:
    """Draw and score the samples of a trained baseline.

    Arguments:
        out: The folder of the experiment.
        baseline: The settings.
        progress: Whether to show a progress bar.
    """
    folder, sampling = folder_of(out, baseline), baseline.sampling
    ds = load(folder / "model").sample(
        sampling.samples, sampling.seed, sampling.solver, sampling.steps, progress=progress
    )
    files.write(ds, folder / "samples.nc", overwrite=True)
