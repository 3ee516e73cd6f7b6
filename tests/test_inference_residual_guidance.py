"""Descent on the residual: closed forms, monotony on Darcy flow, the published step, samples apart."""

import math

import pytest
import torch

from physflow.grid import Grid
from physflow.inference.in_loop import InModelSpace
from physflow.inference.linear_solves import LinearSolve
from physflow.inference.residual_guidance import CoCoGen, ResidualDescent
from physflow.pde import Darcy

GRID = Grid((16, 12))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(x):
    return x.flatten(1).norm(dim=1)


def noisy(samples=3, boundary="neumann"):
    """Solved pairs, and the same with 1 % of noise on the pressure."""
    darcy = Darcy(GRID, boundary=boundary)
    K = (0.5 * draw(samples, *GRID.shape)).exp()
    p = darcy.solve(K)
    noise = 0.01 * p.flatten(1).std(1)[:, None, None] * draw(samples, *GRID.shape, seed=1)
    return darcy, torch.stack((K, p), 1), torch.stack((K, p + noise), 1)


def both(darcy):
    return [
        ResidualDescent(darcy.residual, darcy.precondition),
        CoCoGen(darcy.residual, step=1e-5),
        CoCoGen(darcy.residual, step=1e-5, channels=(0, 1)),
        ResidualDescent(darcy.residual, darcy.precondition, steps=2, channels=[1, 0]),
    ]


