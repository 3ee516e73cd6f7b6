"""Published settings: sizes that are published, and that every preset trains and samples."""

import dataclasses
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import physflow
from physflow.assembly import make_network
from physflow.cli import main
from physflow.config import builtin_presets, preset
from physflow.data import images
from physflow.grid import Grid

PRESETS = builtin_presets()
SHAPES = {"mnist": (1, 28), "cifar10": (3, 32), "imagenet": (4, 32), "darcy": (2, 64)}
MILLIONS = {"mnist-i-cfm": 1.560769, "cifar10-i-cfm": 35.746307, "imagenet-sit-xl": 675, "imagenet-v-sit-xl": 677}
"""Parameters to sample with; of transformers to three digits, and those of classes are not among ours."""


def test_every_row_of_the_tables_is_there():
    assert len(PRESETS) == 21
    assert {name.split("-")[0] for name in PRESETS} == set(SHAPES)


def test_settings_in_place_of_published_ones():
    assert preset("mnist-i-cfm", steps=3, batch_size=None)[1].steps == 3
    assert preset("mnist-i-cfm", steps=3, batch_size=None)[1].batch_size == 128
    model, training = preset("mnist-latent-cfm", steps=1000)
    published = preset("mnist-latent-cfm")
    assert (training.warmup, model.latent.pretraining_steps) == (50, published[0].latent.pretraining_steps // 100)
    assert preset("mnist-i-cfm", steps=3, warmup=2)[1].warmup == 2
    with pytest.raises(ValueError, match="unknown preset 'mnist-icfm'; did you mean 'mnist-i-cfm'"):
        preset("mnist-icfm")
    with pytest.raises(ValueError, match="steps must be"):
        preset("mnist-i-cfm", steps=-1)
    with pytest.raises(ValueError, match="unknown setting of a training 'step'; did you mean 'steps'"):
        preset("mnist-i-cfm", step=3)


def full(name):
    """The network without memory for its weights, and what of it samples."""
    model, training = preset(name)
    channels, n = SHAPES[name.split("-")[0]]
    with torch.device("meta"):
        network = make_network(model, training, dict.fromkeys(map(str, range(channels)), 1), Grid((n, n)))
    return network, getattr(network, "network", network)


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_full_size(name):
    _, sampling = full(name)
    if name in MILLIONS:
        assert size(sampling) / 1e6 == pytest.approx(MILLIONS[name], rel=4e-3 if "sit" in name else 1e-9)
    assert size(sampling) > 5e5


def test_what_a_latent_of_cifar10_costs():
    """Guo and Schwing (2025), Tables 1 and 5: 0.7 and 0.5 million parameters; posteriors of 17.5 % and 6.7 %."""
    plain = size(full("cifar10-i-cfm")[1])
    assert size(full("cifar10-v-rfm-1")[1]) - plain == pytest.approx(0.7e6, rel=0.1)
    assert size(full("cifar10-v-rfm-4")[1]) - plain == pytest.approx(0.5e6, rel=0.1)
    large = size(full("cifar10-v-rfm-1")[0].latent)
    assert size(full("cifar10-v-rfm-medium")[0].latent) / large == pytest.approx(0.175, abs=0.005)
    assert size(full("cifar10-v-rfm-small")[0].latent) / large == pytest.approx(0.067, abs=0.002)


def test_images_keep_their_scale():
    for name in PRESETS:
        assert (preset(name)[0].scale == 1) == name.startswith(("mnist", "cifar10"))


def reduced(name):
    """The same, narrow and short."""
    model, training = preset(name)
    latent = model.latent
    if latent.kind != "none":
        encoder = dataclasses.replace(latent.encoder, channels=2, width=16, depth=min(latent.encoder.depth, 1))
        latent = dataclasses.replace(latent, dimension=min(4, latent.dimension), encoder=encoder)
    if latent.kind == "vae":
        latent = dataclasses.replace(latent, pretraining_steps=2)
    model = dataclasses.replace(
        model,
        unet=dataclasses.replace(model.unet, channels=8, blocks=1),
        sit=dataclasses.replace(model.sit, width=16, depth=2, heads=2),
        resnet=dataclasses.replace(model.resnet, channels=8, blocks=1),
        latent=latent,
    )
    return model, dataclasses.replace(training, steps=2, batch_size=4, warmup=min(training.warmup, 1))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A few images of each shape."""
    folder, generator = tmp_path_factory.mktemp("images"), torch.Generator().manual_seed(0)
    for kind, (channels, n) in SHAPES.items():
        if kind == "darcy":
            physflow.data.darcy.generate(8, n, modes=4, out=folder / "darcy.nc").close()
            continue
        u = torch.randn(8, channels, n, n, generator=generator)
        names = images.pixels.CHANNELS.get(channels, tuple(f"latent_{c}" for c in range(channels)))
        ds = physflow.fields.to_dataset(u, names, images.pixels.grid_of_pixels(n, n))
        physflow.data.write(ds, folder / f"{kind}.nc")
    return folder


@pytest.mark.parametrize("name", PRESETS)
def test_two_steps(name, data, tmp_path):
    model, training = reduced(name)
    kind = name.split("-")[0]
    physflow.fitting.train_model(data / f"{kind}.nc", tmp_path / "model", model=model, training=training)
    ds = physflow.load(tmp_path / "model").sample(2, seed=0, solver="euler", steps=2, score=False)
    fields = physflow.fields.to_tensor(ds)
    assert fields.shape == (2, SHAPES[kind][0], SHAPES[kind][1], SHAPES[kind][1])
    assert math.isfinite(float(fields.sum()))


@pytest.mark.parametrize("words", [["--config", "cifar10-i-cfm"], ["--config=cifar10-i-cfm"]])
def test_presets_have_names_on_the_command_line(words, capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", *words, "--print_config"])
    assert left.value.code == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["model"]["unet"]["channels"] == 128
    assert values["training"]["flips"] is True


def test_an_option_overrules_a_preset_wherever_it_stands(capsys):
    for words in (["--training.steps", "7", "--config", "mnist-i-cfm"], ["--training.steps=7", "--config=mnist-i-cfm"]):
        with pytest.raises(SystemExit):
            main(["train", "data.nc", "--out", "model", *words, "--print_config"])
        values = yaml.safe_load(capsys.readouterr().out)
        assert values["training"]["steps"] == 7
        assert values["training"]["batch_size"] == 128


def test_a_misspelt_preset_is_told(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["train", "data.nc", "--out", str(tmp_path), "--config", "mnist-vrfm"])
    assert stop.value.code == 2
    assert "unknown preset, and no file, 'mnist-vrfm'; did you mean 'mnist-v-rfm'" in capsys.readouterr().err


def run_example(script, source, out, *words, processes=1):
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    script = Path(__file__).parents[1] / "examples" / script
    command += map(str, [script, source, "--out", out, "--steps", 2, "--batch_size", 4, *words])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]


def losses_of(folder):
    lines = (folder / "model" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_the_example_of_mnist_on_one_process_and_on_two(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 28, 28), dtype=np.uint8)
    header = bytes([0, 0, 8, 3]) + struct.pack(">3I", *pixels.shape)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    for name, processes in (("one", 1), ("two", 2)):
        run_example("mnist.py", tmp_path, tmp_path / name, "--preset", "mnist-i-cfm", processes=processes)
        assert (tmp_path / name / "samples.png").stat().st_size > 1000
    assert losses_of(tmp_path / "one") == pytest.approx(losses_of(tmp_path / "two"), rel=1e-5)
