"""The page of fields given sensors: numbers against closed forms, maps point by point, and what the reader is told."""

import base64
import io
import math
import re

import matplotlib
import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from scipy.stats import norm
from test_report_benchmarks import Page

from physflow.fields import field_names, to_dataset
from physflow.grid import Grid
from physflow.report.conditioning import notices_of, write_conditioning
from physflow.report.html import Image as Picture
from physflow.report.posterior_figures import plot_posterior, plot_readings
from physflow.report.predictions import Predictions, expected_inside, predictions_of
from physflow.sensors import Sensor, with_sensors

FIELDS = ("permeability", "pressure")
GRID = Grid((6, 4), ((0.0, 3.0), (-1.0, 1.0)))
SENSORS = [
    Sensor((0.5, 0.25), "permeability", 0.3, 0.1, log=True),
    Sensor((2.5, -0.75), "pressure", -0.2, 0.05),
    Sensor((1.0, 0.5), "permeability", 2.0, 0.3),
    Sensor((1.5, 0.0), "pressure", 0.4, 0.05),
    Sensor((2.0, 0.9), "pressure", 0.1, 0.05),
]


def draws(rng, count=5, grid=GRID, names=FIELDS, **attrs):
    u = torch.from_numpy(rng.standard_normal((count, 2, *grid.shape)))
    u[:, 0] = u[:, 0].exp()
    ds = to_dataset(u, names, grid, {"equation": "Darcy", "mode": "solver", "seed": 3, **attrs})
    ds["solution_error"] = ("sample", np.linspace(0.01, 0.05, count))
    ds["residual_mse"] = ("sample", np.full(count, 1e-9))
    return ds


def normal_draws(rng, cases, count, spread, std):
    """Sensors with readings of the law of the draws, with noise: the posterior of each is N(mean, spread^2)."""
    mean = rng.standard_normal(cases)
    ensemble = mean + spread * rng.standard_normal((count, cases))
    truth = mean + spread * rng.standard_normal(cases)
    ds = xr.Dataset(
        {
            "predicted": (("sample", "sensor"), ensemble),
            "observed": ("sensor", truth + std * rng.standard_normal(cases)),
            "observed_std": ("sensor", np.full(cases, std)),
            "held_out": ("sensor", np.ones(cases, bool)),
            "sensor_field": ("sensor", np.full(cases, "pressure")),
            "sensor_log": ("sensor", np.zeros(cases, bool)),
        }
    )
    return ds, mean


# Predictions.


@pytest.mark.parametrize(("spread", "std"), [(1.0, 0.1), (0.3, 1.0), (1.0, 1.0)])
def test_intervals_and_scores_of_a_normal_law(rng, spread, std):
    ds, mean = normal_draws(rng, 200, 4000, spread, std)
    found = predictions_of(ds)
    total = math.hypot(spread, std)
    # A quantile at 5 % of 4000 draws has a standard error of 0.033 standard deviations; of 200 the mean has 0.0024.
    for noise, width in ((False, spread), (True, total)):
        ends = (found.interval(noise) - mean) / width
        np.testing.assert_allclose(ends, np.array([norm.ppf(0.05), norm.ppf(0.95)])[:, None] + np.zeros(200), atol=0.17)
        np.testing.assert_allclose(ends.mean(1), norm.ppf([0.05, 0.95]), atol=0.012)
    z = (ds["observed"].values - mean) / total
    exact = total * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / math.sqrt(math.pi))
    assert found.crps == pytest.approx(exact.mean(), rel=0.01)
    assert found.standardised_error == pytest.approx(np.sqrt((z**2).mean()), rel=0.01)


