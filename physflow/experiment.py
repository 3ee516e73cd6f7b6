"""An experiment from nothing to a report: generate, train, sample, score, report.

The stages write into one folder, each file whole or not at all:

    experiment.yaml   the settings; their fingerprint names the experiment
    data.nc           the data
    model/            the trained model (and, while it trains, its checkpoint)
    baselines/        models to compare it with, one a folder, with their samples
    samples.nc        the samples: fields as sampled, solutions completed, every score of both
    scores.json       medians and quartiles of the scores, of the anchors, and the statistics of the fields
    timings.json      the seconds that each stage took
    report.html       all of it to look at

A stage whose files exist is not run again, so an interrupted experiment goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from physflow import report
from physflow.baselines import folder_of, sample_baseline, train_baseline
from physflow.config import (
    PRESETS,
    ExperimentConfig,
    SamplingConfig,
    builtin_experiments,
    fingerprint,
    from_dict,
    nearest,
    to_dict,
)
from physflow.data import files
from physflow.data.files import atomic
from physflow.data.generators import generate
from physflow.fields import SAMPLE
from physflow.fitting import train_model
from physflow.machine import machine, versions
from physflow.model import Model, load
from physflow.pde import score
from physflow.summary import COMPARED, summarize, write_scores

__all__ = ["load_experiment", "run", "sample_model", "summarize", "train_model", "write_report"]

_PRODUCTS = (
    "data.nc",
    "model",
    "baselines",
    "samples.nc",
    "scores.json",
    "timings.json",
    "report.html",
    "experiment.yaml",
)


def load_experiment(
    name: str | os.PathLike[str], changes: Mapping[str, Any] | None = None, alone: bool = False
) -> ExperimentConfig:
    """The settings of a built-in experiment or of a YAML file.

    Arguments:
        name: A built-in name, or the path of a YAML file; an existing file wins.
        changes: Settings, nested as in the file, that take the place of its own; those of the model, the training and
            the sampling hold for its baselines too, where these do not state another.
        alone: Whether to leave out the baselines.

    Raises:
        FileNotFoundError: If there is neither.
        ValueError: If the file has unknown keys or impossible values.
    """
    builtin = builtin_experiments()
    path = Path(name) if Path(name).is_file() else builtin.get(str(name))
    if path is None:
        raise FileNotFoundError(
            f"no experiment {str(name)!r}: neither a YAML file nor built in; {nearest(str(name), builtin)}"
        )
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    config = from_dict(ExperimentConfig, _completed(_merge(values or {}, changes or {})))
    return dataclasses.replace(config, baselines=()) if alone else config


def _completed(values: Any) -> Any:
    """The settings with those of each baseline, which states what differs, filled in from the experiment's own."""
    if not isinstance(values, dict) or not isinstance(values.get("baselines"), list):
        return values
    shared = {key: values[key] for key in ("model", "training", "sampling") if key in values}
    return {**values, "baselines": [_merge(shared, b) if isinstance(b, dict) else b for b in values["baselines"]]}


def _merge(values: Any, changes: Any) -> Any:
    if not isinstance(values, dict) or not isinstance(changes, dict):
        return changes
    if "kind" in changes and changes["kind"] != values.get("kind"):
        # The settings of one kind of latent are not those of another.
        values = {}
    merged = {**values, **{key: _merge(values.get(key), change) for key, change in changes.items()}}
    if (preset := changes.get("preset")) in PRESETS:
        # It replaces what the experiment, or a preset of its own, says of the law.
        for name in {*PRESETS.get(str(values.get("preset")), {}), *PRESETS[preset]} - set(changes):
            merged.pop(name, None)
    return merged


def run(config: ExperimentConfig, out: str | os.PathLike[str], overwrite: bool = False, progress: bool = False) -> Path:
    """Carry out an experiment in a folder, or go on with one that was interrupted.

    Arguments:
        config: The settings.
        out: The folder.
        overwrite: Whether the products of another experiment in the folder are replaced.
        progress: Whether to say what is going on.

    Returns:
        The path of the report.

    Raises:
        FileExistsError: If the folder holds something else, or another experiment, and `overwrite` is not set.
    """
    out = Path(out)
    say: Callable[[str], None] = print if progress else lambda _: None
    _prepare(config, out, overwrite)
    if (out / "report.html").exists():
        say(f"{config.name}: complete in {out}, nothing to do")
        return out / "report.html"
    data, samples = out / "data.nc", out / "samples.nc"
    stages: list[tuple[str, Path, Callable[[], Any]]] = [
        ("generate", data, lambda: generate(config.data, out=data, progress=progress).close()),
        (
            "train",
            out / "model" / "config.yaml",
            lambda: train_model(
                data,
                out / "model",
                model=config.model,
                training=config.training,
                progress=progress,
                generator=config.data,
                sampling=config.sampling,
            ),
        ),
        ("sample", samples, lambda: sample_model(load(out / "model"), samples, config.sampling, progress=progress)),
    ]
    folders = {baseline.name: folder_of(out, baseline) for baseline in config.baselines}
    for baseline in config.baselines:
        folder = folders[baseline.name]
        training = partial(train_baseline, out, baseline, config.data, progress)
        stages += [
            (f"train {baseline.name}", folder / "model" / "config.yaml", training),
            (f"sample {baseline.name}", folder / "samples.nc", partial(sample_baseline, out, baseline, progress)),
        ]
    stages += [
        ("score", out / "scores.json", lambda: write_scores(out, folders)),
        ("report", out / "report.html", lambda: write_report(out)),
    ]
    for name, product, stage in stages:
        if product.exists():
            say(f"{name}: done before")
            continue
        say(f"{name} ...")
        start = time.perf_counter()
        stage()
        _add_timing(out, name, time.perf_counter() - start)
    return out / "report.html"


