"""Settings of everything physflow does, as frozen dataclasses that import nothing heavy.

Each is checked where it is made. The command line takes its options, and the help on them, from these docstrings.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import numbers
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

__all__ = [
    "PRESETS",
    "DataConfig",
    "ExperimentConfig",
    "MLPConfig",
    "ModelConfig",
    "SamplingConfig",
    "TrainingConfig",
    "UNetConfig",
    "builtin_experiments",
    "fingerprint",
    "from_dict",
    "nearest",
    "to_dict",
]

T = TypeVar("T")


def nearest(name: str, valid: typing.Iterable[str]) -> str:
    """A hint for an unknown `name`: the nearest valid one if there is any, then all of them."""
    valid = [str(v) for v in valid]
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(sorted(valid))}"


def _one_of(name: str, value: object, valid: typing.Collection[str]) -> None:
    if value not in valid:
        raise ValueError(f"unknown {name} {value!r}; {nearest(str(value), valid)}")


def _literals(config: Any) -> None:
    for name, hint in typing.get_type_hints(type(config)).items():
        if typing.get_origin(hint) is Literal:
            _one_of(name, getattr(config, name), typing.get_args(hint))


def _positive(**values: float) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value!r}")


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _fraction(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value!r}")


PRESETS: dict[str, dict[str, Any]] = {
    "cocogen-16": {"modes": 16, "coefficients": "uniform"},  # the published benchmark (Jacobsen et al.)
    "pidm-64": {"modes": 64, "coefficients": "normal"},  # Bastek et al.
    "rough": {"modes": None, "coefficients": "normal"},  # the full random field
}
"""Named laws: the arguments of `physflow.data.darcy.generate` that each one fixes."""


@dataclass(frozen=True)
class DataConfig:
    """The law and the discretisation of a Darcy data set: the arguments of `physflow.data.darcy.generate`.

    Attributes:
        samples: Number of pairs (permeability, pressure).
        resolution: Points along each axis of the unit square.
        preset: A named law: cocogen-16, pidm-64 or rough.
        modes: Terms kept of the Karhunen-Loeve expansion; null is the full field.
        covariance: Covariance of the Gaussian field G.
        correlation_length: Correlation length of G, in side lengths.
        std: Standard deviation of G.
        coefficients: Law of the expansion's coefficients, N(0, 1) or U(0, 2.5).
        permeability: K = exp(G), or one of two values by the sign of G.
        boundary: No flux through the walls, or pressure zero on them.
        source: An injection and an extraction well in two corners, or f = 1.
        faces: Mean of K that a face between two cells takes.
        discretization: Finite volumes on cells, or the published scheme on nodes.
        seed: Sample i depends on (seed, i) alone.
        dtype: Precision of the stored fields; the solve is float64.
    """

    samples: int = 1000
    resolution: int = 64
    preset: str | None = None
    modes: int | None = 64
    covariance: str = "exponential"
    correlation_length: float = 0.1
    std: float = 1.0
    coefficients: Literal["normal", "uniform"] = "normal"
    permeability: Literal["lognormal", "binary"] = "lognormal"
    boundary: Literal["neumann", "dirichlet"] = "neumann"
    source: Literal["wells", "constant"] = "wells"
    faces: Literal["harmonic", "arithmetic"] = "harmonic"
    discretization: Literal["cells", "nodes"] = "cells"
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        _at_least(0, samples=self.samples, seed=self.seed)
        _at_least(2, resolution=self.resolution)
        if self.preset is not None:
            self._apply_preset()
        if self.modes is not None:
            _at_least(1, modes=self.modes)
            if self.modes > self.resolution**2:
                raise ValueError(
                    f"modes must be at most resolution**2 = {self.resolution**2}, got {self.modes}; "
                    "modes=None is the full field"
                )
        _positive(correlation_length=self.correlation_length, std=self.std)
        _literals(self)
        if self.boundary == "neumann" and self.source == "constant":
            raise ValueError(
                "a constant source has a non-zero mean, so no pressure satisfies zero-flux (Neumann) walls; "
                "use boundary='dirichlet' or source='wells'"
            )
        if self.discretization == "nodes" and self.boundary != "neumann":
            raise ValueError("discretization='nodes', the published scheme, knows boundary='neumann' only")
        if self.modes is None and self.coefficients == "uniform":
            raise ValueError("coefficients='uniform' needs a truncated expansion: give a number of modes")

    def _apply_preset(self) -> None:
        _one_of("preset", self.preset, PRESETS)
        for name, value in PRESETS[str(self.preset)].items():
            given, default = getattr(self, name), self.__dataclass_fields__[name].default
            if given not in (default, value):
                raise ValueError(f"preset {self.preset!r} fixes {name}={value!r}, got {given!r}; leave one out")
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class MLPConfig:
    """A residual multilayer perceptron over a vector of coordinates.

    Attributes:
        width: Width of the residual stream.
        blocks: Number of residual blocks.
        expansion: Width inside a block, in multiples of `width`.
    """

    width: int = 512
    blocks: int = 4
    expansion: int = 2

    def __post_init__(self) -> None:
        _at_least(1, width=self.width, blocks=self.blocks, expansion=self.expansion)


@dataclass(frozen=True)
class UNetConfig:
    """A U-Net in the style of ADM (Dhariwal and Nichol, 2021).

    Attributes:
        channels: Channels at the finest level.
        multipliers: Channels of each level, in multiples of `channels`, as in [1,2,2].
        blocks: Residual blocks per level.
        attention: Resolutions (points along the first axis) with self-attention, as in [16,8].
        heads: Heads of the self-attention.
        dropout: Probability of dropping an activation.
        modulation: How the time enters a block: added, or as scale and shift.
        padding: How a convolution sees beyond the walls.
    """

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = ()
    heads: int = 4
    dropout: float = 0.0
    modulation: Literal["add", "adaptive"] = "add"
    padding: Literal["zeros", "circular", "reflect", "replicate"] = "zeros"

    def __post_init__(self) -> None:
        levels = len(self.multipliers)
        _at_least(1, channels=self.channels, blocks=self.blocks, heads=self.heads, levels=levels)
        _literals(self)
        _fraction(dropout=self.dropout)
        _at_least(1, **{f"multipliers[{level}]": m for level, m in enumerate(self.multipliers)})


@dataclass(frozen=True)
class ModelConfig:
    """What a model sees of the fields, and the network that learns their velocity.

    Attributes:
        space: Whitened POD coordinates of each field, or standardised point values.
        log: Fields that enter as their logarithm, as in permeability or [a,b].
        rank: POD coordinates kept of each field; null takes as many as hold `energy`.
        energy: Fraction of the variance that the POD keeps.
        network: The residual perceptron (space pod) or the U-Net (space pixel).
        precondition: Start from the exact flow to N(0, I), learn the rest (Karras et al., 2022, section 5).
        mlp: The residual perceptron.
        unet: The U-Net.
    """

    space: Literal["pod", "pixel"] = "pod"
    log: tuple[str, ...] = ("permeability",)
    rank: int | None = None
    energy: float = 0.9999
    network: Literal["mlp", "unet"] = "mlp"
    precondition: bool = True
    mlp: MLPConfig = field(default_factory=MLPConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)

    def __post_init__(self) -> None:
        _literals(self)
        if (self.space == "pod") != (self.network == "mlp"):
            raise ValueError(
                f"space={self.space!r} does not go with network={self.network!r}: "
                "the mlp reads POD coordinates (space='pod'), the unet point values (space='pixel')"
            )
        if self.rank is not None:
            _at_least(1, rank=self.rank)
        if not 0 < self.energy <= 1:
            raise ValueError(f"energy must lie in (0, 1], got {self.energy}")


@dataclass(frozen=True)
class TrainingConfig:
    """How a flow is trained: always a fixed number of steps, never a wall-clock time.

    Attributes:
        steps: Number of gradient steps.
        batch_size: Samples per step.
        learning_rate: Peak step size of the optimiser.
        schedule: Constant, or a cosine decay to zero after the warm-up.
        warmup: Steps over which the learning rate rises from zero.
        clip: Largest norm of the gradient.
        ema: Decay of the exponential moving average of the weights, which is what samples.
        sigma: Width of the conditional path around the straight line (I-CFM).
        prediction: What the network predicts.
        weight: Weight of the loss over time: even, or late, 1 / max(1 - t, 0.05).
        symmetries: Train on all images of the data under their equation's symmetries; the law must have them too.
        coupling: How noise and data are paired: at random, or by optimal transport in a batch.
        source: Law of the noise: white, or a correlated Gaussian field.
        precision: Arithmetic of the network's forward pass.
        compile: Compile the network (torch.compile).
        validation: Fraction of the data kept out of training, for the validation loss.
        evaluate_every: Steps between two validation losses.
        checkpoint_every: Steps between two checkpoints, from which an interrupted training resumes.
        seed: Seed of the weights, the batches and the noise.
    """

    steps: int = 2000
    batch_size: int = 512
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: int = 100
    clip: float = 1.0
    ema: float = 0.999
    sigma: float = 0.0
    prediction: Literal["velocity", "data"] = "velocity"
    weight: Literal["even", "late"] = "even"
    symmetries: bool = False
    coupling: Literal["independent", "ot"] = "independent"
    source: Literal["gaussian", "gaussian-process"] = "gaussian"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    validation: float = 0.02
    evaluate_every: int = 200
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least(0, steps=self.steps, warmup=self.warmup, seed=self.seed)
        _at_least(1, batch_size=self.batch_size)
        _at_least(1, evaluate_every=self.evaluate_every, checkpoint_every=self.checkpoint_every)
        _positive(learning_rate=self.learning_rate, clip=self.clip)
        _fraction(ema=self.ema, validation=self.validation)
        _literals(self)
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"sigma must be finite and not negative, got {self.sigma!r}")


@dataclass(frozen=True)
class SamplingConfig:
    """How fields are drawn from a trained model.

    Attributes:
        samples: Number of samples to draw.
        solver: Integrator of the flow: euler, midpoint, heun, rk4 or dopri5.
        steps: Steps from noise to data.
        seed: Sample i depends on (seed, i) alone.
    """

    samples: int = 500
    solver: str = "heun"
    steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least(0, samples=self.samples, seed=self.seed)
        _at_least(1, steps=self.steps)


@dataclass(frozen=True)
class ExperimentConfig:
    """A whole experiment: data, model, training, samples. `physflow run` carries it out.

    Attributes:
        name: Title of the report.
        data: The data set.
        model: What the model sees, and its network.
        training: How it is trained.
        sampling: How samples are drawn from it.
    """

    name: str = "experiment"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain data (dicts, lists, numbers, strings), ready for YAML or JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """The dataclass `cls` from plain data.

    Raises:
        ValueError: If a key is unknown (with the nearest valid one) or a value has the wrong type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"expected settings for {where or cls.__name__} as a mapping, got {values!r}")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in hints:
            raise ValueError(f"unknown key '{path}'; {nearest(str(key), hints)}")
        arguments[key] = _convert(hints[key], value, path)
    try:
        return cls(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from None


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, path)
    if origin is Literal:
        _one_of(path, value, options)
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return _convert(next(option for option in options if option is not type(None)), value, path)
    if origin is tuple:
        if isinstance(value, str) and options[0] is str:
            value = [name.strip() for name in value.split(",")]
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected {path} to be a list of {options[0].__name__}, got {value!r}")
        return tuple(_convert(options[0], item, path) for item in value)
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        # YAML 1.1 reads 1e-3, without a point, as text.
        with contextlib.suppress(ValueError):
            return float(value)
    if not isinstance(hint, type) or not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"expected {path} to be {getattr(hint, '__name__', hint)}, got {value!r}")
    return value


def fingerprint(config: Any) -> str:
    """A name for the content of a dataclass or of plain data: 16 hexadecimal digits of a SHA-256."""
    content = to_dict(config) if dataclasses.is_dataclass(config) else config
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def builtin_experiments() -> dict[str, Path]:
    """The experiments that ship with physflow: name and YAML file."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "experiments").glob("*.yaml"))}
