"""The trained model: exact saving and loading, reproducible and scored samples, clear refusals."""

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

import physflow
from physflow.assembly import SAMPLERS, make_network, make_objective, make_prior, make_transform, sizes_of
from physflow.config import (
    EncoderConfig,
    LatentConfig,
    MLPConfig,
    ModelConfig,
    ResNetConfig,
    SiTConfig,
    TrainingConfig,
    UNetConfig,
)
from physflow.data.darcy import generate
from physflow.fields import content_fingerprint, to_tensor
from physflow.generative import Conditioned, Heun, starting_points
from physflow.grid import Grid
from physflow.model import Model
from physflow.pde import Darcy, from_dataset, score

FIELDS = ("permeability", "pressure")
SMALL = {"mlp": MLPConfig(width=16, blocks=1), "unet": UNetConfig(channels=8, multipliers=(1, 2), blocks=1)}
PIXEL = {"space": "pixel", "network": "unet", **SMALL}
ENCODER = EncoderConfig(width=8, channels=4, multipliers=(1, 2))
SPACES = {
    "pod": ModelConfig(**SMALL),
    "pixel": ModelConfig(**PIXEL),
    "fields": ModelConfig(**SMALL, latent=LatentConfig("fields", fields=("permeability",))),
    "posterior": ModelConfig(**SMALL, latent=LatentConfig("posterior", 3, encoder=ENCODER)),
    "v-rfm": ModelConfig(**PIXEL, latent=LatentConfig("posterior", 3, inputs=("x0", "xt", "t"), encoder=ENCODER)),
    "vae": ModelConfig(**PIXEL, latent=LatentConfig("vae", 3, draw="flow", encoder=ENCODER)),
    "fitted": ModelConfig(**SMALL, latent=LatentConfig("vae", 3, draw="mixture", fitted=2, encoder=ENCODER)),
    "mixture": ModelConfig(**SMALL, latent=LatentConfig("mixture", components=3)),
    "sit": ModelConfig("pixel", network="sit", sit=SiTConfig(12, 1, 2), latent=LatentConfig("posterior", 3)),
    "resnet": ModelConfig("pixel", network="resnet", resnet=ResNetConfig(8, 1), latent=LatentConfig("posterior", 2)),
}
LAW = ("equation", "source", "boundary", "faces", "centering")


def untrained(config=SPACES["pod"], training=None, equation=True):
    """A model with random weights and a transform fitted to real fields."""
    ds = generate(40, resolution=8, modes=6)
    training = training or TrainingConfig()
    transform = make_transform(config, FIELDS).fit(to_tensor(ds).float())
    grid = Grid((8, 8))
    network = make_network(config, training, sizes_of(transform, FIELDS), grid)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    attrs = {key: ds.attrs[key] for key in LAW} if equation else {}
    equation = from_dataset(ds) if equation else None
    prior = make_prior(config.latent, network.latent) if isinstance(network, Conditioned) else None
    return Model(network, transform, FIELDS, grid, equation, attrs, config, training, content_fingerprint(ds), prior)


