"""Settings of a data set: the law of the permeability, the equation and its discretisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from physflow.config.checks import at_least, finite, literals, one_of, pair, positive

__all__ = ["PRESETS", "DataConfig"]

_EXPONENTIAL: dict[str, Any] = {"covariance": "exponential", "permeability": "lognormal"}

PRESETS: dict[str, dict[str, Any]] = {
    # The published benchmark (Jacobsen et al.).
    "cocogen-16": {**_EXPONENTIAL, "modes": 16, "coefficients": "uniform"},
    # Bastek et al.
    "pidm-64": {**_EXPONENTIAL, "modes": 64, "coefficients": "normal"},
    # The full random field.
    "rough": {**_EXPONENTIAL, "modes": None, "coefficients": "normal"},
    # Li et al., Fourier neural operator.
    "fno": {
        "covariance": "cosine",
        "alpha": 2.0,
        "tau": 3.0,
        "modes": None,
        "permeability": "binary",
        "levels": (3.0, 12.0),
        "boundary": "dirichlet",
        "source": "constant",
    },
    # Takamoto et al., PDEBench.
    "pdebench": {
        "covariance": "bumps",
        "modes": None,
        "permeability": "binary",
        "levels": (0.1, 1.0),
        "boundary": "dirichlet",
        "source": "constant",
    },
}
"""Named laws: the arguments of `physflow.data.darcy.generate` that each one fixes."""

_STATIONARY = ("exponential", "matern", "gaussian")
_APPLIES = {
    "correlation_length": _STATIONARY,
    "angle": _STATIONARY,
    "smoothness": ("matern",),
    "alpha": ("cosine",),
    "tau": ("cosine",),
    "std": (*_STATIONARY, "cosine"),
    "coefficients": _STATIONARY,
}
"""The laws of G that a setting says something about; with another one it must be left out."""


@dataclass(frozen=True)
class DataConfig:
    """The law and the discretisation of a Darcy data set: the arguments of `physflow.data.darcy.generate`.

    Attributes:
        samples: Number of pairs (permeability, pressure).
        resolution: Points along each axis, as in 64 or [128,64].
        extent: Side lengths of the rectangle, as in [2,1].
        preset: A named law: cocogen-16, pidm-64, rough, fno or pdebench.
        modes: Terms kept of the expansion (Karhunen-Loeve, or the cosine series); null is the full field.
        covariance: Law of G: a stationary Gaussian field of this covariance, a cosine series (FNO) or five bumps.
        correlation_length: Correlation length of G, in the unit of extent, or a pair along two principal axes.
        angle: Degrees from the x axis to the first principal axis.
        smoothness: The parameter nu of the Matern covariance.
        alpha: Exponent of the cosine series.
        tau: Inverse length of the cosine series.
        std: Standard deviation of G; of the cosine series, a factor of its published amplitude.
        coefficients: Law of the Karhunen-Loeve coefficients, N(0, 1) or U(0, 2.5).
        permeability: K = exp(G), or one of two values by the sign of G.
        levels: The two values of a binary K, low and high.
        boundary: No flux through the walls, or pressure zero on them.
        source: An injection and an extraction well in two corners, or f = 1.
        faces: Mean of K that a face between two cells takes.
        discretization: Finite volumes on cells, or the published scheme on nodes.
        seed: Sample i depends on (seed, i) alone.
        dtype: Precision of the stored fields; the solve is float64.
    """

    samples: int = 1000
    resolution: int | tuple[int, int] = 64
    extent: tuple[float, float] = (1.0, 1.0)
    preset: str | None = None
    modes: int | None = 64
    covariance: Literal["exponential", "matern", "gaussian", "cosine", "bumps"] = "exponential"
    correlation_length: float | tuple[float, float] = 0.1
    angle: float = 0.0
    smoothness: float = 1.5
    alpha: float = 2.0
    tau: float = 3.0
    std: float = 1.0
    coefficients: Literal["normal", "uniform"] = "normal"
    permeability: Literal["lognormal", "binary"] = "lognormal"
    levels: tuple[float, float] = (3.0, 12.0)
    boundary: Literal["neumann", "dirichlet"] = "neumann"
    source: Literal["wells", "constant"] = "wells"
    faces: Literal["harmonic", "arithmetic"] = "harmonic"
    discretization: Literal["cells", "nodes"] = "cells"
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"

    @property
    def shape(self) -> tuple[int, int]:
        """The points along x and y."""
        return self.resolution if isinstance(self.resolution, tuple) else (self.resolution, self.resolution)

    def law(self) -> dict[str, Any]:
        """The settings of the law of G, and of the levels of K, that say something about it."""
        names = ["covariance", *(name for name, laws in _APPLIES.items() if self.covariance in laws), "modes"]
        if not isinstance(self.correlation_length, tuple) and "angle" in names:
            names.remove("angle")
        if self.permeability == "binary":
            names = [name for name in names if name != "std"] + ["levels"]
        return {name: getattr(self, name) for name in names}

    def __post_init__(self) -> None:
        for name, instead in (("resolution", "a whole number or "), ("correlation_length", "a number or ")):
            if hasattr(getattr(self, name), "__len__"):
                self._set(name, pair(name, getattr(self, name), instead))
        for name in ("extent", "levels"):
            self._set(name, pair(name, getattr(self, name)))
        if self.preset is not None:
            self._apply_preset()
        literals(self)
        self._check_numbers()
        self._check_law()
        if self.boundary == "neumann" and self.source == "constant":
            raise ValueError(
                "a constant source has a non-zero mean, so no pressure satisfies zero-flux (Neumann) walls; "
                "use boundary='dirichlet' or source='wells'"
            )
        if self.discretization == "nodes" and self.boundary != "neumann":
            raise ValueError("discretization='nodes', the published scheme, knows boundary='neumann' only")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _apply_preset(self) -> None:
        one_of("preset", self.preset, PRESETS)
        for name, value in PRESETS[str(self.preset)].items():
            given, default = getattr(self, name), self.__dataclass_fields__[name].default
            if given not in (default, value):
                raise ValueError(f"preset {self.preset!r} fixes {name}={value!r}, got {given!r}; leave one out")
            self._set(name, value)

    def _check_numbers(self) -> None:
        at_least(0, samples=self.samples, seed=self.seed)
        at_least(2, resolution=self.resolution)
        if self.seed >= 2**64:
            raise ValueError(f"seed must be less than 2**64, got {self.seed}")
        if self.modes is not None:
            at_least(1, modes=self.modes)
        positive(extent=self.extent, correlation_length=self.correlation_length, smoothness=self.smoothness)
        positive(tau=self.tau, std=self.std, levels=self.levels)
        finite(angle=self.angle, alpha=self.alpha)
        if self.smoothness > 50:
            raise ValueError(
                f"smoothness must lie in (0, 50], got {self.smoothness!r}; covariance='gaussian' is the limit"
            )
        if self.alpha <= 1:
            raise ValueError(f"alpha must be greater than 1, or G has no finite variance, got {self.alpha!r}")
        if self.levels[0] >= self.levels[1]:
            raise ValueError(f"levels must be a low value and a higher one, got {self.levels!r}")
        if self.dtype == "float32" and not 1e-30 < self.levels[0] * (1 + 1e-6) < self.levels[1] < 1e30:
            raise ValueError(f"levels {self.levels!r} are not two numbers of float32; use dtype='float64'")
        # Of one type each, so that 1, 1.0 and a number of numpy have one fingerprint.
        for name in ("samples", "resolution", "modes", "seed"):
            self._set(name, _each(int, getattr(self, name)))
        for name in ("extent", "correlation_length", "angle", "smoothness", "alpha", "tau", "std", "levels"):
            self._set(name, _each(float, getattr(self, name)))
        for name in ("resolution", "correlation_length"):
            value = getattr(self, name)
            if isinstance(value, tuple) and value[0] == value[1]:
                self._set(name, value[0])

    def _check_law(self) -> None:
        for name, laws in _APPLIES.items():
            value = getattr(self, name)
            if value != self.__dataclass_fields__[name].default and self.covariance not in laws:
                raise ValueError(
                    f"{name}={value!r} says nothing about covariance={self.covariance!r}, only about "
                    f"{', '.join(laws)}; leave it out"
                )
        if self.angle and not isinstance(self.correlation_length, tuple):
            raise ValueError(
                f"angle={self.angle!r} needs two different correlation lengths, such as "
                "correlation_length=(0.2, 0.05): with one, G has no direction"
            )
        if self.permeability == "lognormal" and self.levels != self.__dataclass_fields__["levels"].default:
            raise ValueError(f"levels={self.levels!r} says nothing about K = exp(G); use permeability='binary'")
        if self.permeability == "binary" and self.std != 1:
            raise ValueError(
                f"std={self.std!r} says nothing about a binary permeability, which follows the sign of G; leave it out"
            )
        if self.modes is None:
            if self.coefficients == "uniform":
                raise ValueError("coefficients='uniform' needs a truncated expansion: give a number of modes")
            return
        if self.covariance == "bumps":
            raise ValueError(f"covariance='bumps' is no expansion in modes, got modes={self.modes}; use modes=None")
        # A cosine series has no constant term.
        most, (nx, ny) = math.prod(self.shape) - (self.covariance == "cosine"), self.shape
        if self.modes > most:
            raise ValueError(
                f"modes must be at most {most} on {nx} x {ny} points, got {self.modes}; modes=None is the full field"
            )


def _each(kind: type, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(kind(v) for v in value)
    return None if value is None else kind(value)
