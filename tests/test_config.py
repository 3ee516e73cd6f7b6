import dataclasses
import json
import math
import typing

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from physflow import experiment
from physflow.config import (
    PRESETS,
    DataConfig,
    EncoderConfig,
    ExperimentConfig,
    LatentConfig,
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

sizes, lengths = st.integers(8, 512), st.floats(1e-3, 10)
modes, stds = st.integers(1, 63) | st.none(), st.floats(1e-3, 10)
# The settings of each law, as far as they may differ from their defaults.
laws = st.one_of(
    st.fixed_dictionaries(
        {"covariance": st.sampled_from(["exponential", "gaussian"]), "correlation_length": lengths, "modes": modes}
    ),
    st.fixed_dictionaries(
        {
            "covariance": st.just("matern"),
            "smoothness": st.floats(0.1, 50),
            "correlation_length": st.tuples(st.just(0.5), st.floats(1e-3, 0.4)),
            "angle": st.floats(-360, 360),
            "std": stds,
        }
    ),
    st.fixed_dictionaries(
        {"covariance": st.just("cosine"), "alpha": st.floats(1.1, 9), "tau": lengths, "modes": modes, "std": stds}
    ),
    st.fixed_dictionaries({"covariance": st.just("bumps"), "modes": st.none()}),
    st.fixed_dictionaries(
        {"permeability": st.just("binary"), "levels": st.tuples(st.floats(0.1, 1), st.floats(2, 9)), "modes": modes}
    ),
    st.fixed_dictionaries({"preset": st.sampled_from(sorted(PRESETS))}),
)
data_configs = st.builds(
    lambda law, **settings: DataConfig(**law, **settings),
    laws,
    samples=st.integers(0, 10**6),
    resolution=sizes | st.tuples(sizes, sizes),
    extent=st.tuples(lengths, lengths),
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
            "unknown key 'dta'; did you mean 'data'\\? valid: baselines, data, model, name, sampling, training",
        ),
        ({"data": {"sampels": 3}}, "unknown key 'data.sampels'; did you mean 'samples'\\?"),
        ({"model": {"mlp": {"widht": 3}}}, "unknown key 'model.mlp.widht'; did you mean 'width'\\?"),
        ({"data": {7: 3}}, "unknown key 'data.7'; valid: alpha, angle, boundary, "),
        ({"data": 3}, "expected settings for data as a mapping, got 3"),
        ({"data": None}, "expected settings for data as a mapping, got None"),
        ({"data": {"samples": "many"}}, "expected data.samples to be int, got 'many'"),
        ({"data": {"samples": 3.0}}, "expected data.samples to be int, got 3.0"),
        ({"data": {"samples": True}}, "expected data.samples to be int, got True"),
        ({"data": {"modes": "all"}}, "expected data.modes to be int, got 'all'"),
        ({"data": {"std": "wide"}}, "expected data.std to be float, got 'wide'"),
        ({"data": {"std": True}}, "expected data.std to be float, got True"),
        ({"data": {"resolution": "fine"}}, "expected data.resolution to be int or a list of 2 int, got 'fine'"),
        ({"data": {"resolution": 16.5}}, "expected data.resolution to be int or a list of 2 int, got 16.5"),
        ({"data": {"resolution": [1, 2, 3]}}, "expected data.resolution to be a list of 2 int, got \\[1, 2, 3\\]"),
        ({"data": {"resolution": [8, 8.5]}}, "expected data.resolution to be int, got 8.5"),
        ({"data": {"extent": 2}}, "expected data.extent to be a list of 2 float, got 2"),
        ({"data": {"levels": [1, "b"]}}, "expected data.levels to be float, got 'b'"),
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
    assert from_dict(DataConfig, {"extent": [2, "1e-1"]}).extent == (2.0, 0.1)
    assert from_dict(DataConfig, {"correlation_length": "2e-1"}).correlation_length == 0.2
    assert from_dict(DataConfig, {"correlation_length": [1, 0.5]}).correlation_length == (1.0, 0.5)


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
            "modes must be at most 64 on 8 x 8 points, got 65; modes=None is the full field",
        ),
        (DataConfig, {"modes": 41, "resolution": (8, 5)}, "modes must be at most 40 on 8 x 5 points, got 41"),
        (
            DataConfig,
            {"covariance": "cosine", "modes": 64, "resolution": 8},
            "modes must be at most 63 on 8 x 8 points, got 64",
        ),
        (DataConfig, {"resolution": (8, 1)}, "resolution must be a whole number of at least 2, got 1"),
        (DataConfig, {"resolution": (8, 8, 8)}, "resolution must be a whole number or a pair of numbers, got"),
        (DataConfig, {"resolution": "8"}, "resolution must be a whole number or a pair of numbers, got '8'"),
        (DataConfig, {"extent": 2.0}, "extent must be a pair of numbers, got 2.0"),
        (DataConfig, {"extent": (1.0, 0.0)}, "extent must be positive and finite, got \\(1.0, 0.0\\)"),
        (
            DataConfig,
            {"correlation_length": (0.1, 0.2, 0.3)},
            "correlation_length must be a number or a pair of numbers, got",
        ),
        (DataConfig, {"correlation_length": (0.1, -0.2)}, "correlation_length must be positive and finite, got"),
        (DataConfig, {"angle": math.inf}, "angle must be a finite number, got inf"),
        (DataConfig, {"angle": 30.0}, "angle=30.0 needs two different correlation lengths, such as"),
        (
            DataConfig,
            {"angle": 30.0, "correlation_length": (0.2, 0.2)},
            "angle=30.0 needs two different correlation lengths",
        ),
        (
            DataConfig,
            {"covariance": "matern", "smoothness": 51.0},
            "smoothness must lie in \\(0, 50\\], got 51.0; covariance='gaussian' is the limit",
        ),
        (DataConfig, {"covariance": "matern", "smoothness": 0.0}, "smoothness must be positive and finite, got 0.0"),
        (DataConfig, {"covariance": "cosine", "alpha": 1.0}, "alpha must be greater than 1, .* got 1.0"),
        (DataConfig, {"covariance": "cosine", "alpha": math.nan}, "alpha must be a finite number, got nan"),
        (DataConfig, {"covariance": "cosine", "tau": 0.0}, "tau must be positive and finite, got 0.0"),
        (
            DataConfig,
            {"permeability": "binary", "levels": (12.0, 3.0)},
            "levels must be a low value and a higher one, got \\(12.0, 3.0\\)",
        ),
        (DataConfig, {"permeability": "binary", "levels": (3.0, 3.0)}, "levels must be a low value and a higher one"),
        (DataConfig, {"permeability": "binary", "levels": (0.0, 3.0)}, "levels must be positive and finite"),
        (
            DataConfig,
            {"smoothness": 2.0},
            "smoothness=2.0 says nothing about covariance='exponential', only about matern; leave it out",
        ),
        (DataConfig, {"covariance": "matern", "alpha": 3.0}, "alpha=3.0 says nothing about covariance='matern'"),
        (DataConfig, {"covariance": "gaussian", "tau": 2.0}, "tau=2.0 says nothing about covariance='gaussian'"),
        (
            DataConfig,
            {"covariance": "cosine", "correlation_length": 0.2},
            "correlation_length=0.2 says nothing about covariance='cosine', only about exponential, matern, gaussian",
        ),
        (
            DataConfig,
            {"covariance": "bumps", "modes": None, "std": 2.0},
            "std=2.0 says nothing about covariance='bumps'",
        ),
        (
            DataConfig,
            {"covariance": "cosine", "coefficients": "uniform"},
            "coefficients='uniform' says nothing about covariance='cosine'",
        ),
        (
            DataConfig,
            {"covariance": "bumps"},
            "covariance='bumps' is no expansion in modes, got modes=64; use modes=None",
        ),
        (DataConfig, {"levels": (1.0, 2.0)}, "levels=\\(1.0, 2.0\\) says nothing .* use permeability='binary'"),
        (
            DataConfig,
            {"permeability": "binary", "std": 2.0},
            "std=2.0 says nothing about a binary permeability, which follows the sign of G",
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
        (ModelConfig, {"scale": 2.0}, "scale=2 multiplies point values \\(space='pixel'\\), but POD coordinates"),
        (
            ModelConfig,
            {"space": "pixel", "network": "unet", "scale": 0.0},
            "scale must be positive and finite, got 0.0",
        ),
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
    config = DataConfig(samples=np.int64(3), std=np.float32(0.5), levels=np.array([3, 12]), modes=np.int64(8))
    assert config == DataConfig(samples=3, std=0.5, modes=8)
    assert fingerprint(config) == fingerprint(DataConfig(samples=3, std=0.5, modes=8))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"std": 2}, {"std": 2.0}),
        ({"resolution": [32, 32]}, {"resolution": 32}),
        ({"resolution": np.array([32, 16])}, {"resolution": (32, 16)}),
        ({"extent": [2, 1]}, {"extent": (2.0, 1.0)}),
        ({"correlation_length": (0.2, 0.2)}, {"correlation_length": 0.2}),
    ],
)
def test_two_spellings_are_one_data_set(one, other):
    assert DataConfig(**one) == DataConfig(**other)
    assert fingerprint(DataConfig(**one)) == fingerprint(DataConfig(**other))
    assert hash(DataConfig(**one)) == hash(DataConfig(**other))


