"""The benchmarks of samplers and of likelihoods: their pieces, in short."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
samplers, likelihood = (importlib.import_module(name) for name in ("samplers", "likelihood"))


@pytest.mark.parametrize("name", samplers.ORDERS)
def test_orders(name):
    found = samplers.order(name, (32, 64) if samplers.ORDERS[name] == 4 else (128, 256))
    assert found["order"] == pytest.approx(found["expected"], abs=0.25)


@pytest.mark.parametrize("path", samplers.PATHS)
@pytest.mark.parametrize("name", ["Heun", "EDM, churn 0.2", "stochastic Heun"])
def test_laws_and_costs(path, name):
    path, sampler = samplers.PATHS[path], samplers.SAMPLERS[name]
    found = samplers.law(path, sampler, 300, 60, 3)
    assert found["p"] > 0.001
    assert max(found[key] for key in ("mean", "covariance", "weights")) < 6
    assert 0 <= samplers.cost(path, sampler, 10, 50, 100)["distance"] < 0.5
    assert samplers.cost(path, samplers.SAMPLERS["Heun"], 10, 5, 10)["evaluations"] == 19


def test_likelihoods_of_mixtures():
    rows = {row["by"]: row for row in likelihood.of_mixture(2, 5)}
    assert rows["dopri5, 1e-08"]["error"] < 1e-4
    assert rows["dopri5, 1e-06"]["trip"] < 1e-4
    assert rows["100 probes, rademacher"]["errors"] < 4


def test_training_by_likelihood_and_by_flow():
    for name in ("flow matching", "maximum likelihood"):
        found = likelihood.of_training(name, 3)
        assert 0 < found["gap"] < 5
        assert found["seconds"] > 0
