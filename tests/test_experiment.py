"""The whole chain in small: every product, resumption, refusals, and data that are not ours."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

import physflow
from physflow import experiment, fitting
from physflow.config import (
    DataConfig,
    ExperimentConfig,
    MLPConfig,
    ModelConfig,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
    from_dict,
)
from physflow.data import files
from physflow.data.darcy import generate
from physflow.fields import to_tensor
from physflow.generative import checkpoints, train
from physflow.generative.training import TrainingDiverged

SCORES = ("residual_mse", "strong_residual_mse", "relative_residual", "solution_error", "mass_imbalance")
SMALL = ModelConfig(rank=6, mlp=MLPConfig(width=16, blocks=1))
TINY_UNET = UNetConfig(channels=8, multipliers=(1,), blocks=1)
QUICK = TrainingConfig(steps=4, batch_size=8, warmup=1, evaluate_every=2, checkpoint_every=2, validation=0.1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the built-in experiment darcy-tiny."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    experiment.run(experiment.load_experiment("darcy-tiny"), out)
    return out


def test_the_products(finished):
    names = {"experiment.yaml", "data.nc", "model", "samples.nc", "scores.json", "timings.json", "report.html"}
    assert {path.name for path in finished.iterdir()} == names
    assert {p.name for p in (finished / "model").iterdir()} == {"config.yaml", "weights.safetensors", "metrics.jsonl"}


def test_samples_hold_fields_completed_fields_and_every_score(finished):
    with files.open(finished / "samples.nc") as ds:
        for name in ("permeability", "pressure", "pressure_completed"):
            assert ds[name].dims == ("sample", "x", "y")
            assert ds[name].dtype == np.float32
        for name in SCORES:
            assert ds[name].dims == ds[f"{name}_completed"].dims == ("sample",)
        assert float(ds["residual_mse_completed"].median()) < 1e-8
        assert float(ds["solution_error"].median()) < 0.3
        expected = physflow.load(finished / "model").sample(ds.sizes["sample"], steps=5, correction="complete")
        xr.testing.assert_equal(expected["pressure"], ds["pressure_completed"])


def test_scores_are_summarised_beside_their_anchors(finished):
    scores = json.loads((finished / "scores.json").read_text())
    assert set(scores["samples"]["raw"]) == set(scores["samples"]["completed"]) == set(SCORES)
    assert scores["anchors"]["p = 0"]["solution_error"]["median"] == 1
    assert scores["anchors"]["data floor"]["residual_mse"]["median"] < 1e-8
    assert 0.8 < scores["statistics"]["log permeability"]["std"]["ratio"] < 1.2


def test_the_report_is_there(finished):
    html = (finished / "report.html").read_text()
    assert "darcy-tiny" in html
    assert "data:image/png;base64," in html


def test_run_again_it_says_that_it_is_complete(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    experiment.run(experiment.load_experiment("darcy-tiny"), finished, progress=True)
    assert "complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_lost_product_is_made_again_and_is_the_same(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "run")
    kept = (out / "data.nc").stat().st_mtime_ns
    for name in ("samples.nc", "report.html"):
        (out / name).unlink()
    experiment.run(experiment.load_experiment("darcy-tiny"), out)
    assert (out / "samples.nc").read_bytes() == (finished / "samples.nc").read_bytes()
    assert (out / "data.nc").stat().st_mtime_ns == kept


def test_other_settings_are_refused_unless_overwritten(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "run")
    tiny = experiment.load_experiment("darcy-tiny")
    other = dataclasses.replace(
        tiny,
        data=dataclasses.replace(tiny.data, samples=40),
        model=SMALL,
        training=QUICK,
        sampling=SamplingConfig(samples=3, steps=1),
    )
    with pytest.raises(FileExistsError, match=r"holds another experiment .*settings differ"):
        experiment.run(other, out)
    assert (out / "report.html").exists()
    experiment.run(other, out, overwrite=True)
    with files.open(out / "data.nc") as ds:
        assert ds.sizes["sample"] == 40


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="holds other files and no experiment"):
        experiment.run(experiment.load_experiment("darcy-tiny"), tmp_path)
    with pytest.raises(FileExistsError, match="holds other files and no experiment"):
        experiment.run(experiment.load_experiment("darcy-tiny"), tmp_path, overwrite=True)
    with pytest.raises(FileExistsError, match="is a file; give a folder"):
        experiment.run(experiment.load_experiment("darcy-tiny"), tmp_path / "thesis.tex")


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """Data, and the folder of a training that was stopped right after its first checkpoint."""
    generate(40, resolution=8, modes=6, out=tmp_path / "data.nc").close()
    write = checkpoints.Checkpoint.write

    def write_and_stop(*args, **kwargs):
        write(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.Checkpoint, "write", write_and_stop)
        experiment.train_model(tmp_path / "data.nc", tmp_path / "model", model=SMALL, training=QUICK)
    assert (tmp_path / "model" / "checkpoint.pt").exists()
    return tmp_path


def test_an_interrupted_training_goes_on_from_its_checkpoint(interrupted):
    data, model = interrupted / "data.nc", interrupted / "model"
    whole = experiment.train_model(data, interrupted / "whole", model=SMALL, training=QUICK)
    parts = experiment.train_model(data, model, model=SMALL, training=QUICK)
    xr.testing.assert_identical(parts.sample(3), whole.sample(3))
    assert (model / "metrics.jsonl").read_text() == (interrupted / "whole" / "metrics.jsonl").read_text()


def test_going_on_with_other_model_settings_is_refused(interrupted):
    other = dataclasses.replace(SMALL, log=())
    with pytest.raises(ValueError, match=r"made with other settings: log \(checkpoint .*\(--overwrite\)"):
        experiment.train_model(interrupted / "data.nc", interrupted / "model", model=other, training=QUICK)


def test_going_on_with_other_data_is_warned_of(interrupted):
    generate(40, resolution=8, modes=6, seed=1, out=interrupted / "other.nc").close()
    with pytest.warns(UserWarning, match="fingerprint"):
        experiment.train_model(interrupted / "other.nc", interrupted / "model", model=SMALL, training=QUICK)


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(log=()),
        ModelConfig(space="pixel", network="unet", log=(), unet=TINY_UNET),
    ],
    ids=["pod", "pixel"],
)
def test_any_gridded_dataset_trains_a_model(tmp_path, model):
    values = np.random.default_rng(0).standard_normal((30, 5, 7)).cumsum(1)
    ds = xr.Dataset({"wind": (("sample", "lat", "lon"), values)}, coords={"lat": np.arange(5.0), "lon": np.arange(7.0)})
    files.write(ds, tmp_path / "wind.nc")
    trained = experiment.train_model(tmp_path / "wind.nc", tmp_path / "model", model=model, training=QUICK)
    samples = physflow.load(tmp_path / "model").sample(3)
    xr.testing.assert_identical(samples, trained.sample(3))
    assert samples["wind"].dims == ("sample", "lat", "lon")
    assert list(samples.data_vars) == ["wind"]
    experiment.sample_model(trained, tmp_path / "samples.nc", SamplingConfig(samples=2))


def test_some_fields_of_an_equation_are_learnt_without_scores(tmp_path):
    generate(40, resolution=8, modes=6, out=tmp_path / "data.nc").close()
    model = experiment.train_model(
        tmp_path / "data.nc", tmp_path / "model", model=SMALL, training=QUICK, fields=["permeability"]
    )
    assert list(model.sample(2).data_vars) == ["permeability"]


@pytest.mark.parametrize(
    "model", [SMALL, ModelConfig(space="pixel", network="unet", unet=TINY_UNET)], ids=["pod", "pixel"]
)
def test_training_on_the_symmetric_images(tmp_path, model):
    generate(40, resolution=8, modes=6, out=tmp_path / "data.nc").close()
    training = dataclasses.replace(QUICK, symmetries=True)
    trained = experiment.train_model(tmp_path / "data.nc", tmp_path / "model", model=model, training=training)
    assert trained.sample(2).sizes["sample"] == 2


DATA = DataConfig(samples=40, resolution=8, modes=6)
FRESH = dataclasses.replace(QUICK, fresh=True, symmetries=True)


@pytest.fixture
def stored(tmp_path):
    generate(**vars(DATA), out=tmp_path / "data.nc").close()
    return tmp_path / "data.nc"


@pytest.mark.parametrize(
    "model", [SMALL, ModelConfig(space="pixel", network="unet", unet=TINY_UNET)], ids=["pod", "pixel"]
)
def test_fresh_training_sees_the_samples_after_those_of_the_file(stored, monkeypatch, model):
    seen, held = [], []

    def watch(network, objective, data, config, **kwargs):
        stream = data.batches(0)
        seen.extend(next(stream) for _ in range(config.steps))
        stream.close()
        held.append(kwargs["validation"].batch(torch.arange(4)))
        return train(network, objective, data, config, **kwargs)

    monkeypatch.setattr(fitting, "train", watch)
    training = dataclasses.replace(FRESH, symmetries=False)
    trained = experiment.train_model(stored, stored.parent / "m", model=model, training=training, generator=DATA)
    more = dataclasses.replace(DATA, samples=40 + 4 * 8)
    fields = to_tensor(generate(**vars(more)), ("permeability", "pressure"), torch.float32)
    torch.testing.assert_close(torch.cat(seen), trained.transform(fields[40:]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(held[0], trained.transform(fields[36:40]), rtol=1e-4, atol=1e-4)
    assert physflow.load(stored.parent / "m").training.fresh


def test_an_interrupted_fresh_training_goes_on_bit_for_bit(stored, monkeypatch):
    write, folder = checkpoints.Checkpoint.write, stored.parent

    def write_and_stop(*args, **kwargs):
        write(*args, **kwargs)
        raise KeyboardInterrupt

    settings = {"model": SMALL, "training": FRESH, "generator": DATA}
    whole = experiment.train_model(stored, folder / "whole", **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.Checkpoint, "write", write_and_stop)
        experiment.train_model(stored, folder / "model", **settings)
    parts = experiment.train_model(stored, folder / "model", **settings)
    xr.testing.assert_identical(parts.sample(3), whole.sample(3))
    assert (folder / "model" / "metrics.jsonl").read_text() == (folder / "whole" / "metrics.jsonl").read_text()
    other = experiment.train_model(
        stored, folder / "set", model=SMALL, training=dataclasses.replace(FRESH, fresh=False)
    )
    assert not other.sample(3).equals(whole.sample(3))


def test_an_experiment_on_fresh_samples(tmp_path):
    tiny = experiment.load_experiment("darcy-tiny")
    config = dataclasses.replace(
        tiny, data=DATA, model=SMALL, training=FRESH, sampling=SamplingConfig(samples=3, steps=1)
    )
    report = experiment.run(config, tmp_path / "run")
    assert report.exists()
    with files.open(tmp_path / "run" / "data.nc") as ds:
        assert ds.sizes["sample"] == 40


def test_fresh_training_needs_the_generator_of_the_file_and_all_its_fields(stored):
    folder = stored.parent / "m"
    with pytest.raises(ValueError, match=r"needs the settings of their generator, .* use `physflow run`"):
        experiment.train_model(stored, folder, model=SMALL, training=FRESH)
    for other in ({"seed": 1}, {"correlation_length": 0.2}, {"samples": 39}):
        with pytest.raises(ValueError, match="needs the settings that made the file, but those given make another"):
            experiment.train_model(
                stored, folder, model=SMALL, training=FRESH, generator=dataclasses.replace(DATA, **other)
            )
    with pytest.raises(ValueError, match=r"learns all fields of the generator, .*; got \('pressure',\)"):
        experiment.train_model(stored, folder, model=SMALL, training=FRESH, generator=DATA, fields=["pressure"])
    assert not folder.exists()


def test_symmetries_need_an_equation(tmp_path):
    generate(40, resolution=8, modes=6, out=tmp_path / "data.nc").close()
    training = dataclasses.replace(QUICK, symmetries=True)
    with pytest.raises(ValueError, match="symmetries=true needs data with an equation"):
        experiment.train_model(tmp_path / "data.nc", tmp_path / "m", training=training, fields=["pressure"])


def test_diverged_training_keeps_the_last_checkpoint(tmp_path):
    generate(40, resolution=8, modes=6, out=tmp_path / "data.nc").close()
    steep = dataclasses.replace(QUICK, learning_rate=1e38, steps=50, checkpoint_every=1)
    with pytest.raises(TrainingDiverged, match="step"):
        experiment.train_model(tmp_path / "data.nc", tmp_path / "model", model=SMALL, training=steep)
    assert (tmp_path / "model" / "checkpoint.pt").exists()
    assert not (tmp_path / "model" / "config.yaml").exists()


def test_an_experiment_on_a_rectangle_with_a_directed_binary_law(tmp_path):
    data = {"samples": 40, "resolution": [8, 12], "extent": [1, 1.5], "modes": 6, "permeability": "binary"}
    law = {"covariance": "matern", "correlation_length": [0.5, 0.2], "angle": 30, "levels": [1, 4]}
    sampling = SamplingConfig(samples=3, steps=1)
    config = ExperimentConfig(
        data=from_dict(DataConfig, {**data, **law}), model=SMALL, training=QUICK, sampling=sampling
    )
    assert experiment.run(config, tmp_path / "run").exists()
    conditions = json.loads((tmp_path / "run" / "scores.json").read_text())["conditions"]
    assert conditions["data"]["correlation_length"] == [0.5, 0.2]
    assert conditions["data"]["levels"] == [1.0, 4.0]
    assert conditions["data"]["grid"]["bounds"] == [[0.0, 1.0], [0.0, 1.5]]


class TestBadInput:
    def test_nan_in_the_data_is_named(self, tmp_path):
        ds = generate(300, resolution=8, modes=6)
        ds["pressure"][280, 3, 4] = np.nan
        files.write(ds, tmp_path / "data.nc")
        with pytest.raises(ValueError, match=r"'pressure' has 1 values .* the first in sample 280 at point \(3, 4\)"):
            experiment.train_model(tmp_path / "data.nc", tmp_path / "model", training=QUICK)

    @pytest.mark.parametrize(
        ("law", "message"),
        [
            ({"coefficients": "uniform"}, "uniform coefficients of a positive mean have none"),
            ({"correlation_length": (0.3, 0.1)}, "a law without a direction; two correlation lengths give it one"),
        ],
    )
    def test_symmetries_of_a_law_that_has_none(self, tmp_path, law, message):
        generate(40, resolution=8, modes=6, **law, out=tmp_path / "data.nc").close()
        training = dataclasses.replace(QUICK, symmetries=True)
        with pytest.raises(ValueError, match=message):
            experiment.train_model(tmp_path / "data.nc", tmp_path / "model", training=training)

    def test_an_unknown_device(self, finished, tmp_path):
        with pytest.raises(ValueError, match="no device 'gpu' on this machine; valid: cpu"):
            experiment.train_model(finished / "data.nc", tmp_path / "model", device="gpu")

    def test_an_existing_model_is_refused(self, finished):
        with pytest.raises(FileExistsError, match="holds a trained model"):
            experiment.train_model(finished / "data.nc", finished / "model")

    def test_too_few_samples(self, tmp_path):
        generate(1, resolution=8, modes=6, out=tmp_path / "data.nc").close()
        with pytest.raises(ValueError, match="holds 1 samples, of which 1 are left for training"):
            experiment.train_model(tmp_path / "data.nc", tmp_path / "model")

    def test_an_unknown_field(self, finished, tmp_path):
        with pytest.raises(ValueError, match="no variable 'velocity'"):
            experiment.train_model(finished / "data.nc", tmp_path / "model", fields=["velocity"])

    def test_an_unknown_experiment(self):
        with pytest.raises(FileNotFoundError, match=r"no experiment 'darcy-smal'.* did you mean 'darcy-small'"):
            experiment.load_experiment("darcy-smal")

    def test_an_unknown_key(self, tmp_path):
        (tmp_path / "a.yaml").write_text("data: {sample: 3}")
        with pytest.raises(ValueError, match=r"unknown key 'data.sample'; did you mean 'samples'"):
            experiment.load_experiment(tmp_path / "a.yaml")

    def test_no_yaml(self, tmp_path):
        (tmp_path / "a.yaml").write_text("data: [")
        with pytest.raises(ValueError, match="not valid YAML"):
            experiment.load_experiment(tmp_path / "a.yaml")

    def test_a_report_of_nothing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"has no experiment.yaml; finish the experiment first"):
            experiment.write_report(tmp_path)


@pytest.mark.parametrize("name", ["darcy-small", "darcy-tiny"])
def test_built_in_experiments_are_valid(name):
    assert experiment.load_experiment(name).name == name


def test_baselines_are_trained_on_the_same_data_and_stand_in_the_report(tmp_path):
    settings = {
        "name": "with baselines",
        "data": {"samples": 40, "resolution": 8, "modes": 4},
        "model": {"rank": 6, "mlp": {"width": 16, "blocks": 1}, "latent": {"kind": "fields", "fields": "permeability"}},
        "training": {"steps": 4, "batch_size": 8, "warmup": 1},
        "sampling": {"samples": 5, "solver": "euler", "steps": 2},
        "baselines": [
            {"name": "I-CFM", "model": {"latent": {"kind": "none"}}},
            {"name": "direct / regression", "training": {"objective": "regression"}, "sampling": {"steps": 1}},
        ],
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    config = experiment.load_experiment(tmp_path / "settings.yaml")
    plain, regression = config.baselines
    # What a baseline does not state is as in the experiment.
    assert plain.model.mlp == config.model.mlp
    assert plain.training == config.training
    assert regression.model == config.model
    assert regression.sampling == dataclasses.replace(config.sampling, steps=1)

    experiment.run(config, tmp_path / "run")
    out = tmp_path / "run"
    assert sorted(p.name for p in (out / "baselines").iterdir()) == ["direct-regression", "i-cfm"]
    rows = json.loads((out / "scores.json").read_text())["models"]
    assert [row["name"] for row in rows] == ["this experiment", "I-CFM", "direct / regression"]
    assert [row["evaluations"] for row in rows] == [2, 2, 1]
    assert [row["given"] for row in rows] == [["permeability"], [], ["permeability"]]
    with files.open(out / "baselines" / "i-cfm" / "samples.nc") as ds:
        assert rows[1]["scores"]["residual_mse"]["median"] == pytest.approx(float(ds["residual_mse"].median()))
    timings = json.loads((out / "timings.json").read_text())
    assert {"train", "train I-CFM", "train direct / regression"} <= set(timings)
    page = (out / "report.html").read_text()
    assert "told the law of permeability" in page
    assert "direct / regression" in page
    # A lost baseline is made again, and nothing else.
    model = (out / "model" / "weights.safetensors").stat().st_mtime_ns
    shutil.rmtree(out / "baselines" / "i-cfm")
    for name in ("scores.json", "report.html"):
        (out / name).unlink()
    experiment.run(config, out)
    assert json.loads((out / "scores.json").read_text())["models"] == rows
    assert (out / "model" / "weights.safetensors").stat().st_mtime_ns == model


def test_changes_hold_for_baselines_that_state_nothing_else():
    changes = {"training": {"steps": 7, "weight": "even"}, "model": {"mlp": {"width": 64}}}
    config = experiment.load_experiment("darcy-small", changes)
    plain, regression = config.baselines
    assert (config.training.steps, plain.training.steps, regression.training.steps) == (7, 7, 7)
    assert {b.model.mlp.width for b in (config, *config.baselines)} == {64}
    assert regression.training.objective == "regression"
    assert plain.model.latent.kind == "none"
    assert experiment.load_experiment("darcy-small", changes, alone=True) == dataclasses.replace(config, baselines=())


def test_baselines_need_different_names():
    with pytest.raises(ValueError, match="different names, in more than signs and capitals, got baseline, baseline"):
        from_dict(ExperimentConfig, {"baselines": [{}, {}]})
