"""The models that ship: small, with a card whose scores are those of the weights, and made by the card's command."""

import dataclasses
import os

import pytest
import yaml

import physflow
from physflow import experiment
from physflow.config import DataConfig, SamplingConfig, builtin_models, from_dict
from physflow.summary import moments, summarize

SHIPPED = builtin_models()


def card_of(name):
    """The facts at the head of a card."""
    _, head, text = (SHIPPED[name] / "card.md").read_text().split("---\n", 2)
    assert name in text
    return yaml.safe_load(head)


def test_what_ships():
    assert list(SHIPPED) == ["darcy-small"]


@pytest.mark.parametrize("name", ["darcy-small"])
class TestEveryModel:
    def test_it_is_small_and_holds_no_training_data(self, name):
        assert sum(os.path.getsize(path) for path in SHIPPED[name].iterdir()) <= 8 * 2**20
        assert physflow.load(name).config.latent.drawn == "normal"

    def test_the_card_states_the_scores_of_the_weights(self, name):
        card = card_of(name)
        model, sampling = physflow.load(name), from_dict(SamplingConfig, card["sampling"])
        assert (model.sampling.solver, model.sampling.steps) == (sampling.solver, sampling.steps)
        ds = model.sample(sampling.samples, sampling.seed)
        for score, row in summarize(ds).items():
            for key, value in row.items():
                # Other processors round in another way; the quartiles hardly move.
                assert card["scores"][score][key] == pytest.approx(value, rel=0.01), (score, key)

    def test_the_card_says_what_it_was_made_of(self, name):
        card = card_of(name)
        data, model = from_dict(DataConfig, card["data"]), physflow.load(name)
        assert model.fingerprint == card["data_fingerprint"]
        assert model.grid.shape == data.shape
        assert card["seeds"]["data"] == data.seed
        assert card["license"] == "Apache-2.0"
        assert card["command"].startswith("physflow run")
        assert set(card["seeds"]) == {"data", "training", "sampling"}

    @pytest.mark.slow
    def test_made_again_in_short_it_learns_the_same_thing(self, name, tmp_path):
        """The card's experiment with a tenth of the data and few steps: far better than nothing, worse than shipped."""
        card = card_of(name)
        config = experiment.load_experiment(card["command"].split()[2])
        config = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, samples=1000),
            training=dataclasses.replace(config.training, steps=120),
            sampling=dataclasses.replace(config.sampling, samples=100),
            baselines=(),
        )
        experiment.run(config, tmp_path / "run")
        made = physflow.load(tmp_path / "run" / "model")
        assert made.config == physflow.load(name).config
        with physflow.data.open(tmp_path / "run" / "samples.nc") as ds:
            error = summarize(ds)["solution_error"]["median"]
            spread = moments(ds["permeability"], True)[1]
        assert card["scores"]["solution_error"]["median"] < error < 0.3
        # The 64 modes of a field of variance 1 hold two thirds of it.
        assert 0.75 < spread < 0.87


def test_a_folder_wins_over_a_shipped_model(tmp_path, monkeypatch):
    physflow.load("darcy-small").save(tmp_path / "darcy-small", half=True)
    (tmp_path / "darcy-small" / "config.yaml").write_text("format: nonsense")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="not a model of format"):
        physflow.load("darcy-small")


def test_a_misspelt_model_is_answered_with_the_nearest():
    with pytest.raises(FileNotFoundError, match="no model 'darcy-smal': neither a folder nor one that ships with"):
        physflow.load("darcy-smal")
