"""Sets made in pieces: the same bytes by any workers, after any interruption; refusals that name the fix."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
import xarray as xr
from counting import BLOCK, GRID, contents, make, recipe, values

from physflow.data import claims, production
from physflow.data.darcy import generate
from physflow.data.production import produce
from physflow.data.recipes import Recipe
from physflow.data.shard_index import INDEX, ShardIndex
from physflow.fields import to_dataset
from physflow.grid import Grid


class Immediate(Executor):
    """Runs each task when it is submitted, and remembers the tasks."""

    def __init__(self):
        self.arguments = []

    def submit(self, function, argument):
        self.arguments.append(argument)
        future = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(function(argument))
        except BaseException as error:
            future.set_exception(error)
        return future


class Answering(Executor):
    """Does nothing and gives an answer."""

    def __init__(self, result=None, error=None):
        self.result, self.error = result, error

    def submit(self, function, argument):
        future = Future()
        future.set_exception(self.error) if self.error else future.set_result(self.result)
        return future


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "set"


@pytest.fixture
def whole(tmp_path):
    """The files of 19 samples in shards of 8, made at one go."""
    produce(recipe(19), tmp_path / "whole", shard=8, executor=Immediate()).close()
    return contents(tmp_path / "whole")


def fails_at(*firsts, error=RuntimeError):
    def failing(first):
        if first in firsts:
            raise error("no convergence")
        return make(first)

    return failing


class TestWhere:
    @pytest.mark.parametrize("samples", [0, 1, 4, 5, 19])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_memory_file_and_folder_hold_the_same(self, tmp_path, samples, dtype):
        expected = values(np.arange(samples), dtype)
        held = produce(recipe(samples, dtype=dtype))
        for c, name in enumerate(held.data_vars):
            np.testing.assert_array_equal(held[name].values, expected[:, c])
            assert held[name].dtype == dtype
        for out in (tmp_path / "data.nc", tmp_path / "set"):
            with produce(recipe(samples, dtype=dtype), out) as ds:
                xr.testing.assert_identical(ds.load(), held)

    def test_a_folder_holds_an_index_and_shards(self, whole):
        assert sorted(whole) == [INDEX, "shard-00000.nc", "shard-00001.nc", "shard-00002.nc"]
        index = json.loads(whole[INDEX])
        assert (index["format"], index["samples"], index["samples_per_shard"]) == ("physflow-shards-1", 19, 8)
        assert index["settings"] == {"samples": 19, "law": "counting", "dtype": "float32"}
        assert index["shards"] == sorted(whole)[1:]

    def test_each_shard_is_a_complete_file(self, tmp_path, whole):
        held = produce(recipe(19))
        for k, count in enumerate([8, 8, 3]):
            with xr.open_dataset(tmp_path / "whole" / f"shard-0000{k}.nc", engine="h5netcdf") as ds:
                assert ds.attrs.pop("first") == 8 * k
                assert ds.attrs.pop("fingerprint") != held.attrs["fingerprint"], "it does not name all samples"
                part = held.isel(sample=slice(8 * k, 8 * k + count)).load()
                xr.testing.assert_equal(ds, part)
                assert ds.attrs == {key: value for key, value in part.attrs.items() if key != "fingerprint"}

    def test_no_block_is_made_twice(self, folder):
        made = []
        produce(recipe(19, lambda first: made.append(first) or make(first)), folder, shard=5).close()
        assert ShardIndex.read(folder).shard == 8, "rounded up to whole blocks"
        assert sorted(made) == [0, 4, 8, 12, 16]

    @pytest.mark.parametrize(
        ("shape", "dtype", "block", "shard"),
        [
            ((64, 64), "float32", 64, 1024),
            ((64, 64), "float64", 64, 512),
            ((48, 32), "float32", 64, 2752),
            ((2048, 2048), "float32", 4, 4),
        ],
    )
    def test_a_shard_is_about_32_mebibytes(self, shape, dtype, block, shard):
        template = to_dataset(torch.empty(0, 2, *shape, dtype=getattr(torch, dtype)), ("a", "b"), Grid(shape))
        assert Recipe(make, block, template, {"samples": 5}).samples_per_shard() == shard

    @pytest.mark.parametrize("name", ["data.h5", "data.zarr", "data.npz"])
    def test_another_format_is_no_folder(self, tmp_path, name):
        with pytest.raises(
            ValueError, match=r"a file name ending in '.nc', or the name of a folder, got .*; `physflow"
        ):
            produce(recipe(3), tmp_path / name)

    @pytest.mark.parametrize("out", [None, "data.nc"])
    def test_only_a_folder_has_shards(self, out):
        with pytest.raises(ValueError, match=r"shard= \(--shard\) is for a folder of shards"):
            produce(recipe(3), out, shard=4)

    @pytest.mark.parametrize("shard", [0, -1, 2.5, True])
    def test_impossible_shards(self, folder, shard):
        with pytest.raises(ValueError, match=f"shard must be a whole number of at least 1, got {shard}"):
            produce(recipe(3), folder, shard=shard)


class TestWho:
    @pytest.mark.parametrize("executor", [None, Immediate(), ThreadPoolExecutor(3)], ids=lambda e: type(e).__name__)
    def test_the_files_do_not_depend_on_it(self, folder, whole, executor):
        produce(recipe(19), folder, shard=8, executor=executor).close()
        assert contents(folder) == whole

    @pytest.mark.slow
    def test_nor_on_processes(self, folder, whole):
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
            produce(recipe(19), folder, shard=8, executor=executor).close()
            assert contents(folder) == whole
            xr.testing.assert_identical(produce(recipe(19), executor=executor), produce(recipe(19)))

    def test_nor_on_a_dask_cluster_of_two_processes(self, tmp_path):
        distributed = pytest.importorskip("distributed")
        small = {"resolution": 8, "modes": 4}
        workers = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
        expected = generate(300, **small, out=tmp_path / "here", shard=64)
        with distributed.LocalCluster(**workers) as cluster, distributed.Client(cluster) as client:
            there = generate(300, **small, out=tmp_path / "there", shard=64, executor=client.get_executor())
            with expected, there:
                xr.testing.assert_identical(there.load(), expected.load())
        assert contents(tmp_path / "there") == contents(tmp_path / "here")

    def test_a_bounded_number_of_tasks_is_under_way(self, folder, monkeypatch):
        monkeypatch.setattr(production, "SHARDS_UNDER_WAY", 3)
        monkeypatch.setattr(production, "BLOCKS_UNDER_WAY", 2)

        class Counting(ThreadPoolExecutor):
            under_way = most = 0

            def submit(self, function, argument):
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                return super().submit(self.carry_out, function, argument)

            def carry_out(self, function, argument):
                time.sleep(0.001)
                self.under_way -= 1
                return function(argument)

        with Counting(1) as executor:
            produce(recipe(80), folder, shard=4, executor=executor).close()
            assert 2 <= executor.most <= 3
            executor.most = 0
            produce(recipe(80), executor=executor)
            assert executor.most == 2

    def test_the_number_of_threads_is_given_back(self, folder):
        before, inside = torch.get_num_threads(), []
        torch.set_num_threads(2)
        try:
            produce(recipe(4, lambda first: inside.append(torch.get_num_threads()) or make(first)), folder).close()
            assert (inside, torch.get_num_threads()) == ([1], 2)
        finally:
            torch.set_num_threads(before)

    def test_a_dead_worker(self, folder):
        message = r"a worker process ended abruptly, .*: use fewer workers; a folder of shards goes on .* \(killed\)"
        with pytest.raises(RuntimeError, match=message):
            produce(recipe(19), folder, executor=Answering(error=BrokenExecutor("killed")))

    def test_a_worker_that_writes_elsewhere(self, folder, monkeypatch):
        monkeypatch.setattr(production, "PATIENCE", 0.05)
        with pytest.raises(
            RuntimeError, match=r"has written .*shard-00000.nc, but there is no such file here; the fold"
        ):
            produce(recipe(3), folder, executor=Answering(result=3))

    def test_a_worker_that_does_not_see_the_folder(self, folder):
        class Elsewhere(Immediate):
            def submit(self, function, argument):
                folder.rename(folder.with_name("here"))
                return super().submit(function, argument)

        with pytest.raises(RuntimeError, match=r"a worker on \S+ finds no .*index.json; .* on a shared disk"):
            produce(recipe(3), folder, executor=Elsewhere())

    def test_a_file_that_appears_late(self, folder):
        class Late(Immediate):
            def submit(self, function, argument):
                future = super().submit(function, argument)
                (folder / "shard-00000.nc").rename(folder / "hidden")
                threading.Timer(0.1, lambda: (folder / "hidden").rename(folder / "shard-00000.nc")).start()
                return future

        with produce(recipe(3), folder, executor=Late()) as ds:
            assert ds.sizes["sample"] == 3


class TestResume:
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    @pytest.mark.parametrize("at", [0, 8, 12, 16])
    def test_after_an_error_the_rest_is_made(self, folder, whole, at, error):
        with pytest.raises(error), ThreadPoolExecutor(2) as executor:
            produce(recipe(19, fails_at(at, error=error)), folder, shard=8, executor=executor)
        there = contents(folder)
        assert there.items() <= whole.items(), "whole files only, and no temporary one"
        executor = Immediate()
        produce(recipe(19), folder, shard=8, executor=executor).close()
        assert contents(folder) == whole
        assert [f"shard-0000{k}.nc" for k in executor.arguments] == sorted(set(whole) - set(there))

    def test_on_an_error_what_runs_is_stopped_and_what_waits_cancelled(self, folder):
        started, made = threading.Event(), []

        def slow_or_failing(first):
            made.append(first)
            if first == 0:
                started.wait()
                raise RuntimeError("no convergence")
            started.set()
            time.sleep(0.02)
            return make(first)

        with pytest.raises(RuntimeError, match="no convergence"), ThreadPoolExecutor(2) as executor:
            produce(recipe(20_000, slow_or_failing), folder, shard=10_000, executor=executor)
        assert list(contents(folder)) == [INDEX]
        assert len(made) < 100, "far fewer than the blocks of a shard"

    def test_a_complete_set_is_only_looked_at(self, folder, whole):
        for _ in range(2):
            executor = Immediate()
            produce(recipe(19), folder, shard=8, executor=executor).close()
        assert executor.arguments == []
        assert contents(folder) == whole

    def test_the_size_of_the_shards_need_not_be_repeated(self, folder, whole):
        produce(recipe(19), folder, shard=8).close()
        (folder / "shard-00001.nc").unlink()
        produce(recipe(19), folder).close()
        assert contents(folder) == whole

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: os.truncate(path, 0),
            lambda path: os.truncate(path, 500),
            lambda path: os.truncate(path, path.stat().st_size - 1),
            lambda path: path.write_bytes(path.with_name("shard-00000.nc").read_bytes()),
            lambda path: path.write_bytes(path.with_name("shard-00002.nc").read_bytes()),
            lambda path: produce(recipe(8, dtype="float64"), path, overwrite=True).close(),
        ],
        ids=["empty", "header", "last byte", "the first", "the last", "another type"],
    )
    def test_a_damaged_shard_is_made_again_with_a_warning(self, folder, whole, damage):
        produce(recipe(19), folder, shard=8).close()
        damage(folder / "shard-00001.nc")
        executor = Immediate()
        with pytest.warns(UserWarning, match=r"shard-00001.nc is .*; it is made again") as warned:
            produce(recipe(19), folder, shard=8, executor=executor).close()
        assert len(warned) == 1
        assert executor.arguments == [1]
        assert contents(folder) == whole

    def test_the_bar_begins_where_the_set_is(self, folder, capsys):
        produce(recipe(19), folder, shard=8).close()
        (folder / "shard-00002.nc").unlink()
        produce(recipe(19), folder, progress=True).close()
        shown = capsys.readouterr().err.split("\r")
        assert "16/19" in shown[1]
        assert "19/19" in shown[-1]
        assert "sample/s" in shown[-1]


class TestGrowth:
    @pytest.mark.parametrize("samples", [0, 3, 8, 15, 16])
    def test_more_samples_are_added(self, folder, whole, samples):
        produce(recipe(samples), folder, shard=8).close()
        executor = Immediate()
        produce(recipe(19), folder, executor=executor).close()
        assert contents(folder) == whole
        assert executor.arguments == list(range(samples // 8, 3)), "full shards are kept"

    @pytest.mark.parametrize("kept", [["shard-00000.nc"], ["shard-00000.nc", "shard-00001.nc"]])
    def test_interrupted_growth_goes_on(self, folder, whole, kept):
        produce(recipe(11), folder, shard=8).close()
        for path in folder.glob("shard-*"):
            if path.name not in kept:
                path.unlink()
        with pytest.raises(RuntimeError, match="no convergence"):
            produce(recipe(19, fails_at(12)), folder, executor=Immediate())
        produce(recipe(19), folder).close()
        assert contents(folder) == whole

    def test_fewer_samples_are_refused(self, folder, whole):
        produce(recipe(19), folder, shard=8).close()
        message = (
            r"holds 19 samples, more than the 12 asked for; take some of them, ds.isel\(sample=slice\(12\)\), choo"
        )
        with pytest.raises(ValueError, match=message):
            produce(recipe(12), folder)
        assert contents(folder) == whole


class TestRefusals:
    @pytest.mark.parametrize(
        ("other", "shard", "difference"),
        [
            ({"seed": 1}, 8, "seed 'unknown' there, 1 here"),
            ({"law": "other"}, 8, "law 'counting' there, 'other' here"),
            ({"law": None}, 8, "law 'counting' there, None here"),
            ({"dtype": "float64"}, None, "dtype 'float32' there, 'float64' here"),
            ({}, 12, "samples per shard 8 there, 12 here"),
            ({"law": "b", "x": 1}, 12, "law 'counting' there, 'b' here; samples per shard 8 there, 12 here; .*x 'unkn"),
        ],
        ids=str,
    )
    def test_other_settings(self, folder, whole, other, shard, difference):
        produce(recipe(19), folder, shard=8).close()
        with pytest.raises(
            ValueError, match=rf"set holds a set of other settings: {difference}.*; choose .*--overwrite"
        ):
            produce(recipe(19, **other), folder, shard=shard)
        assert contents(folder) == whole

    def test_another_version(self, folder, monkeypatch):
        produce(recipe(3), folder).close()
        monkeypatch.setattr(claims, "__version__", "99")
        with pytest.raises(ValueError, match=r"physflow_version '.*' there, '99' here"):
            produce(recipe(3), folder)

    def test_a_folder_of_other_files(self, folder):
        folder.mkdir()
        (folder / "notes.txt").write_text("precious")
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match=r"holds other files and no set of shards; choose another folder"):
                produce(recipe(3), folder, overwrite=overwrite)
        assert contents(folder) == {"notes.txt": b"precious"}

    def test_a_file(self, folder):
        folder.write_text("precious")
        with pytest.raises(FileExistsError, match=r"set is a file; a name that does not end in '.nc' is a folder"):
            produce(recipe(3), folder, overwrite=True)

    def test_a_damaged_index(self, folder):
        produce(recipe(3), folder).close()
        (folder / INDEX).write_text("{")
        with pytest.raises(ValueError, match=r"index.json is not the index of a set of shards .* may be damaged"):
            produce(recipe(3), folder)

    def test_overwriting_deletes_the_set_and_nothing_else(self, folder, tmp_path):
        produce(recipe(40), folder, shard=4).close()
        for name in ("notes.txt", "shard-99999.nc"):
            (folder / name).write_text("precious")
        produce(recipe(19, seed=1), folder, shard=8, overwrite=True).close()
        files = contents(folder)
        assert files.pop("notes.txt") == files.pop("shard-99999.nc") == b"precious"
        produce(recipe(19, seed=1), tmp_path / "fresh", shard=8).close()
        assert files == contents(tmp_path / "fresh")


@pytest.mark.parametrize("index", [None, "{"])
def test_shards_without_a_readable_index_are_replaced_if_asked(tmp_path, index):
    folder = tmp_path / "set"
    produce(recipe(19), folder, shard=8).close()
    expected = contents(folder)
    (folder / INDEX).unlink()
    if index is not None:
        (folder / INDEX).write_text(index)
    with pytest.raises((FileExistsError, ValueError), match="overwrite=True, --overwrite"):
        produce(recipe(19), folder, shard=8)
    produce(recipe(19), folder, shard=8, overwrite=True).close()
    assert contents(folder) == expected
    (folder / INDEX).unlink()
    (folder / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="holds other files and no set of shards"):
        produce(recipe(19), folder, shard=8, overwrite=True)


def test_an_index_without_shards_claims_nothing(tmp_path):
    folder = tmp_path / "set"
    produce(recipe(19), folder, shard=8).close()
    for shard in folder.glob("shard-*"):
        shard.unlink()
    produce(recipe(5, seed=1), folder, shard=4).close()
    assert ShardIndex.read(folder).samples == 5


def test_an_empty_name_is_refused():
    with pytest.raises(ValueError, match="expected the name of a file or a folder for out, got an empty one"):
        produce(recipe(3), "")


class TestLeftovers:
    @pytest.fixture
    def dead(self):
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        return process.pid

    def part(self, folder, host, process, name="shard-00001.nc"):
        path = folder / f".{name}.{host}-{process}-0123abcd.89abcdef.part"
        path.touch()
        return path

    def test_files_of_dead_processes_go_and_others_stay(self, folder, dead):
        produce(recipe(3), folder).close()
        here = claims.caller_name().split(f"-{os.getpid()}-")[0]
        gone = [self.part(folder, here, dead), self.part(folder, here, os.getpid()), self.part(folder, "far.away", 1)]
        os.utime(gone[-1], (0, 0))
        stay = [self.part(folder, here, os.getppid()), self.part(folder, "far-away", 1)]
        stay.append(folder / ".mine.part")
        stay[-1].touch()
        produce(recipe(3), folder).close()
        assert not any(path.exists() for path in gone)
        assert all(path.exists() for path in stay)

    def test_a_new_set_that_died_before_its_index(self, folder, dead):
        folder.mkdir()
        here = claims.caller_name().split(f"-{os.getpid()}-")[0]
        self.part(folder, here, dead, INDEX)
        self.part(folder, here, os.getppid(), INDEX)
        produce(recipe(3), folder).close()
        assert len(contents(folder)) == 3

    def test_a_task_whose_caller_is_gone_stops(self, folder):
        def orphaned(first):
            for path in folder.glob(".*.part"):
                path.unlink()
            return make(first)

        with pytest.raises(
            RuntimeError, match=r"part was removed while it was written; is another run in this folder\?"
        ):
            produce(recipe(19, orphaned), folder, shard=8, executor=Immediate())
        assert list(contents(folder)) == [INDEX]


KILLED = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from counting import make, recipe
from physflow.data.production import produce

def slow(first):
    time.sleep(0.005)
    return make(first)

with ThreadPoolExecutor(2) as executor:
    produce(recipe(4000, slow), sys.argv[1], shard=16, executor=executor).close()
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_it_is_the_same_set(folder, tmp_path):
    path = {**os.environ, "PYTHONPATH": os.path.dirname(__file__), "OMP_NUM_THREADS": "1"}
    parts = []
    for shards in (0, 3, 20):
        command = [sys.executable, "-c", KILLED, str(folder)]
        with subprocess.Popen(command, env=path) as process:
            while process.poll() is None and len(list(folder.glob("*"))) <= shards:
                time.sleep(0.003)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        parts += folder.glob(".*.part")
    assert parts, "it was killed at work"
    there = len(list(folder.glob("shard-*.nc")))
    executor = Immediate()
    produce(recipe(4000), folder, shard=16, executor=executor).close()
    assert len(executor.arguments) == 250 - there
    produce(recipe(4000), tmp_path / "fresh", shard=16).close()
    assert contents(folder) == contents(tmp_path / "fresh")


def test_grid_and_blocks_of_these_tests():
    assert make(8).shape == (BLOCK, 2, *GRID.shape)
    assert make(8)[1, 1, 2, 3] == 100 * 9 + 50 + 11