def _prepare(config: ExperimentConfig, out: Path, overwrite: bool) -> None:
    """Make the folder, or check that what it holds is this experiment."""
    settings = out / "experiment.yaml"
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; give a folder")
    if not overwrite and settings.exists() and _is_of(config, settings):
        return
    if out.exists() and any(out.iterdir()):
        if not settings.exists():
            raise FileExistsError(f"{out} holds other files and no experiment; choose another folder")
        if not overwrite:
            raise FileExistsError(
                f"{out} holds another experiment (its settings differ); choose another folder, or overwrite it "
                "(--overwrite)"
            )
        for name in _PRODUCTS:
            product = out / name
            shutil.rmtree(product) if product.is_dir() else product.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    with atomic(settings) as part:
        part.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))


def _is_of(config: ExperimentConfig, settings: Path) -> bool:
    try:
        return fingerprint(load_experiment(settings)) == fingerprint(config)
    except ValueError:
        # Settings of another version, or edited by hand: not this experiment.
        return False


def _add_timing(out: Path, name: str, seconds: float) -> None:
    # An interrupted stage counts from its last start; the report's own time cannot stand in the report.
    timings = {**_read_json(out / "timings.json"), name: round(seconds, 1)}
    with atomic(out / "timings.json") as part:
        part.write_text(json.dumps(timings, indent=1))


def _read_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return values


def sample_model(
    model: Model, out: str | os.PathLike[str], sampling: SamplingConfig, overwrite: bool = False, progress: bool = False
) -> Path:
    """Draw samples from a model into a file, as sampled and, where there is an equation, completed, each scored.

    Arguments:
        model: The model.
        out: The file.
        sampling: How to sample.
        overwrite: Whether an existing file is replaced.
        progress: Whether to show a progress bar.

    Returns:
        The path of the file: the fields; for each solution field also ``<name>_completed``, recomputed from the sampled
        inputs; every score per sample, and those of the completed fields with the suffix ``_completed``.
    """
    ds = model.sample(sampling.samples, sampling.seed, sampling.solver, sampling.steps, progress=progress)
    if model.equation is not None:
        solutions = model.equation.solutions
        fields = torch.stack([torch.from_numpy(ds[name].values) for name in model.equation.fields], dim=1)
        completed = model.complete(fields)
        for name in solutions:
            values = completed[:, model.equation.fields.index(name)].numpy()
            description = {**ds[name].attrs, "long_name": f"{ds[name].attrs.get('long_name', name)}, completed"}
            ds[f"{name}_completed"] = (ds[name].dims, values, description)
        ds = model.score(ds, suffix="_completed", **{name: f"{name}_completed" for name in solutions})
    return files.write(ds, out, overwrite)


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` from what an experiment left in its folder.

    Raises:
        FileNotFoundError: If a product of the experiment is missing.
    """
    folder = Path(folder)
    for name in ("experiment.yaml", "data.nc", "samples.nc"):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"{folder} has no {name}; finish the experiment first: `physflow run` in the same folder"
            )
    config = load_experiment(folder / "experiment.yaml")
    metrics = folder / "model" / "metrics.jsonl"
    model_fields = load(folder / "model").fields
    with files.open(folder / "data.nc") as data, files.open(folder / "samples.nc") as samples:
        some = data.isel({SAMPLE: slice(COMPARED)})
        return report.write_report(
            folder / "report.html",
            title=config.name,
            truth=data[list(model_fields)],
            samples=samples.load(),
            anchors=score(some, anchors=True) if "equation" in data.attrs else None,
            metrics=[json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else [],
            config=to_dict(config),
            versions=versions(),
            machine=machine(),
            timings=_read_json(folder / "timings.json"),
            models=_read_json(folder / "scores.json").get("models", ()),
        )
