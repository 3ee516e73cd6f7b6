import dataclasses
import json
import math
import typing

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from physflow.config import (
    PRESETS,
    DataConfig,
    ExperimentConfig,
    MLPConfig,
    ModelConfig,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
    builtin_experiments,
    fingerprint,
    from_dict,
    nearest,
    to_dict,
)

CONFIGS = [DataConfig, MLPConfig, UNetConfig, ModelConfig, TrainingConfig, SamplingConfig, ExperimentConfig]

data_configs = st.builds(
    DataConfig,
    samples=st.integers(0, 10**6),
    resolution=st.integers(8, 512),
    modes=st.integers(1, 64) | st.none(),
    correlation_length=st.floats(1e-3, 10),
    std=st.floats(1e-3, 10),
    permeability=st.sampled_from(["lognormal", "binary"]),
    boundary=st.sampled_from(["neumann", "dirichlet"]),
    faces=st.sampled_from(["harmonic", "arithmetic"]),
    seed=st.integers(0, 2**63),
    dtype=st.sampled_from(["float32", "float64"]),
)
unet_configs = st.builds(
    UNetConfig,
    channels=st.integers(1, 512),
    multipliers=st.lists(st.integers(1, 8), min_size=1, max_size=5).map(tuple),
    attention=st.lists(st.integers(1, 64), max_size=3).map(tuple),
    dropout=st.floats(0, 0.99),
)
model_configs = st.builds(
    ModelConfig,
    log=st.lists(st.text("abc_", min_size=1), max_size=3).map(tuple),
    rank=st.integers(1, 1000) | st.none(),
    energy=st.floats(0.1, 1),
    unet=unet_configs,
) | st.just(ModelConfig(space="pixel", network="unet"))
training_configs = st.builds(
    TrainingConfig,
    steps=st.integers(0, 10**7),
    learning_rate=st.floats(1e-8, 1),
    ema=st.floats(0, 0.9999),
    sigma=st.floats(0, 10),
    compile=st.booleans(),
    prediction=st.sampled_from(["velocity", "data"]),
)
experiments = st.builds(
    ExperimentConfig,
    name=st.text(),
    data=data_configs,
    model=model_configs,
    training=training_configs,
    sampling=st.builds(SamplingConfig, samples=st.integers(0, 10**6), steps=st.integers(1, 1000)),
)


@given(experiments)
def test_round_trip_through_plain_data_json_and_yaml(config):
    values = to_dict(config)
    assert from_dict(ExperimentConfig, values) == config
    assert from_dict(ExperimentConfig, json.loads(json.dumps(values))) == config
    assert from_dict(ExperimentConfig, yaml.safe_load(yaml.safe_dump(values))) == config


@given(experiments, experiments)
def test_fingerprints_name_the_content(a, b):
    assert fingerprint(a) == fingerprint(from_dict(ExperimentConfig, to_dict(a))) == fingerprint(to_dict(a))
    assert (fingerprint(a) == fingerprint(b)) == (to_dict(a) == to_dict(b))


def test_fingerprint_is_stable_across_processes_and_key_order():
    assert fingerprint({"a": 1, "b": [1.5, "x"]}) == fingerprint({"b": [1.5, "x"], "a": 1}) == "d7aa7c69cbeb13ca"


@pytest.mark.parametrize("cls", CONFIGS)
def test_defaults_are_valid_frozen_and_described(cls):
    config = cls()
    assert from_dict(cls, {}) == config == from_dict(cls, to_dict(config))
    field = dataclasses.fields(cls)[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field.name, getattr(config, field.name))
    for field in dataclasses.fields(cls):
        assert f"\n        {field.name}: " in cls.__doc__


