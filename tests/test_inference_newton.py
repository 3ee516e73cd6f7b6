"""Gauss-Newton: closed forms, dense linear algebra, Darcy flow; samples apart; nothing missed in silence."""

import functools
import math
import warnings

import pytest
import torch

import physflow
from physflow.data.darcy import generate
from physflow.fields import to_tensor
from physflow.grid import Grid
from physflow.inference.newton import NewtonProjection, NotConverged, ScaledFields
from physflow.inference.projections import Affine
from physflow.pde import Darcy


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(x):
    return x.flatten(1).norm(dim=1)


def circle(a, b):
    """Zero on the unit circle of the two channels, at every point."""
    return a**2 + b**2 - 1


@functools.cache
def perturbed(samples=3, resolution=64, std=1.0):
    """Pairs of the law, less 1 % of smooth and 1 % of white noise on the pressure."""
    ds = generate(samples, resolution, std=std, dtype="float64", seed=3)
    fields = to_tensor(ds, ("permeability", "pressure")).double()
    x = (torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution
    blur = torch.exp(-((x[:, None] - x) ** 2) / (2 * 0.1**2))
    white, smooth = draw(2, samples, resolution, resolution, seed=4)
    smooth = blur @ smooth @ blur
    p = fields[:, 1]
    one_percent = 0.01 * p.flatten(1).std(1)[:, None, None]
    noisy = p + one_percent * (white + smooth / smooth.flatten(1).std(1)[:, None, None])
    return Darcy(Grid((resolution, resolution))), torch.stack((fields[:, 0], noisy), 1), fields


def relative_residual(darcy, fields):
    return norm(darcy.residual(*fields.double().unbind(1))) / darcy.source_term.norm()


def test_darcy_reaches_one_millionth_in_five_steps():
    darcy, noisy, exact = perturbed()
    before = relative_residual(darcy, noisy)
    assert before.min() > 5
    projected, report = NewtonProjection.of(darcy, steps=5).project(noisy)
    assert report.converged.all()
    torch.testing.assert_close(relative_residual(darcy, projected), report.residuals)
    assert report.residuals.max() <= 1e-6
    assert 1 <= report.steps.min() <= report.steps.max() <= 3
    assert (projected[:, 0] > 0).all()
    # The pressure follows from the permeability, and most of the noise is none that another permeability explains.
    zero_mean = projected[:, 1] - projected[:, 1].mean((1, 2), keepdim=True)
    noise, left = norm(noisy[:, 1] - exact[:, 1]), norm(zero_mean - exact[:, 1])
    assert (left < 0.2 * noise).all()
    assert ((projected[:, 0] / exact[:, 0]).log().flatten(1).std(1) < 1e-3).all()


def test_darcy_of_rough_permeability():
    darcy, noisy, _ = perturbed(2, 32, 3.0)
    assert relative_residual(darcy, noisy).min() > 50
    projected, report = NewtonProjection.of(darcy).project(noisy)
    assert report.converged.all()
    assert relative_residual(darcy, projected).max() <= 1e-6


def test_without_a_preconditioner_conjugate_gradients_stall():
    darcy, noisy, _ = perturbed(2, 32)
    log = ScaledFields((True, False), (1.0, 1.0))
    plain = NewtonProjection(
        darcy.residual, float(darcy.source_term.norm()), encode=log.encode, decode=log.decode, steps=3
    )
    assert not plain.project(noisy)[1].converged.any()


@pytest.mark.parametrize("boundary", ["neumann", "dirichlet"])
def test_one_step_is_the_smallest_solution_of_the_dense_linear_equation(boundary):
    """Against the least-squares solution of minimum norm, with scales that make the channels differ."""
    darcy, scale = Darcy(Grid((6, 5)), source="wells", boundary=boundary), torch.tensor([0.5, 2.0]).double()
    fields = torch.stack((draw(3, 6, 5).exp(), draw(3, 6, 5, seed=1)), 1)
    projection = NewtonProjection.of(darcy, scale.tolist(), steps=1, forcing=1e-8, tolerance=1e-12)
    projected, report = projection.project(fields)

    w = torch.stack((fields[:, 0].log() / scale[0], fields[:, 1] / scale[1]), 1)

    def residual(w):
        return darcy._residual((w[0] * scale[0]).exp()[None], w[1][None] * scale[1])[0]

    for sample in range(3):
        jacobian = torch.func.jacrev(residual)(w[sample]).reshape(30, 60)
        step = -torch.linalg.pinv(jacobian, rtol=1e-12) @ residual(w[sample]).flatten()
        log_k, p = (w[sample] + step.reshape(2, 6, 5)).unbind()
        expected = torch.stack(((log_k * scale[0]).exp(), p * scale[1]))
        torch.testing.assert_close(projected[sample], expected, rtol=1e-6, atol=1e-6)
    assert (report.steps == 1).all()
    assert not report.converged.any()


def test_an_affine_residual_takes_one_step_to_the_nearest_point():
    matrix, b = draw(5, 24), draw(5, seed=1)
    u = draw(4, 2, 3, 4, seed=2)

    def residual(*fields):
        return torch.stack(fields, 1).flatten(1) @ matrix.T - b

    projected, report = NewtonProjection(residual, 1.0, tolerance=1e-10, forcing=1e-12).project(u)
    torch.testing.assert_close(projected, Affine(matrix, b)(u), rtol=0, atol=1e-11)
    assert (report.steps == 1).all()


def test_the_circle():
    """Gauss-Newton stays on the ray to the centre, so that it ends at the nearest point itself."""
    u = draw(3, 2, 4, 5)
    projected, report = NewtonProjection(circle, 1.0, tolerance=1e-12).project(u)
    torch.testing.assert_close(projected, u / u.norm(dim=1, keepdim=True), rtol=0, atol=1e-11)
    assert report.converged.all()


def test_a_larger_scale_moves_more():
    """Onto a + b = 1 from 0 the shortest way is along the squares of the scales."""
    scaled = ScaledFields((False, False), (1.0, 3.0))
    projection = NewtonProjection(lambda a, b: a + b - 1, 1.0, encode=scaled.encode, decode=scaled.decode)
    moved = projection(torch.zeros(2, 2, 3, dtype=torch.float64))
    torch.testing.assert_close(moved, torch.tensor([0.1, 0.9]).double()[None, :, None].expand(2, 2, 3))


def test_coordinates_are_inverse_to_each_other_and_scaled():
    coordinates = ScaledFields((True, False), (2.0, 0.5))
    u = torch.stack((draw(2, 3).exp(), draw(2, 3, seed=1)), 1)
    w = coordinates.encode(u)
    torch.testing.assert_close(w, torch.stack((u[:, 0].log() / 2, u[:, 1] / 0.5), 1))
    torch.testing.assert_close(coordinates.decode(w), u)
    assert (coordinates.decode(-100 * w.abs())[:, 0] > 0).all()


def test_steps_are_halved_where_newton_overshoots():
    """Newton's method for arctan diverges from beyond 1.39; from 3 its first step ends at -9.5."""
    u = torch.tensor([3.0, 0.5, -20.0]).double()[:, None, None]
    projected, report = NewtonProjection(torch.atan, 1.0, tolerance=1e-9, steps=30).project(u)
    assert projected.abs().max() < 1e-9
    assert report.converged.all()


def test_steps_that_overflow_are_halved():
    """In the logarithm of u the first step from 0.001 to 1 is 999 long, and exp(999) is infinite."""
    log = ScaledFields((True,), (1.0,))
    projection = NewtonProjection(lambda u: u - 1, 1.0, encode=log.encode, decode=log.decode, steps=30)
    torch.testing.assert_close(projection(torch.full((1, 1, 1), 1e-3)), torch.ones(1, 1, 1))


def test_steps_that_underflow_are_halved_before_the_equation_sees_them():
    """In the logarithm of u the first step from 1000 to 1 is -999 long, and exp(-999) is zero."""

    def residual(u):
        if (u <= 0).any():
            raise ValueError("not positive")
        return 1 - 1 / u

    log = ScaledFields((True,), (1.0,))
    projection = NewtonProjection(residual, 1.0, encode=log.encode, decode=log.decode, steps=30)
    torch.testing.assert_close(projection(torch.full((1, 1, 1), 1e3)), torch.ones(1, 1, 1))


def test_samples_do_not_depend_on_their_neighbours():
    darcy, noisy, exact = perturbed(4, 12)
    # One is solved already, one is far away.
    mixed = torch.stack((noisy[0], exact[1], noisy[2], noisy[3]))
    mixed[2, 1] *= 3
    projection = NewtonProjection.of(darcy)
    together, report = projection.project(mixed)
    assert report.steps[1] == 0
    assert torch.equal(together[1], exact[1])
    for i in (0, 2):
        alone, of_one = projection.project(mixed[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-10, atol=1e-12)
        assert of_one.steps[0] == report.steps[i]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [0, 1, 3])
def test_types_and_empty_batches(samples, dtype):
    u = draw(samples, 2, 3, 1).to(dtype)
    before = u.clone()
    projected, report = NewtonProjection(circle, 1.0).project(u)
    assert projected.shape == u.shape
    assert projected.dtype == dtype
    assert report.residuals.shape == report.steps.shape == report.converged.shape == (samples,)
    assert report.residuals.dtype == torch.float64
    torch.testing.assert_close(projected, u / u.norm(dim=1, keepdim=True), rtol=0, atol=1e-5)
    assert torch.equal(u, before), "the given fields were written over"


def test_works_in_inference_mode():
    darcy, noisy, _ = perturbed(1, 12)
    projection = NewtonProjection.of(darcy)
    with torch.inference_mode():
        inside = projection(noisy * 1)
    assert torch.equal(inside, projection(noisy))


def test_what_did_not_converge_is_counted():
    """a^2 + c has no root where c > 0."""
    u = torch.stack((draw(4, 3), torch.tensor([1.0, -1.0, 2.0, -2.0])[:, None].expand(4, 3)), 1)
    projection = NewtonProjection(lambda a, c: a**2 + c.detach(), 1.0)
    with pytest.warns(NotConverged, match=r"2 of 4 samples did not reach .* 1e-06 in 10 steps, the worst is at \d"):
        moved = projection(u)
    assert (moved[[1, 3], 0] ** 2 + moved[[1, 3], 1]).abs().max() < 1e-6
    assert moved.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        projection(u[[1, 3]])


def test_a_field_that_is_none_is_left_and_does_not_keep_an_equation_from_the_others():
    darcy, noisy, _ = perturbed()
    fields = noisy.clone()
    fields[0, 1, 3, 4], fields[2, 0, 0, 0] = math.nan, -1.0
    projected, report = NewtonProjection.of(darcy).project(fields)
    assert report.converged.tolist() == [False, True, False]
    assert torch.equal(projected[0].isnan(), fields[0].isnan())
    assert torch.equal(projected[2], fields[2])
    torch.testing.assert_close(projected[1], NewtonProjection.of(darcy)(noisy[1:2])[0])


def test_a_sample_that_is_not_finite_is_left_and_counted():
    u = draw(3, 2, 4)
    u[1, 0, 2] = math.nan
    projected, report = NewtonProjection(circle, 1.0).project(u)
    assert report.converged.tolist() == [True, False, True]
    assert torch.equal(projected[1].isnan(), u[1].isnan())
    torch.testing.assert_close(projected[[0, 2]], u[[0, 2]] / u[[0, 2]].norm(dim=1, keepdim=True), rtol=0, atol=1e-6)


@pytest.mark.parametrize("residual", [lambda a, b: (a * b).detach(), lambda a, b: torch.ones_like(a)])
def test_a_residual_without_gradient(residual):
    with pytest.raises(ValueError, match=r"the residual is not differentiable in the fields: .* without detach"):
        NewtonProjection(residual, 1.0)(draw(1, 2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference": 0.0}, "positive reference, the norm of the source, got 0.0"),
        ({"reference": math.nan}, "positive reference.*got nan"),
        ({"tolerance": 0.0}, r"tolerance > 0 and forcing in \(0, 1\), got 0.0 and 0.001"),
        ({"forcing": 1.0}, r"forcing in \(0, 1\), got 1e-06 and 1.0"),
        ({"steps": 0}, "at least one step and one iteration, got 0 and 50"),
        ({"iterations": 0}, "at least one step and one iteration, got 10 and 0"),
        ({"encode": torch.log}, "encode and decode are inverse to each other: give both or none"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        NewtonProjection(circle, **{"reference": 1.0, **arguments})


@pytest.mark.parametrize("scale", [(1.0,), (1.0, 0.0), (1.0, math.inf)])
def test_bad_scales(scale):
    with pytest.raises(ValueError, match="one positive scale for each of the 2 channels"):
        ScaledFields((True, False), scale)


@pytest.mark.parametrize("generator", ["burgers", "navier_stokes"])
def test_a_nonlinear_equation_of_motion(generator):
    flow = {"resolution": 16, "instants": 4, "duration": 0.5, "viscosity": 0.05, "waves": 2, "substeps": 5}
    settings = {"burgers": {"resolution": 48, "instants": 9, "viscosity": 0.03}, "navier_stokes": flow}
    ds = getattr(physflow.data, generator).generate(3, dtype="float64", **settings[generator])
    equation, fields = physflow.pde.from_dataset(ds), to_tensor(ds)
    moving = equation.residual(*equation.trivial(*fields.unbind(1))).flatten(1).norm(dim=1).min()
    noisy = fields + 0.02 * fields.std() * draw(*fields.shape)
    projected, report = NewtonProjection.of(equation, reference=float(moving)).project(noisy)
    assert report.converged.all()
    assert (report.residuals <= 1e-6).all()
    assert (report.steps <= 5).all()
    assert (equation.residual(*projected.unbind(1)).flatten(1).norm(dim=1) / moving <= 1e-6).all()
    # What the noise has of no solution is gone, what it has of another one is left.
    assert (projected - fields).norm() < 0.6 * (noisy - fields).norm()


@pytest.mark.parametrize(
    "equation",
    [
        physflow.pde.Burgers(Grid((3, 16), axes=("t", "x"))),
        physflow.pde.NavierStokes(Grid((3, 16, 16), axes=("t", "x", "y"))),
        physflow.pde.Poisson(Grid((8, 8))),
    ],
)
def test_an_equation_without_a_source_of_its_own_needs_a_reference(equation):
    with pytest.raises(ValueError, match="has no source of its own to which residuals are relative: give a reference"):
        NewtonProjection.of(equation)


@pytest.mark.parametrize("boundary", ["neumann", "periodic", "dirichlet"])
def test_poisson_with_a_source_that_moves(boundary):
    ds = physflow.data.poisson.generate(3, 16, boundary=boundary, dtype="float64")
    equation, fields = physflow.pde.from_dataset(ds), to_tensor(ds)
    noisy = fields + 0.02 * fields.std((0, 2, 3), keepdim=True) * draw(*fields.shape)
    reference = float(norm(fields[:, 0]).min())
    _, report = NewtonProjection.of(equation, reference=reference).project(noisy)
    assert report.converged.all()
    assert (report.steps <= 2).all()
