"""The benchmark of constraints: what each way does to samples, what it is said to cost, and where names stand."""

import importlib
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from physflow.assembly import make_network, make_transform, sizes_of
from physflow.config import MLPConfig, ModelConfig, SamplingConfig, TrainingConfig, check_compatible
from physflow.data import files
from physflow.data.darcy import FIELDS
from physflow.fields import grid_of, to_dataset, to_tensor
from physflow.generative import FlowMatching
from physflow.grid import Grid
from physflow.inference import CorrectedSolver
from physflow.model import Model
from physflow.pde import from_dataset, score

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
constraints, figures, methods, scores, harness = (
    importlib.import_module(name)
    for name in ("constraints", "constraints_figures", "constraints_methods", "darcy_scores", "harness")
)

N, SAMPLES = 8, 6
"""The states with x + 2 y = 1/2."""


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    settings = {"samples": SAMPLES, "pairs": 80, "resolution": N}
    return constraints.Judged(harness.Benchmark(tmp_path_factory.mktemp("constraints"), settings), constraints.LAW)


@pytest.fixture(scope="module")
def model(case):
    """A model that nobody trained: about the normal law with the moments of the data, log K and p not quite apart."""
    config, training = ModelConfig(rank=16, mlp=MLPConfig(width=16, blocks=1)), TrainingConfig()
    with files.open(case.data) as ds:
        x, grid, attrs = to_tensor(ds, FIELDS), grid_of(ds, FIELDS), ds.attrs
        transform = make_transform(config, FIELDS).fit(x)
        network = make_network(config, training, sizes_of(transform, FIELDS), grid)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
        settings = {
            "attrs": attrs,
            "config": config,
            "training": training,
            "sampling": SamplingConfig(solver="heun", steps=4),
        }
        return Model(network, transform, FIELDS, grid, from_dataset(ds), **settings)


@pytest.fixture(scope="module")
def every(case, model):
    return methods.ways(model.equation, case.judge.std.flatten().tolist())


@pytest.fixture(scope="module")
def drawn(model, every):
    """The samples of every way, on first use."""
    known = {}

    def draw(key):
        if key == "newton" and key not in known:
            # Not of the whole block that a model computes: this is the slow one.
            fields = every[key].end(to_tensor(draw("raw"), FIELDS))
            known[key] = model.score(to_dataset(fields, FIELDS, model.grid, model.attrs))
        if key not in known:
            known[key] = methods.sampled(every[key], model, SAMPLES, 1)
        return known[key]

    return draw


def test_samples_without_a_correction_are_those_of_the_model(model, drawn):
    plain = model.sample(SAMPLES, 1)
    assert set(drawn("raw")) == set(plain)
    for name in plain:
        np.testing.assert_array_equal(drawn("raw")[name], plain[name], name)


def test_a_solution_field_is_corrected_at_the_end_and_its_input_left_alone(every, drawn):
    ends = [key for key, way in every.items() if way.kind == methods.END and key != "newton"]
    assert len(ends) == 8
    for key in ends:
        np.testing.assert_array_equal(drawn(key)["permeability"], drawn("raw")["permeability"], key)
        assert not drawn(key)["pressure"].equals(drawn("raw")["pressure"]), key


@pytest.mark.parametrize("key", ["completion", "newton", "completion-loop"])
def test_ways_that_solve_leave_the_rounding_of_single_precision(drawn, key):
    assert drawn(key)["residual_mse"].max() < 1e-8
    assert drawn(key)["relative_residual"].max() < constraints.SOLVED
    assert drawn("raw")["residual_mse"].min() > 0.1


def test_the_projection_in_the_loop_is_rougher_than_at_the_end(every):
    way = every["newton-loop"]
    assert (way.loop.tolerance, way.end.tolerance) == (1e-2, 1e-6)
    assert way.end is every["newton"].end


@pytest.mark.parametrize("key", ["newton", "completion-loop", "completion-loop-alone", "descent-loop"])
def test_ways_that_act_on_log_k_move_it(drawn, key):
    moved = np.log(drawn(key)["permeability"] / drawn("raw")["permeability"])
    assert float(np.abs(moved).max()) > 1e-3


