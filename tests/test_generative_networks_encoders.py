"""Encoders and decoders: shapes, closed forms, what they depend on, what they keep, sizes and the wording of errors."""

from functools import partial

import pytest
import torch
from perturbed_networks import draw, perturbed
from torch.nn.functional import silu

from physflow.generative.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder, SiTEncoder
from physflow.generative.networks.optional_time import OptionalTime

ENCODERS = {
    "mlp": (partial(MLPEncoder, 5, width=8), (5,)),
    "mlp of one coordinate": (partial(MLPEncoder, 1, width=3, layers=1), (1,)),
    "conv 1d": (partial(ConvEncoder, 2, (12,), 4, (1, 2, 2), width=8), (2, 12)),
    "conv 2d": (partial(ConvEncoder, 2, (8, 12), 4, (1, 2), width=8), (2, 8, 12)),
    "conv 2d, odd sizes": (partial(ConvEncoder, 1, (5, 7), 3, (1,), 2, width=8), (1, 5, 7)),
    "conv 2d, reflect": (partial(ConvEncoder, 1, (4, 4), 4, (1, 2), width=5, padding="reflect"), (1, 4, 4)),
    "conv 3d": (partial(ConvEncoder, 1, (4, 2, 6), 4, (1, 2), width=8), (1, 4, 2, 6)),
    "sit 1d": (partial(SiTEncoder, 2, (6,), 8, 2, 2, 3), (2, 6)),
    "sit 2d": (partial(SiTEncoder, 2, (6, 4), 8, 1, 2), (2, 6, 4)),
    "sit 3d": (partial(SiTEncoder, 1, (4, 2, 6), 12, 1, 3), (1, 4, 2, 6)),
}
DECODERS = {
    "mlp": (partial(MLPDecoder, channels_out=5, width=8), (5,)),
    "mlp of one coordinate": (partial(MLPDecoder, channels_out=1, width=3, layers=1), (1,)),
    "conv 1d": (partial(ConvDecoder, channels_out=2, resolution=(12,), channels=4, multipliers=(1, 2, 2)), (2, 12)),
    "conv 2d": (partial(ConvDecoder, channels_out=2, resolution=(8, 12), channels=4, multipliers=(1, 2)), (2, 8, 12)),
    "conv 2d, odd sizes": (
        partial(ConvDecoder, channels_out=1, resolution=(5, 7), channels=3, multipliers=(1,), blocks=2, width=8),
        (1, 5, 7),
    ),
    "conv 3d": (
        partial(ConvDecoder, channels_out=1, resolution=(4, 2, 6), channels=4, multipliers=(1, 2), width=8),
        (1, 4, 2, 6),
    ),
}
every_encoder = pytest.mark.parametrize(("build", "shape"), ENCODERS.values(), ids=ENCODERS)
every_decoder = pytest.mark.parametrize(("build", "shape"), DECODERS.values(), ids=DECODERS)