@pytest.mark.parametrize("config", SPACES.values(), ids=SPACES)
class TestEverySpace:
    def test_saved_and_loaded_it_draws_the_same(self, config, tmp_path):
        model = untrained(config)
        again = physflow.load(model.save(tmp_path / "model"))
        xr.testing.assert_identical(again.sample(3, seed=4), model.sample(3, seed=4))
        assert repr(again) == repr(model)

    def test_a_sample_depends_on_seed_and_index_alone(self, config):
        model = untrained(config)
        settings = {"steps": 2, "seed": 1, "correction": "complete", "dtype": "float64"}
        many, few = model.sample(60, **settings), model.sample(43, **settings)
        xr.testing.assert_equal(many.isel(sample=slice(43)), few)
        assert not np.allclose(model.sample(2, seed=2)["pressure"], few["pressure"][:2])

    def test_completion_keeps_the_permeability_bit_for_bit(self, config):
        model = untrained(config)
        raw, completed = model.sample(7, seed=3), model.sample(7, seed=3, correction="complete")
        assert np.array_equal(raw["permeability"].values, completed["permeability"].values)
        assert float(completed["residual_mse"].max()) < 1e-8
        assert float(completed["solution_error"].max()) < 1e-6
        assert float(raw["solution_error"].min()) > 1e-3

    def test_every_sample_comes_scored(self, config):
        ds = untrained(config).sample(5)
        expected = score(ds)
        for name in expected.data_vars:
            np.testing.assert_array_equal(ds[name], expected[name])
        assert isinstance(from_dataset(ds), Darcy)
        assert (ds["permeability"] > 0).all()

    def test_no_samples(self, config):
        assert untrained(config).sample(0).sizes["sample"] == 0


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4", "dopri5", Heun()])
@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_every_solver_and_prediction(solver, prediction):
    ds = untrained(training=TrainingConfig(prediction=prediction)).sample(2, solver=solver, steps=3)
    assert np.isfinite(ds["pressure"]).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("config", ["pod", "posterior"])
@pytest.mark.parametrize("path", ["linear", "vp", "ve"])
def test_every_sampler_draws_samples_that_depend_on_seed_and_index_alone(sampler, config, path):
    settings = {"prediction": "noise"} if path == "vp" else {"sigma": 0.01} if path == "ve" else {}
    model = untrained(SPACES[config], TrainingConfig(path=path, **settings))
    many, few = (model.sample(n, seed=2, solver=sampler, steps=4, score=False) for n in (53, 4))
    xr.testing.assert_equal(many.isel(sample=slice(4)), few)
    assert np.isfinite(many["pressure"]).all()
    assert few.attrs["solver"].startswith(SAMPLERS[sampler].__name__)
    drawn = SAMPLERS[sampler]()
    xr.testing.assert_equal(model.sample(4, seed=2, solver=drawn, steps=4, score=False), few)


def test_samplers_need_a_score():
    for training in (TrainingConfig(coupling="ot"), TrainingConfig(source="gaussian-process")):
        config = SPACES["pixel"] if training.source != "gaussian" else SPACES["pod"]
        with pytest.raises(
            ValueError, match=r"EulerMaruyama.* needs a score, which is known for noise that is N\(0, I\)"
        ):
            untrained(config, training).sample(1, solver="euler-maruyama")
    with pytest.raises(ValueError, match="unknown solver 'euler-maruyma'; did you mean 'euler-maruyama'"):
        untrained().sample(1, solver="euler-maruyma")


def test_random_steps_do_not_spoil_a_law():
    """Of the Gaussian that an untrained model is: the same spread with random steps as without."""
    model = untrained(ModelConfig(**SMALL), equation=False)
    for parameter in model.network.parameters():
        parameter.data.zero_()
    found = [model.sample(500, solver=solver, steps=n) for solver, n in (("heun", 20), ("euler-maruyama", 200))]
    spread = [float(np.log(ds["permeability"]).std()) for ds in found]
    assert spread[0] == pytest.approx(spread[1], rel=0.06)
    assert not np.allclose(found[0]["pressure"], found[1]["pressure"])


def test_a_gaussian_process_source_is_correlated():
    model = untrained(SPACES["pixel"], TrainingConfig(source="gaussian-process"))
    noise, _ = starting_points(model.objective.source, model.shape, 0, range(400))
    assert abs(float(noise.std()) - 1) < 0.05
    neighbours = float((noise[..., 1:, :] * noise[..., :-1, :]).mean())
    # The exponential covariance at distance h = 1/8 with correlation length 0.1.
    assert abs(neighbours - np.exp(-1.25)) < 0.05


