"""Laws of the permeability: what a data set's settings make of a random field."""

import numpy as np
import pytest

from physflow.config import DataConfig
from physflow.data.bumps import Bumps
from physflow.data.circulant import CirculantEmbedding
from physflow.data.cosine import CosineSeries
from physflow.data.covariances import Exponential, Gaussian, Matern
from physflow.data.karhunen_loeve import KarhunenLoeve
from physflow.data.laws import Binary, Lognormal, grid_of_config, law_of
from physflow.grid import Grid

SMALL = {"resolution": (9, 7), "modes": 5}
SETTINGS = {
    "exponential": SMALL,
    "full": {**SMALL, "modes": None},
    "uniform": {**SMALL, "coefficients": "uniform"},
    "matern": {**SMALL, "covariance": "matern", "correlation_length": (0.3, 0.1), "angle": 30.0, "smoothness": 2.5},
    "gaussian, full": {**SMALL, "covariance": "gaussian", "modes": None},
    "cosine": {**SMALL, "covariance": "cosine"},
    "bumps": {**SMALL, "covariance": "bumps", "modes": None},
    "binary": {**SMALL, "permeability": "binary", "levels": (0.5, 2.0)},
    "nodes, stretched": {**SMALL, "discretization": "nodes", "extent": (2, 1)},
    "fno": {"resolution": (9, 7), "preset": "fno"},
    "pdebench": {"resolution": (9, 7), "preset": "pdebench"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
class TestEveryLaw:
    def test_a_sample_depends_on_seed_and_index_alone(self, settings):
        law = law_of(DataConfig(**settings))
        whole = law.draw(5, 0, 200)
        for first, count in ((0, 1), (31, 2), (33, 140), (199, 1)):
            again = law_of(DataConfig(samples=count, seed=3, **settings))
            assert np.array_equal(again.draw(5, first, count), whole[first : first + count])
        assert not np.array_equal(law.draw(6, 0, 200), whole)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_permeabilities_are_positive_and_of_the_type_asked_for(self, settings, dtype):
        law = law_of(DataConfig(**settings))
        fields = law.draw(0, 0, 50, dtype)
        assert fields.shape == (50, 9, 7)
        assert fields.dtype == dtype
        np.testing.assert_allclose(fields, law.draw(0, 0, 50), rtol=1e-5)
        assert (fields > 0).all()
        assert np.isfinite(fields).all()
        assert law.draw(0, 3, 0).shape == (0, 9, 7)

    def test_they_are_a_function_of_the_field(self, settings):
        config = DataConfig(**settings)
        law = law_of(config)
        field, permeability = law.field.draw(2, 1, 40), law.draw(2, 1, 40)
        if config.permeability == "lognormal":
            assert isinstance(law, Lognormal)
            np.testing.assert_array_equal(permeability, np.exp(field.astype(float)))
        else:
            assert isinstance(law, Binary)
            assert set(np.unique(permeability)) == set(config.levels)
            np.testing.assert_array_equal(permeability == config.levels[1], field >= 0)

    def test_the_field_is_found_once_whatever_the_equation(self, settings):
        assert law_of(DataConfig(**settings)).field is law_of(DataConfig(seed=1, dtype="float64", **settings)).field

    def test_the_grid_is_that_of_the_settings(self, settings):
        config = DataConfig(**settings)
        law = law_of(config)
        assert law.grid == grid_of_config(config)
        assert law.block == law.field.block == 128


@pytest.mark.parametrize(
    ("settings", "kind", "attributes"),
    [
        ({}, KarhunenLoeve, {"covariance": Exponential(0.1, 1.0), "modes": 5, "coefficients": "normal"}),
        ({"modes": None, "std": 2.0}, CirculantEmbedding, {"covariance": Exponential(0.1, 2.0)}),
        (
            {"covariance": "matern", "correlation_length": (0.3, 0.2), "angle": 10.0, "smoothness": 2.0, "std": 3.0},
            KarhunenLoeve,
            {"covariance": Matern((0.3, 0.2), 3.0, 10.0, 2.0)},
        ),
        (
            {"covariance": "gaussian", "correlation_length": (0.1, 0.2), "angle": 10.0, "modes": None},
            CirculantEmbedding,
            {"covariance": Gaussian((0.1, 0.2), 1.0, 10.0)},
        ),
        ({"covariance": "bumps", "modes": None}, Bumps, {}),
        ({"coefficients": "uniform"}, KarhunenLoeve, {"coefficients": "uniform"}),
    ],
)
def test_settings_become_the_field(settings, kind, attributes):
    field = law_of(DataConfig(**{**SMALL, **settings})).field
    assert type(field) is kind
    assert {name: getattr(field, name) for name in attributes} == attributes


def test_settings_of_the_cosine_series():
    config = DataConfig(covariance="cosine", alpha=3.0, tau=5.0, std=2.0, resolution=(9, 7), modes=4, extent=(2, 1))
    field, expected = law_of(config).field, CosineSeries(Grid((9, 7), ((0, 2), (0, 1))), 3.0, 5.0, 2.0, 4)
    assert isinstance(field, CosineSeries)
    np.testing.assert_array_equal(field.amplitudes, expected.amplitudes)


def test_grid():
    config = DataConfig(resolution=(8, 6), modes=5, extent=(2, 0.5), discretization="nodes")
    assert grid_of_config(config) == Grid((8, 6), ((0, 2), (0, 0.5)), "nodes")
    assert grid_of_config(DataConfig()) == Grid((64, 64))


def test_zero_is_on_the_high_side():
    law = law_of(DataConfig(**SMALL, permeability="binary", levels=(1.0, 4.0)))
    np.testing.assert_array_equal(law.of(np.array([-1e-300, -0.0, 0.0, 1e-300])), [1, 4, 4, 4])


@pytest.mark.parametrize("levels", [(3.0, 3.0), (4.0, 3.0), (0.0, 1.0), (-1.0, 1.0)])
def test_impossible_levels(levels):
    with pytest.raises(ValueError, match="expected two levels 0 < low < high"):
        Binary(law_of(DataConfig(**SMALL)).field, levels)


def test_the_published_binary_cosine_series_is_balanced():
    fields = law_of(DataConfig(preset="fno", resolution=32)).draw(0, 0, 2000)
    high = (fields == 12).mean((1, 2))
    # G and -G have one law.
    assert abs(high.mean() - 0.5) < 6 * high.std() / np.sqrt(2000)


def test_the_published_threshold_of_the_bumps_is_nearly_ours():
    law = law_of(DataConfig(preset="pdebench", resolution=32))
    bumps, fields = law.field.draw(0, 0, 2000) + law.field.mean, law.draw(0, 0, 2000)
    # There: the mean of the sum of bumps over all samples and points of the set.
    published = np.where(bumps > bumps.mean(), 1, 0.1)
    assert (published != fields).mean() < 0.01
    assert set(np.unique(fields)) == {0.1, 1.0}