@pytest.mark.parametrize(("count", "spread", "std"), [(40, 1.0, 0.3), (40, 0.2, 1.0), (300, 1.0, 1.0)])
def test_exact_draws_pass_their_test(rng, count, spread, std):
    """Within four standard errors of 1000 readings; the quantiles of 40 draws cost one per cent more."""
    ds, _ = normal_draws(rng, 1000, count, spread, std)
    found = predictions_of(ds)
    assert found.inside.mean() == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / 1000) + 0.01)
    assert found.standardised_error == pytest.approx(1, abs=4 / math.sqrt(2 * 1000) + 0.01)


def test_draws_of_a_posterior_fit_what_they_are_given_as_the_truth_does(rng):
    """A normal prior N(0, 1) and a reading of noise 0.7: the posterior is known, and draws have the truth's chi^2."""
    cases, std = 1000, 0.7
    ds, _ = normal_draws(rng, cases, 300, 1.0, std)
    y = rng.standard_normal(cases) + std * rng.standard_normal(cases)
    posterior = y / (1 + std**2) + std / math.sqrt(1 + std**2) * rng.standard_normal((300, cases))
    found = predictions_of(ds.assign(observed=("sensor", y), predicted=(("sample", "sensor"), posterior)))
    # The square of a standard normal variable has a standard deviation of 1.4; the mean over draws has less.
    assert found.chi_squared == pytest.approx(1, abs=4 * math.sqrt(2 / cases))
    # Draws that do not vary fit too well.
    means = np.broadcast_to(y / (1 + std**2), posterior.shape)
    huddled = predictions_of(ds.assign(observed=("sensor", y), predicted=(("sample", "sensor"), means)))
    assert huddled.chi_squared == pytest.approx(std**2 / (1 + std**2), abs=4 * math.sqrt(2 / cases))


def test_each_number_is_what_it_says(rng):
    p = Predictions(
        number=np.arange(2),
        line=np.zeros(2, int),
        place=np.zeros((2, 2)),
        quantity=np.array(["a", "b"]),
        observed=np.array([1.0, -2.0]),
        std=np.array([0.5, 2.0]),
        held_out=np.array([True, False]),
        draws=np.array([[0.0, 1.0], [2.0, -1.0], [3.0, 0.0]]),
        noisy=np.array([[0.0, 0.0], [1.0, 2.0]]),
    )
    # ((1)^2 + 1 + 2^2) / 0.25 and (3^2 + 1 + 2^2) / 4, over three draws and two sensors.
    assert p.chi_squared == pytest.approx((6 / 0.25 + 14 / 4) / 6)
    # Means 5/3 and 0, variances 7/3 and 1.
    squares = (2 / 3) ** 2 / (4 / 3 * 7 / 3 + 0.25), 2**2 / (4 / 3 * 1 + 4)
    assert p.standardised_error == pytest.approx(math.sqrt(sum(squares) / 2))
    # Mean distance of the two from the reading, minus a quarter of the distance between them.
    assert p.crps == pytest.approx(((1 + 0) / 2 - 1 / 4 + (2 + 4) / 2 - 2 / 4) / 2)
    # Of two other readings the fair score takes half of their distance.
    assert p.chosen(p.held_out).crps_of(np.array([0.0, 3.0])) == pytest.approx((1 + 2) / 2 - 3 / 2)
    assert p.quantities == ["a", "b"]
    assert p.chosen(~p.held_out).number.tolist() == [1]
    assert p.inside.tolist() == [True, False]


@pytest.mark.parametrize("m", [1, 2, 7, 40, 150])
def test_the_expected_range_is_the_narrowest_of_the_binomial_law(m):
    low, high = expected_inside(m)
    law = [math.comb(m, k) * 0.9**k * 0.1 ** (m - k) for k in range(m + 1)]
    assert sum(law[low : high + 1]) >= 0.95
    assert sum(law[:low]) <= 0.025 < sum(law[: low + 1])
    assert sum(law[high + 1 :]) <= 0.025 < sum(law[high:])


