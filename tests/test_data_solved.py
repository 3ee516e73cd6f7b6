"""Generators of other equations than Darcy's: solutions to rounding, reproducible, of the law that they name."""

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml

import physflow
from physflow.cli import main
from physflow.config import SETS, BurgersConfig, ExperimentConfig, HeatConfig, PoissonConfig, from_dict, to_dict
from physflow.data import solved
from physflow.data.fourier import FourierSeries
from physflow.data.generators import GENERATORS, generate
from physflow.data.spots import Spots
from physflow.grid import Grid

SMALL = {
    "poisson": {"resolution": 16},
    "heat": {"resolution": (8, 12), "extent": (1.0, 1.5), "instants": 4},
    "burgers": {"resolution": 32, "instants": 5, "viscosity": 0.03},
    "gray-scott": {"resolution": 16, "extent": (0.6, 0.6), "instants": 3, "duration": 200.0, "substeps": 50},
    "navier-stokes": {"resolution": 16, "instants": 3, "duration": 0.5, "viscosity": 0.05, "waves": 2, "substeps": 10},
}
KINDS = [
    *SMALL.items(),
    *(("poisson", {"resolution": 12, "boundary": walls}) for walls in ("neumann", "periodic")),
    ("poisson", {"resolution": (12, 9), "screening": 30.0, "dtype": "float64"}),
    ("poisson", {"resolution": 16, "screening": -30.0}),
    *(("heat", {"resolution": 8, "instants": 3, "boundary": walls}) for walls in ("neumann", "dirichlet")),
]


def made(name, samples=12, how=None, **settings):
    config = from_dict(SETS[name], {"samples": samples, **{k: v for k, v in settings.items()}})
    return generate(config, **(how or {}))


def test_every_equation_has_settings_and_a_generator():
    assert list(SETS) == list(GENERATORS)
    assert set(SMALL) == set(SETS) - {"darcy"}


@pytest.mark.parametrize(("name", "settings"), KINDS)
def test_fields_are_solutions_to_rounding(name, settings, tmp_path):
    ds = made(name, how={"out": tmp_path / "set.nc"}, **settings)
    with ds:
        scores = physflow.pde.score(ds)
        assert float(scores["solution_error"].max()) < 1e-7
        # A second derivative magnifies the rounding of stored values (`physflow.pde.Poisson`).
        n = max(ds.sizes["x"], ds.sizes.get("y", 1))
        assert float(scores["relative_residual"].max()) < (1e-6 if "t" in ds.dims else 1e-8 * n**2)
    findings = physflow.data.validate(tmp_path / "set.nc")
    assert {finding.level for finding in findings} == {"info"}, findings
    assert any("at the floor" in finding.message for finding in findings)
    assert f"seed 0; fingerprint {ds.attrs['fingerprint']}" in findings[0].message


@pytest.mark.parametrize("name", SMALL)
def test_a_sample_depends_on_the_seed_and_its_number_alone(name, tmp_path):
    few, many = made(name, 5, **SMALL[name]), made(name, 30, **SMALL[name])
    xr.testing.assert_equal(few, many.isel(sample=slice(5)))
    with (
        ThreadPoolExecutor(2) as executor,
        made(name, 30, {"executor": executor, "out": tmp_path / "set", "shard": 8}, **SMALL[name]) as shards,
    ):
        xr.testing.assert_equal(many, shards)
    other = made(name, 5, seed=1, **SMALL[name])
    assert not np.array_equal(other[next(iter(other))], few[next(iter(few))])


@pytest.mark.parametrize("name", SMALL)
def test_the_equation_and_the_law_are_in_the_attributes(name):
    ds = made(name, 0, **SMALL[name])
    module, config = GENERATORS[name], from_dict(SETS[name], {"samples": 0, **SMALL[name]})
    assert physflow.pde.from_dataset(ds).attributes() == module.problem_of(config).equation.attributes()
    assert all(ds.attrs[key] == value for key, value in config.law().items())
    assert config.law()


