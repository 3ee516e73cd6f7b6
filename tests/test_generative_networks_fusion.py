"""The latent at the bottleneck of a U-Net: closed form, what depends on it, and the wording of errors."""

from functools import partial

import pytest
import torch
from perturbed_networks import draw, perturbed
from torch.nn.functional import silu

from physflow.config import UNetConfig
from physflow.generative.networks import BottleneckMap, BottleneckSum, UNet
from physflow.generative.networks.fusion import FEATURE_WEIGHT, LATENT_WEIGHT

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "latent": 4, "fusion": "bottleneck"}
MAP = SMALL | {"fusion": "map"}
NETWORKS = {
    "1d": (partial(UNet, 2, **SMALL, dimension=1), (2, 6)),
    "2d": (partial(UNet, 2, **SMALL), (2, 6, 10)),
    "2d, one level": (partial(UNet, 1, **(SMALL | {"multipliers": (1,)})), (1, 5, 7)),
    "2d, attention, adaptive": (
        partial(UNet, 2, **SMALL, attention=(3,), resolution=6, heads=2, modulation="adaptive"),
        (2, 6, 4),
    ),
    "3d": (partial(UNet, 1, **SMALL, dimension=3), (1, 4, 2, 6)),
    "map, 1d": (partial(UNet, 2, **MAP, dimension=1, resolution=6), (2, 6)),
    "map, 2d": (partial(UNet, 2, **MAP, resolution=(6, 10)), (2, 6, 10)),
    "map, 2d, one level": (partial(UNet, 1, **(MAP | {"multipliers": (1,)}), resolution=(5, 7)), (1, 5, 7)),
    "map, 2d, attention": (partial(UNet, 2, **MAP, attention=(3,), resolution=(6, 4), heads=2), (2, 6, 4)),
    "map, 3d": (partial(UNet, 1, **MAP, dimension=3, resolution=(4, 2, 6)), (1, 4, 2, 6)),
}
every_network = pytest.mark.parametrize(("build", "shape"), NETWORKS.values(), ids=NETWORKS)


@pytest.fixture(autouse=True)
def seeded():
    """Layers draw their first weights from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("axes", [(), (3,), (3, 2), (2, 1, 3)])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_sum_is_that_of_the_formula(batch, axes):
    fusion, h, z = BottleneckSum(4, 5, 6).double(), draw(batch, 5, *axes), draw(batch, 4)
    first, _, second = fusion.layers
    latent = silu(z @ first.weight.T + first.bias) @ second.weight.T + second.bias
    expected = 0.1 * h + 0.9 * latent.view(batch, 5, *(1,) * len(axes))
    torch.testing.assert_close(fusion(h, z), expected)
    assert (FEATURE_WEIGHT, LATENT_WEIGHT) == (0.1, 0.9)


@every_network
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_has_the_shape_and_dtype_of_the_state(build, shape, batch, dtype):
    x, t, z = (torch.rand(batch, *rest, dtype=dtype) for rest in (shape, (), (4,)))
    result = build().to(dtype)(x, t, z)
    assert result.shape == x.shape
    assert result.dtype == dtype


@every_network
def test_untrained_network_is_zero(build, shape):
    assert not build()(torch.randn(2, *shape), torch.rand(2), torch.randn(2, 4)).any()


@every_network
def test_gradients_reach_every_parameter(build, shape):
    network = perturbed(build())
    network(draw(3, *shape), draw(3).sigmoid(), draw(3, 4)).square().sum().backward()
    unreached = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@every_network
def test_time_latent_and_state_change_the_result(build, shape):
    network = perturbed(build())
    x, t, z = draw(2, *shape), draw(2).sigmoid(), draw(2, 4)
    result = network(x, t, z)
    for changed in [network(x + 0.1, t, z), network(x, t + 0.1, z), network(x, t, z + 0.1)]:
        assert ((changed - result).flatten(1).norm(dim=1) > 1e-6).all()


@every_network
def test_latent_enters_nowhere_else(build, shape):
    """With the latent's map at zero, the network does not depend on z, and its embedding is that of time."""
    network = perturbed(build())
    assert network.conditioning.latent is None
    with torch.no_grad():
        last = network.fusion.layers
        for parameter in (last[2] if isinstance(last, torch.nn.Sequential) else last).parameters():
            parameter.zero_()
    x, t = draw(2, *shape), draw(2).sigmoid()
    assert torch.equal(network(x, t, draw(2, 4)), network(x, t, draw(2, 4, seed=2)))


