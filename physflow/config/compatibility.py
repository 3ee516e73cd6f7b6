"""What settings of a model and of its training must agree on, said before any data are read."""

from __future__ import annotations

from physflow.config.model import ModelConfig
from physflow.config.training import TrainingConfig

__all__ = ["check_compatible"]


def check_compatible(model: ModelConfig, training: TrainingConfig) -> None:
    """Refuse a model and a training that cannot go together.

    Raises:
        ValueError: With the settings that disagree, and what to change.
    """
    latent = model.latent.kind
    if training.objective == "regression" and latent not in ("fields", "mixture"):
        raise ValueError(
            "objective='regression' predicts from a latent that is given: use latent.kind='fields' or 'mixture', got "
            f"latent.kind={latent!r}"
        )
    if training.objective == "consistency" and latent != "none":
        raise ValueError(
            f"objective='consistency' trains a velocity without a latent: use latent.kind='none', got {latent!r}"
        )
    if training.coupling != "independent" and latent != "none":
        raise ValueError(
            f"coupling={training.coupling!r} ties the noise to the data, and so to the latent, but generation draws "
            f"the two apart: use coupling='independent' with latent.kind={latent!r}"
        )
    fades = model.precondition == "input" and training.objective != "regression"
    if fades and (training.prediction != "data" or training.coupling != "independent"):
        raise ValueError(
            "precondition='input' is for predictions of the data from independent noise: use prediction='data' and "
            f"coupling='independent', got {training.prediction!r} and {training.coupling!r}"
        )
    if training.source == "gaussian-process" and model.space == "pod":
        raise ValueError("source='gaussian-process' is noise over the grid and needs space='pixel', got space='pod'")
