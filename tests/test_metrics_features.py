"""Features by a network: what it is given, its mode, TorchScript files, the name of the distance, errors."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from physflow.metrics import FeatureNetwork, grey_to_colour, inception_input


class Means(nn.Module):
    """Two features of each channel; with a shape, whatever that is."""

    def __init__(self, shape=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.shape, self.seen = shape, []

    def forward(self, x, scale=1.0):
        self.seen.append((x, self.training, torch.is_grad_enabled()))
        if self.shape is not None:
            return torch.ones(self.shape)
        return scale * self.weight * torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


class Scripted(nn.Module):
    """As the published network: probabilities by default, features on request."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.normal = nn.BatchNorm2d(3)

    def forward(self, img, return_features: bool = False):
        features = self.normal(img).mean((2, 3)).repeat(1, self.width)[:, : self.width]
        return features if return_features else features[:, :5].softmax(1)


def images(n=5, channels=3, height=6, width=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator, dtype=torch.uint8)


def script(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


@pytest.mark.parametrize("block", [1, 2, 5, 64])
def test_features_are_those_of_the_numbers_0_to_255_in_blocks(block):
    network, x = Means(), images()
    found = FeatureNetwork(network, "means", 6)(x, block)
    assert torch.equal(found, torch.cat([x.double().mean((2, 3)), x.double().amax((2, 3))], 1))
    assert [len(seen) for seen, _, _ in network.seen] == [block] * (5 // block) + [5 % block] * (5 % block > 0)
    # In the dtype of the network, without gradients, evaluating.
    assert all(seen.dtype == torch.float64 and not mode and not grad for seen, mode, grad in network.seen)
    assert not found.requires_grad
    assert torch.is_grad_enabled()


def test_one_image_and_one_feature():
    found = FeatureNetwork(nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(1)), "mean")(images(1))
    assert found.shape == (1, 1)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("fails", [False, True])
def test_every_part_gets_its_own_mode_back(fails):
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten())
    network[0].eval()
    if fails:
        network.append(nn.Unflatten(1, (72, 1)))
    before = network[0].running_mean.clone()
    features = FeatureNetwork(network, "net")
    if fails:
        with pytest.raises(ValueError, match=r"got \(5, 72, 1\)"):
            features(images())
    else:
        assert torch.equal(features(images()), features(images()))
    assert [module.training for module in network[:3]] == [False, True, True]
    assert network.training
    assert torch.equal(network[0].running_mean, before)


def test_images_are_prepared_and_options_passed():
    network = Means()
    found = FeatureNetwork(network, "means", prepare=inception_input, options={"scale": 3.0})(images())
    seen = network.seen[0][0]
    torch.testing.assert_close(seen, inception_input(images().double()))
    torch.testing.assert_close(found[:, :3], 3 * seen.mean((2, 3)))


def test_grey_images_are_repeated_on_request_alone():
    grey = images(channels=1)
    with pytest.raises(ValueError, match=r"\(n, 3, height, width\), got \(5, 1, 6, 4\); grey_to_colour repeats"):
        FeatureNetwork(Means(), "means")(grey)
    assert FeatureNetwork(Means(), "means")(grey_to_colour(grey)).shape == (5, 6)
    assert FeatureNetwork(Means(), "means", channels=1)(grey).shape == (5, 2)


def test_the_published_network_gives_features_on_request(tmp_path):
    path = script(Scripted(2048), tmp_path / "inception.pt")
    inception = FeatureNetwork.inception(path)
    assert inception(images()).shape == (5, 2048)
    assert inception.distance_name == "FID"
    classifier = FeatureNetwork.load(str(path), "Inception-v3", 5)
    torch.testing.assert_close(classifier(images()).sum(1), torch.ones(5))
    # The scripted network was saved in training mode.
    assert all(module.training for module in classifier.network.modules())


