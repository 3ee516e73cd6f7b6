r"""Noisy observations of fields.

.. math:: y = H(u) + e, \qquad e_i \sim N(0, \sigma_i^2) \text{ independent}, \quad i = 1, \dots, m,

with an operator H (`physflow.inference.operators`) and known standard deviations :math:`\sigma_i > 0`. The residual in
units of the noise and the potential, which is the negative logarithm of the likelihood up to a constant, are

.. math:: \rho(u) = \frac{y - H(u)}{\sigma}, \qquad \Phi(u) = \tfrac12 |\rho(u)|^2 .

`Observation` is what a user writes down, by the name of a field and the places of the sensors; `assemble` makes
`Observations` of several. Two equal values at one place are two measurements, and count twice. Two values at one place
that differ by more than six standard deviations of their difference contradict each other, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from torch import Tensor

from physflow.config import nearest
from physflow.inference.operators import Function, Masked, Operator, Stacked
from physflow.inference.points import Points

__all__ = ["Observation", "Observations", "assemble", "joined"]

# Standard deviations of a difference: chance alone passes it once in half a billion.
_CONTRADICTION = 6.0
# Of the size of the domain.
_SAME_PLACE = 1e-9


@dataclass(frozen=True, eq=False)
class Observations:
    r"""Values that sensors read, and how noisy they are.

    Arguments:
        operator: The operator H, or any callable of fields (batch, ...) that returns (batch, m).
        values: The values y, shape (m,).
        noise_std: The standard deviations :math:`\sigma`, shape (m,) or one number, in the unit of the values.

    Raises:
        ValueError: If the sizes do not fit each other, or a value is not finite or a noise not positive.
    """

    operator: Callable[[Tensor], Tensor]
    values: Tensor
    noise_std: Tensor

    def __post_init__(self) -> None:
        values = torch.as_tensor(self.values, dtype=torch.float64)
        noise_std = torch.as_tensor(self.noise_std, dtype=torch.float64)
        if values.ndim != 1 or not len(values):
            raise ValueError(f"expected values of shape (m,) of at least one sensor, got {tuple(values.shape)}")
        if noise_std.shape not in ((), values.shape):
            raise ValueError(
                f"expected one noise_std for all or for each of the {len(values)} values, got {tuple(noise_std.shape)}"
            )
        if not values.isfinite().all():
            raise ValueError(
                f"expected finite values, but number {int((~values.isfinite()).nonzero()[0])} is "
                f"{values[~values.isfinite()][0].item():g}; leave out sensors without a reading"
            )
        if not ((noise_std > 0) & noise_std.isfinite()).all():
            raise ValueError(
                f"expected a noise_std that is positive and finite, got {noise_std.min().item():g}; values without "
                "noise are a constraint, which a projection meets exactly"
            )
        size = self.operator.size if isinstance(self.operator, Operator) else None
        if size not in (None, len(values)):
            raise ValueError(f"expected {size} values, one for each sensor of {self.operator}, got {len(values)}")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "noise_std", noise_std.expand(values.shape))

    @property
    def size(self) -> int:
        """The number m of values."""
        return len(self.values)

    def residual(self, fields: Tensor) -> Tensor:
        r"""The residual :math:`\rho` in units of the noise, differentiable.

        Arguments:
            fields: The fields, shape (batch, ...).

        Returns:
            The residual, shape (batch, m), in the type of the readings.

        Raises:
            ValueError: If the operator does not return a value for each sensor.
        """
        predicted = self.operator(fields)
        if predicted.shape != (len(fields), self.size):
            raise ValueError(
                f"expected the operator to return shape {(len(fields), self.size)}, a reading for each item and value, "
                f"got {tuple(predicted.shape)}"
            )
        return (self.values.to(predicted) - predicted) / self.noise_std.to(predicted)

    def potential(self, fields: Tensor) -> Tensor:
        r"""The potential :math:`\Phi` of fields (batch, ...), shape (batch,)."""
        return 0.5 * self.residual(fields).square().sum(1)

    def through(self, decode: Callable[[Tensor], Tensor]) -> Observations:
        r"""The same values seen from another space, :math:`H \circ \text{decode}`.

        Arguments:
            decode: The differentiable map from that space to fields, such as a transform's inverse from model space.
        """
        operator = self.operator
        return Observations(Function(lambda x: operator(decode(x)), self.size), self.values, self.noise_std)

    def __add__(self, other: Observations) -> Observations:
        """These and other, independent observations of the same fields."""
        return joined((self, other))


def joined(observations: Sequence[Observations]) -> Observations:
    """Independent observations of the same fields as one.

    Arguments:
        observations: At least one.

    Raises:
        ValueError: If there is none.
    """
    if not observations:
        raise ValueError("expected at least one set of observations to join, got none")
    operators = (o.operator if isinstance(o.operator, Operator) else Function(o.operator) for o in observations)
    values, noise_std = (torch.cat([getattr(o, name) for o in observations]) for name in ("values", "noise_std"))
    return Observations(Stacked(*operators), values, noise_std)


@dataclass(frozen=True, eq=False)
class Observation:
    r"""What some sensors read, in the words of a user: exactly one of the four ways to say where.

    Arguments:
        field: The name of the observed field; None with an `operator`, which sees all fields.
        values: The values y, shape (m,), in the field's unit (or of its logarithm).
        noise_std: The standard deviations of their noise, one number or of shape (m,).
        locations: The places of the sensors, shape (m, d), in the unit of the coordinates.
        mask: True at the observed grid points, shape (\*axes); the values in the order of ``field[mask]``.
        function: A differentiable function of the field (batch, \*axes) that returns (batch, m).
        operator: A differentiable function of all fields (batch, channel, \*axes) that returns (batch, m).
        log: Whether locations or mask observe the natural logarithm of the field.
        labels: What the sensors are called in messages, shape (m,), such as ``"line 12"`` of a file.

    Raises:
        ValueError: If where is said not at all or twice, or a field is missing or of no use, or there is not a label
            for each value.
    """

    field: str | None
    values: ArrayLike
    noise_std: float | ArrayLike
    locations: ArrayLike | None = None
    mask: ArrayLike | None = None
    function: Callable[[Tensor], Tensor] | None = None
    operator: Callable[[Tensor], Tensor] | None = None
    log: bool = False
    labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        given = [w for w in ("locations", "mask", "function", "operator") if getattr(self, w) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected one of locations, mask, function and operator, got {' and '.join(given) or 'none of them'}"
            )
        if (self.field is None) != (given == ["operator"]):
            raise ValueError(
                f"{given[0]} with field={self.field!r}: locations, mask and function need the name of a field, and an "
                "operator sees all fields and takes none"
            )
        if self.log and given[0] in ("function", "operator"):
            raise ValueError(f"log=True is for locations and masks; take the logarithm within the {given[0]}")
        if self.labels is not None and len(self.labels) != np.size(self.values):
            raise ValueError(f"expected a label for each of the {np.size(self.values)} values, got {len(self.labels)}")

    def words(self, number: int, i: int) -> str:
        """What sensor i is called, if this is observation `number` of several."""
        return self.labels[i] if self.labels is not None else f"sensor {i} of observation {number}"


def assemble(
    observations: Sequence[Observation],
    fields: Sequence[str],
    coordinates: Sequence[ArrayLike],
    *,
    cells: bool = True,
    positive: Sequence[str] | None = None,
) -> Observations:
    r"""Observations of fields (batch, channel, \*axes) from those written down by name.

    Arguments:
        observations: At least one.
        fields: The names of the fields, in channel order.
        coordinates: The coordinates of the grid points, one increasing array an axis.
        cells: Whether the points are centres of cells, with the walls half a spacing beyond them, or else nodes.
        positive: The fields that are positive everywhere, if that is known: no sensor reads 0 or less of them, and
            these alone have a logarithm.

    Returns:
        All of them, in their order.

    Raises:
        ValueError: If a field is unknown, a sensor lies outside the domain, sizes do not fit, two sensors at one
            place contradict each other, or a reading cannot be of its field's sign.
    """
    axes = [np.asarray(axis, dtype=np.float64) for axis in coordinates]
    parts = []
    for number, observation in enumerate(observations):
        try:
            operator = _operator(observation, fields, axes, cells)
            if positive is not None and observation.field is not None:
                _check_sign(observation, number, positive)
            values, noise_std = (
                torch.as_tensor(given, dtype=torch.float64) for given in (observation.values, observation.noise_std)
            )
            parts.append(Observations(operator, values, noise_std))
        except ValueError as error:
            which = f"observation {number} ({observation.field or 'of all fields'}): "
            # A label says more than the number of a group.
            raise ValueError(f"{which if observation.labels is None else ''}{error}") from error
    together = joined(parts)
    _check_contradictions(observations, parts, axes)
    return together


def _check_sign(observation: Observation, number: int, positive: Sequence[str]) -> None:
    """Raise if what is read of a field cannot be, by the field's sign."""
    field = observation.field
    if observation.log and field not in positive:
        raise ValueError(
            f"log=True for {field!r}, which may be negative and has no logarithm; expected the field itself, or a "
            f"field that is positive: {', '.join(positive) or 'none here'}"
        )
    y = np.atleast_1d(np.asarray(observation.values))
    if field in positive and not observation.log and observation.function is None and (y <= 0).any():
        i = int((y <= 0).argmax())
        name = observation.words(number, i)
        raise ValueError(f"{name} reads {y[i]:g} of {field!r}, which is positive: is this log {field}?")


