"""Where samples start: each from a generator of its own."""

import pytest
import torch

from physflow.generative import Gaussian, StandardNormal, starting_points


def test_a_start_depends_on_seed_and_index_alone():
    many, z = starting_points(Gaussian(), (3,), 1, range(7), StandardNormal(2))
    few, w = starting_points(Gaussian(), (3,), 1, [4, 2], StandardNormal(2))
    assert torch.equal(few, many[[4, 2]])
    assert torch.equal(w, z[[4, 2]])
    assert len(torch.unique(many, dim=0)) == 7
    other, _ = starting_points(Gaussian(), (3,), 2, range(7))
    assert not torch.equal(other, many)


def test_the_latent_does_not_move_the_noise():
    with_latent, z = starting_points(Gaussian(), (2, 4), 5, range(3), StandardNormal(2))
    without, none = starting_points(Gaussian(), (2, 4), 5, range(3))
    assert torch.equal(with_latent, without)
    assert none is None
    assert z.shape == (3, 2)


def test_given_latents_are_taken_by_index():
    given = torch.arange(4.0)[:, None]
    _, z = starting_points(Gaussian(), (1,), 0, [1, 3, 9], latents=given)
    assert z.tolist() == [[1], [3], [3]]


def test_one_noise_for_all():
    noise, _ = starting_points(Gaussian(), (3,), 1, [5, 6], one_noise=True)
    first, _ = starting_points(Gaussian(), (3,), 1, [0])
    assert torch.equal(noise, first.expand(2, 3))


@pytest.mark.parametrize("pair", [(59922, 74925), (0, 2**31)])
def test_no_two_samples_start_from_the_same_noise(pair):
    # torch's generator knows 32 bits of its seed: the first two indices once collided.
    noise, _ = starting_points(Gaussian(), (2,), 1, pair)
    assert not torch.equal(noise[0], noise[1])
