"""The Darcy benchmark: its encoders have the sizes they are named after, and its distances the values they should."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import wasserstein_distance

from physflow.config import check_compatible
from physflow.data.covariances import Exponential
from physflow.data.darcy import generate
from physflow.data.karhunen_loeve import KarhunenLoeve
from physflow.grid import Grid
from physflow.pde import score

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
models = importlib.import_module("darcy_models")
scores = importlib.import_module("darcy_scores")

N = 16
GRID = Grid((N, N), ((0.0, 1.0), (0.0, 1.0)))
SHARES = {"latent-0.2": (0.001, 0.004), "latent-3": (0.02, 0.04), "latent-45": (0.35, 0.55), "two-stage": (0.02, 0.04)}
DISTANCES = ("w1_log_permeability", "spectrum_log_permeability", "spectrum_pressure", "coefficients_w1", "sliced_w2")


@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize("key", SHARES)
def test_encoders_have_the_share_that_their_name_says(key, resolution):
    flow, encoder = models.parameters(models.methods(resolution)[key], resolution)
    low, high = SHARES[key]
    assert low <= encoder / flow <= high


def test_the_large_flow_has_about_twice_the_parameters_and_all_others_the_same():
    every = models.methods(32)
    (small, none), (large, _) = (models.parameters(every[key], 32) for key in ("i-cfm", "i-cfm-large"))
    assert none == 0
    assert 1.9 <= large / small <= 2.2
    # What a flow with z has more is the linear map of z alone.
    for key in (*SHARES, "v-rfm", "latent-2d"):
        assert 0 < models.parameters(every[key], 32)[0] - small <= 0.005 * small


@pytest.mark.parametrize("quick", [False, True])
def test_settings_of_every_method_go_together(quick):
    for key, method in models.methods(32, quick).items():
        arguments = method.of(20, seed=3)
        check_compatible(arguments["model"], arguments["training"])
        assert (arguments["training"].steps, arguments["training"].seed) == (20, 3)
        assert method.training.schedule == "cosine"
        if key == "two-stage":
            assert arguments["model"].latent.pretraining_steps == 20


@pytest.mark.parametrize(
    ("quick", "steps", "seconds", "expected"),
    [
        (False, None, None, {"seconds": 600.0}),
        (False, None, 1.0, {"seconds": 1.0}),
        (False, 1, None, {"steps": 1}),
        (True, None, None, {"steps": 20}),
    ],
)
def test_a_budget_is_steps_or_seconds(quick, steps, seconds, expected):
    assert models.budget_of(quick, steps, seconds) == expected


@pytest.mark.parametrize(
    ("quick", "steps", "seconds", "message"),
    [
        (False, 50, 60.0, r"expected --steps or --seconds, got both \(50 and 60.0\): leave one out"),
        (False, 0, None, "expected --steps of at least 1, got 0"),
        (False, None, 0.5, "expected --seconds of at least 1, got 0.5"),
        (False, None, math.nan, "expected --seconds of at least 1, got nan"),
        (True, 50, None, "--quick has steps of its own: leave out --steps"),
        (True, 50, 60.0, "--quick has steps of its own: leave out --steps and --seconds"),
    ],
)
def test_budgets_that_do_not_go_together_are_refused(quick, steps, seconds, message):
    with pytest.raises(SystemExit, match=f"^{message}$"):
        models.budget_of(quick, steps, seconds)


def test_the_time_of_a_step_is_without_what_comes_once_and_its_ratio_of_the_same_minute(monkeypatch):
    every, clock, slow = models.methods(32, quick=True), [0.0], iter([1.0] * 3 + [5.0] * 4 + [1.0] * 4)
    costs = {every["i-cfm"].model: 2.0, every["latent-3"].model: 3.0}

    def train(data, folder, model, training, sampling, overwrite):
        # A third of the time the machine is five times as slow.
        clock[0] += next(slow, 1.0) * (100.0 + costs[model] * training.steps)

    monkeypatch.setattr(models, "train_model", train)
    monkeypatch.setattr(models.time, "perf_counter", lambda: clock[0])
    seconds, ratio = models.step_times(every["latent-3"], every["i-cfm"], Path(), Path(), 5, (4, 24))
    assert seconds == pytest.approx(3.0)
    assert ratio == pytest.approx(1.5)


def test_no_heading_comes_twice_in_a_table():
    for table in scores.tables(["pidm-64", "cocogen-16"]):
        heads, _ = table.lines([])
        assert len(set(heads)) == len(heads)


def test_a_training_counts_once_however_many_sets_of_samples_it_has():
    method = {"law": "pidm-64", "method": "I-CFM"}
    cost = {"parameters": 1000, "encoder_parameters": 0, "steps": 30, "step_over_i_cfm": 1.5}
    rows = [{"part": "training", **method, "seed": i, **cost, "seconds": [10.0, 20.0][i]} for i in range(2)]
    rows += [{"part": "samples", **method, "seed": 0, "draw": "none", "solver": s, "seconds": 9.0} for s in "abc"]
    found = {table.title: table.lines(rows)[1] for table in scores.tables(["pidm-64"])}
    assert found["pidm-64: cost"] == [["I-CFM", "1,000", "0", "30", "15.0 ± 7.1 s", "1.50"]]
    assert len(found["pidm-64: physics of the samples"]) == 3


def test_w1_is_the_shift_and_agrees_with_scipy(generator):
    x = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    y = x[torch.randperm(50, generator=generator)]
    torch.testing.assert_close(scores.w1(x, y + torch.tensor([0.0, 0.5, -2.0])), torch.tensor([0, 0.5, 2]).double())
    z = torch.randn(50, 3, generator=generator, dtype=torch.float64).exp()
    expected = [wasserstein_distance(x[:, i], z[:, i]) for i in range(3)]
    np.testing.assert_allclose(scores.w1(x, z), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"expected two sets of one shape, got \(50, 3\) and \(40, 3\): take as many"):
        scores.w1(x, z[:40])


def test_spectrum_distance_of_a_scaled_field_is_twice_the_logarithm(generator):
    u = torch.randn(8, N, N, generator=generator, dtype=torch.float64)
    assert scores.spectrum_distance(u, u.flip(0), 1 / N) < 1e-12
    assert scores.spectrum_distance(3 * u + 1, u, 1 / N) == pytest.approx(2 * math.log(3))


def test_log_spectrum_has_the_whole_shells_alone():
    # One cosine mode k has the power 1/2 in its own shell; the last whole one is k = N - 1.
    x = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    u = sum(torch.cos(math.pi * k * x) for k in range(1, N))[:, None].expand(N, N)[None]
    wavenumber, log = scores.log_spectrum(u, 1 / N)
    np.testing.assert_allclose(wavenumber, math.pi * np.arange(1, N))
    np.testing.assert_allclose(log, math.log(0.5), rtol=1e-10)


@pytest.mark.parametrize(("law", "std"), [("normal", 1.0), ("uniform", 2.5 / math.sqrt(12))])
def test_coefficients_distance_is_the_mean_shift_in_standard_deviations(law, std):
    field = KarhunenLoeve(GRID, Exponential(0.1), 4, law)
    u = torch.from_numpy(field.draw(0, 0, 20))
    shift = torch.tensor([0.5, 0.0, -1.0, 0.1], dtype=torch.float64)
    moved = u + ((torch.from_numpy(field.eigenvectors * np.sqrt(field.eigenvalues))) @ shift).view(N, N)
    assert scores.coefficients_distance(u, u.flip(0), field) < 1e-12
    assert scores.coefficients_distance(moved, u, field) == pytest.approx(1.6 / 4 / std)


def test_quartiles_are_of_the_samples_that_have_a_score():
    values = xr.DataArray([4.0, np.nan, 0.0, 1.0, 3.0, 2.0], dims="sample")
    assert scores.quartiles("q", values) == pytest.approx({"q": 2, "q_q1": 1, "q_q3": 3, "q_p95": 3.8})


@pytest.fixture(scope="module")
def sets():
    return [generate(40, N, "cocogen-16", seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def judge(sets):
    return scores.Judge(KarhunenLoeve(GRID, Exponential(0.1), 16, "uniform"), *sets)


def test_the_reference_itself_is_at_no_distance(judge, sets):
    ds = sets[1].isel(sample=slice(30))
    row = judge.row(ds.merge(score(ds)))
    # Up to the single precision in which the reference is kept.
    assert all(row[name] < 1e-4 for name in DISTANCES)
    assert row["missing"] == 0
    assert row["residual_mse_q1"] <= row["residual_mse"] <= row["residual_mse_q3"] < 1e-6
    assert row["solution_error"] < 1e-5
    assert row["nearest_ratio"] > 1e3
    assert "strong_residual_mse" in row


def test_copies_of_the_training_set_are_seen(judge, sets):
    row = judge.row(sets[0])
    assert row["nearest_ratio"] == pytest.approx(0, abs=1e-3)
    assert row["std_ratio_log_permeability"] == pytest.approx(1, rel=1e-5)
    assert row["std_ratio_pressure"] == pytest.approx(1, rel=1e-5)


def test_a_factor_of_k_and_of_p_is_what_the_distances_say(judge, sets):
    # log K + c with c of two standard deviations; 3 p.
    std = float(np.log(sets[0]["permeability"]).std())
    ds = sets[1].assign(permeability=sets[1]["permeability"] * math.exp(2 * std), pressure=3 * sets[1]["pressure"])
    row = judge.row(ds)
    assert row["w1_log_permeability"] == pytest.approx(2, rel=1e-4)
    assert row["spectrum_log_permeability"] < 1e-4
    assert row["spectrum_pressure"] == pytest.approx(2 * math.log(3), rel=1e-4)
    assert row["std_ratio_pressure"] == pytest.approx(3 * float(sets[1]["pressure"].std() / sets[0]["pressure"].std()))


def test_what_is_no_field_is_left_out_and_counted(judge, sets):
    ds = sets[1].copy(deep=True)
    ds["permeability"][-3:] = 0.0
    row = judge.row(ds)
    assert row["missing"] == 3
    assert all(row[name] < 1e-4 for name in DISTANCES)
    none = judge.row(ds.assign(pressure=np.nan * ds["pressure"]))
    assert none == {"missing": 40}


def test_no_pressure_has_no_spread(judge, sets):
    ds = sets[1].assign(pressure=0 * sets[1]["pressure"])
    row = judge.row(ds.merge(score(ds)))
    assert row["std_ratio_pressure"] == 0
    assert row["solution_error"] == pytest.approx(1)
    assert row["residual_mse"] == pytest.approx(3.125)
    assert row["sliced_w2"] > 0.1
