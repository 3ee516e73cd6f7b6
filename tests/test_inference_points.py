"""Point sensors: exact for multilinear fields, scipy's interpolation, the walls, and the wording of errors."""

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

from physflow.grid import Grid
from physflow.inference.points import Points

AXES = {
    1: (np.array([0.0, 0.5, 0.6, 2.0]),),
    2: (np.array([-1.0, 0.0, 0.25, 1.0, 3.0]), np.linspace(0, 1, 3)),
    3: (np.linspace(0, 1, 3), np.array([0.0, 0.4, 1.0, 1.1]), np.array([2.0, 3.0])),
}


def places(axes, n=40, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(axis[0], axis[-1], n) for axis in axes], axis=1)


@pytest.mark.parametrize("d", AXES)
def test_multilinear_fields_are_read_exactly(d):
    axes, at = AXES[d], places(AXES[d])

    def field(x):
        return 1 - np.prod([2 + (a + 1) * s for a, s in enumerate(x)], axis=0)

    u = torch.from_numpy(field(np.meshgrid(*axes, indexing="ij")))[None, None]
    np.testing.assert_allclose(Points(0, axes, at)(u)[0], field(at.T), rtol=1e-12)


@pytest.mark.parametrize("d", AXES)
def test_agrees_with_scipy(d):
    axes, at = AXES[d], places(AXES[d], seed=1)
    u = torch.from_numpy(np.random.default_rng(2).normal(size=(3, 2, *map(len, axes))))
    expected = [RegularGridInterpolator(axes, item[1].numpy())(at) for item in u]
    np.testing.assert_allclose(Points(1, axes, at)(u), expected, rtol=1e-12, atol=1e-12)


def test_grid_points_are_read_as_they_are():
    axes = AXES[2]
    u = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 1, 5, 3)))
    at = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    assert torch.equal(Points(0, axes, at)(u), u.flatten(1))


def test_the_error_is_of_second_order():
    at = places([np.array([0.0, 1.0])] * 2)
    errors = []
    for n in (16, 32, 64):
        grid = Grid((n + 1, n + 1), centering="nodes")
        x, y = grid.mesh()
        u = torch.from_numpy(np.sin(3 * x) * np.exp(y))[None, None]
        errors.append(
            np.abs(Points(0, grid.coordinates(), at)(u)[0].numpy() - np.sin(3 * at[:, 0]) * np.exp(at[:, 1])).mean()
        )
    assert np.diff(np.log2(errors)) == pytest.approx([-2, -2], abs=0.3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_up_to_the_walls_of_cells_the_field_goes_on_as_a_constant(dtype):
    grid = Grid((7, 5), ((0.0, 1.0), (-1.0, 2.0)))
    coordinates = [axis.astype(dtype) for axis in grid.coordinates()]
    u = torch.from_numpy(np.random.default_rng(2).normal(size=(1, 1, 7, 5)))
    at = [[0.0, -1.0], [1.0, 2.0], [0.0, float(coordinates[1][2])]]
    torch.testing.assert_close(Points(0, coordinates, at)(u)[0], u[0, 0][[0, 6, 0], [0, 4, 2]], rtol=1e-6, atol=1e-6)


def test_a_sensor_outside_is_named():
    grid = Grid((4, 4), ((0.0, 2.0), (0.0, 1.0)))
    at = [[0.5, 0.5], [2.0, 1.01], [0.1, 7.0]]
    message = r"sensor 1 at \(2, 1.01\) lies outside the domain \[0, 2\] x \[0, 1\] \(2 of 3 sensors do\)"
    with pytest.raises(ValueError, match=message):
        Points(0, grid.coordinates(), at)
    with pytest.raises(ValueError, match=r"sensor 0 at \(nan, 0\) lies outside"):
        Points(0, grid.coordinates(), [[np.nan, 0.0]])


@pytest.mark.parametrize(
    ("axes", "at", "message"),
    [
        (
            ([0.0, 1.0], [1.0, 0.0]),
            [[0.5, 0.5]],
            r"increasing coordinates of two points or more along axis 1, got \[1.0, 0",
        ),
        (([0.5],), [[0.5]], r"of two points or more along axis 0, got \[0.5\]"),
        ((np.ones((3, 3)),), [[0.5]], r"along axis 0, got an array of shape \(3, 3\)"),
        (([0.0, 1.0],), [0.5, 0.6], r"shape \(m, 1\), one row a sensor and one column an axis, got \(2,\)"),
        (([0.0, 1.0],), np.empty((0, 1)), r"shape \(m, 1\), one row a sensor and one column an axis, got \(0, 1\)"),
    ],
)
def test_impossible_sensors(axes, at, message):
    with pytest.raises(ValueError, match=message):
        Points(0, axes, at)


def test_nodes_lie_on_the_walls():
    grid = Grid((4, 5), ((0.0, 3.0), (0.0, 1.0)), centering="nodes")
    u = torch.from_numpy(np.random.default_rng(2).normal(size=(1, 1, 4, 5)))
    corners = Points(0, grid.coordinates(), [[0.0, 0.0], [3.0, 1.0]], cells=False)
    assert torch.equal(corners(u)[0], u[0, 0, [0, 3], [0, 4]])
    with pytest.raises(
        ValueError, match=r"sensor 0 at \(3.2, 0.5\) lies outside the domain \[0, 3\] x \[0, 1\] \(1 of 1"
    ):
        Points(0, grid.coordinates(), [[3.2, 0.5]], cells=False)
    # Half a spacing farther is a wall if these are centres.
    assert Points(0, grid.coordinates(), [[3.2, 0.5]]).size == 1


def test_a_label_names_a_sensor_outside():
    with pytest.raises(ValueError, match=r"^line 8 at \(9\) lies outside the domain"):
        Points(0, AXES[1], [[1.0], [9.0]], labels=["line 3", "line 8"])
