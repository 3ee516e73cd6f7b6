import dataclasses
import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import typing

import numpy as np
import pytest
import xarray as xr
import yaml

import physflow
from physflow import conditioning
from physflow.cli import COMMANDS, main, make_parser
from physflow.cli.condition import ConditionOptions
from physflow.config import DataConfig, ExperimentConfig, ModelConfig, TrainingConfig, from_dict, to_dict
from physflow.data import open as open_data
from physflow.results import FORMAT, Results

TINY = [
    "--model.mlp.width",
    "8",
    "--model.mlp.blocks",
    "1",
    "--training.steps",
    "4",
    "--training.batch_size",
    "8",
]


@pytest.fixture
def physflow_command(capsys):
    """Run a command in this process; returns its exit code, what it printed and what it complained about."""

    def run(*words):
        with pytest.raises(SystemExit) as exit_:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.nc"
    with pytest.raises(SystemExit) as exit_:
        main(["generate", "--out", str(path), "--samples", "40", "--resolution", "16", "--modes", "8"])
    assert exit_.value.code == 0
    return path


@pytest.fixture(scope="module")
def model(data):
    folder = data.parent / "model"
    with pytest.raises(SystemExit) as exit_:
        main(["train", str(data), "--out", str(folder), "--device", "cpu", *TINY])
    assert exit_.value.code == 0
    return folder


# Help.


def test_help_is_fast_and_loads_no_torch():
    code = "import sys, physflow.cli\ntry: physflow.cli.main(['--help'])\nfinally: print('torch' in sys.modules)"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
        assert done.stdout.splitlines()[-1] == "False"
    assert min(seconds) < 1.5, "with a wide margin for a busy machine; 0.3 s is usual"


