"""The main job, whole: what `make demo` must reach. Minutes long, so it runs with `make test-all` only."""

import json

import pytest

from physflow import experiment

pytestmark = pytest.mark.slow


def test_darcy_small_reaches_its_numbers(tmp_path):
    experiment.run(experiment.load_experiment("darcy-small"), tmp_path / "run")
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    raw, completed = scores["samples"]["raw"], scores["samples"]["completed"]
    assert raw["solution_error"]["median"] <= 0.06
    assert raw["residual_mse"]["median"] <= 2.0 < scores["anchors"]["p = 0"]["residual_mse"]["median"]
    assert completed["residual_mse"]["median"] <= 1e-8
    assert abs(scores["statistics"]["log permeability"]["std"]["ratio"] - 1) <= 0.05
