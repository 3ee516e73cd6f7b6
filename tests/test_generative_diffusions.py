"""VP and VE: their rates against the definitions, conversions up to both ends, and what they refuse."""

import itertools
import math

import pytest
import torch
from oracles import mixture

from physflow.generative import VE, VP, CondOT, Cosine, LinearPath

PATHS = [VP(), VP(0.5, 12.0), VE(), VE(0.05, 10.0)]
ALL = [*PATHS, LinearPath(), LinearPath(0.3), CondOT(0.05), Cosine()]
QUANTITIES = ("velocity", "data", "noise", "score")
PAIRS = list(itertools.permutations(QUANTITIES, 2))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inside(n, margin=1e-3):
    return torch.linspace(margin, 1 - margin, n, dtype=torch.float64)


def test_vp_integrates_its_rate():
    """alpha(t) = exp(-int_t^1 beta / 2), and the variance of unit data stays one."""
    path, t = VP(0.3, 15.0), inside(9)
    for time in t.tolist():
        s = torch.linspace(time, 1, 2001, dtype=torch.float64)
        assert path.alpha(s[:1]).log().item() == pytest.approx(-torch.trapezoid(path.beta(s) / 2, s).item(), rel=1e-6)
    torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones_like(t), rtol=1e-14, atol=0)
    torch.testing.assert_close(path.spread(torch.zeros(1)), torch.ones(1))


def test_vp_keeps_the_digits_of_a_small_sigma():
    path, s = VP(), 1e-12
    found = path.sigma(torch.tensor([1 - s], dtype=torch.float64)).item()
    assert found == pytest.approx(math.sqrt(0.1 * s), rel=1e-4)


def test_ve_is_geometric():
    path, t = VE(0.02, 8.0), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(path.sigma(t), torch.tensor([8.0, 0.4, 0.02], dtype=torch.float64))
    assert path.alpha(t).tolist() == [1, 1, 1]
    assert path.spread(t[:1]).item() == pytest.approx(math.hypot(1, 8))


@pytest.mark.parametrize("path", ALL, ids=str)
def test_rates_follow_from_the_shares(path):
    """f = d log alpha / dt and g^2 = 2 b^2 f - d b^2 / dt, b the width of x_t given x1, by central differences."""
    t, h = inside(21, 0.01), 1e-6

    def width(t):
        return path.sigma(t) ** 2 + getattr(path, "width", 0.0) ** 2 * isinstance(path, LinearPath)

    f = (path.alpha(t + h).log() - path.alpha(t - h).log()) / (2 * h)
    d_width = (width(t + h) - width(t - h)) / (2 * h)
    torch.testing.assert_close(path.drift(t), f, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(path.squared_diffusion(t), 2 * width(t) * f - d_width, rtol=1e-6, atol=1e-6)
    assert (path.squared_diffusion(t) > 0).all()


@pytest.mark.parametrize("path", ALL, ids=str)
def test_the_rates_split_the_velocity(path):
    x, t, score = draw(21, 3), inside(21), draw(21, 3, seed=1)
    v = path.drift(t)[:, None] * x + path.squared_diffusion(t)[:, None] / 2 * score
    torch.testing.assert_close(path.convert(score, x, t, given="score", wanted="velocity"), v, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", ALL, ids=str)
@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_conversions_invert_each_other_up_to_a_thousandth_from_the_ends(path, given, wanted):
    """To 1e-6, relative to the prediction."""
    x, value, t = draw(400, 2), draw(400, 2, seed=1), inside(400)
    there = path.convert(value, x, t, given=given, wanted=wanted)
    back = path.convert(there, x, t, given=wanted, wanted=given)
    assert ((back - value).norm(dim=1) / value.norm(dim=1)).max() < 1e-6


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_conversions_of_the_exact_predictions(path, given, wanted):
    flow = mixture().target.flow(path)
    x, t = 2 * draw(50, 2), inside(50, 0.02)
    exact = {name: getattr(flow, name)(x, t) for name in (given, wanted)}
    found = path.convert(exact[given], x, t, given=given, wanted=wanted)
    torch.testing.assert_close(found, exact[wanted], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_the_conditional_velocity_is_the_derivative_of_the_path(path):
    x0, x1, t, h = draw(6, 2), draw(6, 2, seed=1), inside(6, 0.1), 1e-6
    ends = [path.interpolate(x0, x1, t + e)[0] for e in (-h, h)]
    torch.testing.assert_close((ends[1] - ends[0]) / (2 * h), path.interpolate(x0, x1, t)[1], rtol=1e-7, atol=1e-7)


VP_REGULAR_AT_THE_DATA = [
    ("score", "velocity"),
    ("score", "data"),
    ("score", "noise"),
    ("velocity", "score"),
    ("velocity", "data"),
    ("velocity", "noise"),
    ("noise", "data"),
]


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_the_ends_of_vp(given, wanted):
    """At t = 1 the score holds everything; noise and data predictions say nothing of it, and raise."""
    path, flow = VP(), mixture()
    x, t = draw(4, 2), torch.ones(4, dtype=torch.float64)
    score = flow.score(x, t)
    exact = {"score": score, "data": x, "noise": torch.zeros_like(x), "velocity": 0.05 * (x + score)}
    if (given, wanted) in VP_REGULAR_AT_THE_DATA:
        found = path.convert(exact[given], x, t, given=given, wanted=wanted)
        torch.testing.assert_close(found, exact[wanted], rtol=1e-12, atol=1e-12)
    else:
        with pytest.raises(ValueError, match=r"does not exist at t = 1: x_t holds no noise"):
            path.convert(exact[given], x, t, given=given, wanted=wanted)
    assert path.convert(x, x, 0 * t, given=given, wanted=wanted).isfinite().all()


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
@pytest.mark.parametrize("time", [0.0, 1.0])
def test_ve_is_finite_at_both_ends(given, wanted, time):
    x = draw(4, 2)
    found = VE().convert(x, x, torch.full((4,), time, dtype=torch.float64), given=given, wanted=wanted)
    assert found.isfinite().all()


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_edge_shapes_and_dtypes(path):
    for shape in ((0, 2), (1, 1, 3, 2), (5,)):
        x, t = draw(*shape).float(), torch.full(shape[:1], 0.5)
        assert path.convert(x, x, t, given="noise", wanted="velocity").shape == shape
        assert path.interpolate(x, x, t)[1].dtype == torch.float32


def test_bad_input():
    with pytest.raises(ValueError, match="beta_min must be positive"):
        VP(0.0)
    with pytest.raises(ValueError, match="beta_min <= beta_max, got beta_min = 3"):
        VP(3.0, 1.0)
    with pytest.raises(ValueError, match=r"leaves 0.59 of the data at t = 0.*raise beta_max"):
        VP(0.1, 2.0)
    with pytest.raises(ValueError, match="sigma_min < sigma_max, got 1"):
        VE(1.0, 1.0)
    with pytest.raises(ValueError, match="unknown prediction 'speed'"):
        VP().convert(draw(2, 2), draw(2, 2), inside(2), given="velocity", wanted="speed")
    with pytest.raises(ValueError, match=r"shape \(2, 2\) of x, got \(2,\)"):
        VP().convert(draw(2), draw(2, 2), inside(2), given="velocity", wanted="data")
