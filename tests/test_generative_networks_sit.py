"""Transformers over patches: sizes that are published, a reference block, patches and their places, classes."""

import pytest
import torch
from perturbed_networks import draw, perturbed
from torch import nn

from physflow.generative.networks import SiT, SiTEncoder
from physflow.generative.networks.transformer import Block, Patches, pasted, positions

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
MILLIONS = {"S": 33, "B": 130, "L": 458, "XL": 675}
"""The parameters of DiT-S/2 to DiT-XL/2, Peebles and Xie (2023), table 4."""


@pytest.fixture(autouse=True)
def seeded():
    """Layers draw their first weights from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("size", SIZES)
def test_parameters_of_the_published_sizes(size):
    with torch.device("meta"):
        network = SiT(4, (32, 32), *SIZES[size], classes=1000)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(MILLIONS[size], rel=0.01)


def test_a_block_is_a_transformer_layer_with_norm_first():
    """With the modulation of a plain layer: no shift, no scale, gates open."""
    width, heads = 12, 3
    block = perturbed(Block(width, heads))
    with torch.no_grad():
        block.modulation.weight.zero_()
        block.modulation.bias.zero_().view(6, width)[[2, 5]] = 1
    gelu = nn.GELU(approximate="tanh")
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, gelu, 1e-6, batch_first=True, norm_first=True)
    layer.double().load_state_dict(
        {
            "self_attn.in_proj_weight": block.qkv.weight,
            "self_attn.in_proj_bias": block.qkv.bias,
            "self_attn.out_proj.weight": block.joined.weight,
            "self_attn.out_proj.bias": block.joined.bias,
            "linear1.weight": block.wide.weight,
            "linear1.bias": block.wide.bias,
            "linear2.weight": block.narrow.weight,
            "linear2.bias": block.narrow.bias,
            **{f"norm{i}.weight": torch.ones(width) for i in (1, 2)},
            **{f"norm{i}.bias": torch.zeros(width) for i in (1, 2)},
        }
    )
    h = draw(2, 5, width)
    torch.testing.assert_close(block(h, draw(2, width)), layer(h), rtol=1e-10, atol=1e-10)


def test_a_new_block_is_the_identity():
    h = torch.randn(2, 5, 8)
    assert torch.equal(Block(8, 2)(h, torch.randn(2, 8)), h)


@pytest.mark.parametrize("resolution", [(6,), (4, 6), (2, 4, 6)])
def test_patches_are_cut_and_pasted_alike(resolution):
    channels, patch = 3, 2
    size = channels * patch ** len(resolution)
    patches = Patches(channels, resolution, patch, size).double()
    with torch.no_grad():
        patches.cut.weight.copy_(torch.eye(size).view_as(patches.cut.weight))
        patches.cut.bias.zero_()
        patches.places.zero_()
    x = draw(2, channels, *resolution)
    assert torch.equal(pasted(patches(x), channels, resolution, patch), x)


def test_positions_are_those_of_the_formula():
    found = positions((3, 2), 8)
    i, omega = torch.tensor([0.0, 0, 1, 1, 2, 2])[:, None], torch.tensor([1.0, 0.01])
    j = torch.tensor([0.0, 1, 0, 1, 0, 1])[:, None]
    expected = torch.cat([(i * omega).sin(), (i * omega).cos(), (j * omega).sin(), (j * omega).cos()], dim=1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("places", "width"), [((7,), 5), ((4, 4), 16), ((2, 3, 4), 13), ((16, 16), 384)])
def test_every_place_is_told_from_every_other(places, width):
    found = positions(places, width)
    assert found.shape == (torch.Size(places).numel(), width)
    assert (torch.cdist(found, found) + torch.eye(len(found))).min() > 1e-2


def test_patches_see_each_other():
    network = perturbed(SiT(1, (4, 4), 8, 1, 2))
    x, t = draw(1, 1, 4, 4), draw(1)
    moved = x.clone()
    moved[..., 0, 0] += 0.5
    assert (network(moved, t) - network(x, t))[..., 2:, 2:].abs().min() > 1e-9


def test_classes():
    network = perturbed(SiT(1, (4, 4), 8, 1, 2, classes=3))
    x, t = draw(1, 1, 4, 4).expand(4, -1, -1, -1), draw(1).expand(4)
    result = network(x, t, y=torch.arange(4))
    assert (torch.cdist(result.flatten(1), result.flatten(1)) + torch.eye(4)).min() > 1e-6
    torch.testing.assert_close(network(x, t), result[3:].expand(4, -1, -1, -1))
    result.square().sum().backward()
    assert network.labels.weight.grad.any(dim=1).all()


@pytest.mark.parametrize(
    ("classes", "y", "message"),
    [
        (0, torch.zeros(2, dtype=torch.int64), "is told no classes; leave y out, or build the network with classes="),
        (3, torch.zeros(1, dtype=torch.int64), r"one class per item, whole numbers of shape \(2,\), got torch.int64"),
        (3, torch.zeros(2), r"whole numbers of shape \(2,\), got torch.float32 of \(2,\)"),
        (3, torch.tensor([0, 4]), r"classes must lie in 0, \.\.\., 3 \(the last is none\), got 0 to 4"),
    ],
)
def test_classes_that_do_not_fit(classes, y, message):
    with pytest.raises(ValueError, match=message):
        SiT(1, (4, 4), 8, 1, 2, classes=classes)(torch.zeros(2, 1, 4, 4), torch.zeros(2), y=y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": (4, 5)}, r"divisible by patch=2, got 5 points along axis 1 of \(4, 5\); 4 or 6 would work"),
        ({"resolution": (1,)}, r"got 1 points along axis 0 of \(1,\); 2 would work"),
        ({"resolution": (4, 4, 4, 4)}, "expected fields on 1, 2 or 3 axes"),
        ({"heads": 3}, "width must be divisible by the heads of the attention, 3, got 8"),
        ({"depth": 0}, "depth must be a whole number of at least 1"),
        ({"channels_in": 0}, "channels_in must be a whole number of at least 1"),
    ],
)
@pytest.mark.parametrize("kind", [SiT, SiTEncoder])
def test_impossible_settings(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"channels_in": 1, "resolution": (4, 4), "width": 8, "depth": 1, "heads": 2, **settings})


def test_pasting_another_number_of_patches():
    with pytest.raises(ValueError, match=r"expected 4 patches of \(4, 4\) points, got 3"):
        pasted(torch.zeros(1, 3, 4), 1, (4, 4), 2)
