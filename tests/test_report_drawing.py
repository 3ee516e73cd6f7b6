import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from physflow.report.drawing import COLORS, array_of, colorbar, mosaic, panel, scale_of, show, styled


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 5), (3, 1, 2, 7), (2, 2, 40, 30)])
@pytest.mark.parametrize("gap", [(0.06, 0.06), (0.5, 0.1)])
def test_each_field_lies_in_its_place_of_a_mosaic(rng, image, shape, gap):
    fields = rng.standard_normal(shape)
    picture, (down, right) = mosaic(fields, image, gap)
    covered = np.zeros(picture.shape, bool)
    for i in range(shape[0]):
        for j in range(shape[1]):
            # Of a field the first axis is x, to the right, and the second y, upwards.
            tile = fields[i, j] if image else fields[i, j].T[::-1]
            place = np.s_[i * down : i * down + len(tile), j * right : j * right + tile.shape[1]]
            np.testing.assert_array_equal(picture[place], tile)
            covered[place] = True
    assert np.isnan(picture[~covered]).all()
    assert covered.sum() == fields.size
    assert covered[-1, -1]


def test_neighbours_in_a_mosaic_do_not_touch():
    assert mosaic(np.ones((2, 2, 3, 3)), gap=(0, 0))[1] == (4, 4)


@pytest.mark.parametrize(
    ("values", "kind", "ends", "colormap"),
    [
        (np.linspace(-1, 3, 5), Normalize, None, "RdBu_r"),
        (np.logspace(0, 3, 50), LogNorm, None, "viridis"),
        (np.linspace(4, 5, 1001), Normalize, (4.001, 4.999), "viridis"),
        (np.full(3, 2.0), Normalize, (1.8, 2.2), "viridis"),
        (np.zeros(3), Normalize, (-0.1, 0.1), "viridis"),
        (np.full(3, np.nan), Normalize, (0, 1), "viridis"),
    ],
)
def test_the_scale_suits_the_values(values, kind, ends, colormap):
    scale, name = scale_of(values)
    assert type(scale) is kind
    assert name == colormap
    if ends:
        assert (scale.vmin, scale.vmax) == pytest.approx(ends)
    elif kind is Normalize:
        assert scale.vmin == -scale.vmax < 0


@pytest.mark.parametrize("values", [[1.0, 2.0, 1.5], [-1.0, 4.0], [1.0, 50.0]])
def test_missing_values_do_not_count_for_the_scale(values):
    expected, name = scale_of(np.array(values))
    found, found_name = scale_of(np.array([*values, np.nan, np.inf, -np.inf]))
    assert (found.vmin, found.vmax, found_name) == (expected.vmin, expected.vmax, name)


@pytest.mark.parametrize("values", [torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.int8), [1, 1]])
def test_anything_becomes_a_double_array(values):
    found = array_of(values)
    assert found.dtype == np.float64
    assert found.tolist() == [1, 1]


def test_a_styled_function_leaves_the_settings_alone():
    before = dict(matplotlib.rcParams)

    @styled
    def draw(title: str) -> Figure:
        """Words."""
        assert not matplotlib.rcParams["axes.spines.top"]
        return panel(title)[0]

    assert draw("$5").axes[0].get_title(loc="left") == r"\$5"
    assert draw.__doc__ == "Words."
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("values", "extend"),
    [([0.5], "neither"), ([-1.0, 0.5], "min"), ([0.5, 2.0], "max"), ([-1.0, np.nan, 2.0], "both")],
)
def test_a_colour_bar_points_beyond_its_scale(values, extend):
    figure, ax = panel("")
    scale = Normalize(0, 1)
    show(ax, np.array([values]), scale, "viridis")
    colorbar(figure, [ax], scale, "viridis", "what", [np.array([0.5]), np.array(values)])
    bar = figure.axes[1]
    assert bar.get_ylabel() == "what"
    assert bar._colorbar.extend == extend


def test_the_colours_of_series_differ():
    assert len(set(COLORS)) == len(COLORS)