def test_predictions_follow_the_sensors(rng):
    ds = with_sensors(draws(rng), SENSORS, SENSORS[3:])
    found = predictions_of(ds)
    assert found.quantity.tolist() == ["log permeability", "pressure", "permeability", "pressure", "pressure"]
    assert found.quantities == ["log permeability", "pressure", "permeability"]
    assert found.held_out.tolist() == [False] * 3 + [True] * 2
    np.testing.assert_array_equal(found.draws, ds["predicted"])
    # The same numbers for the same draws, whatever is chosen of the sensors.
    np.testing.assert_array_equal(found.noisy, predictions_of(ds).noisy)
    np.testing.assert_array_equal(found.chosen(found.held_out).interval(), found.interval()[:, 3:])


def test_draws_that_say_nothing_finite_are_left_out(rng):
    ds = with_sensors(draws(rng), SENSORS)
    ds["predicted"][1, 2] = np.nan
    assert len(predictions_of(ds).draws) == 4
    with pytest.raises(ValueError, match="expected two draws or more with finite predictions, got 1"):
        predictions_of(ds.isel(sample=[0, 1]))
    with pytest.raises(
        ValueError, match=r"have no observed, .*sensor_log; add their sensors, physflow.sensors.with_se"
    ):
        predictions_of(draws(rng))


# Figures.


def test_maps_show_each_value_at_its_place(rng):
    ds = with_sensors(draws(rng), SENSORS, SENSORS[3:])
    figure = plot_posterior(ds, "permeability")
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in panels] == ["mean of the draws", "first draw", "second draw", "std"]
    log = np.log(ds["permeability"].values)
    for ax, expected in zip(panels, (log.mean(0), log[0], log[1], log.std(0, ddof=1)), strict=True):
        (image,) = ax.images
        left, right, bottom, top = image.get_extent()
        lines, columns = image.get_array().shape
        assert ax.get_xlim() == (0.0, 3.0)
        assert ax.get_ylim() == (-1.0, 1.0)
        for i, x in enumerate(GRID.coordinates()[0]):
            for j, y in enumerate(GRID.coordinates()[1]):
                # Of an image the first line is at the top.
                column = int((x - left) / (right - left) * columns)
                line = int((top - y) / (top - bottom) * lines)
                assert image.get_array()[line, column] == pytest.approx(expected[i, j])
    assert panels[0].images[0].norm is panels[1].images[0].norm


def test_sensors_lie_on_the_map_with_the_colour_of_what_they_read(rng):
    ds = with_sensors(draws(rng), SENSORS, SENSORS[2:4])
    figure = plot_posterior(ds, "permeability")
    mean, std = figure.axes[0], figure.axes[3]
    used, held = mean.collections
    np.testing.assert_allclose(used.get_offsets(), [SENSORS[0].place])
    np.testing.assert_allclose(held.get_offsets(), [SENSORS[2].place])
    assert not np.array_equal(used.get_paths()[0].vertices, held.get_paths()[0].vertices)
    scale, colours = mean.images[0].norm, matplotlib.colormaps[mean.images[0].cmap.name]
    figure.draw_without_rendering()
    np.testing.assert_allclose(used.get_facecolor()[0], colours(scale(0.3)))
    np.testing.assert_allclose(held.get_facecolor()[0], colours(scale(math.log(2.0))))
    other, *own = std.collections
    np.testing.assert_allclose(other.get_offsets(), [SENSORS[1].place, SENSORS[4].place])
    assert [len(each.get_offsets()) for each in own] == [1, 1]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["sensor of this field, used", "sensor of this field, held out", "sensor of another field"]


