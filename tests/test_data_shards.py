"""A folder of shards read as one Dataset: any selection, any thread, and an error instead of wrong data."""

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from counting import NAMES, contents, recipe, values

from physflow import data
from physflow.data import shards
from physflow.data.files import FieldReader
from physflow.data.production import produce
from physflow.data.shard_index import INDEX, ShardIndex
from physflow.data.shards import Shards

REPAIR = "run the same generate command again to complete the set"


@pytest.fixture
def folder(tmp_path):
    """19 samples in shards of 4."""
    produce(recipe(19), tmp_path / "set", shard=4).close()
    return tmp_path / "set"


@pytest.fixture
def held():
    return produce(recipe(19))


class TestIndex:
    def test_round_trip(self, folder):
        index = ShardIndex.read(folder)
        assert (index.samples, index.shard, len(index)) == (19, 4, 5)
        assert [index.count(k) for k in range(5)] == [4, 4, 4, 4, 3]
        assert json.loads((folder / INDEX).read_text()) == json.loads(index.to_json())

    @pytest.mark.parametrize(("samples", "shards"), [(0, 1), (1, 1), (8, 1), (9, 2), (16, 2)])
    def test_number_of_shards(self, samples, shards):
        index = ShardIndex({"samples": samples}, 8, "1")
        assert len(index) == shards
        assert sum(index.count(k) for k in range(shards)) == samples

    def test_only_the_number_of_samples_is_left_out_of_the_shards_fingerprint(self):
        one, more, other = (ShardIndex({"samples": n, "seed": s}, 8, "1") for n, s in ((1, 0), (2, 0), (1, 1)))
        assert one.shard_fingerprint == more.shard_fingerprint != other.shard_fingerprint
        assert len({one.fingerprint, more.fingerprint, other.fingerprint}) == 3

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"samples": 20}, "its entries contradict one another"),
            ({"shards": []}, "its entries contradict one another"),
            ({"settings": {"samples": -1}}, "samples must be a whole number of at least 0, got -1"),
            ({"settings": {}}, "samples must be a whole number of at least 0, got None"),
            ({"settings": 3}, "'int' object has no attribute"),
            ({"samples_per_shard": "4"}, "shard must be a whole number of at least 1, got '4'"),
            (
                {"format": "physflow-shards-9"},
                "format 'physflow-shards-9', this version reads 'physflow-shards-1'; upd",
            ),
        ],
        ids=str,
    )
    def test_a_damaged_index(self, folder, change, reason):
        content = json.loads((folder / INDEX).read_text())
        (folder / INDEX).write_text(json.dumps({**content, **change}))
        with pytest.raises(
            ValueError,
            match=rf"index.json is not the index of a set .*make the set again with .*overwrite \({reason}",
        ):
            data.open(folder)

    @pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
    def test_no_json_of_ours(self, folder, text):
        (folder / INDEX).write_text(text)
        with pytest.raises(ValueError, match=r"index.json is not the index of a set of shards"):
            data.open(folder)

    def test_a_folder_of_something_else(self, tmp_path):
        with pytest.raises(ValueError, match=r"is a folder without index.json, not a set of shards; give a file, or"):
            data.open(tmp_path)


