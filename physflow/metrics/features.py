"""Features that a network makes of images, for distances of the sets of images.

The network is the user's: a module, or a TorchScript file. Distances by other networks are other numbers, so that their
name goes with the network: FID is by the 2048 features of Inception-v3 alone. The published network is the file
inception-2015-12-05.pt, in which images of any size are resized and scaled by itself::

    inception = FeatureNetwork.inception("inception-2015-12-05.pt")
    samples = feature_statistics(inception(batch) for batch in batches)
    print(inception.distance_name, frechet_distance(samples, FeatureStatistics.load("cifar10.npz")))

Without the option that `inception` sets, its output are the probabilities of 1008 classes. The Inception Score is by
these; the original left out the bias of the last layer, which the option no_output_bias does::

    classifier = FeatureNetwork.load("inception-2015-12-05.pt", "Inception-v3", 1008, options={"no_output_bias": True})
    print(inception_score(classifier(images), "probabilities"))

A TorchScript file is a program of PyTorch's operators, which PyTorch's own interpreter runs; it is not a pickle, whose
reading could run any Python. It still is a program, whose operators can read and write files: run only those whose
origin you trust.

References:
    C. Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016.
    M. Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS 2017.
    G. Parmar, R. Zhang, J.-Y. Zhu, "On aliased resizing and surprising subtleties in GAN evaluation", CVPR 2022.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FeatureNetwork"]

# The network and its output that the name FID stands for.
_INCEPTION, _WIDTH = "Inception-v3", 2048
_WHERE = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics"


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that turns images into features.

    Attributes:
        network: The module. It is given images of the numbers 0 to 255 in its own dtype, on its own device.
        name: What it is called. "Inception-v3" is to be said only of the network of 2015-12-05.
        width: The number d of features that it must return; None is any.
        channels: The number of channels that images must have. Grey images for a network of three are never repeated
            unless you say so, by `grey_to_colour`.
        prepare: Applied to the images before the network, `inception_input` for example.
        options: Further arguments of the network, by name.

    Raises:
        TypeError: If the network is not a module.
    """

    network: nn.Module
    name: str
    width: int | None = None
    channels: int = 3
    prepare: Callable[[Tensor], Tensor] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.network, nn.Module):
            raise TypeError(
                f"expected a torch.nn.Module, got {type(self.network).__name__}; FeatureNetwork.load reads a file"
            )

    @classmethod
    def load(cls, path: str | Path, name: str, width: int | None = None, **settings: Any) -> FeatureNetwork:
        """Read a network from a TorchScript file, onto the CPU; `.network.to(device)` moves it.

        Arguments:
            path: The file, as `torch.jit.save` writes it. It is a program: see the module.
            name: What the network is called.
            width: The number of features that it must return.
            settings: Further attributes.

        Returns:
            The network.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a TorchScript file.
        """
        with Path(path).open("rb") as file, warnings.catch_warnings():
            # PyTorch advises another format, but published networks exist in this one.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                network = torch.jit.load(file, map_location="cpu")
            except RuntimeError as error:
                raise ValueError(
                    f"{path} is not a TorchScript file; of weights alone make the module first and load them into it, "
                    "then pass the module to FeatureNetwork"
                ) from error
        return cls(network, name, width, **settings)

    @classmethod
    def inception(cls, path: str | Path) -> FeatureNetwork:
        """Read the Inception-v3 of FID from its published TorchScript file, inception-2015-12-05.pt.

        Arguments:
            path: The file.

        Returns:
            The network, which resizes and scales inside, with the 2048 features of its last pooling.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a TorchScript file.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"there is no file {path}; the network of FID is inception-2015-12-05.pt, from {_WHERE}"
            )
        return cls.load(path, _INCEPTION, _WIDTH, options={"return_features": True})

    @property
    def distance_name(self) -> str:
        """What the Fréchet distance of its features is called: FID for the 2048 features of Inception-v3 alone."""
        return "FID" if (self.name, self.width) == (_INCEPTION, _WIDTH) else f"Frechet distance ({self.name})"

    def __call__(self, images: Tensor, block: int = 64) -> Tensor:
        """The features of images, computed in blocks without gradients and with the network in evaluation mode.

        Arguments:
            images: Images as uint8, shape (n, channels, height, width).
            block: How many images the network is given at a time.

        Returns:
            The features on the CPU, shape (n, d).

        Raises:
            TypeError: If the images are no tensor.
            ValueError: If the images are not such, the block is not positive, or the features are not of shape
                (block, d), not as many as demanded, or not finite.
        """
        self._check_images(images)
        if block < 1:
            raise ValueError(f"expected at least one image at a time, got block={block}")
        with torch.no_grad(), _evaluating(self.network):
            return torch.cat([self._features(part) for part in images.split(block)])

    def _check_images(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise TypeError(
                f"expected images as a tensor of uint8, got {type(images).__name__}; of a Dataset of fields: "
                "torch.from_numpy(physflow.data.images.to_pixels(ds))"
            )
        if images.dtype != torch.uint8:
            raise ValueError(f"expected images as uint8, got {images.dtype}; quantise makes such from [-1, 1]")
        if images.ndim != 4 or images.shape[1] != self.channels:
            grey = images.ndim == 4 and images.shape[1] == 1
            advice = "grey_to_colour repeats grey images" if grey else "channels are the second axis"
            raise ValueError(
                f"{self.name} expects images of shape (n, {self.channels}, height, width), got "
                f"{tuple(images.shape)}; {advice}"
            )
        if not images.numel():
            raise ValueError(f"expected images, got none: shape {tuple(images.shape)}")

    def _features(self, images: Tensor) -> Tensor:
        """The features of one block, on the CPU."""
        weights = chain(self.network.parameters(), self.network.buffers())
        like = next((w for w in weights if w.is_floating_point()), torch.empty(0, device=images.device))
        x = images.to(like)
        features = self.network(x if self.prepare is None else self.prepare(x), **self.options)
        if not isinstance(features, Tensor):
            raise ValueError(
                f"expected a tensor of features from {self.name}, got {type(features).__name__}; wrap the network in a "
                "module that returns the one tensor"
            )
        if features.ndim != 2 or len(features) != len(images):
            fix = "pool or flatten its last axes first" if features.ndim > 2 else "return one row for each image"
            raise ValueError(
                f"expected features of shape ({len(images)}, d) from {self.name}, got {tuple(features.shape)}; {fix}"
            )
        if self.width is not None and features.shape[1] != self.width:
            raise ValueError(f"expected {self.width} features from {self.name}, got {features.shape[1]}")
        failed = int((~features.isfinite()).any(1).sum())
        if failed:
            raise ValueError(
                f"{self.name} returns features that are NaN or infinite for {failed} of {len(images)} images; "
                "does it expect other numbers than 0 to 255?"
            )
        return features.cpu()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and every part of it back into its own mode afterwards."""
    # Frozen TorchScript has no mode.
    modes = [(module, module.training) for module in network.modules() if hasattr(module, "training")]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