def test_the_energy_is_that_of_the_error():
    """With the exact inverse the energy is half of e . A e, the matrix from the equation."""
    darcy, exact, fields = noisy(boundary="dirichlet")
    descent = ResidualDescent(darcy.residual, LinearSolve(darcy.residual, darcy.precondition, 1e-12))
    for i, energy in enumerate(descent.energy(fields)):
        e = (fields - exact)[i, 1].flatten().numpy()
        torch.testing.assert_close(energy.item(), e @ darcy.matrix(exact[i, 0]) @ e / 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("boundary", ["neumann", "dirichlet"])
def test_with_the_exact_inverse_one_step_solves(boundary):
    darcy, exact, fields = noisy(boundary=boundary)
    solved = ResidualDescent(darcy.residual, LinearSolve(darcy.residual, darcy.precondition, 1e-12))(fields)
    error, mean = solved - exact, (fields - exact)[:, 1].mean((1, 2), keepdim=True)
    # Zero flux through the walls says nothing of the mean of the pressure, which stays.
    assert (error[:, 1] - (mean if boundary == "neumann" else 0)).abs().max() < 1e-8 * exact[:, 1].abs().max()
    assert torch.equal(error[:, 0], torch.zeros_like(error[:, 0]))


@pytest.mark.parametrize("boundary", ["neumann", "dirichlet"])
def test_energy_and_residual_fall_with_each_step(boundary):
    darcy, _, fields = noisy(boundary=boundary)
    descent = ResidualDescent(darcy.residual, darcy.precondition)
    energies, u = [descent.energy(fields)], fields
    for _ in range(6):
        u = descent(u)
        energies.append(descent.energy(u))
    assert (torch.stack(energies).diff(dim=0) < 0).all()
    assert (energies[-1] < 1e-6 * energies[0]).all()
    assert (norm(darcy.residual(*u.unbind(1))) < 1e-2 * norm(darcy.residual(*fields.unbind(1)))).all()
    torch.testing.assert_close(
        ResidualDescent(darcy.residual, darcy.precondition, steps=6)(fields), u, rtol=1e-12, atol=1e-12
    )


def test_an_input_moves_in_its_logarithm():
    """The permeability alone, positive throughout; the pressure keeps every bit."""
    darcy, _, fields = noisy()

    def of_log(channel_0):
        return lambda u: torch.stack((channel_0(u[:, 0]), u[:, 1]), 1)

    inside = ResidualDescent(
        lambda log_k, p: darcy.residual(log_k.exp(), p),
        lambda y, log_k: darcy.precondition(y, log_k.exp()),
        steps=3,
        channels=(0,),
    )
    moved = InModelSpace(inside, decode=of_log(torch.log), encode=of_log(torch.exp))(fields)
    measure = ResidualDescent(darcy.residual, darcy.precondition)
    assert (measure.energy(moved) < 0.999 * measure.energy(fields)).all()
    assert (moved[:, 0] > 0).all()
    assert torch.equal(moved[:, 1], fields[:, 1])
    assert not torch.equal(moved[:, 0], fields[:, 0])


def test_a_step_is_halved_until_the_energy_falls():
    """The full step for arctan from 3 ends at -9.5, where the energy is higher; from 0.5 it is a good one."""
    u = torch.tensor([3.0, 0.5]).double()[:, None, None]
    descent = ResidualDescent(torch.atan, lambda y: y, inputs=0)
    once = descent(u)
    full = u - torch.atan(u) * (1 + u**2)
    assert descent.energy(full)[0] > descent.energy(u)[0]
    torch.testing.assert_close(once[0], (u + (full - u) / 4)[0])
    torch.testing.assert_close(once[1], full[1])


def test_a_solution_stays():
    u = torch.zeros(2, 1, 3)
    assert torch.equal(ResidualDescent(lambda u: u, lambda y: y, inputs=0)(u), u)
    assert torch.equal(CoCoGen(lambda u: u)(u), u)


def test_the_published_step():
    """For r = A u the gradient of |r|^2 is 2 A^T A u."""
    A, u = draw(6, 4), draw(3, 1, 4, seed=1)
    g = 2 * u[:, 0] @ A.T @ A
    expected = u[:, 0] - 0.01 * g / g.abs().amax(1, keepdim=True)
    torch.testing.assert_close(CoCoGen(lambda u: u @ A.T, step=0.01)(u)[:, 0], expected)
    assert ((CoCoGen(lambda u: u @ A.T, step=0.01)(u) - u).abs().amax((1, 2)) - 0.01).abs().max() < 1e-15


def test_the_published_step_lowers_the_residual_and_then_goes_too_far():
    darcy, exact, fields = noisy()

    def residual(u):
        return norm(darcy.residual(*u.unbind(1)))

    step = 1e-3 * float(fields[:, 1].std())
    assert (residual(CoCoGen(darcy.residual, step, steps=20)(fields)) < 0.9 * residual(fields)).all()
    assert (residual(CoCoGen(darcy.residual, step)(exact)) > 1e3 * residual(exact)).all()
    descent = ResidualDescent(darcy.residual, darcy.precondition, steps=3)
    assert (residual(descent(fields)) < 0.1 * residual(CoCoGen(darcy.residual, step, steps=20)(fields))).all()


@pytest.mark.parametrize("which", range(4))
def test_samples_do_not_depend_on_their_neighbours(which):
    darcy, _, fields = noisy()
    fields[0, 1] *= 1.2
    correction = both(darcy)[which]
    torch.testing.assert_close(correction(fields)[1:2], correction(fields[1:2]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("which", range(4))
def test_a_sample_that_is_not_finite_stays_and_does_not_keep_the_others(which):
    darcy, _, fields = noisy()
    broken = fields.clone()
    broken[1, 1, 2, 3] = math.nan
    found = both(darcy)[which](broken)
    assert torch.equal(found[1].isnan(), broken[1].isnan())
    torch.testing.assert_close(found[[0, 2]], both(darcy)[which](fields[[0, 2]]))


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_empty_batches_and_inference_mode(which, dtype):
    darcy, _, fields = noisy(2)
    fields = fields.to(dtype)
    before, correction = fields.clone(), both(darcy)[which]
    corrected = correction(fields)
    assert corrected.dtype == dtype
    assert corrected.shape == fields.shape
    assert correction(fields[:0]).shape == fields[:0].shape
    assert torch.equal(fields, before), "the given fields were written over"
    with torch.inference_mode():
        assert torch.equal(correction(fields * 1), corrected)


@pytest.mark.parametrize(
    "correction",
    [
        CoCoGen(lambda a, b: a.square() + b.detach()),
        ResidualDescent(lambda a, b: a.square() + b.detach(), lambda y, a: y),
        CoCoGen(lambda a, b: b.square().detach() + 1),
    ],
)
def test_a_residual_without_gradient(correction):
    with pytest.raises(ValueError, match=r"the residual is not differentiable in the channels \[1\]: no gradient"):
        correction(draw(2, 2, 3))


@pytest.mark.parametrize("make", [CoCoGen, lambda r, **a: ResidualDescent(r, lambda y, *i: y, **a)])
def test_bad_arguments(make):
    with pytest.raises(ValueError, match="at least one step and one channel, got steps=0"):
        make(torch.atan, steps=0)
    with pytest.raises(ValueError, match=r"at least one step and one channel, got .*channels=\(\)"):
        make(torch.atan, channels=())
    for channels in ((0, 0), (1, -1), (2,), (-3,)):
        with pytest.raises(ValueError, match=r"different channels of the 2 that the fields have, got \["):
            make(lambda a, b: a + b, channels=channels)(draw(1, 2, 3))
    for step in (0.0, math.nan):
        with pytest.raises(ValueError, match="positive step, in the unit of the channel"):
            CoCoGen(torch.atan, step)
