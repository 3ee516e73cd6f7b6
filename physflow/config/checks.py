"""What settings may be: the checks that the dataclasses share, with errors that name the fix."""

from __future__ import annotations

import difflib
import math
import numbers
import typing
from typing import Any, Literal

__all__ = ["at_least", "finite", "fraction", "literals", "nearest", "one_of", "pair", "positive"]


def nearest(name: str, valid: typing.Iterable[str]) -> str:
    """A hint for an unknown `name`: the nearest valid one if there is any, then all of them."""
    valid = [str(v) for v in valid]
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(sorted(valid))}"


def one_of(name: str, value: object, valid: typing.Collection[str]) -> None:
    """Refuse a `value` that is not among the valid ones."""
    if value not in valid:
        raise ValueError(f"unknown {name} {value!r}; {nearest(str(value), valid)}")


def literals(config: Any) -> None:
    """Refuse a dataclass with a field of type Literal whose value is none of its choices."""
    for name, hint in typing.get_type_hints(type(config)).items():
        if typing.get_origin(hint) is Literal:
            one_of(name, getattr(config, name), typing.get_args(hint))


def positive(**values: float | tuple[float, ...]) -> None:
    """Refuse numbers, or tuples of them, that are not positive and finite."""
    for name, value in values.items():
        each = value if isinstance(value, tuple) else (value,)
        if not all(_is_real(v) and 0 < v < math.inf for v in each):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")


def finite(**values: float) -> None:
    """Refuse numbers that are not finite."""
    for name, value in values.items():
        if not _is_real(value) or not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")


def at_least(least: int, **values: int | tuple[int, ...]) -> None:
    """Refuse numbers, or tuples of them, that are not whole or below `least`."""
    for name, value in values.items():
        for v in value if isinstance(value, tuple) else (value,):
            if isinstance(v, bool) or not isinstance(v, numbers.Integral) or int(v) < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {v!r}")


def fraction(**values: float) -> None:
    """Refuse numbers outside [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value!r}")


def pair(name: str, value: Any, instead: str = "") -> tuple[Any, Any]:
    """Two values from any sequence of two; `instead` says what else could have been given."""
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
        raise ValueError(f"{name} must be {instead}a pair of numbers, got {value!r}")
    first, second = value
    return first, second


def _is_real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
