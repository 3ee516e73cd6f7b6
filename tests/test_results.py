import json
import math
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from physflow import machine
from physflow.results import FORMAT, Picture, Quantity, Results, Table, find_results, number

SCORE = Quantity("score", "score of the samples")


def results(rows=(), tables=(), **given):
    values = {
        "title": "Rings",
        "text": "What was done.\n\nHow to read it.",
        "command": "python benchmarks/rings.py --out DIR",
        "settings": {"steps": 3},
        "seeds": (0, 1),
        "rows": tuple(rows),
        "tables": tuple(tables),
        "pictures": (Picture("a.png", "A picture."),),
        "hardware": {"cores": "2"},
        "versions": {"torch": "2.6"},
        "commit": "0123456789",
    }
    return Results(**values | given)


def value_of(text):
    """A number as `number` writes it, read back."""
    mantissa, _, power = text.replace("\N{MINUS SIGN}", "-").partition("×10")
    return float(mantissa) * 10.0 ** int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)


# Numbers.


@pytest.mark.parametrize(
    "value", [0.001, 0.0123456, -0.999949, 0.99996, 3.14159, 99.96, 1234.5, -99999, 1e5, 7.5e-9, -3e200]
)
def test_a_number_has_three_digits_or_more(value):
    assert value_of(number(value)) == pytest.approx(value, rel=5e-3)
    digits = re.sub(r"^0\.0*|[^0-9]", "", number(value).split("×")[0])
    assert len(digits) >= 3


def test_a_mean_of_several_has_the_sample_standard_deviation(rng):
    for scale in (1e-9, 1e-3, 0.1, 1, 30, 1e4, 1e12):
        values = scale * rng.standard_normal(7)
        text = SCORE.cell(list(values))
        power = re.fullmatch(r"\((.*)\)(×10.*)", text)
        mean, std = (
            value_of(part + (power[2] if power else "")) for part in (power[1] if power else text).split(" ± ")
        )
        assert std == pytest.approx(np.std(values, ddof=1), rel=0.06)
        assert mean == pytest.approx(np.mean(values), abs=0.06 * std)


@pytest.mark.parametrize(
    ("values", "unit", "text"),
    [
        ([1.0, 3.0], "", "2.0 ± 1.4"),
        ([0.5], "", "0.500"),
        ([0.5], "s", "0.500 s"),
        ([0.1, 0.3], "%", "20 ± 14 %"),
        ([0.123], "%", "12.3 %"),
        ([100.0, 300.0], "s", "200 ± 141 s"),
        ([-1.0, -3.0], "", "−2.0 ± 1.4"),
        ([1e-6, 3e-6], "", "(2.0 ± 1.4)×10⁻⁶"),
        ([1e6, 3e6], "%", "(2.0 ± 1.4)×10⁸ %"),
        ([2.0, 2.0, 2.0], "", "2.00"),
        ([1.0, 1.0 + 2e-9], "", "1.000000 ± 1.41×10⁻⁹"),
        ([None, 1.0, 3.0], "", "2.0 ± 1.4 (1 missing)"),
        ([None, 0.5, None], "s", "0.500 s (2 missing)"),
        ([math.nan, 1.0, math.inf, 3.0], "", "2.0 ± 1.4 (2 missing)"),
        ([None, math.nan], "s", "–"),
        ([], "", "–"),
        ([4, 4], "", "4"),
    ],
)
def test_cells(values, unit, text):
    assert Quantity("q", "q", unit).cell(values) == text


# Tables.

ROWS = [
    {"method": method, "seed": seed, "steps": steps, "score": base + steps * (1 + seed)}
    for method, base in (("b", 0.0), ("a", 100.0))
    for seed in (0, 1)
    for steps in (10, 2)
]


def test_lines_are_groups_in_the_order_of_the_rows():
    heads, lines = Table("t", ("method", "steps"), (SCORE,)).lines(ROWS)
    assert heads == ["method", "steps", "score of the samples"]
    assert [line[:2] for line in lines] == [["b", "10"], ["b", "2"], ["a", "10"], ["a", "2"]]
    assert [line[2] for line in lines] == ["15.0 ± 7.1", "3.0 ± 1.4", "115.0 ± 7.1", "103.0 ± 1.4"]


def test_columns_across_a_name():
    heads, lines = Table("t", ("method",), (SCORE,), across="steps").lines([*ROWS, {"method": "c", "score": 1.0}])
    assert heads == ["method", "10", "2"]
    assert lines == [["b", "15.0 ± 7.1", "3.0 ± 1.4"], ["a", "115.0 ± 7.1", "103.0 ± 1.4"]]