@pytest.mark.parametrize("settings", [SMALL, MAP | {"resolution": 4}], ids=["bottleneck", "map"])
def test_fine_features_do_not_wait_for_the_latent(settings):
    """The way down and the middle see no latent: only the ways up differ."""
    network, seen = perturbed(UNet(1, **settings)), []
    for part in [*network.down, *network.middle]:
        part.register_forward_hook(lambda module, inputs, result: seen.append(result))
    x, t = draw(1, 1, 4, 4), draw(1).sigmoid()
    network(x, t, draw(1, 4))
    first = seen.copy()
    seen.clear()
    network(x, t, draw(1, 4, seed=2))
    assert len(first) == len(network.down) + len(network.middle)
    assert all(torch.equal(a, b) for a, b in zip(first, seen, strict=True))


@every_network
def test_errors_of_the_latent(build, shape):
    x, t, z = torch.zeros(3, *shape), torch.zeros(3), torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"needs a latent z of shape \(3, 4\), got none"):
        build()(x, t)
    with pytest.raises(ValueError, match=r"expected a latent z of shape \(3, 4\), got \(3, 2\)"):
        build()(x, t, z[:, :2])


@pytest.mark.parametrize("settings", [{}, {"latent": 0}])
@pytest.mark.parametrize("fusion", ["bottleneck", "map"])
def test_fusion_without_a_latent_is_refused(fusion, settings):
    with pytest.raises(ValueError, match=f"fusion='{fusion}' needs a latent to fuse, got latent=0; give latent >= 1"):
        UNet(1, 8, fusion=fusion, resolution=8, **settings)


@pytest.mark.parametrize("axes", [(3,), (3, 2), (2, 1, 3)])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_map_is_that_of_the_formula(batch, axes):
    fusion, h, z = BottleneckMap(4, 5, axes).double(), draw(batch, 5, *axes), draw(batch, 4)
    weight, bias = fusion.layers.weight.view(5, *axes, 4), fusion.layers.bias.view(5, *axes)
    torch.testing.assert_close(fusion(h, z), h + torch.einsum("c...k,bk->bc...", weight, z) + bias)


def test_a_map_tells_points_apart_where_a_sum_does_not():
    """Of a constant state on a torus, the one makes fields that vary, the other constants."""
    settings = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "latent": 4, "padding": "circular", "resolution": 8}
    x, t, z = torch.zeros(1, 1, 8, 8).double(), draw(1).sigmoid(), draw(1, 4)
    varies, constant = (
        perturbed(UNet(1, **settings, fusion=fusion))(x, t, z).std() for fusion in ("map", "bottleneck")
    )
    assert varies > 1e-3
    assert constant < 1e-12


def test_map_serves_one_grid():
    x, t, z = torch.zeros(1, 1, 8, 4), torch.zeros(1), torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"serves the grid .* \(4, 4\) points at its coarsest, got \(4, 2\)"):
        UNet(1, 8, (1, 1), 1, fusion="map", latent=2, resolution=8)(x, t, z)
    with pytest.raises(ValueError, match=r"needs the grid of the fields: give resolution=, .* 2 axes, got None"):
        UNet(1, 8, fusion="map", latent=2)
    with pytest.raises(ValueError, match=r"needs the grid of the fields: .* 2 axes, got \(8,\)"):
        UNet(1, 8, fusion="map", latent=2, resolution=(8,))
    with pytest.raises(ValueError, match="divisible by 4, got 10 points"):
        UNet(1, 8, fusion="map", latent=2, resolution=(8, 10))


@pytest.mark.parametrize("build", [UNetConfig, partial(UNet, 1, 8, latent=2)], ids=["config", "network"])
def test_unknown_fusion_is_refused(build):
    with pytest.raises(ValueError, match="unknown fusion 'bottelneck'; did you mean 'bottleneck'"):
        build(fusion="bottelneck")


@pytest.mark.parametrize("fusion", ["adaptive", "bottleneck", "map"])
def test_network_tells_the_width_of_its_latent(fusion):
    assert UNet(1, 8, (1,), 1, fusion=fusion, latent=3, resolution=8).latent == 3
