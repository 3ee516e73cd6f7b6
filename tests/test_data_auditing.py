"""The audit of pairs: good ones are good, and what is wrong with others is called by its name."""

import numpy as np
import pytest
import torch
import xarray as xr
from corruptions import CORRUPTIONS, GOOD, good

import physflow
from physflow.cli import main
from physflow.data import audit, repair
from physflow.data.auditing.noise import roughness
from physflow.data.auditing.orientations import orientations
from physflow.data.auditing.shifts import HALVES, shifted
from physflow.fields import to_dataset
from physflow.grid import Grid

SEEDS = 26


def kinds_of(ds, **settings):
    return [fault.kind for fault in audit(ds, **settings).faults]


@pytest.fixture(scope="module")
def pairs():
    return physflow.data.darcy.generate(24, resolution=16, modes=16, seed=5)


def code_of(*arguments):
    with pytest.raises(SystemExit) as left:
        main(["audit", *map(str, arguments)])
    return left.value.code


def changed(ds, **fields):
    return ds.assign({name: (ds[name].dims, np.asarray(u, ds[name].dtype)) for name, u in fields.items()})


@pytest.mark.parametrize("kind", GOOD)
def test_good_pairs_are_good(kind):
    for seed in range(2):
        found = audit(good(kind, seed))
        assert found.clean, f"{found}"
        assert found.reading.error < 1e-6
        assert found.runner_up.error > 100 * found.reading.error
        assert found.residual < 2 * found.floor + 1e-12


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: corrupt.__name__)
def test_every_fault_is_called_by_its_name(corrupt):
    wrong = []
    for seed in range(SEEDS):
        rng, kind = np.random.default_rng([seed, 1]), GOOD[seed % len(GOOD)]
        ds, expected = corrupt(good(kind, 100 + seed), rng)
        found = audit(ds)
        if {fault.kind for fault in found.faults} != {expected}:
            wrong.append(f"seed {seed}, {kind}: expected {expected}\n{found}")
    assert len(wrong) <= 0.04 * SEEDS, "\n".join(wrong)


@pytest.mark.parametrize("way", orientations((4, 4)), ids=str)
def test_a_way_round_and_back(way):
    u = torch.arange(16.0).reshape(1, 4, 4)
    torch.testing.assert_close(way.inverse(way(u)), u)


def test_the_ways_round_are_all_different_and_keep_the_shape():
    u = torch.arange(16.0).reshape(1, 4, 4)
    assert len({tuple(way(u).flatten().tolist()) for way in orientations(u.shape)}) == 8
    assert len(orientations((4, 5))) == 4
    assert all(way(torch.zeros(1, 4, 5)).shape == (1, 4, 5) for way in orientations((4, 5)))


@pytest.mark.parametrize("half", HALVES)
def test_a_shift_of_a_plane_is_exact_inside(half):
    x, y = torch.meshgrid(torch.arange(6.0), torch.arange(5.0), indexing="ij")
    u = (2 * x - 3 * y)[None]
    expected = u + 2 * half[0] - 3 * half[1]
    torch.testing.assert_close(shifted(u, half)[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1])


def test_noise_is_rough_and_waves_are_not():
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 16, 16)))
    assert abs(roughness(noise) - 0.75) < 0.02
    x = (torch.arange(16.0, dtype=torch.float64) + 0.5) / 16
    assert roughness(torch.cos(torch.pi * x)[None, :, None].expand(1, 16, 16)) < 1e-12


def test_noise_on_the_permeability_is_told_from_noise_on_the_pressure(pairs):
    rng = np.random.default_rng(0)
    K = pairs["permeability"].values
    (fault,) = audit(changed(pairs, permeability=K * (1 + 0.01 * rng.standard_normal(K.shape)))).faults
    assert fault.kind == "noise"
    assert "permeability has noise of single points, about 1.0" in fault.message
    p = pairs["pressure"].values
    noise = p.std((1, 2), keepdims=True) * rng.standard_normal(p.shape)
    (fault,) = audit(changed(pairs, pressure=p + 0.003 * noise)).faults
    assert fault.kind == "noise"
    assert "pressure has noise of single points, 0.30%" in fault.message


def test_another_scheme_is_told(pairs):
    fine = physflow.data.darcy.generate(
        4, resolution=32, modes=16, seed=5, covariance="gaussian", correlation_length=0.4
    )
    coarse = fine.coarsen(x=2, y=2).mean().assign_attrs(fine.attrs)
    (fault,) = audit(coarse).faults
    assert fault.kind == "scheme"


def test_a_logarithm_is_noticed(pairs):
    ds = changed(pairs, permeability=np.log(pairs["permeability"]))
    found = audit(ds)
    assert [fault.kind for fault in found.faults] == ["encoding"]
    xr.testing.assert_allclose(repair(ds, found)["permeability"], pairs["permeability"], rtol=1e-6)


