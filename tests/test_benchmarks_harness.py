import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import physflow
from physflow.results import Picture, Quantity, Results, Table

TABLE = Table("Scores", ("method",), (Quantity("score", "score"),))


@pytest.fixture(scope="module")
def harness():
    path = Path(__file__).parents[1] / "benchmarks" / "harness.py"
    spec = importlib.util.spec_from_file_location("benchmarks_harness", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Work:
    """A piece of work that counts how often it is done."""

    def __init__(self, *rows, interrupted=False):
        self.rows, self.interrupted, self.times = rows, interrupted, 0

    def __call__(self):
        self.times += 1
        if self.interrupted:
            raise KeyboardInterrupt
        return self.rows[0] if len(self.rows) == 1 else self.rows


def test_a_piece_is_made_once(harness, tmp_path, capsys):
    one, several = Work({"score": 1.0}), Work({"steps": 1, "score": 2.0}, {"steps": 2, "score": 3.0})
    for _ in range(2):
        bench = harness.Benchmark(tmp_path, {"steps": 3})
        assert bench.add(one, method="a", seed=0) == [{"method": "a", "seed": 0, "score": 1.0}]
        assert [row["steps"] for row in bench.add(several, method="a", seed=1)] == [1, 2]
        assert [row["score"] for row in bench.rows] == [1.0, 2.0, 3.0]
    assert one.times == several.times == 1
    assert capsys.readouterr().out == "method a, seed 0 done\nmethod a, seed 1 done\n"


def test_an_interruption_keeps_the_pieces_before(harness, tmp_path):
    first, second = Work({"score": 1.0}), Work({"score": 2.0}, interrupted=True)
    bench = harness.Benchmark(tmp_path, {})
    bench.add(first, seed=0)
    with pytest.raises(KeyboardInterrupt):
        bench.add(second, seed=1)
    second.interrupted = False
    bench = harness.Benchmark(tmp_path, {})
    bench.add(first, seed=0)
    bench.add(second, seed=1)
    assert (first.times, second.times) == (1, 2)
    assert bench.rows == [{"seed": 0, "score": 1.0}, {"seed": 1, "score": 2.0}]


def test_an_interruption_while_a_piece_is_kept_makes_it_again(harness, tmp_path, monkeypatch):
    work = Work({"score": 1.0})
    bench = harness.Benchmark(tmp_path, {})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(harness.os, "replace", lambda *_: Work(interrupted=True)())
        bench.add(work, seed=0)
    assert harness.Benchmark(tmp_path, {}).add(work, seed=0) == [{"seed": 0, "score": 1.0}]
    assert work.times == 2


def test_a_piece_of_the_same_name_is_refused(harness, tmp_path):
    bench = harness.Benchmark(tmp_path, {})
    bench.add(Work({"score": 1.0}), method="a", seed=0)
    with pytest.raises(ValueError, match="the piece seed 0, method a was added before; name every piece differently"):
        bench.add(Work({"score": 2.0}), seed=0, method="a")
    assert len(bench.rows) == 1


def test_numbers_of_numpy_and_torch_are_kept(harness, tmp_path):
    row = {"single": np.float32(0.5), "many": np.arange(2), "tensor": torch.tensor(2), "broken": math.nan}
    bench = harness.Benchmark(tmp_path, {"steps": np.int64(3)})
    kept = bench.add(Work(row), seed=np.int64(0))
    assert bench.settings == {"steps": 3}
    assert math.isnan(kept[0].pop("broken"))
    assert kept == [{"seed": 0, "single": 0.5, "many": [0, 1], "tensor": 2}]


def test_other_settings_are_refused_by_name(harness, tmp_path):
    settings = {"model": {"width": 8, "shape": (2, 3)}, "steps": 3, "data": "rings"}
    harness.Benchmark(tmp_path, settings)
    harness.Benchmark(tmp_path, {**settings, "model": {"shape": [2, 3], "width": 8}})
    with pytest.raises(ValueError, match="with other settings") as error:
        harness.Benchmark(tmp_path, {"model": {"width": 16}, "data": "rings", "seed": None})
    assert str(error.value) == (
        f"{tmp_path} holds work with other settings (model, seed, steps): give another --out, or delete "
        f"{tmp_path / 'work'}"
    )
    assert harness.Benchmark(tmp_path, settings).settings["steps"] == 3


def options(harness, monkeypatch, *words, **more):
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/rings.py", *words])
    return harness.options_of("About rings.", 5, **more)


@pytest.mark.parametrize(
    ("words", "seeds"), [((), 5), (("--quick",), 1), (("--seeds", "3"), 3), (("--quick", "--seeds", "2"), 2)]
)
def test_the_quick_run_has_one_seed(harness, monkeypatch, words, seeds):
    found = options(harness, monkeypatch, "--out", "rings", *words)
    assert (found.seeds, found.quick, found.out) == (seeds, "--quick" in words, Path("rings"))


def test_a_benchmark_has_options_of_its_own(harness, monkeypatch):
    more = {"device": {"default": "cpu"}, "steps": {"type": int}}
    found = options(harness, monkeypatch, "--out", "rings", "--steps", "3", **more)
    assert (found.device, found.steps) == ("cpu", 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "x", "--seeds", "0"), "expected at least one seed, got --seeds 0"),
        (("--out", "x", "--quick", "--seeds", "-1"), "expected at least one seed, got --seeds -1"),
        ((), "the following arguments are required: --out"),
        (("--ou", "x"), "the following arguments are required: --out"),
    ],
)
def test_options_without_a_seed_or_a_folder_are_refused(harness, monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit) as exit_:
        options(harness, monkeypatch, *words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("--out", "{}", "--quick"), "--out DIR --quick"),
        (("--quick", "--out={}"), "--quick --out=DIR"),
        (("--seeds", "2", "--out", "{}"), "--seeds 2 --out DIR"),
        (("--out", "{}", "--out", "{}"), "--out DIR --out DIR"),
    ],
)
def test_the_folder_is_not_in_the_command(harness, monkeypatch, tmp_path, words, command):
    out = tmp_path / "my rings"
    found = options(harness, monkeypatch, *(word.format(out) for word in words))
    bench = harness.Benchmark(found.out, {})
    assert bench.finish("Rings", "", found.seeds, []).command == f"python benchmarks/rings.py {command}"
    assert str(tmp_path) not in (out / "results.json").read_text()


