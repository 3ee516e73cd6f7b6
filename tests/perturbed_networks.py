"""Networks and inputs for the tests of networks, in float64."""

import torch


def perturbed(network):
    """The network in float64 with weights that start at zero moved away from it."""
    generator = torch.Generator().manual_seed(0)
    network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return network


def draw(*shape, seed=1):
    """Normal numbers of this seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