def test_an_untrained_preconditioned_model_is_the_gaussian_of_the_data():
    ds = generate(500, resolution=8, modes=6, dtype="float64")
    config, training = SPACES["pod"], TrainingConfig()
    transform = make_transform(config, FIELDS).fit(to_tensor(ds))
    network = make_network(config, training, sizes_of(transform, FIELDS), Grid((8, 8)))
    samples = Model(network, transform, FIELDS, Grid((8, 8)), None, {}, config, training).sample(500, steps=20)
    ratio = np.log(samples["permeability"]).std() / np.log(ds["permeability"]).std()
    assert abs(float(ratio) - 1) < 0.05


@pytest.mark.parametrize("name", ["fields", "posterior", "vae", "mixture"])
def test_encoded_and_decoded(name):
    model, ds = untrained(SPACES[name]), generate(60, resolution=8, modes=6)
    z = model.encode(ds)
    assert z.dims == ("sample", "latent")
    assert z.shape == (60, model.latent.dimension)
    again = model.decode(z, seed=5, steps=2)
    assert again.sizes["sample"] == 60
    assert again.attrs["latent"] == "given"
    # Each field has its own latent and the noise of its index, whatever comes after it.
    xr.testing.assert_equal(model.decode(z.values[:7], seed=5, steps=2), again.isel(sample=slice(7)))
    assert model.decode(z[:0]).sizes["sample"] == 0
    assert model.encode(ds.isel(sample=slice(0))).shape[0] == 0
    if name == "fields":
        # The latent holds the permeability: up to the modes that the POD leaves out, it comes back.
        np.testing.assert_allclose(np.log(again["permeability"]), np.log(ds["permeability"]), atol=0.05)


def test_the_same_noise_with_another_latent_gives_another_field():
    model = untrained(SPACES["posterior"])
    one, other = (model.decode(np.full((2, 3), value), score=False) for value in (-1.0, 1.0))
    assert not np.allclose(one["pressure"], other["pressure"])


def test_one_noise_for_all_leaves_the_latent_alone_to_act():
    model = untrained(SPACES["posterior"])
    z = np.array([[1.0, 0, 0], [0, 0, 1], [1, 0, 0]])
    ds = model.decode(z, seed=2, one_noise=True)
    xr.testing.assert_equal(ds.isel(sample=0), ds.isel(sample=2))
    assert not np.allclose(ds["pressure"][0], ds["pressure"][1])
    xr.testing.assert_equal(ds.isel(sample=[0]), model.decode(z[:1], seed=2))


def test_latents_that_do_not_fit_are_refused():
    model, plain = untrained(SPACES["posterior"]), untrained()
    with pytest.raises(ValueError, match=r"expected latents of shape \(samples, 3\), got \(4, 2\)"):
        model.decode(np.zeros((4, 2)))
    for action in (lambda: plain.encode(generate(2, resolution=8)), lambda: plain.decode(np.zeros((1, 3)))):
        with pytest.raises(ValueError, match="this model has no latent; train one with a latent"):
            action()
    with pytest.raises(ValueError, match="no function of the fields, its posterior reads x0, xt, t: use sample"):
        untrained(SPACES["v-rfm"]).encode(generate(2, resolution=8))
    with pytest.raises(ValueError, match="a latent of 3 components needs a prior of the same, got none"):
        Model(model.network, model.transform, FIELDS, model.grid)


def test_a_sample_that_cannot_be_judged_is_kept_without_a_score():
    def spoil(fields):
        fields[1, 0, 2, 3] = torch.inf
        fields[2, 0] = -1.0
        return fields

    ds = untrained().sample(5, correction=spoil)
    assert np.isnan(ds["solution_error"].values).tolist() == [False, True, True, False, False]
    completed = untrained().complete(to_tensor(ds, FIELDS, finite=False))
    assert torch.isnan(completed[1:3, 1]).all()
    assert torch.isfinite(completed[[0, 3, 4]]).all()


def test_a_correction_may_be_any_callable():
    ds = untrained().sample(3, correction=lambda fields: torch.ones_like(fields))
    assert (ds["pressure"] == 1).all()
    assert ds.attrs["correction"] == "custom"