def test_a_group_without_one_of_the_columns_has_a_dash_there():
    rows = [*ROWS, {"method": "c", "seed": 0, "steps": 5, "score": 1.0}]
    heads, lines = Table("t", ("method",), (SCORE,), across="steps").lines(rows)
    assert heads == ["method", "10", "2", "5"]
    assert [line[-1] for line in lines] == ["–", "–", "1.00"]
    assert lines[2] == ["c", "–", "–", "1.00"]


def test_null_is_a_column_of_its_own():
    rows = [{"method": "a", "latent": latent, "score": score} for latent, score in ((None, 1.0), (8, 3.0))]
    assert Table("t", ("method",), (SCORE,), across="latent").lines(rows) == (
        ["method", "None", "8"],
        [["a", "1.00", "3.00"]],
    )


def test_only_rows_with_these_values_count():
    table = Table("t", ("method",), (SCORE,), where={"steps": 2, "seed": 1})
    assert table.lines(ROWS)[1] == [["b", "4.00"], ["a", "104"]]
    assert Table("t", ("method",), (SCORE,), where={"steps": 3}).lines(ROWS)[1] == []


def test_names_in_headings_have_no_underscores():
    assert Table("t", ("batch_size",), (SCORE,)).lines([])[0] == ["batch size", "score of the samples"]


def test_rows_of_other_kinds_do_not_count():
    assert Table("t", ("method",), (SCORE,)).lines([{"score": 1.0}, {"method": "a"}])[1] == [["a", "–"]]


def test_markdown():
    rows = [{"method": "p(x|z)", "score": 0.25}]
    assert Table("Scores", ("method",), (Quantity("score", "|error|", "%"),), note="Less is better.").markdown(
        rows
    ) == ("**Scores**\n\n| method | \\|error\\| |\n|---|---|\n| p(x\\|z) | 25.0 % |\n\nLess is better.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), (SCORE,)), r"a table needs by= and quantities=, got \(\) and "),
        ((("method",), ()), r"a table needs by= and quantities=, got \('method',\) and \(\)"),
        ((("method",), (SCORE, SCORE), "steps"), "a table across 'steps' shows one quantity, got 2"),
    ],
)
def test_tables_that_show_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Table("t", *arguments)


# Files.


def test_what_is_written_is_read(tmp_path):
    tables = (Table("t", ("method",), (SCORE, Quantity("score", "s", "%")), where={"seed": 1}, note="n"),)
    tables += (Table("u", ("method",), (SCORE,), across="steps"),)
    written = results(ROWS, tables)
    path = written.write(tmp_path / "new" / "rings")
    assert path == tmp_path / "new" / "rings" / "results.json"
    assert sorted(file.name for file in path.parent.iterdir()) == ["results.json", "table.md"]
    assert Results.read(path) == Results.read(path.parent) == written
    assert (path.parent / "table.md").read_text() == "\n\n".join(t.markdown(ROWS) for t in tables) + "\n"


def test_numbers_of_numpy_and_torch_become_plain_ones_and_broken_ones_null(tmp_path):
    row = {
        "float": np.float32(0.5),
        "integer": np.int64(3),
        "true": np.True_,
        "array": np.arange(3),
        "tensor": torch.tensor(2.5),
        "broken": [math.nan, -math.inf, np.float32("nan")],
        "pair": (1, 2),
        "path": tmp_path,
    }
    path = results([row], settings={"nested": {"sizes": (8, (4, 2))}, 3: None}).write(tmp_path)

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content["rows"] == [
        {
            "float": 0.5,
            "integer": 3,
            "true": True,
            "array": [0, 1, 2],
            "tensor": 2.5,
            "broken": [None, None, None],
            "pair": [1, 2],
            "path": str(tmp_path),
        }
    ]
    assert content["rows"][0]["true"] is True
    assert content["settings"] == {"nested": {"sizes": [8, [4, 2]]}, "3": None}


