import io
import math

import numpy as np
import pytest
import torch
from matplotlib.colors import LogNorm
from PIL import Image

from physflow.report import plot_one_latent, plot_rate, plot_traversal
from physflow.results import number


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def png(figure):
    """The figure drawn, as an array that must not be of one colour."""
    file = io.BytesIO()
    figure.savefig(file, dpi=40)
    pixels = np.asarray(Image.open(file).convert("L"))
    assert pixels.std() > 1
    return pixels


def titles(figure):
    return [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 8, 6), (3, 2, 5, 9)])
@pytest.mark.parametrize("image", [True, False])
def test_a_traversal_shows_each_field_with_its_score(shape, image):
    fields, scores = noise(*shape), noise(*shape[:2], seed=1).exp()
    rows, columns = torch.linspace(-1, 1, shape[0]), torch.linspace(-2, 2, shape[1])
    figure = plot_traversal(fields, scores, (rows, columns), "pressure", "error", (3, 5), image)
    ax, bar = figure.axes
    assert [text.get_text() for text in ax.texts] == [number(s) for s in scores.flatten().tolist()]
    assert titles(figure) == [f"pressure\nmedian error {number(float(np.median(scores)))}"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent coordinate 5", "latent coordinate 3")
    assert [len(ax.get_xticks()), len(ax.get_yticks())] == [shape[1], shape[0]]
    assert bar.get_ylabel() == "pressure"
    picture = ax.images[0].get_array()
    first = fields[0, 0].numpy() if image else fields[0, 0].numpy().T[::-1]
    np.testing.assert_array_equal(picture[: first.shape[0], : first.shape[1]], first)
    assert (~np.ma.getmaskarray(picture)).sum() == fields.numel()
    png(figure)


def test_latent_values_are_written_at_their_rows_and_columns():
    figure = plot_traversal(noise(2, 3, 4, 4), None, ([-1.647, 1.647], [-0.001, 0, 2]))
    ax = figure.axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["−1.65", "1.65"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0.00", "0.00", "2.00"]
    # The middle of a field of four points; neighbours are a point apart.
    assert ax.get_xticks().tolist() == [1.5, 6.5, 11.5]
    assert ax.get_yticks().tolist() == [1.5, 6.5]


def test_traversals_beside_each_other_share_the_scale_of_the_first():
    fields = 1 + noise(2, 2, 5, 5).exp() * 40
    scores = torch.full((2, 2), 3.0)
    figure = plot_traversal({"VAE": fields, "Latent-CFM": 2 * fields}, {"Latent-CFM": scores}, label="K")
    first, second, bar = figure.axes
    assert titles(figure) == ["VAE", "Latent-CFM\nmedian residual 3.00"]
    assert first.images[0].norm is second.images[0].norm
    assert isinstance(first.images[0].norm, LogNorm)
    assert (len(first.texts), len(second.texts)) == (0, 4)
    assert bar._colorbar.extend in ("max", "both")
    png(figure)


@pytest.mark.parametrize(("n", "shown"), [(1, 1), (2, 2), (7, 7), (40, 12)])
def test_samples_of_one_latent_stand_beside_what_it_encodes(n, shown):
    reference, samples = noise(6, 9), noise(n, 6, 9, seed=1)
    figure = plot_one_latent(reference, samples, "log K")
    assert titles(figure) == ["encoded", f"from its latent ({shown} of {n})"] + ["their std"] * (n > 1)
    encoded, many, *rest = (ax.images[0].get_array() for ax in figure.axes if ax.images)
    np.testing.assert_array_equal(encoded, reference.numpy().T[::-1])
    assert (~np.ma.getmaskarray(many)).sum() == shown * 54
    if n > 1:
        np.testing.assert_allclose(rest[0], samples.std(0).numpy().T[::-1])
    assert [ax.get_xlabel() for ax in figure.axes if not ax.images] == ["log K", "std of log K"][: 1 + (n > 1)]
    png(figure)


def test_images_are_grey_with_the_first_line_at_the_top():
    reference = torch.arange(6.0).reshape(2, 3)
    image = plot_one_latent(reference, reference.expand(4, 2, 3), image=True).axes[0].images[0]
    np.testing.assert_array_equal(image.get_array(), reference)
    assert image.get_cmap().name == "gray"
    assert image.get_clim() == (0, 5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_fields_are_drawn(value):
    fields = torch.full((2, 2, 4, 4), value)
    for figure in (
        plot_traversal(fields, fields[..., 0, 0]),
        plot_traversal(fields, image=True),
        plot_one_latent(fields[0, 0], fields[0]),
    ):
        figure.savefig(io.BytesIO(), dpi=40)


def test_missing_values_are_drawn():
    fields = noise(2, 2, 4, 4)
    fields[0, 0] = math.nan
    scores = torch.tensor([[math.nan, 1.0], [2.0, 3.0]])
    figure = plot_traversal(fields, scores)
    assert [text.get_text() for text in figure.axes[0].texts] == ["–", "1.00", "2.00", "3.00"]
    assert titles(figure) == ["field\nmedian residual 2.00"]
    figure.savefig(io.BytesIO(), dpi=40)


def test_the_rate_falls_from_left_to_right_in_whatever_order_it_is_given():
    figure = plot_rate([1.0, 1e-3, 1e-2], [2.0, 300.0, 50.0], torch.tensor([0.3, 0.1, 0.2]), "squared error")
    rate, loss = figure.axes
    np.testing.assert_allclose(rate.lines[0].get_xydata(), [[1e-3, 300], [1e-2, 50], [1, 2]])
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [0.1, 0.2, 0.3])
    assert titles(figure) == ["rate", "distortion"]
    assert rate.get_ylabel().endswith("(nats)")
    assert loss.get_ylabel() == "squared error"
    assert [ax.get_xscale() for ax in (rate, loss)] == ["log", "log"]
    assert [ax.get_yscale() for ax in (rate, loss)] == ["log", "linear"]
    png(figure)


@pytest.mark.parametrize("rates", [[5.0], [0.0]])
def test_one_rate_is_drawn_alone(rates):
    figure = plot_rate([0.1], rates)
    assert len(figure.axes) == 1
    assert figure.axes[0].get_ylim()[0] <= 0
    png(figure)


FOUR, TWO = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plot_traversal(torch.zeros(2, 3, 1, 4, 5)),
            r"\(rows, columns, nx, ny\) for 'field', got .*one channel",
        ),
        (lambda: plot_traversal(torch.zeros(0, 3, 4, 5)), "rows, columns"),
        (lambda: plot_traversal(FOUR, TWO.T), r"scores of shape \(2, 3\), one a field, got \(3, 2\)"),
        (lambda: plot_traversal({"a": FOUR, "b": FOUR[:1]}), r"all traversals to have the shape \(2, 3, 4, 5\).*'b'"),
        (lambda: plot_traversal({"a": FOUR}, {"b": TWO}), r"scores of \['a'\], by the names .* got those of \['b'\]"),
        (lambda: plot_traversal({"a": FOUR}, TWO), r"scores of \['a'\]"),
        (lambda: plot_traversal({}), "by the names of the fields"),
        (lambda: plot_traversal(FOUR, None, ([1, 2, 3], [1, 2])), r"2 values for the rows and 3 .* got \(3, 2\)"),
        (lambda: plot_one_latent(torch.zeros(4, 5), torch.zeros(3, 5, 4)), r"got \(4, 5\) and \(3, 5, 4\); take one"),
        (lambda: plot_one_latent(torch.zeros(4, 5), torch.zeros(0, 4, 5)), "at least one sample"),
        (lambda: plot_one_latent(torch.zeros(4, 5), torch.zeros(3, 4, 5), count=0), "count must be at least 1"),
        (lambda: plot_rate([], []), "at least one weight beta"),
        (lambda: plot_rate([0.0, 1.0], [1.0, 2.0]), r"all positive, got \[0.0, 1.0\]"),
        (lambda: plot_rate([1.0, 2.0], [1.0]), r"one rate for each of the 2 weights, got shape \(1,\)"),
        (lambda: plot_rate([1.0], [1.0], [1.0, 2.0]), "one distortion for each of the 1 weights"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
