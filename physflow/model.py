"""The trained model: where generation meets physics.

A model draws points of the source, carries them along the learned velocity to model space, maps them back to fields,
corrects them if asked, and scores every one with the equation that made the training data. On disk it is one folder,
``config.yaml`` and ``weights.safetensors``; loading one runs no code from it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import xarray as xr
import yaml
from torch import Tensor, nn
from tqdm import tqdm

from physflow import __version__
from physflow.assembly import make_network, make_objective
from physflow.config import ModelConfig, TrainingConfig, from_dict, nearest, to_dict
from physflow.data.files import atomic
from physflow.fields import content_fingerprint, to_dataset, to_tensor
from physflow.generative import (
    RK4,
    Adaptive,
    Euler,
    Heun,
    Midpoint,
    Solver,
    integrate,
)
from physflow.grid import Grid
from physflow.inference import Completion, Correction
from physflow.pde import Darcy, DarcyNodes, Equation, from_dataset, score_fields
from physflow.transforms import Transform, from_spec

__all__ = ["SOLVERS", "Model", "load"]

FORMAT = "physflow-model-1"

SOLVERS: dict[str, type[Solver]] = {
    "euler": Euler,
    "midpoint": Midpoint,
    "heun": Heun,
    "rk4": RK4,
    "dopri5": Adaptive,
}
"""The solvers by the names that the command line and `Model.sample` take; a `Solver` object serves as well."""

_BLOCK = 50
"""Samples that are computed together, always a whole block: a sample does not depend on how many are asked for."""


_SCORED = 256
"""Samples that are scored together, for the memory."""


class Model:
    """A trained generator of fields.

    Arguments:
        network: The trained network, called as network(x, t, z=None) in model space.
        transform: The fitted transform from fields to model space.
        fields: The names of the fields, in channel order.
        grid: Their grid.
        equation: The equation that relates them (its `fields` are these), or None.
        attrs: The attributes that rebuild the equation (`physflow.pde.from_dataset`).
        config: The settings of the network.
        training: The settings with which it was trained.
        fingerprint: The fingerprint of the training data.
    """

    def __init__(
        self,
        network: nn.Module,
        transform: Transform,
        fields: tuple[str, ...],
        grid: Grid,
        equation: Equation | None = None,
        attrs: Mapping[str, Any] | None = None,
        config: ModelConfig | None = None,
        training: TrainingConfig | None = None,
        fingerprint: str = "",
    ) -> None:
        if equation is not None and tuple(fields) != equation.fields:
            raise ValueError(f"expected the equation's fields {equation.fields} in this order, got {tuple(fields)}")
        self.network, self.transform = network.eval(), transform
        self.fields, self.grid, self.equation = tuple(fields), grid, equation
        self.attrs, self.fingerprint = dict(attrs or {}), fingerprint
        self.config, self.training = config or ModelConfig(), training or TrainingConfig()
        self.objective = make_objective(self.training, self.config, grid)

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.network.parameters())
        return (
            f"Model({', '.join(self.fields)} on {' x '.join(map(str, self.grid.shape))} {self.grid.centering}, "
            f"{type(self.equation).__name__ if self.equation else 'no equation'}, {parameters:,} parameters)"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item in model space."""
        channels = self.transform.channels(len(self.fields))
        return (channels,) if self.config.space == "pod" else (channels, *self.grid.shape)

    def to(self, device: str | torch.device) -> Model:
        """Move the model to a device, and return it."""
        self.network.to(device)
        self.transform.to(device)
        return self

    def sample(
        self,
        n: int,
        seed: int = 0,
        solver: str | Solver = "heun",
        steps: int = 10,
        correction: str | Correction | None = None,
        *,
        score: bool = True,
        dtype: str = "float32",
        progress: bool = False,
    ) -> xr.Dataset:
        """Draw fields, and score each.

        Sample i depends on (seed, i) alone, whatever the number of samples and the correction.

        Arguments:
            n: The number of samples.
            seed: The seed.
            solver: The integrator: a name (``"euler"``, ``"midpoint"``, ``"heun"``, ``"rk4"``, ``"dopri5"``) or a
                `Solver`.
            steps: The number of steps of a fixed-step solver.
            correction: None; ``"complete"``, which recomputes the solution fields from the sampled inputs; or any
                callable that maps fields of shape (batch, channel, *axes) in physical units to corrected ones.
            score: Whether to add the scores of `physflow.pde.score` as variables, where there is an equation.
            dtype: The type of the fields, in which they are also scored.
            progress: Whether to show a progress bar.

        Returns:
            A Dataset with the fields over (sample, *axes), every score over sample, and attributes that rebuild the
            equation and state how the samples were drawn.

        Raises:
            ValueError: If a name is unknown, a count negative, or the correction needs an equation that there is not.
        """
        if n < 0 or seed < 0:
            raise ValueError(f"the number of samples and the seed must not be negative, got {n} and {seed}")
        if dtype not in ("float32", "float64"):
            raise ValueError(f"unknown dtype {dtype!r}; {nearest(str(dtype), ('float32', 'float64'))}")
        solver_object = self._solver(solver)
        correct = self._correction(correction)
        velocity = self.objective.velocity(self.network)
        device = next(self.network.parameters()).device
        pieces = [torch.empty(0, len(self.fields), *self.grid.shape, dtype=getattr(torch, dtype))]
        with torch.inference_mode(), tqdm(total=n, desc="sample", unit="field", disable=not progress) as bar:
            for first in range(0, n, _BLOCK):
                noise = torch.cat([self._noise(seed, i) for i in range(first, first + _BLOCK)]).to(device)
                y = integrate(velocity, noise, solver_object, steps)
                fields = self.transform.inverse(y.double()).cpu().to(getattr(torch, dtype))
                pieces.append((correct(fields) if correct else fields)[: n - first])
                bar.update(len(pieces[-1]))
        fields = torch.cat(pieces)
        attrs = {
            **self.attrs,
            "trained_on": self.fingerprint,
            "seed": seed,
            "solver": repr(solver_object),
            "steps": steps,
            "correction": correction if isinstance(correction, str) else "none" if correction is None else "custom",
        }
        ds = to_dataset(fields, self.fields, self.grid, attrs)
        if (source := self._custom_source()) is not None:
            ds["source"] = (self.grid.axes, source.numpy())
        ds.attrs["fingerprint"] = content_fingerprint(ds)
        return self.score(ds) if score and self.equation is not None else ds

    def score(self, ds: xr.Dataset, suffix: str = "", **replace: str) -> xr.Dataset:
        """Add the scores of a Dataset's fields to it, one variable a score.

        Arguments:
            ds: Fields on the model's grid.
            suffix: Added to the name of each score.
            replace: ``pressure="pressure_completed"`` scores that variable in place of the field.

        Returns:
            The Dataset with the scores added.
        """
        if self.equation is None:
            raise ValueError("this model was trained on data without an equation: there is nothing to score with")
        names = [replace.get(name, name) for name in self.equation.fields]
        fields = to_tensor(ds, names, finite=False)
        valid = self.valid(fields)
        pieces = [score_fields(self.equation, *piece.unbind(1)) for piece in fields[valid].split(_SCORED)]
        scores = {}
        for name in pieces[0]:
            scores[name + suffix] = np.full(len(valid), np.nan)
            scores[name + suffix][valid.numpy()] = np.concatenate([piece[name] for piece in pieces])
        return ds.assign({name: ("sample", values, {"units": "1"}) for name, values in scores.items()})

    def valid(self, fields: Tensor) -> Tensor:
        """Which samples the equation can judge: finite, and positive where it must be. Others have no score (NaN).

        Arguments:
            fields: Fields of shape (batch, channel, *axes).

        Returns:
            One truth value a sample, shape (batch,).
        """
        good = torch.isfinite(fields).flatten(1).all(1)
        for name in self.equation.positive if self.equation is not None else ():
            good &= (fields[:, self.fields.index(name)] > 0).flatten(1).all(1)
        return good

    def complete(self, fields: Tensor) -> Tensor:
        """Replace the solution fields by the solution for the inputs, p = S(K); NaN where these are not valid.

        Arguments:
            fields: Fields of shape (batch, channel, *axes) in physical units.

        Returns:
            Completed fields of the same shape and type.

        Raises:
            ValueError: If the model was trained on data without an equation.
        """
        if self.equation is None:
            raise ValueError("completion needs an equation, and this model was trained on data without one")
        inputs = [self.fields.index(name) for name in self.equation.inputs]
        good = self.valid(fields[:, inputs])
        completed = torch.full_like(fields, torch.nan)
        completed[:, inputs] = fields[:, inputs]
        completed[good] = Completion(self.equation.complete)(fields[good])
        return completed

    def check_data(self, ds: xr.Dataset) -> None:
        """Warn if a Dataset is not the one that the model was trained on, by its fingerprint."""
        found = content_fingerprint(ds)
        if self.fingerprint and found != self.fingerprint:
            warnings.warn(
                f"these data (fingerprint {found}) are not those that the model was trained on ({self.fingerprint}); "
                "comparisons with them judge the difference of the data as well",
                UserWarning,
                stacklevel=2,
            )

    def _custom_source(self) -> Tensor | None:
        """The source term that no name in the attributes stands for."""
        if self.attrs.get("source") == "custom" and isinstance(self.equation, Darcy | DarcyNodes):
            return self.equation.source_term
        return None

    def _noise(self, seed: int, index: int) -> Tensor:
        # torch's generator knows 32 bits of its seed: a sum, unlike a hash, gives no two samples of a seed the same.
        start = int(np.random.SeedSequence(seed).generate_state(1)[0])
        generator = torch.Generator().manual_seed((start + index) % 2**32)
        return self.objective.source.sample((1, *self.shape), generator)

    def _solver(self, solver: str | Solver) -> Solver:
        if isinstance(solver, Solver):
            return solver
        if solver not in SOLVERS:
            raise ValueError(f"unknown solver {solver!r}; {nearest(str(solver), SOLVERS)}")
        return SOLVERS[solver]()

    def _correction(self, correction: str | Correction | None) -> Correction | None:
        if correction is None or callable(correction):
            return correction
        if correction != "complete":
            raise ValueError(f"unknown correction {correction!r}; {nearest(str(correction), ('complete',))}")
        if self.equation is None:
            raise ValueError("correction='complete' needs an equation, and this model was trained on data without one")
        return self.complete

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model to a folder, each file whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"network.{k}": v.contiguous() for k, v in self.network.state_dict().items()}
        tensors |= {f"transform.{k}": v.contiguous() for k, v in self.transform.state_dict().items()}
        if (source := self._custom_source()) is not None:
            tensors["source"] = source.contiguous()
        with atomic(folder / "weights.safetensors") as part:
            safetensors.torch.save_file(tensors, part)
        config = {
            "format": FORMAT,
            "fields": list(self.fields),
            "grid": to_dict(self.grid),
            "attrs": {k: v.item() if isinstance(v, np.generic) else v for k, v in self.attrs.items()},
            "transform": self.transform.spec(),
            "model": to_dict(self.config),
            "training": to_dict(self.training),
            "data_fingerprint": self.fingerprint,
            "versions": {"physflow": __version__, "torch": str(torch.__version__)},
        }
        # Last: a folder with config.yaml is a complete model.
        with atomic(folder / "config.yaml") as part:
            part.write_text(yaml.safe_dump(config, sort_keys=False))
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Model:
        """Read a model from its folder.

        Raises:
            FileNotFoundError: If the folder holds no complete model.
            ValueError: If its files do not fit together or are of another format.
        """
        folder = Path(folder)
        if not (folder / "config.yaml").is_file():
            raise FileNotFoundError(
                f"{folder} holds no trained model (no config.yaml); train one with `physflow train`"
            )
        try:
            config = yaml.safe_load((folder / "config.yaml").read_text())
            if config["format"] != FORMAT:
                raise ValueError(f"its format is {config['format']!r}")
            grid = from_dict(Grid, {**config["grid"], "bounds": tuple(map(tuple, config["grid"]["bounds"]))})
            model, training = from_dict(ModelConfig, config["model"]), from_dict(TrainingConfig, config["training"])
            transform, attrs = from_spec(config["transform"]), config["attrs"]
            fields, fingerprint = tuple(config["fields"]), config["data_fingerprint"]
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{folder / 'config.yaml'} is not a model of format {FORMAT!r}: {error}; was it edited, or made by "
                "another version?"
            ) from error
        network = make_network(model, training, transform.channels(len(fields)), grid)
        try:
            tensors = safetensors.torch.load_file(folder / "weights.safetensors")
            network.load_state_dict(_part(tensors, "network."))
            transform.load_state_dict(_part(tensors, "transform."))
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise ValueError(f"the weights in {folder} do not fit its config.yaml, or are damaged: {error}") from error
        equation = None
        if "equation" in attrs:
            ds = to_dataset(torch.empty(0, len(fields), *grid.shape), fields, grid, attrs)
            if "source" in tensors:
                ds["source"] = (grid.axes, tensors["source"].numpy())
            equation = from_dataset(ds)
        return cls(network, transform, fields, grid, equation, attrs, model, training, fingerprint)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def load(folder: str | os.PathLike[str]) -> Model:
    """Load a trained model.

    Arguments:
        folder: The folder that `physflow train` or `physflow run` wrote.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If the folder holds no complete model.
    """
    return Model.load(folder)