def test_a_reading_without_a_logarithm_is_no_colour(rng):
    sensors = [Sensor((1.0, 0.0), "permeability", -1.0, 0.5), Sensor((2.0, 0.0), "permeability", 0.0, 0.5)]
    figure = plot_posterior(with_sensors(draws(rng), sensors), "permeability")
    figure.draw_without_rendering()
    assert not np.isfinite(figure.axes[0].collections[0].get_array()).any()


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("bounds", [((0.0, 3.0), (-1.0, 1.0)), ((0.0, 100.0), (0.0, 1.0)), ((0.0, 1.0), (0.0, 100.0))])
def test_boxes_of_all_shapes_have_maps(rng, count, bounds):
    grid = Grid((6, 4), bounds)
    ds = with_sensors(draws(rng, count, grid), [Sensor((bounds[0][1] / 2, 0.5), "pressure", 0.1, 0.1)])
    figure = plot_posterior(ds, "pressure")
    figure.draw_without_rendering()
    assert 1.5 < figure.get_figheight() < 6


def test_only_fields_over_two_axes_have_maps(rng):
    ds = with_sensors(draws(rng, grid=Grid((6,))), [Sensor((0.5,), "pressure", 0.1, 0.1)])
    with pytest.raises(ValueError, match=r"expected a field over two axes for maps, got \('x',\); take slices first"):
        plot_posterior(ds, "pressure")


def test_readings_are_drawn_at_their_numbers(rng):
    ds = with_sensors(draws(rng), SENSORS, SENSORS[3:])
    found = predictions_of(ds)
    figure = plot_readings(found)
    assert len(figure.axes) == 2 * 3
    left, right = figure.axes[2:4]
    assert left.get_title(loc="left") == "pressure"
    marks = [line.get_xydata() for line in right.lines[1:]]
    means = found.draws.mean(0) - found.observed
    np.testing.assert_allclose(marks[0], [[1, means[1]]])
    np.testing.assert_allclose(marks[1], [[3, means[3]], [4, means[4]]])
    np.testing.assert_allclose(left.lines[1].get_xydata(), [[-0.2, found.draws[:, 1].mean()]])
    bars = [[segment[:, 1] for segment in bar.get_segments()] for bar in right.collections]
    np.testing.assert_allclose(bars[0][0], found.interval()[:, 1] + 0.2)
    np.testing.assert_allclose(bars[1][0], found.interval(noise=False)[:, 1] + 0.2)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sensor used", "sensor held out"]


# The page.

TITLE = "<script>alert('x')</script> & $K$"


@pytest.fixture
def without_pictures(monkeypatch):
    """Drawing takes most of the time of a page."""
    monkeypatch.setattr("physflow.report.conditioning.image_of", lambda figure, alt: Picture("", alt, 1))
    for name in ("plot_posterior", "plot_readings"):
        monkeypatch.setattr(f"physflow.report.conditioning.{name}", lambda *arguments: None)


@pytest.fixture(scope="module")
def ds():
    return with_sensors(draws(np.random.default_rng(0), sample_size=200.4, r_hat=1.2345), SENSORS, SENSORS[3:])


@pytest.fixture(scope="module")
def page(ds, tmp_path_factory):
    return Page(write_conditioning(tmp_path_factory.mktemp("page") / "new" / "page.html", ds, TITLE))


def test_the_page_is_one_file(page):
    assert not page.open
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert not re.search(r"https?://|url\(|@import", page.source)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert TITLE in page.text
    assert TITLE not in page.source


def test_there_is_a_figure_for_each_field_and_one_for_the_readings(page, ds):
    assert field_names(ds) == FIELDS
    assert len(page.images) == 3
    for image in page.images:
        assert image["alt"]
        Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1]))).verify()


