import math

import pytest
import torch

from physflow.generative import Euler, integrate
from physflow.metrics import straightness


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times(steps, ndim=1):
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64).reshape(-1, *(1,) * ndim)


@pytest.mark.parametrize("shape", [(1, 1), (5, 2), (3, 1, 4, 6), (7,)])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_lines_at_constant_speed_are_straight(shape, steps):
    x0, x1 = noise(2, *shape)
    found = straightness(x0 + times(steps, len(shape)) * (x1 - x0))
    assert found.value < 1e-25
    assert found.deviation.shape == (steps,)
    assert found.curvature.shape == (steps - 1,)
    assert found.curvature.sum() < 1e-20


@pytest.mark.parametrize("steps", [2, 5, 40])
def test_a_parabola_has_its_closed_form(steps):
    # x = t d + a t (1 - t): the velocity misses d by a (1 - 2 t), the acceleration is -2 a.
    d, a = noise(2, 6, 3)
    t = times(steps, 2)
    found = straightness(t * d + a * t * (1 - t))
    ratio = a.square().sum() / d.square().sum()
    middle = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    torch.testing.assert_close(found.deviation, ratio * (1 - 2 * middle) ** 2)
    torch.testing.assert_close(found.curvature, (4 * ratio).expand(steps - 1))
    assert found.value == pytest.approx(ratio.item() / 3 * (1 - 1 / steps**2), rel=1e-12)


def test_a_half_circle_is_longer_than_its_chord_as_stated():
    angle = math.pi * times(400)[:, 0]
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)[:, None]
    # Speed pi over a chord of 2: pi^2 = (1 + S) 4.
    assert straightness(circle).value == pytest.approx(math.pi**2 / 4 - 1, rel=1e-4)


def test_a_line_at_uneven_speed_is_not_straight():
    found = straightness(times(100, 2) ** 2 * noise(4, 2))
    torch.testing.assert_close(found.value, 1 / 3 * (1 - 1e-4), rtol=1e-10, atol=0)


def test_it_depends_on_neither_unit_nor_direction():
    path = noise(6, 3, 2).cumsum(0)
    found = straightness(path)
    assert straightness(1e3 * path - 7).value == pytest.approx(found.value, rel=1e-12)
    torch.testing.assert_close(straightness(path.flip(0)).deviation, found.deviation.flip(0))


def test_steps_of_different_length_in_time_show():
    found = straightness(torch.tensor([0.0, 3.0, 4.0])[:, None])
    assert found.value == pytest.approx(((6 - 4) ** 2 + (2 - 4) ** 2) / 2 / 16)
    assert found.curvature.tolist() == [pytest.approx(64 / 16)]


def test_it_takes_what_integrate_returns():
    x0 = noise(4, 2).float()
    straight = integrate(lambda x, t: torch.ones_like(x), x0, Euler(), 5, trajectory=True)
    bent = integrate(lambda x, t: t[:, None] * torch.ones_like(x), x0, Euler(), 5, trajectory=True)
    assert straightness(straight).value < 1e-10
    assert straightness(bent).value > 0.1


@pytest.mark.parametrize(
    ("trajectory", "message"),
    [
        (torch.zeros(3), r"trajectory of shape \(steps \+ 1, batch, ...\).*got \(3,\)"),
        (torch.zeros(1, 4, 2), "one step"),
        (torch.zeros(3, 0, 2), "one item"),
        (torch.ones(3, 4, 2), "no item of the trajectory moves"),
        (torch.tensor([[0.0], [math.nan], [1.0]]), "NaN or infinite"),
        (torch.tensor([[0.0], [1.0], [math.inf]]), "NaN or infinite"),
    ],
)
def test_bad_input_is_named(trajectory, message):
    with pytest.raises(ValueError, match=message):
        straightness(trajectory)