class TestDataset:
    @pytest.mark.parametrize("samples", [0, 1, 4, 19])
    def test_it_is_the_one_of_a_single_file(self, tmp_path, samples):
        produce(recipe(samples), tmp_path / "set", shard=4).close()
        with data.open(tmp_path / "set") as ds, produce(recipe(samples), tmp_path / "a.nc") as single:
            assert list(ds.attrs) == list(single.attrs)
            xr.testing.assert_identical(ds.load(), single.load())

    @pytest.mark.parametrize(
        "key",
        [
            {"sample": slice(None)},
            {"sample": slice(3, 9)},
            {"sample": slice(-2, None)},
            {"sample": slice(None, None, -3)},
            {"sample": slice(2, 2)},
            {"sample": 7},
            {"sample": -1},
            {"sample": [18, 0, 5, 5]},
            {"sample": [-1, 3]},
            {"sample": []},
            {"sample": np.arange(19) % 2 == 0},
            {"x": 1},
            {"sample": [3, 17], "x": [2, 0], "y": slice(None, None, -2)},
            {"sample": 2, "x": -1, "y": [3, 1]},
            {"sample": slice(1, 12, 5), "y": 0},
            {"sample": xr.DataArray([1, 18, 4], dims="p"), "x": xr.DataArray([0, 2, 1], dims="p")},
        ],
        ids=str,
    )
    def test_any_selection(self, folder, held, key):
        with data.open(folder) as ds:
            xr.testing.assert_identical(ds.isel(key).load(), held.isel(key))

    def test_selections_of_selections(self, folder, held):
        with data.open(folder) as ds:
            for chosen, expected in ((ds, held),):
                chosen = (
                    chosen.isel(sample=slice(2, 18)).isel(sample=[9, 1], y=slice(1, 3)).transpose("y", "sample", "x")
                )
                expected = expected.isel(sample=slice(2, 18)).isel(sample=[9, 1], y=slice(1, 3))
                xr.testing.assert_identical(chosen.load(), expected.transpose("y", "sample", "x"))

    def test_opening_reads_no_samples_and_selecting_only_those_asked_for(self, folder, monkeypatch):
        read = []
        monkeypatch.setattr(
            shards, "read_rows", lambda d, rows: read.append((d.file.filename[-4], *rows)) or d[:][rows]
        )
        with data.open(folder) as ds:
            lazy = ds["pressure"].isel(sample=[1, 9])
            assert read == []
            lazy.load()
            assert read == [("0", 1), ("2", 1)]

    def test_writing_to_it_changes_no_file(self, folder):
        before = contents(folder)
        with data.open(folder) as ds:
            ds["pressure"][3] = 0
            assert float(ds["pressure"][3].max()) == 0
        assert contents(folder) == before

    def test_closed_it_holds_no_file(self, folder):
        with data.open(folder) as ds:
            ds["pressure"].isel(sample=slice(0, 6)).load()
            with pytest.raises(OSError, match="already open"):
                h5py.File(folder / "shard-00001.nc", "r+")
        h5py.File(folder / "shard-00001.nc", "r+").close()

    def test_pickled_it_opens_its_own_files(self, folder, held, monkeypatch):
        monkeypatch.chdir(folder.parent)
        with data.open("set") as ds:
            ds["pressure"].isel(sample=0).load()
            pickled = pickle.dumps(ds)
        monkeypatch.chdir("/")
        with pickle.loads(pickled) as again:
            xr.testing.assert_identical(again.load(), held)

    def test_several_threads_with_few_open_files(self, folder, monkeypatch):
        monkeypatch.setattr(shards, "OPEN_FILES", 2)
        rng = np.random.default_rng(0)
        wanted = [rng.integers(0, 19, 30) for _ in range(40)]
        reader = Shards(folder)
        with ThreadPoolExecutor(4) as executor:
            for rows, found in zip(wanted, executor.map(lambda r: reader.read("pressure", r), wanted), strict=True):
                np.testing.assert_array_equal(found, values(rows)[:, 1])
        reader.close()


class TestReader:
    @pytest.mark.parametrize("indices", [[0], [3, 1, 1, 16], [], slice(2, 15), slice(0, 0), slice(-1, None)])
    def test_reads_what_is_asked_for_in_order(self, folder, indices):
        expected = torch.from_numpy(values(np.arange(19)[indices]))
        assert torch.equal(FieldReader(folder, NAMES).read(indices), expected)
        assert torch.equal(FieldReader(folder, NAMES[::-1]).read(indices), expected.flip(1))

    def test_batches_cover_all(self, folder):
        reader = FieldReader(folder, NAMES, torch.float64)
        assert len(reader) == 19
        assert torch.equal(torch.cat(list(reader.batches(5))), torch.from_numpy(values(np.arange(19), "float64")))
        reader.close()

    def test_travels_to_another_process(self, folder):
        reader = FieldReader(folder, NAMES)
        reader.read([0])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read([7]), values([7]))

    @pytest.mark.parametrize("indices", [[19], [-1]])
    def test_no_such_sample(self, folder, indices):
        with pytest.raises(IndexError, match="samples are numbered 0 to 18, got"):
            FieldReader(folder, NAMES).read(indices)

    def test_unknown_field(self, folder):
        with pytest.raises(ValueError, match="no variable 'presure'; did you mean 'pressure'"):
            FieldReader(folder, ["presure"])


