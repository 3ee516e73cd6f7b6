import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from physflow.generative import Adaptive, Euler, integrate
from physflow.results import Results

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCORES = {
    "log_density",
    "standard_error",
    "median_log_density",
    "parzen_log_density",
    "largest_error_of_a_share",
    "wasserstein_along_axes",
}
SAMPLED = SCORES | {"part", "method", "seed", "evaluations", "measured_evaluations", "sampling_seconds", "missing"}
TRAINED = {"part", "method", "seed", "steps", "seconds", "parameters", "posterior_parameters", "final_loss"}


@pytest.fixture
def modules(monkeypatch):
    """The shared part, the figures, and the scripts on the line and in the plane."""
    if not FOLDER.exists():
        pytest.skip("the benchmarks are part of the repository, not of the package")
    monkeypatch.syspath_prepend(str(FOLDER))
    import rectified
    import rectified_1d
    import rectified_2d
    import rectified_figures

    return rectified, rectified_figures, rectified_1d, rectified_2d


def tiny(rectified):
    return rectified.Extent(steps=4, batch_size=16, pairs=24, samples=60, parzen=30, held_out=20)


def bench_of(rectified, problem, folder):
    from harness import Benchmark

    return Benchmark(folder, rectified.settings_of(problem, tiny(rectified)))


def test_every_method_gets_its_rows_and_a_rerun_computes_nothing_new(modules, tmp_path, monkeypatch):
    rectified, figures, _, plane = modules
    problem, extent = plane.PROBLEM, tiny(rectified)
    bench = bench_of(rectified, problem, tmp_path)
    figures.compare(bench, problem, extent, 2, problem.posteriors)
    names = [method.name for method in rectified.methods(problem.posteriors)]
    assert names == [
        "rectified flow",
        "V-RFM (x0, x1, xt)",
        "V-RFM (x1)",
        "consistency FM",
        "ReFlow, 1 round",
        "ReFlow, 2 rounds",
    ]
    parts = {part: [row for row in bench.rows if row["part"] == part] for part in ("data", "samples", "training")}
    assert [len(rows) for rows in parts.values()] == [2, 6 * (2 * len(names) + 1), 2 * len(names)]
    assert all(set(row) == SAMPLED for row in parts["samples"])
    assert all(set(row) == TRAINED | {"velocity_error", "rate"} for row in parts["training"])
    assert all(set(row) == SCORES | {"part", "method", "seed"} for row in parts["data"])
    assert all(math.isfinite(row[name]) for row in parts["samples"] + parts["data"] for name in SCORES)
    for row in parts["samples"]:
        if row["evaluations"] == "adaptive":
            assert row["measured_evaluations"] >= 8
        else:
            assert row["measured_evaluations"] == row["evaluations"]
    steps = {row["method"]: row["steps"] for row in parts["training"]}
    assert [steps[name] for name in names] == [4, 4, 4, 4, 6, 8]
    seconds = {row["method"]: row["seconds"] for row in parts["training"] if row["seed"] == 0}
    assert 0 < seconds["rectified flow"] < seconds["ReFlow, 1 round"] < seconds["ReFlow, 2 rounds"]
    # Consistency FM and ReFlow learn other velocities than that of independent pairs.
    errors = {row["method"]: row["velocity_error"] for row in parts["training"]}
    assert all(errors[name] > 0 for name in names[:3])
    assert [errors[name] for name in names[3:]] == [None] * 3
    assert all(row["missing"] == 0 for row in parts["samples"])

    def nothing(*_, **__):
        raise AssertionError("a rerun must compute nothing new")

    monkeypatch.setattr(rectified, "train", nothing)
    monkeypatch.setattr(figures, "integrate", nothing)
    again = bench_of(rectified, problem, tmp_path)
    figures.compare(again, problem, extent, 2, problem.posteriors)
    assert again.rows == bench.rows
    tables = figures.tables(bench.rows)
    assert [table.lines(bench.rows)[1][0][0] for table in tables[:5]] == [rectified.EXACT] * 5
    assert all("as many Euler steps as it has segments, two" in tables[k].note for k in (0, 2, 4))
    assert tables[3].note.endswith("No sample is missing.")
    assert len(figures.likelihoods(bench.rows, [*names, rectified.EXACT]).axes) == 2