def test_python_m_physflow_is_the_command():
    done = subprocess.run([sys.executable, "-m", "physflow", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"physflow {physflow.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(physflow_command, command):
    code, out, err = physflow_command(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: physflow {command} ")
    for action in make_parser().commands[command]._actions:
        assert action.help, f"{action.dest} has no help"


@pytest.mark.parametrize("words", [["--equation", "burgers"], ["--equation=burgers"]])
def test_help_of_an_equation(physflow_command, words):
    _, out, _ = physflow_command("generate", *words, "--help")
    text = " ".join(out.split())
    assert "Waves that steepen" in text
    assert "--length LENGTH Its length [1.0]" in text
    assert "Points along the axis of space [128]" in text
    assert "--modes" not in text
    assert "--modes" in physflow_command("generate", "--help")[1]


def test_without_a_command_the_help_is_shown(physflow_command):
    code, out, err = physflow_command()
    assert (code, out) == (2, "")
    assert all(command in err for command in COMMANDS)


# Configuration.


@pytest.mark.parametrize(
    ("words", "cls", "key"),
    [
        (["generate"], DataConfig, None),
        (["train"], ModelConfig, "model"),
        (["train"], TrainingConfig, "training"),
    ],
)
def test_print_config_shows_the_defaults(physflow_command, words, cls, key):
    code, out, _ = physflow_command(*words, "--print_config")
    values = yaml.safe_load(out)
    values = values[key] if key else values
    assert code == 0
    assert {name: values[name] for name in to_dict(cls())} == to_dict(cls())


def test_print_config_can_be_read_back(physflow_command, tmp_path):
    _, first, _ = physflow_command("generate", "--out", "a.nc", "--samples", 7, "--modes", "none", "--print_config")
    file = tmp_path / "settings.yaml"
    file.write_text(first)
    _, second, _ = physflow_command("generate", "--config", file, "--print_config")
    assert yaml.safe_load(first) == yaml.safe_load(second)
    assert yaml.safe_load(second)["modes"] is None
    _, third, _ = physflow_command("generate", "--config", file, "--samples", 8, "--print_config")
    assert yaml.safe_load(third)["samples"] == 8, "what follows on the command line decides"


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        (["--resolution", "[64,32]"], "resolution: [64, 32]", {"resolution": (64, 32)}),
        (["--resolution=[64,32]"], "resolution:\n- 64\n- 32", {"resolution": (64, 32)}),
        (["--extent", "[2,1]"], "extent: [2, 1.0]", {"extent": (2.0, 1.0)}),
        (
            ["--correlation_length", "[0.2,0.05]", "--angle", "30"],
            "correlation_length: [2e-1, 0.05]\nangle: 30",
            {"correlation_length": (0.2, 0.05), "angle": 30.0},
        ),
        (["--correlation_length", "0.2"], "correlation_length: 0.2", {"correlation_length": 0.2}),
        (
            ["--permeability", "binary", "--levels", "[1,4]"],
            "permeability: binary\nlevels: [1, 4]",
            {"permeability": "binary", "levels": (1.0, 4.0)},
        ),
        (["--preset", "fno"], "preset: fno", {"preset": "fno"}),
    ],
)
def test_pairs_and_presets_from_the_command_line_and_from_files(
    physflow_command, monkeypatch, tmp_path, words, text, expected
):
    made = []

    def generate(**settings):
        made.append(settings)
        raise ZeroDivisionError

    monkeypatch.setattr("physflow.data.darcy.generate", generate)
    (tmp_path / "settings.yaml").write_text(text)
    for given in (words, ["--config", str(tmp_path / "settings.yaml")]):
        with pytest.raises(ZeroDivisionError):
            main(["generate", "--out", str(tmp_path / "x.nc"), *given])
    assert len(made) == 2
    for settings in made:
        config = {name: settings[name] for name in to_dict(DataConfig())}
        assert DataConfig(**config) == DataConfig(**expected)


def test_no_value_is_written_none_or_null(physflow_command):
    for words in (["--modes", "none"], ["--modes=None"], ["--modes", "null"]):
        _, out, _ = physflow_command("generate", *words, "--print_config")
        assert yaml.safe_load(out)["modes"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["genrate"],
            "unknown command 'genrate'; did you mean 'generate'? valid: audit, condition, generate, merge, report, ",
        ),
        (
            ["generate", "--sampels", "3"],
            "unknown option --sampels; did you mean '--samples'? valid: --alpha, --angle, --boundary, ",
        ),
        (["generate", "--sampels=3"], "unknown option --sampels; did you mean '--samples'?"),
        (["generate", "--sample", "3"], "unknown option --sample; did you mean '--samples'?"),
        (["generate", "data.nc"], "unexpected argument 'data.nc'; options begin with --"),
        (["generate", "--out"], "argument --out: expected one argument"),
        (["generate"], "missing --out; usage: physflow generate --out DATA.nc [options]"),
        (["merge", "set"], "missing --out; usage: physflow merge FOLDER --out DATA.nc [options]"),
        (["generate", "--out", "set", "--shard", "half"], "expected shard to be int or null, got 'half'"),
        (["generate", "--out", "x.nc", "--shard", "8"], "shard= (--shard) is for a folder of shards; give as out a na"),
        (["generate", "--out", "x.zarr"], "expected for out a file name ending in '.nc', or the name of a folder, got"),
        (
            ["generate", "--out", "set", "--workers", "2", "--dask", "tcp://127.0.0.1:9"],
            "--workers and --dask exclude each other: the workers of a dask cluster are its own",
        ),
        (["train"], "missing DATA, --out; usage: physflow train DATA.nc --out MODEL [options]"),
        (["train", "d", "--steps", "3"], "unknown option --steps; did you mean '--training.steps'?"),
        (["train", "d", "--seeds", "3"], "unknown option --seeds; "),
        (
            ["train", "d", "--model.mlp.widht", "3"],
            "unknown option --model.mlp.widht; did you mean '--model.mlp.width'? valid: --model.mlp.blocks, "
            "--model.mlp.expansion, --model.mlp.fusion, --model.mlp.width",
        ),
        (
            ["run", "x", "--data.sampels", "3"],
            "unknown option --data.sampels; did you mean '--data.samples'?",
        ),
        (["generate", "--out", "x.nc", "--samples", "3.5"], "expected samples to be int, got '3.5'"),
        (["generate", "--out", "x.nc", "--modes", "half"], "expected modes to be int or null, got 'half'"),
        (["generate", "--out", "x.nc", "--std", "wide"], "expected std to be float, got 'wide'"),
        (["generate", "--out", "x.nc", "--source", "wels"], "unknown source 'wels'; did you mean 'wells'?"),
        (
            ["generate", "--out", "x.nc", "--resolution", "16.5"],
            "expected resolution to be int or a list of 2 int, such as [1,2], got '16.5'",
        ),
        (
            ["generate", "--out", "x.nc", "--resolution", "[16,8,4]"],
            "expected resolution to be int or a list of 2 int, such as [1,2], got '[16, 8, 4]'",
        ),
        (
            ["generate", "--out", "x.nc", "--extent", "3"],
            "expected extent to be a list of 2 float, such as [1,2], got '3'",
        ),
        (
            ["generate", "--out", "x.nc", "--covariance", "mattern"],
            "unknown covariance 'mattern'; did you mean 'matern'?",
        ),
        (
            ["generate", "--out", "x.nc", "--preset", "fno", "--std", "2"],
            "std=2.0 says nothing about a binary permeability",
        ),
        (
            ["generate", "--out", "x.nc", "--samples", "-3"],
            "samples must be a whole number of at least 0, got -3",
        ),
        (
            ["generate", "--out", "x.nc", "--workers", "-1"],
            "workers must be a whole number of at least 0, got -1",
        ),
        (["generate", "--out", "x.nc", "--preset", "rouhg"], "unknown preset 'rouhg'; did you mean 'rough'?"),
        (
            ["generate", "--out", "x.nc", "--preset", "rough", "--modes", "3"],
            "preset 'rough' fixes modes=None, got 3",
        ),
        (
            ["train", "d", "--out", "m", "--model.unet.multipliers", "3"],
            "expected model.unet.multipliers to be a list of int, such as [1,2], got '3'",
        ),
        (
            ["train", "d", "--out", "m", "--training.steps", "-1"],
            "training: steps must be a whole number of at least 0",
        ),
        (
            ["train", "d", "--out", "m", "--model.network", "unet"],
            "model: space='pod' does not go with network='unet'",
        ),
        (["run", "x", "--data.samples", "three"], "expected data.samples to be int, got 'three'"),
    ],
)
def test_wrong_arguments_are_explained(physflow_command, words, message):
    code, out, err = physflow_command(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"physflow: error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "text", "message"),
    [
        (
            "generate",
            "sampels: 3",
            "unknown key 'sampels' in the configuration; did you mean 'samples'? valid: ",
        ),
        ("generate", "model: {rank: 3}", "unknown key 'model.rank' in the configuration; "),
        (
            "train",
            "model: {mlp: {widht: 3}}",
            "unknown key 'model.mlp.widht' in the configuration; did you mean 'model.mlp.width'? valid: "
            "model.mlp.blocks, model.mlp.expansion, model.mlp.fusion, model.mlp.width",
        ),
        (
            "train",
            "model: {mpl: {width: 3}}",
            "unknown key 'model.mpl.width' in the configuration; did you mean 'model",
        ),
        ("train", "wheels: 3", "unknown key 'wheels' in the configuration; "),
        ("train", "model: 3", "expected settings for model as a mapping, got 3"),
        ("train", "data: [1]", "data: "),
        ("generate", "modes: half", "expected modes to be int or null, got 'half'"),
        ("generate", "source: wels", "unknown source 'wels'; did you mean 'wells'?"),
        ("generate", "- 3", "the configuration file must hold one mapping of option names to values"),
        ("generate", "samples: [3", "Problems parsing config: "),
    ],
)
def test_wrong_configuration_files_are_explained(physflow_command, tmp_path, command, text, message):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    positional = ["data.nc"] if command == "train" and "data:" not in text else []
    code, _, err = physflow_command(command, *positional, "--out", tmp_path / "x.nc", "--config", file)
    assert code == 2
    assert err.startswith(f"physflow: error: {message}")


