"""Networks: shapes, gradients, what they depend on, symmetries, closed forms and the wording of errors."""

import importlib
import math
import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from perturbed_networks import draw, perturbed
from wheels import unpacked

from physflow.generative.networks import MLP, Conditioning, Faded, Preconditioned, ResNet, Sinusoids, SiT, UNet

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1}

NETWORKS = {
    "mlp": (partial(MLP, 5, 16, 2), (5,)),
    "mlp of one coordinate": (partial(MLP, 1, 7, 1, 1), (1,)),
    "unet 1d": (partial(UNet, 2, **SMALL, dimension=1), (2, 6)),
    "unet 2d": (partial(UNet, 2, **SMALL), (2, 6, 10)),
    "unet 2d, odd sizes": (partial(UNet, 1, channels=3, multipliers=(1,), blocks=2), (1, 5, 7)),
    "unet 2d, attention": (partial(UNet, 2, **SMALL, attention=(6, 3), resolution=6, heads=2), (2, 6, 4)),
    "unet 2d, adaptive": (partial(UNet, 2, **SMALL, modulation="adaptive"), (2, 8, 4)),
    "unet 3d": (partial(UNet, 1, channels=4, multipliers=(1, 2), blocks=1, dimension=3), (1, 4, 2, 6)),
    "unet 2d, latent by two layers": (partial(UNet, 2, **SMALL, latent_layers=2), (2, 6, 10)),
    "sit 1d": (partial(SiT, 2, (6,), 8, 2, 2, patch=3), (2, 6)),
    "sit 2d": (partial(SiT, 2, (6, 4), 16, 2, 2), (2, 6, 4)),
    "sit 2d, one layer, odd sizes": (partial(SiT, 1, (5, 7), 9, 1, 3, 1, latent_layers=1), (1, 5, 7)),
    "sit 3d": (partial(SiT, 1, (4, 2, 6), 12, 1, 2), (1, 4, 2, 6)),
    "sit of one patch": (partial(SiT, 1, (4, 4), 8, 1, 1, 4), (1, 4, 4)),
    "resnet 1d": (partial(ResNet, 2, 8, 1, dimension=1), (2, 6)),
    "resnet 2d, odd sizes": (partial(ResNet, 1, 6, 2), (1, 5, 7)),
    "resnet 3d": (partial(ResNet, 1, 4, 1, "circular", dimension=3), (1, 4, 2, 3)),
}