def test_shape():
    assert DataConfig(resolution=32).shape == (32, 32)
    assert DataConfig(resolution=[32, 16]).shape == (32, 16)


@pytest.mark.parametrize(
    ("settings", "law"),
    [
        ({}, {"correlation_length": 0.1, "std": 1.0, "coefficients": "normal", "modes": 64}),
        (
            {"covariance": "matern", "correlation_length": (0.2, 0.1), "modes": None},
            {
                "correlation_length": (0.2, 0.1),
                "angle": 0.0,
                "smoothness": 1.5,
                "std": 1.0,
                "coefficients": "normal",
                "modes": None,
            },
        ),
        ({"preset": "fno"}, {"alpha": 2.0, "tau": 3.0, "modes": None, "levels": (3.0, 12.0)}),
        ({"preset": "pdebench"}, {"modes": None, "levels": (0.1, 1.0)}),
        ({"covariance": "cosine"}, {"alpha": 2.0, "tau": 3.0, "std": 1.0, "modes": 64}),
        (
            {"permeability": "binary"},
            {"correlation_length": 0.1, "coefficients": "normal", "modes": 64, "levels": (3.0, 12.0)},
        ),
    ],
)
def test_the_law_is_the_settings_that_say_something_about_it(settings, law):
    config = DataConfig(**settings)
    assert config.law() == {"covariance": config.covariance, **law}


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
    with pytest.raises(ValueError, match="preset 'pidm-64' fixes covariance='exponential', got 'gaussian'"):
        DataConfig(preset="pidm-64", covariance="gaussian")
    with pytest.raises(ValueError, match=r"preset 'pdebench' fixes levels=\(0.1, 1.0\), got \(1, 2\)"):
        DataConfig(preset="pdebench", levels=(1, 2))
    with pytest.raises(ValueError, match=r"correlation_length=0\.2 says nothing about covariance='cosine'"):
        DataConfig(preset="fno", correlation_length=0.2)
    with pytest.raises(ValueError, match="discretization='nodes', the published scheme, knows boundary='neumann' only"):
        DataConfig(preset="fno", discretization="nodes")