def rewrite(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


class TestDamage:
    @pytest.mark.parametrize("k", [0, 2, 4])
    def test_a_missing_shard(self, folder, k):
        (folder / f"shard-0000{k}.nc").unlink()
        with pytest.raises(ValueError, match=rf"shard-0000{k}.nc is missing; {REPAIR}"):
            data.open(folder)

    def test_several_missing_shards(self, folder):
        for k in (1, 2, 4):
            (folder / f"shard-0000{k}.nc").unlink()
        with pytest.raises(ValueError, match=r"shard-00001.nc and 2 more are missing"):
            data.open(folder)

    @pytest.mark.parametrize("size", [0, 100])
    def test_a_shard_too_small_for_its_fields(self, folder, size):
        os.truncate(folder / "shard-00003.nc", size)
        with pytest.raises(ValueError, match=rf"shard-00003.nc is truncated: it has {size} bytes; {REPAIR}"):
            data.open(folder)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda path: os.truncate(path, path.stat().st_size - 1), "is truncated or no netCDF-4/HDF5 file"),
            (lambda path: path.write_bytes(b"x" * 99999), "is truncated or no netCDF-4/HDF5 file"),
            (
                lambda path: path.write_bytes(path.with_name("shard-00001.nc").read_bytes()),
                "is no shard 2 of this set: its first is 4, expected 8",
            ),
            (
                lambda path: rewrite(path, lambda file: file.attrs.modify("fingerprint", "other")),
                "is no shard 2 of this set: its fingerprint is other, expected ",
            ),
            (
                lambda path: rewrite(path, lambda file: file.attrs.create("first", [8, 9])),
                r"is no shard 2 of this set: its first is \[8, 9\], expected 8",
            ),
            (
                lambda path: rewrite(path, lambda file: file.attrs.__delitem__("fingerprint")),
                "is no shard 2 of this set: its fingerprint is None, expected ",
            ),
            (
                lambda path: rewrite(path, lambda file: file.move("pressure", "p")),
                "is no shard 2 of this set: its pressure is None, expected ",
            ),
        ],
        ids=["last byte", "text", "another shard", "another set", "two numbers", "no attribute", "no field"],
    )
    def test_a_shard_found_wrong_when_it_is_read(self, folder, held, damage, message):
        damage(folder / "shard-00002.nc")
        with data.open(folder) as ds:
            xr.testing.assert_equal(ds.isel(sample=slice(8)).load(), held.isel(sample=slice(8)))
            with pytest.raises(ValueError, match=rf"shard-00002.nc {message}.*; {REPAIR}"):
                ds.isel(sample=9).load()
        with pytest.raises(ValueError, match=r"shard-00002.nc"):
            FieldReader(folder, NAMES).read(slice(0, 12))

    @pytest.mark.parametrize("k", [1, 4])
    def test_the_first_shard_tells_the_others_apart(self, folder, k):
        (folder / "shard-00000.nc").write_bytes((folder / f"shard-0000{k}.nc").read_bytes())
        with pytest.raises(
            ValueError, match=rf"shard-00000.nc is no shard 0 of this set: its first is {4 * k}, .*{REPAIR}"
        ):
            data.open(folder)

    def test_a_shard_lost_while_the_set_is_open(self, folder):
        with data.open(folder) as ds:
            (folder / "shard-00002.nc").unlink()
            with pytest.raises(ValueError, match=rf"shard-00002.nc is missing; {REPAIR}"):
                ds.load()

    def test_completed_it_opens(self, folder, held):
        (folder / "shard-00002.nc").unlink()
        produce(recipe(19), folder).close()
        with data.open(folder) as ds:
            xr.testing.assert_identical(ds.load(), held)
