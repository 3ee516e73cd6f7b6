"""Networks that learn a velocity or a clean sample, ``network(x, t, z=None)`` with t of shape (batch,), and encoders.

An encoder maps a sample, and perhaps its time, to features (batch, width): ``encoder(x, t=None)``; a decoder maps a
latent (batch, latent) to a sample: ``decoder(z)``.
"""

from physflow.generative.networks.conv_decoder import ConvDecoder
from physflow.generative.networks.conv_encoder import ConvEncoder
from physflow.generative.networks.embedding import Conditioning, Sinusoids
from physflow.generative.networks.fusion import BottleneckMap, BottleneckSum
from physflow.generative.networks.mlp import MLP
from physflow.generative.networks.mlp_decoder import MLPDecoder
from physflow.generative.networks.mlp_encoder import MLPEncoder
from physflow.generative.networks.preconditioning import Faded, Preconditioned
from physflow.generative.networks.resnet import ResNet
from physflow.generative.networks.sit import SiT, SiTEncoder
from physflow.generative.networks.unet import UNet

__all__ = [
    "MLP",
    "BottleneckMap",
    "BottleneckSum",
    "Conditioning",
    "ConvDecoder",
    "ConvEncoder",
    "Faded",
    "MLPDecoder",
    "MLPEncoder",
    "Preconditioned",
    "ResNet",
    "SiT",
    "SiTEncoder",
    "Sinusoids",
    "UNet",
]
