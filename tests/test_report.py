import base64
import io
import math
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from physflow.fields import to_dataset
from physflow.grid import Grid
from physflow.pde import Darcy, score
from physflow.report import figures as figures_module
from physflow.report import gallery, marginal, score_boxes, spectrum, spread_maps, training_curve, write_report
from physflow.report.comparison import compare, score_names, score_rows, spread
from physflow.results import number

TITLE = "<script>alert('x')</script> & $K$"
ANCHORS = ("as given", "data floor", "p = 0", "mismatched pair", "white noise 1 %")
METRICS = [{"step": 10 * k, "loss": math.exp(-k), "learning_rate": 1e-3} for k in range(5)] + [
    {"step": 50, "loss": math.nan, "validation_loss": 0.5}
]


def fields(count, shape=(8, 8), seed=0, names=("permeability", "pressure"), bounds=()):
    rng = np.random.default_rng(seed)
    grid = Grid(shape, bounds)
    dims = ("sample", *grid.axes)
    log_k, p = rng.standard_normal((2, count, *shape))
    coords = {axis: x for axis, x in zip(grid.axes, grid.coordinates(), strict=True)}
    return xr.Dataset(
        {names[0]: (dims, np.exp(log_k)), names[1]: (dims, 0.1 * p)}, coords, {"equation": "Darcy", "source": "wells"}
    )


def generated(count, shape=(8, 8), **kwargs):
    ds = fields(count, shape, seed=1, **kwargs)
    rng = np.random.default_rng(2)
    for name in ("residual_mse", "solution_error"):
        ds[name] = ("sample", rng.uniform(1, 2, count))
        ds[f"{name}_completed"] = ("sample", rng.uniform(1e-9, 2e-9, count))
    solution = list(ds.data_vars)[1]
    ds[f"{solution}_completed"] = ds[solution] + 0.01
    return ds


def anchors(count=6):
    values = np.random.default_rng(3).uniform(0.5, 3, (len(ANCHORS), count))
    scores = {name: (("anchor", "sample"), values) for name in ("residual_mse", "solution_error")}
    return xr.Dataset(scores, coords={"anchor": list(ANCHORS)})


class Page(HTMLParser):
    """What a reader sees of a page, where it points, and the tags that were left open."""

    void = ("meta", "img", "br", "hr", "link", "input")

    def __init__(self, path):
        super().__init__()
        self.source, self.text, self.links, self.images, self.tags, self.open = path.read_text(), "", [], [], [], []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("href", "src", "srcset", "data", "action")]
        self.images += [dict(attrs) for _ in [tag] if tag == "img"]
        self.open += [tag] if tag not in self.void else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = write_report(
        tmp_path_factory.mktemp("report") / "new" / "report.html",
        title=TITLE,
        truth=fields(6),
        samples=generated(5),
        anchors=anchors(),
        metrics=METRICS,
        config={"name": "<b>", "model": {"space": "pod", "log": ("permeability",)}},
        versions={"torch": "2.6"},
        machine={"processor": "two cores"},
        timings={"train": 200.4, "score": {"samples": 1.5}, "sample": 7300, "report": math.nan},
    )
    return Page(path)


def test_the_report_is_one_file(page):
    assert not page.open
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert not re.search(r"https?://|url\(|@import", page.source)


def test_every_image_is_a_picture_with_words(page):
    assert len(page.images) == 1 + 2 + 2 * 3 + 1
    for image in page.images:
        assert image["alt"]
        Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1]))).verify()


@pytest.mark.parametrize("section", ["headline", "fields", "scores", "distribution", "training", "provenance"])
def test_the_report_has_each_section(page, section):
    assert f'id="{section}"' in page.source


def test_what_users_write_is_escaped(page):
    assert TITLE in page.text
    assert TITLE not in page.source
    assert "name: <b>" in page.text


@pytest.mark.parametrize(
    "words",
    [
        *ANCHORS,
        *("generated, completed", "mean squared residual", "pressure", "log permeability", "equation", "torch"),
        *("space: pod", "- permeability", "3 min 20 s", "2 h 1 min", "score, samples", "1.50 s", "– s", "two cores"),
    ],
)
def test_the_report_says(page, words):
    assert words in page.text


def test_missing_values_are_dashes(page):
    assert not re.search(r"\bnan\b|\binf\b|None", page.text)