@pytest.mark.parametrize("key", ["descent-loop", "completion-loop-alone"])
def test_what_ends_in_the_pod_of_p_is_held_there(drawn, model, key):
    """The last correction is followed by the projection onto the modes, which a second one leaves alone."""
    x = to_tensor(drawn(key), FIELDS).double()
    np.testing.assert_allclose(model.transform.inverse(model.transform(x)), x, rtol=1e-5, atol=1e-6)
    assert drawn(key)["residual_mse"].min() > 1e-6
    assert (drawn(key)["solution_error"] < drawn("raw")["solution_error"]).all()


def test_descent_lowers_the_error_step_by_step_and_cocogen_hardly(drawn):
    errors = [drawn(key)["solution_error"].median() for key in ("raw", "descent-1", "descent-5")]
    assert errors[1] < 0.3 * errors[0]
    assert errors[2] < 0.3 * errors[1]
    assert abs(drawn("cocogen-10-2e-4")["solution_error"].median() / errors[0] - 1) < 0.02


@pytest.mark.parametrize(("key", "name"), [("best-error", "solution_error"), ("best-residual", "residual_mse")])
def test_a_selection_keeps_the_best_tenth_in_their_order(model, drawn, key, name):
    pool = model.sample(10 * SAMPLES, 1)
    kept = drawn(key)
    np.testing.assert_allclose(np.sort(kept[name]), np.sort(pool[name])[:SAMPLES], rtol=1e-12)
    where = [int(np.flatnonzero((pool["pressure"] == p).all(("x", "y")))[0]) for p in kept["pressure"]]
    assert where == sorted(where)


def test_a_selection_takes_what_has_no_score_last(model, every, monkeypatch):
    pool = model.sample(10 * SAMPLES, 1)
    pool["residual_mse"][: 9 * SAMPLES + 2] = np.nan
    monkeypatch.setattr(model, "sample", lambda *_: pool)
    found = methods.sampled(every["best-residual"], model, SAMPLES, 1)
    assert int(found["residual_mse"].isnull().sum()) == 2


def test_costs_are_medians_of_what_each_way_adds(monkeypatch):
    """A clock that work moves on: sampling takes 1, in the loop 3, a correction 0.25, a residual 0.5, a solve 0.75.

    In one of the three rounds the machine is ten times as slow.
    """
    clock, rounds = [0.0], iter([1.0, 1.0, 10.0, 1.0])
    slow = [1.0]

    def work(seconds, result=None):
        clock[0] += slow[0] * seconds
        return result

    def sample(samples, seed, solver, steps, score):
        assert (samples, steps, score) == (5, 7, False)
        looped = isinstance(solver, CorrectedSolver)
        if not looped:
            slow[0] = next(rounds)
        return work(3.0 if looped else 1.0, fields)

    fields = to_dataset(torch.ones(5, 2, 2, 2), FIELDS, Grid((2, 2)))
    model = SimpleNamespace(
        sample=sample,
        fields=FIELDS,
        transform=None,
        latent=None,
        objective=FlowMatching(),
        sampling=SamplingConfig(solver="heun", steps=7),
        equation=SimpleNamespace(complete=lambda *_: work(0.75), residual=lambda *_: work(0.5)),
    )

    def end(x):
        return work(0.25, x)

    monkeypatch.setattr(methods.time, "perf_counter", lambda: clock[0])
    every = {
        "a": methods.Way("as sampled", methods.RAW),
        "b": methods.Way("end", methods.END, end=end),
        "c": methods.Way("loop", methods.LOOP, loop=end),
        "d": methods.Way("both", methods.LOOP, end, end),
        "e": methods.Way("error", methods.SELECTION, score="solution_error"),
        "f": methods.Way("residual", methods.SELECTION, score="residual_mse"),
    }
    rows = methods.costs(model, every, 5, 3)
    assert [row["method"] for row in rows] == [way.name for way in every.values()]
    added = [1, 0.25, 2, 2.25, 9 + 10 * 0.75, 9 + 10 * 0.5]
    np.testing.assert_allclose([row["share"] for row in rows], added)
    np.testing.assert_allclose([row["milliseconds"] for row in rows], [1e3 * seconds / 5 for seconds in added])


