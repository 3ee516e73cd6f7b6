"""The parts of a model from its settings: transform, network and objective."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from physflow.config import ModelConfig, TrainingConfig, nearest
from physflow.data.correlated_noise import CorrelatedNoise
from physflow.data.covariances import Exponential
from physflow.generative import (
    MLP,
    ExactOT,
    FlowMatching,
    Gaussian,
    GaussianProcess,
    Independent,
    LateWeight,
    LinearPath,
    Preconditioned,
    Source,
    UNet,
)
from physflow.grid import Grid
from physflow.transforms import POD, Chain, Log, PerChannel, Standardize, Transform

__all__ = ["make_network", "make_objective", "make_transform"]


def make_transform(config: ModelConfig, fields: tuple[str, ...]) -> Transform:
    """The transform of these fields to model space, not yet fitted."""
    if config.log != ModelConfig().log and (unknown := set(config.log) - set(fields)):
        name = min(unknown)
        raise ValueError(f"unknown field {name!r} in ModelConfig.log; {nearest(name, fields)}")

    def of(name: str) -> Transform:
        last = POD(config.rank, config.energy) if config.space == "pod" else Standardize()
        return Chain(Log(), last) if name in config.log else last

    return PerChannel(*(of(name) for name in fields))


def make_network(config: ModelConfig, training: TrainingConfig, channels: int, grid: Grid) -> nn.Module:
    """The network of these settings, with fresh weights drawn from the training seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network: nn.Module
        if config.network == "mlp":
            network = MLP(channels, **dataclasses.asdict(config.mlp))
        else:
            network = UNet(channels, **dataclasses.asdict(config.unet), dimension=grid.ndim, resolution=grid.shape[0])
    if config.precondition:
        return Preconditioned(network, LinearPath(training.sigma), training.prediction)
    return network


def make_objective(training: TrainingConfig, config: ModelConfig, grid: Grid) -> FlowMatching:
    """The objective of these settings."""
    source: Source = Gaussian()
    if training.source == "gaussian-process":
        if config.space == "pod":
            raise ValueError(
                "source='gaussian-process' is noise over the grid and needs space='pixel', got space='pod'"
            )
        length = 0.1 * max(b - a for a, b in grid.bounds)
        source = GaussianProcess(CorrelatedNoise(grid, Exponential(length)))
    return FlowMatching(
        LinearPath(training.sigma),
        ExactOT() if training.coupling == "ot" else Independent(),
        source,
        weight=LateWeight() if training.weight == "late" else None,
        prediction=training.prediction,
    )
