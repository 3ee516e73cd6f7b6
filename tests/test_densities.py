"""Densities and inversion of trained models: closed forms in physical units, round trips, reproducibility, refusals."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

import physflow
from physflow.assembly import make_network, make_prior, make_transform, sizes_of
from physflow.config import EncoderConfig, LatentConfig, MLPConfig, ModelConfig, TrainingConfig, UNetConfig
from physflow.data import images
from physflow.data.darcy import generate
from physflow.fields import to_tensor
from physflow.generative import DDIM, Adaptive, Conditioned, Hutchinson, slerp
from physflow.grid import Grid
from physflow.model import Model
from physflow.pde import from_dataset

NAME = ("permeability",)
ENCODER = EncoderConfig(width=8, channels=4, multipliers=(1, 2))
# Without fast sinusoids of the time, which weights at random turn into as fast a velocity.
SMOOTH = UNetConfig(channels=4, multipliers=(1, 2), blocks=1, frequency=3.0)
UNET = {"space": "pixel", "network": "unet", "unet": SMOOTH}
CONFIGS = {
    "pod": ModelConfig(mlp=MLPConfig(16, 1), energy=1.0),
    "pixel": ModelConfig(**UNET),
    "scale": ModelConfig(**UNET, scale=0.5),
    "posterior": ModelConfig(**UNET, latent=LatentConfig("posterior", 2, encoder=ENCODER, draw="normal")),
    "v-rfm": ModelConfig(**UNET, latent=LatentConfig("posterior", 2, inputs=("x0", "x1"), encoder=ENCODER)),
    "mixture": ModelConfig(**UNET, latent=LatentConfig("mixture", components=2, draw="mixture")),
}


@pytest.fixture(scope="module")
def data():
    """Full random fields alone, on 4 x 4 cells, and far more of them than cells."""
    return generate(60, resolution=4, modes=None, dtype="float64")[["permeability"]]


def untrained(ds, config, shift=0.0):
    """A model whose weights are moved by `shift`; of zero, it is the Gaussian law of its coordinates."""
    transform = make_transform(config, NAME).fit(to_tensor(ds, NAME))
    network = make_network(config, TrainingConfig(), sizes_of(transform, NAME), Grid((4, 4)))
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data += shift * torch.randn(parameter.shape, generator=generator)
    prior = make_prior(config.latent, network.latent) if isinstance(network, Conditioned) else None
    return Model(network, transform, NAME, Grid((4, 4)), None, {}, config, TrainingConfig(), "", prior)


def test_density_of_the_gaussian_law_of_points(data):
    """log K is N(m, s^2) at each point, independently; of K there is the volume of the logarithm besides."""
    found = untrained(data, CONFIGS["pixel"]).log_likelihood(data, steps=10)
    log_k = np.log(data["permeability"].values)
    m, s = log_k.mean(), log_k.std()
    expected = (-0.5 * ((log_k - m) / s) ** 2 - math.log(s * math.sqrt(2 * math.pi)) - log_k).sum((1, 2))
    np.testing.assert_allclose(found["log_likelihood"], expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found["bits_per_dimension"], -expected / 16 / math.log(2), atol=1e-4)
    assert float(found["standard_error"].max()) == 0
    assert found.attrs["divergence"] == "Exact(block=None)"


def test_density_of_the_gaussian_law_of_all_modes(data):
    """Of a full POD the law of log K is that of the data's mean and covariance."""
    found = untrained(data, CONFIGS["pod"]).log_likelihood(data)
    log_k = torch.from_numpy(np.log(data["permeability"].values)).flatten(1)
    centred = log_k - log_k.mean(0)
    for count in (len(log_k), len(log_k) - 1):
        law = torch.distributions.MultivariateNormal(log_k.mean(0), centred.T @ centred / count)
        if np.allclose(found["log_likelihood"], law.log_prob(log_k) - log_k.sum(1), rtol=0, atol=2e-3):
            return
    pytest.fail("neither with n nor with n - 1 in the covariance")