def test_a_row_says_how_far_fields_moved_and_what_is_solved(case):
    ds = case.set_of(0)
    std = case.judge.std.flatten().tolist()
    shifted = ds.assign(permeability=ds["permeability"] * math.exp(0.5 * std[0]), pressure=ds["pressure"] - 2 * std[1])
    row = case.row(shifted.merge(score(shifted)), ds)
    assert row["moved_log_permeability"] == pytest.approx(0.5, rel=1e-5)
    assert row["moved_pressure"] == pytest.approx(2, rel=1e-5)
    assert row["mean_pressure"] == pytest.approx(2, rel=1e-5)
    assert row["solved"] == 0
    half = xr.concat([ds.isel(sample=slice(3)), 0 * ds[["pressure"]].isel(sample=slice(3, 6))], "sample", join="inner")
    half = ds.assign(pressure=half["pressure"])
    row = case.row(half.merge(score(half)))
    assert row["solved"] == 0.5
    assert row["mean_pressure"] < 1e-6
    assert "moved_pressure" not in row


def test_anchors_score_what_they_are(case):
    rows = {row["method"]: row for row in case.anchor_rows(1)}
    assert list(rows) == [
        *(scores.DATA, scores.ZERO, scores.SHUFFLED),
        *("0.1 % of noise on p", "1 % of noise on p"),
    ]
    data, zero, shuffled, less, more = rows.values()
    assert data["solved"] == 1
    assert zero["relative_residual"] == pytest.approx(1, rel=1e-12)
    assert shuffled["solution_error"] > 0.1
    # The same noise, ten times as much: its residual is linear, up to the rounding of the files.
    assert more["residual_mse"] / less["residual_mse"] == pytest.approx(100, rel=1e-3)
    assert more["solution_error"] == pytest.approx(0.01, rel=0.1)
    assert len({row["std_ratio_log_permeability"] for row in rows.values()}) == 1
    assert case.anchor_rows(1)[3] == less


def test_data_in_the_pod_lose_what_it_leaves_out(case, model):
    row, data = case.pod_row(2, model), case.anchor_rows(2)[0]
    assert row["method"] == constraints.POD
    assert row["residual_mse"] > 1e3 * data["residual_mse"]
    assert 0 < row["std_ratio_log_permeability"] < data["std_ratio_log_permeability"]
    assert row["mean_pressure"] < 1e-5


def test_samples_are_kept_and_the_corrected_compared_with_those_as_they_were(case, model, every):
    case.path("i-cfm", 0).mkdir()
    rows = [case.sample_row("i-cfm", 0, key, every[key], model) for key in ("raw", "completion", "completion")]
    assert "moved_pressure" not in rows[0]
    assert rows[1] == rows[2]
    assert rows[1]["moved_log_permeability"] == 0
    assert rows[1]["moved_pressure"] > 0.01
    assert rows[1]["solved"] == 1
    assert (case.path("i-cfm", 0) / "completion.nc").exists()


@pytest.mark.parametrize("quick", [False, True])
def test_flows_differ_by_their_weight_alone(quick):
    found = constraints.flows(quick)
    assert [method.training.physics for method in found.values()] == [0, *constraints.WEIGHTS]
    first = found["i-cfm"].of(50, seed=2)
    for method in found.values():
        arguments = method.of(50, seed=2)
        check_compatible(arguments["model"], arguments["training"])
        assert (arguments["model"], arguments["sampling"]) == (first["model"], first["sampling"])
        assert (arguments["training"].steps, arguments["training"].seed) == (50, 2)
    assert len({method.name for method in found.values()}) == len(found)


def test_no_heading_comes_twice_in_a_table_and_every_row_is_in_one():
    tables = constraints.tables()
    for table in tables:
        heads, _ = table.lines([])
        assert len(set(heads)) == len(heads)
    key = {"kind": methods.END, "method": "completion", "seed": 0}
    rows = [
        {"part": "samples", **key, "residual_mse": 1.0},
        {"part": "cost", **key, "milliseconds": 2.0, "share": 0.05},
    ]
    rows.append({"part": "training", "method": "I-CFM", "seed": 0, "steps": 30})
    found = [table.lines(rows)[1] for table in tables]
    assert [len(lines) for lines in found] == [1, 1, 1, 1]
    assert found[2] == [["at the end", "completion", "2.00", "5.00 %"]]


def overlapping(boxes):
    return [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]


