"""A small classifier of digits, whose features tell sets of digits apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from physflow.metrics import FeatureNetwork

__all__ = ["WIDTH", "Classifier", "accuracy", "trained"]

WIDTH = 32
"""The number of features."""
_CLASSES = 10


class Classifier(nn.Module):
    """Three convolutions, of which two halve the grid, and a layer of features; called with images from 0 to 255.

    Arguments:
        resolution: The pixels along an axis, a multiple of 4.
    """

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(32 * (resolution // 4) ** 2, WIDTH),
        )
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, _CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """The features, shape (n, WIDTH), of images, shape (n, 1, row, column), of numbers from 0 to 255."""
        features: Tensor = self.features(images / 127.5 - 1)
        return features


def trained(images: Tensor, labels: Tensor, steps: int, seed: int = 0) -> FeatureNetwork:
    """A classifier trained on images, as a feature network.

    Arguments:
        images: Images as uint8, shape (n, 1, row, column).
        labels: Their classes, shape (n,).
        steps: The steps of training, on batches of 128.
        seed: The seed of weights and batches.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(images.shape[-1])
        optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            chosen = torch.randint(len(images), (128,))
            loss = cross_entropy(network.head(network(images[chosen].float())), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return FeatureNetwork(network, "classifier of digits", WIDTH, channels=1)


def accuracy(features: FeatureNetwork, images: Tensor, labels: Tensor) -> float:
    """The share of images whose class is found."""
    with torch.no_grad():
        found = features.network.head(features(images)).argmax(1)
    return float((found == labels).double().mean())
