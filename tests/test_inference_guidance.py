"""What all guided velocities have in common: their formulas in dense matrices, both ends, items, modes, errors."""

import pytest
import torch
from posterior_oracles import draw, gaussian_problem, mixture_problem

from physflow.generative import RK4, BridgePath, CondOT, Cosine, Euler, LinearPath, integrate
from physflow.inference.dps import DPS
from physflow.inference.mmps import MMPS
from physflow.inference.observations import Observations
from physflow.inference.operators import Function
from physflow.inference.pseudoinverse import PseudoinverseGuidance

GUIDED = {
    "mmps": lambda *a, **k: MMPS(*a, **{"iterations": 20, "tolerance": 1e-12, **k}),
    "dps": DPS,
    "dps-plain": lambda *a, **k: DPS(*a, **{"gamma": 0.0, **k}),
    "pseudoinverse": lambda *a, **k: PseudoinverseGuidance(*a, **{"tolerance": 1e-12, **k}),
}
guided_by = pytest.mark.parametrize("make", GUIDED.values(), ids=GUIDED)
PATHS = (LinearPath(), CondOT(0.05), Cosine())


def times(t, n=4):
    return torch.full((n,), t, dtype=torch.float64)


def bent(x):
    """Three nonlinear sensors of points in the plane."""
    return torch.stack((x[:, 0] * x[:, 1], x[:, 0].sin(), x.square().sum(1)), dim=1)


def jacobian(f, x):
    return torch.stack([torch.autograd.functional.jacobian(lambda v: f(v[None])[0], item) for item in x])


