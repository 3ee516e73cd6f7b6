"""Images as fields: loaders of published sets and of one's own, without torchvision.

Each loader gives a Dataset in the layout of all others (fields over sample, x and y), so that the same transforms,
networks, training and samplers serve images and physics. Files are read as they were published, their sizes are
checked, and nothing is unpickled.
"""

from physflow.data.images.cifar import cifar10
from physflow.data.images.digits import digits
from physflow.data.images.folder import folder
from physflow.data.images.idx import idx, mnist
from physflow.data.images.latents import latents, to_latents
from physflow.data.images.pixels import dequantise, from_pixels, to_pixels

__all__ = [
    "cifar10",
    "dequantise",
    "digits",
    "folder",
    "from_pixels",
    "idx",
    "latents",
    "mnist",
    "to_latents",
    "to_pixels",
]
