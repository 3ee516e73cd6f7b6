import io
import math

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from physflow.metrics import VelocitySpread, velocity_spread
from physflow.report import plot_coupling, plot_trajectories, plot_trajectories_3d, plot_velocity_spread


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def png(figure):
    """The figure drawn, as an array that must not be of one colour."""
    file = io.BytesIO()
    figure.savefig(file, dpi=40)
    pixels = np.asarray(Image.open(file).convert("L"))
    assert pixels.std() > 1
    return pixels


def legend(figure):
    return [text.get_text() for holder in (figure, *figure.axes) for text in texts(holder)]


def texts(holder):
    legends = holder.legends if hasattr(holder, "legends") else [holder.get_legend()]
    return [text for one in legends if one for text in one.get_texts()]


def log_density(x):
    return -x.square().sum(1) / 2


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (7, 3), (4, 150)])
@pytest.mark.parametrize("d", [1, 2])
def test_paths_have_their_segments_and_the_colour_of_their_time(steps, batch, d):
    path = noise(steps + 1, batch, d)
    figure = plot_trajectories(path, title="flow")
    ax, bar = figure.axes
    lines, start, end = ax.collections
    segments = lines.get_segments()
    assert len(segments) == steps * batch
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    shown = path if d == 2 else torch.stack([times[:, None].expand(-1, batch), path[..., 0]], -1)
    for k, i in ((0, 0), (steps - 1, batch - 1)):
        np.testing.assert_allclose(segments[i * steps + k], shown[k : k + 2, i])
        assert lines.get_array()[i * steps + k] == pytest.approx((k + 0.5) / steps)
    np.testing.assert_allclose(start.get_offsets(), shown[0])
    np.testing.assert_allclose(end.get_offsets(), shown[-1])
    labels = ("x", "y") if d == 2 else ("time t", "x")
    assert (ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()) == ("flow", *labels)
    assert bar.get_ylabel() == "time t"
    assert legend(figure) == ["start, t = 0", "end, t = 1"]
    png(figure)


@pytest.mark.parametrize("draw", [plot_trajectories, plot_trajectories_3d])
def test_paths_are_within_the_axes(draw):
    path = 10 * noise(3, 40, 2)
    ax = draw(path).axes[0]
    for (low, high), x in zip((ax.get_xlim(), ax.get_ylim()), path.unbind(-1), strict=True):
        assert low < x.min()
        assert x.max() < high


def test_a_target_of_points_lies_behind():
    figure = plot_trajectories(noise(3, 5, 2), noise(40, 2, seed=1))
    target = figure.axes[0].collections[-1]
    np.testing.assert_allclose(target.get_offsets(), noise(40, 2, seed=1))
    assert target.zorder < min(drawn.zorder for drawn in figure.axes[0].collections[:-1])
    assert "target" in legend(figure)


def test_a_target_density_is_drawn_as_contours_of_its_share_of_the_largest_value():
    figure = plot_trajectories(5 * noise(3, 20, 2), log_density)
    contours = figure.axes[0].collections[-1]
    assert contours.levels.tolist() == [0.01, 0.05, 0.2, 0.6, 1.0]
    outermost = contours.get_paths()[0].vertices
    assert np.linalg.norm(outermost, axis=1).max() == pytest.approx(math.sqrt(-2 * math.log(0.01)), rel=0.02)
    png(figure)


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (10, 30)])
def test_paths_in_a_box_have_time_upwards(steps, batch):
    path = noise(steps + 1, batch, 2)
    figure = plot_trajectories_3d(path, (0, 0.52, 1), "box")
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_zlabel()) == ("x", "y", "time t")
    points = ax.collections
    assert len(ax.lines) == steps
    x, y, t = ax.lines[-1].get_data_3d()
    assert len(x) == 3 * batch
    np.testing.assert_allclose(np.stack([x, y], 1).reshape(batch, 3, 2)[:, :2], path[-2:].swapaxes(0, 1))
    assert t[:2].tolist() == pytest.approx([1 - 1 / steps, 1])
    shown = {0: 0, 1: 1} if steps == 1 else {0: 0, 0.5: 5, 1: 10}
    assert legend(figure) == [f"t = {t:g}" for t in shown]
    for drawn, (t, step) in zip(points, shown.items(), strict=True):
        x, y, z = drawn._offsets3d
        np.testing.assert_allclose(np.stack([x, y], 1), path[step])
        assert np.unique(z).tolist() == [t]
    png(figure)