@pytest.mark.parametrize("cls", CONFIGS)
def test_every_choice_is_checked(cls):
    for name, hint in typing.get_type_hints(cls).items():
        if typing.get_origin(hint) is typing.Literal:
            with pytest.raises(ValueError, match=f"^unknown {name} 'nonsense'; .*valid: "):
                cls(**{name: "nonsense"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"dta": {}},
            "unknown key 'dta'; did you mean 'data'\\? valid: data, model, name, sampling, training",
        ),
        ({"data": {"sampels": 3}}, "unknown key 'data.sampels'; did you mean 'samples'\\?"),
        ({"model": {"mlp": {"widht": 3}}}, "unknown key 'model.mlp.widht'; did you mean 'width'\\?"),
        ({"data": {7: 3}}, "unknown key 'data.7'; valid: boundary, "),
        ({"data": 3}, "expected settings for data as a mapping, got 3"),
        ({"data": None}, "expected settings for data as a mapping, got None"),
        ({"data": {"samples": "many"}}, "expected data.samples to be int, got 'many'"),
        ({"data": {"samples": 3.0}}, "expected data.samples to be int, got 3.0"),
        ({"data": {"samples": True}}, "expected data.samples to be int, got True"),
        ({"data": {"modes": "all"}}, "expected data.modes to be int, got 'all'"),
        ({"data": {"std": "wide"}}, "expected data.std to be float, got 'wide'"),
        ({"data": {"std": True}}, "expected data.std to be float, got True"),
        ({"data": {"samples": -1}}, "data: samples must be a whole number of at least 0, got -1"),
        (
            {"data": {"source": "wels"}},
            "unknown data.source 'wels'; did you mean 'wells'\\? valid: constant, wells",
        ),
        ({"training": {"steps": -1}}, "training: steps must be a whole number of at least 0, got -1"),
        ({"training": {"compile": 1}}, "expected training.compile to be bool, got 1"),
        ({"model": {"log": 3}}, "expected model.log to be a list of str, got 3"),
        ({"model": {"log": [3]}}, "expected model.log to be str, got 3"),
        (
            {"model": {"unet": {"multipliers": "1,2"}}},
            "expected model.unet.multipliers to be a list of int, got '1,2'",
        ),
        (
            {"model": {"unet": {"multipliers": [1, 2.5]}}},
            "expected model.unet.multipliers to be int, got 2.5",
        ),
    ],
)
def test_plain_data_is_checked(values, message):
    with pytest.raises(ValueError, match="^" + message):
        from_dict(ExperimentConfig, values)


def test_plain_data_at_the_top_must_be_a_mapping():
    with pytest.raises(ValueError, match="expected settings for DataConfig as a mapping, got \\[\\]"):
        from_dict(DataConfig, [])


