"""Shards in one piece: the bytes of the single file, or the same Dataset in Zarr, whole or not at all."""

import importlib.util
import os

import numpy as np
import pytest
import xarray as xr
from counting import contents, recipe

from physflow import data
from physflow.data import merging
from physflow.data.darcy import generate
from physflow.data.merging import merge
from physflow.data.production import produce


@pytest.fixture
def folder(tmp_path):
    """19 samples in shards of 8."""
    produce(recipe(19), tmp_path / "set", shard=8).close()
    return tmp_path / "set"


@pytest.mark.parametrize("samples", [0, 1, 8, 19])
@pytest.mark.parametrize("piece", [1, 1000, 2**25])
def test_netcdf_is_the_single_file_to_the_byte(tmp_path, samples, piece, monkeypatch):
    monkeypatch.setattr(merging, "SHARD_BYTES", piece)
    produce(recipe(samples), tmp_path / "set", shard=8).close()
    produce(recipe(samples), tmp_path / "single.nc").close()
    assert merge(tmp_path / "set", tmp_path / "merged.nc") == tmp_path / "merged.nc"
    assert (tmp_path / "merged.nc").read_bytes() == (tmp_path / "single.nc").read_bytes()


@pytest.mark.parametrize(
    "law",
    [
        {"resolution": (7, 10), "extent": (0.7, 1.3), "modes": 4},
        {"resolution": 8, "modes": 4, "discretization": "nodes", "dtype": "float64"},
        {"resolution": 8, "preset": "fno"},
    ],
    ids=str,
)
def test_and_so_it_is_for_the_generator(tmp_path, law):
    generate(70, **law, out=tmp_path / "set", shard=1).close()
    generate(70, **law, out=tmp_path / "single.nc").close()
    merge(tmp_path / "set", tmp_path / "merged.nc")
    assert (tmp_path / "merged.nc").read_bytes() == (tmp_path / "single.nc").read_bytes()


class TestZarr:
    @pytest.fixture(autouse=True)
    def zarr(self):
        return pytest.importorskip("zarr")

    @pytest.mark.parametrize("samples", [0, 1, 8, 19])
    def test_it_holds_the_same(self, tmp_path, samples, zarr):
        produce(recipe(samples), tmp_path / "set", shard=8).close()
        merge(tmp_path / "set", tmp_path / "a.zarr")
        with xr.open_zarr(tmp_path / "a.zarr", chunks=None) as ds:
            xr.testing.assert_identical(ds.load(), produce(recipe(samples)))
        assert zarr.open_group(tmp_path / "a.zarr", mode="r")["pressure"].chunks == (8, 3, 4)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "set"]

    def test_a_store_is_replaced_only_if_asked(self, folder, tmp_path):
        merge(folder, tmp_path / "a.zarr")
        with pytest.raises(
            FileExistsError, match=r"a.zarr exists; choose another name, or overwrite it \(overwrite=Tr"
        ):
            merge(folder, tmp_path / "a.zarr")
        produce(recipe(23), folder).close()
        merge(folder, tmp_path / "a.zarr", overwrite=True)
        with xr.open_zarr(tmp_path / "a.zarr", chunks=None) as ds:
            assert ds.sizes["sample"] == 23
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "set"]

    def test_another_folder_is_never_replaced(self, folder, tmp_path):
        (tmp_path / "a.zarr").mkdir()
        (tmp_path / "a.zarr" / "notes.txt").write_text("precious")
        with pytest.raises(FileExistsError, match=r"a.zarr is no Zarr store and is not replaced"):
            merge(folder, tmp_path / "a.zarr", overwrite=True)
        assert contents(tmp_path / "a.zarr") == {"notes.txt": b"precious"}

    def test_a_missing_folder(self, folder, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist; create it first"):
            merge(folder, tmp_path / "nowhere" / "a.zarr")

    def test_what_cannot_be_renamed_leaves_the_old_store(self, folder, tmp_path, monkeypatch):
        merge(folder, tmp_path / "a.zarr")
        rename = type(tmp_path).rename

        def failing(self, target):
            if self.name.endswith(".part"):
                raise OSError("no")
            return rename(self, target)

        monkeypatch.setattr(type(tmp_path), "rename", failing)
        with pytest.raises(OSError, match="no"):
            merge(folder, tmp_path / "a.zarr", overwrite=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "set"]
        with xr.open_zarr(tmp_path / "a.zarr", chunks=None) as ds:
            assert ds.sizes["sample"] == 19


def test_zarr_is_optional(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package zarr; install it: pip install 'physflow\[zarr\]'"):
        merge(folder, tmp_path / "a.zarr")


@pytest.mark.parametrize("name", ["merged.nc", "merged.zarr"])
def test_a_damaged_set_leaves_nothing(folder, tmp_path, name):
    os.truncate(folder / "shard-00001.nc", (folder / "shard-00001.nc").stat().st_size - 1)
    with pytest.raises(
        ValueError, match=r"shard-00001.nc is truncated .*; run the same generate command again to comple"
    ):
        merge(folder, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_existing_file_is_replaced_only_if_asked(folder, tmp_path):
    (tmp_path / "a.nc").write_text("precious")
    with pytest.raises(FileExistsError, match=r"a.nc exists"):
        merge(folder, tmp_path / "a.nc")
    merge(folder, tmp_path / "a.nc", overwrite=True)
    with data.open(tmp_path / "a.nc") as ds:
        np.testing.assert_array_equal(ds["pressure"][:, 0, 0], 100 * np.arange(19) + 50)


def test_another_format(folder, tmp_path):
    with pytest.raises(ValueError, match=r"expected the name of a file ending in '.nc' or '.zarr', got 'a.h5'"):
        merge(folder, tmp_path / "a.h5")


def test_the_bar_counts_pairs(folder, tmp_path, capsys):
    merge(folder, tmp_path / "a.nc", progress=True)
    assert "19/19" in capsys.readouterr().err
