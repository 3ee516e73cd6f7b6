"""physflow: physics fields that can be trusted.

Correct training data for a PDE, flow matching on it, and a physics score on every sample. Subpackages load on first
use.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "autoencoder",
    "condition",
    "conditioning",
    "config",
    "corrected_solver",
    "data",
    "experiment",
    "fields",
    "fitting",
    "generative",
    "grid",
    "inference",
    "load",
    "metrics",
    "pde",
    "report",
    "sensors",
    "transforms",
]


def __getattr__(name: str) -> Any:
    """Import a subpackage, or `load`, on first use: `import physflow` itself must not pay for torch."""
    if name == "load":
        return importlib.import_module("physflow.model").load
    if name == "condition":
        return importlib.import_module("physflow.conditioning").condition
    if name == "corrected_solver":
        return importlib.import_module("physflow.corrected").corrected_solver
    if name in __all__:
        return importlib.import_module(f"physflow.{name}")
    raise AttributeError(f"module 'physflow' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
