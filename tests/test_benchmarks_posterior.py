"""The benchmark of posteriors: its problems, its scores, and a short run."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def problems(monkeypatch):
    if not (FOLDER / "posterior.py").exists():
        pytest.skip("the benchmarks are part of the repository, not of the package")
    monkeypatch.syspath_prepend(FOLDER)
    import posterior_problems

    return posterior_problems


def problem_of(problems, number=0):
    return problems.Problem(number, resolution=16, modes=8, sensors=20, noise=0.01)


def test_no_two_roles_share_their_numbers(problems):
    seeds = {problem_of(problems, n).seed(role) for n in range(20) for role in ("truth", "places", "noise", "prior")}
    assert len(seeds) == 80


def test_a_problem_is_a_sample_of_the_law_and_its_noisy_readings(problems):
    residuals = []
    for number in range(40):
        problem = problem_of(problems, number)
        pairs = problem.pairs(problem.truth[None])
        assert problem.equation.residual(*pairs.unbind(1)).abs().max() < 1e-6
        assert problem.observations.size == 20
        residuals.append(problem.observations.residual(pairs)[0])
    assert torch.stack([problem_of(problems, n).truth for n in range(40)]).std() == pytest.approx(1, abs=0.2)
    # In units of the noise: 800 normal numbers, four standard errors.
    assert torch.cat(residuals).square().mean() == pytest.approx(1, abs=4 * (2 / 800) ** 0.5)


def test_scores_of_draws_beside_a_reference(problems):
    problem = problem_of(problems)
    draw = torch.Generator().manual_seed(1)
    first, second, prior = (problem.pairs(torch.randn(300, 8, dtype=torch.float64, generator=draw)) for _ in range(3))
    same = problems.compared(first, first, prior)
    assert (same["mean_log_k"], same["std_p"], same["spread_p"], same["sliced_w2_log_k"]) == (0, 0, 1, 0)
    honest = problems.compared(first, second, prior)
    # The mean of 300 draws is off by a seventeenth of their standard deviation: here the mean is nearly 0.
    assert honest["std_log_k"] < 0.1
    assert abs(honest["mmd_log_k"]) < 0.02
    narrow = first.clone()
    narrow[:, 0] = first[:, 0] ** 0.5
    found = problems.compared(narrow, second, prior)
    assert found["spread_log_k"] == pytest.approx(0.5 * honest["spread_log_k"])
    assert found["mmd_log_k"] > 0.05
    assert found["std_p"] == honest["std_p"]


@pytest.mark.slow
def test_a_short_run(problems, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["posterior.py", "--quick", "--out", str(tmp_path / "results")])
    runpy.run_path(str(FOLDER / "posterior.py"), run_name="__main__")
    assert {"results.json", "table.md", "maps.png", "calibration.png"} <= {
        p.name for p in (tmp_path / "results").iterdir()
    }
