"""Settings of the samples and of a whole experiment."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from physflow.config.checks import at_least
from physflow.config.compatibility import check_compatible
from physflow.config.data import DataConfig
from physflow.config.fields import FieldsConfig
from physflow.config.model import ModelConfig
from physflow.config.training import TrainingConfig

__all__ = ["BaselineConfig", "ExperimentConfig", "SamplingConfig"]


@dataclass(frozen=True)
class SamplingConfig:
    """How fields are drawn from a trained model.

    Attributes:
        samples: Number of samples to draw.
        solver: Integrator of the flow (euler, midpoint, heun, rk4 or dopri5) or sampler of the diffusion (ddim, edm;
            euler-maruyama, stochastic-heun or predictor-corrector, which draw random numbers and need more steps).
        steps: Steps from noise to data.
        seed: Sample i depends on (seed, i) alone.
    """

    samples: int = 500
    solver: str = "heun"
    steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(0, samples=self.samples, seed=self.seed)
        at_least(1, steps=self.steps)


@dataclass(frozen=True)
class BaselineConfig:
    """A model that the report shows beside the experiment's own, trained on the same data.

    In a YAML file it states only what differs from the experiment.

    Attributes:
        name: Its name in the report.
        model: What the model sees, and its network.
        training: How it is trained.
        sampling: How samples are drawn from it.
    """

    name: str = "baseline"
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        check_compatible(self.model, self.training)
        if self.folder in ("", "this-experiment"):
            raise ValueError(
                f"a baseline's name must hold letters or digits from a to z or 0 to 9, and not be 'this experiment', "
                f"got {self.name!r}"
            )

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True)
class ExperimentConfig:
    """A whole experiment: data, model, training, samples. `physflow run` carries it out.

    Attributes:
        name: Title of the report.
        data: The data set.
        model: What the model sees, and its network.
        training: How it is trained.
        sampling: How samples are drawn from it.
        baselines: Models to compare it with.
    """

    name: str = "experiment"
    data: FieldsConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    baselines: tuple[BaselineConfig, ...] = ()

    def __post_init__(self) -> None:
        check_compatible(self.model, self.training)
        if len({baseline.folder for baseline in self.baselines}) < len(self.baselines):
            names = ", ".join(baseline.name for baseline in self.baselines)
            raise ValueError(f"expected baselines of different names, in more than signs and capitals, got {names}")