@pytest.mark.parametrize("periodic", [True, False])
def test_the_fourier_series_has_its_covariance(periodic):
    grid, std, alpha, tau = Grid((12, 10), ((0.0, 1.2), (0.0, 1.0))), 1.7, 2.0, 8.0
    law = FourierSeries(grid, std, alpha, tau, periodic)
    draws = law.draw(0, 0, 6000)
    assert draws.std() == pytest.approx(std, rel=0.01)
    torus = grid.shape if periodic else tuple(2 * n for n in grid.shape)
    k = np.meshgrid(
        *(2 * np.pi * np.fft.fftfreq(n, h) for n, h in zip(torus, grid.spacing, strict=True)), indexing="ij"
    )
    power = (k[0] ** 2 + k[1] ** 2 + tau**2) ** (-alpha)
    power[0, 0] *= not periodic
    covariance = std**2 * np.fft.ifft2(power).real / (power.sum() / power.size)
    for i, j in ((0, 0), (1, 0), (0, 3), (4, 2)):
        assert (draws[:, 2, 3] * draws[:, 2 + i, 3 + j]).mean() == pytest.approx(covariance[i, j], abs=0.12)
    means = draws.mean((1, 2))
    assert np.abs(means).max() < 1e-6 if periodic else means.std() > 0.05


def test_the_fourier_series_on_a_line_and_its_odd_number_of_points():
    law = FourierSeries(Grid((9,)), 0.5)
    assert law.draw(3, 5, 2).shape == (2, 9)
    assert law.draw(0, 0, 4000).std() == pytest.approx(0.5, rel=0.02)


def test_a_spectrum_without_a_length():
    assert FourierSeries(Grid((8, 8)), 1.0, 2.0, 0.0).draw(0, 0, 500).std() == pytest.approx(1, rel=0.05)
    with pytest.raises(ValueError, match="tau must be positive, or zero on a periodic box"):
        FourierSeries(Grid((8, 8)), 1.0, 2.0, 0.0, periodic=False)


def test_spots_have_their_height_and_repeat_beyond_the_box():
    grid = Grid((40, 40))
    field = Spots(grid, 1).draw(0, 0, 8)
    assert (np.abs(field.max((1, 2)) - 1) < 0.2).all()
    one = field[0]
    i, j = np.unravel_index(one.argmax(), one.shape)
    centred = np.roll(one, (20 - i, 20 - j), (0, 1))
    # The middle of a spot lies within half a cell of its largest value.
    assert np.abs(centred[21:, :] - centred[19:0:-1, :][: len(centred[21:])]).max() < 0.4
    assert centred[0].max() < 1e-6
    assert Spots(grid, 8).draw(0, 0, 8).mean() > 4 * field.mean()


def test_sources_have_no_mean_where_they_must_not():
    for walls in ("neumann", "periodic"):
        assert abs(made("poisson", 4, resolution=8, boundary=walls)["source"].mean(("x", "y"))).max() < 1e-7
    assert abs(made("poisson", 4, resolution=8)["source"].mean(("x", "y"))).max() > 1e-3


def test_gray_scott_begins_at_rest_but_for_spots():
    ds = made("gray-scott", 3, **SMALL["gray-scott"]).isel(t=0)
    np.testing.assert_allclose(ds["substrate"] + 2 * ds["activator"], 1, rtol=1e-6)
    assert 0 <= float(ds["activator"].min()) < 0.01


def test_a_scheme_that_diverges_is_said(tmp_path):
    with pytest.raises(FloatingPointError, match=r"in samples 0 to \d+ of the set: .*take smaller steps"):
        made("burgers", 4, resolution=64, instants=3, std=30.0, viscosity=0.001, substeps=1, duration=4.0)


def test_blocks_are_smaller_for_long_trajectories():
    grid = Grid((64, 64))
    assert FourierSeries(grid).block == 128
    assert FourierSeries(grid, instants=11).block == 8
    assert FourierSeries(Grid((64,)), instants=33).block == 128
    assert solved.evolution_grid(BurgersConfig(resolution=8, instants=3, duration=2.0)).bounds == ((0, 2), (0, 1))


# Equations of users.


class Decay(physflow.pde.Semilinear):
    """u' = u'' - c u^3, as a user would write it."""

    fields = solutions = ("u",)

    def __init__(self, grid, c=0.5, substeps=4):
        super().__init__(grid, substeps)
        self.c = c

    def linear(self):
        return (-self.square,)

    def nonlinear(self, *spectra):
        return (-self.c * self.to_waves(self.to_points(spectra[0]) ** 3),)

    def attributes(self):
        return {"equation": "Decay", "c": self.c, "substeps": self.substeps}


def problem(std=1.0):
    equation = Decay(Grid((4, 16), ((0, 0.1), (0, 6)), axes=("t", "x")))
    return physflow.data.Problem(equation, FourierSeries(equation.grid.space, std))


