"""Published settings by name: model and training of image benchmarks and of Darcy pairs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from physflow.config.checks import one_of
from physflow.config.conversion import from_dict, to_dict
from physflow.config.model import ModelConfig
from physflow.config.training import TrainingConfig

__all__ = ["builtin_presets", "preset"]


def builtin_presets() -> dict[str, Path]:
    """The settings of published models that ship with physflow: name and YAML file of a model and its training."""
    return {path.stem: path for path in sorted((Path(__file__).parent.parent / "presets").glob("*.yaml"))}


def preset(name: str, **changed: Any) -> tuple[ModelConfig, TrainingConfig]:
    """The settings of a published model and of its training.

    Arguments:
        name: The name, such as ``"cifar10-i-cfm"``.
        changed: Settings of the training in place of the published ones, but for those that are None. Other `steps`
            change the steps of the warm-up, and of an autoencoder trained before, in proportion.

    Raises:
        ValueError: If a name is unknown, or a setting out of its range.
    """
    presets = builtin_presets()
    one_of("preset", name, presets)
    values = yaml.safe_load(presets[name].read_text())
    model = from_dict(ModelConfig, values["model"], "model")
    training = from_dict(TrainingConfig, values["training"], "training")
    given = {key: value for key, value in changed.items() if value is not None}
    for key in given:
        one_of("setting of a training", key, to_dict(training))
    wanted = dataclasses.replace(training, **given)
    share = wanted.steps / training.steps
    if "warmup" not in given:
        wanted = dataclasses.replace(wanted, warmup=round(share * training.warmup))
    if model.latent.kind == "vae":
        steps = max(1, round(share * model.latent.pretraining_steps))
        model = dataclasses.replace(model, latent=dataclasses.replace(model.latent, pretraining_steps=steps))
    return model, wanted
