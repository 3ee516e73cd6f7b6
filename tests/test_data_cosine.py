"""Cosine series: the explicit sum as oracle."""

import itertools

import numpy as np
import pytest
from random_field_oracles import responses

from physflow.data import cosine
from physflow.data.cosine import CosineSeries
from physflow.grid import Grid

GRIDS = [
    Grid((4, 4)),
    Grid((5, 3), ((0, 2), (0, 0.5))),
    Grid((4, 5), centering="nodes"),
    Grid((2, 3), ((0, 1), (0, 3)), centering="nodes"),
    Grid((6,)),
    Grid((2, 2, 3)),
]


def basis(grid):
    """The cosines of unit norm in the rows, and their squared wave numbers, by their definition."""
    sides = [b - a for a, b in grid.bounds]
    rows, squares = [], []
    for k in itertools.product(*map(range, grid.shape)):
        row = np.ones(grid.shape)
        for n, side, x, (a, _) in zip(k, sides, grid.mesh(), grid.bounds, strict=True):
            row *= np.sqrt((1 if n == 0 else 2) / side) * np.cos(np.pi * n * (x - a) / side)
        rows.append(row.ravel())
        squares.append(sum((n / side) ** 2 for n, side in zip(k, sides, strict=True)))
    return np.stack(rows), np.array(squares)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(("alpha", "tau", "std"), [(2.0, 3.0, 1.0), (2.7, 0.8, 0.5)])
def test_draws_are_the_explicit_sum(monkeypatch, grid, alpha, tau, std):
    cosines, squares = basis(grid)
    amplitudes = std * tau ** (alpha - 1) * (np.pi**2 * squares + tau**2) ** (-alpha / 2)
    amplitudes[0] = 0
    field = CosineSeries(grid, alpha, tau, std)
    np.testing.assert_allclose(field.amplitudes.ravel(), amplitudes, rtol=1e-13)
    (map_,) = responses(monkeypatch, cosine, field, 1)
    np.testing.assert_allclose(map_, (amplitudes[:, None] * cosines).T, atol=1e-13)


def test_the_published_amplitude_on_the_unit_square():
    # The mean square over the box is the sum of the squared amplitudes: the cosines have unit norm there.
    fields = CosineSeries(Grid((32, 32))).draw(0, 0, 2000)
    k = np.arange(32)
    spectrum = 9 * (np.pi**2 * (k[:, None] ** 2 + k**2) + 9) ** -2.0
    spectrum[0, 0] = 0
    spread = np.sqrt(2 * np.sum(spectrum**2) / 2000)
    assert abs((fields**2).mean() - spectrum.sum()) < 6 * spread
    np.testing.assert_allclose(fields.mean((1, 2)), 0, atol=1e-14)


@pytest.mark.parametrize("grid", [*GRIDS[:4], Grid((6, 7))], ids=str)
@pytest.mark.parametrize("modes", [1, 3, 5])
def test_the_largest_terms_are_kept(monkeypatch, grid, modes):
    whole, some = CosineSeries(grid), CosineSeries(grid, modes=modes)
    kept = some.amplitudes > 0
    assert kept.sum() == modes
    np.testing.assert_array_equal(some.amplitudes[kept], whole.amplitudes[kept])
    assert some.amplitudes[kept].min() >= whole.amplitudes[~kept].max()
    cosines, _ = basis(grid)
    (map_,) = responses(monkeypatch, cosine, some, 1)
    assert map_.shape[1] == modes, "no more numbers are drawn than there are terms"
    np.testing.assert_allclose(map_ @ map_.T, cosines.T @ (some.amplitudes.ravel()[:, None] ** 2 * cosines), atol=1e-13)


def test_the_same_terms_at_every_resolution():
    coarse, fine = (CosineSeries(Grid((n, 2 * n)), modes=12).draw(3, 0, 5) for n in (8, 24))
    # The centres of the coarse cells are those of every third fine cell.
    np.testing.assert_allclose(fine[:, 1::3, 1::3], coarse, atol=1e-13)
    nodes = CosineSeries(Grid((9, 9), centering="nodes"), modes=12).draw(3, 0, 5)
    cells = CosineSeries(Grid((4, 4)), modes=12).draw(3, 0, 5)
    np.testing.assert_allclose(nodes[:, 1::2, 1::2], cells, atol=1e-13)


@pytest.mark.parametrize("modes", [0, 12])
def test_impossible_number_of_modes(modes):
    with pytest.raises(ValueError, match=f"between 1 and 11 modes on this grid, got {modes}"):
        CosineSeries(Grid((4, 3)), modes=modes)