@pytest.fixture
def quick(monkeypatch):
    """Make the figures but do not draw them."""
    monkeypatch.setattr("physflow.report.html.image_of", lambda figure, alt: {"data": "", "alt": alt, "width": 1})


@pytest.mark.usefixtures("quick")
def test_the_headline(tmp_path):
    samples = generated(3)
    samples["residual_mse"] = "sample", [1.0, 2.0, 9.0]
    samples["solution_error"] = "sample", [0.1, 0.02, 0.03]
    rows, truth = anchors(), fields(3)
    rows["residual_mse"][2] = 1.5
    samples["permeability"] = truth["permeability"] ** 0.5
    text = Page(write_report(tmp_path / "r.html", title="t", truth=truth, samples=samples, anchors=rows)).text
    for words in ("3.00 %", "2.00", "mean square; no better than p\xa0=\xa0", "1.50", "0.500"):
        assert words in text[: text.index("The first fields")]
    assert not (tmp_path / "r.html.part").exists()


def bare(path):
    names = ("density $", "speed")
    truth = fields(3, (12, 5), names=names, bounds=((0, 4), (0, 1)))
    return write_report(path, title="t", truth=truth, samples=truth.isel(sample=[0]))


def empty(path):
    return write_report(path, title="t", truth=fields(3), samples=generated(0), anchors=anchors(), metrics=METRICS)


@pytest.mark.usefixtures("quick")
def test_one_sample_on_a_long_grid_without_anything_else(tmp_path):
    text = Page(bare(tmp_path / "r.html")).text
    assert "There is one generated sample only" in text
    assert "There are no scores" in text
    assert "No record of the training" in text
    assert "12 × 5 points" in text


@pytest.mark.usefixtures("quick")
def test_no_samples_is_said(tmp_path):
    text = Page(empty(tmp_path / "r.html")).text
    assert "There are no generated samples" in text
    assert "p = 0" in text


@pytest.mark.slow
@pytest.mark.parametrize("write", [bare, empty])
def test_few_samples_are_drawn(write, tmp_path):
    assert Page(write(tmp_path / "r.html")).images


def test_values_that_are_broken_are_counted(tmp_path):
    samples = generated(10, (16,))
    samples["permeability"][0, 0] = math.nan
    samples["pressure"][1, 3] = math.inf
    samples["permeability"][2] = -1.0
    samples["residual_mse"][3] = math.nan
    text = Page(write_report(tmp_path / "r.html", title="t", truth=fields(4, (16,)), samples=samples)).text
    assert "1 of 10 generated samples hold values of permeability that are NaN or infinite" in text
    assert "1 of 10 generated samples hold values of pressure" in text
    assert "10.0 % of the generated values of permeability are not positive" in text
    assert "1 without a value" in text


@pytest.mark.usefixtures("quick")
def test_a_report_of_a_darcy_dataset_and_its_own_scores(tmp_path):
    darcy = Darcy(Grid((8, 8)))
    truth = fields(3).assign_attrs(darcy.attributes())
    scores = score(truth, anchors=True)
    text = Page(
        write_report(tmp_path / "r.html", title="t", truth=truth, samples=truth.merge(score(truth)), anchors=scores)
    ).text
    for name in scores["anchor"].values:
        assert name in text
    assert "residual of p" in text


def test_samples_without_a_field_of_the_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the samples lack the field 'pressure' of the data.*truth\[\[\.\.\.\]\]"):
        write_report(tmp_path / "r.html", title="t", truth=fields(3), samples=fields(3)[["permeability"]])
    assert not list(tmp_path.iterdir())


def test_data_without_samples_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the data hold no samples"):
        write_report(tmp_path / "r.html", title="t", truth=fields(0), samples=fields(3))


def test_data_with_nan_are_refused():
    truth = fields(3)
    truth["pressure"][0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="field 'pressure' of the data has 1 values that are NaN"):
        gallery(truth, fields(3))


def moving(samples, shape, axes, seed=0):
    values = np.random.default_rng(seed).standard_normal((samples, 1, *shape))
    return to_dataset(torch.from_numpy(values), ("vorticity",), Grid(shape, axes=axes))