def test_tables_hold_the_numbers(page, ds):
    found = predictions_of(ds)
    used, held = found.chosen(~found.held_out), found.chosen(found.held_out)
    test, misfits, fit, scores = page.tables[:4]
    low, high = expected_inside(2)
    assert [row[0] for row in test] == ["", "pressure"]
    assert test[1][1:4] == ["2", str(held.inside.sum()), f"{low} – {high}"]
    assert float(test[1][4].replace("−", "-")) == pytest.approx(held.standardised_error, rel=6e-3)
    assert float(test[1][5].replace("−", "-")) == pytest.approx(held.crps, rel=6e-3)
    # One sensor of pressure was used: no law of other readings.
    assert test[1][6] == "–"
    assert [row[0] for row in fit] == ["", "log permeability", "pressure", "permeability", "all"]
    assert float(fit[4][2]) == pytest.approx(used.chi_squared, rel=6e-3)
    assert [row[3] for row in fit[1:]] == ["1 ± 1.41"] * 3 + ["1 ± 0.816"]
    assert scores[1:] == [
        ["mean squared residual", "1.00×10⁻⁹", "1.00×10⁻⁹ – 1.00×10⁻⁹"],
        ["solution error", "0.0300", "0.0200 – 0.0400"],
    ]
    order = np.argsort(-np.abs(found.misfits))
    low, high = found.interval()
    assert [row[0] for row in misfits[1:]] == [f"number {i}" for i in order]
    for row, i in zip(misfits[1:], order, strict=True):
        assert row[1:4] == [
            ", ".join(f"{s:g}" for s in SENSORS[i].place),
            SENSORS[i].quantity,
            "held out" if i > 2 else "used",
        ]
        assert [float(cell.replace("−", "-")) for cell in row[4:5] + row[5].split(" – ") + row[6:]] == pytest.approx(
            [SENSORS[i].value, low[i], high[i], found.misfits[i]], rel=6e-3
        )
    assert ["equation", "Darcy"] in page.tables[5]


@pytest.mark.usefixtures("without_pictures")
def test_the_trivial_prediction_stands_beside_the_draws(rng, tmp_path):
    ds = with_sensors(draws(rng), SENSORS, SENSORS[4:])
    found = predictions_of(ds)
    expected = found.chosen(found.held_out).crps_of(np.array([-0.2, 0.4]))
    # |0.1 + 0.2| and |0.1 - 0.4|, minus half of their distance.
    assert expected == pytest.approx(0.0, abs=1e-12)
    sensors = [*SENSORS, Sensor((0.2, 0.2), "pressure", 2.0, 0.1)]
    page = Page(write_conditioning(tmp_path / "p.html", with_sensors(draws(rng), sensors, sensors[5:])))
    # Readings -0.2, 0.4, 0.1: mean distance 1.9 from 2, and half of their own mean distance 0.4.
    assert page.tables[0][1][6] == "1.70"


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"held": ()}, ["No sensor was held out: the draws were fitted to all that is known here"]),
        ({"sample_size": 49.6}, ["Where they mix worst, the chains are worth 50 independent draws (R-hat 1.30)"]),
        ({"shift": 9.0}, ["χ² per used sensor is ", "0 of 2 held-out readings lie in their intervals of 90 %, 1 to 2"]),
        ({"missing": True}, ["1 of 40 draws say nothing finite of some sensor"]),
    ],
)
def test_what_must_be_known_is_said_at_the_top(rng, tmp_path, change, expected):
    ds = draws(rng, 40, sample_size=change.get("sample_size", 60.0), r_hat=1.3)
    plain = with_sensors(ds, SENSORS)
    shift = change.get("shift", 0.0)
    sensors = [
        Sensor(s.place, s.field, float(mean) + shift, float(std), s.log)
        for s, mean, std in zip(
            SENSORS, plain["predicted"].mean("sample"), plain["predicted"].std("sample"), strict=True
        )
    ]
    ds = with_sensors(ds, sensors, change.get("held", sensors[3:]))
    if change.get("missing"):
        ds["predicted"][0, 0] = np.inf
    page = Page(write_conditioning(tmp_path / "page.html", ds))
    notices = re.findall(r'<p class="notice">(.*?)</p>', page.source, re.DOTALL)
    assert len(notices) == len(expected)
    for notice, words in zip(notices, expected, strict=True):
        assert notice.startswith(words)