@pytest.fixture(autouse=True)
def seeded():
    """Layers draw their first weights from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


every_network = pytest.mark.parametrize(("build", "shape"), NETWORKS.values(), ids=NETWORKS)


@every_network
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("latent", [0, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_has_the_shape_and_dtype_of_the_state(build, shape, batch, latent, dtype):
    network = build(latent=latent).to(dtype)
    x, t = torch.randn(batch, *shape, dtype=dtype), torch.rand(batch, dtype=dtype)
    z = torch.randn(batch, latent, dtype=dtype) if latent else None
    result = network(x, t, z)
    assert result.shape == x.shape
    assert result.dtype == dtype


@every_network
def test_untrained_network_is_zero(build, shape):
    assert not build()(torch.randn(2, *shape), torch.rand(2)).any()


@every_network
def test_gradients_reach_every_parameter(build, shape):
    network = perturbed(build(latent=4))
    network(draw(3, *shape), draw(3).sigmoid(), draw(3, 4)).square().sum().backward()
    unreached = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@every_network
def test_time_latent_and_state_change_the_result(build, shape):
    network = perturbed(build(latent=4))
    x, t, z = draw(2, *shape), draw(2).sigmoid(), draw(2, 4)
    result = network(x, t, z)
    for changed in [network(x + 0.1, t, z), network(x, t + 0.1, z), network(x, t, z + 0.1)]:
        assert ((changed - result).flatten(1).norm(dim=1) > 1e-6).all()


@every_network
def test_items_of_a_batch_do_not_see_each_other(build, shape):
    network = perturbed(build())
    x, t = draw(3, *shape), draw(3).sigmoid()
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x, t), alone, rtol=1e-12, atol=1e-12)


@every_network
def test_errors_of_time_and_latent(build, shape):
    x, t, z = torch.zeros(3, *shape), torch.zeros(3), torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"t of shape \(3,\), got \(1,\); repeat a single time"):
        build()(x, t[:1])
    with pytest.raises(ValueError, match=r"takes no latent, got z of shape \(3, 4\); leave z out"):
        build()(x, t, z)
    with pytest.raises(ValueError, match=r"needs a latent z of shape \(3, 4\), got none"):
        build(latent=4)(x, t)
    with pytest.raises(ValueError, match=r"expected a latent z of shape \(3, 4\), got \(3, 2\)"):
        build(latent=4)(x, t, z[:, :2])
    with pytest.raises(ValueError, match=r"expected (states|fields) of shape \(batch, .*, got \(3, 9, 9\)"):
        build()(torch.zeros(3, 9, 9), t)


def test_sinusoids_are_those_of_the_formula():
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    omega = torch.tensor([1.0, math.sqrt(1000.0), 1000.0], dtype=torch.float64)
    expected = torch.cat([torch.cos(t[:, None] * omega), torch.sin(t[:, None] * omega)], dim=1)
    torch.testing.assert_close(Sinusoids(6).double()(t), expected, rtol=0, atol=1e-4)


def test_every_sinusoid_is_driven_by_times_from_zero_to_one():
    features = Sinusoids(64).double()(torch.linspace(0, 1, 1001, dtype=torch.float64))
    cosine, sine = features.chunk(2, dim=1)
    moved = torch.hypot(cosine - cosine[0], sine - sine[0]).amax(0)
    assert moved.min() > 2 * math.sin(0.5) - 1e-9


@pytest.mark.parametrize("features", [0, 1, 5])
def test_sinusoids_need_an_even_number(features):
    with pytest.raises(ValueError, match=f"features must be even and at least 2 .*got {features}"):
        Sinusoids(features)


def test_sinusoids_of_published_flows():
    """10000^(-k / m), k = 0, ..., m - 1."""
    m, t = 64, torch.tensor([0.3, 1.0], dtype=torch.float64)
    omega = 10000.0 ** (-torch.arange(m, dtype=torch.float64) / m)
    expected = torch.cat([torch.cos(t[:, None] * omega), torch.sin(t[:, None] * omega)], dim=1)
    found = Sinusoids(2 * m, 10000 ** (-(m - 1) / m)).double()(t)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_two_layers_of_a_latent_are_not_linear():
    conditioning = perturbed(Conditioning(8, 16, latent=3, latent_layers=2))
    x, t, z = draw(2, 1), draw(2), draw(2, 3)
    step = conditioning(x, t, z) - conditioning(x, t, 0 * z)
    assert (conditioning(x, t, 2 * z) - conditioning(x, t, 0 * z) - 2 * step).abs().min() > 0


def test_latent_enters_the_conditioning_linearly():
    conditioning = perturbed(Conditioning(8, 16, latent=3))
    x, t, z = draw(2, 1), draw(2), draw(2, 3)
    step = conditioning(x, t, z) - conditioning(x, t, 0 * z)
    torch.testing.assert_close(conditioning(x, t, 2 * z) - conditioning(x, t, 0 * z), 2 * step)


def test_mlp_rejects_impossible_sizes():
    with pytest.raises(ValueError, match=r"expected positive sizes.*width=0"):
        MLP(3, width=0)


def test_unet_has_the_parameters_of_the_published_one():
    """The CIFAR-10 network of Tong et al. (torchcfm), counted from its own code."""
    with torch.device("meta"):
        network = UNet(3, 128, (1, 2, 2, 2), 2, attention=(16,), resolution=32, dropout=0.1)
    assert sum(p.numel() for p in network.parameters()) == 35_746_307


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The CIFAR-10 network of Tong et al., from the wheel of torchcfm, with weights that do not start at zero."""
    folder = unpacked("torchcfm==1.0.7", tmp_path_factory.mktemp("torchcfm")) / "torchcfm"
    with pytest.MonkeyPatch.context() as patch:
        # The package itself imports what is not needed here.
        for name in ("torchcfm", "torchcfm.models", "torchcfm.models.unet"):
            module = ModuleType(name)
            module.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
            patch.setitem(sys.modules, name, module)
        make = importlib.import_module("torchcfm.models.unet.unet").UNetModelWrapper
        settings = {"num_channels": 128, "channel_mult": [1, 2], "num_heads": 4, "num_head_channels": 64}
        torch.manual_seed(0)
        network = make((3, 16, 16), num_res_blocks=1, attention_resolutions="8", dropout=0.1, **settings)
        yield perturbed(network).float().eval()
        for name in [name for name in sys.modules if name.startswith("torchcfm.models.unet.")]:
            patch.delitem(sys.modules, name)