def test_a_missing_configuration_file_is_named(physflow_command):
    code, _, err = physflow_command("generate", "--out", "x.nc", "--config", "none.yaml")
    assert code == 2
    assert "physflow: error: config: File does not exist" in err
    assert "none.yaml" in err


# Errors.


def test_bad_input_shows_no_traceback_unless_asked(physflow_command, tmp_path, monkeypatch):
    words = ["score", tmp_path / "absent.nc"]
    code, _, err = physflow_command(*words)
    assert (code, err) == (2, f"physflow: error: no file {tmp_path / 'absent.nc'}\n")
    code, _, err = physflow_command(*words, "--debug")
    assert code == 2
    assert "Traceback (most recent call last)" in err
    monkeypatch.setenv("PHYSFLOW_DEBUG", "1")
    assert "Traceback (most recent call last)" in physflow_command(*words)[2]
    monkeypatch.setenv("PHYSFLOW_DEBUG", "0")
    assert "Traceback" not in physflow_command(*words)[2]


def test_a_failed_computation_says_how_to_see_more(physflow_command, monkeypatch, data):
    def failed(*arguments, **settings):
        raise RuntimeError("no convergence")

    monkeypatch.setattr("physflow.pde.score", failed)
    message = "physflow: error: no convergence\n"
    assert physflow_command("score", data) == (2, "", message + "physflow: --debug shows where it came from\n")
    assert physflow_command("score", data, "--debug")[2].endswith(message)


def test_a_mistake_of_the_program_is_no_bad_input(monkeypatch, data):
    def broken(*arguments, **settings):
        raise ZeroDivisionError

    monkeypatch.setattr("physflow.pde.score", broken)
    with pytest.raises(ZeroDivisionError):
        main(["score", str(data)])


@pytest.mark.parametrize(
    ("words", "function", "message"),
    [
        (
            ["generate", "--out", "{}/x.nc"],
            "physflow.data.darcy.generate",
            "interrupted; no file was written",
        ),
        (
            ["generate", "--out", "{}/set"],
            "physflow.data.darcy.generate",
            "interrupted; the same command resumes",
        ),
        (
            ["train", "d.nc", "--out", "{}/m"],
            "physflow.experiment.train_model",
            "interrupted; the same command resumes",
        ),
    ],
)
def test_interruption(physflow_command, monkeypatch, tmp_path, words, function, message):
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(function, interrupted)
    code, _, err = physflow_command(*(word.format(tmp_path) for word in words))
    assert code == 130
    assert err == f"\nphysflow: {message}\n"


@pytest.mark.parametrize("command", ["generate", "sample", "score"])
def test_an_existing_output_is_refused_before_any_work(physflow_command, tmp_path, command):
    out = tmp_path / "out.nc"
    out.write_text("precious")
    positional = [] if command == "generate" else ["absent"]
    code, _, err = physflow_command(command, *positional, "--out", out)
    assert code == 2
    assert err == f"physflow: error: {out} exists; give another --out, or --overwrite to replace it\n"
    assert out.read_text() == "precious"


@pytest.mark.parametrize("command", ["generate", "sample", "score"])
def test_an_output_in_no_folder_is_refused_before_any_work(physflow_command, tmp_path, command):
    positional = [] if command == "generate" else ["absent"]
    code, _, err = physflow_command(command, *positional, "--out", tmp_path / "no" / "x.nc")
    assert code == 2
    assert err == f"physflow: error: the folder {tmp_path / 'no'} of --out does not exist; create it first\n"


def test_score_knows_two_formats(physflow_command, data):
    code, _, err = physflow_command("score", data, "--out", data.parent / "scores.csv")
    assert (code, err) == (2, "physflow: error: expected --out to end in .nc or .json, got 'scores.csv'\n")


# The commands at work, on tiny data.


def test_generate(physflow_command, data, tmp_path):
    with xr.open_dataset(data) as ds:
        assert dict(ds.sizes) == {"sample": 40, "x": 16, "y": 16}
        assert ds.attrs["modes"] == 8
    out = tmp_path / "again.nc"
    out.write_text("not precious")
    words = ["generate", "--out", out, "--samples", 3, "--resolution", 16, "--modes", 8]
    code, printed, _ = physflow_command(*words, "--overwrite")
    assert (code, printed) == (0, f"{out}: 3 samples of permeability, pressure on 16 x 16 points\n")
    with xr.open_dataset(out) as again, xr.open_dataset(data) as ds:
        xr.testing.assert_equal(again, ds.isel(sample=slice(3)))


