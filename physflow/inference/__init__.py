"""Inference: corrections of sampled fields."""

from physflow.inference.corrections import Completion, Correction

__all__ = ["Completion", "Correction"]
