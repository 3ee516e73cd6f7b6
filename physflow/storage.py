"""The folder of a model: ``config.yaml`` and ``weights.safetensors``. Reading one runs no code from it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor, nn

from physflow import __version__
from physflow.config import builtin_models, nearest
from physflow.data.files import atomic

__all__ = ["FORMAT", "check_shapes", "explained", "find", "halved", "misfit", "part", "read", "write"]

FORMAT = "physflow-model-2"


def write(folder: str | os.PathLike[str], config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write a model's settings (plain data) and tensors to a folder, each file whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "weights.safetensors") as file:
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    versions = {"physflow": __version__, "torch": str(torch.__version__)}
    # Last: a folder with config.yaml is a complete model.
    with atomic(folder / "config.yaml") as file:
        file.write_text(yaml.safe_dump({"format": FORMAT, **config, "versions": versions}, sort_keys=False))
    return folder


def read(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and the tensors of a model's folder.

    Raises:
        FileNotFoundError: If the folder holds no complete model.
        ValueError: If a file is damaged or of another format.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder} holds no trained model (no config.yaml); train one with `physflow train`")
    with explained(folder):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        if config["format"] != FORMAT:
            raise ValueError(f"its format is {config['format']!r}")
    try:
        return config, safetensors.torch.load_file(folder / "weights.safetensors")
    except (OSError, safetensors.SafetensorError) as error:
        raise misfit(folder, error) from error


@contextlib.contextmanager
def explained(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever goes wrong with the settings of a model into one clear error."""
    try:
        yield
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{Path(folder) / 'config.yaml'} is not a model of format {FORMAT!r}: {error}; was it edited, or made by "
            "another version?"
        ) from error


def misfit(folder: str | os.PathLike[str], error: Exception) -> ValueError:
    """The error of weights that do not belong to their settings."""
    return ValueError(f"the weights in {folder} do not fit its config.yaml, or are damaged: {error}")


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def halved(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors, those whose names begin with `prefix` in half precision."""
    return {
        key: value.half() if key.startswith(prefix) and value.is_floating_point() else value
        for key, value in tensors.items()
    }


def find(folder: str | os.PathLike[str]) -> Path:
    """The folder of a model that is named by its path or, where there is nothing at the path, by a shipped name.

    Raises:
        FileNotFoundError: If there is neither.
    """
    path, shipped = Path(folder), builtin_models()
    if path.exists() or len(path.parts) != 1:
        return path
    if path.name not in shipped:
        raise FileNotFoundError(
            f"no model {path.name!r}: neither a folder nor one that ships with physflow; {nearest(path.name, shipped)}"
        )
    return shipped[path.name]


def check_shapes(network: nn.Module, expected: nn.Module) -> None:
    """Refuse a network that is not the one that a model's settings build: it could not be loaded again."""
    found, wanted = ({name: t.shape for name, t in n.state_dict().items()} for n in (network, expected))
    if found != wanted:
        raise ValueError(
            "this network is not the one that the model's settings build, and could not be loaded again: keep its "
            "state_dict yourself, or describe it by the settings"
        )
