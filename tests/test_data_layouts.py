"""Fields from elsewhere: each layout as others write it, and what is said where a file is not like that."""

import re

import h5py
import numpy as np
import pytest
import scipy.io
import torch
import xarray as xr
from wheels import unpacked

import physflow
from physflow.data import open as open_fields
from physflow.data.auditing.orientations import AS_STORED
from physflow.data.layouts import LAYOUTS

K = np.random.default_rng(0).uniform(1, 2, (5, 4, 4)).astype(np.float32)
P = np.random.default_rng(1).standard_normal((5, 4, 4)).astype(np.float32)


def neuraloperator(folder):
    torch.save({"x": torch.from_numpy(K), "y": torch.from_numpy(P)}, folder / "darcy.pt")
    return folder / "darcy.pt"


def matlab(folder):
    scipy.io.savemat(folder / "darcy.mat", {"coeff": K, "sol": P, "other": 1})
    return folder / "darcy.mat"


def matlab_7_3(folder):
    with h5py.File(folder / "darcy.mat", "w") as file:
        file["coeff"], file["sol"] = K.T, P.T
    return folder / "darcy.mat"


def pdebench(folder):
    with h5py.File(folder / "2D_DarcyFlow_beta1.0_Train.hdf5", "w") as file:
        file["nu"], file["tensor"] = K, P[:, None]
        file["x-coordinate"] = file["y-coordinate"] = (np.arange(4) + 0.5) / 4
        file["t-coordinate"] = np.arange(10.0)
    return folder / "2D_DarcyFlow_beta1.0_Train.hdf5"


def csv(folder, header=""):
    for name, u in (("K", K), ("p", P)):
        np.savetxt(folder / f"{name}_data.csv", u.reshape(5, -1), delimiter=",", header=header, comments="")
    return folder


def csv_with_numbers_above(folder):
    return csv(folder, ",".join(map(str, range(16))))


def csv_with_names_above(folder):
    return csv(folder, ",".join(f"u{i}" for i in range(16)))


def cocogen(folder):
    # Counted from 8, so that the order of names is not that of numbers.
    for i, (k, p) in enumerate(zip(K, P, strict=True), start=8):
        np.save(folder / f"K_{i}.npy", k)
        np.save(folder / f"P_{i}.npy", p)
        np.save(folder / f"W_{i}.npy", np.zeros(16))
    return folder


WRITERS = (
    *(neuraloperator, matlab, matlab_7_3, pdebench, csv, csv_with_numbers_above, csv_with_names_above),
    cocogen,
)


@pytest.mark.parametrize("write", WRITERS)
def test_every_layout_gives_the_same_fields(write, tmp_path):
    with open_fields(write(tmp_path)) as ds:
        assert dict(ds.sizes) == {"sample": 5, "x": 4, "y": 4}
        assert ds["permeability"].dims == ds["pressure"].dims == ("sample", "x", "y")
        np.testing.assert_allclose(ds["permeability"], K, rtol=1e-7)
        np.testing.assert_allclose(ds["pressure"], P, rtol=1e-7)
        assert ds.attrs["layout"] in {layout.name for layout in LAYOUTS}
        nodes = write is cocogen
        assert ds.attrs["centering"] == ("nodes" if nodes else "cells")
        np.testing.assert_allclose(ds["x"], np.linspace(0, 1, 4) if nodes else (np.arange(4) + 0.5) / 4)
        # All that follows takes it as it is.
        assert physflow.fields.grid_of(ds).shape == (4, 4)


def test_pdebench_is_opened_lazily(tmp_path):
    with open_fields(pdebench(tmp_path)) as ds:
        assert not ds["permeability"].variable._in_memory
        assert ds["pressure"].isel(sample=slice(2)).shape == (2, 4, 4)


def test_a_mask_becomes_numbers_and_axes_of_length_one_go(tmp_path):
    torch.save({"x": torch.from_numpy(K > 1.5)[:, None], "y": torch.from_numpy(P)[..., None]}, tmp_path / "m.pt")
    ds = open_fields(tmp_path / "m.pt")
    assert ds["permeability"].dtype == np.float32
    np.testing.assert_array_equal(ds["permeability"], (K > 1.5).astype(np.float32))
    np.testing.assert_array_equal(ds["pressure"], P)


