import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physflow.grid import Grid

BOUNDS = [(0, 1), (-1, 1), (0, 2 * math.pi), (0, 1e-6), (1e5, 2e5), (-1 / 3, 1 / 3)]


def test_cells_and_nodes():
    cells, nodes = Grid((4,)), Grid((5,), centering="nodes")
    np.testing.assert_array_equal(cells.coordinates()[0], [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_array_equal(nodes.coordinates()[0], [0, 0.25, 0.5, 0.75, 1])
    assert cells.spacing == nodes.spacing == (0.25,)


def test_attributes_of_a_rectangle():
    grid = Grid((4, 5), ((0, 2), (-1, 1)))
    assert (grid.ndim, grid.axes, grid.spacing) == (2, ("x", "y"), (0.5, 0.4))
    assert grid.bounds == ((0.0, 2.0), (-1.0, 1.0))
    assert grid.cell_volume == pytest.approx(0.2)
    assert grid == Grid([4, 5], [[0, 2], [-1, 1]])
    assert hash(grid) == hash(Grid((np.int64(4), 5.0), ((0, 2), (-1, 1))))
    with pytest.raises(dataclasses.FrozenInstanceError):
        grid.shape = (3, 3)


def test_field_i_j_lies_at_x_i_y_j():
    grid = Grid((3, 4), ((0, 3), (0, 4)))
    x, y = grid.mesh()
    assert x.shape == y.shape == (3, 4)
    assert (x[2, 1], y[2, 1]) == (2.5, 1.5)


@pytest.mark.parametrize("shape", [(1,), (2, 7), (3, 4, 5)])
def test_cells_tile_the_box(shape):
    grid = Grid(shape, ((1, 3),) * len(shape))
    assert grid.cell_volume * math.prod(shape) == pytest.approx(2 ** len(shape))
    assert [x.shape for x in grid.mesh()] == [shape] * len(shape)
    assert grid.axes == ("x", "y", "z")[: len(shape)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("centering", ["cells", "nodes"])
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("n", [2, 3, 50, 64, 1000])
def test_coordinates_give_the_grid_back(n, bounds, centering, dtype):
    grid = Grid((n,), (bounds,), centering)
    found = Grid.from_coordinates(grid.coordinates()[0].astype(dtype), centering=centering)
    assert (found.shape, found.centering) == (grid.shape, centering)
    tolerance = 1e-12 if dtype == "float64" else 2e-6
    np.testing.assert_allclose(found.bounds, grid.bounds, rtol=tolerance, atol=tolerance * grid.spacing[0])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n", [7, 50, 64, 100, 1000])
def test_the_unit_square_comes_back_exactly(n, dtype):
    grid = Grid((n, n))
    assert Grid.from_coordinates(*(x.astype(dtype) for x in grid.coordinates())) == grid


@given(st.integers(2, 300), st.floats(-100, 100), st.floats(1e-3, 100))
def test_coordinates_survive_a_round_trip(n, low, length):
    grid = Grid((n,), ((low, low + length),))
    found = Grid.from_coordinates(*grid.coordinates())
    np.testing.assert_allclose(found.coordinates()[0], grid.coordinates()[0], rtol=1e-12, atol=1e-9 * length)


def test_from_whole_numbers_and_names():
    grid = Grid.from_coordinates([0, 1, 2], np.arange(4, dtype=np.int8), centering="nodes", axes=("lat", "lon"))
    assert grid == Grid((3, 4), ((0, 2), (0, 3)), "nodes", ("lat", "lon"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((),), "expected a grid of 1 to 3 axes, beside one of time \\('t'\\), got shape \\(\\)"),
        (((2, 2, 2, 2),), "expected a grid of 1 to 3 axes, beside one of time \\('t'\\), got shape \\(2, 2, 2, 2\\)"),
        (((0, 4),), "a grid of cells needs at least 1 points per axis, got shape \\(0, 4\\)"),
        (((1, 4), (), "nodes"), "a grid of nodes needs at least 2 points per axis, got shape \\(1, 4\\)"),
        (((2.5,),), "expected a whole number of points along each axis, got shape \\(2.5,\\)"),
        (((4, 4), ((0, 1),)), "expected one \\(low, high\\) pair of bounds per axis of shape \\(4, 4\\)"),
        (((4,), ((1, 0),)), "each bound must be a finite pair low < high, got \\(\\(1.0, 0.0\\),\\)"),
        (((4,), ((0, math.inf),)), "each bound must be a finite pair low < high"),
        (((4,), ((0, math.nan),)), "each bound must be a finite pair low < high"),
        (((4,), (), "faces"), "expected centering 'cells' or 'nodes', got 'faces'"),
        (
            ((4, 4), (), "cells", ("x",)),
            "expected one distinct name per axis of shape \\(4, 4\\), got \\('x',\\)",
        ),
        (((4, 4), (), "cells", ("x", "x")), "expected one distinct name per axis"),
    ],
)
def test_impossible_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(*arguments)


@pytest.mark.parametrize(
    ("coordinates", "message"),
    [
        ([[0, 1, 3]], "'x' is not uniform and increasing: its steps range from 1 to 2; interpolate the data"),
        ([[0, 1], [2, 1, 0]], "'y' is not increasing but falls; sort the data, ds.sortby"),
        ([[1, 1, 1]], "'x' is not uniform and increasing: its steps range from 0 to 0"),
        ([[0, math.nan, 2]], "'x' holds values that are not finite"),
        ([[0, 1, math.inf]], "'x' holds values that are not finite"),
        ([[0]], "'x' must be one-dimensional, of two points or more, got shape \\(1,\\)"),
        ([[[0, 1], [0, 1]]], "'x' must be one-dimensional, of two points or more, got shape \\(2, 2\\)"),
        ([], "expected 1 to 3 coordinates, beside one of time \\('t'\\), and one name for each, got 0 coordinates"),
        (
            [[0, 1]] * 4,
            "expected 1 to 3 coordinates, beside one of time \\('t'\\), and one name for each, got 4 coordinates",
        ),
    ],
)
def test_coordinates_of_no_grid_are_refused(coordinates, message):
    with pytest.raises(ValueError, match=message):
        Grid.from_coordinates(*coordinates)


def test_a_step_off_by_storage_in_float32_is_uniform_and_a_percent_is_not():
    x = np.linspace(0, 1, 64)
    assert Grid.from_coordinates(x.astype(np.float32), centering="nodes") == Grid((64,), centering="nodes")
    x[30] += 0.01 * (x[1] - x[0])
    with pytest.raises(ValueError, match="not uniform"):
        Grid.from_coordinates(x)


def test_a_name_for_each_coordinate():
    with pytest.raises(ValueError, match="got 1 coordinates and the names \\('a', 'b'\\)"):
        Grid.from_coordinates([0, 1], axes=("a", "b"))


def test_time_is_of_nodes_and_comes_first():
    grid = Grid((5, 4), ((0, 2), (0, 1)), axes=("t", "x"))
    t, x = grid.coordinates()
    np.testing.assert_array_equal(t, [0, 0.5, 1, 1.5, 2])
    np.testing.assert_array_equal(x, [0.125, 0.375, 0.625, 0.875])
    assert grid.spacing == (0.5, 0.25)
    assert grid.space == Grid((4,))
    assert Grid((4,)).space == Grid((4,))
    assert Grid.from_coordinates(t, x, axes=("t", "x")) == grid
    assert Grid((2, 3, 4, 5), axes=("t", "x", "y", "z")).ndim == 4
    for arguments, message in (
        ({"shape": (4, 5), "axes": ("x", "t")}, "time must be the first axis"),
        ({"shape": (1, 5), "axes": ("t", "x")}, "an axis of time needs at least 2 points"),
        ({"shape": (3,), "axes": ("t",)}, "beside one of time"),
    ):
        with pytest.raises(ValueError, match=message):
            Grid(**arguments)
