r"""From data to noise and back, and between points of noise.

A flow is a bijection: run backward from :math:`t = 1` it finds the noise :math:`x_0` of a data sample, and run forward
again it must give the sample. What is missing of it is the round-trip error

.. math:: e = \frac{\lVert \Phi(\Phi^{-1}(x_1)) - x_1 \rVert}{\lVert x_1 \rVert},

by the numerical method, its steps, and how strongly the flow contracts. Points between two of noise are taken along the
great circle of their directions, since N(0, I) in many dimensions lives on a sphere, and a chord leaves it:

.. math:: x(w) = \frac{\sin((1 - w) \theta)}{\sin \theta} a + \frac{\sin(w \theta)}{\sin \theta} b, \qquad
          \cos \theta = \frac{a \cdot b}{|a|\,|b|}.

References:
    J. Song, C. Meng, S. Ermon, "Denoising diffusion implicit models", ICLR 2021, section 5.3.
    K. Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from physflow.config.checks import positive
from physflow.generative.integrators import RK4, Solver, integrate
from physflow.generative.likelihood import check_solver
from physflow.generative.paths import Velocity, per_item

__all__ = ["Inverted", "invert", "slerp"]

_RK4 = RK4()
# Below it, in radians, an arc is its chord within rounding of float32.
_SMALL = 1e-3


@dataclass(frozen=True)
class Inverted:
    """Noise of data samples.

    Attributes:
        noise: The noise, shape (batch, ...).
        round_trip_error: The error relative to each sample, shape (batch,).
    """

    noise: Tensor
    round_trip_error: Tensor


@torch.no_grad()
def invert(
    velocity: Velocity,
    x1: Tensor,
    solver: Solver = _RK4,
    steps: int = 50,
    *,
    z: Tensor | None = None,
    tolerance: float = 1e-3,
) -> Inverted:
    """The noise from which a flow makes given samples.

    Arguments:
        velocity: v(x, t, z=None).
        x1: The samples, shape (batch, ...).
        solver: The numerical method, for both ways.
        steps: The number of equal steps of a method with fixed ones, each way.
        z: The latents, handed to the velocity unchanged.
        tolerance: The round-trip error from which on there is a warning.

    Returns:
        The noise, and the round-trip errors.

    Raises:
        TypeError: If the solver is a sampler that draws random numbers.
        SolverDiverged: If a state stops being finite.

    Warns:
        UserWarning: If a round trip misses by more than the tolerance.
    """
    check_solver(solver, "an inversion")
    positive(tolerance=tolerance)
    noise = integrate(velocity, x1, solver, steps, z, 1.0, 0.0)
    again = integrate(velocity, noise, solver, steps, z)
    size = x1.flatten(1).norm(dim=1)
    error = (again - x1).flatten(1).norm(dim=1) / size.clamp_min(torch.finfo(x1.dtype).tiny)
    missed = int((error > tolerance).sum())
    if missed:
        warnings.warn(
            f"the way from data to noise and back misses {missed} of {len(x1)} samples by more than {tolerance:g} of "
            f"their size, at worst by {float(error.max()):.2g}: take more steps, a higher order or a smaller tolerance "
            "of the solver, or float64",
            UserWarning,
            stacklevel=2,
        )
    return Inverted(noise, error)


def slerp(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """Points on the great circles from one noise to another, each item by itself.

    Arguments:
        a: The noise at w = 0, shape (batch, ...).
        b: The noise at w = 1, same shape.
        w: Where between them, shape (points,).

    Returns:
        The points, shape (points, batch, ...).

    Raises:
        ValueError: If the shapes differ, or items point in opposite directions, between which there is no one way.
    """
    if a.shape != b.shape or w.ndim != 1:
        raise ValueError(
            f"expected noise of one shape and weights of shape (points,), got {tuple(a.shape)}, {tuple(b.shape)} and "
            f"{tuple(w.shape)}"
        )
    unit_a, unit_b = (torch.nn.functional.normalize(x.flatten(1), dim=1) for x in (a, b))
    # By the chord and its complement: the arc cosine loses half of the digits of a small angle.
    theta = 2 * torch.atan2((unit_a - unit_b).norm(dim=1), (unit_a + unit_b).norm(dim=1))
    if (torch.pi - theta < _SMALL).any():
        raise ValueError("a and b point in opposite directions: there is no one great circle between them")
    w = w.to(theta)[:, None]
    sine = theta.sin()
    near = theta < _SMALL
    first = torch.where(near, 1 - w, ((1 - w) * theta).sin() / sine)
    second = torch.where(near, w.expand_as(first), (w * theta).sin() / sine)
    return torch.stack([per_item(p, a) * a + per_item(q, b) * b for p, q in zip(first, second, strict=True)])