@pytest.mark.slow
def test_generate_in_worker_processes_gives_the_same_fields(physflow_command, data, tmp_path):
    out = tmp_path / "workers.nc"
    words = ["generate", "--out", out, "--samples", 40, "--resolution", 16, "--modes", 8]
    assert physflow_command(*words, "--workers", 2)[0] == 0
    with xr.open_dataset(out) as again, xr.open_dataset(data) as ds:
        xr.testing.assert_identical(again, ds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "after", "left"), [("data.nc", "no file was written", []), ("set", "the same command resumes", ["set"])]
)
def test_an_interruption_ends_the_workers(tmp_path, name, after, left):
    out = tmp_path / name
    words = ["generate", "--out", str(out), "--samples", "1000000", "--resolution", "16", "--workers", "2"]
    command = [sys.executable, "-m", "physflow", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        time.sleep(6)
        # As a terminal does: to the workers too; and twice, as people do.
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"physflow: interrupted; {after}" in err
    assert [path.name for path in tmp_path.iterdir()] == left
    assert not list(tmp_path.glob("set/.*"))


@pytest.fixture(scope="module")
def shards(data):
    """The same data as a folder of shards."""
    words = ["--samples", "40", "--resolution", "16", "--modes", "8", "--shard", "1"]
    with pytest.raises(SystemExit) as exit_:
        main(["generate", "--out", str(data.parent / "shards"), *words])
    assert exit_.value.code == 0
    return data.parent / "shards"


def test_generate_into_a_folder_and_go_on(physflow_command, data, tmp_path):
    out = tmp_path / "new" / "set"
    words = ["generate", "--out", out, "--resolution", 16, "--modes", 8, "--shard", 1]
    code, printed, err = physflow_command(*words, "--samples", 33)
    assert (code, printed) == (0, f"{out}: 33 samples of permeability, pressure on 16 x 16 points\n")
    (out / "shard-00000.nc").unlink()
    code, printed, err = physflow_command(*words, "--samples", 40)
    assert (code, printed) == (0, f"{out}: 40 samples of permeability, pressure on 16 x 16 points\n")
    with open_data(out) as ds, xr.open_dataset(data) as single:
        xr.testing.assert_identical(ds.load(), single.load())
    code, _, err = physflow_command(*words, "--samples", 40, "--seed", 1)
    assert code == 2
    assert err.startswith(f"physflow: error: {out} holds a set of other settings: seed 0 there, 1 here; choose another")
    assert physflow_command(*words, "--samples", 3, "--seed", 1, "--overwrite")[0] == 0
    assert open_data(out).sizes["sample"] == 3


def test_merge(physflow_command, data, shards, tmp_path):
    out = tmp_path / "merged.nc"
    assert physflow_command("merge", shards, "--out", out)[:2] == (0, f"{out}: {shards} in one piece\n")
    assert out.read_bytes() == data.read_bytes()
    code, _, err = physflow_command("merge", shards, "--out", out)
    assert (code, err) == (2, f"physflow: error: {out} exists; give another --out, or --overwrite to replace it\n")
    assert physflow_command("merge", shards, "--out", out, "--overwrite")[0] == 0
    code, _, err = physflow_command("merge", tmp_path, "--out", tmp_path / "b.nc")
    assert code == 2
    assert err.startswith(f"physflow: error: {tmp_path} is a folder without index.json, not a set of shards; ")


def test_a_folder_is_data_for_the_other_commands(physflow_command, data, shards, tmp_path):
    for command, product in (("score", "scores.json"), ("validate", None)):
        printed = []
        for path in (data, shards):
            words = [command, path] if product is None else [command, path, "--out", tmp_path / f"{path.stem}.json"]
            code, out, _ = physflow_command(*words)
            assert code == 0
            printed.append(out.replace(str(path), "PATH"))
        assert printed[0] == printed[1]
    assert (tmp_path / "data.json").read_text() == (tmp_path / "shards.json").read_text()
    weights = []
    for path in (data, shards):
        folder = tmp_path / f"model of {path.stem}"
        assert physflow_command("train", path, "--out", folder, "--device", "cpu", *TINY)[0] == 0
        weights.append((folder / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://127.0.0.1:9", "no dask scheduler answers at tcp://127.0.0.1:9; start one (`dask scheduler`), or corr"),
        ("nonsense", "--dask takes an address such as tcp://10.0.0.1:8786, got 'nonsense' (missing port number in"),
    ],
)
def test_no_dask_scheduler(physflow_command, tmp_path, address, message):
    pytest.importorskip("distributed")
    code, _, err = physflow_command("generate", "--out", tmp_path / "set", "--samples", 3, "--dask", address)
    assert code == 2
    assert err.startswith(f"physflow: error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_dask_is_optional(physflow_command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, _, err = physflow_command("generate", "--out", tmp_path / "set", "--samples", 3, "--dask", "127.0.0.1:9")
    assert code == 2
    assert err.startswith("physflow: error: --dask needs the package dask.distributed (")
    assert err.endswith("install it: pip install 'physflow[distributed]'\n")


def test_generate_on_a_dask_cluster(physflow_command, shards, tmp_path):
    distributed = pytest.importorskip("distributed")
    out = tmp_path / "set"
    words = ["generate", "--out", out, "--samples", 40, "--resolution", 16, "--modes", 8, "--shard", 1]
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address=":0"
    ) as cluster:
        code, _, err = physflow_command(*words, "--dask", cluster.scheduler_address)
    assert code == 0, err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in shards.iterdir()
    }


@pytest.mark.slow
def test_workers_end_with_a_killed_command(physflow_command, data, tmp_path):
    out = tmp_path / "set"
    settings = ["--out", out, "--resolution", 16, "--modes", 8, "--shard", 1]
    command = [sys.executable, "-m", "physflow", "generate", "--samples", "1000000", "--workers", "2", *settings]
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (out / "shard-00000.nc").exists():
            time.sleep(0.01)
        process.kill()
        # The pipe ends when all who could write to it have ended.
        process.stderr.read()
    assert process.returncode == -signal.SIGKILL
    code, _, err = physflow_command("generate", "--samples", 3, *settings)
    assert code == 2
    assert "holds 1000000 samples, more than the 3 asked for" in err
    with xr.open_dataset(out / "shard-00000.nc") as shard, xr.open_dataset(data) as ds:
        xr.testing.assert_equal(shard.isel(sample=slice(40)), ds)


