"""Fields given observations: posteriors in closed form, both modes on tiny models, refusals."""

import dataclasses

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial.distance import cdist
from test_model import SPACES, untrained

import physflow
from physflow.conditioning import InputPrior, condition, law_prior, model_error, model_prior, posterior_of
from physflow.config import DataConfig, TrainingConfig
from physflow.data import files
from physflow.data.darcy import generate
from physflow.fields import to_tensor
from physflow.generative import starting_points
from physflow.inference import Hamiltonian, Observation, assemble
from physflow.input_priors import beside_the_prior

FIELDS = ("permeability", "pressure")
LOG_K, P = ("permeability", True, 0.1), ("pressure", False, 0.005)
PLACES = np.random.default_rng(5).uniform(0.1, 0.9, (6, 2))
NORMAL = dataclasses.replace(SPACES["posterior"], latent=dataclasses.replace(SPACES["posterior"].latent, draw="normal"))


FEW_MOVES = {"burn_in": 0, "moves": 4, "kernel": Hamiltonian(4)}
"""For what does not depend on how good the draws are."""


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


@pytest.mark.parametrize("settings", [FEW_MOVES, {"mode": "joint", "steps": 4}], ids=["solver", "joint"])
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
    # Independent draws err by 1 / sqrt(n) and 1 / sqrt(2 n) of the deviation; those of chains by up to twice that.
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
        ({"moves": 3}, "chains are judged by four moves or more after the burn-in, got moves=3"),
        ({"start": "laplase"}, "unknown start 'laplase'; did you mean 'laplace'"),
        ({"method": "mmp"}, r"unknown method 'mmp'; did you mean 'mmps'\? valid: dps, mmps, pseudoinverse"),
        ({"n": 1}, "a posterior needs two draws or more, got 1"),
        ({"field": "presure"}, r"observation 0 \(presure\): unknown field 'presure'; did you mean 'pressure'"),
        ({"offset_std": -1.0}, "offset_std must be finite and not negative, got -1.0"),
        ({"method": "dps"}, "method says nothing with mode='solver'; it is for mode='joint'"),
        ({"mode": "joint", "start": "prior"}, "start says nothing with mode='joint'; it is for mode='solver'"),
        ({"mode": "joint", "offset_std": 1.0}, "offset_std says nothing with mode='joint'; it is for mode='solver'"),
        (
            {"field": "permeability", "value": -0.1},
            "sensor 0 of observation 0 reads -0.1 of 'permeability', which is po",
        ),
        ({"places": [[0.5, 1.5]]}, r"sensor 0 at \(0.5, 1.5\) lies outside the domain \[0, 1\] x \[0, 1\]"),
    ],
)
def test_bad_input_is_named(settings, message):
    places = settings.pop("places", [[0.5, 0.5]])
    value = settings.pop("value", 0.1)
    observations = [Observation(settings.pop("field", "pressure"), [value], 0.1, locations=places)]
    with pytest.raises(ValueError, match=message):
        condition(untrained(SPACES["pod"]), observations, **{"n": 5, **settings})


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (
            lambda: untrained(equation=False),
            {},
            "conditioning by the solver needs an equation, and this model was trained on data without one; a model "
            "without a latent can be guided, mode='joint'",
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


ONE = Observation("pressure", [0.1], 0.1, locations=[[0.5, 0.5]])


@pytest.mark.parametrize(
    ("model", "observations", "settings", "message"),
    [
        (None, ONE, {"itarations": 3}, "unknown setting 'itarations'; did you mean '"),
        (None, ONE, {"mode": "joint", "itarations": 3}, "unknown setting 'itarations'; did you mean 'iterations'?"),
        (None, ONE, {"iterations": 3}, "unknown setting 'iterations'; "),
        ("darcy-small", ONE, {}, r"expected a model, got its name 'darcy-small'; take physflow.load\('darcy-small'\)"),
        (
            None,
            "wells.csv",
            {},
            r"got the name 'wells.csv'; take .*observations_of\(physflow.sensors.read_sensors\('wells",
        ),
        (
            None,
            [3.0],
            {},
            "each observation as a physflow.inference.Observation, got float; sensors become observations",
        ),
    ],
)
def test_what_is_of_another_type_is_named(model, observations, settings, message):
    with pytest.raises(TypeError, match=message):
        condition(model or untrained(SPACES["pod"]), observations, 5, **settings)


def test_one_observation_needs_no_list():
    model, (observation,) = untrained(SPACES["fields"]), observed(LOG_K)
    settings = {"n": 5, "seed": 1, "score": False, **FEW_MOVES}
    xr.testing.assert_identical(condition(model, observation, **settings), condition(model, [observation], **settings))


def shifted(observation, constant):
    return dataclasses.replace(observation, values=observation.values + constant)


def test_a_datum_that_is_unknown_is_found():
    """Readings of K alone decide K; those of p then say the constant: its law is normal, of the mean of n readings."""
    model = untrained(SPACES["fields"])
    log_k, p = observed(("permeability", True, 1e-3), ("pressure", False, 0.05))
    constant, offset_std, n = 3.0, 2.0, 300
    ds = condition(model, [log_k, shifted(p, constant)], n, seed=1, offset_std=offset_std, score=False)
    truth = generate(1, resolution=8, modes=6, seed=9, dtype="float64")
    bare = assemble([p], FIELDS, axes_of(truth)).operator(to_tensor(truth, FIELDS))[0].numpy()
    precision = len(p.values) / 0.05**2 + 1 / offset_std**2
    mean = (constant + p.values - bare).sum() / 0.05**2 / precision
    # The draws err by 1 / sqrt(n) of the deviation, resampled ones by up to twice that; what K leaves of p adds little.
    deviation = precision**-0.5
    assert float(ds["offset"].mean()) == pytest.approx(mean, abs=4 * 2 / np.sqrt(n) * deviation + 0.005)
    assert float(ds["offset"].std()) == pytest.approx(deviation, rel=4 * 2 / np.sqrt(2 * n))
    assert (ds["offset"].attrs["fields"], ds.attrs["offset_std"]) == ("pressure", offset_std)
    # The fields keep the mean of zero that the equation gives them; what is predicted has the datum of the readings.
    assert float(abs(ds["pressure"].mean(("x", "y"))).max()) < 1e-8
    read = assemble([log_k, p], FIELDS, axes_of(ds)).operator(to_tensor(ds, FIELDS)).numpy()
    read[:, 6:] += ds["offset"].values[:, None]
    np.testing.assert_allclose(ds["predicted"], read, rtol=1e-12)


def test_a_datum_says_nothing_of_the_fields():
    """A constant in all readings of the pressure leaves draws of K as they are, if it may be any."""
    model, (log_k, p) = untrained(SPACES["fields"]), observed(LOG_K, P)
    n, found = 200, []
    for constant in (0.0, 5.0):
        ds = condition(model, [log_k, shifted(p, constant)], n, seed=1, offset_std=50.0, score=False)
        found.append(np.log(ds["permeability"].values).reshape(n, -1))
        assert float(ds["offset"].mean()) == pytest.approx(constant, abs=0.05)
    # Means of n draws differ by sqrt(2 / n) of the deviation, of those of chains by up to twice that.
    gap = (found[1].mean(0) - found[0].mean(0)) / found[0].std(0)
    assert np.sqrt((gap**2).mean()) < 2.5 * 2 * np.sqrt(2 / n)
    assert "offset" not in condition(model, [log_k, p], 5, seed=1, score=False, **FEW_MOVES)


def test_a_datum_that_the_walls_fix_is_refused():
    model = untrained(SPACES["fields"])
    model.equation.boundary = "dirichlet"
    with pytest.raises(ValueError, match="with boundary='dirichlet' the equation fixes the datum: leave it at 0"):
        condition(model, ONE, 5, offset_std=1.0)


def test_readings_beside_the_prior_are_told_before_the_work():
    model, observations = untrained(SPACES["fields"]), observed(LOG_K, P)
    p = dataclasses.replace(observations[1], labels=[f"line {i + 2}" for i in range(6)])
    far = dataclasses.replace(p, values=p.values + np.array([0, 0, 40.0, 0, 0, 0]))
    near = condition(model, [observations[0], p], 5, score=False, **FEW_MOVES)
    assert near.attrs["beside_the_prior"] == ""
    with pytest.warns(
        UserWarning, match=r"^line 4, pressure at \(.*\), reads 4\d\.\d* ?, and 100 draws of the prior say "
    ):
        ds = condition(model, observations[0], 5, beside=far, score=False, **FEW_MOVES)
    (told,) = ds.attrs["beside_the_prior"].splitlines()
    assert told.endswith(" there: other units, another datum, or a logarithm?")
    with pytest.warns(UserWarning, match="draws of the prior say|only the first 5") as warned:
        condition(model, observations[0], 5, beside=shifted(p, 40.0), score=False, **FEW_MOVES)
    assert len(warned) == 6
    assert str(warned[5].message) == "6 of 12 readings lie so far beside the prior; only the first 5 are told."


def test_draws_of_the_prior_are_not_beside_it():
    """Of readings made by the prior itself fewer than one in 500 is told."""
    model = untrained(SPACES["fields"])
    prior = model_prior(model)
    observations = assemble(observed(LOG_K, P), FIELDS, model.grid.coordinates())
    law = posterior_of(model.equation, prior, observations)
    z = torch.randn(300, prior.dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        read = law.observations.operator(z)
    told = sum(
        len(beside_the_prior(law, dataclasses.replace(observations, values=y), [""] * 12, seed))
        for seed, y in enumerate(read)
    )
    # 3600 readings, of which one in 500 is 7.2.
    assert told < 7.2
    assert beside_the_prior(law, dataclasses.replace(observations, values=read[0] + 40), [""] * 12, 0)


def test_what_was_not_used_is_predicted():
    model, (log_k, p) = untrained(SPACES["pod"]), observed(LOG_K, P)
    ds = condition(model, log_k, 5, steps=2, beside=p, score=False, **FEW_MOVES)
    assert ds["held_out"].values.tolist() == [False] * 6 + [True] * 6
    alone = condition(model, log_k, 5, steps=2, score=False, **FEW_MOVES)
    np.testing.assert_array_equal(alone["permeability"], ds["permeability"])
    np.testing.assert_array_equal(alone["predicted"], ds["predicted"][:, :6])
    np.testing.assert_array_equal(ds["observed"][6:], p.values)
    assert (ds.attrs["start"], ds.attrs["physflow_version"]) == ("laplace", physflow.__version__)


def test_the_error_that_was_counted_is_told():
    model, (log_k, p) = untrained(SPACES["pod"]), observed(LOG_K, P)
    settings = {"mode": "joint", "steps": 10, "score": False}
    ds = condition(model, log_k, 3, beside=p, **settings)
    expected = model_error(model, assemble([log_k, p], FIELDS, model.grid.coordinates()))
    np.testing.assert_array_equal(ds["model_error"], expected)
    assert ds["model_error"].values[6:].min() > 0
    assert "model_error" not in condition(model, log_k, 3, inflate=False, **settings)


def test_fields_of_no_equation_are_guided():
    # Noise that is not below the error of the model, which nothing tells here.
    model, observations = untrained(SPACES["pod"], equation=False), observed(("permeability", True, 0.3))
    ds = condition(model, observations, 20, seed=2, mode="joint", steps=10)
    assert misfit(ds, observations) < 0.4 * misfit(model.sample(40, dtype="float64"), observations)
    assert ds.attrs["model_error_counted"] == 0
    assert not {"solution_error", "model_error"} & set(ds)
