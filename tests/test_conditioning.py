"""Fields given observations: posteriors in closed form, both modes on tiny models, refusals."""

import dataclasses

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial.distance import cdist
from test_model import SPACES, untrained

from physflow.conditioning import InputPrior, condition, law_prior, model_error, model_prior, posterior_of
from physflow.config import DataConfig, TrainingConfig
from physflow.data import files
from physflow.data.darcy import generate
from physflow.fields import to_tensor
from physflow.generative import starting_points
from physflow.inference import Observation, assemble

FIELDS = ("permeability", "pressure")
LOG_K, P = ("permeability", True, 0.1), ("pressure", False, 0.005)
PLACES = np.random.default_rng(5).uniform(0.1, 0.9, (6, 2))
NORMAL = dataclasses.replace(SPACES["posterior"], latent=dataclasses.replace(SPACES["posterior"].latent, draw="normal"))


def axes_of(ds):
    return [np.array(ds[axis]) for axis in ("x", "y")]


def observed(*quantities, places=PLACES, seed=9):
    """Readings of a field of the law of the tiny models, with noise."""
    ds, rng = generate(1, resolution=8, modes=6, seed=seed, dtype="float64"), np.random.default_rng(6)
    found = []
    for field, log, std in quantities:
        bare = Observation(field, np.zeros(len(places)), std, locations=places, log=log)
        y = assemble([bare], FIELDS, axes_of(ds)).operator(to_tensor(ds, FIELDS))[0].numpy()
        found.append(dataclasses.replace(bare, values=y + std * rng.standard_normal(len(y))))
    return found


def misfit(ds, observations):
    """The mean square of the residual in units of the noise."""
    return float(assemble(observations, FIELDS, axes_of(ds)).residual(to_tensor(ds, FIELDS)).square().mean())


@pytest.mark.parametrize(
    ("config", "settings", "factor"),
    [
        (SPACES["fields"], {}, 0.1),
        (SPACES["fields"], {"start": "prior"}, 0.1),
        (SPACES["pod"], {"steps": 3}, 0.1),
        (NORMAL, {"steps": 3}, 0.1),
        (SPACES["pod"], {"mode": "joint", "steps": 10}, 0.4),
        (SPACES["pod"], {"mode": "joint", "steps": 10, "method": "pseudoinverse"}, 0.4),
        (SPACES["pod"], {"mode": "joint", "steps": 10, "method": "dps"}, 0.7),
    ],
    ids=["fields", "from the prior", "noise", "noise and latent", "mmps", "pseudoinverse", "dps"],
)
def test_draws_come_closer_to_what_was_read(config, settings, factor):
    model, observations = untrained(config), observed(LOG_K, P)
    prior = model.sample(40, score=False, correction="complete", dtype="float64")
    ds = condition(model, observations, 20, seed=2, **settings)
    assert misfit(ds, observations) < factor * misfit(prior, observations)
    solves = settings.get("mode") != "joint"
    assert (ds["solution_error"].max() < 1e-6) == solves
    assert (ds["permeability"] > 0).all()
    expected = assemble(observations, FIELDS, axes_of(ds)).operator(to_tensor(ds, FIELDS))
    np.testing.assert_array_equal(ds["predicted"], expected)
    np.testing.assert_array_equal(ds["observed"], np.concatenate([o.values for o in observations]))
    np.testing.assert_array_equal(ds["observed_std"], [0.1] * 6 + [0.005] * 6)
    assert (ds.attrs["mode"], ds.attrs["seed"]) == (settings.get("mode", "solver"), 2)


@pytest.mark.parametrize("settings", [{}, {"mode": "joint", "steps": 4}], ids=["solver", "joint"])
def test_the_seed_decides_and_files_hold_all(settings, tmp_path):
    model, observations = untrained(SPACES["pod"]), observed(P)
    settings = {"steps": 2, **settings}
    ds = condition(model, observations, 5, seed=2, **settings)
    together = assemble(observations, FIELDS, model.grid.coordinates())
    xr.testing.assert_identical(condition(model, together, 5, seed=2, **settings), ds)
    assert not np.allclose(
        condition(model, observations, 5, seed=3, score=False, **settings)["pressure"], ds["pressure"]
    )
    files.write(ds, tmp_path / "posterior.nc")
    with xr.open_dataset(tmp_path / "posterior.nc") as again:
        xr.testing.assert_identical(again.load(), ds)


