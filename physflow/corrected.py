"""Sampling with a correction inside the loop: what connects a correction of fields with a model's own space.

import physflow
from physflow.inference import Completion

model = physflow.load("my-model")
solver = physflow.corrected_solver(model, Completion(model.equation.complete))
ds = model.sample(100, solver=solver, steps=20)
"""

from __future__ import annotations

import torch
from torch import Tensor

from physflow.generative import Coordinates, FlowMatching, Heun, RungeKutta
from physflow.inference import CorrectedSolver, Correction, InModelSpace
from physflow.model import Model

__all__ = ["corrected_solver"]


def corrected_solver(
    model: Model, correction: Correction, start: float = 0.67, solver: RungeKutta | None = None
) -> CorrectedSolver:
    """A solver for `Model.sample` that corrects what the flow predicts of the fields, from a time on.

    If the model's space does not hold every field, as with truncated POD, the end is as near to the correction as that
    space allows: give the correction to `Model.sample` as well.

    Arguments:
        model: A model trained by flow matching, without a latent that holds some of the fields.
        correction: A correction of fields (batch, channel, *axes) in physical units.
        start: The time from which it acts. Early predictions are near the mean of the data.
        solver: The solver with fixed steps; Heun's method by default.

    Raises:
        ValueError: If the model is another.
    """
    if not isinstance(model.objective, FlowMatching):
        raise ValueError(
            f"a correction in the loop needs a model trained by flow matching, got one by {model.training.objective}: "
            "correct the samples, correction="
        )
    if isinstance(model.latent, Coordinates):
        raise ValueError(
            f"the latent of this model holds {', '.join(model.config.latent.fields)}, and its flow the other fields "
            "alone: there is no whole prediction to correct in the loop; correct the samples, correction="
        )
    transform = model.transform

    def decode(y: Tensor) -> Tensor:
        # In double precision as at the end of sampling: rounding is what a second derivative amplifies.
        return transform.inverse(y.to(torch.float64))

    lifted = InModelSpace(correction, decode, transform)
    return CorrectedSolver(lifted, solver or Heun(), model.objective.path, start)