def test_plain_data_is_taken_in_its_usual_spellings():
    assert from_dict(TrainingConfig, {"learning_rate": "1e-3"}).learning_rate == 1e-3, "YAML 1.1 reads 1e-3 as text"
    assert from_dict(TrainingConfig, {"clip": 2}).clip == 2.0
    assert isinstance(from_dict(TrainingConfig, {"clip": 2}).clip, float)
    assert from_dict(ModelConfig, {"log": "a, b"}).log == ("a", "b")
    assert from_dict(ModelConfig, {"log": []}).log == ()
    assert from_dict(DataConfig, {"modes": None}).modes is None


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (DataConfig, {"samples": -1}, "samples must be a whole number of at least 0, got -1"),
        (DataConfig, {"samples": 2.5}, "samples must be a whole number of at least 0, got 2.5"),
        (DataConfig, {"samples": "ten"}, "samples must be a whole number of at least 0, got 'ten'"),
        (DataConfig, {"samples": math.inf}, "samples must be a whole number of at least 0, got inf"),
        (DataConfig, {"seed": -5}, "seed must be a whole number of at least 0, got -5"),
        (DataConfig, {"seed": True}, "seed must be a whole number of at least 0, got True"),
        (DataConfig, {"resolution": 1}, "resolution must be a whole number of at least 2, got 1"),
        (DataConfig, {"modes": 0}, "modes must be a whole number of at least 1, got 0"),
        (
            DataConfig,
            {"modes": 65, "resolution": 8},
            "at most resolution\\*\\*2 = 64, got 65; modes=None is the full field",
        ),
        (DataConfig, {"std": 0.0}, "std must be positive and finite, got 0.0"),
        (DataConfig, {"std": math.nan}, "std must be positive and finite, got nan"),
        (DataConfig, {"std": "1"}, "std must be positive and finite, got '1'"),
        (
            DataConfig,
            {"correlation_length": math.inf},
            "correlation_length must be positive and finite, got inf",
        ),
        (DataConfig, {"source": "constant"}, "use boundary='dirichlet' or source='wells'"),
        (DataConfig, {"discretization": "nodes", "boundary": "dirichlet"}, "knows boundary='neumann' only"),
        (DataConfig, {"modes": None, "coefficients": "uniform"}, "give a number of modes"),
        (
            DataConfig,
            {"preset": "rouhg"},
            "unknown preset 'rouhg'; did you mean 'rough'\\? valid: cocogen-16, ",
        ),
        (MLPConfig, {"width": 0}, "width must be a whole number of at least 1, got 0"),
        (UNetConfig, {"multipliers": ()}, "levels must be a whole number of at least 1, got 0"),
        (
            UNetConfig,
            {"multipliers": (1, 0)},
            "multipliers\\[1\\] must be a whole number of at least 1, got 0",
        ),
        (UNetConfig, {"dropout": 1.0}, "dropout must lie in \\[0, 1\\), got 1.0"),
        (
            ModelConfig,
            {"space": "pixel"},
            "space='pixel' does not go with network='mlp': the mlp reads POD coordinates",
        ),
        (ModelConfig, {"network": "unet"}, "space='pod' does not go with network='unet'"),
        (ModelConfig, {"rank": 0}, "rank must be a whole number of at least 1, got 0"),
        (ModelConfig, {"energy": 0.0}, "energy must lie in \\(0, 1\\], got 0.0"),
        (ModelConfig, {"energy": 1.5}, "energy must lie in \\(0, 1\\], got 1.5"),
        (TrainingConfig, {"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        (TrainingConfig, {"evaluate_every": 0}, "evaluate_every must be a whole number of at least 1, got 0"),
        (TrainingConfig, {"learning_rate": -1.0}, "learning_rate must be positive and finite, got -1.0"),
        (TrainingConfig, {"ema": 1.0}, "ema must lie in \\[0, 1\\), got 1.0"),
        (TrainingConfig, {"sigma": -0.1}, "sigma must be finite and not negative, got -0.1"),
        (TrainingConfig, {"validation": 1.0}, "validation must lie in \\[0, 1\\), got 1.0"),
        (SamplingConfig, {"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        (SamplingConfig, {"samples": -1}, "samples must be a whole number of at least 0, got -1"),
    ],
)
def test_impossible_settings_are_refused(cls, values, message):
    with pytest.raises(ValueError, match=message):
        cls(**values)


def test_numpy_numbers_serve():
    config = DataConfig(samples=np.int64(3), std=np.float32(0.5))
    assert (config.samples, config.std) == (3, 0.5)


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_fixes_its_law(preset):
    config = DataConfig(preset=preset)
    assert {name: getattr(config, name) for name in PRESETS[preset]} == PRESETS[preset]
    assert config == DataConfig(preset=preset, **PRESETS[preset]), "naming what a preset fixes is no conflict"
    assert from_dict(DataConfig, to_dict(config)) == config


def test_preset_against_an_explicit_setting_is_refused():
    with pytest.raises(ValueError, match="preset 'cocogen-16' fixes modes=16, got 32; leave one out"):
        DataConfig(preset="cocogen-16", modes=32)
    with pytest.raises(ValueError, match="preset 'rough' fixes coefficients='normal', got 'uniform'"):
        DataConfig(preset="rough", coefficients="uniform")


def test_nearest():
    assert nearest("sampels", ["samples", "seed"]) == "did you mean 'samples'? valid: samples, seed"
    assert nearest("zzz", iter(["samples", "seed"])) == "valid: samples, seed"


def test_builtin_experiments_are_valid():
    for name, path in builtin_experiments().items():
        config = from_dict(ExperimentConfig, yaml.safe_load(path.read_text()))
        assert path.stem == name
        assert from_dict(ExperimentConfig, to_dict(config)) == config