def test_validate(physflow_command, data, tmp_path):
    code, out, _ = physflow_command("validate", data)
    assert code == 0
    assert out.endswith(f"{data}: valid\n")
    with xr.open_dataset(data) as ds:
        wrong = ds.load().assign(pressure=ds["pressure"].copy(data=ds["pressure"].values.swapaxes(1, 2)))
    wrong.to_netcdf(tmp_path / "wrong.nc", engine="h5netcdf")
    code, out, _ = physflow_command("validate", tmp_path / "wrong.nc")
    assert code == 1
    assert "error: " in out
    assert out.endswith("wrong.nc: not valid\n")


def test_score(physflow_command, data, tmp_path):
    code, out, _ = physflow_command("score", data, "--out", tmp_path / "scores.json")
    table = json.loads((tmp_path / "scores.json").read_text())
    assert code == 0
    assert list(table) == ["as given"]
    assert out.splitlines()[0].split() == ["score", "anchor", "median", "quartiles"]
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(table["as given"])
    assert physflow_command("score", data, "--out", tmp_path / "scores.nc")[0] == 0
    with xr.open_dataset(tmp_path / "scores.nc") as scores:
        for name, summary in table["as given"].items():
            quartiles = np.quantile(scores[name], [0.25, 0.5, 0.75])
            np.testing.assert_allclose([summary["q25"], summary["median"], summary["q75"]], quartiles)


def test_score_with_anchors(physflow_command, data, tmp_path):
    code, out, _ = physflow_command("score", data, "--anchors", "--out", tmp_path / "scores.json")
    table = json.loads((tmp_path / "scores.json").read_text())
    assert code == 0
    assert next(iter(table)) == "as given"
    assert table["p = 0"]["solution_error"]["median"] == pytest.approx(1)
    assert len(out.splitlines()) == 1 + len(table) * len(table["p = 0"])


def test_no_samples_have_no_score(physflow_command, tmp_path):
    out = tmp_path / "empty.nc"
    assert physflow_command("generate", "--out", out, "--samples", 0, "--resolution", 16, "--modes", 8)[0] == 0
    code, _, err = physflow_command("score", out)
    assert (code, err) == (2, f"physflow: error: {out} holds no samples to score\n")


def test_train_and_sample(physflow_command, model, tmp_path):
    out = tmp_path / "samples.nc"
    words = ["sample", model, "--out", out, "--samples", 3, "--steps", 2]
    code, printed, _ = physflow_command(*words)
    assert (code, printed) == (0, f"{out}: 3 samples of permeability, pressure on 16 x 16 points\n")
    with xr.open_dataset(out) as ds:
        first = ds.load()
        assert first.sizes["sample"] == 3
        assert "residual_mse" in first
    assert physflow_command(*words, "--overwrite", "--correction", "complete")[0] == 0
    with xr.open_dataset(out) as ds:
        np.testing.assert_array_equal(ds["permeability"], first["permeability"])
        assert (ds["solution_error"] < 1e-4).all()
    code, printed, _ = physflow_command(*words, "--overwrite", "--select", 0.5, "--by", "residual_mse")
    assert code == 0
    assert "3 of 6 samples by residual_mse; log permeability: mean moved by" in printed
    with xr.open_dataset(out) as ds:
        assert ds["residual_mse"].max() <= first["residual_mse"].max()
    code, _, err = physflow_command(*words, "--overwrite", "--solver", "hein")
    assert code == 2
    assert err.startswith("physflow: error: unknown solver 'hein'; did you mean 'heun'?")


def test_train_takes_its_fields_by_name(physflow_command, data, tmp_path):
    folder = tmp_path / "model"
    words = [
        "train",
        data,
        "--out",
        folder,
        "--fields",
        "pressure",
        "--model.log",
        "[]",
        "--device",
        "cpu",
        *TINY,
    ]
    code, printed, _ = physflow_command(*words)
    assert code == 0
    assert printed.startswith(f"{folder}: trained")
    assert physflow.load(folder).fields == ("pressure",)
    code, _, err = physflow_command(*words[:5], "permeability,presure", *words[6:], "--overwrite")
    assert code == 2
    assert "presure" in err


def test_train_accepts_fields_without_an_equation(physflow_command, tmp_path, rng):
    axes = {"x": (np.arange(8) + 0.5) / 8, "y": (np.arange(8) + 0.5) / 8}
    fields = {"height": (("sample", "x", "y"), rng.standard_normal((40, 8, 8)))}
    xr.Dataset(fields, coords=axes).to_netcdf(tmp_path / "any.nc", engine="h5netcdf")
    folder, out = tmp_path / "model", tmp_path / "samples.nc"
    code, _, err = physflow_command(
        "train", tmp_path / "any.nc", "--out", folder, "--model.log", "[]", "--device", "cpu", *TINY
    )
    assert code == 0, err
    code, printed, _ = physflow_command("sample", folder, "--out", out, "--samples", 2, "--steps", 2)
    assert (code, printed) == (0, f"{out}: 2 samples of height on 8 x 8 points\n")


# Fields given sensors.


FEW_MOVES = ["--burn_in", "0", "--moves", "4"]