@pytest.mark.parametrize("t", [0.1, 0.6, 0.95])
@pytest.mark.parametrize("name", GUIDED)
def test_the_formula_in_dense_matrices(name, t):
    """For a nonlinear operator, data that are not Gaussian, and sensors of unequal precision."""
    flow, x, std = mixture_problem().flow, draw(4, 2), torch.tensor([0.3, 0.5, 1.0], dtype=torch.float64)
    y = draw(3, seed=1)
    D = flow.data(x, times(t))
    J = jacobian(lambda x: flow.data(x, torch.full((1,), t, dtype=torch.float64)), x)
    A = jacobian(bent, D)
    kappa = (1 - t) ** 2 / t
    C = {
        "mmps": kappa * J,
        "dps": 0,
        "dps-plain": 0,
        "pseudoinverse": (1 - t) ** 2 / (t**2 + (1 - t) ** 2) * torch.eye(2, dtype=torch.float64),
    }[name]
    S = std.square().diag() + (A @ C @ A.mT if torch.is_tensor(C) else 0)
    if name == "dps":
        S = S + ((1 - t) / t) ** 2 * torch.eye(3, dtype=torch.float64)
    weighted = torch.linalg.solve(S.expand(4, 3, 3), y - bent(D))
    expected = D + kappa * torch.einsum("bji,bkj,bk->bi", J, A, weighted)
    guided = GUIDED[name](flow.velocity, Observations(bent, y, std))
    torch.testing.assert_close(guided.data(x, times(t)), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(guided(x, times(t)), (expected - x) / (1 - t), rtol=1e-7, atol=1e-7)


@guided_by
@pytest.mark.parametrize("path", [*PATHS, LinearPath(0.1), BridgePath(0.3, independent=True)], ids=repr)
def test_useless_sensors_leave_the_velocity(make, path):
    problem = gaussian_problem(path=path if path in PATHS else None)
    guided = make(problem.flow.velocity, Observations(problem.observations.operator, problem.y, 1e7), path=path)
    x = draw(4, 6)
    for t in (0.02, 0.3, 0.999):
        torch.testing.assert_close(guided(x, times(t)), problem.flow.velocity(x, times(t)), rtol=1e-8, atol=1e-8)


@guided_by
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_both_ends(make, path):
    problem, x = gaussian_problem(path=path), draw(4, 6)
    guided = make(problem.flow.velocity, problem.observations, path=path, t_min=0.1)
    early = guided.data(x, times(0.1))
    for t in (0.0, 0.05, 0.1):
        expected = path.convert(early, x, times(t), given="data", wanted="velocity")
        torch.testing.assert_close(guided(x, times(t)), expected)
    if path.sigma(times(1.0))[0] == 0:
        assert torch.equal(guided(x, times(1.0)), problem.flow.velocity(x, times(1.0)))
        mixed = torch.tensor([1.0, 0.3, 1.0, 0.0], dtype=torch.float64)
        found = guided(x, mixed)
        torch.testing.assert_close(found[::2], problem.flow.velocity(x[::2], mixed[::2]))
        torch.testing.assert_close(found[1::2], guided(x[1::2], mixed[1::2]))
    else:
        assert (guided(x, times(1.0)) - problem.flow.velocity(x, times(1.0))).norm() > 1e-3


@guided_by
def test_near_the_data_the_guidance_fades(make):
    problem, x = gaussian_problem(), draw(4, 6)
    guided = make(problem.flow.velocity, problem.observations)
    gaps = [(guided(x, times(t)) - problem.flow.velocity(x, times(t))).norm() for t in (1 - 1e-4, 1 - 1e-5, 1 - 1e-6)]
    assert gaps[1] / gaps[0] == pytest.approx(0.1, rel=0.1)
    assert gaps[2] / gaps[1] == pytest.approx(0.1, rel=0.1)


@guided_by
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_autograd_is_off_and_returns_no_graph(make, mode):
    problem, weight = gaussian_problem(), torch.nn.Parameter(draw(6, 6, seed=5))

    def velocity(x, t, z=None):
        return problem.flow.velocity(x, t) + torch.tanh(x @ weight) * t[:, None] * (0 if z is None else z)

    guided, x0, z = make(velocity, problem.observations), draw(3, 6), draw(3, 6, seed=4)
    expected = integrate(guided, x0, RK4(), 3, z=z)
    assert not expected.requires_grad
    with mode():
        torch.testing.assert_close(integrate(guided, x0 * 1, RK4(), 3, z=z * 1), expected, rtol=1e-12, atol=1e-12)
    assert weight.grad is None


@guided_by
def test_the_latent_is_handed_on_item_by_item(make):
    problem, seen = gaussian_problem(), []

    def velocity(x, t, *latent):
        seen.append(latent)
        return problem.flow.velocity(x, t) + (latent[0][:, :1] if latent else 0)

    guided, x, z = make(velocity, problem.observations), draw(4, 6), draw(4, 2, seed=1)
    whole = guided(x, times(0.4), z)
    torch.testing.assert_close(guided(x[1:3], times(0.4, 2), z[1:3]), whole[1:3], rtol=1e-9, atol=1e-9)
    assert len(seen) == 2
    guided(x, times(0.4))
    assert seen[-1] == ()


@guided_by
@pytest.mark.parametrize("shape", [(0, 1, 3, 2), (1, 1, 3, 2), (5, 2, 3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(make, shape, dtype):
    def velocity(x, t, z=None):
        assert x.dtype == dtype
        return -x * (1 + t.reshape(-1, 1, 1, 1))

    observed = Observations(Function(lambda x: x.flatten(1)[:, :3].square()), draw(3), 0.5)
    x = integrate(make(velocity, observed), draw(*shape).to(dtype), Euler(), 3)
    assert x.shape == shape
    assert x.dtype == dtype
    assert x.isfinite().all()


@guided_by
def test_a_decoder_may_compute_in_double_precision(make):
    """As physics does, of a network in single precision."""
    problem, x, t = gaussian_problem(), draw(3, 6), times(0.5, 3)
    found = [
        make(problem.flow.velocity, problem.observations.through(decode)).data(x.to(dtype), t.to(dtype))
        for decode, dtype in ((lambda x: x.double().sinh(), torch.float32), (torch.sinh, torch.float64))
    ]
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found[0].double(), found[1], rtol=1e-3, atol=1e-3)


@guided_by
def test_an_item_does_not_depend_on_its_neighbours(make):
    problem, x = gaussian_problem(), draw(5, 6)
    guided = make(problem.flow.velocity, problem.observations)
    x[0] *= 100
    torch.testing.assert_close(guided(x, times(0.5, 5))[2:4], guided(x[2:4], times(0.5, 2)), rtol=1e-9, atol=1e-9)


@guided_by
def test_bad_arguments(make):
    problem = gaussian_problem()
    for t_min in (0.0, 1.0):
        with pytest.raises(ValueError, match="t_min, where predictions start, must lie strictly between 0 and 1, got"):
            make(problem.flow.velocity, problem.observations, t_min=t_min)
    guided = make(problem.flow.velocity, Observations(lambda x: x.detach()[:, :2], draw(2), 1.0))
    with pytest.raises(ValueError, match="expected a differentiable function, but its result does not depend"):
        guided(draw(2, 6), times(0.5, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda *a: MMPS(*a, iterations=0), "iterations must be a whole number of at least 1, got 0"),
        (lambda *a: MMPS(*a, tolerance=1.0), r"tolerance must lie in \[0, 1\), got 1.0"),
        (lambda *a: PseudoinverseGuidance(*a, iterations=1.5), "a whole number of at least 1, got 1.5"),
        (lambda *a: PseudoinverseGuidance(*a, tolerance=-1.0), r"tolerance must lie in \[0, 1\), got -1.0"),
        (lambda *a: DPS(*a, gamma=-1.0), "gamma, the factor of the widened noise, .* finite and not negative, got -1"),
        (lambda *a: DPS(*a, gamma=torch.inf), "must be finite and not negative, got inf"),
    ],
)
def test_bad_settings(make, message):
    problem = gaussian_problem()
    with pytest.raises(ValueError, match=message):
        make(problem.flow.velocity, problem.observations)