@pytest.fixture(autouse=True)
def seeded():
    """Layers draw their first weights from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@every_encoder
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("time", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_have_the_width_and_dtype_that_was_asked(build, shape, batch, time, dtype):
    encoder = build(time=time).to(dtype)
    features = encoder(torch.randn(batch, *shape, dtype=dtype), *([torch.rand(batch, dtype=dtype)] if time else []))
    assert features.shape == (batch, encoder.width)
    assert features.dtype == dtype


@every_decoder
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("latent", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decoded_samples_have_their_shape_and_dtype(build, shape, batch, latent, dtype):
    result = build(latent).to(dtype)(torch.randn(batch, latent, dtype=dtype))
    assert result.shape == (batch, *shape)
    assert result.dtype == dtype


@every_encoder
@pytest.mark.parametrize("time", [False, True])
def test_gradients_reach_every_parameter_of_an_encoder(build, shape, time):
    encoder = perturbed(build(time=time))
    encoder(draw(3, *shape), *([draw(3).sigmoid()] if time else [])).square().sum().backward()
    unreached = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@every_decoder
def test_gradients_reach_every_parameter_of_a_decoder(build, shape):
    decoder = perturbed(build(4))
    decoder(draw(3, 4)).square().sum().backward()
    unreached = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@every_encoder
def test_sample_and_time_change_the_features(build, shape):
    encoder = perturbed(build(time=True))
    x, t = draw(2, *shape), draw(2).sigmoid()
    for changed in [encoder(x + 0.1, t), encoder(x, t + 0.1)]:
        assert ((changed - encoder(x, t)).norm(dim=1) > 1e-6).all()


@every_decoder
def test_every_component_of_the_latent_changes_the_sample(build, shape):
    decoder, z = perturbed(build(3)), draw(1, 3)
    for component in torch.eye(3, dtype=torch.float64):
        assert (decoder(z + 0.1 * component) - decoder(z)).norm() > 1e-6


@every_encoder
def test_items_of_a_batch_do_not_see_each_other(build, shape):
    encoder, x, t = perturbed(build(time=True)), draw(3, *shape), draw(3).sigmoid()
    alone = torch.cat([encoder(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(encoder(x, t), alone, rtol=1e-12, atol=1e-12)


@every_encoder
def test_errors_of_the_time(build, shape):
    x, t = torch.zeros(3, *shape), torch.zeros(3)
    with pytest.raises(ValueError, match=r"reads no time, got t of shape \(3,\); leave t out, or .* time=True"):
        build()(x, t)
    with pytest.raises(ValueError, match=r"reads the time: expected t of shape \(3,\), got none"):
        build(time=True)(x)
    with pytest.raises(ValueError, match=r"t of shape \(3,\), got \(1,\); repeat a single time"):
        build(time=True)(x, t[:1])


def test_mlp_encoder_is_that_of_the_formula():
    encoder, x, t = perturbed(MLPEncoder(3, 4, 2, time=True)), draw(5, 3), draw(5).sigmoid()
    first, second = encoder.layers
    e = encoder.time.conditioning(x, t)
    expected = silu(silu(x @ first.weight.T + first.bias + e) @ second.weight.T + second.bias)
    torch.testing.assert_close(encoder(x, t), expected)


def test_mlp_decoder_is_that_of_the_formula():
    decoder, z = perturbed(MLPDecoder(2, 3, 4, 1)), draw(5, 2)
    (first,), last = decoder.hidden.layers, decoder.output
    expected = silu(z @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(decoder(z), expected)


@pytest.mark.parametrize("padding", ["zeros", "circular", "reflect", "replicate"])
def test_features_of_a_field_are_not_those_of_its_translate(padding):
    """A mean over the grid would forget where things are, on periodic fields entirely."""
    encoder, x = perturbed(ConvEncoder(1, (8, 8), 4, (1, 2), width=6, padding=padding)), draw(1, 1, 8, 8)
    assert (encoder(x.roll(4, 2)) - encoder(x)).norm() > 1e-3


def test_mirrored_networks_have_the_same_coarsest_features():
    """What the encoder flattens is what the decoder unfolds: as many numbers, on the same grid."""
    encoder = ConvEncoder(2, (8, 12), 4, (1, 2, 3), width=5)
    decoder = ConvDecoder(5, 2, (8, 12), 4, (1, 2, 3), width=5)
    assert encoder.output.in_features == decoder.spread[2].out_features == 12 * 2 * 3


@pytest.mark.parametrize(
    ("settings", "millions"),
    [
        ({"channels": 4, "blocks": 2, "width": 48}, 0.07),
        ({"channels": 16, "blocks": 2, "width": 160}, 1.0),
        ({"channels": 64, "multipliers": (1, 2, 4, 8), "blocks": 2, "width": 128}, 16.0),
    ],
)
def test_published_sizes_of_encoders_can_be_had(settings, millions):
    """The three encoders of Samaddar et al., table 3, for two fields of 64 x 64 points, by number of parameters."""
    with torch.device("meta"):
        encoder = ConvEncoder(2, (64, 64), **settings)
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(millions * 1e6, rel=0.05)


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (partial(MLPEncoder, 3), (2, 4), r"expected vectors of shape \(batch, 3\), got \(2, 4\)"),
        (partial(MLPEncoder, 3), (3,), r"expected vectors of shape \(batch, 3\), got \(3,\)"),
        (partial(MLPDecoder, 3, 2), (2, 4), r"expected latents of shape \(batch, 3\), got \(2, 4\)"),
        (partial(ConvDecoder, 3, 2, (8,)), (2, 4), r"expected latents of shape \(batch, 3\), got \(2, 4\)"),
        (
            partial(ConvEncoder, 2, (8, 16)),
            (2, 2, 16, 8),
            r"expected fields of shape \(batch, 2, 8, 16\), got \(2, 2, 16, 8\); .* the resolution= that it was built",
        ),
        (partial(ConvEncoder, 2, (8, 8)), (2, 1, 8, 8), r"shape \(batch, 2, 8, 8\), got \(2, 1, 8, 8\)"),
        (partial(ConvEncoder, 2, (8, 8)), (8,), r"shape \(batch, 2, 8, 8\), got \(8,\)"),
    ],
)
def test_inputs_of_another_shape_are_refused(build, shape, message):
    with pytest.raises(ValueError, match=message):
        build()(torch.zeros(shape))


@pytest.mark.parametrize("network", [ConvEncoder, partial(ConvDecoder, 3)], ids=["encoder", "decoder"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"resolution": (8, 6)},
            r"divisible by 8, got 6 points along axis 1 of \(8, 6\); 8 would work",
        ),
        ({"resolution": (8,), "padding": "reflect"}, "at least 16 and divisible by 8, got 8 points"),
        ({"resolution": ()}, "1, 2 or 3 axes, got dimension=0"),
        ({"resolution": (8, 8, 8, 8)}, "1, 2 or 3 axes, got dimension=4"),
        ({"channels": 0}, "channels must be a whole number of at least 1, got 0"),
        ({"blocks": 0}, "blocks must be a whole number of at least 1, got 0"),
        ({"width": 0}, "width must be a whole number of at least 1, got 0"),
        ({"multipliers": ()}, "levels must be a whole number of at least 1, got 0"),
        ({"padding": "periodic"}, "unknown padding 'periodic'"),
    ],
)
def test_impossible_settings_are_refused(network, settings, message):
    with pytest.raises(ValueError, match=message):
        network(2, **({"resolution": (16, 16)} | settings))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(MLPEncoder, 0), "channels_in must be"),
        (partial(MLPEncoder, 2, 0), "width must be"),
        (partial(MLPEncoder, 2, 2, 0), "layers must be"),
        (partial(MLPDecoder, 0, 2), "latent must be"),
        (partial(MLPDecoder, 2, 0), "channels_out must be"),
        (partial(MLPDecoder, 2, 2, 0), "width must be"),
        (partial(ConvEncoder, 0, (8,)), "channels_in must be"),
        (partial(ConvDecoder, 0, 2, (8,)), "latent must be"),
        (partial(ConvDecoder, 2, 0, (8,)), "channels_out must be"),
    ],
)
def test_sizes_must_be_positive(build, message):
    with pytest.raises(ValueError, match=message + " a whole number of at least 1, got 0"):
        build()


def test_no_time_has_no_parameters():
    assert not list(OptionalTime(8, 4, time=False).parameters())