def test_our_own_files_stay_what_they_were(tmp_path):
    physflow.data.darcy.generate(3, 8, modes=4, out=tmp_path / "ours.nc").close()
    physflow.data.darcy.generate(3, 8, modes=4, out=tmp_path / "shards").close()
    with open_fields(tmp_path / "ours.nc") as ds, open_fields(tmp_path / "shards") as shards:
        assert ds.attrs["equation"] == "Darcy"
        np.testing.assert_array_equal(ds["pressure"], shards["pressure"])


def test_gridded_fields_by_naming_variables(tmp_path):
    x = (np.arange(4) + 0.5) / 4
    ds = xr.Dataset(
        {
            "head": (("run", "x", "y"), P),
            "conductivity": (("run", "x", "y"), K),
            "depth": ("run", np.ones(5)),
        },
        coords={"x": x, "y": x},
    )
    ds.to_netcdf(tmp_path / "model.nc", engine="h5netcdf")
    names = {"permeability": "conductivity", "pressure": "head"}
    with open_fields(tmp_path / "model.nc", names, sample="run") as found:
        assert list(found.data_vars) == list(names)
        np.testing.assert_array_equal(found["pressure"].transpose("sample", "x", "y"), P)
    for settings, message in (
        ({"fields": {"pressure": "haed"}}, "has no variable 'haed'; did you mean 'head'"),
        ({"fields": names, "sample": "runs"}, "has no dimension 'runs'; did you mean 'run'"),
        ({"fields": names}, "has dimensions ('run', 'x', 'y') and no dimension 'sample'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            open_fields(tmp_path / "model.nc", **settings)


def test_zarr(tmp_path):
    pytest.importorskip("zarr", reason="zarr is an extra")
    x = (np.arange(4) + 0.5) / 4
    xr.Dataset({"head": (("sample", "x", "y"), P)}, coords={"x": x, "y": x}).to_zarr(
        tmp_path / "model.zarr", zarr_format=2
    )
    with open_fields(tmp_path / "model.zarr", {"pressure": "head"}) as ds:
        np.testing.assert_array_equal(ds["pressure"], P)
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(ValueError, match="is no readable Zarr store"):
        open_fields(tmp_path / "empty.zarr")


def broken():
    """Files and folders that are not quite of a layout, and what is said of them."""

    def tensors(folder, content):
        torch.save(content, folder / "a.pt")
        return folder / "a.pt"

    def hdf5(folder, **arrays):
        with h5py.File(folder / "a.hdf5", "w") as file:
            for key, value in arrays.items():
                file[key.replace("_", "-") if "coordinate" in key else key] = value
        return folder / "a.hdf5"

    def text(folder, K="1,2,3,4", p="1,2,3,4"):
        for key, content in (("K", K), ("p", p)):
            if content is not None:
                (folder / f"{key}_data.csv").write_text(content)
        return folder

    def arrays(folder, **files):
        for key, value in files.items():
            np.save(folder / f"{key}.npy", value)
        return folder

    def garbage(folder, file):
        (folder / file).write_bytes(b"no such thing" * 50)
        return folder / file

    k, axis = torch.ones(2, 3, 3), np.arange(3.0)
    return {
        "pt, garbage": (lambda f: garbage(f, "a.pt"), "a neuraloperator .pt file, but cannot be read as tensors"),
        "pt, a list": (lambda f: tensors(f, [k, k]), "but holds list; expected a dictionary of tensors x and y"),
        "pt, other keys": (lambda f: tensors(f, {"x": k, "z": k}), "but holds ['x', 'z']; expected a dictionary"),
        "pt, vectors": (lambda f: tensors(f, {"x": k[0], "y": k}), "but its permeability has the shape (3, 3)"),
        "pt, shapes": (
            lambda f: tensors(f, {"x": k, "y": k[:1]}),
            "but permeability has the shape (2, 3, 3) and pressure (1, 3, 3)",
        ),
        "pt, complex": (lambda f: tensors(f, {"x": k, "y": 1j * k}), "but its pressure is of type complex64"),
        "mat, garbage": (lambda f: garbage(f, "a.mat"), "looks like an FNO .mat file, but cannot be read"),
        "mat, other keys": (
            lambda f: (scipy.io.savemat(f / "a.mat", {"a": K, "u": P}), f / "a.mat")[1],
            "but holds ['a', 'u']; expected the arrays coeff and sol",
        ),
        "hdf5, garbage": (lambda f: garbage(f, "a.hdf5"), "a PDEBench Darcy file, but cannot be read, it may be"),
        "hdf5, no tensor": (lambda f: hdf5(f, nu=k), "but has no tensor, x-coordinate, y-coordinate (it holds ['nu'])"),
        "hdf5, shapes": (
            lambda f: hdf5(f, nu=k, tensor=k, x_coordinate=axis, y_coordinate=axis[:2]),
            "its shapes do not fit: nu (2, 3, 3), tensor (2, 3, 3), x-coordinate (3,), y-coordinate (2,)",
        ),
        "csv, one alone": (lambda f: text(f, p=None), "but it has no p_data.csv; expected K_data.csv and p_data.csv"),
        "csv, no square": (lambda f: text(f, K="1,2,3\n4,5,6"), "but it has 2 rows of 3 numbers"),
        "csv, words": (
            lambda f: text(f, K="1,2,3,4\n1,2,three,4"),
            "a cell is no number or a row is of another length",
        ),
        "csv, ragged": (lambda f: text(f, K="1,2,3,4\n1,2,3"), "a cell is no number or a row is of another length"),
        "npy, one alone": (
            lambda f: arrays(f, K_0=np.ones((3, 3)), P_0=np.ones((3, 3)), K_1=np.ones((3, 3))),
            "but it has K_1.npy and no P_1.npy, and 1 like this in all",
        ),
        "npy, shapes": (
            lambda f: arrays(f, K_0=np.ones((3, 3)), P_0=np.ones((3, 4))),
            "but P_0.npy has the shape (3, 4) and K_0.npy (3, 3)",
        ),
        "npy, garbage": (
            lambda f: (arrays(f, K_0=np.ones((3, 3))), garbage(f, "P_0.npy"), f)[2],
            "looks like a CoCoGen folder, but cannot be read as an array",
        ),
        "npy, objects": (
            lambda f: arrays(f, K_0=np.ones((3, 3)), P_0=np.array([{}], dtype=object)),
            "but cannot be read as an array (Object arrays cannot be loaded",
        ),
        "another ending": (lambda f: garbage(f, "a.xyz"), "is of no known layout; known are netCDF, Zarr, folders of"),
    }


@pytest.mark.parametrize(("make", "message"), broken().values(), ids=broken())
def test_what_is_not_of_its_layout_is_told(make, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        open_fields(make(tmp_path))


def test_nothing_there_and_names_that_are_not_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        open_fields(tmp_path / "absent.pt")
    with pytest.raises(ValueError, match="whose names are known: leave out fields and sample"):
        open_fields(neuraloperator(tmp_path), {"pressure": "y"})


def test_pickles_are_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"x": Evil(), "y": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        open_fields(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """The Darcy pairs that neuraloperator ships, from the package's wheel."""
    folder = unpacked("neuraloperator==0.2.0", tmp_path_factory.mktemp("neuraloperator"))
    return next(folder.rglob("darcy_test_16.pt")).parent


@pytest.mark.parametrize(
    ("file", "samples", "n"),
    [("darcy_train_16.pt", 1000, 16), ("darcy_test_16.pt", 50, 16), ("darcy_test_32.pt", 50, 32)],
)
def test_published_pairs(published, file, samples, n):
    ds = open_fields(published / file)
    assert dict(ds.sizes) == {"sample": samples, "x": n, "y": n}
    assert set(np.unique(ds["permeability"])) == {0.0, 1.0}
    assert -0.5 < float(ds["pressure"].min()) < float(ds["pressure"].max()) < 2.1


@pytest.mark.parametrize(("file", "error"), [("darcy_test_16.pt", 0.2), ("darcy_test_32.pt", 0.1)])
def test_what_the_published_pairs_are(published, file, error):
    """Labels of two materials and a scaled pressure, taken from a finer grid; neither field is turned."""
    reading = physflow.data.audit(open_fields(published / file)).reading
    assert reading.inputs == reading.solutions == AS_STORED
    assert (reading.equation.source, reading.equation.boundary) == ("constant", "dirichlet")
    assert reading.encoding.contrast == pytest.approx(16, rel=0.1)
    assert reading.error < error