def test_unet_is_the_published_one(published):
    """The same weights in the same order give the same values."""
    network = UNet(3, 128, (1, 2), 1, (8,), 4, 0.1, resolution=16, frequency=10000 ** (-63 / 64)).eval()
    with torch.no_grad():
        for (name, own), other in zip(network.named_parameters(), published.parameters(), strict=True):
            # Theirs has query, key and value of one head together.
            heads = network.down[2].attention.heads
            ordered = other.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2) if "qkv" in name else other
            # A map of points is a convolution there.
            own.copy_(ordered.view_as(own))
        x, t = draw(2, 3, 16, 16).float(), draw(2).sigmoid().float()
        expected = published(t, x)
        error = (network(x, t) - expected).norm() / expected.norm()
    assert error < 1e-5


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("modulation", ["add", "adaptive"])
def test_circular_padding_makes_a_unet_commute_with_translations(dimension, modulation):
    network = perturbed(
        UNet(1, 4, (1, 1), 1, (4,), 2, modulation=modulation, padding="circular", dimension=dimension, resolution=8)
    )
    x, t = draw(2, 1, *(8, 6, 4)[:dimension]), draw(2).sigmoid()
    axes, shifts = tuple(range(2, 2 + dimension)), (2, 4, -2)[:dimension]
    moved = network(x.roll(shifts, axes), t)
    torch.testing.assert_close(moved, network(x, t).roll(shifts, axes), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("padding", ["zeros", "circular", "reflect", "replicate"])
def test_every_padding_but_zeros_keeps_a_constant_field_constant(dimension, padding):
    network = perturbed(UNet(1, 4, (1, 2), 1, padding=padding, dimension=dimension))
    result = network(torch.ones(1, 1, *(4,) * dimension, dtype=torch.float64), draw(1))
    spread = (result.amax() - result.amin()).item()
    assert (spread > 1e-3) if padding == "zeros" else (spread < 1e-9)


def test_fine_levels_reach_the_result_past_the_coarse_ones():
    network = perturbed(UNet(1, 4, (1, 2), 1))
    (coarse,) = (part for part in network.up if not hasattr(part, "residual"))
    with torch.no_grad():
        for parameter in coarse.parameters():
            parameter.zero_()
    x, t = draw(1, 1, 4, 4), draw(1)
    assert (network(x + 0.1, t) - network(x, t)).abs().amax() > 1e-3


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 6, 12, 130])
def test_unet_of_any_width(channels):
    network = UNet(1, channels, (1, 2), 1)
    assert network(torch.zeros(1, 1, 4, 4), torch.zeros(1)).shape == (1, 1, 4, 4)


def test_group_norms_keep_the_amplitude_of_a_channel():
    """A group of one channel would erase it: four channels and more share a group."""
    for norm in (m for m in UNet(1, 16).modules() if isinstance(m, torch.nn.GroupNorm)):
        assert norm.num_channels / norm.num_groups >= 4
        assert norm.num_groups <= 32


def test_dropout_acts_in_training_only():
    network = perturbed(UNet(1, 4, (1,), 1, dropout=0.5))
    x, t = draw(1, 1, 4, 4), draw(1)
    assert not torch.equal(network.train()(x, t), network(x, t))
    assert torch.equal(network.eval()(x, t), network(x, t))


@pytest.mark.parametrize(
    ("shape", "padding", "message"),
    [
        ((30, 32), "zeros", r"divisible by 4, got 30 points along axis 0 of \(30, 32\); 28 or 32 would work"),
        ((32, 3), "zeros", "got 3 points along axis 1 .*; 4 would work"),
        ((0, 4), "zeros", "got 0 points along axis 0 .*; 4 would work"),
        ((4, 8), "reflect", "at least 8 and divisible by 4, got 4 points along axis 0 .*; 8 would work"),
    ],
)
def test_unet_names_the_sizes_that_would_work(shape, padding, message):
    network = UNet(1, 4, (1, 1, 1), 1, padding=padding)
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(1, 1, *shape), torch.zeros(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dimension": 4}, "1, 2 or 3 axes, got dimension=4"),
        ({"channels_in": 0}, "channels_in=0"),
        ({"multipliers": ()}, "levels must be a whole number of at least 1"),
        ({"latent": -1}, "latent=-1"),
        ({"padding": "periodic"}, "unknown padding 'periodic'"),
        ({"modulation": "film"}, "unknown modulation 'film'"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"attention": (16,)}, r"attention at the resolutions \(16,\) .*give resolution="),
        ({"latent_layers": 3}, "latent_layers must be 1 or 2, got 3"),
        ({"frequency": 0.0}, "frequency must be"),
        ({"attention": (5,), "resolution": 32}, "no level has the attention resolution 5; .* 32, 16, 8: name some"),
        ({"attention": (16,), "resolution": 30}, "divisible by 4, got 30 points along axis 0 .* 28 or 32 would work"),
        ({"attention": (8,), "resolution": 32, "heads": 3}, "divisible by the heads.*16 channels and 3 heads"),
    ],
)
def test_unet_rejects_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        UNet(**({"channels_in": 1, "channels": 8} | settings))


