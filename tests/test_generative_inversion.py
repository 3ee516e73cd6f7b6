"""Inversion: round trips of exact flows, warnings of loose ones, points between noise."""

import math

import pytest
import torch
from oracles import gaussian, gaussian_flow_map, mixture
from perturbed_networks import draw

from physflow.generative import (
    DDIM,
    RK4,
    Adaptive,
    Cosine,
    Euler,
    Heun,
    LinearPath,
    SolverDiverged,
    integrate,
    invert,
    slerp,
)


@pytest.mark.parametrize("path", [LinearPath(), Cosine()], ids=str)
def test_round_trip_at_a_tolerance_of_a_millionth(path):
    target = mixture().target
    x = target.sample(50, torch.Generator().manual_seed(0))
    found = invert(target.flow(path).velocity, x, Adaptive(rtol=1e-6, atol=1e-6))
    assert found.round_trip_error.max() < 1e-4
    again = integrate(target.flow(path).velocity, found.noise, Adaptive(rtol=1e-6, atol=1e-6))
    torch.testing.assert_close(found.round_trip_error, (again - x).norm(dim=1) / x.norm(dim=1))


def test_the_noise_is_that_of_the_exact_map():
    flow, noise = gaussian(), draw(20, 2)
    found = invert(flow.velocity, gaussian_flow_map(flow, noise, 1.0), RK4(), 200)
    torch.testing.assert_close(found.noise, noise, rtol=1e-5, atol=1e-5)


def test_a_loose_method_is_told():
    flow = mixture()
    x = flow.target.sample(8, torch.Generator().manual_seed(0))
    with pytest.warns(
        UserWarning, match=r"misses \d of 8 samples by more than 0.001 .* at worst by .*: take more steps"
    ):
        found = invert(flow.velocity, x, Euler(), 5)
    assert found.round_trip_error.max() > 1e-2
    invert(flow.velocity, x, Euler(), 5, tolerance=10.0)


def test_a_latent_is_handed_on_and_an_empty_batch_comes_back():
    z = draw(3, 2)
    found = invert(lambda x, t, z: z + 0 * x, draw(3, 2, seed=5), Heun(), 2, z=z)
    torch.testing.assert_close(found.noise, draw(3, 2, seed=5) - z)
    assert invert(lambda x, t: x, draw(0, 2)).noise.shape == (0, 2)


def test_what_cannot_be_inverted():
    with pytest.raises(TypeError, match=r"an inversion needs trajectories without random numbers.*got DDIM"):
        invert(lambda x, t: x, draw(1, 2), DDIM(1.0))
    with pytest.raises(ValueError, match="tolerance must be positive"):
        invert(lambda x, t: x, draw(1, 2), tolerance=0.0)
    with pytest.raises(SolverDiverged, match="not finite"):
        invert(lambda x, t: x / 0, draw(1, 2))


def test_points_between_keep_to_the_sphere():
    a, b = (torch.nn.functional.normalize(draw(3, 4, 2, seed=s).flatten(1), dim=1).view(3, 4, 2) for s in (1, 2))
    w = torch.linspace(0, 1, 5)
    found = slerp(a, b, w)
    assert found.shape == (5, 3, 4, 2)
    torch.testing.assert_close(found[0], a)
    torch.testing.assert_close(found[-1], b)
    torch.testing.assert_close(found.flatten(2).norm(dim=2), torch.ones(5, 3, dtype=torch.float64))
    # In equal angles.
    steps = (found[1:] * found[:-1]).flatten(2).sum(2).acos()
    torch.testing.assert_close(steps, (a * b).flatten(1).sum(1).acos().expand(4, 3) / 4, rtol=1e-6, atol=0)


def test_points_between_others():
    """Nearly the same ones, and of two lengths in a right angle."""
    a = draw(2, 3)
    torch.testing.assert_close(slerp(a, a, torch.tensor([0.3]))[0], a)
    torch.testing.assert_close(slerp(a, a * (1 + 1e-9), torch.tensor([0.3]))[0], a)
    one, two = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    half = math.sqrt(0.5)
    torch.testing.assert_close(slerp(one, two, torch.tensor([0.5]))[0], torch.tensor([[half, 2 * half]]))
    with pytest.raises(ValueError, match="opposite directions"):
        slerp(a, -a, torch.tensor([0.5]))
    with pytest.raises(ValueError, match=r"weights of shape \(points,\)"):
        slerp(a, a[:1], torch.tensor([0.5]))
