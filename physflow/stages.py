"""What is trained or fitted beside the network of a model with a latent: autoencoder, mixture and prior."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from physflow.assembly import make_prior, make_vae
from physflow.autoencoder import WEIGHTS
from physflow.config import LatentConfig, ModelConfig, TrainingConfig, to_dict
from physflow.data.files import atomic
from physflow.generative import (
    ELBO,
    BatchSource,
    ComponentIds,
    Components,
    DiagonalMixture,
    FlowMatching,
    FlowPrior,
    Latent,
    MixturePrior,
    NormalLatent,
    Objective,
    Prior,
    TensorBatches,
    encodings_of,
    train,
)
from physflow.grid import Grid

__all__ = ["STAGES", "Stages", "identity_of"]

STAGES = ("vae", "prior")
"""The folders of the stages in the folder of a model."""

_PIECE = 1024


class Stages:
    """The stages of one training.

    Arguments:
        model: The settings of the model.
        training: The settings of its training.
        out: The folder of the model; each stage keeps its checkpoint and its record in one of its own.
        device: Where to train.
        fingerprint: The fingerprint of the data.
        progress: Whether to show progress bars.
    """

    def __init__(
        self, model: ModelConfig, training: TrainingConfig, out: Path, device: str, fingerprint: str, progress: bool
    ) -> None:
        self.model, self.training, self.out = model, training, out
        self.device, self.fingerprint, self.progress = device, fingerprint, progress

    @property
    def config(self) -> LatentConfig:
        """The settings of the latent."""
        return self.model.latent

    def prepare(
        self, latent: Latent, items: BatchSource, held: BatchSource | None, sizes: dict[str, int], grid: Grid
    ) -> None:
        """Train or fit what the latent needs before the network is trained; `held` are the validation data."""
        if isinstance(latent, Components):
            self._fit(latent.mixture, torch.cat([piece.flatten(1) for piece in _pieces(items)]))
        if self.config.kind == "vae" and isinstance(latent, NormalLatent):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.training.seed)
                vae: nn.Module = make_vae(self.model, sizes, grid)
            steps, beta = self.config.pretraining_steps, self.config.pretraining_beta
            vae = self._train(vae, ELBO(self.config.dimension, beta), items, steps, "vae", self.training, held).cpu()
            with atomic(self.out / WEIGHTS, overwrite=True) as file:
                safetensors.torch.save_file(vae.state_dict(), file)
            latent.encoder.load_state_dict(vae.get_submodule("posterior.encoder").state_dict())

    def prior(self, latent: Latent, items: BatchSource) -> Prior:
        """The law from which z is drawn, fitted where it has to be."""
        draw = self.config.drawn
        if draw == "normal" and self.config.kind != "fields":
            return make_prior(self.config, latent)
        if draw == "mixture" and isinstance(latent, Components):
            return ComponentIds(latent.mixture.weights)
        encodings = encodings_of(latent, _pieces(items))
        if isinstance(latent, Components):
            return ComponentIds(encodings.mean.mean(0))
        if draw == "normal":
            _warn_unless_normal(encodings.mean)
            return make_prior(self.config, latent)
        if draw == "encodings":
            return encodings
        generator = torch.Generator().manual_seed(self.training.seed)
        # One draw of every posterior: the prior is to have the spread of the draws, not of the means alone.
        z = encodings.draw_each(generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            prior = make_prior(self.config, latent)
        if isinstance(prior, MixturePrior):
            return MixturePrior(self._fitted(z))
        if isinstance(prior, FlowPrior):
            prior.mean, prior.std = z.mean(0), z.std(0).clamp_min(1e-6)
            items = TensorBatches((z - prior.mean) / prior.std)
            settings = TrainingConfig(batch_size=256, seed=self.training.seed)
            network = prior.network.requires_grad_(True)
            steps = self.config.fitting_steps
            network = self._train(network, FlowMatching(), items, steps, "prior", settings)
            prior.network = network.cpu().requires_grad_(False)
        return prior

    def _train(
        self,
        network: nn.Module,
        objective: Objective,
        items: BatchSource,
        steps: int,
        stage: str,
        settings: TrainingConfig,
        held: BatchSource | None = None,
    ) -> nn.Module:
        settings = dataclasses.replace(settings, steps=steps, warmup=min(settings.warmup, steps // 10))
        return train(
            network,
            objective,
            items,
            settings,
            validation=held,
            folder=self.out / stage,
            device=self.device,
            fingerprint=self.fingerprint,
            settings={"stage": stage, **identity_of(self.model)},
            progress=self.progress,
        )

    def _fitted(self, z: Tensor) -> DiagonalMixture:
        """A mixture over z of as many components as live, at most as many as are asked for."""
        components = self.config.fitted
        while True:
            mixture = DiagonalMixture(components, z.shape[1])
            try:
                self._fit(mixture, z)
            except ValueError as error:
                if components == 1:
                    raise
                components = max(1, components // 2)
                warnings.warn(f"{error}; going on with {components}", UserWarning, stacklevel=2)
            else:
                return mixture

    def _fit(self, mixture: DiagonalMixture, x: Tensor) -> None:
        mixture.requires_grad_(True)
        mixture.fit(x, steps=self.config.fitting_steps, seed=self.training.seed, progress=self.progress)
        mixture.requires_grad_(False)


def identity_of(model: ModelConfig) -> dict[str, Any]:
    """The settings on which the trained network depends: how z is drawn is not among them."""
    values = to_dict(model)
    unrelated = ("draw", "fitted") if model.latent.kind == "mixture" else ("draw", "fitted", "fitting_steps")
    return {**values, "latent": {key: value for key, value in values["latent"].items() if key not in unrelated}}


def _warn_unless_normal(z: Tensor) -> None:
    """Warn where the coordinates of z, whitened but of any law, are no normal numbers."""
    kurtosis = ((z - z.mean(0)) ** 4).mean() / ((z - z.mean(0)) ** 2).mean(0).square().mean()
    tolerance = 0.1 + 6 * math.sqrt(24 / z.numel())
    if abs(float(kurtosis) - 3) > tolerance:
        warnings.warn(
            f"z is drawn from N(0, I), but the coordinates of the latent's fields are not normal (kurtosis "
            f"{float(kurtosis):.2f}, that of a normal law is 3): use latent.draw='encodings' or 'flow'",
            UserWarning,
            stacklevel=2,
        )


def _pieces(items: BatchSource) -> Iterator[Tensor]:
    """All items in order, in pieces."""
    for indices in torch.arange(len(items)).split(_PIECE):
        yield items.batch(indices)
