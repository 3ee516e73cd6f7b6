"""What every random field has in common: reproducibility bit for bit."""

import numpy as np
import pytest

from physflow.data.bumps import Bumps
from physflow.data.circulant import CirculantEmbedding
from physflow.data.cosine import CosineSeries
from physflow.data.covariances import Exponential, Matern
from physflow.data.karhunen_loeve import KarhunenLoeve
from physflow.grid import Grid

GRID = Grid((9, 7))
FIELDS = {
    "kl": lambda: KarhunenLoeve(GRID, Exponential(), 5),
    "uniform": lambda: KarhunenLoeve(GRID, Exponential(), 5, "uniform"),
    "full": lambda: CirculantEmbedding(GRID, Exponential()),
    "anisotropic": lambda: CirculantEmbedding(GRID, Matern((0.2, 0.05), 1.0, 30.0)),
    "cosine": lambda: CosineSeries(GRID),
    "cosine, truncated": lambda: CosineSeries(GRID, modes=5),
    "bumps": lambda: Bumps(GRID),
}


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
class TestEveryField:
    def test_a_sample_depends_on_seed_and_index_alone(self, field):
        whole = field().draw(5, 0, 200)
        for first, count in ((0, 1), (31, 2), (33, 140), (199, 1)):
            assert np.array_equal(field().draw(5, first, count), whole[first : first + count])

    def test_no_two_samples_are_the_same(self, field):
        rows = np.concatenate([field().draw(5, 0, 140), field().draw(6, 0, 140)]).reshape(280, -1)
        assert len(np.unique(rows, axis=0)) == 280

    def test_empty(self, field):
        assert field().draw(0, 7, 0).shape == (0, 9, 7)

    def test_negative_indices_are_refused(self, field):
        with pytest.raises(ValueError, match="not negative, got first=-1"):
            field().draw(0, -1, 3)


@pytest.mark.parametrize(("n", "block"), [(2, 128), (64, 128), (100, 48), (256, 8), (2000, 8)])
def test_blocks_are_smaller_on_finer_grids(n, block):
    assert Bumps(Grid((n, n))).block == block