def test_tables_are_the_same_before_and_after(tmp_path):
    rows = [
        {"shape": shape, "open": flag, "score": score, "steps": (1, 2)}
        for shape, flag, score in (((8, 8), np.True_, 1.0), ((8, 8), True, math.nan), ((4,), False, np.float64(3.0)))
    ]
    tables = [
        Table("t", ("shape",), (SCORE,), across="steps"),
        Table("u", ("shape",), (SCORE,), where={"open": True}),
        Table("v", ("open",), (SCORE,), where={"shape": (8, 8)}),
    ]
    written = results(rows, tables)
    read = Results.read(written.write(tmp_path))
    assert read.markdown() == written.markdown() == (tmp_path / "table.md").read_text()
    assert read.tables[1].lines(read.rows)[1] == [["(8, 8)", "1.00 (1 missing)"]]
    assert read.tables[2].lines(read.rows)[1] == [["True", "1.00 (1 missing)"]]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = results(ROWS).write(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        results().write(tmp_path)
    assert path.read_bytes() == before


def change(path, **entries):
    content = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda path: path.write_text(path.read_text()[:-40]),
            r"results\.json is damaged: .*; run its benchmark again",
        ),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), r"results\.json is damaged: .*; run its benchmark again"),
        (
            lambda path: change(path, format="physflow-results-0"),
            f"expected results of the format {FORMAT}, found physflow-results-0 in .*; run its benchmark again",
        ),
        (lambda path: change(path, format=...), f"expected results of the format {FORMAT}, found none in "),
        (lambda path: path.write_text("[1]"), f"expected results of the format {FORMAT}, found none in "),
        (
            lambda path: change(path, rows=..., seeds=..., more=1),
            r"results\.json has missing or unknown entries \(more, rows, seeds\); run its benchmark again",
        ),
        (
            lambda path: change(path, tables=[{"title": "t", "quantities": []}]),
            r"describes a table or a picture wrongly: 'by'; run its benchmark again",
        ),
        (
            lambda path: change(path, pictures=[{"name": "a.png"}]),
            "describes a table or a picture wrongly: .*'name'; run its benchmark again",
        ),
    ],
)
def test_files_of_something_else_are_refused(spoil, message, tmp_path):
    path = results(ROWS).write(tmp_path)
    spoil(path)
    with pytest.raises(ValueError, match=message):
        Results.read(path)


@pytest.mark.parametrize("name", ["", "results.json", "other"])
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"expected the results of a benchmark in .*, found no file; run it with"
    ):
        Results.read(tmp_path / name)


def test_results_are_found_in_all_folders(tmp_path):
    paths = [results().write(tmp_path / name) for name in ("b", "a/nested/deep", ".")]
    for name, content in (
        ("old", b'{"rows": []}'),
        ("binary", b"\xff\xfe"),
        ("empty", b""),
        ("other", b'{"format": 1}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_bytes(content)
    (tmp_path / "folder" / "results.json").mkdir(parents=True)
    (tmp_path / "a" / "more.json").write_bytes(paths[0].read_bytes())
    assert find_results(tmp_path) == sorted(paths)
    assert find_results(tmp_path / "nowhere") == []


# The commit.


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository in which physflow's source seems to lie."""
    root = tmp_path / "checkout"
    for name in ("physflow/machine.py", "benchmarks/rings.py", "benchmarks/results/rings/table.md", "README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name}\n")
    for variable in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(machine, "__file__", str(root / "physflow" / "machine.py"))
    git(root, "init", "--quiet")
    git(root, "add", ".")
    who = ("-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false")
    git(root, *who, "commit", "--quiet", "--no-verify", "--message", "First")
    return root


def git(root, *words):
    if shutil.which("git") is None:
        pytest.skip("needs git")
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_of_a_clean_checkout(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    assert len(machine.commit()) == 10
    assert head.startswith(machine.commit())


@pytest.mark.parametrize("name", ["physflow/machine.py", "benchmarks/rings.py"])
def test_changed_source_is_marked(checkout, name):
    clean = machine.commit()
    (checkout / name).write_text("changed\n")
    assert machine.commit() == f"{clean}+"


def test_what_no_number_depends_on_is_no_change(checkout):
    clean = machine.commit()
    for name in ("README.md", "benchmarks/results/rings/table.md"):
        (checkout / name).write_text("changed\n")
    assert machine.commit() == clean


def test_no_checkout_has_no_commit(checkout):
    assert machine.commit()
    shutil.move(checkout / ".git", checkout / "git")
    assert machine.commit() == ""


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    assert machine.commit()
    monkeypatch.setenv("PATH", str(checkout))
    assert machine.commit() == ""


def test_a_repository_without_commits_has_none(checkout):
    shutil.rmtree(checkout / ".git")
    git(checkout, "init", "--quiet")
    assert machine.commit() == ""


def test_counts_are_shown_with_all_digits():
    assert Quantity("parameters", "parameters").cell([4_921_560, 4_921_560]) == "4,921,560"
    assert Quantity("steps", "steps").cell([1, 3]) == "2.0 ± 1.4"
    assert Quantity("seconds", "time", "s").cell([100_000]) == "1.00×10⁵ s"
