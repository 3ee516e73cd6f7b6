"""Networks that learn a velocity or a clean sample: ``network(x, t, z=None)`` with t of shape (batch,)."""

from physflow.generative.networks.embedding import Conditioning, Sinusoids
from physflow.generative.networks.mlp import MLP
from physflow.generative.networks.preconditioning import Preconditioned
from physflow.generative.networks.unet import UNet

__all__ = ["MLP", "Conditioning", "Preconditioned", "Sinusoids", "UNet"]