@pytest.mark.usefixtures("without_pictures")
def test_draws_less_sure_than_they_could_be(rng, tmp_path):
    # All readings at the mean of draws whose intervals are wide.
    fields = draws(rng, 50)
    sensors = [Sensor((1.5, 0.0), "pressure", 0.0, 3.0)] * 99 + [Sensor((0.5, 0.0), "pressure", 0.0, 3.0)]
    page = Page(write_conditioning(tmp_path / "page.html", with_sensors(fields, sensors, sensors[:99])))
    assert "99 of 99 held-out readings lie in their intervals of 90 %" in page.text
    assert "the draws are less sure than they could be" in page.text


@pytest.mark.usefixtures("without_pictures")
def test_each_mode_is_explained(rng, tmp_path):
    for mode, words in (("solver", "completed by the solver"), ("joint", "no solver was asked"), ("other", "")):
        page = Page(write_conditioning(tmp_path / "page.html", with_sensors(draws(rng, mode=mode), SENSORS)))
        assert [w in page.text for w in ("completed by the solver", "no solver was asked")] == [
            words == "completed by the solver",
            words == "no solver was asked",
        ]


@pytest.mark.usefixtures("without_pictures")
def test_without_scores_there_is_no_section_of_them(rng, tmp_path):
    ds = with_sensors(draws(rng), SENSORS).drop_vars(["solution_error", "residual_mse"])
    page = Page(write_conditioning(tmp_path / "page.html", ds))
    assert "scores" not in page.ids
    assert "#scores" not in page.links


def test_a_folder_is_no_page(rng, tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder; give .*report\.html"):
        write_conditioning(tmp_path, draws(rng))


@pytest.mark.usefixtures("without_pictures")
def test_what_the_draws_were_told_of_the_noise_and_the_datum_is_told(rng, tmp_path):
    ds = with_sensors(draws(rng, 40), SENSORS, SENSORS[3:])
    plain = predictions_of(ds)
    ds["model_error"] = ("sensor", [0.0, 0.3, np.nan, 0.1, 0.2])
    counted = predictions_of(ds)
    np.testing.assert_allclose(counted.std, np.hypot(plain.std, [0, 0.3, 0, 0.1, 0.2]))
    offset = np.linspace(1, 3, 40)
    ds["offset"] = ("sample", offset, {"fields": "pressure"})
    page = Page(write_conditioning(tmp_path / "page.html", ds))
    assert "The noise on this page holds the model's own error" in page.text
    assert f"it is 2.00 ± {offset.std(ddof=1):.3f} by the draws" in " ".join(page.text.split())
    assert "offset" not in [row[0] for row in page.tables[3]]


@pytest.mark.usefixtures("without_pictures")
def test_notices_hold_what_lies_beside_the_prior_and_how_hopeless_it_is(rng, tmp_path):
    far = [Sensor(s.place, s.field, 50.0, s.std, s.log, line=i + 2) for i, s in enumerate(SENSORS)]
    ds = with_sensors(draws(rng, beside_the_prior="line 2 reads 50\nline 3 reads 50"), far, far[3:])
    assert notices_of(ds)[:2] == ["line 2 reads 50", "line 3 reads 50"]
    assert "the readings may have other units, another datum or be of a logarithm" in notices_of(ds)[2]
    page = Page(write_conditioning(tmp_path / "page.html", ds))
    assert "With a χ² this large no draw is a field of these readings" in page.text
    assert {row[0] for row in page.tables[1][1:]} == {f"line {i}" for i in range(2, 7)}
    right = plot_readings(predictions_of(ds)).axes[1]
    assert right.get_xlabel() == "sensor, by its line in the file"
    np.testing.assert_array_equal(right.lines[1].get_xdata(), [2])
    near = with_sensors(ds, [Sensor((1.5, 0.0), "pressure", 0.0, 3.0)])
    assert "no draw is a field" not in Page(write_conditioning(tmp_path / "q.html", near)).text