def test_of_a_body_the_middle_layer_is_shown():
    truth = fields(2, (3, 4, 5))
    shown = images(gallery(truth, truth))
    np.testing.assert_array_equal(shown[0].get_array(), truth["permeability"].values[0, :, :, 2].T)
    assert "permeability, middle of z" in [ax.get_title("left").strip() for ax in gallery(truth, truth).axes]


def test_of_a_plane_over_time_the_first_and_the_last_instant_are_shown():
    truth, samples = (moving(3, (4, 5, 6), ("t", "x", "y"), seed) for seed in range(2))
    samples["vorticity_completed"] = samples["vorticity"] * 0.9
    figure = gallery(truth, samples)
    shown = images(figure)
    # Data and generated at the first; data, generated, completed and the difference at the last.
    assert len(shown) == 3 * (2 + 3 + 1)
    np.testing.assert_array_equal(shown[0].get_array(), truth["vorticity"].values[0, 0].T)
    np.testing.assert_array_equal(shown[6].get_array(), truth["vorticity"].values[0, -1].T)
    np.testing.assert_allclose(shown[12].get_array(), 0.9 * samples["vorticity"].values[0, -1].T)
    titles = [ax.get_title("left").strip() for ax in figure.axes if ax.get_title("left").strip()]
    assert titles == ["vorticity, t = 0", "vorticity, t = 1", "vorticity, t = 1, difference"]
    (_, drawn) = images(spread_maps(truth, samples, "vorticity"))
    np.testing.assert_allclose(drawn.get_array(), samples["vorticity"].values[:, -1].std(0, ddof=1).T)


def test_axes_have_their_own_names():
    truth = moving(2, (4, 5), ("t", "x"))
    words = [text.get_text() for ax in gallery(truth, truth).axes for text in ax.texts]
    assert {"t", "x"} <= set(words)
    # The spectrum is that of the last instant, over x alone.
    last = truth.isel(t=-1, drop=True)
    lines = [spectrum(ds, ds, "vorticity").axes[0].lines[0] for ds in (truth, last)]
    np.testing.assert_array_equal(*(line.get_ydata() for line in lines))


def test_four_axes_are_refused():
    truth = moving(2, (3, 3, 3, 3), ("t", "x", "y", "z"))
    with pytest.raises(ValueError, match=r"one to three axes, got \('t', 'x', 'y', 'z'\); take slices"):
        gallery(truth, truth)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder; give .*report\.html"):
        write_report(tmp_path, title="t", truth=fields(3), samples=fields(3))


def images(figure):
    return [image for ax in figure.axes for image in ax.images]


def test_data_and_samples_share_colours():
    truth, samples = fields(5), generated(5)
    samples["pressure"] = samples["pressure"] * 100
    shown = images(gallery(truth, samples, count=3))
    assert len(shown) == 3 * (2 + 3 + 1)
    limits = [image.get_clim() for image in shown]
    permeability, pressure, difference = limits[:6], limits[6:15], limits[15:]
    assert len(set(permeability)) == len(set(pressure)) == len(set(difference)) == 1
    assert pressure[0][0] == -pressure[0][1]
    assert pressure[0][1] <= np.abs(truth["pressure"]).max()
    assert {type(image.norm).__name__ for image in shown[:6]} == {"LogNorm"}


def test_maps_are_not_transposed():
    truth = fields(1, (4, 3))
    image = images(gallery(truth, truth))[0]
    np.testing.assert_array_equal(image.get_array(), truth["permeability"].values[0].T)
    assert image.origin == "lower"
    assert tuple(image.get_extent()) == pytest.approx((0, 1, 0, 1))


def test_the_order_of_the_dimensions_does_not_matter():
    truth = fields(2, (4, 3))
    turned = truth.transpose("y", "sample", "x")
    first, second = (images(gallery(ds, ds))[0].get_array() for ds in (truth, turned))
    np.testing.assert_array_equal(first, second)


def test_curves_share_limits():
    figure = gallery(fields(5, (16,)), generated(5, (16,)))
    by_row = [ax.get_ylim() for ax in figure.axes if ax.lines]
    assert by_row[0] == by_row[1]
    assert by_row[2] == by_row[3] == by_row[4]
    assert {ax.get_yscale() for ax in figure.axes[:2]} == {"log"}


def test_spread_maps_share_colours_and_hold_the_standard_deviation():
    truth, samples = fields(5), fields(4, seed=7)
    data, drawn = images(spread_maps(truth, samples, "permeability"))
    assert data.get_clim() == drawn.get_clim()
    np.testing.assert_allclose(drawn.get_array(), np.log(samples["permeability"].values).std(0, ddof=1).T)