@pytest.fixture(scope="module")
def wells(data):
    """Readings of one field of the data."""
    path = data.parent / "wells.csv"
    with xr.open_dataset(data) as ds:
        lines = ["x,y,field,value,std"]
        for x, y in [(0.2, 0.3), (0.5, 0.5), (0.8, 0.7), (0.3, 0.9)]:
            near = ds.isel(sample=0).sel(x=x, y=y, method="nearest")
            lines += [f"{x},{y},pressure,{float(near.pressure)},0.05"]
            lines += [f"{x},{y},log permeability,{float(np.log(near.permeability))},0.2"]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    "words", [["--steps", "2", *FEW_MOVES], ["--mode", "joint", "--steps", "10", "--method", "pseudoinverse"]]
)
def test_condition(physflow_command, model, wells, tmp_path, words):
    out, page = tmp_path / "posterior.nc", tmp_path / "posterior.html"
    command = ["condition", model, "--observations", wells, "--out", out, "--samples", 5, *words]
    code, printed, err = physflow_command(*command, "--held_out", 0.25, "--seed", 3)
    assert code == 0, err
    with xr.open_dataset(out) as ds:
        found = ds.load()
    low, high = np.quantile(found["predicted"], [0.05, 0.95], axis=0)
    held = found["held_out"].values
    inside = re.fullmatch(
        rf"{out}: 5 samples given 6 sensors; (\d) of 2 held-out readings in their 90 % interval; page: {page}\n",
        printed,
    )
    # The noise makes an interval wider than that of the draws.
    assert int(inside[1]) >= ((low <= found["observed"]) & (found["observed"] <= high)).values[held].sum()
    assert found.sizes == {"sample": 5, "x": 16, "y": 16, "sensor": 8}
    assert held.sum() == 2
    assert len(set(zip(found["sensor_x"].values[held], found["sensor_y"].values[held], strict=True))) == 1
    assert found["sensor_field"].values.tolist() == ["pressure", "permeability"] * 4
    assert (found.attrs["seed"], found.attrs["mode"]) == (3, "joint" if "joint" in words else "solver")
    assert inside[1] in page.read_text()
    # The page can be had again from the file alone.
    written = page.read_text()
    page.unlink()
    assert physflow_command("report", out) == (0, f"report: {page}\n", "")
    assert page.read_text() == written


def test_condition_writes_where_it_is_told(physflow_command, model, wells, tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr("physflow.report.conditioning.write_conditioning", lambda path, ds: pages.append(path))
    out, page = tmp_path / "posterior.nc", tmp_path / "all.html"
    out.write_text("not precious")
    monkeypatch.setattr("physflow.report.conditioning.notices_of", lambda ds: ["a word of warning"])
    words = [
        "condition",
        model,
        "--observations",
        wells,
        "--out",
        out,
        "--samples",
        2,
        "--steps",
        1,
        "--report",
        page,
        *FEW_MOVES,
    ]
    code, _, err = physflow_command(*words)
    assert (code, err) == (2, f"physflow: error: {out} exists; give another --out, or --overwrite to replace it\n")
    code, printed, err = physflow_command(*words, "--overwrite")
    assert (code, printed) == (0, f"{out}: 2 samples given 8 sensors; page: {page}\n")
    assert err.endswith("physflow: warning: a word of warning\n")
    assert pages == [page]
    with xr.open_dataset(out) as ds:
        assert not ds["held_out"].any()


def test_condition_refuses_without_torch(wells, tmp_path):
    words = ["condition", "absent", "--observations", str(wells), "--out", str(tmp_path / "x.nc"), "--samples", "1"]
    code = f"import sys, physflow.cli\ntry: physflow.cli.main({words})\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "False\n")


def test_the_help_of_condition_tells_the_defaults(physflow_command):
    _, printed, _ = physflow_command("condition", "--help")
    found = re.findall(r"--(\w+) (?:(?!  --).)*?\(default (\S+)\)", " ".join(printed.split()).replace(" --", "  --"))
    told = {name: value.rstrip(",") for name, value in found}
    expected = {f.name: "null" if f.default is None else str(f.default) for f in dataclasses.fields(ConditionOptions)}
    assert told == expected


def test_the_options_of_condition_are_those_of_the_function():
    signature = inspect.signature(conditioning.condition).parameters
    for f in dataclasses.fields(ConditionOptions):
        if f.name in ("method", "start"):
            # None there, so that what says nothing in a mode can be refused.
            assert signature[f.name].default is None
        elif f.name not in ("samples", "held_out"):
            assert signature[f.name].default == f.default
    assert signature["n"].default == ConditionOptions().samples
    assert set(typing.get_args(typing.get_type_hints(ConditionOptions)["method"])) == set(conditioning.METHODS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.netcdf"], "expected --out to end in .nc, got 'x.netcdf'"),
        (["--report", "x.htm"], "expected --report to end in .html, got 'x.htm'"),
        (["--report", "nowhere/x.html"], "the folder nowhere of --report does not exist; create it first"),
        (["--report", "old.html"], "old.html exists; give another --report, or --overwrite to replace it"),
        (["--observations", "absent.csv"], "no file absent.csv"),
        (["--samples", "1"], "samples must be a whole number of at least 2, got 1"),
        (["--steps", "0"], "steps must be a whole number of at least 1, got 0"),
        (["--seed", "-1"], "seed must be a whole number of at least 0, got -1"),
        (["--held_out", "1"], "held_out must lie in [0, 1), got 1.0"),
        (["--held-out", "1"], "unknown option --held-out; did you mean '--held_out'?"),
        (["--mode", "slover"], "unknown mode 'slover'; did you mean 'solver'?"),
        (["--start", "priors"], "unknown start 'priors'; did you mean 'prior'?"),
        (["--offset_std", "-1"], "offset_std must be finite and not negative, got -1.0"),
        (
            ["--mode", "joint", "--offset_std", "1"],
            "--offset_std says nothing with --mode joint; it is for --mode solver",
        ),
        (["--method", "dps"], "--method says nothing with --mode solver; it is for --mode joint"),
        (["--moves", "3"], "moves must be a whole number of at least 4, got 3"),
        (["--mode", "joint", "--moves", "9"], "--moves says nothing with --mode joint; it is for --mode solver"),
        (["--mode", "joint", "--start", "prior"], "--start says nothing with --mode joint; it is for --mode solver"),
        ([], "no model 'absent': neither a folder nor one that ships with physflow"),
    ],
)
def test_what_condition_refuses_before_any_work(physflow_command, wells, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.html").touch()
    code, _, err = physflow_command("condition", "absent", "--observations", wells, "--out", "new.nc", *words)
    assert code == 2
    assert err.startswith(f"physflow: error: {message}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0.5,0.5,presure,0.1,0.05", ", line 10: unknown field 'presure'; did you mean 'pressure'?"),
        ("0.5,2,pressure,0.1,0.05", "wrong.csv: line 10 at (0.5, 2) lies outside the domain [0, 1] x [0, 1]"),
        ("0.5,0.5,p,9,0.05", "wrong.csv: line 4 and line 10 observe 'pressure' at one place, (0.5, 0.5), but read"),
        ("0.5,0.6,K,-9,0.05", "wrong.csv: line 10 reads -9 of 'permeability', which is positive: is this log permeab"),
        (
            "0.5,0.6,log p,1,0.05",
            "wrong.csv: log=True for 'pressure', which may be negative and has no logarithm; expe",
        ),
    ],
)
def test_condition_names_a_wrong_sensor_before_any_work(
    physflow_command, model, wells, tmp_path, monkeypatch, line, message
):
    monkeypatch.setattr(conditioning, "condition", lambda *arguments, **settings: pytest.fail("work was done"))
    path = tmp_path / "wrong.csv"
    path.write_text(f"{wells.read_text()}\n{line}\n")
    # Held out or not.
    for share in (0, 0.5, 0.75):
        words = ["condition", model, "--observations", path, "--out", tmp_path / "x.nc", "--held_out", share]
        code, _, err = physflow_command(*words)
        assert code == 2
        assert message in err
    assert [file.name for file in tmp_path.iterdir()] == ["wrong.csv"]