def _operator(observation: Observation, fields: Sequence[str], axes: Sequence[np.ndarray], cells: bool) -> Operator:
    if (operator := observation.operator) is not None:
        return operator if isinstance(operator, Operator) else Function(operator)
    field = str(observation.field)
    if field not in fields:
        raise ValueError(f"unknown field {field!r}; {nearest(field, fields)}")
    channel = list(fields).index(field)
    if (function := observation.function) is not None:
        return Function(lambda u: function(u[:, channel]))
    if observation.locations is not None:
        labels = observation.labels
        return Points(channel, axes, observation.locations, observation.log, cells=cells, labels=labels)
    mask = torch.as_tensor(observation.mask)
    if mask.shape != tuple(map(len, axes)):
        raise ValueError(f"expected a mask of the grid's shape {tuple(map(len, axes))}, got {tuple(mask.shape)}")
    return Masked(channel, mask, observation.log)


def _places(operator: Callable[[Tensor], Tensor], axes: Sequence[np.ndarray]) -> np.ndarray | None:
    """Where sensors are, shape (m, d), if they are at places."""
    if isinstance(operator, Points):
        return operator.locations.numpy()
    if isinstance(operator, Masked):
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)[operator.mask.numpy(force=True)]
    return None


def _check_contradictions(
    observations: Sequence[Observation], parts: Sequence[Observations], axes: Sequence[np.ndarray]
) -> None:
    """Raise if two sensors at one place, of one field, differ by more than their noise explains."""
    radius = _SAME_PLACE * max(np.ptp(axis) for axis in axes)
    groups: dict[tuple[str, bool], list[tuple[int, np.ndarray, Observations]]] = {}
    for number, (observation, part) in enumerate(zip(observations, parts, strict=True)):
        if observation.field is not None and (places := _places(part.operator, axes)) is not None:
            groups.setdefault((observation.field, observation.log), []).append((number, places, part))
    for (field, _), group in groups.items():
        names = [observations[number].words(number, i) for number, _, part in group for i in range(part.size)]
        places = np.concatenate([places for _, places, _ in group])
        y, std = (torch.cat(each).numpy() for each in zip(*((p.values, p.noise_std) for *_, p in group), strict=True))
        i, j = np.sort(cKDTree(places).query_pairs(radius, output_type="ndarray"), axis=1).T
        deviations = np.abs(y[i] - y[j]) / np.hypot(std[i], std[j])
        if (deviations > _CONTRADICTION).any():
            worst = int(deviations.argmax())
            a, b = i[worst], j[worst]
            raise ValueError(
                f"{names[a]} and {names[b]} observe {field!r} at one place, "
                f"({', '.join(f'{s:g}' for s in places[a])}), but read {y[a]:g} and {y[b]:g}, {deviations[worst]:.3g} "
                "standard deviations of their difference apart; correct one, or raise noise_std to what they are worth"
            )
