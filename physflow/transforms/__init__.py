r"""Invertible transforms between physical fields and the space in which a model works.

A transform maps a batch :math:`x` of shape (batch, channel, \*axes) to :math:`y`, and back. It is fitted once on data,
possibly larger than memory, and saved with the model. Transforms compose: `Chain` applies one after the other,
`PerChannel` applies one to each field and joins the results along dimension 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from physflow.transforms.base import Batches, Transform
from physflow.transforms.composite import Chain, PerChannel
from physflow.transforms.pod import POD
from physflow.transforms.pointwise import Log, Scale, Standardize

__all__ = ["POD", "Batches", "Chain", "Log", "PerChannel", "Scale", "Standardize", "Transform", "from_spec"]


def from_spec(spec: Mapping[str, Any]) -> Transform:
    """Build the transform that a `Transform.spec` describes; its fitted state is loaded by ``load_state_dict``."""
    classes: dict[str, type[Transform]] = {c.__name__: c for c in (Log, Scale, Standardize, POD, Chain, PerChannel)}
    if spec.get("name") not in classes:
        raise ValueError(f"unknown transform {spec.get('name')!r}; valid: {', '.join(classes)}")
    arguments = {key: value for key, value in spec.items() if key not in ("name", "transforms")}
    return classes[spec["name"]](*(from_spec(part) for part in spec.get("transforms", ())), **arguments)