@pytest.mark.parametrize("n", [1, 25])
def test_a_coupling_joins_its_pairs_and_states_its_cost(n):
    x0, x1 = noise(2, n, 2)
    x1 = x0 + 2 * (x1 - x0) / torch.linalg.vector_norm(x1 - x0, dim=1, keepdim=True)
    figure = plot_coupling(x0, x1, "pairs")
    ax = figure.axes[0]
    lines, start, end = ax.collections
    np.testing.assert_allclose(np.array(lines.get_segments()), torch.stack([x0, x1], 1))
    np.testing.assert_allclose(start.get_offsets(), x0)
    np.testing.assert_allclose(end.get_offsets(), x1)
    assert ax.get_title(loc="left") == "pairs"
    assert figure.legends[0].get_title().get_text() == "mean squared distance 4.00"
    png(figure)


def spread(std, count=2):
    nx, nt = std.shape
    return VelocitySpread(std, torch.full((nx, nt), count), torch.linspace(-1, 1, nx + 1), torch.linspace(0, 1, nt + 1))


def test_spreads_share_the_scale_of_the_first():
    figure = plot_velocity_spread({"data": spread(torch.full((3, 2), 2.0)), "model": spread(torch.full((4, 5), 3.0))})
    first, second, bar = figure.axes
    assert [ax.get_title(loc="left") for ax in (first, second)] == ["data", "model"]
    assert [ax.collections[0].get_clim() for ax in (first, second)] == [(0, 2), (0, 2)]
    assert (first.get_xlabel(), first.get_ylabel()) == ("time t", "x")
    assert bar.get_ylabel() == "standard deviation of dx/dt"
    assert bar._colorbar.extend == "max"
    assert first.collections[0].get_array().shape == (3, 2)
    png(figure)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_spread_of_nothing_is_drawn(value):
    figure = plot_velocity_spread(spread(torch.full((2, 2), value)))
    assert figure.axes[0].collections[0].get_clim() == (0, 1)
    figure.savefig(io.BytesIO(), dpi=40)


def test_a_measured_spread_is_drawn_where_it_is_known():
    x, v, t = noise(3, 50)
    measured = velocity_spread(x, v, t.sigmoid(), (6, 4))
    figure = plot_velocity_spread(measured)
    shown = figure.axes[0].collections[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), measured.std.isnan())
    np.testing.assert_allclose(shown.compressed(), measured.std[~measured.std.isnan()])


def test_figures_leave_the_state_of_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    png(plot_trajectories(noise(2, 3, 2)))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_trajectories(torch.zeros(3, 2)), r"\(steps \+ 1, batch, d\) with d = 1 or 2.*got \(3, 2\)"),
        (lambda: plot_trajectories(torch.zeros(1, 4, 2)), "one step and one path at least"),
        (lambda: plot_trajectories(torch.zeros(3, 0, 2)), "one step and one path at least"),
        (lambda: plot_trajectories(torch.zeros(3, 4, 3)), "d = 1 or 2"),
        (lambda: plot_trajectories(torch.full((3, 4, 2), math.nan)), "trajectory holds values that are NaN"),
        (lambda: plot_trajectories(torch.zeros(3, 4, 1), torch.zeros(5, 2)), "these are on a line, so leave it out"),
        (lambda: plot_trajectories(noise(3, 4, 2), torch.zeros(5, 3)), r"target to be points of the plane.*\(5, 3\)"),
        (lambda: plot_trajectories(noise(3, 4, 2), lambda x: x), "one value a point, got"),
        (lambda: plot_trajectories_3d(torch.zeros(3, 4, 1)), "with d = 2"),
        (lambda: plot_trajectories_3d(torch.zeros(3, 4, 2), (0, 1.5)), r"times must lie in \[0, 1\], got \(0, 1.5\)"),
        (lambda: plot_coupling(torch.zeros(3, 2), torch.zeros(4, 2)), "one x1 for each x0, got 3 and 4"),
        (lambda: plot_coupling(torch.zeros(3, 2), torch.zeros(3)), "x1 to be points of the plane"),
        (lambda: plot_coupling(torch.zeros(0, 2), torch.zeros(0, 2)), "n > 0"),
        (lambda: plot_coupling(torch.full((3, 2), math.inf), torch.zeros(3, 2)), "x0 holds values that are NaN"),
        (lambda: plot_velocity_spread({}), "spread of one flow at least"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
