"""The trained model: where generation meets physics.

A model draws points of the source, carries them along the learned velocity to model space, maps them back to fields,
corrects them if asked, and scores every one with the equation that made the training data. On disk it is one folder,
``config.yaml`` and ``weights.safetensors``; loading one runs no code from it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

from physflow import storage
from physflow.assembly import make_network, make_objective, make_prior, make_solver, sizes_of
from physflow.config import ModelConfig, SamplingConfig, TrainingConfig, from_dict, nearest, to_dict
from physflow.densities import Backward
from physflow.fields import content_fingerprint, to_dataset
from physflow.generative import (
    RK4,
    Conditioned,
    Counted,
    Latent,
    Prior,
    Sampler,
    Solver,
    generate,
    item_generator,
    starting_points,
)
from physflow.grid import Grid
from physflow.inference import Correction
from physflow.judgement import add_scores, completed, warn_if_other
from physflow.pde import Darcy, DarcyNodes, Equation, from_dataset
from physflow.selection import candidates, selected
from physflow.transforms import Transform, from_spec

__all__ = ["Model", "load"]

_BLOCK = 50
"""Samples that are computed together, always a whole block: a sample does not depend on how many are asked for."""


class Model(Backward):
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
        prior: The law from which z is drawn, for a network with a latent (`physflow.generative.Conditioned`).
        sampling: How `sample` draws where it is not told.
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
        prior: Prior | None = None,
        sampling: SamplingConfig | None = None,
    ) -> None:
        self.latent: Latent | None = network.latent if isinstance(network, Conditioned) else None
        if self.latent is not None and (prior is None or prior.dimension != self.latent.dimension):
            raise ValueError(
                f"a network with a latent of {self.latent.dimension} components needs a prior of the same, got "
                f"{'none' if prior is None else prior.dimension}"
            )
        if equation is not None and tuple(fields) != equation.fields:
            raise ValueError(f"expected the equation's fields {equation.fields} in this order, got {tuple(fields)}")
        self.network, self.transform, self.prior = network.eval(), transform, prior
        self.fields, self.grid, self.equation = tuple(fields), grid, equation
        self.attrs, self.fingerprint = dict(attrs or {}), fingerprint
        self.config, self.training = config or ModelConfig(), training or TrainingConfig()
        self.sampling = sampling or SamplingConfig()
        self.objective = make_objective(self.training, self.config, grid, self.latent)

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.network.parameters())
        latent = "" if self.latent is None else f"latent of {self.latent.dimension} ({self.config.latent.kind}), "
        return (
            f"Model({', '.join(self.fields)} on {' x '.join(map(str, self.grid.shape))} {self.grid.centering}, "
            f"{type(self.equation).__name__ if self.equation else 'no equation'}, {latent}{parameters:,} parameters)"
        )

    def to(self, device: str | torch.device) -> Model:
        """Move the model to a device, and return it."""
        self.network.to(device)
        self.transform.to(device)
        return self

    def sample(
        self,
        n: int,
        seed: int = 0,
        solver: str | Solver | Sampler | None = None,
        steps: int | None = None,
        correction: str | Correction | None = None,
        *,
        select: float | None = None,
        by: str = "solution_error",
        score: bool = True,
        dtype: str = "float32",
        progress: bool = False,
    ) -> xr.Dataset:
        """Draw fields, and score each.

        Sample i depends on (seed, i) alone, whatever the number of samples and the correction.

        Arguments:
            n: The number of samples.
            seed: The seed.
            solver: The integrator (``"euler"``, ``"midpoint"``, ``"heun"``, ``"rk4"``, ``"dopri5"``, or a `Solver`), or
                the sampler of the diffusion (``"ddim"``, ``"edm"``, ``"euler-maruyama"``, ``"stochastic-heun"``,
                ``"predictor-corrector"``, or a `Sampler`); None takes the one for which the model was made, with its
                steps. A model that predicts the data knows its velocity at t = 1 only badly: rk4 and dopri5, which ask
                for it, do worse there.
            steps: The number of steps of a fixed-step solver; 10 for a solver that is named here.
            correction: None; ``"complete"``, which recomputes the solution fields from the sampled inputs; or any
                callable that maps fields of shape (batch, channel, *axes) in physical units to corrected ones.
            select: The share to keep of all that are drawn, those of the least score; n are kept. What this does to the
                fields' statistics is in the attribute ``selection_shift``, and printed with `progress`.
            by: The score to select by. Raw residuals prefer dull fields.
            score: Whether to add the scores of `physflow.pde.score` as variables, where there is an equation.
            dtype: The type of the fields, in which they are also scored.
            progress: Whether to show a progress bar.

        Returns:
            The fields over (sample, *axes), every score over sample, and attributes that rebuild the equation and
            state how the samples were drawn.

        Raises:
            ValueError: If a name is unknown, a count negative, or the correction needs an equation that there is not.
        """
        if n < 0 or seed < 0:
            raise ValueError(f"the number of samples and the seed must not be negative, got {n} and {seed}")
        if select is None:
            return self._generate(n, seed, solver, steps, correction, score, dtype, progress)
        self._with_equation("selection")
        ds = self._generate(candidates(n, select), seed, solver, steps, correction, True, dtype, progress)
        return selected(ds, n, by, self.fields, progress)

    def decode(
        self,
        z: xr.DataArray | np.ndarray | Tensor,
        seed: int = 0,
        solver: str | Solver | Sampler | None = None,
        steps: int | None = None,
        correction: str | Correction | None = None,
        *,
        one_noise: bool = False,
        score: bool = True,
        dtype: str = "float32",
        progress: bool = False,
    ) -> xr.Dataset:
        """Draw one field for each given latent. Sample i has the noise of sample i of `sample` with this seed.

        Arguments:
            z: The latents, shape (samples, latent), as `encode` gives them.
            seed: The seed of the noise.
            one_noise: Whether all have the noise of sample 0, so that only their latents differ.
            solver: This and all that follows as for `sample`.
            steps: The number of steps.
            correction: The correction.
            score: Whether to score.
            dtype: The type of the fields.
            progress: Whether to show a progress bar.

        Raises:
            ValueError: If the model has no latent, or the shape is wrong.
        """
        values = self._checked(z)
        settings = (seed, solver, steps, correction, score, dtype, progress)
        return self._generate(len(values), *settings, values.float(), one_noise)

    def from_noise(
        self,
        ds: xr.Dataset,
        solver: str | Solver | Sampler | None = None,
        steps: int = 50,
        correction: str | Correction | None = None,
        *,
        score: bool = True,
        dtype: str = "float32",
        progress: bool = False,
    ) -> xr.Dataset:
        """Make fields of given noise, such as what `invert` found, or points between (`physflow.generative.slerp`).

        Arguments:
            ds: ``noise`` over sample, and ``z`` for a model with a latent, as `invert` gives them.
            solver: The integrator; the classical Runge-Kutta method by default, as for `invert`.
            steps: The number of steps of one with fixed steps.
            correction: This and all that follows as for `sample`.
            score: Whether to score.
            dtype: The type of the fields.
            progress: Whether to show a progress bar.

        Raises:
            ValueError: If the noise has another shape, or there is no z and the model has a latent.
        """
        if "noise" not in ds or ("z" not in ds and self.latent is not None):
            wanted, found = "noise" if self.latent is None else "noise and z", list(map(str, ds))
            raise ValueError(f"expected a Dataset with {wanted}, as model.invert gives it, got {found}")
        noise = torch.as_tensor(ds["noise"].values)
        if noise.shape[1:] != self.shape:
            raise ValueError(f"expected noise of shape (samples, {', '.join(map(str, self.shape))}), got {noise.shape}")
        z = None if self.latent is None else self._checked(ds["z"]).float()
        settings = (RK4() if solver is None else solver, steps, correction, score, dtype, progress)
        return self._generate(len(noise), 0, *settings, z, noise=noise.double())

    def _generate(
        self,
        n: int,
        seed: int,
        solver: str | Solver | Sampler | None,
        steps: int | None,
        correction: str | Correction | None,
        score: bool,
        dtype: str,
        progress: bool,
        given: Tensor | None = None,
        one_noise: bool = False,
        noise: Tensor | None = None,
    ) -> xr.Dataset:
        """Fields for drawn or given latents and noise; see `sample`."""
        if dtype not in ("float32", "float64"):
            raise ValueError(f"unknown dtype {dtype!r}; {nearest(str(dtype), ('float32', 'float64'))}")
        if solver is None:
            solver, steps = self.sampling.solver, self.sampling.steps if steps is None else steps
        solver_object, steps = make_solver(solver), 10 if steps is None else steps
        correct = self._correction(correction)
        network, device = Counted(self._predict), self.device
        pieces = [torch.empty(0, len(self.fields), *self.grid.shape, dtype=getattr(torch, dtype))]
        with torch.inference_mode(), tqdm(total=n, desc="sample", unit="field", disable=not progress) as bar:
            for first in range(0, n, _BLOCK):
                indices = range(first, first + _BLOCK)
                sizes = (self.shape, seed, indices, self.prior, given, one_noise, noise)
                x0, z = starting_points(self.objective.start, *sizes)
                settings = (solver_object, steps, None if z is None else z.to(device))
                random = [item_generator(seed, i, 1) for i in indices]
                y = generate(self.objective, network, x0.to(device), *settings, random)
                items = y if z is None or self.latent is None else self.latent.join(z.to(device), y)
                fields = self.transform.inverse(items.double()).cpu().to(getattr(torch, dtype))
                pieces.append((correct(fields) if correct else fields)[: n - first])
                bar.update(len(pieces[-1]))
        fields = torch.cat(pieces)
        attrs = {
            **self.attrs,
            "trained_on": self.fingerprint,
            "seed": seed,
            "solver": repr(solver_object),
            "steps": steps,
            # Each block counts alike, but for adaptive solvers.
            "evaluations": network.calls / max(1, len(pieces) - 1),
            "correction": correction if isinstance(correction, str) else "none" if correction is None else "custom",
            **({} if noise is None else {"noise": "given"}),
        }
        if self.prior is not None:
            attrs["latent"] = "given" if given is not None else self.prior.words
        ds = to_dataset(fields, self.fields, self.grid, attrs)
        if (source := self._custom_source()) is not None:
            ds["source"] = (self.grid.axes, source.numpy())
        ds.attrs["fingerprint"] = content_fingerprint(ds)
        return self.score(ds) if score and self.equation is not None else ds

    def score(self, ds: xr.Dataset, suffix: str = "", **replace: str) -> xr.Dataset:
        """Add the scores of a Dataset's fields to it (`physflow.judgement.add_scores`)."""
        return add_scores(ds, self._with_equation("scoring"), suffix, **replace)

    def complete(self, fields: Tensor) -> Tensor:
        """Replace the solution fields by the solution for the inputs; see `physflow.judgement.completed`."""
        return completed(self._with_equation("completion"), fields)

    def _with_equation(self, what: str) -> Equation:
        if self.equation is None:
            raise ValueError(f"{what} needs an equation, and this model was trained on data without one")
        return self.equation

    def check_data(self, ds: xr.Dataset) -> None:
        """Warn if a Dataset is not the one that the model was trained on, by its fingerprint."""
        warn_if_other(ds, self.fingerprint)

    def _custom_source(self) -> Tensor | None:
        """The source term that no name in the attributes stands for."""
        if self.attrs.get("source") == "custom" and isinstance(self.equation, Darcy | DarcyNodes):
            return self.equation.source_term
        return None

    def _correction(self, correction: str | Correction | None) -> Correction | None:
        if correction is None or callable(correction):
            return correction
        if correction != "complete":
            raise ValueError(f"unknown correction {correction!r}; {nearest(str(correction), ('complete',))}")
        self._with_equation("correction='complete'")
        return self.complete

    def save(self, folder: str | os.PathLike[str], half: bool = False) -> Path:
        """Write the model to a folder, each file whole or not at all.

        Arguments:
            folder: The folder, made if it does not exist.
            half: Whether the weights of the network are kept in half precision; the transform is not.
        """
        expected = make_network(self.config, self.training, sizes_of(self.transform, self.fields), self.grid)
        storage.check_shapes(self.network, expected)
        parts: dict[str, nn.Module] = {"network": self.network, "transform": self.transform}
        if self.prior is not None:
            parts["prior"] = self.prior
        tensors = {f"{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()}
        if half:
            tensors = {
                k: v.half() if k.startswith("network.") and v.is_floating_point() else v for k, v in tensors.items()
            }
        if (source := self._custom_source()) is not None:
            tensors["source"] = source
        config = {
            "fields": list(self.fields),
            "grid": to_dict(self.grid),
            "attrs": {k: v.item() if isinstance(v, np.generic) else v for k, v in self.attrs.items()},
            "transform": self.transform.spec(),
            "model": to_dict(self.config),
            "training": to_dict(self.training),
            "sampling": {"solver": self.sampling.solver, "steps": self.sampling.steps},
            "data_fingerprint": self.fingerprint,
        }
        return storage.write(folder, config, tensors)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Model:
        """Read a model from its folder.

        Raises:
            FileNotFoundError: If the folder holds no complete model.
            ValueError: If its files do not fit together or are of another format.
        """
        config, tensors = storage.read(folder)
        with storage.explained(folder):
            grid = from_dict(Grid, {**config["grid"], "bounds": tuple(map(tuple, config["grid"]["bounds"]))})
            model, training = from_dict(ModelConfig, config["model"]), from_dict(TrainingConfig, config["training"])
            transform, attrs = from_spec(config["transform"]), config["attrs"]
            fields, fingerprint = tuple(config["fields"]), config["data_fingerprint"]
            sampling = from_dict(SamplingConfig, config["sampling"])
        network = make_network(model, training, sizes_of(transform, fields), grid)
        prior = None
        try:
            network.load_state_dict(storage.part(tensors, "network."))
            transform.load_state_dict(storage.part(tensors, "transform."))
            if isinstance(network, Conditioned):
                stored = storage.part(tensors, "prior.")
                prior = make_prior(model.latent, network.latent, stored)
                prior.load_state_dict(stored)
        except RuntimeError as error:
            raise storage.misfit(folder, error) from error
        equation = None
        if "equation" in attrs:
            ds = to_dataset(torch.empty(0, len(fields), *grid.shape), fields, grid, attrs)
            if "source" in tensors:
                ds["source"] = (grid.axes, tensors["source"].numpy())
            equation = from_dataset(ds)
        return cls(network, transform, fields, grid, equation, attrs, model, training, fingerprint, prior, sampling)


def load(folder: str | os.PathLike[str]) -> Model:
    """Load a trained model.

    Arguments:
        folder: The folder that `physflow train` or `physflow run` wrote, or the name of a model that ships with
            physflow; an existing folder wins.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If the folder holds no complete model, and no model of this name ships.
    """
    return Model.load(storage.find(folder))
