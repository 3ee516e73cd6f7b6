"""What a trained model can do backward: noise from fields, and the density of fields.

Fields are carried from data to noise along the learned velocity, in float64 steps of the network as it is. The density
is that of the fields in their own units: the volumes of all transforms are in it.

No density exists where fields determine each other. Pairs that solve an equation lie on the graph of its solver, a
surface of half the dimension; coordinates of a truncated POD fill a part of space only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

from physflow.assembly import make_solver
from physflow.config import ModelConfig
from physflow.fields import SAMPLE, grid_of, to_tensor
from physflow.generative import (
    RK4,
    ConsistencyFlowMatching,
    Coordinates,
    Divergence,
    Exact,
    FlowMatching,
    Hutchinson,
    Latent,
    Prior,
    Regression,
    Solver,
    Velocity,
    bits_per_dimension,
    check_solver,
    invert,
    item_generator,
    latent_log_likelihood,
    log_likelihood,
)
from physflow.grid import Grid
from physflow.pde import Equation
from physflow.transforms import Transform

__all__ = ["Backward"]

_BLOCK = 50
_EXACT = 256
"""The most dimensions whose divergence is exact unless something else is asked for."""
_PROBES = 8


class Backward:
    """The part of a model that runs from data to noise; see `physflow.Model`."""

    network: nn.Module
    transform: Transform
    prior: Prior | None
    latent: Latent | None
    objective: FlowMatching | ConsistencyFlowMatching | Regression
    config: ModelConfig
    equation: Equation | None
    fields: tuple[str, ...]
    grid: Grid

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what the flow runs over: an item in model space, less what the latent holds of it."""
        channels = self.transform.channels(len(self.fields))
        if isinstance(self.latent, Coordinates):
            channels -= self.latent.dimension
        return (channels,) if self.config.space == "pod" else (channels, *self.grid.shape)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def encode(self, ds: xr.Dataset) -> xr.DataArray:
        """The latents of fields: the means of their posteriors.

        Arguments:
            ds: Fields on the model's grid; if the latent is some of them, these will do.

        Returns:
            The latents over (sample, latent).

        Raises:
            ValueError: If the model has no latent, or one that is no function of the fields alone.
        """
        if (latent := self._with_latent()).inputs != ("x1",):
            raise ValueError(
                f"z of this model is no function of the fields, its posterior reads {', '.join(latent.inputs)}: use "
                "sample, or decode with z from N(0, I)"
            )
        if (given := self.config.latent.fields) and set(given) <= set(ds):
            ds = ds.assign({name: xr.ones_like(ds[given[0]]) for name in set(self.fields) - set(ds)})
        pieces = to_tensor(ds, self.fields).split(256)
        z = torch.cat([latent.encode(self.transform(piece.to(self.device)).float()).cpu() for piece in pieces])
        return xr.DataArray(z.numpy(), dims=(SAMPLE, "latent"), name="z")

    def invert(
        self,
        ds: xr.Dataset,
        solver: str | Solver | None = None,
        steps: int = 50,
        z: xr.DataArray | np.ndarray | Tensor | None = None,
        *,
        tolerance: float = 1e-3,
        progress: bool = False,
    ) -> xr.Dataset:
        """The noise from which the model makes given fields; `from_noise` makes fields of it.

        Arguments:
            ds: Fields on the model's grid.
            solver: The integrator, a name or a `Solver`; the classical Runge-Kutta method by default.
            steps: The number of steps of one with fixed steps.
            z: Latents, shape (samples, latent), for a model with a latent; those of `encode` by default.
            tolerance: The round-trip error in model space, relative to the sample, from which on there is a warning.
            progress: Whether to show a progress bar.

        Returns:
            ``noise`` over (sample, channel) or (sample, channel, *axes) in model space, ``round_trip_error`` over
            sample, and ``z`` if there is a latent.

        Raises:
            ValueError: If the fields do not fit the model, or its z is no function of the fields and none is given.

        Warns:
            UserWarning: If a round trip misses by more than the tolerance.
        """
        chosen = _solver(solver, "an inversion")
        noise, errors, told = [], [], []
        latents = self._latents(ds, z)
        for start, items in self._items(ds, "invert", progress):
            given = None if latents is None else latents[start : start + len(items)].to(items.device)
            rest = items if self.latent is None else self.latent.rest(items)
            found = invert(self._velocity, rest, chosen, steps, z=given, tolerance=tolerance)
            noise.append(found.noise.cpu())
            errors.append(found.round_trip_error.cpu())
            if given is not None:
                told.append(given.cpu())
        values = torch.cat(noise) if noise else torch.zeros(0, *self.shape)
        dims = (SAMPLE, "channel", *(self.grid.axes if values.ndim > 2 else ()))
        variables = {
            "noise": (dims, values.numpy()),
            "round_trip_error": ((SAMPLE,), torch.cat([values.new_zeros(0), *errors]).numpy()),
        }
        if told:
            variables["z"] = ((SAMPLE, "latent"), torch.cat(told).numpy())
        return xr.Dataset(variables, attrs={"solver": repr(chosen), "steps": steps})

    def log_likelihood(
        self,
        ds: xr.Dataset,
        solver: str | Solver | None = None,
        steps: int = 50,
        *,
        probes: int | None = None,
        draws: int = 16,
        seed: int = 0,
        progress: bool = False,
    ) -> xr.Dataset:
        r"""The log-density of fields under the model, in nats, with its standard error.

        With a latent it is an importance-weighted bound (`physflow.generative.latent_log_likelihood`), below the
        log-density in the mean. Sample i depends on (seed, i) alone.

        Arguments:
            ds: Fields on the model's grid.
            solver: The integrator, a name or a `Solver`; the classical Runge-Kutta method by default.
            steps: The number of steps of one with fixed steps.
            probes: Random probes for the divergence; 0 is the exact one, the default up to 256 dimensions, beyond which
                there are 8.
            draws: Draws of z for each sample, for a model with a latent.
            seed: The seed of probes and draws.
            progress: Whether to show a progress bar.

        Returns:
            Over sample: ``log_likelihood``, its ``standard_error`` by probes or draws, and ``bits_per_dimension``,
            which for whole numbers spread over bins counts the width of a bin, the attribute ``bin_width`` of the data.

        Raises:
            TypeError: If the solver draws random numbers.
            ValueError: If the fields have no density, with the reason.
        """
        if self.equation is not None:
            given, found = ", ".join(self.equation.inputs), ", ".join(self.equation.solutions)
            raise ValueError(
                f"pairs of {type(self.equation).__name__} have no density: {found} is a function of {given}, so that "
                f"pairs lie on a graph; train a model of {given} alone (fields={list(self.equation.inputs)}) and ask "
                "that one"
            )
        chosen = _solver(solver, "a log-likelihood")
        divergence, values, errors = None, [], []
        for start, items in self._items(ds, "likelihood", progress):
            divergence = divergence or _divergence(probes, math.prod(items.shape[1:]))
            generators = [item_generator(seed, start + i) for i in range(len(items))]
            settings: dict[str, Any] = {
                "solver": chosen,
                "steps": steps,
                "divergence": divergence,
                "source": self.objective.start,
            }
            if self.latent is None or self.prior is None:
                got = log_likelihood(self._velocity, items, generator=generators, **settings)
            else:
                laws = (self.latent, self.prior)
                got = latent_log_likelihood(self._velocity, items, *laws, draws, generator=generators, **settings)
            fields = to_tensor(ds.isel({SAMPLE: slice(start, start + len(items))}), self.fields)
            values.append(got.log_density.cpu() + self.transform.log_det(fields.to(self.device)).cpu())
            errors.append(got.standard_error.cpu())
        total = torch.cat(values) if values else torch.zeros(0)
        dimension = len(self.fields) * math.prod(self.grid.shape)
        bits = bits_per_dimension(total, dimension, float(ds.attrs.get("bin_width", 1.0)))
        attrs = {"solver": repr(chosen), "steps": steps, "divergence": repr(divergence), "seed": seed}
        if self.latent is not None:
            attrs |= {"draws": draws, "bound": "importance-weighted, below the log-density in the mean"}
        names = ("log_likelihood", "standard_error", "bits_per_dimension")
        columns = (total, torch.cat(errors) if errors else total, bits)
        return xr.Dataset({n: ((SAMPLE,), c.numpy()) for n, c in zip(names, columns, strict=True)}, attrs=attrs)

    def _with_latent(self) -> Latent:
        if self.latent is None:
            raise ValueError(
                "this model has no latent; train one with a latent (ModelConfig.latent), such as "
                "latent: {kind: posterior}"
            )
        return self.latent

    def _checked(self, z: xr.DataArray | np.ndarray | Tensor) -> Tensor:
        """Latents as a tensor, after a look at their shape and values."""
        latent = self._with_latent()
        values = z if isinstance(z, Tensor) else torch.as_tensor(np.asarray(z))
        if values.ndim != 2 or values.shape[1] != latent.dimension:
            raise ValueError(f"expected latents of shape (samples, {latent.dimension}), got {tuple(values.shape)}")
        if not values.isfinite().all():
            raise ValueError("expected finite latents, some are NaN or infinite")
        return values

    def _latents(self, ds: xr.Dataset, z: xr.DataArray | np.ndarray | Tensor | None) -> Tensor | None:
        """The latents of fields: those given, or their encodings; None for a model without."""
        if z is None:
            return None if self.latent is None else torch.as_tensor(self.encode(ds).values)
        values = self._checked(z)
        if len(values) != ds.sizes[SAMPLE]:
            raise ValueError(f"expected one z for each of {ds.sizes[SAMPLE]} samples, got {len(values)}")
        return values

    def _items(self, ds: xr.Dataset, what: str, progress: bool) -> Iterator[tuple[int, Tensor]]:
        """The fields in model space, in blocks with the number of their first."""
        if (grid := grid_of(ds, self.fields)) != self.grid:
            raise ValueError(f"expected fields on the model's grid, {self.grid}, got {grid}")
        with tqdm(total=ds.sizes[SAMPLE], desc=what, unit="field", disable=not progress) as bar:
            for start in range(0, ds.sizes[SAMPLE], _BLOCK):
                piece = to_tensor(ds.isel({SAMPLE: slice(start, start + _BLOCK)}), self.fields)
                yield start, self.transform(piece.to(self.device))
                bar.update(len(piece))

    def _predict(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The network, for a state in float64 of which it sees the rounded values if it is in float32."""
        dtype = next(self.network.parameters()).dtype
        prediction: Tensor = self.network(x.to(dtype), t.to(dtype), None if z is None else z.to(dtype))
        return prediction.to(x.dtype)

    @property
    def _velocity(self) -> Velocity:
        return self.objective.velocity(self._predict)


def _solver(solver: str | Solver | None, what: str) -> Solver:
    """The solver of this name; what is none is refused with the reason."""
    chosen = RK4() if solver is None else make_solver(solver) if isinstance(solver, str) else solver
    check_solver(chosen, what)
    assert isinstance(chosen, Solver)
    return chosen


def _divergence(probes: int | None, dimension: int) -> Divergence:
    """The divergence that was asked for, or that suits so many dimensions."""
    number = (0 if dimension <= _EXACT else _PROBES) if probes is None else probes
    return Hutchinson(number) if number else Exact()