def test_an_equation_of_a_user(tmp_path):
    with physflow.data.generate(problem(), 40, out=tmp_path / "own.nc") as ds:
        assert (physflow.pde.score(ds, anchors=True)["solution_error"].sel(anchor="as given") < 1e-7).all()
        xr.testing.assert_equal(ds.isel(sample=slice(9)), physflow.data.generate(problem(), 9))
    assert {finding.level for finding in physflow.data.validate(tmp_path / "own.nc")} == {"info"}
    settings = {"model": {"rank": 4, "mlp": {"width": 8, "blocks": 1}}, "training": {"steps": 2, "warmup": 1}}
    config = from_dict(ExperimentConfig, settings)
    physflow.fitting.train_model(tmp_path / "own.nc", tmp_path / "model", model=config.model, training=config.training)
    samples = physflow.load(tmp_path / "model").sample(3, correction="complete")
    assert (samples["solution_error"] < 1e-6).all()
    assert samples.attrs["equation"] == "Decay"


def test_a_folder_of_a_user_goes_on_with_the_same_law_alone(tmp_path):
    physflow.data.generate(problem(), 10, out=tmp_path / "set", shard=8).close()
    with physflow.data.generate(problem(), 20, out=tmp_path / "set", shard=8) as ds:
        xr.testing.assert_equal(ds, physflow.data.generate(problem(), 20))
    with pytest.raises(ValueError, match="set"):
        physflow.data.generate(problem(std=2.0), 20, out=tmp_path / "set", shard=8)


def test_what_is_given_belongs_to_the_identity_of_a_set():
    def told(**settings):
        equation = Decay(Grid((4, 16), ((0, 0.1), (0, 6)), axes=("t", "x")))
        return physflow.data.generate(physflow.data.Problem(equation, **settings), 0).attrs["fingerprint"]

    space = Grid((16,), ((0, 6),), axes=("x",))
    laws = [FourierSeries(space, std) for std in (1e-5, 3e-5)]
    names = {told(law=laws[0]), told(law=laws[1]), told(law=laws[0], given=lambda u: (2 * u,))}
    assert len(names) == 3


def test_attributes_that_say_other_things():
    class Named(Decay):
        def attributes(self):
            return {**super().attributes(), "seed": 3}

    equation = Named(Grid((4, 16), axes=("t", "x")))
    with pytest.raises(ValueError, match=r"attributes\(\) of Named has \['seed'\], which say other things"):
        physflow.data.generate(physflow.data.Problem(equation, FourierSeries(equation.grid.space)), 2)


def test_attributes_that_samples_of_a_model_would_lose(tmp_path):
    class Stepped(Decay):
        def __init__(self, grid, steps=4):
            super().__init__(grid)
            self.steps = steps

        def attributes(self):
            return {"equation": "Stepped", "steps": self.steps}

    ds = physflow.data.generate(problem(), 12)
    ds.attrs.update(equation="Stepped", steps=3)
    ds.to_netcdf(tmp_path / "stepped.nc")
    with pytest.raises(ValueError, match=r"attributes\(\) of Stepped has \['steps'\], which say other things"):
        physflow.fitting.train_model(tmp_path / "stepped.nc", tmp_path / "model")


def test_numbers_of_numpy_are_numbers():
    ds = physflow.data.heat.generate(np.int64(2), np.array([8, 9]), instants=np.int32(3), std=np.float32(0.5))
    assert ds.sizes["y"] == 9
    xr.testing.assert_identical(ds, physflow.data.heat.generate(2, (8, 9), instants=3, std=0.5))


