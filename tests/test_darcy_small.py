"""The main job, whole: what `make demo` must reach. Minutes long, so it runs with `make test-all` only."""

import json

import pytest

from physflow import experiment

pytestmark = pytest.mark.slow


def test_darcy_small_reaches_its_numbers(tmp_path):
    experiment.run(experiment.load_experiment("darcy-small"), tmp_path / "run")
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    raw, completed = scores["samples"]["raw"], scores["samples"]["completed"]
    assert raw["solution_error"]["median"] <= 0.04
    assert raw["residual_mse"]["median"] <= 0.6 < scores["anchors"]["p = 0"]["residual_mse"]["median"]
    assert completed["residual_mse"]["median"] <= 1e-8
    # K is drawn from its own law: 500 samples of long correlation know the std to a few per cent.
    assert abs(scores["statistics"]["log permeability"]["std"]["ratio"] - 1) <= 0.03

    own, plain, regression = scores["models"]
    assert own["given"] == regression["given"] == ["permeability"]
    assert plain["given"] == []
    # Told the law of K, the flow is far better than one that must find it, and no better than regression.
    assert 1.5 * own["scores"]["solution_error"]["median"] < plain["scores"]["solution_error"]["median"] < 0.12
    assert regression["scores"]["solution_error"]["median"] < 0.04
    assert len({row["steps"] for row in scores["models"]}) == 1