def test_labels_of_two_materials_are_noticed():
    ds = good("FNO's law", 3)
    K = ds["permeability"].values
    found = audit(changed(ds, permeability=(K > 5), pressure=5 * ds["pressure"].values))
    assert [fault.kind for fault in found.faults] == ["encoding", "scale"]
    # The levels are 3 and 12: labels 1 and 4 make the pressure three times as large.
    assert found.reading.encoding.contrast == pytest.approx(4, rel=0.03)
    assert found.reading.scale == pytest.approx(5 / 3, rel=0.03)
    assert found.reading.error < 0.01


def test_other_constants(pairs):
    p = pairs["pressure"].values
    assert kinds_of(changed(pairs, pressure=-p)) == ["sign"]
    assert kinds_of(changed(pairs, pressure=-2 * p)) == ["sign", "scale"]
    fault = audit(changed(pairs, pressure=4 * p)).faults[0]
    assert "which is sqrt(n)" in fault.message
    walls = good("no pressure at the walls", 1)
    standardised = (walls["pressure"].values - 0.02) / 0.1
    assert kinds_of(changed(walls, pressure=standardised)) == ["scale", "offset"]


def test_coordinates_of_another_kind(pairs):
    nodes = np.linspace(0, 1, 16)
    assert kinds_of(pairs.assign_coords(x=nodes, y=nodes)) == ["spacing"]
    assert kinds_of(pairs.assign_coords(x=pairs["x"] - 1 / 32, y=pairs["y"] - 1 / 32)) == ["shift"]
    published = good("CoCoGen's scheme", 1)
    cells = (np.arange(20) + 0.5) * float(published["x"][1])
    assert kinds_of(published.assign_coords(x=cells, y=cells)) == ["centering"]
    assert kinds_of(published.assign_attrs(equation="Darcy", faces="harmonic", centering="cells")) != []


def test_what_no_reading_explains(pairs):
    noise = np.random.default_rng(0).standard_normal(pairs["pressure"].shape)
    ds = changed(pairs, pressure=noise)
    found = audit(ds)
    assert [fault.kind for fault in found.faults] == ["unexplained"]
    with pytest.raises(ValueError, match=r"no reading explains the pairs.*solve=True \(--solve\)"):
        repair(ds, found)
    xr.testing.assert_allclose(repair(ds, found, solve=True)["pressure"], pairs["pressure"], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["wells", "one source everywhere"])
def test_a_constant_is_no_solution(kind, value):
    ds = good(kind, 0)
    found = audit(changed(ds, pressure=np.full(ds["pressure"].shape, value)))
    assert [fault.kind for fault in found.faults] == ["unexplained"]
    assert found.reading.error == pytest.approx(1)


def test_a_few_pairs_that_are_wrong(pairs):
    p = pairs["pressure"].values.copy()
    p[[3, 7]] = p[[7, 3]]
    found = audit(changed(pairs, pressure=p), samples=24)
    assert [fault.kind for fault in found.faults] == ["pairing"]
    assert "2 of 24 inputs do not have their solution beside them: that of sample 3 is stored in sample 7" in str(found)
    xr.testing.assert_allclose(repair(changed(pairs, pressure=p), found)["pressure"], pairs["pressure"])
    p[3] = 0.0
    found = audit(changed(pairs, pressure=p), samples=24)
    assert [fault.kind for fault in found.faults] == ["pairing"]
    with pytest.warns(UserWarning, match="1 of 24 inputs have no solution in the file and are left out"):
        assert repair(changed(pairs, pressure=p), found).sizes["sample"] == 23


@pytest.mark.parametrize("std", [0.1, 0.3])
def test_shuffled_pairs_that_are_much_alike(std):
    ds = physflow.data.darcy.generate(24, 16, modes=16, std=std)
    every = changed(ds, pressure=np.roll(ds["pressure"].values, 1, axis=0))
    found = audit(every)
    assert [fault.kind for fault in found.faults] == ["pairing"]
    xr.testing.assert_equal(repair(every, found)["pressure"], ds["pressure"])
    p = ds["pressure"].values.copy()
    p[:10] = np.roll(p[:10], 1, axis=0)
    assert kinds_of(changed(ds, pressure=p), samples=24) == ["pairing"]


def test_noise_on_some_samples_alone(pairs):
    p = pairs["pressure"].values.copy()
    p[:7] += 0.05 * p.std() * np.random.default_rng(0).standard_normal(p[:7].shape)
    (fault,) = audit(changed(pairs, pressure=p), samples=24).faults
    assert fault.kind == "samples"
    assert fault.message.startswith("7 of 24 solutions are not those of their inputs")