def test_nearest():
    assert nearest("sampels", ["samples", "seed"]) == "did you mean 'samples'? valid: samples, seed"
    assert nearest("zzz", iter(["samples", "seed"])) == "valid: samples, seed"


def test_builtin_experiments_are_valid():
    for name, path in builtin_experiments().items():
        config = experiment.load_experiment(name)
        assert path.stem == name
        assert from_dict(ExperimentConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "posterior", "inputs": ()}, "a posterior must read something: give inputs among x0, x1, xt, t"),
        ({"kind": "posterior", "inputs": ("x2",)}, "unknown input 'x2' of a posterior"),
        ({"kind": "posterior", "inputs": ("x0", "x1"), "draw": "flow"}, "draw='flow' needs encodings of data samples"),
        ({"kind": "vae", "inputs": ("x1", "t")}, "kind='vae' has no use for inputs="),
        ({"kind": "mixture", "draw": "normal"}, "components of a mixture are drawn with the shares"),
        (
            {"kind": "mixture", "inputs": ("x0",)},
            "kind='mixture' has no use for inputs=",
        ),
        ({"draw": "flow"}, "kind='none' has no use for draw='flow'; kinds that have: posterior, vae, mixture, fields"),
        ({"dimension": 4}, "kind='none' has no use for dimension=4; kinds that have: posterior, vae"),
        ({"kind": "posterior", "encoder": EncoderConfig(8), "components": 3}, "has no use for components=3"),
        ({"kind": "posterior", "inputs": ("x1", "x1")}, "inputs and fields once each"),
        ({"kind": "fields"}, "kind='fields' takes the coordinates of some fields: name them"),
        ({"fields": ("pressure",)}, "kind='none' has no use for fields="),
        ({"kind": "posterior", "beta": -1.0}, "beta must be finite and not negative, got -1.0"),
        ({"kind": "posterior", "dimension": 0}, "dimension must be a whole number of at least 1, got 0"),
        ({"kind": "vea"}, "did you mean 'vae'"),
    ],
)
def test_impossible_latents_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LatentConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "drawn"),
    [
        ({"kind": "posterior"}, "encodings"),
        ({"kind": "vae"}, "encodings"),
        ({"kind": "posterior", "inputs": ("x0", "x1", "xt")}, "normal"),
        ({"kind": "fields", "fields": ("a",)}, "normal"),
        ({"kind": "fields", "fields": ("a",), "draw": "encodings"}, "encodings"),
        ({"kind": "mixture"}, "encodings"),
        ({"kind": "mixture", "draw": "mixture"}, "mixture"),
        ({"kind": "posterior", "draw": "flow"}, "flow"),
    ],
)
def test_a_latent_is_drawn_in_the_way_of_its_method(settings, drawn):
    assert LatentConfig(**settings).drawn == drawn


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "regression", "weight": "late"}, "objective='regression' has no use for weight='late'"),
        ({"objective": "consistency", "times": "logit-normal"}, "objective='consistency' has no use for times="),
        ({"ot_factor": 2}, "ot_factor=2 is for coupling='ot', got coupling='independent'"),
        ({"path": "bridge"}, "path='bridge' needs sigma > 0, the width of the bridge"),
        ({"coupling": "sb", "sigma": 0.1}, "coupling='sb' goes with path='bridge', of the same width sigma"),
        ({"path": "cosine", "sigma": 0.3}, "path='cosine' has no width: leave sigma at 0, got 0.3"),
        ({"path": "vp", "sigma": 0.3}, "path='vp' has no width: leave sigma at 0, got 0.3"),
        ({"path": "vp"}, "path='vp' has a velocity whose error is infinite.*use prediction='noise' or 'data'"),
        ({"path": "ve"}, "path='ve' needs 0 < sigma < 50.*such as sigma=0.01; got 0"),
        ({"path": "condot", "sigma": 2.0}, "path='condot' needs 0 <= sigma < 1"),
        ({"segments": 7}, "segments=7 is for objective='consistency', got 'flow'"),
        ({"path": "bridge", "sigma": 0.1, "prediction": "data"}, "path='bridge' is learnt as a velocity"),
    ],
)
def test_settings_without_a_use_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)


@pytest.mark.parametrize("word", ["none", None, "null"])
def test_none_is_a_choice_where_it_is_one(word):
    assert from_dict(ModelConfig, {"precondition": word}).precondition == "none"
    assert from_dict(LatentConfig, {"kind": word}).kind == "none"


@pytest.mark.parametrize("name", ["I-cfm", "i cfm!", "this experiment", "\u03bc"])
def test_baselines_that_would_share_a_folder_are_refused(name):
    with pytest.raises(ValueError, match=r"baselines of different names|must hold letters or digits"):
        from_dict(ExperimentConfig, {"baselines": [{"name": "I-CFM"}, {"name": name}]})


def test_settings_that_cannot_go_together_are_refused_before_anything_is_made():
    with pytest.raises(ValueError, match="objective='regression' predicts from a latent that is given"):
        from_dict(ExperimentConfig, {"baselines": [{"training": {"objective": "regression"}}]})
    with pytest.raises(ValueError, match="precondition='input' is for predictions of the data from independent noise"):
        from_dict(ExperimentConfig, {"model": {"precondition": "input"}})