@pytest.mark.parametrize("start", ["laplace", "prior"])
def test_readings_of_the_input_have_a_posterior_in_closed_form(start):
    """log K is linear in the latent, so that its law given readings of it is Gaussian."""
    model, observations = untrained(SPACES["fields"]), observed(LOG_K, places=PLACES[:4])
    prior = model_prior(model)
    assert prior.words == "the latent of the model, 6 components"
    log_k = prior.decode(torch.cat([torch.zeros(1, 6), torch.eye(6)]).double()).log()
    at, values = assemble(observations, FIELDS, model.grid.coordinates()), observations[0].values
    read = at.operator(log_k.exp().expand(-1, 2, -1, -1)).numpy()
    h, shift = (read[1:] - read[0]).T, read[0]
    precision = np.eye(6) + h.T @ h / 0.1**2
    mean = np.linalg.solve(precision, h.T @ (values - shift) / 0.1**2)
    basis = (log_k[1:] - log_k[0]).flatten(1).numpy()
    exact = log_k[0].flatten().numpy() + mean @ basis
    deviation = np.sqrt(np.einsum("ip,ij,jp->p", basis, np.linalg.inv(precision), basis))
    n = 400
    ds = condition(model, observations, n, start=start, score=False, seed=1)
    found = np.log(ds["permeability"].values).reshape(n, -1)
    # Independent draws err by 1 / sqrt(n) and 1 / sqrt(2 n) of the deviation; resampled ones by up to twice that.
    z = (found.mean(0) - exact) / deviation
    assert np.sqrt((z**2).mean()) < 2.5 * 2 / np.sqrt(n)
    assert np.sqrt(((found.std(0) / deviation - 1) ** 2).mean()) < 2.5 * 2 / np.sqrt(2 * n)