def test_the_script_writes_results_tables_and_pictures(modules, tmp_path, monkeypatch, capsys):
    rectified, figures, line, _ = modules
    monkeypatch.setattr(line, "QUICK", tiny(rectified))
    # Thirteen pictures take longer than all else: the paths are drawn by the other figures' tests.
    monkeypatch.setattr(figures, "plot_trajectories", lambda x, target, title: figures.Figure((1, 1)))
    monkeypatch.setattr(sys, "argv", ["rectified_1d.py", "--quick", "--out", str(tmp_path / "out")])
    line.main()
    results = Results.read(tmp_path / "out")
    assert results.settings["quick"] is True
    assert results.text.startswith("A quick run")
    assert all(part in results.text for part in ("may be a little above the mark", "Choices of this", "Reference: P."))
    assert "python benchmarks" not in results.text
    assert results.settings["posterior"]["beta"] == 1.0
    assert results.settings["adaptive"] == {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}
    assert results.settings["reflow"] == {"rounds": 2, "steps_of_a_round": 2, "pairs_by": "Heun, 50 steps"}
    assert results.settings["consistency"]["alpha"] == 1e-5
    assert results.settings["training"] == {
        "optimiser": "Adam",
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup": 100,
        "clip": 1.0,
        "ema": 0.999,
    }
    assert 0 < results.settings["parzen_bandwidth"] < 0.2
    assert len(results.tables) == 6
    files = [picture.file for picture in results.pictures]
    assert files[:2] == ["likelihoods.png", "losses.png"]
    assert "paths-v-rfm-x0-x1-xt.png" in files
    assert files[-2:] == ["spread-1.png", "spread-2.png"]
    assert all((tmp_path / "out" / file).stat().st_size < 200_000 for file in files)
    assert "| V-RFM (x0, x1, xt) |" in capsys.readouterr().out


def test_all_posteriors_can_be_trained(modules, tmp_path):
    rectified, _, line, _ = modules
    assert len(rectified.EVERY) == 15
    assert set(line.PROBLEM.posteriors) < set(rectified.EVERY)
    bench = bench_of(rectified, line.PROBLEM, tmp_path)
    trainings = rectified.Trainings(line.PROBLEM, tiny(rectified), bench, 0)
    for inputs in rectified.EVERY:
        flow = trainings.trained(rectified.variational(inputs))
        assert flow.network.latent.inputs == inputs
        assert flow.latent == 4
        steps, errors = flow.error
        assert steps == [1, 2, 3, 4]
        assert all(error > 0 for error in errors)


