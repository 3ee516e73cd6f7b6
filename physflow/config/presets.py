"""Published settings by name: model and training of image benchmarks and of Darcy pairs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from physflow.config.checks import one_of
from physflow.config.conversion import from_dict
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
        changed: Settings of the training in place of the published ones, but for those that are None.

    Raises:
        ValueError: If the name is unknown, or a setting out of its range.
    """
    presets = builtin_presets()
    one_of("preset", name, presets)
    values = yaml.safe_load(presets[name].read_text())
    training = from_dict(TrainingConfig, values["training"], "training")
    given = {key: value for key, value in changed.items() if value is not None}
    return from_dict(ModelConfig, values["model"], "model"), dataclasses.replace(training, **given)