def test_names_stand_clear_of_each_other_of_points_and_of_the_edge(generator):
    frame = np.array([0.0, 0.0, 600.0, 500.0])
    crowd = torch.rand(24, 2, generator=generator, dtype=torch.float64).numpy() * [300, 40] + [250, 200]
    points = np.concatenate([crowd, crowd[:2], [[3.0, 3.0], [597.0, 497.0]]])
    sizes = np.tile([70.0, 12.0], (len(points), 1))
    places = figures.placed(points, sizes, frame, 1.0)
    left = points[:, 0] + places[:, 0] - np.where(places[:, 0] > 0, 0, 70)
    boxes = [
        Bbox.from_bounds(x + 0.01, y - 5.99, 69.98, 11.98)
        for x, y in zip(left, points[:, 1] + places[:, 1], strict=True)
    ]
    assert overlapping(boxes) == []
    assert not any(box.contains(*point) for box in boxes for point in points)
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 600 and box.y1 <= 500 for box in boxes)


def test_a_point_that_stands_alone_has_its_name_beside_it():
    place = figures.placed(np.array([[300.0, 200.0]]), np.array([[70.0, 12.0]]), np.array([0, 0, 600.0, 500.0]), 1.5)
    np.testing.assert_allclose(place, [[8.0, 0.0]])


@pytest.fixture
def rows(every):
    """Rows like those of a run: ways at the end share the law of log K, three of them the residual too."""
    anchors = (scores.DATA, scores.ZERO, scores.SHUFFLED, constraints.POD)
    found = [
        {"kind": methods.ANCHOR, "method": name, "set": k, "residual_mse": 1.0, "sliced_w2": 0.1, "ratio": 1.0}
        for name in anchors
        for k in range(2)
    ]
    found += [
        {
            "kind": way.kind,
            "method": way.name,
            "seed": k,
            "residual_mse": 10.0 ** (k - 2),
            "sliced_w2": 0.12,
            "ratio": 0.9,
        }
        for way in every.values()
        for k in range(2)
    ]
    for row in found:
        if row["method"] in (scores.DATA, "completion", "Gauss-Newton"):
            row["residual_mse"] = 1e-10
        if row["method"] == scores.ZERO:
            row["sliced_w2"] = 0.7
        row |= {"part": "samples", "std_ratio_log_permeability": row.pop("ratio"), "solution_error": 0.1}
        for score_of in figures.NAMES:
            row |= {f"{score_of}_q1": row[score_of] / 2, f"{score_of}_q3": 2 * row[score_of]}
            row |= {f"{score_of}_p95": 5 * row[score_of]}
    return [*found, {"part": "cost", "kind": methods.END, "method": "completion", "share": 0.01}]


def test_points_are_means_over_the_seeds(rows):
    found = {name: (kind, x, y) for name, kind, x, y in figures.points_of(rows, "sliced_w2")}
    assert found["as sampled"] == (methods.RAW, pytest.approx(10**-1.5), pytest.approx(0.12))
    rows[0]["sliced_w2"], rows[1]["residual_mse"] = None, math.nan
    assert scores.DATA not in {name for name, *_ in figures.points_of(rows, "sliced_w2")}


def test_every_method_is_named_once_in_each_panel_and_no_two_names_overlap(rows, every):
    figure = figures.pareto(rows)
    renderer = FigureCanvasAgg(figure).get_renderer()
    names = {way.name for way in every.values()}
    for ax, more in zip(
        figure.axes,
        ({scores.DATA, f"{scores.ZERO} (at 7.00)", scores.SHUFFLED, constraints.POD}, {scores.DATA}),
        strict=True,
    ):
        shown = [text for text in ax.texts if text.get_text()]
        assert sorted(text.get_text() for text in shown) == sorted(names | more)
        boxes = [text.get_window_extent(renderer) for text in shown]
        assert overlapping(boxes) == []
        assert all(ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max) for box in boxes)


def test_the_axis_of_residuals_is_a_bijection_that_keeps_decades_above_its_break():
    x = 10.0 ** np.linspace(-12, 3, 61)
    np.testing.assert_allclose(figures._stretched(figures._squeezed(x)), x, rtol=1e-12)
    place = figures._squeezed(np.array([1e-10, 1e-5, 1.0, 10.0]))
    np.testing.assert_allclose(np.diff(place)[[0, 2]], [1.0, 1.0])


def test_boxes_show_every_method_and_its_median(rows, every):
    figure = figures.boxes(rows)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[0] == "as sampled"
    assert set(names) == {way.name for way in every.values()} | {row["method"] for row in rows if "set" in row}
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written[names.index("completion")] == "1.00×10⁻¹⁰"
    low, high = figure.axes[0].get_xlim()
    assert low < 0.5e-10
    assert high > 5
