import math

import pytest
import torch
from scipy.stats import norm

from physflow.generative import RK4, Euler, GaussianProcess, integrate
from physflow.generative.exploration import latent_grid, latent_values, many_from_one, traverse


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("quantiles", [(0.05, 0.95), (0.1, 0.4)])
def test_values_are_equally_likely_steps_of_the_normal_law(n, quantiles):
    values = latent_values(n, quantiles, dtype=torch.float64)
    expected = [norm.ppf(quantiles[0] + i / (n - 1) * (quantiles[1] - quantiles[0])) for i in range(n)]
    assert values.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_values_within_a_radius_are_equally_spaced():
    assert latent_values(5, radius=2.0).tolist() == [-2, -1, 0, 1, 2]


@pytest.mark.parametrize("radius", [None, 3.0])
def test_a_single_value_is_the_middle(radius):
    assert latent_values(1, radius=radius, dtype=torch.float64).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("n", "shape"), [(4, (4, 4)), ((2, 5), (2, 5)), ((1, 3), (1, 3))])
@pytest.mark.parametrize("axes", [(0, 1), (3, 1)])
def test_two_coordinates_run_and_the_others_stay(n, shape, axes):
    base = torch.arange(10.0, 14.0, dtype=torch.float64)
    z = latent_grid(n, 4, axes=axes, base=base)
    assert z.shape == (math.prod(shape), 4)
    grid = z.unflatten(0, shape)
    rows, columns = (latent_values(count, dtype=z.dtype) for count in shape)
    torch.testing.assert_close(grid[..., axes[0]], rows[:, None].expand(shape), rtol=0, atol=0)
    torch.testing.assert_close(grid[..., axes[1]], columns.expand(shape), rtol=0, atol=0)
    for other in set(range(4)) - set(axes):
        assert (grid[..., other] == base[other]).all()
    assert base.tolist() == [10, 11, 12, 13]


def test_the_middle_of_the_prior_is_the_default_base():
    z = latent_grid(3, 5, radius=1.0, axes=(1, 4))
    assert z[:, [0, 2, 3]].abs().max() == 0
    assert z[0].tolist() == [0, -1, 0, 0, -1]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_traversal_keeps_the_axes_of_the_grid(batch_size):
    z = latent_grid((2, 3), 2, radius=1.0).unflatten(0, (2, 3))
    seen = []

    def generate(z):
        assert not torch.is_grad_enabled()
        seen.append(len(z))
        return z[:, :, None] * torch.ones(4)

    fields = traverse(generate, z, batch_size)
    torch.testing.assert_close(fields, z[..., None].expand(2, 3, 2, 4))
    assert sum(seen) == 6
    assert max(seen) <= batch_size
    assert traverse(generate, z[0]).shape == (3, 2, 4)


def drift(x, t, z):
    """dx/dt = z - x: x_1 = z + (x_0 - z) / e."""
    return z - x


@pytest.mark.parametrize("latent", [torch.tensor([3.0, -1.0]), torch.tensor([[3.0, -1.0]])])
def test_many_from_one_start_apart_and_share_the_latent(latent):
    latent = latent.double()
    samples = many_from_one(drift, latent, 2000, (2,), torch.Generator().manual_seed(0), RK4(), 20)
    x0 = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(samples, latent + (x0 - latent) / math.e, rtol=0, atol=1e-6)


def test_many_from_one_do_not_depend_on_the_batch():
    z = torch.ones(2, dtype=torch.float64)
    every = [many_from_one(drift, z, 7, (2,), torch.Generator().manual_seed(1), batch_size=b) for b in (1, 3, 64)]
    torch.testing.assert_close(every[0], every[2])
    torch.testing.assert_close(every[1], every[2])


def test_many_from_one_take_the_source_and_the_solver():
    source = GaussianProcess(lambda x: torch.zeros_like(x))

    def constant(x, t, z):
        return z[:, :1, None].expand(x.shape)

    samples = many_from_one(constant, torch.tensor([2.0]), 3, (4, 5), torch.Generator(), Euler(), 1, source)
    assert (samples == 2).all()
    assert samples.shape == (3, 4, 5)


def test_a_flow_is_traversed_from_one_source(generator):
    x0 = torch.randn(1, 2, generator=generator)
    grid = latent_grid((3, 2), 2).unflatten(0, (3, 2))
    moved = traverse(lambda z: integrate(lambda x, t, z: z, x0.expand(len(z), -1), Euler(), 4, z), grid)
    torch.testing.assert_close(moved, x0 + grid)


def vague(z):
    return z.new_zeros(5, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: latent_values(0), "at least one value for a latent coordinate, got n = 0"),
        (lambda: latent_values(3, (0.0, 0.9)), "strictly between 0 and 1, got 0.0 and 0.9"),
        (lambda: latent_values(3, (0.9, 0.1)), "quantiles must rise"),
        (lambda: latent_values(3, radius=0), "radius must be positive and finite, got 0"),
        (lambda: latent_grid(3, 1), "two coordinates, but the latent has 1; use latent_values"),
        (lambda: latent_grid(3, 4, axes=(1, 1)), "two different coordinates of 0 to 3"),
        (lambda: latent_grid(3, 4, axes=(0, 4)), "two different coordinates of 0 to 3"),
        (lambda: latent_grid(3, 4, base=torch.zeros(3)), r"one latent of shape \(4,\), got \(3,\)"),
        (lambda: latent_grid((3, 0), 4), "at least one value"),
        (lambda: traverse(vague, torch.zeros(3)), r"latents of shape \(..., d\)"),
        (lambda: traverse(vague, torch.zeros(0, 3)), "at least one"),
        (lambda: traverse(vague, torch.zeros(4, 3)), r"one item a latent: got \(5, 2\) for 4"),
        (lambda: traverse(vague, torch.zeros(4, 3), 0), "batch_size must be at least 1"),
        (lambda: many_from_one(drift, torch.zeros(2, 2), 3, (2,), torch.Generator()), r"one latent of shape \(d,\)"),
        (lambda: many_from_one(drift, torch.zeros(2), 0, (2,), torch.Generator()), "at least one sample"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
