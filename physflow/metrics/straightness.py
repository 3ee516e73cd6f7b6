r"""How straight the paths of a flow are.

A flow moves :math:`x_0` to :math:`x_1` along a path :math:`x_t`. A straight path at constant speed has the velocity
:math:`\dot x_t = x_1 - x_0` throughout, and a single Euler step follows it exactly. What is missing to that is

.. math:: S = \int_0^1 D(t)\,dt, \qquad D(t) = \frac{E|\dot x_t - (x_1 - x_0)|^2}{E|x_1 - x_0|^2}, \qquad
          K(t) = \frac{E|\ddot x_t|^2}{E|x_1 - x_0|^2},

with :math:`E` the mean over the batch, so that the unit of :math:`x` and its number of components cancel:
:math:`S = 0` says straight, and a path may be longer but not shorter than its chord:
:math:`\int E|\dot x_t|^2\,dt = (1 + S)\,E|x_1 - x_0|^2`. Time is measured in units of the whole path.

Of a path known at the n + 1 times :math:`t_k = k / n` the chords' velocities :math:`n (x_{k+1} - x_k)` stand for the
velocity at the middle of each step, and their differences for the acceleration at the times between the ends. Both are
exact for paths of second degree in t; the mean of D over the steps falls short of S by :math:`O(n^{-2})`.

References:
    X. Liu, C. Gong, Q. Liu, "Flow straight and fast: learning to generate and transfer data with rectified flow", ICLR
    2023, section 2 (S without the normalisation).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Straightness", "straightness"]


@dataclass(frozen=True)
class Straightness:
    """How far the paths of a batch are from straight lines run through at constant speed; without unit.

    Arguments:
        value: S, the mean of `deviation`; 0 for straight paths at constant speed.
        deviation: D at the middle of each step, t = (k + 1/2) / n, shape (steps,).
        curvature: K at the times between the ends, t = k / n with k = 1, ..., n - 1, shape (steps - 1,).
    """

    value: float
    deviation: Tensor
    curvature: Tensor


def straightness(trajectory: Tensor) -> Straightness:
    r"""The straightness of paths: :math:`S`, and how it and the curvature are spread over time.

    Arguments:
        trajectory: States at equally spaced times, shape (steps + 1, batch, ...), in any unit, as
            `physflow.generative.integrate` returns them with ``trajectory=True``. Paths that run from data to noise
            have the same straightness.

    Returns:
        S, D(t) and K(t), computed in float64 on the trajectory's device.

    Raises:
        ValueError: If there are fewer than two states or no items, a value is not finite, or nothing moves.

    References:
        X. Liu, C. Gong, Q. Liu, ICLR 2023, section 2.
    """
    if trajectory.ndim < 2 or len(trajectory) < 2 or trajectory[0].numel() == 0:
        raise ValueError(
            "expected a trajectory of shape (steps + 1, batch, ...) with one step and one item at least, got "
            f"{tuple(trajectory.shape)}; integrate(..., trajectory=True) returns one"
        )
    steps = len(trajectory) - 1
    chord = trajectory[-1].double() - trajectory[0].double()
    length = chord.square().sum() / len(chord)
    # Step by step, as a second copy of a trajectory of fields may not fit in memory.
    deviations, curvatures, before = [], [], None
    for x, x_next in itertools.pairwise(trajectory):
        velocity = steps * (x_next.double() - x.double())
        deviations.append((velocity - chord).square().sum() / len(chord))
        if before is not None:
            curvatures.append((steps * (velocity - before)).square().sum() / len(chord))
        before = velocity
    if not torch.isfinite(sum(deviations, length)):
        raise ValueError("the trajectory holds values that are NaN or infinite; straightness needs finite states")
    if length == 0:
        raise ValueError("no item of the trajectory moves from its first state: its straightness is undefined")
    deviation = torch.stack(deviations) / length
    curvature = torch.stack(curvatures) / length if curvatures else deviation.new_zeros(0)
    return Straightness(deviation.mean().item(), deviation, curvature)
