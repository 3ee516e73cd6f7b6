"""White noise: published words of the generator, the laws of its numbers, and who draws what."""

import numpy as np
import pytest
import scipy.stats

from physflow.data import white_noise
from physflow.data.white_noise import normals, uniforms


@pytest.mark.parametrize(
    ("key", "index", "counter", "expected"),
    [
        (0, 0, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (2**64 - 1, 2**64 - 1, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            0x299F31D0A4093822,
            0x0370734413198A2E,
            0x85A308D3243F6A88,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_the_words_are_the_published_ones(key, index, counter, expected):
    words = np.empty((4, 1), np.uint32)
    white_noise._philox(np.uint64(key), np.uint64(index), np.uint64(counter), words)
    assert words[:, 0].tolist() == expected


def test_normal_numbers_have_the_normal_law():
    x = normals(5, np.arange(64), 2**15).astype(float)
    assert scipy.stats.kstest(x.ravel(), "norm").pvalue > 1e-3
    n = x.size
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - moment) < 4 * np.sqrt(variance / n)
    for tail in (2.0, 3.0, 4.0):
        expected = 2 * scipy.stats.norm.sf(tail) * n
        assert abs((np.abs(x) > tail).sum() - expected) < 4 * np.sqrt(expected)


def test_normal_numbers_are_independent():
    x = normals(6, np.arange(512), 2048).astype(float)
    for a, b in ((x[:, :-1], x[:, 1:]), (x[:-1], x[1:]), (x[:, :1024], x[:, 1024:]), (x[:, :256], x[:, 256:512])):
        for power in (1, 2):
            u, v = a**power - (power == 2), b**power - (power == 2)
            assert abs((u * v).mean()) < 4 * (u.std() * v.std()) / np.sqrt(u.size)


def test_uniform_numbers_have_the_uniform_law():
    u = uniforms(7, np.arange(16), 4096)
    assert scipy.stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    assert u.min() > 0
    assert u.max() < 1


def test_normal_numbers_are_those_of_the_words():
    """Box and Muller in float64, from the same words, up to the rounding of float32."""
    words = np.empty((4, 256), np.uint32)
    white_noise._philox(np.uint64(3), np.uint64(8), np.uint64(0), words)
    u, v = (words[0] + 0.5) / 2**32, words[1]
    angle = np.pi / 2 * ((v >> 30) + ((v & 0x3FFFFFFF) + 0.5) / 2**30 - 0.5)
    radius = np.sqrt(-2 * np.log(u))
    found = normals(3, [8], 1024)[0]
    np.testing.assert_allclose(found[:256], radius * np.cos(angle), atol=2e-6)
    np.testing.assert_allclose(found[256:512], radius * np.sin(angle), atol=2e-6)


def test_the_extreme_words_give_finite_numbers():
    words = np.array([0, 1, 2**31, 2**32 - 1, 2**32 - 129], np.uint32)
    u, v = (w.ravel() for w in np.meshgrid(words, words))
    radius, first, second = (np.empty(len(u), np.float32) for _ in range(3))
    white_noise._box_muller(u, v, radius, radius.view(np.int32), first, second)
    assert np.isfinite([first, second]).all()
    np.testing.assert_allclose(np.hypot(first, second), np.sqrt(-2 * np.log((u + 0.5) / 2**32)), atol=1e-3)
    assert np.hypot(first, second).max() < 6.8


@pytest.mark.parametrize("draw", [normals, uniforms])
def test_a_number_depends_on_seed_sample_and_place_alone(draw):
    x = draw(1, np.arange(6), 3000)
    for part in ([4], [5, 2], np.arange(3)):
        assert np.array_equal(draw(1, part, 3000), x[part])
    assert x.shape == (6, 3000)
    assert len(np.unique(x)) > 0.99 * x.size
    assert (draw(2, np.arange(6), 3000) != x).mean() > 0.99
    assert draw(2**64 - 1, [2**62], 5).shape == (1, 5)
    assert draw(0, [], 5).shape == (0, 5)
    assert draw(0, [3], 0).shape == (1, 0)


@pytest.mark.parametrize("size", [1, 3, 255, 1024, 1025, 1500])
def test_any_size(size):
    assert np.isfinite(normals(0, [0], size)).all()
    assert np.isfinite(uniforms(0, [0], size)).all()


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(ValueError, match=r"expected a seed in \[0, 2\*\*64\), got"):
        normals(seed, [0], 4)


@pytest.mark.parametrize("indices", [[-1], [[1, 2]]])
def test_indices_out_of_range_are_refused(indices):
    with pytest.raises(ValueError, match="expected a row of indices that are not negative"):
        uniforms(0, indices, 4)