def test_the_example_of_sixty_lines(tmp_path):
    example = Path(__file__).parent.parent / "examples" / "your_own_equation.py"
    assert len(example.read_text().splitlines()) <= 60
    words = [sys.executable, str(example), "--out", str(tmp_path / "own"), "--samples", "60"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "nothing moves" in done.stdout
    assert 0 < float(done.stdout.rsplit("generated: ", 1)[1]) < 2


# Settings.


@pytest.mark.parametrize("name", SMALL)
def test_settings_come_back_from_a_file(name):
    config = from_dict(SETS[name], SMALL[name])
    text = yaml.safe_dump(to_dict(ExperimentConfig(data=config)))
    found = from_dict(ExperimentConfig, yaml.safe_load(text))
    assert found.data == config
    assert type(found.data) is type(config)


def test_the_key_of_darcy_may_be_left_out():
    given = from_dict(ExperimentConfig, {"data": {"equation": "darcy", "modes": 8}})
    assert given == from_dict(ExperimentConfig, {"data": {"modes": 8}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"equation": "burger"}, "unknown data.equation 'burger'; did you mean 'burgers'"),
        ({"equation": "burgers", "modes": 3}, "unknown key 'data.modes'; "),
        ({"equation": "heat", "viscosity": 0.1}, "unknown key 'data.viscosity'; did you mean 'diffusivity'"),
        (3, "expected settings for data as a mapping, got 3"),
    ],
)
def test_settings_of_another_equation(settings, message):
    with pytest.raises(ValueError, match=message):
        from_dict(ExperimentConfig, {"data": settings})


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (PoissonConfig, {"samples": -1}, "samples must be a whole number of at least 0, got -1"),
        (PoissonConfig, {"resolution": 2}, "resolution must be a whole number of at least 4, got 2"),
        (PoissonConfig, {"resolution": (8, 8, 8)}, "resolution must be a whole number or a pair"),
        (PoissonConfig, {"extent": 2.0}, "extent must be a pair of numbers"),
        (PoissonConfig, {"boundary": "open"}, "unknown boundary 'open'"),
        (PoissonConfig, {"alpha": 0.5}, "alpha must be greater than 1"),
        (HeatConfig, {"alpha": math.nan}, "alpha must be a finite number"),
        (BurgersConfig, {"alpha": "2"}, "alpha must be a finite number"),
        (PoissonConfig, {"screening": math.nan}, "screening must be a finite number"),
        (PoissonConfig, {"seed": 2**64}, r"seed must be less than 2\*\*64"),
        (HeatConfig, {"instants": 1}, "instants must be a whole number of at least 2"),
        (HeatConfig, {"diffusivity": 0.0}, "diffusivity must be positive"),
        (BurgersConfig, {"resolution": (8, 8)}, "resolution must be a whole number"),
        (BurgersConfig, {"substeps": 0}, "substeps must be a whole number of at least 1"),
        (SETS["navier-stokes"], {"drag": -1.0}, "drag must not be negative"),
    ],
)
def test_settings_out_of_range(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls(**settings)


# The command line.


def code_of(*words):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return left.value.code


def test_the_command_generates_any_equation(tmp_path, capsys):
    options = ["--equation", "burgers", "--samples", 3, "--resolution", 32, "--instants", 4, "--viscosity", 0.03]
    assert code_of("generate", *options, "--out", tmp_path / "a.nc") == 0
    assert "3 samples of velocity on 4 x 32 points" in capsys.readouterr().out
    with physflow.data.files.open(tmp_path / "a.nc") as ds:
        xr.testing.assert_equal(ds, made("burgers", 3, resolution=32, instants=4, viscosity=0.03))
    assert code_of("validate", tmp_path / "a.nc") == 0
    assert "Burgers, viscosity 0.03, substeps 10" in capsys.readouterr().out
    assert code_of("score", tmp_path / "a.nc", "--anchors") == 0
    assert "nothing moves" in capsys.readouterr().out


def test_the_command_prints_what_it_would_do(tmp_path, capsys):
    assert code_of("generate", "--equation", "heat", "--diffusivity", 0.1, "--print_config") == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["diffusivity"] == 0.1
    assert yaml.safe_load(printed)["equation"] == "heat"
    (tmp_path / "settings.yaml").write_text(printed)
    assert code_of("generate", "--config", tmp_path / "settings.yaml", "--print_config") == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--equation", "heats", "--out", "x.nc"], "unknown equation 'heats'; did you mean 'heat'"),
        (["--equation", "heat", "--modes", 3, "--out", "x.nc"], "unknown key 'modes'"),
        (["--equation", "heat"], "missing --out"),
    ],
)
def test_what_the_command_refuses(words, message, capsys):
    assert code_of("generate", *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", SMALL)
def test_a_whole_experiment(name, tmp_path):
    values = {
        "name": name,
        "data": {"equation": name, "samples": 40, **SMALL[name]},
        "model": {"rank": 8, "mlp": {"width": 16, "blocks": 1}},
        "training": {"steps": 4, "batch_size": 16, "warmup": 1},
        "sampling": {"samples": 3, "steps": 2},
    }
    report = physflow.experiment.run(from_dict(ExperimentConfig, values), tmp_path / "run")
    page = report.read_text()
    assert "solution error" in page
    assert "p = 0</td>" not in page
    with physflow.data.files.open(tmp_path / "run" / "samples.nc") as ds:
        field = next(iter(ds))
        assert np.isfinite(ds["solution_error"]).all()
        assert (ds["solution_error_completed"] < 1e-6).all()
        assert f"{field}_completed" in ds or name == "poisson"
    model = physflow.load(tmp_path / "run" / "model")
    again = model.sample(3, seed=0, steps=2, correction="complete")
    assert (again["solution_error"] < 1e-6).all()
    # What samples say of their making leaves the equation's settings alone.
    assert physflow.pde.from_dataset(again).attributes() == model.equation.attributes()
    xr.testing.assert_equal(physflow.pde.score(again), again[list(physflow.pde.score(again))])
