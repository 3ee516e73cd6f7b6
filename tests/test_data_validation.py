"""The validator: silent on good files, and right about what is wrong with bad ones."""

import re

import numpy as np
import pytest

from physflow.data import files, validate
from physflow.data.darcy import generate


@pytest.fixture(scope="module")
def good():
    return generate(12, resolution=16, modes=10)


def findings(ds, tmp_path):
    found = validate(files.write(ds, tmp_path / "data.nc"))
    return [f.message for f in found if f.level == "error"], [str(f) for f in found]


@pytest.mark.parametrize("discretization", ["cells", "nodes"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_generated_files_are_sound(tmp_path, discretization, dtype):
    errors, all_of_it = findings(generate(12, 16, modes=10, dtype=dtype, discretization=discretization), tmp_path)
    assert errors == []
    assert any("at the floor" in message for message in all_of_it)


@pytest.mark.parametrize(
    ("law", "words"),
    [
        (
            {"modes": 10},
            "log K: exponential covariance, 10 modes, correlation length 0.1, std 1; seed 0",
        ),
        (
            {"modes": 10, "coefficients": "uniform"},
            "correlation length 0.1, std 1, uniform coefficients; seed 0",
        ),
        (
            {"covariance": "matern", "correlation_length": (0.2, 0.05), "angle": 30.0, "modes": None, "std": 0.5},
            "log K: matern covariance, the full field, correlation length 0.2 and 0.05, angle 30, smoothness 1.5, "
            "std 0.5; seed 0",
        ),
        (
            {"preset": "fno"},
            "Darcy, dirichlet walls, source constant; K 3 or 12 by the sign of G: cosine, preset fno, the full field, "
            "alpha 2, tau 3; seed 0",
        ),
        ({"preset": "pdebench"}, "K 0.1 or 1 by the sign of G: bumps, preset pdebench, the full field; seed 0"),
    ],
)
def test_the_law_is_told(tmp_path, law, words):
    errors, all_of_it = findings(generate(2, 16, **law), tmp_path)
    assert errors == []
    assert words in all_of_it[0]


def test_no_samples_is_a_warning(tmp_path):
    errors, all_of_it = findings(generate(0, 16, modes=10), tmp_path)
    assert errors == []
    assert any("holds no samples" in message for message in all_of_it)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda ds: ds.assign(pressure=(ds["pressure"].dims, ds["pressure"].values.swapaxes(1, 2))),
            "pressure transposed",
        ),
        (lambda ds: ds.assign(pressure=-ds["pressure"]), "sign of the pressure changed"),
        (lambda ds: ds.assign(pressure=ds["pressure"].roll(sample=1)), "shuffled pairs"),
        (lambda ds: ds.assign(pressure=1.01 * ds["pressure"]), "do not solve their equation"),
        (lambda ds: ds.assign_attrs(boundary="dirichlet"), "do not solve their equation"),
        (lambda ds: ds.assign(permeability=-ds["permeability"]), "permeability"),
        (
            lambda ds: ds.where(ds["pressure"] != ds["pressure"][5, 2, 3]),
            r"NaN or infinite, first in sample 5 at point \(2, 3\)",
        ),
        (lambda ds: ds.drop_vars("x"), "no coordinate 'x'"),
        (lambda ds: ds.drop_vars("pressure"), "no variable 'pressure'"),
        (lambda ds: ds.assign_coords(x=ds["x"] ** 2), "not uniform"),
        (lambda ds: ds.assign_attrs(format="physflow-9"), "format 'physflow-9', this version reads 'physflow-1'"),
        (lambda ds: ds.assign_attrs(equation="Stokes"), "unknown equation 'Stokes'"),
        (lambda ds: ds.drop_attrs().assign_attrs(format="physflow-1"), "lacks the attributes"),
    ],
)
def test_faults_are_found(good, tmp_path, change, message):
    errors, _ = findings(change(good), tmp_path)
    assert len(errors) == 1
    assert re.search(message, errors[0])


def test_foreign_data_without_an_equation(good, tmp_path):
    errors, all_of_it = findings(good.drop_attrs(), tmp_path)
    assert errors == []
    assert any("cannot be told" in message for message in all_of_it)


def test_truncated_and_missing_files(good, tmp_path):
    path = files.write(good, tmp_path / "data.nc")
    path.write_bytes(path.read_bytes()[:2000])
    assert [f.level for f in validate(path)] == ["error"]
    with pytest.raises(FileNotFoundError):
        validate(tmp_path / "none.nc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"permeability": -1.0}, r"field 'permeability' must be positive, but is -1 in sample 301 at point \(0, 0\)"),
        ({"pressure": 7.0}, r"1 of 400 samples do not solve their equation, while .*; the worst is sample 301 with"),
        ({"pressure": np.nan}, r"field 'pressure' is NaN or infinite, first in sample 301 at point \(0, 0\)"),
    ],
)
def test_one_bad_sample_among_many_is_found(tmp_path, change, message):
    ds = generate(400, resolution=8, modes=4)
    for name, value in change.items():
        ds[name][301] = value if np.isnan(value) or value < 0 else ds[name][301] + value * (ds.x < 0.5)
    files.write(ds, tmp_path / "data.nc")
    findings = [finding.message for finding in validate(tmp_path / "data.nc") if finding.level == "error"]
    assert len(findings) == 1
    assert re.match(message, findings[0])
