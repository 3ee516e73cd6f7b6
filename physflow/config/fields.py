"""Settings of data sets of other equations than Darcy's: the arguments of their generators."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from physflow.config.checks import at_least, finite, literals, pair, positive
from physflow.config.data import DataConfig

__all__ = [
    "SETS",
    "BurgersConfig",
    "FieldsConfig",
    "GrayScottConfig",
    "HeatConfig",
    "NavierStokesConfig",
    "PoissonConfig",
    "SetConfig",
]

Walls = Literal["dirichlet", "neumann", "periodic"]
Resolution = int | tuple[int, int]

_LEAST = {"samples": 0, "seed": 0, "resolution": 4, "instants": 2, "substeps": 1, "waves": 1, "spots": 1}
"""The least that whole numbers may be."""

_POSITIVE = (
    *("extent", "length", "duration", "std", "tau", "diffusivity", "viscosity"),
    *("feed", "kill", "diffusivity_u", "diffusivity_v"),
)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, numbers.Number) and hasattr(value, "item") else value


@dataclass(frozen=True)
class SetConfig:
    """What the settings of every set have.

    Attributes:
        samples: Number of samples.
        seed: Sample i depends on (seed, i) alone.
        dtype: Precision of the stored fields; they are computed in float64.
    """

    law_names: ClassVar[tuple[str, ...]] = ()
    """The settings of the law of what the fields begin with."""

    samples: int = 1000
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        """The points along the axes of space."""
        resolution: Resolution = vars(self)["resolution"]
        return resolution if isinstance(resolution, tuple) else (resolution, resolution)

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """The box."""
        return tuple((0.0, side) for side in vars(self)["extent"])

    def law(self) -> dict[str, Any]:
        """The settings of the law, for the attributes of the set."""
        return {name: getattr(self, name) for name in self.law_names}

    def __post_init__(self) -> None:
        given = vars(self)
        for name, instead in (("resolution", "a whole number or "), ("extent", "")):
            if name in given and (name == "extent" or hasattr(given[name], "__len__")):
                object.__setattr__(self, name, pair(name, given[name], instead))
        literals(self)
        for name, value in vars(self).copy().items():
            # Numbers of numpy are written as others.
            object.__setattr__(self, name, tuple(map(_plain, value)) if isinstance(value, tuple) else _plain(value))
        given = vars(self)
        for name, least in _LEAST.items():
            if name in given:
                at_least(least, **{name: given[name]})
        positive(**{name: given[name] for name in _POSITIVE if name in given})
        if "alpha" in given:
            finite(alpha=given["alpha"])
        if self.seed >= 2**64:
            raise ValueError(f"seed must be less than 2**64, got {self.seed}")
        if given.get("alpha", 2.0) <= 1:
            raise ValueError(f"alpha must be greater than 1, or the field has no finite variance, got {given['alpha']}")


@dataclass(frozen=True)
class PoissonConfig(SetConfig):
    """Sources and potentials: the arguments of `physflow.data.poisson.generate`.

    Attributes:
        samples: Number of pairs.
        seed: Sample i depends on (seed, i) alone.
        dtype: Precision of the stored fields; the solve is float64.
        equation: poisson.
        resolution: Points along each axis, as in 64 or [128,64].
        extent: Side lengths of the rectangle, as in [2,1].
        boundary: No flux through the walls, potential zero on them, or none (periodic).
        screening: The number kappa: positive screens, minus k squared is Helmholtz.
        std: Standard deviation of the source.
        alpha: Exponent of its spectrum; larger is smoother.
        tau: Inverse length of its spectrum; larger is shorter.
    """

    law_names: ClassVar[tuple[str, ...]] = ("std", "alpha", "tau")

    equation: Literal["poisson"] = "poisson"
    resolution: Resolution = 64
    extent: tuple[float, float] = (1.0, 1.0)
    boundary: Walls = "dirichlet"
    screening: float = 0.0
    std: float = 1.0
    alpha: float = 2.0
    tau: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        finite(screening=self.screening)


@dataclass(frozen=True)
class HeatConfig(SetConfig):
    """Temperatures over time: the arguments of `physflow.data.heat.generate`.

    Attributes:
        samples: Number of trajectories.
        seed: Sample i depends on (seed, i) alone.
        dtype: Precision of the stored fields; they are computed in float64.
        equation: heat.
        resolution: Points along each axis, as in 64 or [128,64].
        extent: Side lengths of the rectangle, as in [2,1].
        instants: Number of stored instants.
        duration: Time from the first to the last.
        boundary: No flux through the walls, temperature zero on them, or none (periodic).
        diffusivity: The diffusivity.
        std: Standard deviation of the temperature at the first instant.
        alpha: Exponent of its spectrum; larger is smoother.
        tau: Inverse length of its spectrum; larger is shorter.
    """

    law_names: ClassVar[tuple[str, ...]] = ("std", "alpha", "tau")

    equation: Literal["heat"] = "heat"
    resolution: Resolution = 64
    extent: tuple[float, float] = (1.0, 1.0)
    instants: int = 11
    duration: float = 1.0
    boundary: Walls = "periodic"
    diffusivity: float = 0.005
    std: float = 1.0
    alpha: float = 2.0
    tau: float = 10.0


@dataclass(frozen=True)
class BurgersConfig(SetConfig):
    """Waves that steepen, over time and one axis: the arguments of `physflow.data.burgers.generate`.

    Attributes:
        samples: Number of trajectories.
        seed: Sample i depends on (seed, i) alone.
        dtype: Precision of the stored fields; they are computed in float64.
        equation: burgers.
        resolution: Points along the axis of space.
        length: Its length.
        instants: Number of stored instants.
        duration: Time from the first to the last.
        viscosity: The viscosity; fronts are about 2 viscosity / std wide, and need two points of the grid.
        substeps: Steps of the scheme between stored instants.
        std: Standard deviation of the velocity at the first instant.
        alpha: Exponent of its spectrum; larger is smoother.
        tau: Inverse length of its spectrum; larger is shorter.
    """

    law_names: ClassVar[tuple[str, ...]] = ("std", "alpha", "tau")

    equation: Literal["burgers"] = "burgers"
    resolution: int = 128
    length: float = 1.0
    instants: int = 65
    duration: float = 1.0
    viscosity: float = 0.01
    substeps: int = 10
    std: float = 0.5
    alpha: float = 2.0
    tau: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.resolution, tuple):
            raise ValueError(f"resolution must be a whole number, for there is one axis, got {self.resolution!r}")

    @property
    def shape(self) -> tuple[int, ...]:
        """The points along the axis of space."""
        return (self.resolution,)

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """The interval."""
        return ((0.0, self.length),)


@dataclass(frozen=True)
class GrayScottConfig(SetConfig):
    """Two chemicals that make patterns: the arguments of `physflow.data.gray_scott.generate`.

    Attributes:
        samples: Number of trajectories.
        seed: Sample i depends on (seed, i) alone.
        dtype: Precision of the stored fields; they are computed in float64.
        equation: gray-scott.
        resolution: Points along each axis, as in 64 or [128,64].
        extent: Side lengths of the box, as in [2,1].
        instants: Number of stored instants.
        duration: Time from the first to the last; patterns take some 1000.
        feed: The rate F at which the substrate is fed.
        kill: The rate k; the activator is removed at F + k.
        diffusivity_u: Diffusivity of the substrate.
        diffusivity_v: Diffusivity of the activator.
        substeps: Steps of the scheme between stored instants.
        spots: Number of spots of activator at the first instant, in random places.
    """

    law_names: ClassVar[tuple[str, ...]] = ("spots",)

    equation: Literal["gray-scott"] = "gray-scott"
    resolution: Resolution = 64
    extent: tuple[float, float] = (1.25, 1.25)
    instants: int = 11
    duration: float = 2000.0
    feed: float = 0.04
    kill: float = 0.06
    diffusivity_u: float = 2e-5
    diffusivity_v: float = 1e-5
    substeps: int = 100
    spots: int = 8


@dataclass(frozen=True)
class NavierStokesConfig(SetConfig):
    """Vorticities over time: the arguments of `physflow.data.navier_stokes.generate`.

    Attributes:
        samples: Number of trajectories.
        seed: Sample i depends on (seed, i) alone.
        dtype: Precision of the stored fields; they are computed in float64.
        equation: navier-stokes.
        resolution: Points along each axis, as in 64 or [128,64].
        extent: Side lengths of the box; 2 pi each by default.
        instants: Number of stored instants.
        duration: Time from the first to the last.
        viscosity: The viscosity.
        forcing: Amplitude of Kolmogorov's forcing; 0 is none.
        waves: Its waves in the height of the box.
        drag: The drag on all eddies.
        substeps: Steps of the scheme between stored instants.
        std: Standard deviation of the vorticity at the first instant.
        alpha: Exponent of its spectrum; larger is smoother.
        tau: Inverse length of its spectrum; larger is shorter.
    """

    law_names: ClassVar[tuple[str, ...]] = ("std", "alpha", "tau")

    equation: Literal["navier-stokes"] = "navier-stokes"
    resolution: Resolution = 64
    extent: tuple[float, float] = (6.283185307179586, 6.283185307179586)
    instants: int = 11
    duration: float = 5.0
    viscosity: float = 0.01
    forcing: float = 1.0
    waves: int = 4
    drag: float = 0.1
    substeps: int = 20
    std: float = 2.0
    alpha: float = 3.0
    tau: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("forcing", "drag"):
            finite(**{name: getattr(self, name)})
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)!r}")


FieldsConfig: TypeAlias = DataConfig | PoissonConfig | HeatConfig | BurgersConfig | GrayScottConfig | NavierStokesConfig
"""The settings of a set of any equation."""

SETS: dict[str, type[FieldsConfig]] = {
    "darcy": DataConfig,
    "poisson": PoissonConfig,
    "heat": HeatConfig,
    "burgers": BurgersConfig,
    "gray-scott": GrayScottConfig,
    "navier-stokes": NavierStokesConfig,
}
"""The settings by the name of the equation, which stands beside them in a file; without one it is Darcy's."""
