"""Scores against numpy by hand, and the order of the anchors."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.ndimage import gaussian_filter

from physflow.fields import to_dataset
from physflow.grid import Grid
from physflow.pde import Burgers, Darcy, DarcyNodes, Heat, Poisson, score, score_fields, scores

EQUATIONS = {
    "cells": Darcy(Grid((16, 16))),
    "not square": Darcy(Grid((16, 24), ((0, 1), (0, 2))), faces="arithmetic"),
    "dirichlet": Darcy(Grid((16, 16)), source="constant", boundary="dirichlet"),
    "nodes": DarcyNodes(Grid((16, 18), centering="nodes")),
}


@pytest.fixture(params=EQUATIONS)
def equation(request):
    return EQUATIONS[request.param]


def smooth_permeability(equation, samples, seed=0):
    noise = np.random.default_rng(seed).standard_normal((samples, *equation.grid.shape))
    G = gaussian_filter(noise, (0, 3, 3), mode="reflect")
    return torch.from_numpy(np.exp(G / G.std()) if samples else G)


def pairs(equation, samples=3, dtype=torch.float32):
    K = smooth_permeability(equation, samples).to(dtype)
    p = equation.solve(K.double()).to(dtype)
    return to_dataset(torch.stack([K, p], 1), equation.fields, equation.grid, equation.attributes())


def test_equals_numpy_by_hand(equation):
    K = smooth_permeability(equation, 3)
    p = torch.from_numpy(np.random.default_rng(1).standard_normal(K.shape)) * 0.1
    found = score_fields(equation, K, p)
    r = equation.residual(K, p).numpy()
    strong = equation.strong_residual(K, p).numpy()
    f = np.broadcast_to(equation.source_term.numpy(), r.shape)
    S = equation.solve(K).numpy()
    error = p.numpy() - S
    if equation.boundary == "neumann":
        S = S - S.mean((1, 2), keepdims=True)
        error = error - error.mean((1, 2), keepdims=True)

    def norm(a):
        return np.sqrt((a**2).sum((1, 2)))

    expected = {
        "residual_mse": (r**2).mean((1, 2)),
        "strong_residual_mse": (strong**2).mean((1, 2)),
        "relative_residual": norm(r) / norm(f),
        "solution_error": norm(error) / norm(S),
        "mass_imbalance": abs(r).sum((1, 2)) / abs(f).sum((1, 2)),
    }
    assert list(found) == list(expected) == list(scores.SCORES)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_dataset_of_solutions_scores_the_storage_error(equation):
    ds = pairs(equation)
    found = score(ds)
    assert dict(found.sizes) == {"sample": 3}
    assert found.attrs == ds.attrs
    assert all(variable.attrs["units"] == "1" and variable.attrs["long_name"] for variable in found.values())
    assert all(variable.dtype == np.float64 for variable in found.values())
    assert (found["solution_error"] < 1e-6).all()
    floor = score_fields(equation, *_solved(equation, ds))
    np.testing.assert_allclose(found["residual_mse"], floor["residual_mse"], rtol=0, atol=1e-4)


def _solved(equation, ds):
    K = torch.from_numpy(ds["permeability"].values).double()
    return K, equation.solve(K)


def test_order_of_dimensions_and_constants_do_not_matter():
    equation = EQUATIONS["not square"]
    ds = pairs(equation)
    shifted = ds.assign(pressure=ds["pressure"] + 3)
    xr.testing.assert_allclose(score(ds.transpose("y", "sample", "x")), score(ds), rtol=1e-12)
    np.testing.assert_allclose(score(shifted)["solution_error"], 0, atol=1e-5)


def test_anchors_are_ordered(equation):
    found = score(pairs(equation), anchors=True)
    assert list(found["anchor"].values) == [
        "as given",
        "data floor",
        "p = 0",
        "mismatched pair",
        "white noise 0.1 %",
        "white noise 1 %",
        "smooth noise 1 %",
    ]
    assert found["residual_mse"].dims == ("anchor", "sample")

    def of(anchor, name="residual_mse"):
        return found[name].sel(anchor=anchor)

    zero = found.sel(anchor="p = 0")
    for name in ("relative_residual", "solution_error", "mass_imbalance"):
        np.testing.assert_allclose(zero[name], 1, rtol=1e-12)
    f = equation.source_term
    for name in ("residual_mse", "strong_residual_mse"):
        np.testing.assert_allclose(zero[name], f.square().mean().item(), rtol=1e-12)
    assert (of("as given") <= 2 * of("data floor")).all()
    assert (10 * of("data floor") < of("smooth noise 1 %")).all()
    assert (of("smooth noise 1 %") < 0.5 * of("white noise 1 %")).all()
    # The residual is linear in the noise and S leaves next to none, so 1 % scores some hundred times 0.1 %.
    ratio = of("white noise 1 %").mean() / of("white noise 0.1 %").mean()
    assert 30 < ratio < 300
    assert (of("mismatched pair") > of("smooth noise 1 %")).all()
    errors = found["solution_error"]
    assert (errors.sel(anchor="data floor") < 1e-6).all()
    if equation.boundary == "neumann":
        np.testing.assert_allclose(errors.sel(anchor="smooth noise 1 %"), 0.01, rtol=1e-6)
        np.testing.assert_allclose(errors.sel(anchor="white noise 1 %"), 0.01, rtol=0.15)


def test_mismatched_pair_is_the_next_sample():
    equation = EQUATIONS["cells"]
    ds = pairs(equation)
    found = score(ds, anchors=True).sel(anchor="mismatched pair")
    expected = score(ds.assign(pressure=ds["pressure"].roll(sample=-1, roll_coords=False)))
    np.testing.assert_allclose(found["residual_mse"], expected["residual_mse"], rtol=1e-6)


def test_data_floor_follows_the_stored_type():
    equation = EQUATIONS["cells"]
    stored = {dtype: score(pairs(equation, 2, dtype), anchors=True) for dtype in (torch.float32, torch.float64)}
    floors = {dtype: ds["relative_residual"].sel(anchor="data floor").max() for dtype, ds in stored.items()}
    assert floors[torch.float64] < 1e-7 < floors[torch.float32] < 1e-3


def test_smooth_noise_has_the_covariance_it_claims():
    grid = Grid((24, 48), ((0, 1), (0, 2)))
    noise = scores._smooth_noise(grid, 3, np.arange(400))
    np.testing.assert_allclose(noise.std((1, 2)), 1, rtol=1e-12)
    # Standardising a sample takes its mean away and lowers every covariance by the variance of that mean.
    for axis, n, h in zip((1, 2), grid.shape, grid.spacing, strict=True):
        step, length = 3, 0.1 * (1 if axis == 1 else 2)
        a, b = (np.take(noise, range(start, start + n - step), axis) for start in (0, step))
        assert np.mean(a * b) == pytest.approx(math.exp(-((step * h) ** 2) / (2 * length**2)), abs=0.05)


@pytest.mark.parametrize("anchors", [False, True])
def test_independent_of_the_chunks(equation, anchors, monkeypatch):
    ds = pairs(equation, 5)
    whole = score(ds, anchors=anchors)
    monkeypatch.setattr(scores, "CHUNK", 2)
    xr.testing.assert_allclose(score(ds, anchors=anchors), whole, rtol=1e-6)
    monkeypatch.setattr(scores, "CHUNK_POINTS", 1)
    xr.testing.assert_allclose(score(ds, anchors=anchors), whole, rtol=1e-6)
    if anchors:
        part = score(ds.isel(sample=slice(0, 3)), anchors=True)
        same = [name for name in whole["anchor"].values if name != "mismatched pair"]
        xr.testing.assert_allclose(part.sel(anchor=same), whole.isel(sample=slice(0, 3)).sel(anchor=same), rtol=1e-6)


def test_single_sample_has_no_mismatched_pair_and_none_has_no_rows(equation):
    one = score(pairs(equation, 1), anchors=True)
    assert one.sizes["anchor"] == 6
    assert "mismatched pair" not in one["anchor"].values
    assert all(np.isfinite(variable).all() for variable in one.values())
    none = score(pairs(equation, 0), anchors=True)
    assert dict(none.sizes) == {"anchor": 7, "sample": 0}
    assert list(none.data_vars) == list(scores.SCORES)


def test_keeps_the_numbers_of_the_samples():
    ds = pairs(EQUATIONS["cells"]).assign_coords(sample=[4, 7, 9])
    assert list(score(ds)["sample"].values) == [4, 7, 9]


def test_reference_saves_the_solve():
    equation = EQUATIONS["cells"]
    K = smooth_permeability(equation, 2)
    p = equation.solve(K)
    found = score_fields(equation, K, p, reference=(2 * p,))
    np.testing.assert_allclose(found["solution_error"], 0.5, rtol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, 0.0, -1.0])
@pytest.mark.parametrize("anchors", [False, True])
def test_broken_permeability_is_named(bad, anchors, monkeypatch):
    monkeypatch.setattr(scores, "CHUNK", 2)
    ds = pairs(EQUATIONS["cells"], 4)
    ds["permeability"][3, 1, 2] = bad
    with pytest.raises(ValueError, match=r"permeability must be positive.*from sample 2 of the dataset"):
        score(ds, anchors=anchors)


def test_broken_pressure_is_named():
    ds = pairs(EQUATIONS["cells"], 2)
    ds["pressure"][0, 1, 2] = math.inf
    with pytest.raises(ValueError, match="pressure must be finite, but 1 of"):
        score(ds)


def of_waves(equation, samples=3):
    """Data of an equation whose fields begin as smooth noise."""
    noise = np.random.default_rng(0).standard_normal((samples, *equation.grid.shape))
    u = torch.from_numpy(gaussian_filter(noise, (0, *(3,) * equation.grid.ndim), mode="wrap") * 5)
    if equation.up_to_a_constant:
        u = u - u.flatten(1).mean(1).view(-1, *(1,) * equation.grid.ndim)
    fields = torch.stack(equation.complete(u), 1).float()
    return to_dataset(fields, equation.fields, equation.grid, equation.attributes())


@pytest.mark.parametrize(
    ("equation", "trivial"),
    [
        (Poisson(Grid((16, 16)), "periodic"), "u = 0"),
        (Poisson(Grid((16, 16)), "neumann", screening=2.0), "u = 0"),
        (Poisson(Grid((8, 9, 10))), "u = 0"),
        (Burgers(Grid((8, 32), axes=("t", "x")), 0.05), "nothing moves"),
        (Heat(Grid((6, 16, 16), axes=("t", "x", "y")), boundary="neumann"), "nothing moves"),
    ],
    ids=["Poisson", "screened", "in space", "Burgers", "heat"],
)
def test_other_equations_have_their_anchors(equation, trivial):
    ds = of_waves(equation)
    found = score(ds, anchors=True)
    assert found["anchor"].values[2] == trivial
    residual, error = (found[name].median("sample") for name in ("relative_residual", "solution_error"))
    assert residual.sel(anchor="as given") < 1e-5
    assert error.sel(anchor="as given") < 1e-6
    np.testing.assert_allclose(found["relative_residual"].sel(anchor=trivial), 1, rtol=1e-12)
    noises = residual.sel(anchor=["smooth noise 1 %", "white noise 1 %"])
    assert (noises > 100 * residual.sel(anchor="data floor")).all()
    assert noises[0] < residual.sel(anchor="mismatched pair")
    # A second derivative amplifies what is rough; one step in time does not.
    assert (noises[1] > noises[0]) == isinstance(equation, Poisson)
    assert error.sel(anchor="mismatched pair") > 0.5


def test_a_shift_is_an_error_where_the_solution_is_known_altogether():
    heat = Heat(Grid((6, 16, 16), axes=("t", "x", "y")), boundary="neumann")
    ds = of_waves(heat)
    later = xr.where(ds["t"] > 0, 0.1, 0.0)
    shifted = ds.assign(temperature=(ds["temperature"] + later).transpose("sample", "t", "x", "y"))
    assert (score(shifted)["solution_error"] > 0.05).all()
    periodic = of_waves(Poisson(Grid((16, 16)), "periodic"))
    assert (score(periodic.assign(potential=periodic["potential"] + 0.1))["solution_error"] < 1e-5).all()