class Rotation:
    """The variance-preserving path, alpha = sin(pi t / 2), sigma = cos(pi t / 2)."""

    def alpha(self, t):
        return torch.sin(math.pi / 2 * t)

    def sigma(self, t):
        return torch.cos(math.pi / 2 * t)

    def d_alpha(self, t):
        return math.pi / 2 * torch.cos(math.pi / 2 * t)

    def d_sigma(self, t):
        return -math.pi / 2 * torch.sin(math.pi / 2 * t)


class Straight:
    """The linear path, alpha = t, sigma = 1 - t."""

    def alpha(self, t):
        return t

    def sigma(self, t):
        return 1 - t

    def d_alpha(self, t):
        return torch.ones_like(t)

    def d_sigma(self, t):
        return -torch.ones_like(t)


class Given(torch.nn.Module):
    """A network that returns a given value and remembers what it was asked."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x, t, z=None):
        self.asked = x, t, z
        return self.value.expand_as(x)


every_path = pytest.mark.parametrize("path", [Straight(), Rotation()], ids=["straight", "rotation"])


@every_path
@pytest.mark.parametrize("shape", [(4,), (2, 3, 5)])
def test_preconditioned_zero_is_the_flow_between_unit_gaussians(path, shape):
    """With independent unit Gaussians E[x1 | x] = alpha x / D and E[dx/dt | x] = D' x / (2 D)."""
    x, t = draw(3, *shape), torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    alpha, sigma = (f.view(-1, *(1,) * len(shape)) for f in (path.alpha(t), path.sigma(t)))
    t_ = t.clone().requires_grad_()
    (d_variance,) = torch.autograd.grad((path.alpha(t_) ** 2 + path.sigma(t_) ** 2).sum(), t_)
    velocity = d_variance.view(-1, *(1,) * len(shape)) / (2 * (alpha**2 + sigma**2)) * x
    data = alpha / (alpha**2 + sigma**2) * x
    zero = Given(torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(Preconditioned(zero, path)(x, t), velocity)
    torch.testing.assert_close(Preconditioned(zero, path, "data")(x, t), data)
    noise = sigma / (alpha**2 + sigma**2) * x
    torch.testing.assert_close(Preconditioned(zero, path, "noise")(x, t), noise)


@every_path
@pytest.mark.parametrize("prediction", ["velocity", "data", "noise"])
def test_preconditioned_network_has_input_and_target_of_unit_variance(path, prediction):
    """The network that would be exact is r = (sigma x1 - alpha x0) / sqrt(D), for the noise -r."""
    x0, x1, t = draw(4, 20_000, seed=2), draw(4, 20_000, seed=3), torch.linspace(0, 1, 4, dtype=torch.float64)
    alpha, sigma, d_alpha, d_sigma = (f(t)[:, None] for f in (path.alpha, path.sigma, path.d_alpha, path.d_sigma))
    x, u = alpha * x1 + sigma * x0, d_alpha * x1 + d_sigma * x0
    r = Given((-1 if prediction == "noise" else 1) * (sigma * x1 - alpha * x0) / (alpha**2 + sigma**2).sqrt())
    result = Preconditioned(r, path, prediction)(x, t)
    torch.testing.assert_close(result, {"velocity": u, "data": x1, "noise": x0}[prediction])
    for value in (r.asked[0], r.value):
        torch.testing.assert_close(value.var(1), torch.ones(4, dtype=torch.float64), rtol=0.05, atol=0)
    assert (r.asked[0] * r.value).mean(1).abs().max() < 0.05


@every_path
def test_a_faded_network_reads_the_linear_prediction_and_is_returned_as_it_is(path):
    x0, x1, t = draw(4, 20_000, seed=2), draw(4, 20_000, seed=3), torch.linspace(0, 1, 4, dtype=torch.float64)
    x = path.alpha(t)[:, None] * x1 + path.sigma(t)[:, None] * x0
    network = Given(draw(4, 20_000, seed=1))
    assert torch.equal(Faded(network, path)(x, t), network.value)
    # The regression of x1 on x: its error is uncorrelated with what was read.
    read = network.asked[0]
    assert ((x1 - read) * read).mean(1).abs().max() < 0.05
    # Pure noise is not read at all, pure data as they are.
    assert not read[0].any()
    torch.testing.assert_close(read[-1], x1[-1])


@pytest.mark.parametrize("wrapper", [Preconditioned, Faded])
def test_wrapped_networks_pass_time_and_latent_on(wrapper):
    network = Given(torch.zeros(1))
    t, z = torch.rand(2), torch.randn(2, 3)
    wrapper(network, Straight())(torch.randn(2, 5), t, z)
    assert network.asked[1] is t
    assert network.asked[2] is z


def test_preconditioned_rejects_other_predictions():
    with pytest.raises(ValueError, match="unknown prediction 'velocities'; did you mean 'velocity'"):
        Preconditioned(MLP(2, 4, 1), Straight(), "velocities")