# A whole experiment.


@pytest.fixture
def tiny_experiment(tmp_path):
    config = {
        "name": "tiny",
        "data": {"samples": 40, "resolution": 16, "modes": 8},
        "model": {"mlp": {"width": 8, "blocks": 1}},
        "training": {"steps": 4, "batch_size": 8, "evaluate_every": 2},
        "sampling": {"samples": 6, "steps": 2},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.slow
def test_run_and_report(physflow_command, tiny_experiment):
    folder = tiny_experiment.parent / "out"
    code, out, _ = physflow_command("run", tiny_experiment, "--out", folder)
    report = folder / "report.html"
    assert code == 0
    assert out.endswith(f"report: {report}\n")
    assert report.is_file()
    report.unlink()
    code, out, _ = physflow_command("report", folder)
    assert (code, out) == (0, f"report: {report}\n")
    assert report.is_file()


def test_report_of_an_unfinished_experiment(physflow_command, tmp_path):
    (tmp_path / "experiment.yaml").touch()
    code, out, err = physflow_command("report", tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(f"physflow: error: {tmp_path} has no data.nc; finish the experiment first")


def test_report_of_neither_an_experiment_nor_benchmarks(physflow_command, tmp_path):
    (tmp_path / "results.json").write_text('{"format": "physflow-results-0"}')
    (tmp_path / "data.txt").write_text("")
    for given in (tmp_path, tmp_path / "data.txt", tmp_path / "nowhere"):
        code, out, err = physflow_command("report", given)
        assert (code, out) == (2, "")
        assert err == (
            f"physflow: error: {given} has no experiment.yaml, as the folder of an experiment has, and no results.json "
            f"of a benchmark ({FORMAT}) in it or in a folder below; give the folder of `physflow run`, or that of a "
            "benchmark\n"
        )
    assert not (tmp_path / "report.html").exists()


@pytest.fixture
def benchmarks(tmp_path):
    """A folder of the results of two benchmarks."""
    for name in ("rings", "couplings"):
        Results(
            title=f"About {name}",
            text="",
            command=f"python benchmarks/{name}.py --out DIR",
            settings={},
            seeds=(0,),
            rows=(),
            tables=(),
            pictures=(),
            hardware={},
            versions={},
        ).write(tmp_path / "results" / name)
    return tmp_path / "results"


def test_report_of_benchmarks(physflow_command, benchmarks):
    report = benchmarks / "report.html"
    for _ in range(2):
        assert physflow_command("report", benchmarks) == (0, f"report: {report}\n", "")
    page = report.read_text()
    assert page.index("About couplings") < page.index("About rings")


def test_report_of_benchmarks_names_what_it_leaves_out(physflow_command, benchmarks):
    old = benchmarks / "old" / "results.json"
    old.parent.mkdir()
    old.write_text('{"rows": []}')
    code, _, err = physflow_command("report", benchmarks)
    assert (code, err) == (0, f"left out: {old} has another format; run its benchmark again\n")


@pytest.mark.parametrize("given", ["rings", "rings/results.json"])
def test_report_of_one_benchmark(physflow_command, benchmarks, given):
    report = benchmarks / "rings" / "report.html"
    assert physflow_command("report", benchmarks / given) == (0, f"report: {report}\n", "")
    assert "About rings" in report.read_text()
    assert "About couplings" not in report.read_text()


def test_report_of_benchmarks_goes_elsewhere(physflow_command, benchmarks, tmp_path):
    out = tmp_path / "new" / "page.html"
    assert physflow_command("report", benchmarks, "--out", out) == (0, f"report: {out}\n", "")
    assert "About rings" in out.read_text()
    assert not (benchmarks / "report.html").exists()


def test_report_of_benchmarks_replaces_only_pages(physflow_command, benchmarks, tmp_path):
    results = benchmarks / "rings" / "results.json"
    before = results.read_bytes()
    code, _, err = physflow_command("report", benchmarks, "--out", results)
    assert (code, err) == (2, "physflow: error: expected --out to end in .html, got 'results.json'\n")
    assert results.read_bytes() == before
    (tmp_path / "x.html").mkdir()
    code, _, err = physflow_command("report", benchmarks, "--out", tmp_path / "x.html")
    assert code == 2
    assert "expected the path of an HTML file, but" in err


def test_report_of_a_file_without_sensors(physflow_command, data):
    code, out, err = physflow_command("report", data)
    assert (code, out) == (2, "")
    assert err == f"physflow: error: {data} has no readings of sensors, as a file of `physflow condition` has\n"
    code, _, err = physflow_command("report", data, "--out", data.with_name("page.htm"))
    assert (code, err) == (2, "physflow: error: expected --out to end in .html, got 'page.htm'\n")


def test_report_of_benchmarks_names_a_damaged_file(physflow_command, benchmarks):
    damaged = benchmarks / "rings" / "results.json"
    damaged.write_text(damaged.read_text()[:-20])
    code, _, err = physflow_command("report", benchmarks)
    assert code == 2
    assert err.startswith(f"physflow: error: {damaged} is damaged: ")
    assert not (benchmarks / "report.html").exists()


def test_report_of_an_experiment_stays_in_its_folder(physflow_command, benchmarks, monkeypatch):
    monkeypatch.setattr("physflow.experiment.write_report", lambda folder: f"{folder}/of-experiment.html")
    (benchmarks / "experiment.yaml").touch()
    assert physflow_command("report", benchmarks)[1] == f"report: {benchmarks}/of-experiment.html\n"
    code, _, err = physflow_command("report", benchmarks, "--out", "x.html")
    assert (code, err) == (
        2,
        "physflow: error: --out is for results of benchmarks; the report of an experiment is written into "
        f"{benchmarks}\n",
    )


def test_report_is_found_where_it_says(physflow_command, tmp_path, monkeypatch):
    (tmp_path / "experiment.yaml").touch()
    monkeypatch.setattr("physflow.experiment.write_report", lambda folder: f"{folder}/report.html")
    assert physflow_command("report", tmp_path) == (0, f"report: {tmp_path}/report.html\n", "")


def test_run_takes_overrides(physflow_command, tiny_experiment, monkeypatch):
    carried_out = []

    def run(config, out, **settings):
        carried_out.append(config)
        return f"{out}/report.html"

    monkeypatch.setattr("physflow.experiment.run", run)
    words = ["run", tiny_experiment, "--out", "x", "--data.samples", 50, "--model.mlp.width=4", "--name", "other"]
    assert physflow_command(*words)[:2] == (0, "report: x/report.html\n")
    config = from_dict(ExperimentConfig, yaml.safe_load(tiny_experiment.read_text()))
    assert (carried_out[0].data.samples, carried_out[0].model.mlp.width, carried_out[0].name) == (
        50,
        4,
        "other",
    )
    assert carried_out[0].data.resolution == config.data.resolution == 16
    assert carried_out[0].training == config.training


def test_run_prints_the_whole_experiment(physflow_command, tiny_experiment):
    code, out, _ = physflow_command("run", tiny_experiment, "--data.preset", "cocogen-16", "--print_config")
    config = from_dict(ExperimentConfig, yaml.safe_load(out))
    assert code == 0
    assert (config.data.preset, config.data.modes, config.data.coefficients) == ("cocogen-16", 16, "uniform")
    assert config.training.steps == 4


def test_a_preset_replaces_that_of_the_experiment(physflow_command, tiny_experiment):
    experiment = yaml.safe_load(tiny_experiment.read_text())
    experiment["data"] = {"preset": "fno", "resolution": [16, 8]}
    tiny_experiment.write_text(yaml.safe_dump(experiment))
    for preset in ("pdebench", "rough"):
        code, out, err = physflow_command("run", tiny_experiment, "--data.preset", preset, "--print_config")
        assert code == 0, err
        assert from_dict(ExperimentConfig, yaml.safe_load(out)).data == DataConfig(resolution=(16, 8), preset=preset)


def test_run_needs_an_experiment_and_a_folder(physflow_command, tiny_experiment):
    code, _, err = physflow_command("run", tiny_experiment)
    assert (code, err) == (2, "physflow: error: missing --out, the folder of the experiment\n")
    code, _, err = physflow_command("run", "darcy-smal", "--out", "x")
    assert code == 2
    assert "darcy-small" in err
    assert physflow_command("run")[2].startswith("physflow: error: missing EXPERIMENT; usage: physflow run EXPERIMENT")


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_who_is_no_dask_scheduler_does_not_keep_one_waiting(physflow_command, tmp_path, monkeypatch, greeting):
    pytest.importorskip("distributed")
    monkeypatch.setattr("physflow.cli.executors.TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []

        def answer():
            connection, _ = server.accept()
            accepted.append(connection)
            connection.sendall(greeting)

        threading.Thread(target=answer, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        code, _, err = physflow_command("generate", "--out", tmp_path / "set", "--samples", 3, "--dask", address)
        accepted[0].close()
    assert code == 2
    assert err.startswith(f"physflow: error: no dask scheduler answers at {address}")
    assert list(tmp_path.iterdir()) == []


def test_a_shipped_model_is_sampled_by_name(physflow_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed, _ = physflow_command("sample", "darcy-small", "--out", "samples.nc", "--samples", 3)
    assert code == 0
    assert "3 samples of permeability, pressure on 64 x 64 points" in printed
    with physflow.data.open(tmp_path / "samples.nc") as ds:
        # Drawn as the model was made to be drawn.
        assert (ds.attrs["solver"], ds.attrs["steps"]) == ("Euler()", 10)
        assert ds.attrs["latent"] == "drawn from N(0, I)"
        assert float(ds["solution_error"].median()) < 0.05
    code, _, error = physflow_command("sample", "darcy-smol", "--out", "other.nc")
    assert code == 2
    assert "no model 'darcy-smol': neither a folder nor one that ships with physflow; did you mean" in error