def test_copies_of_a_sample_are_no_fault(pairs):
    twice = xr.concat([pairs, pairs], "sample", data_vars="all")
    p = twice["pressure"].values
    p[5] = 0.0
    found = audit(changed(twice, pressure=p), samples=48)
    assert [fault.kind for fault in found.faults] == ["pairing"]
    assert "1 of 48 inputs" in str(found)


def test_positive_logarithms_and_labels(pairs):
    log = np.log(pairs["permeability"].values) * 0.3
    K = physflow.pde.from_dataset(pairs)
    p = K.solve(torch.from_numpy(np.exp(log)).double()).numpy()
    shifted = 3 + log
    assert kinds_of(changed(pairs, permeability=shifted, pressure=p * np.exp(-3))) == ["encoding"]
    ds = good("FNO's law", 3)
    found = audit(changed(ds, permeability=1 + (ds["permeability"].values > 5)))
    assert [fault.kind for fault in found.faults] == ["encoding", "scale"]
    assert found.reading.encoding.contrast == 4


def test_fields_turned_on_cells_that_are_not_square():
    ds = physflow.data.poisson.generate(12, 16, extent=(1.0, 2.0))
    for names in (["source"], ["potential"], ["source", "potential"]):
        turned = changed(ds, **{name: ds[name].values.transpose(0, 2, 1) for name in names})
        found = audit(turned)
        assert {fault.kind for fault in found.faults} == {"orientation"}
        assert audit(repair(turned, found)).clean


def test_a_custom_source_survives_repair():
    grid = Grid((12, 12))
    f = np.zeros(grid.shape)
    f[2, 3], f[8, 7] = 50.0, -50.0
    equation = physflow.pde.Darcy(grid, source=f)
    K = torch.from_numpy(np.exp(np.random.default_rng(0).standard_normal((6, 12, 12)) / 2))
    ds = to_dataset(torch.stack([K, 2 * equation.solve(K)], 1), equation.fields, grid, equation.attributes())
    ds["source"] = (grid.axes, f)
    found = audit(ds)
    assert [fault.kind for fault in found.faults] == ["scale"]
    assert audit(repair(ds, found)).clean


def test_periodic_coordinates_may_begin_anywhere():
    ds = physflow.data.poisson.generate(6, 16, boundary="periodic")
    assert audit(ds.assign_coords(x=ds["x"] - 1 / 32, y=ds["y"] - 1 / 32)).clean


UNDONE = [corrupt for corrupt in CORRUPTIONS if CORRUPTIONS[corrupt] not in ("shift", "noise")]


@pytest.mark.parametrize("corrupt", UNDONE, ids=lambda corrupt: corrupt.__name__)
def test_what_can_be_undone_is(corrupt):
    ds, kind = corrupt(good("wells", 1), np.random.default_rng(1))
    found = repair(ds, audit(ds))
    assert audit(found).clean
    assert found.attrs["repaired"] == kind
    assert physflow.pde.score(found)["solution_error"].max() < 1e-6


def test_noise_is_left_alone_and_a_solve_removes_it():
    noisy = next(corrupt for corrupt in CORRUPTIONS if CORRUPTIONS[corrupt] == "noise")
    ds, _ = noisy(good("wells", 1), np.random.default_rng(1))
    found = audit(ds)
    left = repair(ds, found)
    xr.testing.assert_equal(left["pressure"], ds["pressure"])
    assert left.attrs["repaired"] == ""
    assert audit(repair(ds, found, solve=True)).clean


def test_the_published_layout_and_its_faults(tmp_path):
    """The code that made the published pairs saves the pressure transposed, and a standard deviation off by sqrt(n)."""
    ds = good("CoCoGen's scheme", 2, samples=6)
    for i, (K, p) in enumerate(zip(ds["permeability"].values, ds["pressure"].values, strict=True)):
        np.save(tmp_path / f"K_{i}.npy", K)
        np.save(tmp_path / f"P_{i}.npy", p.T)
    folder = physflow.data.open(tmp_path)
    wrong = float(folder["permeability"].std()) * 20**0.5
    found = audit(folder, std={"permeability": wrong})
    assert [fault.kind for fault in found.faults] == ["orientation", "constants"]
    assert "pressure is transposed" in str(found)
    assert "sqrt(20), the number of rows" in str(found)
    assert found.reading.equation.attributes()["equation"] == "DarcyNodes"
    mended = repair(folder, found)
    np.testing.assert_array_equal(mended["pressure"], ds["pressure"])
    assert physflow.pde.score(mended)["solution_error"].max() < 1e-6


