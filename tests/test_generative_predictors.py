"""Predictors: every prediction from every network, and change of schedule, against the exact flow."""

import itertools

import pytest
import torch
from oracles import mixture

from physflow.generative import VE, VP, BridgePath, CondOT, Cosine, Euler, Heun, LinearPath, Predictor, integrate
from physflow.generative.predictors import LAST_TIME, time_at

PATHS = [LinearPath(), CondOT(0.05), Cosine(), VP(), VE(0.02, 20.0)]
QUANTITIES = ("velocity", "data", "noise", "score")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inside(n, margin=0.02):
    return torch.linspace(margin, 1 - margin, n, dtype=torch.float64)


def exact(path, given):
    """The exact network of a mixture that predicts one quantity on a path, and the flow."""
    flow = mixture().target.flow(path)
    method = getattr(flow, given)
    return Predictor(lambda x, t, z=None: method(x, t), path, given), flow


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("given", QUANTITIES)
def test_one_network_answers_for_all(path, given):
    model, flow = exact(path, given)
    x, t = 2 * draw(40, 2), inside(40)
    for name, value in zip(QUANTITIES, model.predict(x, t, *QUANTITIES), strict=True):
        torch.testing.assert_close(value, getattr(flow, name)(x, t), rtol=1e-8, atol=1e-8)
        single = model if name == "velocity" else getattr(model, name)
        torch.testing.assert_close(single(x, t), value)


def test_several_predictions_cost_one_evaluation_and_hand_on_the_latent():
    seen = []

    def network(x, t, *z):
        seen.append(z)
        return x

    model = Predictor(network, VP(), "data")
    model.predict(draw(3, 2), inside(3), "velocity", "score", "noise")
    model(draw(3, 2), inside(3), torch.ones(3, 1))
    assert [len(z) for z in seen] == [0, 1]


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(PATHS, 2)), ids=str)
@pytest.mark.parametrize("given", ["velocity", "score"])
def test_a_network_answers_on_other_paths(old, new, given):
    """At the proportions that both paths pass through the answer is exact."""
    model, flow = exact(old, given)[0].along(new), mixture().target.flow(new)
    x, t = draw(60, 2), inside(60, 5e-3)
    ratio, ends = new.alpha(t) / new.sigma(t), torch.tensor([0.0, 1.0], dtype=torch.float64)
    first, last = old.alpha(ends) / old.sigma(ends)
    shared = (ratio > 1.001 * first) & (ratio < 0.999 * last)
    assert shared.sum() > 15
    x, t = (new.spread(t)[:, None] * x)[shared], t[shared]
    for name, value in zip(QUANTITIES, model.predict(x, t, *QUANTITIES), strict=True):
        torch.testing.assert_close(value, getattr(flow, name)(x, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("new", [Cosine(), VP()], ids=str)
def test_a_linear_network_samples_along_another_path(new):
    model, flow, n = exact(LinearPath(), "velocity")[0].along(new), mixture(), 2000
    x = integrate(model, draw(n, 2), Heun(), 60)
    products = (x - flow.mean)[:, :, None] * (x - flow.mean)[:, None, :]
    assert ((x.mean(0) - flow.mean).abs() < 4 * (flow.covariance.diagonal() / n).sqrt()).all()
    assert ((products.mean(0) - flow.covariance).abs() < 4 * products.std(0) / n**0.5).all()


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_time_at_inverts_the_shares(path):
    t = torch.cat([torch.tensor([0.0, 1.0], dtype=torch.float64), inside(50, 1e-6)])
    torch.testing.assert_close(time_at(path, path.alpha(t), path.sigma(t)), t, rtol=0, atol=1e-9)
    common = 7.3
    torch.testing.assert_close(time_at(path, common * path.alpha(t), common * path.sigma(t)), t, rtol=0, atol=1e-9)


def test_time_at_takes_the_nearest_end():
    one = torch.ones(1)
    assert time_at(VE(0.1, 5.0), one, 100 * one).item() == pytest.approx(0.0, abs=1e-15)
    assert time_at(VE(0.1, 5.0), one, 0.01 * one).item() == pytest.approx(1.0)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("given", QUANTITIES)
def test_the_velocity_is_finite_at_the_ends(path, given):
    """Where the conversion does not exist, that of a time nearby is taken."""
    model, _ = exact(path, given)
    x = draw(3, 2)
    assert model(x, torch.zeros(3, dtype=torch.float64)).isfinite().all()
    if not (path == PATHS[3] and given == "velocity"):
        assert model(x, torch.full((3,), LAST_TIME, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("given", ["data", "noise", "score"])
def test_other_predictions_generate(given):
    model, flow = exact(VP(), given)
    x = integrate(model, draw(500, 2), Euler(), 100)
    assert (x.mean(0) - flow.target.mean).abs().max() < 0.3
    assert x.isfinite().all()


def test_paths_with_noise_of_their_own_are_refused():
    for path in (LinearPath(0.1), BridgePath(0.5), BridgePath(0.5, independent=True)):
        with pytest.raises(ValueError, match="adds noise of its own"):
            Predictor(draw, LinearPath()).along(path)
        with pytest.raises(ValueError, match="adds noise of its own"):
            Predictor(draw, path).along(VP())


def test_unknown_predictions_are_refused():
    with pytest.raises(ValueError, match="unknown prediction 'epsilon'"):
        Predictor(draw, VP(), "epsilon")