def test_the_histogram_counts_logarithms_and_names_their_moments():
    truth = fields(5)
    figure = marginal(truth, truth, "permeability")
    log_k = np.log(truth["permeability"].values)
    text = figure.legends[0].get_texts()[0].get_text()
    assert text == f"data: mean {number(log_k.mean())}, std {number(log_k.std())}"
    patch = figure.axes[0].patches[0]
    density, edges, _ = patch.get_data()
    assert (density * np.diff(edges)).sum() == pytest.approx(1, abs=2e-2)


def test_a_field_that_changes_sign_is_not_logged():
    assert marginal(fields(3), fields(3), "pressure").axes[0].get_xlabel() == "pressure"


def test_the_spectrum_compares_three_series_up_to_the_grid_s_wavenumber():
    figure = spectrum(fields(5, (8, 16)), generated(5, (8, 16)), "pressure")
    ax = figure.axes[0]
    assert [line.get_label() for line in ax.lines] == ["data", "generated", "completed"]
    assert ax.lines[0].get_xdata().max() <= math.pi * 8


def test_boxes_show_medians_and_mark_what_is_beyond_the_axis():
    figure = score_boxes(generated(5), anchors(), "residual_mse")
    ax = figure.axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [*ANCHORS, "generated", "generated, completed"]
    medians = [row.quartiles[1] for row in score_rows(generated(5), anchors(), "residual_mse")]
    assert [text.get_text() for text in ax.texts] == [*map(number, medians), "median"]
    assert [line.get_marker() for line in ax.lines].count("<") == 1


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_constant_scores_are_drawn(value):
    samples = fields(2).assign(mine=("sample", [value, value]))
    figure = score_boxes(samples, None, "mine")
    figure.savefig(io.BytesIO())
    assert figure.axes[0].texts[0].get_text() == number(value)


@pytest.mark.parametrize("draw", [marginal, spectrum, spread_maps])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_fields_are_drawn(draw, value):
    ds = xr.zeros_like(fields(3)) + value
    draw(ds, ds, "pressure").savefig(io.BytesIO())
    gallery(ds, ds).savefig(io.BytesIO())


def test_the_training_curve_leaves_out_what_is_missing():
    loss, validation = training_curve(METRICS).axes[0].lines
    assert len(loss.get_xdata()) == 5
    assert validation.get_xydata().tolist() == [[50, 0.5]]
    assert not training_curve([]).axes[0].lines


def test_figures_leave_the_state_of_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    gallery(fields(2), fields(2)).savefig(io.BytesIO())
    assert dict(matplotlib.rcParams) == before
    assert not hasattr(figures_module, "plt")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gallery(fields(1), fields(1), count=0), "count must be at least 1"),
        (lambda: marginal(fields(1), fields(1), "presure"), "no field 'presure'; did you mean 'pressure'"),
        (lambda: score_boxes(fields(1), None, "residual_mse"), "hold the score 'residual_mse'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_fields_are_cut_to_what_fits_in_memory(monkeypatch):
    monkeypatch.setattr("physflow.report.comparison.VALUES", 200)
    field = compare(fields(9), generated(9))[0]
    assert len(field.data) == len(field.generated) == 3


def test_the_spread_ignores_missing_values():
    u = np.array([[1.0, 1.0, 2.0], [3.0, math.nan, math.nan], [5.0, 2.0, math.nan]])
    np.testing.assert_allclose(spread(u), [2.0, np.std([1, 2], ddof=1), math.nan])


def test_scores_are_listed_once_with_the_known_ones_first():
    samples = generated(3).assign(mine=("sample", np.ones(3)), count=("sample", np.arange(3)))
    assert score_names(samples, anchors()) == ["residual_mse", "solution_error", "mine"]
    assert score_names(fields(3)) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (0, "0"),
        (1.0, "1.00"),
        (-0.01234, "−0.0123"),
        (99.96, "100"),
        (123.4, "123"),
        (54321, "54321"),
        (1.234e-7, "1.23×10⁻⁷"),
        (-2e12, "−2.00×10¹²"),
    ],
)
def test_numbers_are_written_for_people(value, text):
    assert number(value) == text
