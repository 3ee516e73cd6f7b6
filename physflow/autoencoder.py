"""The autoencoder of a two-stage model, on fields: what the flow's encoder was before the flow.

A model with a latent of kind ``vae`` keeps it in the folder ``vae/`` beside its own files. Its z is not that of the
model, which has a head of its own on the same encoder (Latent-CFM, Algorithm 1).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import xarray as xr
from torch import Tensor

from physflow.assembly import make_vae, sizes_of
from physflow.fields import SAMPLE, to_dataset, to_tensor
from physflow.generative import VAE
from physflow.judgement import add_scores
from physflow.model import Model

__all__ = ["WEIGHTS", "Autoencoder"]

WEIGHTS = Path("vae") / "weights.safetensors"
"""Where its weights lie in the folder of the model."""


class Autoencoder:
    """The variational autoencoder that was trained before a model.

    Arguments:
        folder: The folder of the model.

    Raises:
        FileNotFoundError: If the model has none.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.model, weights = Model.load(folder), Path(folder) / WEIGHTS
        if not weights.is_file():
            raise FileNotFoundError(
                f"{folder} holds no autoencoder ({WEIGHTS}); only models with latent.kind='vae' are trained with one"
            )
        model = self.model
        self.vae: VAE = make_vae(model.config, sizes_of(model.transform, model.fields), model.grid)
        self.vae.load_state_dict(safetensors.torch.load_file(weights))
        self.vae.eval()

    @torch.no_grad()
    def encode(self, ds: xr.Dataset) -> xr.DataArray:
        """The means of z for fields, over (sample, latent)."""
        items = self.model.transform(to_tensor(ds, self.model.fields)).float()
        return xr.DataArray(self.vae.posterior.encode(items).numpy(), dims=(SAMPLE, "latent"), name="z")

    @torch.no_grad()
    def decode(self, z: xr.DataArray | np.ndarray | Tensor) -> xr.Dataset:
        """The fields of latents (samples, latent), with a score on each where there is an equation.

        Raises:
            ValueError: If the latents have another shape.
        """
        values = (z if isinstance(z, Tensor) else torch.as_tensor(np.asarray(z))).float()
        items = self.vae.decoder(values)
        fields = self.model.transform.inverse(items.double()).float()
        ds = to_dataset(fields, self.model.fields, self.model.grid, self.model.attrs)
        return ds if self.model.equation is None else add_scores(ds, self.model.equation)
