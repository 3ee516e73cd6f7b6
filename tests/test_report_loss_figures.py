import io
import json
import math

import numpy as np
import pytest

from physflow.report import plot_losses
from physflow.report.drawing import COLORS

RECORDS = [
    {"step": 10, "loss": 100.0},
    {"step": 20, "loss": 10.0, "validation_loss": 8.0},
    {"step": 30, "loss": math.nan, "validation_loss": None},
    {"step": 40, "loss": 1.0, "validation_loss": 4.0},
]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_each_quantity_has_a_panel_and_each_run_a_line():
    runs = {"I-CFM": RECORDS, "V-RFM": ([1, 2], np.array([3.0, 2.0])), "both": RECORDS[1:]}
    figure = plot_losses(runs, ("loss", "validation_loss"))
    loss, validation = figure.axes
    assert [ax.get_title(loc="left") for ax in (loss, validation)] == ["loss", "validation loss"]
    assert [ax.get_xlabel() for ax in (loss, validation)] == ["training step"] * 2
    assert [line.get_xydata().tolist() for line in loss.lines] == [
        [[10, 100], [20, 10], [40, 1]],
        [[1, 3], [2, 2]],
        [[20, 10], [40, 1]],
    ]
    assert [line.get_xydata().tolist() for line in validation.lines] == [[[20, 8], [40, 4]]] * 2
    assert [line.get_color() for line in loss.lines] == list(COLORS[:3])
    assert len({line.get_linestyle() for line in loss.lines}) == 3
    # A run keeps its colour in every panel.
    assert [line.get_color() for line in validation.lines] == [COLORS[0], COLORS[2]]
    assert [ax.get_yscale() for ax in (loss, validation)] == ["log", "linear"]
    assert legend(figure) == list(runs)
    file = io.BytesIO()
    figure.savefig(file, dpi=40)
    assert file.getvalue().startswith(b"\x89PNG")


def test_records_are_those_of_a_file():
    lines = "\n".join(json.dumps(record) for record in RECORDS[:2])
    figure = plot_losses({"run": [json.loads(line) for line in lines.splitlines()]})
    assert figure.axes[0].lines[0].get_ydata().tolist() == [100, 10]


def test_one_value_is_a_point():
    (line,) = plot_losses({"run": RECORDS[:1]}).axes[0].lines
    assert line.get_marker() == "o"


def test_negative_losses_have_a_linear_axis():
    assert plot_losses({"run": ([1, 2], [-5.0, 900.0])}).axes[0].get_yscale() == "linear"


def test_many_runs_are_told_by_colour_and_dashes():
    figure = plot_losses({str(k): ([1, 2], [k, k]) for k in range(12)})
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_losses({}), "one run and one quantity, got 0 and 1"),
        (lambda: plot_losses({"a": RECORDS}, ()), "got 1 and 0"),
        (lambda: plot_losses({"a": RECORDS}, ("lost",)), r"no run has a value of 'lost'; the runs are \['a'\]"),
        (lambda: plot_losses({"a": []}), "no run has a value of 'loss'"),
        (lambda: plot_losses({"a": [{"loss": 1.0}]}), "a record of 'a' has no 'step'"),
        (lambda: plot_losses({"a": ([1, 2], [1.0])}), r"as many steps as values for 'a', got \(2,\) and \(1,\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
