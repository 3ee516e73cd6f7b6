"""Training a model on a file of fields: transform, latent, network and prior, in this order.

A two-stage latent is trained before the network, a mixture fitted before it; what z is drawn from comes last, for it is
fitted to what the trained latent makes of the data. All of them see the training samples of the file only, never those
kept for the validation.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from physflow.assembly import make_network, make_objective, make_physics, make_transform, sizes_of
from physflow.config import (
    DataConfig,
    FieldsConfig,
    ModelConfig,
    SamplingConfig,
    TrainingConfig,
    check_compatible,
)
from physflow.data import darcy, files
from physflow.data.batches import FileBatches, encode, rows
from physflow.data.files import FieldReader
from physflow.data.streams import DarcyStream
from physflow.fields import content_fingerprint, field_names
from physflow.generative import (
    BatchSource,
    BatchStream,
    Conditioned,
    Objective,
    TensorBatches,
    train,
)
from physflow.grid import Grid
from physflow.model import Model
from physflow.pde import Equation, Symmetry, attributes_of, check_device, from_dataset, identity
from physflow.stages import STAGES, Stages, identity_of

__all__ = ["train_model", "with_prior"]

_PRODUCTS = ("config.yaml", "weights.safetensors", "checkpoint.pt", "metrics.jsonl")


def train_model(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: ModelConfig | None = None,
    training: TrainingConfig | None = None,
    fields: Sequence[str] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = False,
    generator: FieldsConfig | None = None,
    sampling: SamplingConfig | None = None,
) -> Model:
    """Train a model on a file of fields, with or without an equation, and save it as a folder.

    An interrupted training goes on from its last checkpoint. With ``training.fresh`` the file serves the transform and
    the validation; the training sees new samples of its generator, those after the last one in the file.

    Arguments:
        data: A netCDF-4 file of fields over (sample, *axes), or a folder of shards.
        out: The folder of the model.
        model: The settings of the network.
        training: The settings of the training.
        fields: The fields to model; those of the equation, or all, by default.
        device: ``"auto"`` takes a GPU where there is one.
        overwrite: Whether an existing model is replaced.
        progress: Whether to show progress bars.
        generator: The settings that made the file, with which ``training.fresh`` makes more.
        sampling: The solver and the steps that are the model's own, for `Model.sample`.

    Returns:
        The trained model.

    Raises:
        FileExistsError: If the folder holds a complete model and `overwrite` is not set.
        ValueError: If the data do not fit the settings.
    """
    model, training, out = model or ModelConfig(), training or TrainingConfig(), Path(out)
    check_compatible(model, training)
    sampling = sampling or _sampling_of(training)
    if (out / "config.yaml").exists() and not overwrite:
        raise FileExistsError(f"{out} holds a trained model; choose another folder, or overwrite it (--overwrite)")
    if overwrite:
        for folder in (out, *(out / stage for stage in STAGES)):
            for name in _PRODUCTS:
                (folder / name).unlink(missing_ok=True)
    with files.open(data) as ds:
        equation = from_dataset(ds) if "equation" in ds.attrs else None
        names = tuple(fields or (equation.fields if equation else field_names(ds)))
        attrs = {key: ds.attrs[key] for key in ("centering",) if key in ds.attrs}
        attrs |= attributes_of(equation) if equation else {}
        if equation is not None and set(names) == set(equation.fields):
            names = equation.fields
        elif equation is not None:
            # Some of its fields only: there is nothing to score.
            attrs, equation = {"centering": equation.grid.centering}, None
        data_fingerprint, coefficients = content_fingerprint(ds), ds.attrs.get("coefficients")
        directed = np.size(ds.attrs.get("correlation_length", 0.0)) > 1
        if training.fresh:
            _check_generator(ds, names, generator)
    reader = FieldReader(data, names)
    held_out = int(training.validation * len(reader))
    split = len(reader) - held_out
    if split < 2:
        raise ValueError(
            f"{data} holds {len(reader)} samples, of which {split} are left for training; it needs at least two"
        )
    if training.flips and (equation is not None or "x" not in reader.grid.axes):
        raise ValueError(
            "flips=true mirrors images along x: it needs data with that axis and without an equation, whose own "
            "symmetries are those of symmetries=true"
        )
    images = _images(training, equation, reader.grid)
    if training.coupling != "independent" and split < training.batch_size and not training.fresh:
        raise ValueError(
            f"coupling={training.coupling!r} pairs over batches of batch_size={training.batch_size}, but {data} leaves "
            f"{split} samples for training: use a smaller batch_size, or more data"
        )
    if training.symmetries and coefficients == "uniform":
        raise ValueError(
            "symmetries=true needs a law with the symmetries of the equation; uniform coefficients of a positive mean "
            "have none: leave it out"
        )
    if training.symmetries and directed:
        raise ValueError("symmetries=true needs a law without a direction; two correlation lengths give it one")
    if training.symmetries and equation is None:
        raise ValueError(f"symmetries=true needs data with an equation and all of its fields; {data} has {list(names)}")
    if training.physics > 0:
        _check_physics(training, model, equation, names)
    device = check_device(device)
    # After all that can be refused: the fit reads the data several times.
    transform = make_transform(model, names).fit(lambda: rows(reader, 0, split))

    def source(start: int, stop: int, images: Sequence[Symmetry] = (identity,)) -> BatchSource:
        if model.space == "pod":
            return TensorBatches(encode(reader, transform, start, stop, images))
        return FileBatches(reader, transform, start, stop, images)

    stream: BatchStream | None = None
    if training.fresh and isinstance(generator, DataConfig):
        stream = DarcyStream(
            generator,
            training.batch_size,
            first=generator.samples,
            transform=transform,
            images=images,
            image_seed=training.seed,
        )
    sizes = sizes_of(transform, names)
    network = make_network(model, training, sizes, reader.grid)
    latent = network.latent if isinstance(network, Conditioned) else None
    objective: Objective = make_objective(training, model, reader.grid, latent)
    if training.physics > 0 and equation is not None:
        objective = make_physics(training, objective, equation, transform)
    stages = Stages(model, training, out, device, data_fingerprint, progress)
    held = source(split, len(reader)) if held_out else None
    # On first use: a stream leaves the samples of the file to what a latent needs, if there is one.
    items = functools.cache(lambda: source(0, split, images))
    if latent is not None:
        stages.prepare(latent, items(), held, sizes, reader.grid)
    network = train(
        network,
        objective,
        stream or items(),
        training,
        validation=held,
        folder=out,
        device=device,
        fingerprint=data_fingerprint,
        settings={"fields": list(names), **identity_of(model)},
        progress=progress,
    ).cpu()
    prior = stages.prior(network.latent, items()) if isinstance(network, Conditioned) else None
    reader.close()
    trained = Model(
        network, transform, names, reader.grid, equation, attrs, model, training, data_fingerprint, prior, sampling
    )
    # Under torchrun every process holds the same weights; one writes them.
    if int(os.environ.get("RANK", 0)) == 0:
        trained.save(out)
        for folder in (out, *(out / stage for stage in STAGES)):
            (folder / "checkpoint.pt").unlink(missing_ok=True)
    return trained


def _images(training: TrainingConfig, equation: Equation | None, grid: Grid) -> Sequence[Symmetry]:
    """The maps whose images of each sample count as data."""
    if training.flips:
        axis = 2 + grid.axes.index("x")
        return (identity, lambda fields: fields.flip(axis))
    return equation.symmetries() if training.symmetries and equation is not None else (identity,)


def with_prior(
    model: Model, data: str | os.PathLike[str], draw: Literal["encodings", "normal", "mixture", "flow"]
) -> Model:
    """The same model with z drawn in another way: nothing but the prior is fitted anew.

    Arguments:
        model: A model with a learned latent (posterior or VAE) that reads :math:`x_1` alone, or any for ``"normal"``.
        data: The file on which it was trained; the samples kept for its validation are left out again.
        draw: How z is drawn.

    Returns:
        A model that shares the network with the one given.

    Raises:
        ValueError: If the model has no latent, or one whose z cannot be drawn like this.
    """
    if model.latent is None:
        raise ValueError("this model has no latent: there is nothing to draw")
    config = dataclasses.replace(model.config, latent=dataclasses.replace(model.config.latent, draw=draw))
    with files.open(data) as ds:
        model.check_data(ds)
    with tempfile.TemporaryDirectory() as folder:
        reader = FieldReader(data, model.fields)
        split = len(reader) - int(model.training.validation * len(reader))
        images = _images(model.training, model.equation, model.grid)
        items = FileBatches(reader, model.transform, 0, split, images)
        stages = Stages(config, model.training, Path(folder), "cpu", model.fingerprint, False)
        prior = stages.prior(model.latent, items)
        reader.close()
    return Model(
        model.network,
        model.transform,
        model.fields,
        model.grid,
        model.equation,
        model.attrs,
        config,
        model.training,
        model.fingerprint,
        prior,
        model.sampling,
    )


def _sampling_of(training: TrainingConfig) -> SamplingConfig:
    """How a model of this training is drawn from, if nobody says otherwise."""
    steps = {"regression": 1, "consistency": training.segments}.get(training.objective)
    return SamplingConfig() if steps is None else SamplingConfig(solver="euler", steps=steps)


def _check_physics(
    training: TrainingConfig, model: ModelConfig, equation: Equation | None, names: tuple[str, ...]
) -> None:
    """Check that these data have an equation, and that what it wants positive is so whatever the network says."""
    if equation is None:
        raise ValueError(
            f"training.physics={training.physics:g} needs data with an equation and all of its fields, got "
            f"{list(names)}: leave it at 0"
        )
    if missing := [name for name in equation.positive if name not in model.log]:
        raise ValueError(
            f"training.physics={training.physics:g} needs {', '.join(missing)} positive in every estimate, which only "
            f"its logarithm ensures: use model.log={[*model.log, *missing]}"
        )


def _check_generator(ds: xr.Dataset, names: tuple[str, ...], generator: FieldsConfig | None) -> None:
    """Check that these settings made the file, so that its transform and its validation fit what they make next."""
    if generator is None:
        raise ValueError(
            "training.fresh=true makes new samples and needs the settings of their generator, which a file does not "
            "hold: use `physflow run`, or leave it out to train on the samples of the file"
        )
    if not isinstance(generator, DataConfig):
        raise ValueError("training.fresh=true makes Darcy pairs only; leave it out to train on the samples of the file")
    if ds.attrs.get("fingerprint") != darcy.metadata_of(generator).fingerprint:
        raise ValueError(
            "training.fresh=true needs the settings that made the file, but those given make another one: make the "
            "file again with them"
        )
    if names != darcy.FIELDS:
        raise ValueError(f"training.fresh=true learns all fields of the generator, {darcy.FIELDS}; got {names}")