def test_a_law_is_a_prior():
    config = DataConfig(resolution=5, modes=25, covariance="exponential", correlation_length=0.3, std=0.7)
    prior = law_prior(config)
    assert prior.dimension == 25
    log_k = prior.decode(torch.cat([torch.zeros(1, 25), torch.eye(25)]).double()).log()
    assert log_k.shape == (26, 1, 5, 5)
    assert log_k[0].abs().max() == 0
    # With as many modes as points nothing is cut off.
    points = np.stack(np.meshgrid(*[(np.arange(5) + 0.5) / 5] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    factor = log_k[1:].flatten(1).numpy()
    np.testing.assert_allclose(factor.T @ factor, 0.49 * np.exp(-cdist(points, points) / 0.3), atol=1e-10)


def test_draws_under_the_prior_of_a_law():
    model, observations = untrained(SPACES["pod"]), observed(LOG_K, P)
    prior = law_prior(DataConfig(resolution=8, modes=6))
    ds = condition(model, observations, 20, prior=prior)
    assert ds.attrs["prior"] == "Karhunen-Loeve coefficients, 6 modes"
    assert misfit(ds, observations) < 2


@pytest.mark.parametrize("config", [SPACES["pod"], SPACES["pixel"], NORMAL], ids=["pod", "pixel", "latent"])
def test_the_prior_of_a_model_is_what_it_samples(config):
    model = untrained(config)
    prior = model_prior(model, steps=3)
    x0, z = starting_points(model.objective.source, model.shape, 4, range(7), model.prior)
    coordinates = torch.cat([*([] if z is None else [z]), x0.flatten(1)], 1).double()
    assert coordinates.shape[1] == prior.dimension
    ds = model.sample(7, seed=4, solver="euler", steps=3, score=False, dtype="float64")
    np.testing.assert_allclose(prior.decode(coordinates)[:, 0].detach(), ds["permeability"], rtol=1e-5)


def test_inputs_that_no_solver_can_take_have_probability_zero():
    model, observations = untrained(SPACES["pod"]), observed(P)
    given = assemble(observations, FIELDS, model.grid.coordinates())

    def decode(z):
        return z.reshape(-1, 1, 8, 8)

    law = posterior_of(model.equation, InputPrior(decode, 64, "the field itself"), given)
    z = torch.ones(6, 64, dtype=torch.float64)
    z[1, 3], z[2, 3], z[3, 3], z[4, 3] = 0.0, -1.0, torch.inf, 1e10
    z[5] = torch.linspace(0.5, 2, 64)
    readings = law.observations.operator(z)
    assert readings.isfinite().all(1).tolist() == [True, False, False, False, False, True]
    fields = torch.stack(model.equation.complete(decode(z[[0, 5]])[:, 0]), 1)
    torch.testing.assert_close(readings[[0, 5]], given.operator(fields))


def test_the_error_of_a_model_is_that_of_its_solution():
    model, observations = untrained(SPACES["pod"]), observed(LOG_K, P)
    given = assemble(observations, FIELDS, model.grid.coordinates())
    error = model_error(model, given, samples=30)
    assert (error[:6] == 0).all()
    ds = model.sample(30, seed=1, dtype="float64")
    wrong = ds["pressure"] - model.sample(30, seed=1, dtype="float64", correction="complete")["pressure"]
    fields = torch.from_numpy(wrong.values)[:, None].expand(-1, 2, -1, -1)
    # Reading is linear: what is read of the difference is the difference of what is read.
    expected = assemble(observations[1:], FIELDS, model.grid.coordinates()).operator(fields).square().mean(0).sqrt()
    torch.testing.assert_close(error[6:], expected, rtol=1e-6, atol=0.0)
    settings = {"mode": "joint", "steps": 10, "score": False}
    counted = condition(model, observations, 5, **settings)
    by_hand = dataclasses.replace(given, noise_std=torch.hypot(given.noise_std, model_error(model, given)))
    same = condition(model, by_hand, 5, inflate=False, **settings)
    assert (counted.attrs["model_error_counted"], same.attrs["model_error_counted"]) == (1, 0)
    for name in FIELDS:
        np.testing.assert_allclose(counted[name], same[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "solve"}, "unknown mode 'solve'; did you mean 'solver'"),
        ({"start": "laplase"}, "unknown start 'laplase'; did you mean 'laplace'"),
        ({"method": "mmp"}, r"unknown method 'mmp'; did you mean 'mmps'\? valid: dps, mmps, pseudoinverse"),
        ({"n": 1}, "a posterior needs two draws or more, got 1"),
        ({"field": "presure"}, r"observation 0 \(presure\): unknown field 'presure'; did you mean 'pressure'"),
        ({"places": [[0.5, 1.5]]}, r"sensor 0 at \(0.5, 1.5\) lies outside the domain \[0, 1\] x \[0, 1\]"),
    ],
)
def test_bad_input_is_named(settings, message):
    places = settings.pop("places", [[0.5, 0.5]])
    observations = [Observation(settings.pop("field", "pressure"), [0.1], 0.1, locations=places)]
    with pytest.raises(ValueError, match=message):
        condition(untrained(SPACES["pod"]), observations, **{"n": 5, **settings})


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (
            lambda: untrained(equation=False),
            {},
            "conditioning needs an equation, and this model was trained on data with",
        ),
        (
            lambda: untrained(SPACES["fields"]),
            {"mode": "joint"},
            "the mode 'joint' guides the flow of all fields, and the latent of this model is drawn before it: use "
            "mode='solver', or a model without a latent",
        ),
        (
            lambda: untrained(training=TrainingConfig(coupling="ot")),
            {"mode": "joint"},
            "guidance needs noise that is independent of the data; this model pairs them by 'ot': use mode='solver'",
        ),
        *(
            (
                lambda: untrained(SPACES["pixel"], TrainingConfig(source="gaussian-process")),
                {"mode": mode},
                r"this model starts from gaussian-process noise; posteriors need noise N\(0, I\), the",
            )
            for mode in ("solver", "joint")
        ),
        (
            lambda: untrained(SPACES["fitted"]),
            {},
            r"this model draws z as .*, not from N\(0, I\): give it such a prior first, physflow.fitting.with_prior",
        ),
    ],
)
def test_models_that_cannot_be_used_so(make, settings, message):
    with pytest.raises(ValueError, match=message):
        condition(make(), [Observation("pressure", [0.1], 0.1, locations=[[0.5, 0.5]])], 5, **settings)


@pytest.mark.parametrize("settings", [{"coefficients": "uniform"}, {"modes": None}, {"permeability": "binary"}])
def test_other_laws_are_no_prior(settings):
    with pytest.raises(ValueError, match="expected a log-normal law of normal Karhunen-Loeve coefficients"):
        law_prior(DataConfig(**{"resolution": 8, "modes": 6, **settings}))
