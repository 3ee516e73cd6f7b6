r"""Gauss-Newton projection onto the solutions of an equation.

Sampled fields :math:`u`, in coordinates :math:`w` in which distances are measured (:math:`\log K` rather than a
permeability :math:`K > 0`), are moved to fields whose residual vanishes, :math:`r(w) = 0`. With the Jacobian
:math:`J = \partial r / \partial w` each step is the smallest that solves the linearised equation,

.. math:: \delta = -J^T (J J^T)^{-1} r, \qquad w \leftarrow w + \delta,

so that the result is the nearest solution up to the second order in the distance. The inverse is applied by conjugate
gradients, which need products with :math:`J` and :math:`J^T` alone: memory grows like the number of points.
:math:`J J^T` is as ill-conditioned as a differential operator of twice the order. With
:math:`L = -\partial r / \partial s`, symmetric, for the solution field :math:`s`,

.. math:: J J^T = c\, L^2 + \text{terms of a lower order}, \qquad M = L^{-1} L^{-1} \approx c\, (J J^T)^{-1},

and a good :math:`L^{-1}`, applied twice, leaves a few iterations whatever the grid.

The projection of a law onto the solutions is not the law conditioned on them: that one weighs each solution with
:math:`\det(J J^T)^{-1/2}` too.

References:
    J. Nocedal, S. Wright, "Numerical optimization", 2nd edition, 2006 (chapters 5 and 11).
    C. Utkarsh et al., "Physics-constrained flow matching", NeurIPS 2025: this projection inside of sampling.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from physflow.inference.conjugate_gradients import conjugate_gradients, spread
from physflow.inference.linear_solves import LinearSolve, linearised

__all__ = ["NewtonProjection", "NewtonReport", "NotConverged", "ScaledFields"]

_HALVINGS = 10
"""How often a step is halved that does not bring the residual down, before its sample is given up."""


class NotConverged(RuntimeWarning):
    """Some samples did not reach the tolerance; they were moved as far as they went."""


@dataclass(frozen=True)
class ScaledFields:
    r"""Coordinates of fields.

    .. math:: w_c = \log u_c / \ell_c \text{ for positive fields}, \qquad w_c = u_c / \ell_c \text{ for others}.

    Arguments:
        positive: Of each channel whether its field is positive, and to stay so.
        scale: The scale :math:`\ell_c` of each channel: what moves by its scale moves by one. The standard deviations
            of the data are good values; a channel of a smaller scale moves less.

    Raises:
        ValueError: If there is not one positive scale for each channel.
    """

    positive: tuple[bool, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.positive) or not all(0 < s < math.inf for s in self.scale):
            raise ValueError(
                f"expected one positive scale for each of the {len(self.positive)} channels, got {self.scale}"
            )

    def encode(self, fields: Tensor) -> Tensor:
        """The coordinates of fields, shape (batch, channel, *axes)."""
        channels = zip(fields.unbind(1), self.positive, self.scale, strict=True)
        return torch.stack([(u.log() if positive else u) / s for u, positive, s in channels], dim=1)

    def decode(self, w: Tensor) -> Tensor:
        """The fields with these coordinates."""
        channels = zip(w.unbind(1), self.positive, self.scale, strict=True)
        return torch.stack([(v * s).exp() if positive else v * s for v, positive, s in channels], dim=1)


@dataclass(frozen=True)
class NewtonReport:
    """How far each sample of a projection went.

    Attributes:
        residuals: The norm of the residual over the reference, before rounding to the type of the fields, (batch,).
        steps: The outer steps that were taken, (batch,).
        converged: Whether the tolerance was reached, (batch,).
    """

    residuals: Tensor
    steps: Tensor
    converged: Tensor


class NewtonProjection:
    r"""Move fields to the nearest ones that solve the equation, to the second order in the distance.

    Each step is halved until it brings the residual of its sample down. A sample stops at its own tolerance, and none
    depends on its neighbours but for rounding. All is computed in float64; what a result in float32 leaves of the
    residual is its rounding.

    **Good values.** `of` for an equation. For Darcy flow on 64 x 64 cells and 1 % of smooth and of white noise on the
    pressure, of relative residuals of 10 to 30, two or three steps of two iterations reach 1e-6. For Burgers, 17
    instants of 64 points and 2 % of white noise: two steps to 1e-7, which also take three quarters of the noise away.

    **When it fails.** Without a preconditioner conjugate gradients stall on all but coarse grids. Points far from any
    solution, or a Jacobian without full rank there, do not converge; such samples are counted in a warning.

    Arguments:
        residual: residual(*fields), called on one tensor (batch, *axes) for each channel, returns (batch, *axes), or
            (batch, fields, *axes) with several, in differentiable torch operations.
        reference: The norm :math:`|f|` to which residuals are relative, that of the source for instance.
        precondition: precondition(y, *inputs), an approximate :math:`L^{-1} y` for a right side y (batch, *axes),
            symmetric: a full solve or `LinearSolve`, or a few V-cycles for smooth coefficients. It is applied twice.
            None is the identity.
        inputs: The number of input fields, the first channels.
        tolerance: The relative residual :math:`|r|_2 / |f|_2` at which a sample has converged.
        steps: The most outer steps.
        iterations: The most iterations of conjugate gradients in a step.
        forcing: The share of the linearised residual that a step may leave.
        encode: The coordinates in which distances are measured, a map of fields (batch, channel, *axes); the identity
            by default.
        decode: Its inverse.

    Raises:
        ValueError: If a number is out of its range, or one of `encode` and `decode` is given without the other.

    """

    def __init__(
        self,
        residual: Callable[..., Tensor],
        reference: float,
        precondition: Callable[..., Tensor] | None = None,
        *,
        inputs: int = 1,
        tolerance: float = 1e-6,
        steps: int = 10,
        iterations: int = 50,
        forcing: float = 1e-3,
        encode: Callable[[Tensor], Tensor] | None = None,
        decode: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not 0 < reference < math.inf:
            raise ValueError(f"expected a positive reference, the norm of the source, got {reference}")
        if not 0 < tolerance < math.inf or not 0 < forcing < 1:
            raise ValueError(f"expected tolerance > 0 and forcing in (0, 1), got {tolerance} and {forcing}")
        if steps < 1 or iterations < 1:
            raise ValueError(f"expected at least one step and one iteration, got {steps} and {iterations}")
        if (encode is None) != (decode is None):
            raise ValueError("encode and decode are inverse to each other: give both or none")
        self.residual, self.reference, self.inputs = residual, float(reference), inputs
        self.precondition = precondition or (lambda y, *inputs: y)
        self.tolerance, self.steps, self.iterations, self.forcing = tolerance, steps, iterations, forcing
        self.encode, self.decode = encode or (lambda fields: fields), decode or (lambda w: w)

    @classmethod
    def of(
        cls, equation: Any, scale: Sequence[float] | None = None, reference: float | None = None, **settings: Any
    ) -> Self:
        r"""The projection onto the solutions of an equation.

        Positive fields move in their logarithms. An equation with inputs is to be linear in one solution field, with
        L symmetric: it is preconditioned by a solve (`LinearSolve`) around its own preconditioner, and relative to the
        residual of the zero solution. This is for `physflow.pde.Darcy`; the operator of `DarcyNodes` is not symmetric,
        and none of its samples converges. An equation of motion (`physflow.pde.Evolution`), which has no inputs, needs
        no preconditioner: its :math:`J J^T` is as ill-conditioned as the square of the number of instants. It may be
        nonlinear.

        Arguments:
            equation: An equation with the attributes of `physflow.pde.Equation`.
            scale: The scale of each field, positive ones in logarithms (`ScaledFields`); ones by default.
            reference: The norm to which residuals are relative; an equation of motion, which has no source, needs one,
                and so does one whose source is a field: that of ``equation.residual(*equation.trivial(*fields))`` of
                some fields.
            settings: Further arguments of the class.

        Raises:
            ValueError: If there is no reference.
        """
        ones = torch.ones(1, *equation.grid.shape, dtype=torch.float64)

        def source(inputs: float) -> Tensor:
            """The residual of the zero solution for constant inputs."""
            solutions = (0 * ones for _ in equation.solutions)
            found: Tensor = equation.residual(*(inputs * ones for _ in equation.inputs), *solutions)
            return found

        linear = bool(equation.inputs)
        if reference is None and (not linear or not torch.equal(source(1.0), source(2.0))):
            raise ValueError(
                f"{type(equation).__name__} has no source of its own to which residuals are relative: give a "
                "reference, such as the norm of equation.residual(*equation.trivial(*fields)) of some fields"
            )
        positive = tuple(name in equation.positive for name in equation.fields)
        coordinates = ScaledFields(positive, tuple(scale) if scale is not None else (1.0,) * len(positive))
        solve: Callable[..., Tensor] | None = LinearSolve(equation.residual, equation.precondition) if linear else None
        if solve is not None and equation.up_to_a_constant and abs(source(1.0).mean()) > 1e-9 * source(1.0).norm():
            # The source is a field that moves, and its mean with it, of which L knows nothing.
            solve = _with_mean(solve)
        return cls(
            equation.residual,
            float(source(1.0).norm()) if reference is None else reference,
            solve,
            inputs=len(equation.inputs),
            encode=coordinates.encode,
            decode=coordinates.decode,
            **({} if linear else {"iterations": 300}) | settings,
        )

    def __call__(self, fields: Tensor) -> Tensor:
        """The projected fields, of shape (batch, channel, *axes) and type of the given ones.

        Warns:
            NotConverged: If samples missed the tolerance; the message counts them.
        """
        projected, report = self.project(fields)
        if missed := int((~report.converged).sum()):
            worst = report.residuals[~report.converged].max()
            message = (
                f"{missed} of {len(fields)} samples did not reach a relative residual of {self.tolerance:g} in "
                f"{self.steps} steps, the worst is at {worst:.1e}; allow more steps or iterations, or give a better "
                "preconditioner"
            )
            warnings.warn(message, NotConverged, stacklevel=2)
        return projected

    def project(self, fields: Tensor) -> tuple[Tensor, NewtonReport]:
        """The projected fields, and how far each sample went.

        Arguments:
            fields: Fields of shape (batch, channel, *axes).

        Returns:
            The fields, of the shape and type of the given ones, and the report.

        Raises:
            ValueError: If the residual is not differentiable in the fields.
        """
        with torch.inference_mode(False), torch.no_grad():
            w = self.encode(fields.detach().clone().double())
            relative = torch.full((len(w),), torch.nan, dtype=w.dtype, device=w.device)
            # An equation refuses a whole batch for one field that is none.
            known = (fields.isfinite() & w.isfinite()).flatten(1).all(1)
            if known.any():
                relative[known] = self._relative(w[known])
            steps = torch.zeros(len(w), dtype=torch.int64, device=w.device)
            # Not a number compares false: such a sample is left as it is, and has not converged.
            active = relative > self.tolerance
            for _ in range(self.steps):
                i = active.nonzero().ravel()
                if not len(i):
                    break
                moved, residual = self._shortened(w[i], self._step(w[i]), relative[i])
                better = residual < relative[i]
                w[i], relative[i] = moved, residual
                steps[i] += better
                active[i] = better & (residual > self.tolerance)
            converged = relative <= self.tolerance
            # Samples that had converged at the start keep every bit.
            result = torch.where(spread(steps > 0, fields), self.decode(w).to(fields.dtype), fields)
        return result, NewtonReport(relative, steps, converged)

    def _residual(self, w: Tensor) -> Tensor:
        return self.residual(*self.decode(w).unbind(1))

    def _relative(self, w: Tensor) -> Tensor:
        return self._residual(w).flatten(1).norm(dim=1) / self.reference

    def _step(self, w: Tensor) -> Tensor:
        """The smallest step that solves the linearised equation."""
        at = linearised(self._residual, w)
        inputs = self.decode(w)[:, : self.inputs].unbind(1)
        norm = at.value.flatten(1).norm(dim=1)
        y = conjugate_gradients(
            lambda y: at.pushforward(at.pullback(y)),
            at.value,
            self.iterations,
            # Solving far below the tolerance would be work for nothing.
            (self.tolerance * self.reference / 4 / norm).clamp_min(self.forcing),
            lambda q: self.precondition(self.precondition(q, *inputs), *inputs),
        )
        return -at.pullback(y)

    def _shortened(self, w: Tensor, step: Tensor, relative: Tensor) -> tuple[Tensor, Tensor]:
        """The point along the step, halved for each sample until its residual falls, and its relative residual."""
        best, least = w, relative
        for halvings in range(_HALVINGS):
            waiting = ~(least < relative)
            if not waiting.any():
                break
            trial = w + 0.5**halvings * step
            # There and back: a permeability that underflowed to zero is finite, its logarithm is not.
            finite = self.encode(self.decode(trial)).isfinite().flatten(1).all(1)
            trial = torch.where(spread(waiting & finite, w), trial, best)
            residual = self._relative(trial)
            better = waiting & (residual < relative)
            best, least = torch.where(spread(better, w), trial, best), torch.where(better, residual, least)
        return best, least


def _with_mean(solve: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A solve on fields of mean zero, and the identity on constants."""

    def both(y: Tensor, *inputs: Tensor) -> Tensor:
        mean = y.mean(tuple(range(1, y.ndim)), keepdim=True)
        return solve(y - mean, *inputs) + mean

    return both