def test_another_width_than_that_of_inception_is_refused(tmp_path):
    path = script(Scripted(1000), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="expected 2048 features from Inception-v3, got 1000"):
        FeatureNetwork.inception(path)(images())


def test_frozen_torchscript_has_no_mode_and_works(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        frozen = torch.jit.freeze(torch.jit.script(Scripted(4).eval()))
    frozen.save(str(tmp_path / "frozen.pt"))
    for features in (FeatureNetwork(frozen, "n"), FeatureNetwork.load(tmp_path / "frozen.pt", "n")):
        assert features(images()).shape == (5, 4)


def test_files_that_are_not_torchscript_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        FeatureNetwork.load(tmp_path / "none.pt", "net")
    torch.save(Means().state_dict(), tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("weights")
    for name in ("weights.pt", "text.pt"):
        with pytest.raises(
            ValueError, match=f"{name} is not a TorchScript file; of weights alone make the module first"
        ):
            FeatureNetwork.load(tmp_path / name, "net")


def test_only_the_features_of_inception_make_the_distance_fid():
    names = {("Inception-v3", 2048): "FID", ("Inception-v3", 64): "Frechet distance (Inception-v3)"}
    names |= {("Inception-v3", None): "Frechet distance (Inception-v3)", ("VAE", 2048): "Frechet distance (VAE)"}
    for (name, width), expected in names.items():
        assert FeatureNetwork(Means(), name, width).distance_name == expected


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (images().float(), "expected images as uint8, got torch.float32; quantise makes such"),
        (images()[0], r"got \(3, 6, 4\); channels are the second axis"),
        (images().permute(0, 2, 3, 1), r"got \(5, 6, 4, 3\); channels are the second axis"),
        (images()[:0], r"expected images, got none: shape \(0, 3, 6, 4\)"),
        (images(height=0), r"expected images, got none: shape \(5, 3, 0, 4\)"),
    ],
)
def test_what_are_no_images_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        FeatureNetwork(Means(), "means")(x)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 8, 1, 1), r"shape \(5, d\) from net, got \(5, 8, 1, 1\); pool or flatten its last axes first"),
        ((1, 8), r"shape \(5, d\) from net, got \(1, 8\); return one row for each image"),
        ((5,), r"got \(5,\); return one row for each image"),
    ],
)
def test_outputs_that_are_no_features_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        FeatureNetwork(Means(shape), "net")(images())


def test_other_failures_of_a_network_are_told():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Logarithm(nn.Module):
        def forward(self, x):
            return (x.flatten(1)[:, :1] - 1).log()

    with pytest.raises(ValueError, match="expected a tensor of features from pair, got tuple"):
        FeatureNetwork(Pair(), "pair")(images())
    with pytest.raises(ValueError, match="expected 7 features from means, got 6"):
        FeatureNetwork(Means(), "means", 7)(images())
    with pytest.raises(
        ValueError, match="NaN or infinite for 1 of 2 images; does it expect other numbers than 0 to 255"
    ):
        FeatureNetwork(Logarithm(), "log")(
            torch.tensor([0, 9], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)
        )
    with pytest.raises(ValueError, match="at least one image at a time, got block=0"):
        FeatureNetwork(Means(), "means")(images(), 0)
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, got str; FeatureNetwork.load reads a file"):
        FeatureNetwork("net.pt", "net")


def test_what_is_no_images_and_no_file(tmp_path):
    network = FeatureNetwork(nn.Flatten(), "flat", channels=1)
    for given in (np.zeros((2, 1, 4, 4), dtype=np.uint8), [1]):
        with pytest.raises(
            TypeError, match=rf"expected images as a tensor of uint8, got {type(given).__name__}; .*to_pixels"
        ):
            network(given)
    with pytest.raises(
        FileNotFoundError, match=r"no file .*; the network of FID is inception-2015-12-05\.pt, from https"
    ):
        FeatureNetwork.inception(tmp_path / "inception.pt")
