"""A correction inside the loop of a trained model."""

import pytest
import torch
from test_model import PIXEL, SMALL, SPACES, untrained

import physflow
from physflow.config import ModelConfig, TrainingConfig
from physflow.fields import to_tensor
from physflow.generative import Euler, Heun
from physflow.inference import Completion, ZeroMean


def test_a_correction_that_does_nothing_changes_nothing():
    model = untrained()
    plain = model.sample(3, solver=Heun(), steps=4)
    same = model.sample(3, solver=physflow.corrected_solver(model, lambda fields: fields, 0.0), steps=4)
    torch.testing.assert_close(to_tensor(same, model.fields), to_tensor(plain, model.fields), rtol=1e-3, atol=1e-4)


def test_pixels_end_in_the_corrected_set():
    model = untrained(ModelConfig(**PIXEL))
    ds = model.sample(3, solver=physflow.corrected_solver(model, ZeroMean(1), 0.5, Euler()), steps=4)
    assert abs(ds["pressure"].mean(("x", "y"))).max() < 1e-5
    assert abs(model.sample(3, solver=Euler(), steps=4)["pressure"].mean(("x", "y"))).max() > 1e-3


def test_completion_in_the_loop_brings_the_pressure_near_the_solution():
    model = untrained()
    solver = physflow.corrected_solver(model, Completion(model.equation.complete))
    found, plain = model.sample(5, solver=solver, steps=4), model.sample(5, solver=Heun(), steps=4)
    assert (found["solution_error"] < 0.5 * plain["solution_error"]).all()


def test_models_without_a_whole_prediction_are_refused():
    with pytest.raises(ValueError, match=r"the latent of this model holds permeability.*correct the samples"):
        physflow.corrected_solver(untrained(SPACES["fields"]), ZeroMean(1))
    consistency = untrained(ModelConfig(**SMALL), TrainingConfig(objective="consistency"))
    with pytest.raises(ValueError, match="needs a model trained by flow matching, got one by consistency"):
        physflow.corrected_solver(consistency, ZeroMean(1))