def test_a_seed_gives_one_training_and_another_seed_another(modules, tmp_path):
    rectified, _, line, _ = modules
    problem, method = line.PROBLEM, rectified.variational(("x0", "t"))
    first, same, other = (
        rectified.Trainings(problem, tiny(rectified), bench_of(rectified, problem, tmp_path / folder), seed)
        .trained(method)
        .network.state_dict()
        for folder, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert all(torch.equal(first[key], same[key]) for key in first)
    changed = [key for key in first if not torch.equal(first[key], other[key])]
    assert any(key.startswith("latent.encoder") for key in changed)
    assert any(key.startswith("network") for key in changed)


def test_the_time_of_a_method_has_that_of_the_flows_and_pairs_it_begins_from(modules, tmp_path, monkeypatch):
    rectified, _, line, _ = modules
    bench = bench_of(rectified, line.PROBLEM, tmp_path)
    times = {
        "seed-0-rectified-flow": 1.0,
        "seed-0-reflow-1-round": 10.0,
        "seed-0-reflow-1-round-pairs": 100.0,
        "seed-0-consistency-fm-1": 3.0,
        "seed-0-consistency-fm": 4.0,
        "seed-0-reflow-2-rounds": 1000.0,
        "seed-0-reflow-2-rounds-pairs": None,
    }
    assert bench.seconds("seed-0-rectified-flow") is None
    trainings = rectified.Trainings(line.PROBLEM, tiny(rectified), bench, 0)
    with monkeypatch.context() as patch:
        patch.setattr(bench, "seconds", times.__getitem__)
        found = [trainings.trained(m).seconds for m in (rectified.RECTIFIED, rectified.CONSISTENCY, *rectified.REFLOW)]
    # The pairs of the second round were killed once: nobody knows how long they took.
    assert found == [1.0, 7.0, 111.0, None]
    assert all(bench.seconds(name) > 0 for name in times)


def test_paths_that_do_not_stay_finite_are_left_out_and_counted(modules):
    rectified, figures, _, plane = modules
    problem, extent = plane.PROBLEM, tiny(rectified)
    x0, _ = rectified.starts(problem, extent.samples, 0, 0)

    def velocity(x, t, z=None):
        # Infinite in the right half of the plane.
        return torch.where(x[:, :1] > 0, torch.inf, x if z is None else z)

    left = x0[x0[:, 0] <= 0]
    assert 0 < len(left) < len(x0)
    torch.testing.assert_close(figures.solved(velocity, x0, Euler(), 1, None), 2 * left)
    states = figures.solved(velocity, x0, Euler(), 2, x0, trajectory=True)
    torch.testing.assert_close(states, torch.stack([left, 1.5 * left, 2 * left]))
    assert figures.solved(velocity, x0.abs() + 1, Euler(), 3, None, trajectory=True).shape == (4, 0, 2)

    rows = figures._rows(problem, extent, 0.05, velocity, 0, 0)
    assert all(row["missing"] == len(x0) - len(left) for row in rows)
    assert all(math.isfinite(row[name]) for row in rows for name in SCORES)
    expected = figures._scores(problem, extent, 0.05, 2.25 * left, 0)["log_density"]
    assert rows[0]["log_density"] == pytest.approx(expected, rel=1e-5)
    assert all(row["measured_evaluations"] is None and row["sampling_seconds"] is None for row in rows)

    nothing = figures._rows(problem, extent, 0.05, lambda x, t, z: x + torch.nan, 0, 0)
    assert all(row["missing"] == len(x0) for row in nothing)
    assert all(row[name] is None for row in nothing for name in SCORES)

    own = {"part": "data", "method": "data", **figures._scores(problem, extent, 0.05, problem.target.modes, 0)}
    named = [{"part": "samples", "method": name, **row} for name, each in (("a", rows), ("b", nothing)) for row in each]
    shares, lost = figures.tables([own, *named])[3:5]
    assert lost.title == "Samples that did not stay finite, left out of all scores, by evaluations"
    assert lost.lines(named)[1] == [["a", *[str(len(x0) - len(left))] * 6], ["b", *[str(len(x0))] * 6]]
    assert "No sample is missing" not in shares.note
    assert shares.lines(named)[1][1] == ["b", *["–"] * 6]
    lines = figures.likelihoods([own, *named], ["a", "b"]).axes[0].get_lines()
    assert any(np.isnan(np.asarray(line.get_ydata(), float)).all() for line in lines)


def test_the_exact_velocity_and_the_data_score_what_the_law_says(modules):
    rectified, figures, _, plane = modules
    problem, extent = plane.PROBLEM, rectified.Extent(samples=3000, parzen=500)
    generator = torch.Generator().manual_seed(5)
    # Well apart, six equal modes of width s have the entropy of one and log 6.
    expected = -math.log(6) - math.log(2 * math.pi * 0.05**2) - 1
    data = figures._scores(problem, extent, 0.05, problem.target.sample(3000, generator), 0)
    assert data["log_density"] == pytest.approx(expected, abs=4 * data["standard_error"])
    assert data["median_log_density"] == pytest.approx(expected + 1 - math.log(2), abs=0.1)
    x0, z = rectified.starts(problem, 3000, 0, 0)
    assert z is None
    x = integrate(rectified.exact_flow(problem).velocity, x0[:500].double(), Adaptive(rtol=1e-3, atol=1e-3))
    exact = figures._scores(problem, extent, 0.05, x, 0)
    assert exact["log_density"] == pytest.approx(expected, abs=5 * exact["standard_error"])


def test_scores_of_samples_that_miss_a_mode_or_lie_elsewhere(modules):
    rectified, figures, line, _ = modules
    problem, extent = line.PROBLEM, rectified.Extent(samples=2000, parzen=2000)
    data = problem.target.sample(2000, torch.Generator().manual_seed(7))
    right = data[data[:, 0] > 0]
    all_of_them, missing, shifted = (figures._scores(problem, extent, 0.05, x, 0) for x in (data, right, data + 3.0))
    assert missing["largest_error_of_a_share"] == 1.0
    assert all_of_them["largest_error_of_a_share"] < 0.15
    # The window sees the mode that is missing, the density of the samples does not.
    assert missing["log_density"] == pytest.approx(all_of_them["log_density"], abs=0.1)
    assert missing["parzen_log_density"] < all_of_them["parzen_log_density"] - 10
    assert shifted["wasserstein_along_axes"] == pytest.approx(3.0, abs=0.1)


def test_the_spread_of_straight_lines_is_that_of_the_pairs(modules):
    _, figures, line, _ = modules
    x0 = torch.full((2000, 1), 0.06)
    x0[::2] += 1e-3
    x1 = torch.where(torch.arange(2000)[:, None] % 4 < 2, 2.0, -2.0)
    t = (torch.arange(line.STEPS + 1) / line.STEPS)[:, None, None]
    found = line.spread((1 - t) * x0 + t * x1)
    # From the middle of a bin, both velocities, about 2 and -2, stay in it at first; later each has a bin of its own.
    assert float(found.std[20, 0]) == pytest.approx(2.0, rel=1e-3)
    assert float(found.std[:, 20].nan_to_num().max()) < 2e-3
    lines = figures.straight_lines(line.PROBLEM, 50, line.STEPS)
    assert lines.shape == (line.STEPS + 1, 50, 1)
    torch.testing.assert_close(lines.diff(dim=0).diff(dim=0), torch.zeros(line.STEPS - 1, 50, 1), atol=1e-5, rtol=0)


def test_folders_have_plain_names(modules):
    assert modules[0].plain_name("V-RFM (x0, x1, xt)") == "v-rfm-x0-x1-xt"
    assert modules[0].plain_name("ReFlow, 2 rounds") == "reflow-2-rounds"