def test_a_scale_changes_the_density_by_its_volume(data):
    """The untrained law of c x is N(0, I) whatever c is."""
    found = untrained(data, CONFIGS["scale"]).log_likelihood(data, steps=10)
    y = 0.5 * np.log(data["permeability"].values)
    expected = (-0.5 * y**2 - 0.5 * math.log(2 * math.pi) + math.log(0.5) - 2 * y).sum((1, 2))
    np.testing.assert_allclose(found["log_likelihood"], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
class TestEveryModel:
    def test_there_and_back(self, data, config):
        model = untrained(data, config, 0.05)
        given = {}
        if config.latent.inputs != ("x1",):
            given = {"z": torch.randn(60, 2, generator=torch.Generator().manual_seed(0))}
        solver = Adaptive(rtol=1e-6, atol=1e-6)
        inverted = model.invert(data, solver, **given, tolerance=2e-3)
        assert inverted["noise"].dims[0] == "sample"
        assert float(inverted["round_trip_error"].max()) < (2e-3 if config.space == "pod" else 1e-4)
        again = model.from_noise(inverted, solver, dtype="float64")
        np.testing.assert_allclose(
            again["permeability"], data["permeability"], rtol=1e-2 if config.space == "pod" else 1e-3
        )
        assert again.attrs["noise"] == "given"

    def test_a_density_depends_on_seed_and_index_alone(self, data, config):
        model = untrained(data, config, 0.05)
        settings = {"steps": 3, "probes": 2, "draws": 2, "seed": 4}
        many, few = model.log_likelihood(data, **settings), model.log_likelihood(data[{"sample": slice(7)}], **settings)
        np.testing.assert_allclose(many["log_likelihood"][:7], few["log_likelihood"], rtol=1e-5)
        other = model.log_likelihood(data[{"sample": slice(7)}], **settings | {"seed": 5})
        assert not np.allclose(other["log_likelihood"], few["log_likelihood"], rtol=1e-7)

    def test_no_samples(self, data, config):
        model, none = untrained(data, config), data[{"sample": slice(0)}]
        assert model.log_likelihood(none).sizes["sample"] == 0
        z = {"z": torch.zeros(0, model.latent.dimension)} if model.latent else {}
        assert model.invert(none, **z)["noise"].shape == (0, *model.shape)


def test_probes_agree_with_the_exact_divergence(data):
    model, few = untrained(data, CONFIGS["pixel"], 0.05), data[{"sample": slice(5)}]
    exact, found = model.log_likelihood(few, steps=5), model.log_likelihood(few, steps=5, probes=40)
    assert found.attrs["divergence"] == repr(Hutchinson(40))
    misses = abs(found["log_likelihood"] - exact["log_likelihood"]) / found["standard_error"]
    assert float(misses.max()) < 4


def test_fields_between_two(data):
    """Noise on the great circle gives fields whose ends are those given."""
    model = untrained(data, CONFIGS["pod"], 0.05)
    a, b = (model.invert(data[{"sample": slice(i, i + 1)}], "dopri5") for i in (0, 1))
    path = slerp(*(torch.from_numpy(ds["noise"].values) for ds in (a, b)), torch.linspace(0, 1, 4))[:, 0]
    found = model.from_noise(xr.Dataset({"noise": (("sample", "channel"), path.numpy())}), "dopri5", dtype="float64")
    ends = data["permeability"][:2]
    np.testing.assert_allclose(found["permeability"][[0, 3]], ends, rtol=1e-2)


def test_bits_of_digits_count_the_width_of_a_bin():
    ds = images.dequantise(images.digits().isel(sample=slice(30)), seed=1)
    assert ds.attrs["bin_width"] == pytest.approx(2 / 16)
    pixels = images.digits().isel(sample=slice(30))
    noise = (ds["intensity"] - pixels["intensity"]).values / ds.attrs["bin_width"]
    assert -0.5 <= noise.min() < -0.49
    assert 0.49 < noise.max() <= 0.5
    assert noise.std() == pytest.approx(12**-0.5, rel=0.05)
    xr.testing.assert_identical(ds, images.dequantise(pixels, seed=1))
    with pytest.raises(ValueError, match="expected images of whole numbers, as the loaders give them"):
        images.dequantise(ds.drop_attrs(), seed=0)


def test_pairs_of_an_equation_have_no_density():
    ds = generate(20, resolution=8, modes=6)
    config = CONFIGS["pod"]
    transform = make_transform(config, ("permeability", "pressure")).fit(to_tensor(ds))
    network = make_network(config, TrainingConfig(), sizes_of(transform, ("permeability", "pressure")), Grid((8, 8)))
    model = Model(network, transform, ("permeability", "pressure"), Grid((8, 8)), from_dataset(ds), config=config)
    message = r"pairs of Darcy have no density: pressure is a function of permeability.*fields=\['permeability'\]"
    with pytest.raises(ValueError, match=message):
        model.log_likelihood(ds)


def test_bad_input(data):
    model = untrained(data, ModelConfig(mlp=MLPConfig(16, 1), rank=4))
    with pytest.raises(ValueError, match="4 modes is no bijection of fields of 16 values"):
        model.log_likelihood(data)
    model = untrained(data, CONFIGS["pixel"])
    with pytest.raises(TypeError, match="a log-likelihood needs trajectories without random numbers"):
        model.log_likelihood(data, DDIM(1.0))
    with pytest.raises(TypeError, match="an inversion needs trajectories without random numbers"):
        model.invert(data, DDIM(1.0))
    with pytest.raises(ValueError, match="unknown solver 'rk5'; did you mean 'rk4'"):
        model.invert(data, "rk5")
    with pytest.raises(ValueError, match="on the model's grid"):
        model.log_likelihood(generate(3, resolution=8, modes=4))
    with pytest.raises(ValueError, match="this model has no latent"):
        model.invert(data, z=torch.zeros(60, 2))
    with pytest.raises(ValueError, match=r"expected a Dataset with noise, as model.invert gives it, got \['perm"):
        model.from_noise(data)
    wrong = xr.Dataset({"noise": (("sample", "channel"), np.zeros((2, 3)))})
    with pytest.raises(ValueError, match=r"expected noise of shape \(samples, 1, 4, 4\), got"):
        model.from_noise(wrong)
    model = untrained(data, CONFIGS["posterior"])
    with pytest.raises(ValueError, match="expected a Dataset with noise and z"):
        model.from_noise(model.invert(data).drop_vars("z"))
    with pytest.raises(ValueError, match="expected one z for each of 60 samples, got 3"):
        model.invert(data, z=torch.zeros(3, 2))
    with pytest.warns(UserWarning, match="the way from data to noise and back misses"):
        untrained(data, CONFIGS["pixel"], 0.3).invert(data, "euler", 2)


def test_a_trained_model_tells_likely_fields_from_others(tmp_path):
    """Fields of its own law against those of another: by the density, and by what it says of both."""
    own = generate(200, resolution=4, modes=None, seed=0, correlation_length=0.5, out=tmp_path / "own.nc").load()
    other = generate(50, resolution=4, modes=None, seed=1, correlation_length=0.05)
    training = TrainingConfig(steps=200, batch_size=64, ema=0.9, validation=0.0)
    model = physflow.experiment.train_model(
        tmp_path / "own.nc", tmp_path / "model", model=CONFIGS["pod"], training=training, fields=NAME
    )
    likely, unlikely = (model.log_likelihood(ds[["permeability"]])["log_likelihood"] for ds in (own, other))
    assert float(likely.mean()) > float(unlikely.mean()) + 10