def test_pairs_without_attributes(pairs):
    ds = pairs.drop_attrs()
    found = audit(ds)
    assert found.clean
    assert found.reading.equation.attributes() == physflow.pde.from_dataset(pairs).attributes()
    walls = good("one source everywhere", 0).drop_attrs()
    assert audit(walls).clean
    assert kinds_of(changed(walls, pressure=walls["pressure"].values[:, ::-1])) == ["orientation"]


def test_nodes_without_a_word_on_them():
    ds = good("CoCoGen's scheme", 0)
    found = audit(ds.drop_attrs())
    assert found.clean
    np.testing.assert_array_equal(repair(ds.drop_attrs(), found)["x"], ds["x"])


def test_coarsely_stored_pairs_are_good():
    assert audit(good("wells", 0).astype("float16", keep_attrs=True)).clean


@pytest.mark.parametrize(
    "attrs", [{"equation": "-div(K grad p)=f"}, {"boundary": "open"}, {"centering": "nodes"}, {"source": "custom"}]
)
def test_what_the_file_says_may_be_impossible(pairs, attrs):
    found = audit(pairs.assign_attrs(attrs))
    assert found.faults[0].kind == "equation"
    assert "what the file says of its equation cannot be" in found.faults[0].message
    assert found.reading.error < 1e-6


def test_pairs_of_another_equation_are_not_audited():
    ds = physflow.data.burgers.generate(2, 16, instants=3)
    with pytest.raises(ValueError, match="only pairs of Darcy and Poisson are audited, and the file says Burgers"):
        audit(ds)


def test_what_is_said_of_samples_goes_with_them(pairs):
    ds = changed(pairs, pressure=2 * pairs["pressure"].values)
    ds = ds.assign(note=("sample", np.arange(24))).assign_coords(sample=np.arange(100, 124))
    mended = repair(ds, audit(ds))
    xr.testing.assert_equal(mended["note"], ds["note"])


def test_one_sample_and_one_row(pairs):
    assert audit(pairs.isel(sample=[3])).clean
    thin = physflow.data.darcy.generate(3, resolution=(16, 2), modes=4, seed=1)
    assert audit(thin).clean


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.isel(sample=[]), "there are no samples to audit"),
        (
            lambda ds: ds.rename(permeability="K"),
            r"expected pairs of permeability and pressure or source and potential",
        ),
        (lambda ds: changed(ds, pressure=ds["pressure"].where(ds["pressure"] < 0.01)), "NaN or infinite"),
        (lambda ds: changed(ds, permeability=ds["permeability"] * 100 - 150), "neither|too large for logarithms"),
    ],
)
def test_what_cannot_be_audited(pairs, change, message):
    with pytest.raises(ValueError, match=message):
        audit(change(pairs))


def test_settings_that_cannot_be(pairs):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        audit(pairs, samples=0)
    with pytest.raises(ValueError, match="std of an unknown field 'presure'; did you mean 'pressure'"):
        audit(pairs, std={"presure": 1.0})
    with pytest.raises(ValueError, match="must be positive and finite, got -1"):
        audit(pairs, std={"pressure": -1.0})


def test_the_command(pairs, tmp_path, capsys):
    path, mended = tmp_path / "pairs.nc", tmp_path / "mended.nc"
    physflow.data.write(changed(pairs, pressure=pairs["pressure"].values.transpose(0, 2, 1)), path)
    assert code_of(path, "--repair", mended) == 1
    assert "fault: orientation: pressure is transposed" in capsys.readouterr().out
    assert code_of(mended, "--std", "permeability=100") == 1
    assert "in use is 100" in capsys.readouterr().out
    assert code_of(mended) == 0
    assert "no fault found" in capsys.readouterr().out
    assert code_of(mended, "--repair", tmp_path / "again.nc") == 0
    assert "not written, for there is nothing to repair" in capsys.readouterr().out
    assert not (tmp_path / "again.nc").exists()


def test_the_command_on_variables_of_other_names(pairs, tmp_path, capsys):
    other = pairs.rename(permeability="K", pressure="head", sample="run").drop_attrs()
    other.to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    names = ["--fields", "permeability=K,pressure=head", "--sample", "run"]
    assert code_of(tmp_path / "other.nc", *names) == 0
    assert "no fault found" in capsys.readouterr().out
    assert code_of(tmp_path / "other.nc", "--fields", "permeability") == 2
    assert "expected --fields to be NAME=VALUE" in capsys.readouterr().err
    assert code_of(tmp_path / "other.nc", "--std", "pressure=a") == 2
    assert "expected a number for the standard deviation of pressure, got 'a'" in capsys.readouterr().err
    assert code_of(tmp_path / "other.nc", "--solve") == 2
    assert "--solve is for --repair" in capsys.readouterr().err
