"""Settings of everything physflow does, as frozen dataclasses that import nothing heavy.

Each is checked where it is made. The command line takes its options, and the help on them, from these docstrings.
"""

from physflow.config.checks import nearest
from physflow.config.compatibility import check_compatible
from physflow.config.conversion import (
    builtin_experiments,
    builtin_models,
    fingerprint,
    from_dict,
    to_dict,
)
from physflow.config.data import PRESETS, DataConfig
from physflow.config.experiment import BaselineConfig, ExperimentConfig, SamplingConfig
from physflow.config.fields import (
    SETS,
    BurgersConfig,
    FieldsConfig,
    GrayScottConfig,
    HeatConfig,
    NavierStokesConfig,
    PoissonConfig,
    SetConfig,
)
from physflow.config.latent import EncoderConfig, LatentConfig
from physflow.config.model import ModelConfig
from physflow.config.networks import MLPConfig, ResNetConfig, SiTConfig, UNetConfig
from physflow.config.presets import builtin_presets, preset
from physflow.config.training import TrainingConfig

__all__ = [
    "PRESETS",
    "SETS",
    "BaselineConfig",
    "BurgersConfig",
    "DataConfig",
    "EncoderConfig",
    "ExperimentConfig",
    "FieldsConfig",
    "GrayScottConfig",
    "HeatConfig",
    "LatentConfig",
    "MLPConfig",
    "ModelConfig",
    "NavierStokesConfig",
    "PoissonConfig",
    "ResNetConfig",
    "SamplingConfig",
    "SetConfig",
    "SiTConfig",
    "TrainingConfig",
    "UNetConfig",
    "builtin_experiments",
    "builtin_models",
    "builtin_presets",
    "check_compatible",
    "fingerprint",
    "from_dict",
    "nearest",
    "preset",
    "to_dict",
]
