"""Training with latents, end to end: every kind, every way of drawing z, interrupted and resumed."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import xarray as xr

import physflow
import physflow.model
from physflow import fitting
from physflow.autoencoder import Autoencoder
from physflow.config import EncoderConfig, LatentConfig, MLPConfig, ModelConfig, TrainingConfig, UNetConfig
from physflow.data.darcy import generate
from physflow.fitting import train_model, with_prior
from physflow.generative import ELBO, Conditioned, Encoded, StandardNormal, networks

MLP = {"mlp": MLPConfig(width=16, blocks=1)}
UNET = {"space": "pixel", "network": "unet", "unet": UNetConfig(channels=4, multipliers=(1, 2), blocks=1)}
ENCODER = EncoderConfig(width=8, layers=2, channels=4, multipliers=(1, 2))
FITTING = {"fitting_steps": 60}
LEARNED = {"encoder": ENCODER, **FITTING}
STEPS = {**LEARNED, "pretraining_steps": 4}
KINDS = {
    "fields": ModelConfig(**MLP, latent=LatentConfig("fields", fields=("permeability",), **FITTING)),
    "fields-encodings": ModelConfig(
        **MLP, latent=LatentConfig("fields", fields=("permeability",), draw="encodings", **FITTING)
    ),
    "posterior": ModelConfig(**UNET, latent=LatentConfig("posterior", 2, **LEARNED)),
    "posterior-normal": ModelConfig(**MLP, latent=LatentConfig("posterior", 2, draw="normal", **LEARNED)),
    "v-rfm": ModelConfig(**UNET, latent=LatentConfig("posterior", 2, inputs=("x0", "x1", "xt", "t"), **LEARNED)),
    "vae": ModelConfig(**UNET, latent=LatentConfig("vae", 2, **STEPS)),
    "vae-flow": ModelConfig(**MLP, latent=LatentConfig("vae", 2, draw="flow", **STEPS)),
    "posterior-mixture": ModelConfig(**MLP, latent=LatentConfig("posterior", 2, draw="mixture", fitted=1, **LEARNED)),
    "mixture": ModelConfig(**MLP, latent=LatentConfig("mixture", components=2, **FITTING)),
}
TRAINING = TrainingConfig(steps=4, batch_size=16, warmup=1, checkpoint_every=2, evaluate_every=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.nc"
    generate(60, resolution=8, modes=4, out=path).close()
    return path


@pytest.mark.parametrize("name", KINDS)
def test_every_latent_trains_draws_and_scores(name, data, tmp_path):
    config = KINDS[name]
    model = train_model(data, tmp_path / "model", model=config, training=TRAINING)
    ds = physflow.load(tmp_path / "model").sample(5, seed=1, steps=2)
    xr.testing.assert_identical(ds, model.sample(5, seed=1, steps=2))
    assert np.isfinite(ds["residual_mse"]).all()
    expected = {"encodings": "encodings", "normal": "N(0, I)", "mixture": "mixture", "flow": "a flow"}
    drawn = "mixture" if config.latent.kind == "mixture" else config.latent.drawn
    assert expected[drawn] in ds.attrs["latent"]
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_the_latent_of_two_stages_is_that_of_the_autoencoder(data, tmp_path):
    """The frozen encoder is the trained one, and the second stage does not move it."""
    config = KINDS["vae"]
    one = train_model(data, tmp_path / "one", model=config, training=TRAINING)
    longer = TrainingConfig(**{**vars(TRAINING), "steps": 8})
    two = train_model(data, tmp_path / "two", model=config, training=longer)
    untrained = ModelConfig(**UNET, latent=LatentConfig("vae", 2, **{**STEPS, "pretraining_steps": 5}))
    other = train_model(data, tmp_path / "other", model=untrained, training=TRAINING)
    states = [model.latent.encoder.state_dict() for model in (one, two, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_the_autoencoder_of_two_stages_is_kept(data, tmp_path):
    settings = {**STEPS, "pretraining_steps": 300}
    config = ModelConfig(**UNET, latent=LatentConfig("vae", 6, **settings, pretraining_beta=0.0))
    train_model(data, tmp_path / "model", model=config, training=TRAINING)
    autoencoder = Autoencoder(tmp_path / "model")
    ds = physflow.data.open(data).isel(sample=slice(50)).load()
    z = autoencoder.encode(ds)
    assert z.shape == (50, 6)
    again = autoencoder.decode(z)
    # It reads and writes physical fields: what comes back resembles what went in.
    before, after = np.log(ds["permeability"]), np.log(again["permeability"])
    assert float(((after - before) ** 2).mean()) < 0.5 * float(before.var())
    assert np.isfinite(again["residual_mse"]).all()
    train_model(data, tmp_path / "plain", model=ModelConfig(**MLP), training=TRAINING)
    with pytest.raises(FileNotFoundError, match="holds no autoencoder"):
        Autoencoder(tmp_path / "plain")


@pytest.mark.parametrize("stage", ["vae", "prior"])
def test_an_interrupted_stage_goes_on(stage, data, tmp_path, monkeypatch):
    config = KINDS["vae-flow"]
    whole = train_model(data, tmp_path / "whole", model=config, training=TRAINING)
    kind = ELBO if stage == "vae" else physflow.generative.FlowMatching
    terms, calls = kind.terms, [0]
    # The flow of the model itself takes the first four calls, with its validation two more.
    at = {"vae": 3, "prior": 20}[stage]

    def interrupted(self, *arguments):
        calls[0] += 1
        if calls[0] == at:
            raise KeyboardInterrupt
        return terms(self, *arguments)

    monkeypatch.setattr(kind, "terms", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_model(data, tmp_path / "again", model=config, training=TRAINING)
    assert not (tmp_path / "again" / "config.yaml").exists()
    again = train_model(data, tmp_path / "again", model=config, training=TRAINING)
    xr.testing.assert_identical(again.sample(3, seed=2), whole.sample(3, seed=2))


def test_regression_predicts_from_the_latent_alone(data, tmp_path):
    training = TrainingConfig(**{**vars(TRAINING), "objective": "regression", "steps": 30})
    model = train_model(data, tmp_path / "model", model=KINDS["fields"], training=training)
    z = np.random.default_rng(0).normal(size=(3, model.latent.dimension))
    one, other = (model.decode(z, seed=seed, solver="euler", steps=1) for seed in (1, 2))
    np.testing.assert_array_equal(one["pressure"], other["pressure"])
    np.testing.assert_allclose(model.decode(z, steps=5)["pressure"], one["pressure"], rtol=1e-4, atol=1e-5)


def test_fields_that_are_the_latent_are_encoded_without_the_others(data, tmp_path):
    model = train_model(data, tmp_path / "model", model=KINDS["fields"], training=TRAINING)
    ds = physflow.data.open(data).isel(sample=slice(4)).load()
    xr.testing.assert_identical(model.encode(ds.drop_vars("pressure")), model.encode(ds))
    with pytest.raises(ValueError, match="permeability"):
        model.encode(ds.drop_vars("permeability"))


def test_a_prior_sees_the_images_of_the_training(data, tmp_path):
    training = TrainingConfig(**{**vars(TRAINING), "symmetries": True})
    model = train_model(data, tmp_path / "model", model=KINDS["posterior"], training=training)
    again = with_prior(model, data, "encodings")
    assert len(model.prior.mean) == 4 * 59
    torch.testing.assert_close(again.prior.mean, model.prior.mean)


def test_a_mixture_with_too_many_components_is_fitted_with_fewer(data, tmp_path):
    """And what was trained is not lost over a prior."""
    settings = {**LEARNED, "fitting_steps": 300}
    config = ModelConfig(**MLP, latent=LatentConfig("posterior", 2, draw="mixture", fitted=64, **settings))
    with pytest.warns(UserWarning, match="more data than the 64 components.*; going on with 32"):
        model = train_model(data, tmp_path / "model", model=config, training=TRAINING)
    assert model.prior.mixture.components <= 32
    xr.testing.assert_identical(physflow.load(tmp_path / "model").sample(3), model.sample(3))


def test_how_z_is_drawn_may_change_after_an_interruption(data, tmp_path, monkeypatch):
    def broken(self, latent, items):
        raise RuntimeError("no prior")

    def taken(self, closure=None):
        raise AssertionError("a step of a training was taken again")

    # PyTorch wraps the steps of a class once, at its first optimiser: it must not be this one for all tests to come.
    taken.hooked = True
    monkeypatch.setattr(fitting.Stages, "prior", broken)
    with pytest.raises(RuntimeError, match="no prior"):
        train_model(data, tmp_path, model=KINDS["vae-flow"], training=TRAINING)
    monkeypatch.undo()
    # The network is complete: no step of a training is taken again.
    monkeypatch.setattr(torch.optim.AdamW, "step", taken)
    other = dataclasses.replace(KINDS["vae-flow"].latent, draw="normal")
    model = train_model(data, tmp_path, model=ModelConfig(**MLP, latent=other), training=TRAINING)
    assert model.config.latent.drawn == "normal"


@pytest.mark.parametrize(("law", "fields"), [("uniform", "permeability"), ("normal", "pressure")])
def test_coordinates_that_are_not_normal_are_warned_of(law, fields, tmp_path):
    generate(2000, resolution=8, modes=4, coefficients=law, out=tmp_path / "data.nc").close()
    config = ModelConfig(**MLP, latent=LatentConfig("fields", fields=(fields,)))
    with pytest.warns(UserWarning, match=r"not normal \(kurtosis .*use latent.draw='encodings' or 'flow'"):
        train_model(tmp_path / "data.nc", tmp_path / "model", model=config, training=TRAINING)


def test_coordinates_that_are_normal_are_not(tmp_path):
    generate(2000, resolution=8, modes=4, out=tmp_path / "data.nc").close()
    train_model(tmp_path / "data.nc", tmp_path / "model", model=KINDS["fields"], training=TRAINING)


@pytest.mark.parametrize("draw", ["encodings", "normal", "mixture", "flow"])
def test_z_can_be_drawn_in_another_way_from_the_same_network(draw, data, tmp_path):
    """It is what training with that setting gives."""
    latent = LatentConfig("posterior", 2, draw=draw, fitted=1, **LEARNED)
    expected = train_model(data, tmp_path / "b", model=ModelConfig(**UNET, latent=latent), training=TRAINING)
    started = dataclasses.replace(latent, draw="normal")
    model = train_model(data, tmp_path / "a", model=ModelConfig(**UNET, latent=started), training=TRAINING)
    found = with_prior(model, data, draw)
    xr.testing.assert_identical(found.sample(4, seed=1, steps=2), expected.sample(4, seed=1, steps=2))
    assert found.network is model.network


def test_another_way_that_there_is_not(data, tmp_path):
    reads_more = train_model(data, tmp_path / "a", model=KINDS["v-rfm"], training=TRAINING)
    with pytest.raises(ValueError, match="draw='encodings' needs encodings of data samples alone"):
        with_prior(reads_more, data, "encodings")
    with pytest.raises(ValueError, match="no function of the fields, its posterior reads x0, x1, xt, t"):
        reads_more.encode(physflow.data.open(data).load())
    plain = train_model(data, tmp_path / "b", model=ModelConfig(**MLP), training=TRAINING)
    with pytest.raises(ValueError, match="this model has no latent"):
        with_prior(plain, data, "normal")


def test_impossible_combinations_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="objective='regression' predicts from a latent that is given"):
        train_model(data, tmp_path, model=KINDS["vae"], training=TrainingConfig(objective="regression"))
    with pytest.raises(ValueError, match=r"unknown field 'permeabilty' in ModelConfig.latent.fields; did you mean"):
        wrong = ModelConfig(**MLP, latent=LatentConfig("fields", fields=("permeabilty",)))
        train_model(data, tmp_path, model=wrong, training=TRAINING)
    only = {"model": KINDS["fields"], "training": TRAINING, "fields": ["pressure"]}
    with pytest.raises(ValueError, match=r"unknown field 'permeability' in ModelConfig.latent.fields; .*pressure"):
        train_model(data, tmp_path, **only)
    paired = TrainingConfig(**{**vars(TRAINING), "coupling": "ot", "batch_size": 500})
    with pytest.raises(ValueError, match=r"pairs over batches of batch_size=500, but .* leaves 59 samples"):
        train_model(data, tmp_path, model=ModelConfig(**MLP), training=paired)
    with pytest.raises(ValueError, match="between 1 and"):
        everything = ModelConfig(**MLP, latent=LatentConfig("fields", fields=("permeability", "pressure")))
        train_model(data, tmp_path, model=everything, training=TRAINING)
    for coupled in ({"coupling": "ot"}, {"path": "bridge", "sigma": 0.1, "coupling": "sb"}):
        with pytest.raises(ValueError, match=r"ties the noise to the data, and so .*use coupling='independent'"):
            train_model(data, tmp_path, model=KINDS["vae"], training=TrainingConfig(**coupled))
    fading = ModelConfig(**MLP, precondition="input")
    for training in ({}, {"prediction": "data", "coupling": "ot"}):
        with pytest.raises(ValueError, match="precondition='input' is for predictions of the data from independent"):
            train_model(data, tmp_path, model=fading, training=TrainingConfig(**training))
    with pytest.raises(ValueError, match=r"a velocity without a latent: use latent\.kind='none'"):
        train_model(data, tmp_path, model=KINDS["fields"], training=TrainingConfig(objective="consistency"))


@pytest.mark.parametrize(
    "settings",
    [
        {"path": "condot", "sigma": 0.01},
        {"path": "cosine", "times": "logit-normal"},
        {"path": "vp", "prediction": "noise"},
        {"path": "ve", "sigma": 0.01, "prediction": "data"},
        {"path": "bridge", "sigma": 0.1, "coupling": "sb"},
        {"path": "linear", "sigma": 0.1, "prediction": "data", "weight": "late"},
        {"coupling": "ot", "ot_factor": 3},
        {"objective": "consistency", "segments": 3},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_every_method_trains_and_draws(settings, data, tmp_path):
    training = TrainingConfig(**{**vars(TRAINING), **settings})
    model = train_model(data, tmp_path / "model", model=ModelConfig(**MLP), training=training)
    # Along ve, where the noise falls by a factor of 5,000, a few steps of Euler's method do not even keep their sign.
    steps = 40 if settings.get("path") == "ve" else 3
    ds = model.sample(3, steps=steps, solver="euler")
    assert np.isfinite(ds["pressure"]).all()
    xr.testing.assert_identical(physflow.load(tmp_path / "model").sample(3, steps=steps, solver="euler"), ds)


@pytest.mark.parametrize(
    ("settings", "drawn"),
    [({"objective": "consistency", "segments": 3}, ("euler", 3)), ({"objective": "regression"}, ("euler", 1))],
)
def test_a_model_is_drawn_as_its_objective_wants(settings, drawn, data, tmp_path):
    training = TrainingConfig(**{**vars(TRAINING), **settings})
    config = KINDS["fields"] if settings["objective"] == "regression" else ModelConfig(**MLP)
    model = train_model(data, tmp_path / "model", model=config, training=training)
    assert (model.sampling.solver, model.sampling.steps) == drawn
    assert model.sample(2).attrs["evaluations"] == drawn[1]


def test_a_network_of_the_user_draws_but_is_not_saved(data, tmp_path):
    model = train_model(data, tmp_path / "model", model=ModelConfig(**MLP), training=TRAINING)
    network = Conditioned(networks.MLP(model.shape[0], 16, 1, latent=2), Encoded(lambda x: x[:, :2], 2))
    own = physflow.model.Model(
        network, model.transform, model.fields, model.grid, model.equation, model.attrs, prior=StandardNormal(2)
    )
    assert own.sample(2).attrs["latent"] == "drawn from N(0, I)"
    with pytest.raises(ValueError, match="not the one that the model's settings build, and could not be loaded again"):
        own.save(tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_the_records_tell_error_and_rate(data, tmp_path):
    training = TrainingConfig(**{**vars(TRAINING), "validation": 0.2})
    train_model(data, tmp_path / "model", model=KINDS["vae"], training=training)
    for folder in ("vae", "."):
        lines = (tmp_path / "model" / folder / "metrics.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        assert last["validation_loss"] == pytest.approx(last["validation_error"] + 1e-3 * last["validation_rate"])