def test_a_custom_source_is_saved(tmp_path):
    model = untrained()
    source = torch.zeros(8, 8, dtype=torch.float64)
    source[0, 0], source[-1, -1] = 1, -1
    model.equation = Darcy(Grid((8, 8)), source=source.numpy())
    model.attrs.update(model.equation.attributes())
    again = Model.load(model.save(tmp_path / "model"))
    assert torch.equal(again.equation.source_term, source)
    samples = again.sample(3)
    np.testing.assert_array_equal(score(samples)["residual_mse"], samples["residual_mse"])


def test_other_data_are_warned_of():
    model = untrained()
    model.check_data(generate(40, resolution=8, modes=6))
    with pytest.warns(UserWarning, match=r"fingerprint .* are not those that the model was trained on"):
        model.check_data(generate(41, resolution=8, modes=6))


def damaged(tmp_path, change):
    folder = untrained().save(tmp_path / "model")
    change(folder)
    return lambda: Model.load(folder)


def test_a_truncated_model(tmp_path):
    load = damaged(tmp_path, lambda f: (f / "weights.safetensors").write_bytes(b"\0" * 100))
    with pytest.raises(ValueError, match=r"weights in .* do not fit its config.yaml, or are damaged"):
        load()


def test_weights_of_another_network(tmp_path):
    def change(folder):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["model"]["mlp"]["width"] = 17
        (folder / "config.yaml").write_text(yaml.safe_dump(config))

    with pytest.raises(ValueError, match=r"do not fit its config.yaml"):
        damaged(tmp_path, change)()


def test_a_folder_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match="not a model of format 'physflow-model-2'"):
        damaged(tmp_path, lambda f: (f / "config.yaml").write_text("a: 1"))()
    with pytest.raises(FileNotFoundError, match=r"holds no trained model"):
        physflow.load(tmp_path)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda m: m.sample(-1), "must not be negative, got -1"),
        (lambda m: m.sample(1, seed=-3), "must not be negative, got 1 and -3"),
        (lambda m: m.sample(1, dtype="flaot32"), "unknown dtype 'flaot32'; did you mean 'float32'"),
        (lambda m: make_transform(ModelConfig(log=("permeabilty",)), FIELDS), "did you mean 'permeability'"),
        (lambda m: m.sample(1, solver="huen"), "unknown solver 'huen'; did you mean 'heun'"),
        (lambda m: m.sample(1, correction="completed"), "unknown correction 'completed'; did you mean 'complete'"),
        (lambda m: untrained(equation=False).sample(1, correction="complete"), "needs an equation"),
        (lambda m: untrained(equation=False).complete(torch.ones(1, 2, 8, 8)), "completion needs an equation"),
        (lambda m: untrained(equation=False).score(m.sample(1)), "scoring needs an equation"),
        (lambda m: make_objective(TrainingConfig(source="gaussian-process"), m.config, m.grid), "needs space='pixel'"),
        (lambda m: Model(m.network, m.transform, FIELDS[::-1], m.grid, m.equation), "in this order"),
    ],
)
def test_bad_input_says_what_was_expected(action, message):
    with pytest.raises(ValueError, match=message):
        action(untrained())


def test_selection_keeps_the_least_of_what_is_drawn_anyway():
    model = untrained()
    every, kept = model.sample(20, seed=2), model.sample(5, seed=2, select=0.25, by="residual_mse")
    best = np.sort(np.argsort(every["residual_mse"].values)[:5])
    xr.testing.assert_equal(kept, every.isel(sample=best))
    assert kept.attrs["selection_shift"].startswith("log permeability: mean moved by")
    with pytest.raises(ValueError, match="selection needs an equation"):
        untrained(equation=False).sample(2, select=0.5)
    with pytest.raises(ValueError, match="cannot select by 'solution_eror'; did you mean 'solution_error'"):
        model.sample(2, select=0.5, by="solution_eror")