def test_the_results_hold_everything(harness, monkeypatch, tmp_path, capsys):
    out = options(harness, monkeypatch, "--out", str(tmp_path / "rings")).out
    bench = harness.Benchmark(out, {"model": {"width": 8}})
    for seed in range(2):
        bench.add(Work({"score": 1.0 + 2 * seed}), method="flow", seed=seed)
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([0, 1])
    bench.picture("curve.png", figure, "A curve.")
    results = bench.finish("Rings", "\nWhat was done.\n", 2, [TABLE])
    assert "| flow | 2.0 ± 1.4 |" in capsys.readouterr().out
    assert Results.read(out) == results
    assert results.rows == ({"method": "flow", "seed": 0, "score": 1.0}, {"method": "flow", "seed": 1, "score": 3.0})
    assert (results.text, results.seeds, results.settings) == ("What was done.", (0, 1), {"model": {"width": 8}})
    assert results.pictures == (Picture("curve.png", "A curve."),)
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert results.hardware["threads"] == str(torch.get_num_threads())
    assert results.versions["physflow"] == physflow.__version__
    assert sorted(path.name for path in out.iterdir()) == ["curve.png", "results.json", "table.md", "work"]


def test_the_work_is_no_part_of_a_repository(harness, tmp_path):
    bench = harness.Benchmark(tmp_path, {"steps": 3})
    assert bench.work == tmp_path / "work"
    assert (bench.work / ".gitignore").read_text() == "*\n"
    assert json.loads((bench.work / "settings.json").read_text()) == {"steps": 3}


def finish(bench):
    return bench.finish("Rings", "How to read.", 1, [TABLE, Table("None", ("nothing",), TABLE.quantities)])


def test_results_hold_the_pieces_and_pictures_of_other_runs(harness, tmp_path):
    """Those of one part, then those of another: the file has both, each once."""
    for name in ("b", "a", "b"):
        bench = harness.Benchmark(tmp_path, {})
        bench.add(Work({"score": 1.0}), method=name)
        bench.picture(f"{name}.png", Figure((1, 1)), f"picture of {name}")
        results = finish(bench)
    assert [row["method"] for row in results.rows] == ["b", "a"]
    assert results.pictures == (Picture("b.png", "picture of b"), Picture("a.png", "picture of a"))
    assert [table.title for table in results.tables] == ["Scores"]


def test_every_piece_tells_what_made_it(harness, tmp_path, monkeypatch):
    for k, name in enumerate(("one", "other")):
        monkeypatch.setattr(harness, "commit", lambda name=name: name)
        monkeypatch.setattr(harness, "versions", lambda k=k: {"torch": "2", "numpy": str(k)})
        bench = harness.Benchmark(tmp_path, {})
        # Asked when the run starts, not when it ends.
        monkeypatch.setattr(harness, "commit", lambda: "later")
        bench.add(Work({"score": 1.0}), method=name)
        results = finish(bench)
    assert results.commit == "one, other"
    assert results.versions == {"torch": "2", "numpy": "0, 1"}
    assert "later" not in (tmp_path / "results.json").read_text()


def test_a_quick_run_says_so(harness, tmp_path):
    assert finish(harness.Benchmark(tmp_path / "a", {"quick": True})).text.startswith("A quick run: everything")
    assert finish(harness.Benchmark(tmp_path / "b", {"quick": False})).text == "How to read."


def test_time_goes_on_after_an_interruption(harness, tmp_path, monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(harness.time, "perf_counter", lambda: float(next(ticks)))
    bench = harness.Benchmark(tmp_path, {})
    assert bench.seconds("a") is None
    with pytest.raises(KeyboardInterrupt), bench.clock("a"):
        raise KeyboardInterrupt
    with harness.Benchmark(tmp_path, {}).clock("a"):
        next(ticks)
    assert bench.seconds("a") == 1 + 2


def test_the_time_of_what_was_killed_is_not_known(harness, tmp_path):
    bench = harness.Benchmark(tmp_path, {})
    killed = bench.clock("a")
    killed.__enter__()
    assert bench.seconds("a") is None
    with bench.clock("a"):
        pass
    assert bench.seconds("a") is None
