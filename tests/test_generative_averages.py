"""Averaged weights against the recursion itself."""

import torch
from torch import nn

from physflow.generative.averages import AveragedWeights


def test_weights_follow_the_recursion_and_buffers_are_those_of_the_network():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    average, decay = AveragedWeights(network, 0.8), 0.8
    expected = None
    for n in range(12):
        for p in network.parameters():
            p.data.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(n), dtype=torch.float64))
        network(torch.randn(5, 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64))
        average.update()
        current = torch.cat([p.detach().flatten() for p in network.parameters()])
        d = min(decay, (1 + n) / (10 + n)) if n else 0.0
        expected = current if expected is None else d * expected + (1 - d) * current
    found = torch.cat([p.detach().flatten() for p in average.module.parameters()])
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(network.buffers(), average.module.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert int(average.n_averaged) == 12


def test_a_loaded_average_goes_on():
    network = nn.Linear(2, 2)
    first = AveragedWeights(network, 0.9)
    first.update()
    again = AveragedWeights(network, 0.9)
    again.load_state_dict(first.state_dict())
    with torch.no_grad():
        network.weight += 1
    first.update()
    again.update()
    assert torch.equal(first.module.weight, again.module.weight)
    assert not torch.equal(first.module.weight, network.weight)
